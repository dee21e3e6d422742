//! The disk at one moment, and what may be left of it.
//!
//! A [`Moment`] is taken in microseconds and shares its pages with the disk it was taken of, so that a test can run a
//! workload once, keep a moment of every operation, and look at as many outcomes of each as it likes, on any thread.
//! An [`Image`] is one outcome: which names, lengths and bytes the medium held. It has a fingerprint, to tell those
//! that were looked at already, before it becomes a [`CrashDisk`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::content::{Content, FileMoment, PAGE, Page, Pages, SECTOR};
use super::{CrashDisk, Dir, DirId, Keep, NameChange, Node, ROOT, State, Unsynced, set_name};

/// A directory's names, or changes of them, with files by their number in the moment.
type Names = BTreeMap<String, Entry>;

#[derive(Clone, Copy)]
enum Entry {
    File(usize),
    Dir(DirId),
}

/// See the module's comment.
#[derive(Clone)]
pub struct Moment {
    live: BTreeMap<DirId, Names>,
    media: BTreeMap<DirId, Names>,
    pending: Vec<Change>,
    files: Vec<FileMoment>,
    /// What the first atom of each file is.
    first_of_file: Vec<usize>,
    unsynced: Vec<Unsynced>,
    next_dir: DirId,
    operations: u64,
    capacity_bytes: Option<u64>,
}

#[derive(Clone)]
struct Change {
    sets: Vec<(DirId, String, Option<Entry>)>,
    what: String,
}

/// One outcome of a crash.
pub struct Image {
    dirs: BTreeMap<DirId, Names>,
    files: BTreeMap<usize, (u64, Pages)>,
    next_dir: DirId,
}

/// Gives every file a number.
#[derive(Default)]
struct Numbering {
    numbers: BTreeMap<usize, usize>,
    contents: Vec<Arc<Content>>,
}

impl Numbering {
    fn entry(&mut self, node: &Node) -> Entry {
        match node {
            Node::Dir(id) => Entry::Dir(*id),
            Node::File(content) => {
                let next = self.contents.len();
                let number = *self.numbers.entry(Arc::as_ptr(content) as usize).or_insert(next);
                if number == next {
                    self.contents.push(content.clone());
                }
                Entry::File(number)
            }
        }
    }

    fn names(&mut self, names: &BTreeMap<String, Node>) -> Names {
        names.iter().map(|(name, node)| (name.clone(), self.entry(node))).collect()
    }
}

impl Moment {
    pub(super) fn of(state: &State) -> Self {
        let mut numbering = Numbering::default();
        let live = state.dirs.iter().map(|(id, dir)| (*id, numbering.names(&dir.live))).collect();
        let media = state.dirs.iter().map(|(id, dir)| (*id, numbering.names(&dir.media))).collect();
        let pending: Vec<Change> = state.pending.iter().map(|change| change_of(&mut numbering, change)).collect();
        let files: Vec<FileMoment> = numbering.contents.iter().map(|content| content.moment()).collect();
        let mut moment = Self {
            live,
            media,
            pending,
            files,
            first_of_file: Vec::new(),
            unsynced: Vec::new(),
            next_dir: state.next_dir,
            operations: state.operations,
            capacity_bytes: state.capacity_bytes,
        };
        moment.list_unsynced();
        moment
    }

    /// Names, oldest first; then file by file its length and its pages.
    fn list_unsynced(&mut self) {
        let paths = self.paths();
        self.unsynced = self.pending.iter().map(|c| Unsynced::Name { change: c.what.clone() }).collect();
        for (file, path) in self.files.iter().zip(paths) {
            self.first_of_file.push(self.unsynced.len());
            let (from, to) = file.lengths();
            if from != to {
                self.unsynced.push(Unsynced::Length { path: path.clone(), from, to });
            }
            self.unsynced.extend(file.dirty.iter().map(|page| Unsynced::Page {
                path: path.clone(),
                page: page.number,
                sectors: differing_sectors(&file.medium(page.number), &page.cached),
                earlier: page.earlier.len(),
            }));
        }
    }

