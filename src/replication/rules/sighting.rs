//! Reconnects, restarts and clones of one sid told apart by {open_count, instance}.
//!
//! `open_count` is raised and persisted at every open, so two processes that show one sid with one count, or a
//! count that went back, prove a copied or restored volume. Such storage is refused and told, never wiped, and
//! a connection that exists stays: which of the two is the copy is a human's call.

use std::collections::BTreeMap;

use crate::ident::{InstanceId, Sid};

/// What a hello or reply shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Never seen before.
    New,
    /// The same process again.
    Reconnect,
    /// A later process over the same storage: it supersedes the earlier connection.
    Restart,
    /// A copy of the storage, or an older state of it: refuse.
    Clone,
}

impl Sighting {
    /// Whether to talk to it.
    pub fn accepted(self) -> bool {
        self != Self::Clone
    }
}

/// The newest accepted sighting of each sid.
#[derive(Debug, Clone, Default)]
pub struct Sightings(BTreeMap<Sid, (u64, InstanceId)>);

impl Sightings {
    /// What this sighting is, without remembering it.
    pub fn judge(&self, sid: Sid, open_count: u64, instance: InstanceId) -> Sighting {
        match self.0.get(&sid) {
            None => Sighting::New,
            Some(&(count, known)) if count == open_count && known == instance => Sighting::Reconnect,
            Some(&(count, _)) if open_count > count => Sighting::Restart,
            Some(_) => Sighting::Clone,
        }
    }

    /// Judges, and remembers what is accepted.
    pub fn see(&mut self, sid: Sid, open_count: u64, instance: InstanceId) -> Sighting {
        let sighting = self.judge(sid, open_count, instance);
        if sighting.accepted() {
            self.0.insert(sid, (open_count, instance));
        }
        sighting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_or_copied_volume_is_a_clone_and_does_not_displace_the_original() {
        let mut seen = Sightings::default();
        assert_eq!(seen.see(Sid(1), 4, InstanceId(1)), Sighting::New);
        assert_eq!(seen.see(Sid(1), 4, InstanceId(1)), Sighting::Reconnect);
        assert_eq!(seen.see(Sid(1), 4, InstanceId(2)), Sighting::Clone);
        assert_eq!(seen.see(Sid(1), 3, InstanceId(1)), Sighting::Clone);
        assert_eq!(seen.see(Sid(1), 5, InstanceId(3)), Sighting::Restart);
        assert_eq!(seen.see(Sid(1), 4, InstanceId(1)), Sighting::Clone);
        assert_eq!(seen.see(Sid(1), 5, InstanceId(3)), Sighting::Reconnect);
    }
}
