//! One interleaved run of armdb against its peers: every cell in a fresh process, the engines one after the
//! other within a round, several rounds, and ratios taken within a round, because a shared machine drifts.
//!
//! `cargo run --release` runs everything; `-- --keys 1000000 --rounds 5 --seconds 2` are the defaults.

mod engines;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engines::{Class, ENGINES, Engine, Key, offers, open};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE: [u8; 100] = [7; 100];
const WORKLOADS: [&str; 8] = ["get", "put-kill9", "durable-1", "durable-8", "durable-64", "memory", "reopen", "index"];

fn key(i: u64) -> Key {
    // splitmix64, twice: the same keys for everyone, in no order.
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(i).to_le_bytes());
    key[8..].copy_from_slice(&mix(i ^ 0xabcd_ef01).to_le_bytes());
    key
}

struct Options {
    keys: u64,
    rounds: usize,
    seconds: f64,
    dir: PathBuf,
    only: Vec<String>,
}

fn main() {
    let mut options = Options { keys: 1_000_000, rounds: 5, seconds: 2.0, dir: std::env::temp_dir(), only: Vec::new() };
    let mut args = std::env::args().skip(1);
    let mut cell = None;
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
        match arg.as_str() {
            "--keys" => options.keys = value().parse().expect("a number"),
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--dir" => options.dir = value().into(),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--cell" => cell = Some((value(), value())),
            other => panic!("unknown option {other}"),
        }
    }
    match cell {
        Some((engine, workload)) => println!("{}", run_cell(&engine, &workload, &options)),
        None => orchestrate(&options),
    }
}

fn class_of(workload: &str) -> Class {
    match workload {
        "put-kill9" | "reopen" => Class::Kill,
        w if w.starts_with("durable") => Class::Durable,
        _ => Class::Any,
    }
}

fn orchestrate(options: &Options) {
    println!(
        "{} keys of 16 B, values of 100 B, {} rounds, {} s a cell; median of rounds, [min-max] of armdb / peer within a round",
        options.keys, options.rounds, options.seconds
    );
    for workload in WORKLOADS {
        if !options.only.is_empty() && !options.only.iter().any(|w| w == workload) {
            continue;
        }
        let engines: Vec<&str> = ENGINES
            .into_iter()
            .filter(|e| match workload {
                // In memory only, or in no way reopenable after a kill at the same promise.
                "reopen" => matches!(*e, "armdb" | "fjall"),
                "index" => *e == "armdb",
                "memory" => !matches!(*e, "rawgroup"),
                w => offers(e, class_of(w)) && !(w == "get" && *e == "rawgroup"),
            })
            .collect();
        let mut rows = vec![Vec::new(); engines.len()];
        for _ in 0..options.rounds {
            for (row, engine) in rows.iter_mut().zip(&engines) {
                row.push(spawn_cell(engine, workload, options));
            }
        }
        println!("\n{workload} ({})", unit(workload));
        let ours = rows[0].clone();
        for (row, engine) in rows.iter().zip(&engines) {
            let ratios: Vec<f64> = ours.iter().zip(row).map(|(a, b)| a / b).collect();
            print!("  {engine:10} {:>12.1}", median(row));
            if *engine == "armdb" {
                println!();
            } else {
                let (min, max) = ratios.iter().fold((f64::MAX, f64::MIN), |(lo, hi), r| (lo.min(*r), hi.max(*r)));
                println!("   armdb is {:.2}x [{min:.2}-{max:.2}]", median(&ratios));
            }
        }
        std::io::stdout().flush().expect("stdout");
    }
}

