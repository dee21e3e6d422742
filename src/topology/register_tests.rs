//! The register's text: golden, tamper-evident, and kind to fields it does not know.

use super::*;

pub(crate) fn sample() -> Register {
    Register {
        format_version: FORMAT_VERSION,
        cluster_id: ClusterId(7),
        lineage: 0,
        epoch: 3,
        phase: Phase::Leading,
        attempt: Some(AttemptId(9)),
        leader: Some(Sid(1)),
        last_leading: Some(Leading { epoch: 3, sid: Sid(1) }),
        voters: vec![Sid(1), Sid(2), Sid(3)],
        write_quorum: 2,
        min_voters: 2,
        learners: vec![],
        members: [(
            Sid(1),
            MemberAddress {
                name: "kv-0-0".into(),
                peer_address: "127.0.0.1:1".into(),
                client_address: "127.0.0.1:2".into(),
                unknown: BTreeMap::new(),
            },
        )]
        .into(),
        initialized: true,
        format_level: 1,
        slot_table_version: 1,
        shard_time_ms: 0,
        last_request: None,
        unknown: BTreeMap::new(),
    }
}

#[test]
fn a_register_survives_its_text() {
    let text = sample().to_json().unwrap();
    assert_eq!(Register::from_json(&text).unwrap(), sample());
}

#[test]
fn the_text_is_canonical_and_golden() {
    let text = String::from_utf8(sample().to_json().unwrap()).unwrap();
    assert!(text.starts_with(r#"{"attempt":"00000000000000000000000000000009","clusterId":"#), "{text}");
    assert!(text.contains(r#""digest":"cd"#) || text.contains(r#""digest":""#), "{text}");
    let keys: Vec<_> = sample().to_value().unwrap().as_object().unwrap().keys().cloned().collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[test]
fn a_changed_field_is_noticed_by_the_digest() {
    let text = String::from_utf8(sample().to_json().unwrap()).unwrap().replace(r#""epoch":3,"f"#, r#""epoch":4,"f"#);
    assert!(matches!(Register::from_json(text.as_bytes()), Err(RegisterError::Digest { .. })));
}

#[test]
fn a_field_of_a_newer_version_is_kept_through_a_rewrite() {
    let mut register = sample();
    register.unknown.insert("aRemark".into(), Value::String("kept".into()));
    register.members.get_mut(&Sid(1)).unwrap().unknown.insert("zone".into(), Value::String("a".into()));
    let mut again = Register::from_json(&register.to_json().unwrap()).unwrap();
    again.epoch += 1;
    let last = Register::from_json(&again.to_json().unwrap()).unwrap();
    assert_eq!(last.unknown, register.unknown);
    assert_eq!(last.members, register.members);
}

#[test]
fn a_newer_format_is_refused_before_its_digest_is_looked_at() {
    let text = br#"{"formatVersion": 99, "digest": "whatever"}"#;
    assert!(matches!(Register::from_json(text), Err(RegisterError::Newer { found: 99 })));
}

#[test]
fn a_number_that_readers_may_round_is_refused() {
    let register = Register { epoch: 1 << 53, ..sample() };
    assert!(matches!(register.to_json(), Err(RegisterError::Number(_))));
}

#[test]
fn a_swap_against_an_older_version_writes_nothing() {
    let store = MemoryRegister::default();
    assert!(matches!(store.read(), ReadOutcome::Absent));
    let CasOutcome::Written(v1) = store.compare_and_swap(None, &sample()) else { panic!() };
    let CasOutcome::Written(_) = store.compare_and_swap(Some(&v1), &Register { epoch: 4, ..sample() }) else {
        panic!()
    };
    assert_eq!(store.compare_and_swap(Some(&v1), &sample()), CasOutcome::Conflict);
    assert_eq!(store.compare_and_swap(None, &sample()), CasOutcome::Conflict);
    let ReadOutcome::Found(found, _) = store.read() else { panic!() };
    assert_eq!(found.epoch, 4);
}
