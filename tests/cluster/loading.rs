//! `armdb load` of a file with a broken line.

use crate::support::{Cluster, Manifest, process};

const LINES: usize = 3000;
const BROKEN: usize = 1777;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_line_stops_a_load_by_its_number_and_it_resumes_after_the_mend() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let file = cluster.scratch().join("data.jsonl");
    let good: Vec<String> = (1..=LINES).map(|i| format!(r#"{{"key":"k{i:05}","value":"{i}"}}"#)).collect();
    let mut bad = good.clone();
    bad[BROKEN - 1] = r#"{"key":"k"#.to_owned();
    let write = |lines: &[String]| std::fs::write(&file, lines.join("\n")).expect("written");

    write(&bad);
    let stopped = cluster.ask(["load", file.to_str().expect("a path")]).await;
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(2), "{}", process::told(&stopped));
    assert!(said.contains(&format!("line {BROKEN}")), "{said}");
    assert!(said.contains(&format!("{} lines are committed", BROKEN - 1)), "{said}");
    let client = cluster.client().await;
    let keys: Vec<String> = (1..=LINES).map(|i| format!("k{i:05}")).collect();
    let found = client.multi_get(keys.clone()).await.expect("read");
    for (i, value) in found.iter().enumerate() {
        assert_eq!(value.is_some(), i + 1 < BROKEN, "line {}", i + 1);
    }

    write(&good);
    let resumed = cluster.ask(["load", file.to_str().expect("a path"), "-o", "json"]).await;
    assert!(resumed.status.success(), "{}", process::told(&resumed));
    let report: serde_json::Value = serde_json::from_slice(&resumed.stdout).expect("a report");
    assert_eq!(report["resumedAfterLine"], BROKEN - 1, "{report}");
    assert_eq!(report["entries"], LINES - (BROKEN - 1), "{report}");
    let found = client.multi_get(keys).await.expect("read");
    for (i, value) in found.into_iter().enumerate() {
        assert_eq!(value.expect("loaded").bytes, (i + 1).to_string());
    }
}