fn unit(workload: &str) -> &'static str {
    match workload {
        "memory" => "resident bytes a key, values included where the engine keeps them in memory; less is better",
        "index" => "bytes of index a key",
        "reopen" => "ms from open to the first get after kill -9; less is better",
        _ => "thousand operations a second",
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn spawn_cell(engine: &str, workload: &str, options: &Options) -> f64 {
    let dir = tempfile::Builder::new().prefix("peers").tempdir_in(&options.dir).expect("a directory");
    let child = |workload: &str| {
        Command::new(std::env::current_exe().expect("own path"))
            .args(["--cell", engine, workload, "--dir"])
            .arg(dir.path())
            .args(["--keys", &options.keys.to_string(), "--seconds", &options.seconds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child")
    };
    let read = |child: std::process::Child| {
        let output = child.wait_with_output().expect("a child");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().lines().last().and_then(|l| l.parse().ok()).unwrap_or(f64::NAN)
    };
    if workload == "reopen" {
        // The child fills and kills itself; nobody closes anything.
        child("fill-and-die").wait().expect("a child");
    }
    read(child(workload))
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/status").expect("/proc");
    // Anonymous memory only: mapped log pages belong to the page cache.
    let line = statm.lines().find(|l| l.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).expect("a number") * 1024.0
}

fn fill(engine: &dyn Engine, keys: u64) {
    for i in 0..keys {
        engine.put(&key(i), &VALUE);
    }
}

/// Operations of `threads` threads over `seconds`, in thousands a second.
fn rate(threads: usize, seconds: f64, op: impl Fn(usize, u64) + Sync) -> f64 {
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for t in 0..threads {
            let (stop, total, op) = (&stop, &total, &op);
            scope.spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    op(t, n);
                    n += 1;
                }
                total.fetch_add(n, Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_secs_f64(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    total.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64() / 1000.0
}

/// Memory that a virtual machine gave back to its host costs a trip there at the first touch, 14 us a page: every
/// engine then stops at 300 MB/s. So that none is measured by that, memory is touched before a run and let go bit by bit
/// while it goes on: let go at once, it would be the host's again before it is used.
struct BackedMemory {
    at: usize,
    bytes: usize,
}

impl BackedMemory {
    const STEP_BYTES: usize = 8 << 20;

    fn touch(bytes: usize) -> Self {
        // SAFETY: a fresh anonymous mapping, which only this value knows of.
        let at = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert!(at != libc::MAP_FAILED, "memory to touch");
        Self { at: at as usize, bytes }
    }

    /// Lets all of it go, evenly over `seconds`.
    fn let_go(self, seconds: f64) {
        let steps = self.bytes / Self::STEP_BYTES;
        for step in 0..steps {
            // SAFETY: a part of the own mapping, unmapped once.
            unsafe { libc::munmap((self.at + step * Self::STEP_BYTES) as *mut libc::c_void, Self::STEP_BYTES) };
            std::thread::sleep(Duration::from_secs_f64(seconds / steps as f64));
        }
    }
}

fn run_cell(engine: &str, workload: &str, options: &Options) -> f64 {
    let dir: &Path = &options.dir;
    let keys = options.keys;
    match workload {
        "fill-and-die" => {
            let engine = open(engine, dir, Class::Kill);
            fill(&*engine, keys);
            // SAFETY: kills this very process, which is what the workload is about.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            unreachable!("killed")
        }
        "reopen" => {
            let start = Instant::now();
            let engine = open(engine, dir, Class::Kill);
            assert!(engine.get(&key(keys - 1)), "the last key put before kill -9 is there");
            start.elapsed().as_secs_f64() * 1000.0
        }
        "memory" | "index" => {
            let before = resident_bytes();
            let engine = open(engine, dir, Class::Any);
            fill(&*engine, keys);
            match (workload, engine.index_bytes()) {
                ("index", Some(bytes)) => bytes as f64 / keys as f64,
                _ => (resident_bytes() - before) / keys as f64,
            }
        }
        "get" => {
            let engine = open(engine, dir, Class::Any);
            fill(&*engine, keys);
            let get = |_: usize, n: u64| {
                let i = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
                assert!(engine.get(&key(i)), "key {i} is there");
            };
            rate(1, options.seconds, get); // warm
            rate(1, options.seconds, get)
        }
        "put-kill9" => {
            let memory = BackedMemory::touch(4 << 30);
            let seconds = options.seconds;
            let letting_go = std::thread::spawn(move || memory.let_go(seconds));
            let engine = open(engine, dir, Class::Kill);
            let rate = rate(1, seconds, |_, n| engine.put(&key(n % keys), &VALUE));
            letting_go.join().expect("memory is let go");
            rate
        }
        durable => {
            let threads: usize = durable.trim_start_matches("durable-").parse().expect("a number of threads");
            let engine = open(engine, dir, Class::Durable);
            rate(threads, options.seconds, |t, n| engine.put(&key((t as u64) << 32 | n), &VALUE))
        }
    }
}
