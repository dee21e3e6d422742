//! One-shot requests, as annotations on the cluster. Pure: from an annotation's value to what a partition is asked.
//!
//! ```text
//! armdb.io/switchover                    <member|any>@<request id>
//! armdb.io/recover-accepting-data-loss   <member>@<cluster id>@<request id>
//! armdb.io/set-aside                     <member>@<storage id>@<request id>
//! ```

use super::names;
use crate::api::names::annotation;
use crate::topology::controller::{ControlRequest, REFUSED};

/// The annotations, the harmless ones first.
pub const ALL: [&str; 3] = [annotation::SWITCHOVER, annotation::RECOVER, annotation::SET_ASIDE];

/// How the outcome of a request begins that nobody could carry out.
pub const NOT_DONE: &str = "not done: ";

/// Whether what was asked for came about, by what was told of it.
pub fn is_done(outcome: &str) -> bool {
    !outcome.starts_with(NOT_DONE) && !outcome.starts_with(REFUSED)
}

/// What an annotation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The partition that it is about.
    pub partition: i32,
    /// What its controller is asked.
    pub request: ControlRequest,
    /// Given by the author: the same id is one request.
    pub id: String,
}

/// Reads the value of `annotation`. The error is for its author.
pub fn parse(annotation: &str, value: &str, cluster: &str, partitions: i32) -> Result<Asked, String> {
    let form = match annotation {
        annotation::RECOVER => "write <member>@<cluster id>@<request id>",
        annotation::SET_ASIDE => "write <member>@<storage id>@<request id>",
        _ => "write <member>@<request id>, or any@<request id> where there is one partition",
    };
    let (target, rest) = value.split_once('@').ok_or_else(|| format!("{value:?} has no @: {form}"))?;
    let (of, id) = match annotation {
        annotation::SWITCHOVER => ("", rest),
        _ => rest.split_once('@').ok_or_else(|| format!("{value:?} has one @ only: {form}"))?,
    };
    let sound = |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_graphic());
    if !sound(id) {
        return Err(format!("{value:?} has no request id of 1 to 63 visible characters: {form}"));
    }
    let id = id.to_owned();
    if target == "any" && annotation == annotation::SWITCHOVER {
        return match partitions {
            1 => Ok(Asked { partition: 0, request: ControlRequest::Switchover { target: None, id: id.clone() }, id }),
            _ => Err(format!("any is not clear with {partitions} partitions: name the member that shall lead")),
        };
    }
    let partition = (0..partitions).find(|partition| names::ordinal(cluster, *partition, target).is_some());
    let partition = partition.ok_or_else(|| format!("{target:?} is no member of {cluster}: {form}"))?;
    let (member, request_id) = (target.to_owned(), id.clone());
    let request = match annotation {
        annotation::RECOVER => {
            let cluster_id = of.parse().map_err(|error| format!("{of:?} is no cluster id ({error}): {form}"))?;
            ControlRequest::Recover { cluster_id, from: member, id: request_id }
        }
        annotation::SET_ASIDE => {
            let sid = of.parse().map_err(|error| format!("{of:?} is no storage id ({error}): {form}"))?;
            ControlRequest::SetAside { member, sid, id: request_id }
        }
        _ => ControlRequest::Switchover { target: Some(member), id: request_id },
    };
    Ok(Asked { partition, request, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{ClusterId, Sid};

    const ID: &str = "000000000000000000000000000000c1";

    #[test]
    fn a_switchover_names_a_member_or_anybody_and_an_id() {
        let asked = parse(annotation::SWITCHOVER, "kv-1-2@me-7", "kv", 2).expect("sound");
        let request = ControlRequest::Switchover { target: Some("kv-1-2".into()), id: "me-7".into() };
        assert_eq!(asked, Asked { partition: 1, request, id: "me-7".into() });
        let any = parse(annotation::SWITCHOVER, "any@1", "kv", 1).expect("sound");
        assert_eq!((any.partition, any.request), (0, ControlRequest::Switchover { target: None, id: "1".into() }));
    }

    #[test]
    fn what_gives_data_up_names_the_member_the_data_and_an_id() {
        let asked = parse(annotation::RECOVER, &format!("kv-0-1@{ID}@7"), "kv", 1).expect("sound");
        let request = ControlRequest::Recover { cluster_id: ClusterId(0xc1), from: "kv-0-1".into(), id: "7".into() };
        assert_eq!(asked.request, request);
        let asked = parse(annotation::SET_ASIDE, &format!("kv-0-1@{ID}@7"), "kv", 1).expect("sound");
        let request = ControlRequest::SetAside { member: "kv-0-1".into(), sid: Sid(0xc1), id: "7".into() };
        assert_eq!(asked.request, request);
        for bad in ["kv-0-1@7", "kv-0-1@12@7", "any@000000000000000000000000000000c1@7", "kv-0-1@@7"] {
            for annotation in [annotation::RECOVER, annotation::SET_ASIDE] {
                let error = parse(annotation, bad, "kv", 1).expect_err(bad);
                assert!(error.contains("<request id>"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_request_is_answered_with_what_to_write() {
        for (bad, partitions) in [
            ("kv-0-1", 1),
            ("kv-0-1@", 1),
            ("kv-2-0@x", 2),
            ("other-0-1@x", 1),
            ("any@x", 2),
            ("@x", 1),
            ("kv-0-1@a b", 1),
        ] {
            let error = parse(annotation::SWITCHOVER, bad, "kv", partitions).expect_err(bad);
            assert!(error.contains("member"), "{error}");
        }
    }
}
