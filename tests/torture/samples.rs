//! What the members take: memory, descriptors, threads, lag; looked at all the time, to see what grows.

use std::collections::BTreeMap;

use super::site::{Site, name};

/// One look at one process.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    resident_bytes: u64,
    descriptors: usize,
    threads: usize,
}

/// See the module.
#[derive(Default)]
pub struct Samples {
    /// By process: its first look after it was up, its last, and the largest.
    processes: BTreeMap<(usize, i32), (Sample, Sample, Sample)>,
    pub max_lag_bytes: i64,
}

impl Samples {
    /// Looks at every member that runs.
    pub async fn look(&mut self, site: &Site) {
        for member in 0..site.members {
            let Some((pid, now)) = site.pid(member).and_then(|pid| Some((pid, sample(pid)?))) else { continue };
            let (_, last, max) = self.processes.entry((member, pid)).or_insert((now, now, now));
            *last = now;
            max.resident_bytes = max.resident_bytes.max(now.resident_bytes);
            max.descriptors = max.descriptors.max(now.descriptors);
            max.threads = max.threads.max(now.threads);
        }
        if let Some(status) = site.cluster.try_status().await {
            let lag = status.partitions.iter().flat_map(|it| &it.members).map(|member| member.lag_bytes).max();
            self.max_lag_bytes = self.max_lag_bytes.max(lag.unwrap_or(0));
        }
    }

    /// A line for each member: the process that runs now, and the most that any of its processes took.
    pub fn lines(&self, site: &Site) -> Vec<String> {
        const MIB: u64 = 1 << 20;
        let line = |member: usize| {
            let of_member = || self.processes.iter().filter(move |((of, _), _)| *of == member);
            let (first, last) = site
                .pid(member)
                .and_then(|pid| self.processes.get(&(member, pid)))
                .map_or_else(Default::default, |(first, last, _)| (*first, *last));
            let max = |of: fn(&Sample) -> u64| of_member().map(|(_, (.., max))| of(max)).max().unwrap_or(0);
            format!(
                "{}: {} processes; the last one {} -> {} MiB, {} -> {} descriptors, {} -> {} threads; at most {} MiB, {} \
                 descriptors, {} threads",
                name(member),
                of_member().count(),
                first.resident_bytes / MIB,
                last.resident_bytes / MIB,
                first.descriptors,
                last.descriptors,
                first.threads,
                last.threads,
                max(|sample| sample.resident_bytes) / MIB,
                max(|sample| sample.descriptors as u64),
                max(|sample| sample.threads as u64),
            )
        };
        (0..site.members).map(line).collect()
    }

    /// What took more than anything sound would.
    pub fn excesses(&self) -> Vec<String> {
        const MAX_BYTES: u64 = 2 << 30;
        const MAX_DESCRIPTORS: usize = 1000;
        const MAX_THREADS: usize = 300;
        let excess = |((member, pid), (.., max)): (&(usize, i32), &(Sample, Sample, Sample))| {
            let much = max.resident_bytes > MAX_BYTES || max.descriptors > MAX_DESCRIPTORS || max.threads > MAX_THREADS;
            much.then(|| format!("{} (pid {pid}) took too much: {max:?}", name(*member)))
        };
        self.processes.iter().filter_map(excess).collect()
    }
}

fn sample(pid: i32) -> Option<Sample> {
    let count = |what: &str| Some(std::fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count());
    let (descriptors, threads) = (count("fd")?, count("task")?);
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(Sample { resident_bytes: pages * PAGE_BYTES, descriptors, threads })
}
