//! What to compact, and when: a pure function of figures, time and rate.
//!
//! A file is worth rewriting when enough of it can go. *Garbage* (records that something durable supersedes)
//! can always go; a tombstone only when no older file may still hold its key. Files heavy with tombstones
//! therefore pull in the oldest files that hold theirs back. Every plan must free a minimal share of what it
//! rewrites, or merge small files into fewer, so that planning comes to rest when nothing changes. On a full disk
//! less is enough, as long as what is rewritten fits beside its inputs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::options::CompactionOptions;
use crate::position::Gsn;

/// Files rewritten in one step at most.
const MAX_INPUTS: usize = 8;
/// So many small files are merged even if nothing in them can go.
const SMALL_FILES: usize = 4;
/// A file is small below this share of a full one.
const SMALL_SHARE: u64 = 4;
/// A plan with pulled-in files must free this share of its bytes.
const MIN_PULLED_RATIO: f64 = 0.1;
/// Share of a file's bytes that is worth its rewriting on a full disk.
const MIN_PRESSED_RATIO: f64 = 0.05;

/// What is known of one file that may be rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFigures {
    /// The file.
    pub(crate) file_id: u64,
    /// Bytes of its records.
    pub(crate) bytes: u64,
    /// Of these, superseded.
    pub(crate) garbage_bytes: u64,
    /// Of these, tombstones and expired puts that are the newest of their keys.
    pub(crate) tombstone_bytes: u64,
    /// Of the tombstones, those that no other file with an older gsn holds back.
    pub(crate) free_tombstone_bytes: u64,
    /// Lowest gsn.
    pub(crate) min_gsn: Gsn,
    /// Older files that hold tombstones of this one back.
    pub(crate) held_back_by: BTreeSet<u64>,
}

impl FileFigures {
    fn reclaimable(&self) -> u64 {
        self.garbage_bytes + self.free_tombstone_bytes
    }

    fn ratio(&self) -> f64 {
        if self.bytes == 0 { 1.0 } else { self.reclaimable() as f64 / self.bytes as f64 }
    }

    fn remaining(&self) -> u64 {
        self.bytes.saturating_sub(self.reclaimable())
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is worth it.
    Idle,
    /// Something is, but the rate allows it only after this time.
    Wait(Duration),
    /// Rewrite these files, oldest first, into as few as it takes.
    Compact(Vec<u64>),
}

/// How much work the rate has room for: a bucket that fills at the rate and may be overdrawn by one step,
/// which the next one then waits for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    credit_bytes: f64,
    at: Duration,
}

impl Pace {
    /// Full, at `now` on a monotonic clock.
    pub(crate) fn new(now: Duration) -> Self {
        Self { credit_bytes: 0.0, at: now }
    }

    /// How long to wait until work may start.
    fn wait(&mut self, now: Duration, rate_bytes_per_s: u64) -> Duration {
        let rate = rate_bytes_per_s.max(1) as f64;
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        // Idle time buys one second of work at most.
        self.credit_bytes = (self.credit_bytes + elapsed * rate).min(rate);
        if self.credit_bytes >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.credit_bytes / rate) }
    }

    /// Takes account of bytes read and written.
    pub(crate) fn spend(&mut self, bytes: u64) {
        self.credit_bytes -= bytes as f64;
    }
}

/// Decides about the files that may be rewritten. `room_bytes` is what is left of a disk that is full.
pub(crate) fn plan(
    files: &[FileFigures],
    full_file_bytes: u64,
    options: &CompactionOptions,
    room_bytes: Option<u64>,
    now: Duration,
    pace: &mut Pace,
) -> Decision {
    let chosen = match room_bytes {
        Some(room_bytes) => press(files, full_file_bytes.min(room_bytes), room_bytes),
        None => choose(files, full_file_bytes, options),
    };
    let Some(mut inputs) = chosen else { return Decision::Idle };
    match pace.wait(now, options.rate_bytes_per_s) {
        Duration::ZERO => {
            inputs.sort_by_key(|file| (file.min_gsn, file.file_id));
            Decision::Compact(inputs.into_iter().map(|file| file.file_id).collect())
        }
        wait => Decision::Wait(wait),
    }
}

