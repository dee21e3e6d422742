//! One JSON object merged over another, the way people expect of pod templates.
//!
//! Maps are merged key by key, `null` removes. Lists of things with a name (or a mount path) are merged by it; other
//! lists of objects are joined; lists of plain values are replaced.

use serde_json::Value;

/// `over` merged into `base`.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(over)) => merge_lists(base, over),
        (base, over) => base.clone_from(over),
    }
}

fn merge_lists(base: &mut Vec<Value>, over: &[Value]) {
    if over.is_empty() {
        return;
    }
    if !base.iter().chain(over).all(Value::is_object) {
        base.clear();
        base.extend_from_slice(over);
        return;
    }
    // Mounts have a name too, which is their volume's: the same one may be mounted twice.
    let key = ["mountPath", "name"].into_iter().find(|key| base.iter().chain(over).all(|item| item[*key].is_string()));
    for item in over {
        let known = match key {
            Some(key) => base.iter_mut().find(|known| known[key] == item[key]),
            None => base.iter_mut().find(|known| *known == item),
        };
        match known {
            Some(known) => merge(known, item),
            None => base.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut base: Value, over: Value) -> Value {
        merge(&mut base, &over);
        base
    }

    #[test]
    fn maps_are_merged_and_null_removes() {
        assert_eq!(
            merged(json!({"a": 1, "b": {"c": 2}}), json!({"b": {"d": 3}, "a": null})),
            json!({"b": {"c": 2, "d": 3}})
        );
    }

    #[test]
    fn things_with_a_name_are_merged_by_it_and_new_ones_added() {
        assert_eq!(
            merged(
                json!([{"name": "armdb", "image": "a"}]),
                json!([{"name": "agent", "image": "b"}, {"name": "armdb", "tty": true}])
            ),
            json!([{"name": "armdb", "image": "a", "tty": true}, {"name": "agent", "image": "b"}])
        );
    }

    #[test]
    fn one_volume_may_be_mounted_twice() {
        assert_eq!(
            merged(json!([{"name": "v", "mountPath": "/a"}]), json!([{"name": "v", "mountPath": "/b"}])),
            json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}])
        );
    }

    #[test]
    fn nameless_objects_are_joined_without_doubles_and_plain_lists_replaced() {
        assert_eq!(
            merged(json!([{"key": "a"}]), json!([{"key": "a"}, {"key": "b"}])),
            json!([{"key": "a"}, {"key": "b"}])
        );
        assert_eq!(merged(json!(["a", "b"]), json!(["c"])), json!(["c"]));
        assert_eq!(merged(json!({"x": [{"key": "a"}]}), json!({"x": []})), json!({"x": [{"key": "a"}]}));
    }
}
