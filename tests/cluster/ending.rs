//! How `armdb local` ends: by a signal, with its command, and never twice over one directory.

use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_and_sigterm_leave_nothing_running_and_the_data_where_it_was() {
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    for (number, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let key = format!("before {signal:?}");
        cluster.client().await.put(key.clone(), "1").await.expect("a write");
        let status = cluster.end(signal).await;
        assert_eq!(status.code(), Some(0), "after {signal:?}");
        let left = process::naming(cluster.scratch());
        assert!(left.is_empty(), "after {signal:?}: {left:?}");
        let file = cluster.file();
        assert!(file.supervisor_pid.is_none() && file.members.iter().all(|member| member.pid.is_none()), "{file:?}");
        let status = cluster.ask(["status"]).await;
        assert!(!status.status.success(), "run {number}: {}", process::told(&status));
        cluster.run();
        cluster.healthy().await;
        assert!(cluster.client().await.get(key).await.expect("a read").is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_local_on_one_directory_is_refused_by_name_and_the_first_goes_on() {
    let cluster = Cluster::start(Manifest::members(1)).await;
    let manifest = cluster.manifest();
    let mut second = process::armdb(["local", "--plain", "-f"]);
    second.arg(&manifest).arg("--dir").arg(cluster.dir());
    let refused = process::output(second).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let dir = cluster.dir().canonicalize().expect("a directory");
    for part in [&cluster.supervisor().to_string(), dir.to_str().expect("a path")] {
        assert!(said.contains(part), "{part} is not named: {said}");
    }
    cluster.client().await.put("a", "1").await.expect("the first goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_finds_the_cluster_and_its_status_is_the_status_of_all() {
    let cluster = Cluster::prepare(Manifest::members(3));
    let run = |script: &str| {
        let mut command = process::armdb(["local", "-f"]);
        command.arg(cluster.manifest()).arg("--dir").arg(cluster.dir());
        command.args(["--", "/bin/sh", "-c", script, process::ARMDB]);
        process::output(command)
    };
    let first = run("\"$0\" put a 1 && \"$0\" get a && exit 7").await;
    assert_eq!(first.status.code(), Some(7), "{}", process::told(&first));
    assert_eq!(first.stdout, b"1", "{}", process::told(&first));
    let second = run("\"$0\" get a --endpoints \"$ARMDB_ENDPOINTS\"").await;
    assert_eq!((second.status.code(), &second.stdout[..]), (Some(0), &b"1"[..]), "{}", process::told(&second));
    let killed = run("kill -9 $$").await;
    assert_eq!(killed.status.code(), Some(137), "{}", process::told(&killed));
    let left = process::naming(cluster.scratch());
    assert!(left.is_empty(), "{left:?}");

    let mut missing = process::armdb(["local", "-f"]);
    missing.arg(cluster.manifest()).arg("--dir").arg(cluster.dir()).args(["--", "/no/such/program"]);
    let missing = process::output(missing).await;
    assert_eq!(missing.status.code(), Some(127), "{}", process::told(&missing));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/program"), "{}", process::told(&missing));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_start_leaves_nothing_running() {
    let mut cluster = Cluster::prepare(Manifest::members(3));
    cluster.run();
    // In its own time: before the members run, while they start, before anybody leads.
    crate::support::eventually("the first member is there", async || {
        (process::naming(cluster.scratch()).len() > 1).then_some(())
    })
    .await;
    assert_eq!(cluster.end(Signal::TERM).await.code(), Some(0));
    let left = process::naming(cluster.scratch());
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_permission_the_directory_is_named() {
    let cluster = Cluster::prepare(Manifest::members(1));
    // A program and a manifest that anybody may read, and a directory that nobody else may write.
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(cluster.scratch(), open(0o755)).expect("set");
    let program = cluster.scratch().join("armdb");
    std::fs::copy(process::ARMDB, &program).expect("copied");
    std::fs::set_permissions(&program, open(0o755)).expect("set");
    let dir = cluster.scratch().join("closed");
    std::fs::create_dir(&dir).expect("made");
    std::fs::set_permissions(&dir, open(0o500)).expect("set");
    let mut command = std::process::Command::new(&program);
    command.args(["local", "--plain", "-f"]).arg(cluster.manifest()).arg("--dir").arg(dir.join("kv"));
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere: somebody who may not.
        command.uid(65_534).gid(65_534);
    }
    let refused = process::output(command).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Permission denied") && said.contains(dir.to_str().expect("a path")), "{said}");
}
