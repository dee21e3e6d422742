//! The commands as a person or a script uses them, against a running cluster.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use armdb::api::{ArmdbClusterStatus, Phase};

use crate::support::{Cluster, Manifest, eventually, process};

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(output: &Output) -> Vec<serde_json::Value> {
    text(output).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_in_and_comes_out_byte_for_byte_with_exit_codes_that_scripts_can_use() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let ok = async |args: &[&str]| {
        let output = cluster.ask(args).await;
        assert!(output.status.success(), "{args:?}: {}", process::told(&output));
        output
    };
    let fails = async |args: &[&str], code: i32| {
        let output = cluster.ask(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", process::told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for number in 0..30 {
        ok(&["put", &format!("lib{number:02}"), &format!("value {number}")]).await;
    }
    let blob = cluster.scratch().join("blob");
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 % 256) as u8).collect();
    std::fs::write(&blob, &bytes).expect("written");
    ok(&["put", "blob", "--file", blob.to_str().expect("a path")]).await;
    assert_eq!(ok(&["get", "blob"]).await.stdout, bytes);
    assert_eq!(text(&ok(&["get", "lib07"]).await), "value 7");
    assert_eq!(text(&ok(&["scan", "--prefix", "lib", "--limit", "2"]).await), "lib00\tvalue 0\nlib01\tvalue 1\n");
    assert_eq!(text(&ok(&["scan", "--prefix", "lib", "--limit", "1", "--reverse"]).await), "lib29\tvalue 29\n");
    assert_eq!(text(&ok(&["scan", "--start", "lib28", "--end", "lib29", "--keys-only"]).await), "lib28\n");
    assert_eq!(json(&ok(&["scan", "--prefix", "lib", "-o", "json"]).await).len(), 30);

    fails(&["get", "nobody"], 1).await;
    fails(&["put", "lib00", "again", "--if-absent"], 1).await;
    fails(&["put", "", "1"], 1).await;
    fails(&["get", "a", "--tree", "nowhere"], 1).await;
    fails(&["frobnicate"], 2).await;
    fails(&["get", "a", "--member", "kv-0-9"], 2).await;
    let version =
        json(&ok(&["get", "lib00", "-o", "json"]).await)[0]["version"].as_str().expect("a version").to_owned();
    ok(&["put", "lib00", "second", "--if-version", &version]).await;
    fails(&["put", "lib00", "third", "--if-version", &version], 1).await;
    ok(&["delete", "lib00"]).await;
    ok(&["delete", "lib00"]).await;
    fails(&["get", "lib00"], 1).await;
    fails(&["delete", "lib00", "--if-present"], 1).await;

    // A follower that has what the token names.
    let token =
        json(&ok(&["put", "seen", "everywhere", "-o", "json"]).await)[0]["token"].as_str().expect("a token").to_owned();
    for name in cluster.names() {
        let read = ok(&["get", "seen", "--member", &name, "--at-least", &token]).await;
        assert_eq!(text(&read), "everywhere", "from {name}");
        ok(&["get", "seen", "--member", &name]).await;
        ok(&["get", "seen", "--member", &name, "--max-staleness", "60000"]).await;
    }
    ok(&["get", "seen", "--read", "read-index"]).await;

    ok(&["trees", "--create", "users"]).await;
    ok(&["trees", "--create", "sessions", "--hash"]).await;
    assert_eq!(text(&ok(&["trees"]).await), "default\tordered\nusers\tordered\nsessions\thash\n");
    ok(&["put", "seen", "elsewhere", "--tree", "users"]).await;
    assert_eq!(text(&ok(&["get", "seen"]).await), "everywhere");
    assert_eq!(text(&ok(&["get", "seen", "--tree", "users"]).await), "elsewhere");
    fails(&["scan", "--tree", "sessions"], 1).await;

    ok(&["put", "brief", "moment", "--ttl", "0.2"]).await;
    eventually("it expires", async || (cluster.ask(["get", "brief"]).await.status.code() == Some(1)).then_some(()))
        .await;

    // What is printed as JSON can be loaded back.
    let dump = cluster.scratch().join("dump.jsonl");
    std::fs::write(&dump, ok(&["scan", "-o", "json"]).await.stdout).expect("written");
    ok(&["load", dump.to_str().expect("a path"), "--tree", "users"]).await;
    assert_eq!(ok(&["get", "blob", "--tree", "users"]).await.stdout, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_prints_changes_and_goes_on_from_its_token() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let mut watch = cluster.command(["watch", "--prefix", "w", "--limit", "3", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut begun = String::new();
    BufReader::new(watch.stderr.take().expect("a pipe")).read_line(&mut begun).expect("read");
    assert!(begun.starts_with("watching from"), "{begun}");
    for (key, value) in [("w1", "a"), ("other", "x"), ("w2", "b")] {
        assert!(cluster.ask(["put", key, value]).await.status.success());
    }
    assert!(cluster.ask(["delete", "w1"]).await.status.success());
    let watched =
        tokio::task::spawn_blocking(move || watch.wait_with_output().expect("it ends")).await.expect("no panic");
    let told = json(&watched);
    let shape: Vec<_> = told.iter().map(|change| (change["type"].as_str(), change["key"].as_str())).collect();
    assert_eq!(
        shape,
        [(Some("put"), Some("w1")), (Some("put"), Some("w2")), (Some("delete"), Some("w1"))],
        "{}",
        process::told(&watched)
    );
    let resume = told[1]["resume"].as_str().expect("a token");
    let again = cluster.ask(["watch", "--prefix", "w", "--limit", "1", "--after", resume]).await;
    assert_eq!(text(&again), "delete\tw1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_has_the_shape_of_the_resource_and_names_every_member() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let leader = cluster.leader().await.name;
    let own: ArmdbClusterStatus =
        serde_json::from_slice(&cluster.ask(["status", "-o", "json"]).await.stdout).expect("a status");
    assert_eq!(own.phase, Some(Phase::Healthy));
    assert_eq!((own.replicas, own.ready_members), (3, 3));
    assert_eq!(own.partitions[0].leader.as_ref(), Some(&leader));
    assert!(own.partitions[0].members.iter().all(|member| member.pid.is_some() && member.sid.is_some()));
    assert!(own.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    let shown = text(&cluster.ask(["status"]).await);
    for name in cluster.names() {
        assert!(shown.contains(&name), "{shown}");
    }

    // Without the supervisor's word: by asking the members, from anywhere.
    let mut asked = process::armdb(["status", "-o", "json", "--endpoints"]);
    asked.arg(cluster.file().endpoints()[2].clone()).current_dir(cluster.scratch());
    let asked = process::output(asked).await;
    let theirs: ArmdbClusterStatus = serde_json::from_slice(&asked.stdout).expect("a status");
    assert_eq!(theirs.partitions[0].leader.as_ref(), Some(&leader), "{}", process::told(&asked));
    assert_eq!(theirs.partitions[0].members.len(), 3);
    assert_eq!(theirs.cluster_id, own.cluster_id);

    let mut nobody = process::armdb(["get", "a", "--timeout", "1", "--endpoints", "127.0.0.1:1"]);
    nobody.current_dir(cluster.scratch());
    assert_eq!(process::output(nobody).await.status.code(), Some(3));
}
