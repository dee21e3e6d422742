//! Several operations that are done together or not at all, under conditions.

use bytes::Bytes;

use super::options::PutOptions;
use super::value::Version;
use crate::net::proto;
use proto::{condition::Expect, op};

/// An atomic batch: if every condition holds, every operation is done, at one moment.
///
/// Its keys must lie in one shard: one shard is the default, else give the keys a common hash tag (`{user1}:name`,
/// `{user1}:mail`). The server refuses a batch over several shards. Conditions are judged before any operation.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    conditions: Vec<proto::Condition>,
    ops: Vec<proto::Op>,
    /// The tree of what is added from now on.
    tree: String,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is added from here on belongs to this tree (at first: the tree of the client that writes the batch).
    #[must_use]
    pub fn tree(mut self, name: impl Into<String>) -> Self {
        self.tree = name.into();
        self
    }

    /// Only if there is no such key.
    #[must_use]
    pub fn when_absent(self, key: impl Into<Bytes>) -> Self {
        self.when(key, Expect::Absent(true))
    }

    /// Only if there is such a key.
    #[must_use]
    pub fn when_present(self, key: impl Into<Bytes>) -> Self {
        self.when(key, Expect::Present(true))
    }

    /// Only if the key still has this version.
    #[must_use]
    pub fn when_version(self, key: impl Into<Bytes>, version: &Version) -> Self {
        self.when(key, Expect::Version(version.to_proto()))
    }

    /// Puts a value.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.put_with(key, value, &PutOptions::default())
    }

    /// Puts a value with a time to live or a tag; `options.write` does not apply to a single operation.
    #[must_use]
    pub fn put_with(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>, options: &PutOptions) -> Self {
        let ttl_ms = options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        self.ops.push(proto::Op {
            op: Some(op::Op::Put(proto::Put {
                tree: self.tree.clone(),
                key: key.into(),
                value: value.into(),
                ttl_ms,
                value_type: options.value_type.into(),
            })),
        });
        self
    }

    /// Deletes a key; deleting what is not there is no failure.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.ops
            .push(proto::Op { op: Some(op::Op::Delete(proto::Delete { tree: self.tree.clone(), key: key.into() })) });
        self
    }

    fn when(mut self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.conditions.push(proto::Condition { tree: self.tree.clone(), key: key.into(), expect: Some(expect) });
        self
    }

    /// The request; `tree` is where operations go that name none.
    pub(super) fn into_request(self, tree: &str) -> proto::WriteRequest {
        let Self { mut conditions, mut ops, .. } = self;
        let default_tree = |name: &mut String| {
            if name.is_empty() {
                tree.clone_into(name);
            }
        };
        conditions.iter_mut().for_each(|condition| default_tree(&mut condition.tree));
        for op in &mut ops {
            match &mut op.op {
                Some(op::Op::Put(put)) => default_tree(&mut put.tree),
                Some(op::Op::Delete(delete)) => default_tree(&mut delete.tree),
                None => {}
            }
        }
        proto::WriteRequest { conditions, ops, ..Default::default() }
    }
}

/// Whether sending `request` twice can never apply it twice: it expects a version of a key that it also writes.
///
/// Versions never come back, so once it is applied that condition fails for ever. `absent` and `present` do not
/// qualify: between the two arrivals somebody else may delete (or put) the key, and the second would undo that.
pub(super) fn applies_at_most_once(request: &proto::WriteRequest) -> bool {
    request.conditions.iter().filter(|condition| matches!(condition.expect, Some(Expect::Version(_)))).any(
        |condition| {
            request.ops.iter().any(|op| match &op.op {
                Some(op::Op::Put(put)) => put.tree == condition.tree && put.key == condition.key,
                Some(op::Op::Delete(delete)) => delete.tree == condition.tree && delete.key == condition.key,
                None => false,
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_batch_that_outdates_its_own_version_may_be_sent_twice() {
        let version: Version = "0-0-0-1-7".parse().expect("a version");
        let twice = |batch: Batch| applies_at_most_once(&batch.into_request(""));
        assert!(twice(Batch::new().when_version("k", &version).put("k", "v")));
        assert!(twice(Batch::new().when_version("k", &version).delete("k")));
        assert!(!twice(Batch::new().when_version("k", &version).put("other", "v")));
        assert!(!twice(Batch::new().when_version("k", &version).tree("t").put("k", "v")));
        assert!(!twice(Batch::new().when_absent("k").put("k", "v")));
        assert!(!twice(Batch::new().when_present("k").delete("k")));
        assert!(!twice(Batch::new().put("k", "v")));
    }

    #[test]
    fn operations_without_a_tree_go_to_the_clients() {
        let request = Batch::new().put("a", "1").tree("own").delete("b").into_request("clients");
        let trees: Vec<_> = request
            .ops
            .iter()
            .map(|op| match &op.op {
                Some(op::Op::Put(put)) => put.tree.as_str(),
                Some(op::Op::Delete(delete)) => delete.tree.as_str(),
                None => "",
            })
            .collect();
        assert_eq!(trees, ["clients", "own"]);
    }
}