fn choose<'a>(
    files: &'a [FileFigures],
    full_file_bytes: u64,
    options: &CompactionOptions,
) -> Option<Vec<&'a FileFigures>> {
    let mut worth: Vec<&FileFigures> =
        files.iter().filter(|f| f.reclaimable() > 0 && f.ratio() >= options.min_garbage_ratio).collect();
    worth.sort_by_key(|file| (std::cmp::Reverse(file.reclaimable()), file.file_id));
    if !worth.is_empty() {
        return Some(fill(worth, full_file_bytes));
    }
    tombstones(files, options).or_else(|| small(files, full_file_bytes))
}

/// What frees most of a full disk without needing more room than it has.
fn press(files: &[FileFigures], most_bytes: u64, room_bytes: u64) -> Option<Vec<&FileFigures>> {
    let options = CompactionOptions {
        min_garbage_ratio: MIN_PRESSED_RATIO,
        tombstone_ratio: MIN_PRESSED_RATIO,
        ..CompactionOptions::default()
    };
    let mut worth: Vec<&FileFigures> = files
        .iter()
        .filter(|f| f.reclaimable() > 0 && f.ratio() >= options.min_garbage_ratio && f.remaining() <= room_bytes)
        .collect();
    worth.sort_by_key(|file| (std::cmp::Reverse(file.reclaimable()), file.file_id));
    if !worth.is_empty() {
        return Some(fill(worth, most_bytes));
    }
    let fits = |chosen: &Vec<&FileFigures>| chosen.iter().map(|f| f.remaining()).sum::<u64>() <= room_bytes;
    tombstones(files, &options).filter(fits)
}

/// The first, and of the others as many as still fit one full output beside it.
fn fill(files: Vec<&FileFigures>, full_file_bytes: u64) -> Vec<&FileFigures> {
    let mut total = 0;
    let mut chosen = Vec::new();
    for file in files {
        if chosen.is_empty() || (chosen.len() < MAX_INPUTS && total + file.remaining() <= full_file_bytes) {
            total += file.remaining();
            chosen.push(file);
        }
    }
    chosen
}

/// The file heaviest with tombstones, with the oldest of those that hold them back.
fn tombstones<'a>(files: &'a [FileFigures], options: &CompactionOptions) -> Option<Vec<&'a FileFigures>> {
    let mut heavy: Vec<&FileFigures> = files
        .iter()
        .filter(|f| f.tombstone_bytes > 0 && f.tombstone_bytes as f64 >= options.tombstone_ratio * f.bytes as f64)
        .collect();
    heavy.sort_by_key(|file| (std::cmp::Reverse(file.tombstone_bytes), file.file_id));
    heavy.into_iter().find_map(|file| {
        let mut blockers: Vec<&FileFigures> =
            files.iter().filter(|f| f.file_id != file.file_id && file.held_back_by.contains(&f.file_id)).collect();
        blockers.sort_by_key(|f| (f.min_gsn, f.file_id));
        blockers.truncate(MAX_INPUTS - 1);
        // Tombstones that only chosen files hold back will go, as will the puts they hide, which count as
        // garbage already. Some held back by others are counted too if one chosen file holds them as well:
        // then the step frees less, but never less than the garbage.
        let all = file.held_back_by.iter().all(|id| blockers.iter().any(|f| f.file_id == *id));
        let tombstones = if all { file.tombstone_bytes } else { file.free_tombstone_bytes };
        let inputs: Vec<_> = blockers.into_iter().chain([file]).collect();
        let bytes: u64 = inputs.iter().map(|f| f.bytes).sum();
        let freed = inputs.iter().map(|f| f.garbage_bytes).sum::<u64>() + tombstones;
        (freed as f64 >= MIN_PULLED_RATIO * bytes as f64).then_some(inputs)
    })
}