    /// A path of every file: the live one, else one on the medium, else one that it had in between.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::new(); self.files.len()];
        let mut dirs = BTreeMap::from([(ROOT, PathBuf::from("/"))]);
        for tree in [&self.live, &self.media] {
            let mut walk = vec![ROOT];
            while let Some(id) = walk.pop() {
                for (name, entry) in tree.get(&id).into_iter().flatten() {
                    let path = dirs[&id].join(name);
                    match entry {
                        Entry::Dir(dir) => {
                            dirs.entry(*dir).or_insert(path);
                            walk.push(*dir);
                        }
                        Entry::File(number) if paths[*number].as_os_str().is_empty() => paths[*number] = path,
                        Entry::File(_) => {}
                    }
                }
            }
        }
        for (dir, name, entry) in self.pending.iter().flat_map(|change| &change.sets) {
            if let Some(Entry::File(number)) = entry
                && paths[*number].as_os_str().is_empty()
            {
                paths[*number] = dirs.get(dir).map_or(Path::new("?"), PathBuf::as_path).join(name);
            }
        }
        paths
    }

    /// How many operations came before.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Everything that a power loss may keep or drop.
    pub fn unsynced(&self) -> &[Unsynced] {
        &self.unsynced
    }

    /// What is left if `choice` decides, by the numbers that [`Self::unsynced`] gives them. It is not asked about
    /// what cannot have happened without something that was dropped, nor about files that are gone.
    pub fn crash(&self, choice: &mut dyn FnMut(usize, &Unsynced) -> Keep) -> Image {
        let mut dirs = self.media.clone();
        let mut dropped: BTreeSet<(DirId, &str)> = BTreeSet::new();
        for (i, change) in self.pending.iter().enumerate() {
            // A change builds on earlier ones of the same names: without them it cannot have happened.
            let possible = change.sets.iter().all(|(dir, name, _)| !dropped.contains(&(*dir, name.as_str())));
            if possible && choice(i, &self.unsynced[i]) != Keep::Drop {
                for (dir, name, entry) in &change.sets {
                    set_name(dirs.entry(*dir).or_default(), name, entry);
                }
            } else {
                dropped.extend(change.sets.iter().map(|(dir, name, _)| (*dir, name.as_str())));
            }
        }
        let mut image = Image { dirs: BTreeMap::new(), files: BTreeMap::new(), next_dir: self.next_dir };
        let mut walk = vec![ROOT];
        while let Some(id) = walk.pop() {
            let names = dirs.remove(&id).unwrap_or_default();
            for entry in names.values() {
                match entry {
                    Entry::Dir(dir) => walk.push(*dir),
                    Entry::File(number) => {
                        image.files.entry(*number).or_insert_with(|| self.crash_file(*number, choice));
                    }
                }
            }
            image.dirs.insert(id, names);
        }
        image
    }

    fn crash_file(&self, number: usize, choice: &mut dyn FnMut(usize, &Unsynced) -> Keep) -> (u64, Pages) {
        let file = &self.files[number];
        let mut atom = self.first_of_file[number];
        let (from, to) = file.lengths();
        let mut len = to;
        if from != to {
            len = match choice(atom, &self.unsynced[atom]) {
                Keep::Keep | Keep::Earlier(_) => to,
                Keep::Drop => from,
                Keep::Torn(eighths) => from + (to - from) / 8 * u64::from(eighths & 7),
            };
            atom += 1;
        }
        let mut pages = file.media().clone();
        for (i, page) in file.dirty.iter().enumerate() {
            if page.number * PAGE as u64 >= len {
                continue;
            }
            let kept = match choice(atom + i, &self.unsynced[atom + i]) {
                Keep::Drop => continue,
                Keep::Keep => page.cached.clone(),
                Keep::Earlier(version) => page.earlier.get(version).unwrap_or(&page.cached).clone(),
                Keep::Torn(sectors) => torn(file.medium(page.number), &page.cached, sectors),
            };
            pages.insert(page.number, kept);
        }
        pages.retain(|page, _| page * (PAGE as u64) < len);
        if let Some(mut last) = pages.last_entry() {
            // What lies beyond the end is not part of the file.
            let beyond = (len - last.key() * PAGE as u64).min(PAGE as u64) as usize;
            if last.get()[beyond..].iter().any(|b| *b != 0) {
                Arc::make_mut(last.get_mut())[beyond..].fill(0);
            }
        }
        (len, pages)
    }

    /// The disk if only this process ends now: everything written survives, what was un-synced still is.
    pub fn kill(&self) -> CrashDisk {
        let contents: Vec<Arc<Content>> =
            self.files.iter().map(|file| file.fork().expect("address space for a file of the crash disk")).collect();
        let node = |entry: &Entry| match entry {
            Entry::Dir(id) => Node::Dir(*id),
            Entry::File(number) => Node::File(contents[*number].clone()),
        };
        let names = |names: Option<&Names>| -> BTreeMap<String, Node> {
            names.into_iter().flatten().map(|(name, entry)| (name.clone(), node(entry))).collect()
        };
        let dirs = self.live.keys().chain(self.media.keys());
        let dirs = dirs.map(|id| (*id, Dir { live: names(self.live.get(id)), media: names(self.media.get(id)) }));
        let pending = self.pending.iter().map(|change| NameChange {
            sets: change.sets.iter().map(|(dir, name, entry)| (*dir, name.clone(), entry.as_ref().map(node))).collect(),
            what: change.what.clone(),
        });
        CrashDisk::from_state(State {
            dirs: dirs.collect(),
            next_dir: self.next_dir,
            pending: pending.collect(),
            operations: self.operations,
            capacity_bytes: self.capacity_bytes,
            ..State::default()
        })
    }
}

