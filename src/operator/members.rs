//! Who a partition's members are and where, from its pods: pure.
//!
//! Members are those that are asked for and those that have a pod. An address is a pod's IP; of a pod that is gone the
//! last one stays known, because the process behind it may still run on a node that nobody reaches. A member whose pod
//! is gone, is being deleted or is another one than the one it was heard in counts as leaving.

use std::collections::BTreeMap;

use super::facts::PodFacts;
use super::names;
use crate::api::names as api_names;
use crate::api::names::port;
use crate::drive::Reach;
use crate::topology::spec::ExpectedMember;

/// Where members were last known to be, by name: pod uid and IP.
pub type LastKnown = BTreeMap<String, (String, String)>;

/// The members of a partition; `last` is brought up to date.
pub fn reach(cluster: &str, partition: i32, replicas: i32, pods: &[PodFacts], last: &mut LastKnown) -> Vec<Reach> {
    let ordinals = pods.iter().filter_map(|pod| names::ordinal(cluster, partition, &pod.name));
    let count = ordinals.map(|ordinal| ordinal + 1).max().unwrap_or(0).max(replicas);
    (0..count)
        .map(|ordinal| {
            let name = api_names::member(cluster, partition, ordinal);
            let pod = pods.iter().find(|pod| pod.name == name);
            // What runs at an address is what was started there: a new pod that has none yet changes nothing.
            let leaving = match (pod, last.get(&name)) {
                (None, known) => known.is_some(),
                (Some(pod), Some((uid, _))) if pod.ip.is_none() => pod.uid != *uid || pod.terminating,
                (Some(pod), _) => pod.terminating,
            };
            if let Some(pod) = pod
                && let Some(ip) = &pod.ip
            {
                last.insert(name.clone(), (pod.uid.clone(), ip.clone()));
            }
            let ip = last.get(&name).map(|(_, ip)| ip.as_str());
            let at = |number: i32| ip.map(|ip| address(ip, number)).unwrap_or_default();
            Reach {
                expected: ExpectedMember {
                    peer_address: at(port::PEER_NUMBER),
                    client_address: at(port::CLIENT_NUMBER),
                    ordinal: u32::try_from(ordinal).unwrap_or(0),
                    name,
                },
                leaving,
            }
        })
        .collect()
}

fn address(ip: &str, number: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ordinal: i32, uid: &str, ip: Option<&str>) -> PodFacts {
        PodFacts { name: format!("kv-0-{ordinal}"), uid: uid.into(), ip: ip.map(str::to_owned), ..PodFacts::default() }
    }

    fn told(members: &[Reach]) -> Vec<(&str, &str, bool)> {
        members.iter().map(|m| (m.expected.name.as_str(), m.expected.peer_address.as_str(), m.leaving)).collect()
    }

    #[test]
    fn members_that_are_asked_for_exist_before_their_pods_and_others_after_they_were_asked_for() {
        let mut last = LastKnown::new();
        assert_eq!(told(&reach("kv", 0, 2, &[], &mut last)), [("kv-0-0", "", false), ("kv-0-1", "", false)]);
        let pods = [pod(0, "a", Some("10.0.0.1")), pod(2, "c", Some("fd00::3"))];
        assert_eq!(
            told(&reach("kv", 0, 1, &pods, &mut last)),
            [("kv-0-0", "10.0.0.1:7401", false), ("kv-0-1", "", false), ("kv-0-2", "[fd00::3]:7401", false)]
        );
        assert_eq!(reach("kv", 1, 1, &pods, &mut last).len(), 1, "pods of another partition are none of this one's");
    }

    #[test]
    fn a_pod_that_goes_away_is_leaving_and_its_address_stays_known_until_there_is_another() {
        let mut last = LastKnown::new();
        reach("kv", 0, 1, &[pod(0, "a", Some("10.0.0.1"))], &mut last);
        let stopping = PodFacts { terminating: true, ..pod(0, "a", Some("10.0.0.1")) };
        assert_eq!(told(&reach("kv", 0, 1, &[stopping], &mut last)), [("kv-0-0", "10.0.0.1:7401", true)]);
        assert_eq!(told(&reach("kv", 0, 1, &[], &mut last)), [("kv-0-0", "10.0.0.1:7401", true)]);
        let another = pod(0, "b", None);
        assert_eq!(told(&reach("kv", 0, 1, &[another], &mut last)), [("kv-0-0", "10.0.0.1:7401", true)]);
        let placed = pod(0, "b", Some("10.0.0.2"));
        assert_eq!(told(&reach("kv", 0, 1, &[placed], &mut last)), [("kv-0-0", "10.0.0.2:7401", false)]);
    }
}