/// Small files, if there are enough to be fewer afterwards.
fn small(files: &[FileFigures], full_file_bytes: u64) -> Option<Vec<&FileFigures>> {
    let mut small: Vec<&FileFigures> =
        files.iter().filter(|f| f.remaining() <= full_file_bytes / SMALL_SHARE).collect();
    small.sort_by_key(|file| (file.min_gsn, file.file_id));
    (small.len() >= SMALL_FILES).then(|| fill(small, full_file_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = 1000;

    fn file(file_id: u64, bytes: u64, garbage_bytes: u64) -> FileFigures {
        FileFigures {
            file_id,
            bytes,
            garbage_bytes,
            tombstone_bytes: 0,
            free_tombstone_bytes: 0,
            min_gsn: file_id,
            held_back_by: BTreeSet::new(),
        }
    }

    fn decide(files: &[FileFigures]) -> Decision {
        decide_within(files, None)
    }

    fn decide_within(files: &[FileFigures], room_bytes: Option<u64>) -> Decision {
        plan(files, FULL, &CompactionOptions::default(), room_bytes, Duration::ZERO, &mut Pace::new(Duration::ZERO))
    }

    #[test]
    fn the_file_with_most_garbage_comes_first_and_others_fill_its_output() {
        let files = [file(1, 1000, 400), file(2, 1000, 600), file(3, 1000, 900), file(4, 1000, 550), file(5, 500, 500)];
        assert_eq!(decide(&files), Decision::Compact(vec![2, 3, 4, 5]).clone());
        assert_eq!(decide(&files[..1]), Decision::Idle);
        assert_eq!(decide(&[]), Decision::Idle);
    }

    #[test]
    fn tombstones_that_nothing_holds_back_are_garbage() {
        let free = FileFigures { tombstone_bytes: 600, free_tombstone_bytes: 600, ..file(9, 1000, 0) };
        assert_eq!(decide(&[file(1, 1000, 0), free]), Decision::Compact(vec![9]));
    }

    #[test]
    fn a_file_heavy_with_tombstones_pulls_in_the_oldest_that_hold_them_back_if_that_frees_enough() {
        let heavy = |by: &[u64]| FileFigures {
            tombstone_bytes: 300,
            held_back_by: by.iter().copied().collect(),
            ..file(9, 1000, 0)
        };
        let files = |garbage| vec![file(1, 1000, garbage), file(2, 1000, 0), heavy(&[1])];
        assert_eq!(decide(&files(200)), Decision::Compact(vec![1, 9]));
        let mut many: Vec<_> = (1..=20).map(|id| file(id, 1000, 0)).collect();
        many.push(FileFigures { file_id: 99, min_gsn: 99, ..heavy(&(1..=20).collect::<Vec<_>>()) });
        assert_eq!(decide(&many), Decision::Idle, "pulling seven of twenty frees nothing");
        many.iter_mut().for_each(|f| f.garbage_bytes = 150);
        assert_eq!(decide(&many), Decision::Compact(vec![1, 2, 3, 4, 5, 6, 7, 99]));
    }

    #[test]
    fn small_files_are_merged_once_there_are_enough() {
        let files: Vec<_> = (1..=5).map(|id| file(id, 250, 0)).collect();
        assert_eq!(decide(&files[..3]), Decision::Idle);
        assert_eq!(decide(&files), Decision::Compact(vec![1, 2, 3, 4]));
    }

    #[test]
    fn on_a_full_disk_less_garbage_is_worth_it_if_the_rest_fits_what_is_left() {
        let files = [file(1, 1000, 100), file(2, 1000, 900), file(3, 1000, 40)];
        assert_eq!(decide_within(&files, Some(2000)), Decision::Compact(vec![1, 2]));
        assert_eq!(decide_within(&files, Some(950)), Decision::Compact(vec![2]), "both would need 1000 bytes");
        assert_eq!(decide_within(&files, Some(50)), Decision::Idle);
        assert_eq!(decide_within(&files[2..], Some(5000)), Decision::Idle, "four in a hundred are not worth it");
        let small: Vec<_> = (1..=5).map(|id| file(id, 250, 0)).collect();
        assert_eq!(decide_within(&small, Some(5000)), Decision::Idle, "fewer files free nothing");
        assert_eq!(decide_within(&[file(1, 1000, 1000)], Some(0)), Decision::Compact(vec![1]), "it needs no room");
    }

    #[test]
    fn the_rate_is_kept_over_time_and_idle_time_is_not_saved_up() {
        let options = CompactionOptions { rate_bytes_per_s: 100, ..CompactionOptions::default() };
        let files = [file(1, 1000, 900)];
        let mut pace = Pace::new(Duration::ZERO);
        let mut spent = 0;
        let mut now = Duration::from_secs(100);
        let start = now;
        while now < start + Duration::from_secs(50) {
            match plan(&files, FULL, &options, None, now, &mut pace) {
                Decision::Compact(_) => {
                    pace.spend(1100);
                    spent += 1100;
                }
                Decision::Wait(wait) => now += wait + Duration::from_millis(1),
                Decision::Idle => unreachable!("there is garbage"),
            }
        }
        assert!((4900..=6200).contains(&spent), "{spent} bytes in 50 s at 100 a second");
    }
}
