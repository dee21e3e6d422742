//! Members that do not run beside the supervisor: behind an address of their own, started by a command of their own.
//!
//! For whoever puts members into network namespaces (or containers) to cut them off from each other. Files stay where
//! they are: a place changes where a member listens and what starts it, nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::Deserialize;

use super::directory::ClusterFile;

/// Where one member runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Where it listens.
    pub address: IpAddr,
    /// A program with its first arguments that gets the member's command line as the rest, and becomes it: it must
    /// `exec`, or signals and the end of the supervisor would not reach the member.
    pub launcher: Vec<String>,
}

/// Places by members' names; who is not among them runs on loopback, started directly.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Reads a YAML file: `<member>: {address: 10.0.0.1, launcher: [nsenter, --net=/run/netns/one]}`.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        Ok(serde_yaml::from_str(&std::fs::read_to_string(file)?)?)
    }

    /// The command before a member's own.
    pub fn launcher(&self, member: &str) -> &[String] {
        self.0.get(member).map_or(&[], |place| &place.launcher)
    }

    /// Gives every member the address of its place.
    pub fn place(&self, file: &mut ClusterFile) {
        for member in &mut file.members {
            let address = self.0.get(&member.name).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |place| place.address);
            for listener in [&mut member.client, &mut member.peer, &mut member.http] {
                listener.set_ip(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::MemberEntry;
    use super::*;
    use crate::ident::ClusterId;

    #[test]
    fn a_member_listens_at_its_place_and_the_others_on_loopback() {
        let places = "kv-0-1: {address: 10.0.0.2, launcher: [nsenter, --net=/run/netns/two]}";
        let places: Places = serde_yaml::from_str(places).expect("places");
        let mut file = ClusterFile::new("kv".into(), ClusterId(7), 1, 1, Path::new("/nowhere"));
        for ordinal in 0..2 {
            let at = |port: u16| format!("127.0.0.1:{}", port + 10 * ordinal as u16).parse().expect("an address");
            let name = format!("kv-0-{ordinal}");
            file.members.push(MemberEntry {
                name,
                partition: 0,
                ordinal,
                client: at(1),
                peer: at(2),
                http: at(3),
                pid: None,
            });
        }
        places.place(&mut file);
        assert_eq!(file.endpoints(), ["127.0.0.1:1", "10.0.0.2:11"]);
        assert_eq!(places.launcher("kv-0-1"), ["nsenter", "--net=/run/netns/two"]);
        assert!(places.launcher("kv-0-0").is_empty());
        assert!(serde_yaml::from_str::<Places>("kv-0-0: {adress: 10.0.0.1, launcher: []}").is_err());
    }
}