impl Image {
    /// Equal for equal names, lengths and bytes.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = Xxh3::new();
        let mut walk = vec![ROOT];
        while let Some(id) = walk.pop() {
            for (name, entry) in self.dirs.get(&id).into_iter().flatten() {
                hasher.update(&(name.len() as u64).to_le_bytes());
                hasher.update(name.as_bytes());
                match entry {
                    Entry::Dir(dir) => {
                        hasher.update(b"d");
                        walk.push(*dir);
                    }
                    Entry::File(number) => {
                        let (len, pages) = &self.files[number];
                        hasher.update(b"f");
                        hasher.update(&len.to_le_bytes());
                        for (page, bytes) in pages.iter().filter(|(_, bytes)| ***bytes != [0; PAGE]) {
                            hasher.update(&page.to_le_bytes());
                            hasher.update(&bytes[..]);
                        }
                        hasher.update(&u64::MAX.to_le_bytes());
                    }
                }
            }
            hasher.update(b"/");
        }
        hasher.digest128()
    }

    /// A disk that holds it, with nothing un-synced.
    pub fn disk(&self) -> CrashDisk {
        let contents: BTreeMap<usize, Arc<Content>> = self
            .files
            .iter()
            .map(|(number, (len, pages))| {
                (*number, Content::synced(*len, pages).expect("address space for a file of the crash disk"))
            })
            .collect();
        let node = |entry: &Entry| match entry {
            Entry::Dir(id) => Node::Dir(*id),
            Entry::File(number) => Node::File(contents[number].clone()),
        };
        let dirs = self.dirs.iter().map(|(id, names)| {
            let names: BTreeMap<String, Node> = names.iter().map(|(name, e)| (name.clone(), node(e))).collect();
            (*id, Dir { live: names.clone(), media: names })
        });
        CrashDisk::from_state(State { dirs: dirs.collect(), next_dir: self.next_dir, ..State::default() })
    }
}

fn change_of(numbering: &mut Numbering, change: &NameChange) -> Change {
    let sets = change.sets.iter();
    let sets = sets.map(|(dir, name, node)| (*dir, name.clone(), node.as_ref().map(|node| numbering.entry(node))));
    Change { sets: sets.collect(), what: change.what.clone() }
}

fn sector(page: &Page, sector: usize) -> &[u8] {
    &page[sector * SECTOR..(sector + 1) * SECTOR]
}

/// A bit for every sector that differs.
fn differing_sectors(a: &Page, b: &Page) -> u8 {
    (0..PAGE / SECTOR).filter(|i| sector(a, *i) != sector(b, *i)).fold(0, |bits, i| bits | 1 << i)
}

/// The medium's page with these sectors of the cached one.
fn torn(mut medium: Page, cached: &Page, sectors: u8) -> Page {
    for i in (0..PAGE / SECTOR).filter(|i| sectors & (1 << i) != 0) {
        Arc::make_mut(&mut medium)[i * SECTOR..(i + 1) * SECTOR].copy_from_slice(sector(cached, i));
    }
    medium
}
