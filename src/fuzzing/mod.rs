//! What the fuzzers call: one function a target, from bytes to nothing, that panics where a promise is broken.
//!
//! Behind the feature `fuzzing` (and in this crate's own tests): the targets of `fuzz/` reach the inside of the crate
//! through here and through nothing else. What is promised beyond "it does not panic": what decodes is encoded to the
//! same bytes; a directory that was damaged says so, or holds exactly what its log's end says; nothing is believed
//! about how much memory something will need.
//!
//! The corpus of every target is in `fuzz/corpus/TARGET`: small, written by [`seeds`] from structures that are sound,
//! with what a fuzzer found beside it. The tests run all of it, so what was found stays found.

mod checker;
mod directory;
mod formats;
mod wire;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// As `cargo fuzz` knows it.
    pub name: &'static str,
    /// What is run.
    pub run: fn(&[u8]),
    /// Inputs to begin with, by name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "record", run: formats::record, seeds: formats::record_seeds },
    Target { name: "segment", run: formats::segment, seeds: formats::segment_seeds },
    Target { name: "node_meta", run: formats::node_meta, seeds: formats::node_meta_seeds },
    Target { name: "shard_meta", run: formats::shard_meta, seeds: formats::shard_meta_seeds },
    Target { name: "shard_manifest", run: formats::manifest, seeds: formats::manifest_seeds },
    Target { name: "hint", run: formats::hint, seeds: formats::hint_seeds },
    Target { name: "key_filter", run: formats::filter, seeds: formats::filter_seeds },
    Target { name: "damage", run: directory::damage, seeds: directory::damage_seeds },
    Target { name: "directory", run: directory::forged, seeds: directory::forged_seeds },
    Target { name: "chunk", run: directory::chunk, seeds: directory::chunk_seeds },
    Target { name: "wire", run: wire::message, seeds: wire::message_seeds },
    Target { name: "cluster", run: wire::cluster, seeds: wire::cluster_seeds },
    Target { name: "checker", run: checker::verdict, seeds: checker::verdict_seeds },
];

/// Runs a target.
///
/// # Panics
/// If a promise is broken; or if there is no target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(data);
}

/// Takes an input apart; at its end everything is zero.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn corpus(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
    }

    /// Every file of a target's corpus. `ARMDB_CORPUS=write` writes the seeds first.
    fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
        let dir = corpus(target.name);
        if std::env::var("ARMDB_CORPUS").as_deref() == Ok("write") {
            std::fs::create_dir_all(&dir).expect("made");
            for (name, bytes) in (target.seeds)() {
                std::fs::write(dir.join(format!("seed-{name}")), bytes).expect("written");
            }
        }
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("listed").path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("read"))).collect()
    }

    fn run_all(names: &[&str]) {
        for target in TARGETS.iter().filter(|target| names.contains(&target.name)) {
            for (path, bytes) in inputs(target) {
                let run = std::panic::catch_unwind(|| (target.run)(&bytes));
                assert!(run.is_ok(), "{} breaks {}", path.display(), target.name);
            }
        }
    }

    #[test]
    fn the_corpus_of_every_target_runs() {
        run_all(&TARGETS.map(|target| target.name));
    }

    #[test]
    fn the_corpus_is_small_and_begins_with_what_the_seeds_are_today() {
        for target in TARGETS {
            let inputs = inputs(&target);
            let bytes: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes <= 64 << 10, "the corpus of {} has {bytes} bytes: cargo fuzz cmin", target.name);
            for (name, seed) in (target.seeds)() {
                let path = corpus(target.name).join(format!("seed-{name}"));
                let there = inputs.iter().any(|(other, bytes)| *other == path && *bytes == seed);
                assert!(there, "{} is not today's: ARMDB_CORPUS=write cargo test --lib fuzzing", path.display());
            }
        }
    }

    /// A generator, and what it makes of one input, now and then with a piece of another.
    struct Mutator(u64);

    impl Mutator {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ x >> 31
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() % n.max(1) as u64) as usize
        }

        fn mutate(&mut self, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
            const EXTREMES: [u64; 6] = [0, 1, 0x7fff_ffff, 0xffff_ffff, u64::MAX - 7, u64::MAX];
            for _ in 0..1 + self.below(4) {
                let at = self.below(bytes.len());
                match self.below(7) {
                    0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                    1 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                    2 => {
                        let extreme = EXTREMES[self.below(EXTREMES.len())].to_le_bytes();
                        let len = [1, 2, 4, 8][self.below(4)];
                        bytes.iter_mut().skip(at).zip(&extreme[..len]).for_each(|(byte, new)| *byte = *new);
                    }
                    3 => bytes.truncate(at),
                    4 => {
                        let end = (at + self.below(16)).min(bytes.len());
                        bytes.drain(at.min(end)..end);
                    }
                    5 => {
                        let from = self.below(other.len());
                        let piece = &other[from..(from + self.below(64)).min(other.len())];
                        bytes.splice(at..at, piece.iter().copied());
                    }
                    _ => {
                        let new = self.next().to_le_bytes();
                        bytes.splice(at..at, new);
                    }
                }
            }
            bytes
        }
    }

    /// Not a fuzzer: it does not see what an input reaches. But it runs everywhere, and is the same every time.
    /// `ARMDB_MUTATIONS=N` asks for more of them.
    #[test]
    fn every_target_stands_mutations_of_its_corpus() {
        let count = std::env::var("ARMDB_MUTATIONS").map_or(150, |n| n.parse().expect("a number"));
        let mut broken = Vec::new();
        for target in TARGETS {
            let inputs: Vec<Vec<u8>> = inputs(&target).into_iter().map(|(_, bytes)| bytes).collect();
            for seed in 0..count {
                let mut mutator = Mutator(seed);
                let (from, other) = (mutator.below(inputs.len()), mutator.below(inputs.len()));
                let input = mutator.mutate(inputs[from].clone(), &inputs[other]);
                if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
                    broken.push(format!("mutation {seed} breaks {}: \"{}\"", target.name, input.escape_ascii()));
                    break;
                }
            }
        }
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    #[test]
    fn every_target_has_a_program() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let files: BTreeSet<String> = std::fs::read_dir(dir)
            .expect("there")
            .map(|entry| entry.expect("listed").path().file_stem().expect("named").to_string_lossy().into_owned())
            .collect();
        assert_eq!(files, TARGETS.iter().map(|target| target.name.to_owned()).collect());
    }
}
