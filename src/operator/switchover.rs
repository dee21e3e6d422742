//! The one-shot request for a switchover: `armdb.io/switchover: <member|any>@<requestID>` on the cluster. Pure.

use super::names;

/// What the annotation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The partition that it is about.
    pub partition: i32,
    /// Who shall lead; None: anybody else.
    pub target: Option<String>,
    /// Given by the author: the same id is one request.
    pub id: String,
}

/// Reads the annotation's value. The error is for its author.
pub fn parse(value: &str, cluster: &str, partitions: i32) -> Result<Asked, String> {
    let form = "write <member>@<request id>, or any@<request id> where there is one partition";
    let (target, id) = value.split_once('@').ok_or_else(|| format!("{value:?} has no @: {form}"))?;
    let sound = |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_graphic());
    if !sound(id) {
        return Err(format!("{value:?} has no request id of 1 to 63 visible characters: {form}"));
    }
    if target == "any" {
        return match partitions {
            1 => Ok(Asked { partition: 0, target: None, id: id.to_owned() }),
            _ => Err(format!("any is not clear with {partitions} partitions: name the member that shall lead")),
        };
    }
    let partition = (0..partitions).find(|partition| names::ordinal(cluster, *partition, target).is_some());
    match partition {
        Some(partition) => Ok(Asked { partition, target: Some(target.to_owned()), id: id.to_owned() }),
        None => Err(format!("{target:?} is no member of {cluster}: {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_member_or_anybody_and_an_id() {
        let asked = parse("kv-1-2@me-7", "kv", 2).expect("sound");
        assert_eq!((asked.partition, asked.target.as_deref(), asked.id.as_str()), (1, Some("kv-1-2"), "me-7"));
        let any = parse("any@1", "kv", 1).expect("sound");
        assert_eq!((any.partition, any.target), (0, None));
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
            let error = parse(bad, "kv", partitions).expect_err(bad);
            assert!(error.contains("member"), "{error}");
        }
    }
}
