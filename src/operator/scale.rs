//! How many pods a partition has, and which volumes nobody needs any more: pure decisions.
//!
//! More members exist as soon as they are asked for; fewer only after the register no longer counts on those that go.
//! A volume is given up only when it was asked for, no pod uses it, and its storage neither votes nor may vote.

use super::facts::{ClaimFacts, PodFacts};
use super::names::ordinal_of;
use crate::ident::ClusterId;
use crate::topology::register::Register;
use crate::topology::view::PartitionView;

/// Pods that shall exist: those asked for, and as many more as still vote.
pub fn pods(asked: i32, live: Option<i32>, known: Known<'_>) -> i32 {
    // Not known who votes: nobody goes.
    asked.max(known.highest_voter().map_or(live.unwrap_or(0), |highest| highest + 1))
}

/// What is known of who votes: what the driver sees, and the register itself. Each may be a moment old.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the driver sees.
    pub view: Option<&'a PartitionView>,
    /// As the partition's object was last heard to hold it.
    pub register: Option<&'a Register>,
}

impl Known<'_> {
    /// The highest ordinal that votes by either; None: not known of everyone.
    fn highest_voter(self) -> Option<i32> {
        Some(in_view(self.view?)?.max(in_register(self.register?)?))
    }
}

fn in_view(view: &PartitionView) -> Option<i32> {
    let ordinals = view.voters.iter().map(|sid| {
        let holder = view.members.iter().find(|member| member.sid == Some(*sid));
        // Whoever was not heard is looked up in the register alone.
        holder.and_then(|holder| i32::try_from(holder.ordinal).ok()).unwrap_or(-1)
    });
    ordinals.max()
}

fn in_register(register: &Register) -> Option<i32> {
    let ordinals = register.voters.iter().map(|sid| ordinal_of(&register.members.get(sid)?.name));
    ordinals.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Claims of members that were scaled away and count no more.
pub fn surplus_claims<'a>(
    claims: impl IntoIterator<Item = (i32, &'a ClaimFacts)>,
    asked: i32,
    pods: &[(i32, &PodFacts)],
    known: Known<'_>,
    id: ClusterId,
) -> Vec<(i32, &'a ClaimFacts)> {
    let Some(highest) = known.highest_voter() else { return Vec::new() };
    claims
        .into_iter()
        .filter(|(ordinal, claim)| {
            *ordinal >= asked
                && *ordinal > highest
                && !claim.terminating
                && claim.is_of(id)
                && pods.iter().all(|(used, _)| used != ordinal)
        })
        .collect()
}

/// Whether a member counts no more by this register: it neither votes nor is it on its way to.
pub fn counts_no_more(register: &Register, ordinal: i32) -> bool {
    in_register(register).is_some_and(|highest| ordinal > highest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{register, view};
    use super::*;

    fn pods_by(asked: i32, live: Option<i32>, voters: &[u128], members: u32) -> i32 {
        let (view, register) = (view(voters, members), register(voters));
        pods(asked, live, Known { view: Some(&view), register: Some(&register) })
    }

    #[test]
    fn more_members_at_once_fewer_after_they_lost_their_vote() {
        assert_eq!(pods(3, None, Known { view: None, register: None }), 3);
        assert_eq!(pods_by(5, Some(3), &[1, 2, 3], 3), 5);
        assert_eq!(pods_by(3, Some(5), &[1, 2, 3, 4, 5], 5), 5, "all five vote");
        assert_eq!(pods_by(3, Some(5), &[1, 2, 3, 4], 5), 4);
        assert_eq!(pods_by(3, Some(5), &[1, 2, 3], 5), 3);
    }

    #[test]
    fn nobody_goes_while_it_is_not_known_who_votes() {
        assert_eq!(pods(3, Some(5), Known { view: None, register: None }), 5);
        let view = view(&[1, 2, 3], 5);
        assert_eq!(pods(3, Some(5), Known { view: Some(&view), register: None }), 5);
        let mut nameless = register(&[1, 2, 3]);
        nameless.members.clear();
        assert_eq!(pods(3, Some(5), Known { view: Some(&view), register: Some(&nameless) }), 5);
    }

    #[test]
    fn who_votes_by_either_word_stays() {
        let (older, newer) = (view(&[1, 2, 3, 4], 5), register(&[1, 2, 3]));
        assert_eq!(pods(3, Some(5), Known { view: Some(&older), register: Some(&newer) }), 4);
        let (newer, older) = (view(&[1, 2, 3], 5), register(&[1, 2, 3, 4]));
        assert_eq!(pods(3, Some(5), Known { view: Some(&newer), register: Some(&older) }), 4);
    }

    #[test]
    fn what_a_foreign_hand_scaled_away_comes_back_even_if_fewer_are_asked_for() {
        assert_eq!(pods_by(3, Some(1), &[1, 2, 3], 3), 3);
        // Nobody is there to be heard under the names of those who were scaled away.
        assert_eq!(pods_by(1, Some(1), &[1, 2, 3], 1), 3);
    }

    #[test]
    fn a_volume_is_given_up_only_when_its_member_is_gone_and_counts_no_more() {
        let id = ClusterId(7);
        let claim =
            |name: &str| ClaimFacts { name: name.into(), cluster_id: Some(id.to_string()), ..ClaimFacts::default() };
        let (third, fourth) = (claim("data-kv-0-2"), claim("data-kv-0-3"));
        let (seen, mut held) = (view(&[1, 2, 3], 3), register(&[1, 2, 3]));
        let surplus = |asked, pods: &[(i32, &PodFacts)], register: Option<&Register>, id| {
            let known = Known { view: Some(&seen), register };
            let found = surplus_claims([(2, &third), (3, &fourth)], asked, pods, known, id);
            found.into_iter().map(|(ordinal, _)| ordinal).collect::<Vec<_>>()
        };
        assert_eq!(surplus(3, &[], Some(&held), id), [3]);
        assert_eq!(surplus(2, &[], Some(&held), id), [3], "kv-0-2 still votes");
        let pod = PodFacts::default();
        assert!(surplus(3, &[(3, &pod)], Some(&held), id).is_empty(), "its pod is there");
        assert!(surplus(3, &[], None, id).is_empty());
        assert!(surplus(3, &[], Some(&held), ClusterId(8)).is_empty(), "of another cluster");
        assert!(counts_no_more(&held, 3) && !counts_no_more(&held, 2));
        held.voters.push(crate::ident::Sid(99));
        assert!(surplus(3, &[], Some(&held), id).is_empty(), "a voter that nobody knows may be this one");
        assert!(!counts_no_more(&held, 3));
    }
}
