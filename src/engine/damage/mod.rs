//! Rot below the commit: found, told, and mended from what another member holds.
//!
//! Looked for are files that no longer change and whose hint is known: their keys are, so damage in them is exactly known,
//! and never confused with a torn tail. A shard with such a file is *Damaged* (persisted): it goes on, votes and
//! acknowledges, answers that the data is lost for keys whose record does not verify, gives no files, compacts nothing.
//! Each damaged record is asked for by gsn and key and the file is mended under a new id (`holes`); one manifest switch
//! puts it in the place of the damaged one. Anything else that does not verify (the segment that is appended to,
//! metadata, what has no hint) quarantines the shard at the next open, and it is rebuilt whole.
//!
//! Found by whoever reads a record that does not verify, and by the *scrub*: every such file is read past the page cache
//! now and then.

mod holes;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use self::holes::{Hole, Unmended, fill, holes};
use super::error::EngineError;
use super::file_keys::{FileKeys, hint_of, stored_hint};
use super::files::Files;
use super::format::manifest::FileEnd;
use super::format::record::{Kind, Parsed, Record};
use super::index::Location;
use super::segment::{Segment, io_error};
use super::shard::Shard;
use super::shard_state::ShardState;
use super::sync;
use crate::position::Gsn;

/// The scrub reads so much a second, on average.
const SCRUB_BYTES_A_SECOND: u64 = 4 << 20;
/// Where the disk refuses a long read, it is tried by pieces of this size.
const UNREADABLE: usize = 4096;
/// Between the ends of two passes of the scrub over a shard.
const PASS_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Damaged files that are listed one by one; a shard with more is rebuilt whole.
pub(crate) const DAMAGED_FILES_MAX: usize = 256;

/// An entry that a damaged file lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its sequence number.
    pub gsn: Gsn,
    /// Its tree and key; none: a barrier.
    pub key: Option<(u16, Vec<u8>)>,
}

/// What mending a file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mended {
    /// It is whole again.
    Whole,
    /// Some entry was not had.
    Missing(Gsn),
    /// It cannot be mended: the shard is to be rebuilt whole.
    Hopeless(String),
}

/// What is known of damage, beside the state.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Files of which somebody read what does not verify.
    suspects: Mutex<BTreeSet<u32>>,
    scrub: Mutex<Scrub>,
}

#[derive(Debug, Default)]
struct Scrub {
    /// Files up to this id were read in this pass.
    done: u32,
    /// Nothing is read before.
    due: Duration,
}

impl Shard {
    /// Somebody read a record in the segment of this slot that does not verify.
    #[cold]
    pub(crate) fn suspect(&self, slot: u32) {
        if let Some(segment) = self.view.load().segment(slot)
            && self.damage.suspects.lock().insert(segment.id())
        {
            self.shared.background.wake_all();
        }
    }

    /// The ids of damaged files, if there are any.
    pub fn damaged_files(&self) -> Vec<u32> {
        match self.state() {
            ShardState::Damaged { files } => files,
            _ => Vec::new(),
        }
    }

    /// Looks at what was found not to verify, and, slowly, at everything else. Takes no step while the state forbids it.
    pub(crate) fn look_for_damage(&self, now: Duration) -> Result<(), EngineError> {
        if !self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let suspects = std::mem::take(&mut *self.damage.suspects.lock());
        for id in suspects {
            self.examine(id)?;
        }
        if self.shared.manual() {
            return Ok(());
        }
        let next = {
            let scrub = self.damage.scrub.lock();
            if now < scrub.due {
                return Ok(());
            }
            self.unchanging().into_iter().filter(|segment| segment.id() > scrub.done).min_by_key(|s| s.id())
        };
        let Some(segment) = next else {
            *self.damage.scrub.lock() = Scrub { done: 0, due: now + PASS_EVERY };
            return Ok(());
        };
        self.examine(segment.id())?;
        let len = segment.end().map_or(0, |end| end.len);
        let mut scrub = self.damage.scrub.lock();
        *scrub = Scrub { done: segment.id(), due: now + Duration::from_secs(1 + len / SCRUB_BYTES_A_SECOND) };
        Ok(())
    }

    /// Reads every file that no longer changes, now.
    pub fn scrub(&self) -> Result<(), EngineError> {
        self.unchanging().iter().try_for_each(|segment| self.examine(segment.id()))
    }

    /// Files that have ended, are wholly committed, and whose keys are known.
    fn unchanging(&self) -> Vec<Arc<Segment>> {
        let ended = |segment: &&Arc<Segment>| {
            segment.keys().is_some() && segment.is_listed() && segment.synced.load(Ordering::Acquire)
        };
        self.view.load().segments.iter().flatten().filter(ended).cloned().collect()
    }

