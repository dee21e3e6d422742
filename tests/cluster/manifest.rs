//! Manifests that break a rule: refused before anything is started, by field, name and line.

use std::path::Path;

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, process};

/// What `armdb local` says of a manifest that it refuses.
async fn refused(manifest: &Path, dir: &Path) -> String {
    let mut command = process::armdb(["local", "--plain", "-f"]);
    command.arg(manifest).arg("--dir").arg(dir);
    let output = process::output(command).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{}", process::told(&output));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_breaks_a_rule_is_refused_by_its_field_and_nothing_is_made() {
    let home = tempfile::tempdir().expect("a directory");
    let (path, dir) = (home.path().join("cluster.yaml"), home.path().join("cluster"));
    let good = Manifest::members(3).text();
    let cases = [
        (good.replace("replicas: 3", "replicas: 0"), vec!["replicas", "0"]),
        (format!("{good}  replication: {{ack: Sometimes}}\n"), vec!["ack", "Sometimes", "Quorum"]),
        (format!("{good}  frobnicate: 7\n"), vec!["frobnicate", "cluster.yaml:9:3"]),
        (good.replace("size: 1Gi", "size: much"), vec!["size"]),
        (good.replace("kind: ArmdbCluster", "kind: Deployment"), vec!["ArmdbCluster", "Deployment"]),
        (good.replace("replicas: 3", "replicas: [3"), vec!["cluster.yaml:"]),
    ];
    for (text, parts) in cases {
        std::fs::write(&path, &text).expect("written");
        let said = refused(&path, &dir).await;
        for part in parts {
            assert!(said.contains(part), "{part:?} is not told: {said}\nof\n{text}");
        }
        assert!(!dir.exists(), "a directory was made for\n{text}");
    }
    let said = refused(&home.path().join("absent.yaml"), &dir).await;
    assert!(said.contains("absent.yaml"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_fixed_with_the_data_is_refused_with_both_values_and_the_data_stays() {
    let mut cluster = Cluster::start(Manifest::members(1).shards(2)).await;
    cluster.client().await.put("a", "1").await.expect("a write");
    assert!(cluster.end(Signal::TERM).await.success());
    let other = cluster.scratch().join("other.yaml");

    Manifest::members(1).shards(4).write(&other);
    let said = refused(&other, &cluster.dir()).await;
    assert!(said.contains("shards") && said.contains(" 2 ") && said.contains(" 4 "), "{said}");

    std::fs::write(&other, Manifest::members(1).shards(2).text().replace("name: kv", "name: orders")).expect("written");
    let said = refused(&other, &cluster.dir()).await;
    assert!(said.contains("kv") && said.contains("orders"), "{said}");

    // The member itself knows too, whatever file was lost or edited.
    let data = cluster.dir().join("kv-0-0/data");
    let mut node = process::armdb(["node", "--cluster", "kv", "--name", "kv-0-0", "--shards", "4"]);
    node.args(["--client", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]).arg(&data);
    node.arg("--secret-file").arg(cluster.dir().join("secret"));
    let output = process::output(node).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("2 shards") && said.contains('4'), "{}", process::told(&output));

    cluster.run();
    cluster.healthy().await;
    assert!(cluster.client().await.get("a").await.expect("a read").is_some());
}