    fn unchanging_file(&self, id: u32) -> Option<(Arc<Segment>, FileEnd)> {
        let segment = self.unchanging().into_iter().find(|segment| segment.id() == id)?;
        let end = segment.end()?;
        Some((segment, end))
    }

    /// What the disk holds of a file, past the page cache.
    fn on_disk(&self, segment: &Segment, end: &FileEnd) -> Result<Vec<u8>, EngineError> {
        let path = segment.path();
        let file = self.shared.disk.open_read(path).map_err(io_error("open", path))?;
        let mut bytes = vec![0; end.len as usize];
        let mut at = 0;
        while at < bytes.len() {
            match file.read_at_uncached(&mut bytes[at..], at as u64) {
                Ok(0) => break,
                Ok(got) => at += got,
                // What the disk refuses is as good as rot; what stands beside it is not.
                Err(_) => {
                    let to = (at + UNREADABLE).min(bytes.len());
                    match file.read_at_uncached(&mut bytes[at..to], at as u64) {
                        Ok(0) => break,
                        Ok(got) => at += got,
                        Err(error) => {
                            tracing::warn!(path = %path.display(), at, %error, "the disk does not give this back");
                            bytes[at..to].fill(0);
                            at = to;
                        }
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Reads a file; if it is damaged, that becomes the shard's state.
    fn examine(&self, id: u32) -> Result<(), EngineError> {
        let Some((segment, end)) = self.unchanging_file(id) else { return Ok(()) };
        // Sound either way it is read: reads go through the mapping.
        let whole = |bytes: &[u8]| super::recovery::scan(bytes, &segment.header, Some(end.len)).differs_from(&end);
        let found = match whole(&self.on_disk(&segment, &end)?) {
            None => whole(segment.bytes()),
            found => found,
        };
        let Some(what) = found else { return Ok(()) };
        let name = Segment::file_name(id);
        let damaged = |now: &ShardState| match now {
            ShardState::Ready => Some(ShardState::Damaged { files: vec![id] }),
            ShardState::Damaged { files } if !files.contains(&id) => {
                let files: Vec<u32> = files.iter().copied().chain([id]).collect();
                Some(if files.len() > DAMAGED_FILES_MAX {
                    let reason = format!("more than {DAMAGED_FILES_MAX} files are damaged, the last of them {name}");
                    ShardState::Quarantined { reason, alarm: false }
                } else {
                    ShardState::Damaged { files }
                })
            }
            _ => None,
        };
        if self.change_state(damaged)? {
            tracing::error!(
                shard = self.id,
                file = name,
                what,
                "a file is damaged: what it lacks is had from another member"
            );
            self.shared.tell(|listener| listener.state_changed(self.id));
        }
        Ok(())
    }

    /// What the damaged file `id` lacks; empty: it is whole after all. An error says that it cannot be told.
    pub fn wanted(&self, id: u32) -> Result<Vec<Wanted>, String> {
        let holes = self.holes_of(id)?;
        let mut wanted = Vec::new();
        for hole in &holes {
            match hole {
                Hole::Record { gsn, tree, key, .. } => {
                    wanted.push(Wanted { gsn: *gsn, key: Some((*tree, key.clone())) });
                }
                Hole::Between { .. } => wanted.extend(hole.gsns().map(|gsn| Wanted { gsn, key: None })),
            }
        }
        Ok(wanted)
    }

    fn holes_of(&self, id: u32) -> Result<Vec<Hole>, String> {
        let name = Segment::file_name(id);
        let (segment, end) = self.unchanging_file(id).ok_or(format!("{name} is no part of the shard any more"))?;
        let hint = stored_hint(&self.shared, &segment).ok_or(format!("the hint of {name} is lost as well"))?;
        let bytes = self.on_disk(&segment, &end).map_err(|error| error.to_string())?;
        let mut found = holes(&bytes, &segment.header, &end, &hint).map_err(|why| format!("{name}: {why}"))?;
        // What the disk gives and the mapping does not is replaced like the rest.
        if found.is_empty() {
            found = holes(segment.bytes(), &segment.header, &end, &hint).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(found)
    }

    /// Mends the damaged file `id` with entries as others hold them, by gsn.
    pub fn mend(self: &Arc<Self>, id: u32, had: &BTreeMap<Gsn, Bytes>) -> Result<Mended, EngineError> {
        self.shared.poison.check()?;
        let holes = match self.holes_of(id) {
            Ok(holes) => holes,
            Err(why) => return Ok(Mended::Hopeless(why)),
        };
        let Some((segment, end)) = self.unchanging_file(id) else { return self.no_more_damaged(id) };
        let bytes = self.on_disk(&segment, &end)?;
        let view = self.view.load_full();
        let dead = |hole: &Hole| match hole {
            Hole::Record { hash, offset, .. } => !view.index.contains(*hash, Location::at(segment.slot, *offset)),
            Hole::Between { .. } => false,
        };
        let (mended, end) = match fill(&bytes, &segment.header, &end, &holes, had, dead) {
            Ok(mended) => mended,
            Err(Unmended::Missing(gsn)) => return Ok(Mended::Missing(gsn)),
            Err(Unmended::Unfit(why)) => {
                return Ok(Mended::Hopeless(format!("{}: {why}", Segment::file_name(id))));
            }
        };
        // What is nobody's newest value any more may be made up: what is newer must be durable then.
        sync::until_applied(self)?;
        self.replace_file(&segment, &mended, end)?;
        self.no_more_damaged(id)
    }

    /// Puts `bytes` in the place of a file: under a new id, by one switch. Offsets are as before, so the index stays true.
    fn replace_file(&self, old: &Arc<Segment>, bytes: &[u8], end: FileEnd) -> Result<(), EngineError> {
        let _stopped = self.stop_housekeeping();
        let disk = &self.shared.disk;
        let _io = self.io.lock();
        let mut files = self.files.lock();
        if !files.manifest().files.iter().any(|file| file.id == old.id()) {
            return Ok(());
        }
        let id = {
            let mut log = self.log.lock();
            log.next_file_id += 1;
            log.next_file_id - 1
        };
        let path = self.dir.join(Segment::file_name(id));
        let file = disk.create(&path).map_err(io_error("create", &path))?;
        file.write_at(&[IoSlice::new(bytes)], 0).map_err(io_error("write", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        let new = Arc::new(Segment::under_id(old.slot, id, old.header));
        let len = bytes.len() as u64;
        new.adopt(path, file, len, len, false)?;
        new.set_end(end);
        new.synced.store(true, Ordering::Release);
        new.dead_bytes.store(old.dead_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        if old.is_cold() {
            new.set_cold();
        }
        new.set_keys(FileKeys::of(hint_of(&self.shared, &new)?));
        // The names become durable with the manifest's, before a slot names it.
        let switched = files.switch(&self.shared, &self.dir, |manifest| {
            for file in manifest.files.iter_mut().filter(|file| file.id == old.id()) {
                (file.id, file.end) = (id, Some(end));
            }
            manifest.adopted.remove(&old.id());
            // Its header and notes name the id that it had.
            manifest.adopted.insert(id);
            manifest.drops.push(old.id());
            manifest.next_file_id = manifest.next_file_id.max(id + 1);
        });
        self.shared.failing(switched)?;
        new.listed.store(true, Ordering::Release);
        {
            // Whoever applies sees either the rotten records, with the hint that tells what they were, or the mended ones.
            let _apply = self.apply.lock();
            self.view.rcu(|view| view.with_segment(new.clone()));
        }
        drop(files);
        Files::unlink(&self.shared, &self.dir, [old.id()]);
        tracing::info!(shard = self.id, was = old.id(), is = id, "a damaged file is mended");
        Ok(())
    }

    fn no_more_damaged(&self, id: u32) -> Result<Mended, EngineError> {
        let fewer = |now: &ShardState| match now {
            ShardState::Damaged { files } => {
                let files: Vec<u32> = files.iter().copied().filter(|file| *file != id).collect();
                Some(if files.is_empty() { ShardState::Ready } else { ShardState::Damaged { files } })
            }
            _ => None,
        };
        if self.change_state(fewer)? {
            self.shared.tell(|listener| listener.state_changed(self.id));
        }
        Ok(Mended::Whole)
    }

    /// The committed entry `wanted` as it was written, if this shard still has it and it verifies.
    pub fn entry(&self, wanted: &Wanted) -> Option<Bytes> {
        if !self.ready.load(Ordering::Acquire) || wanted.gsn > self.applied() {
            return None;
        }
        let sound = |record: Record<'_>| {
            let same = record.gsn() == wanted.gsn && record.is_sound();
            same.then(|| Bytes::copy_from_slice(record.bytes()))
        };
        let by_key = wanted.key.as_ref().and_then(|(tree, key)| {
            let hash = self.shared.hash(*tree, key);
            self.find(hash, *tree, key, |_, record, _| sound(record)).flatten()
        });
        by_key.or_else(|| {
            let (_, segment, mut offset) = self.walk_to(wanted.gsn.checked_sub(1)?).ok()??;
            loop {
                let Parsed::Record(record) = Record::parse(segment.log_bytes().get(offset as usize..)?) else {
                    return None;
                };
                if record.kind() != Kind::Mark {
                    return sound(record);
                }
                offset += record.len() as u64;
            }
        })
    }
}
