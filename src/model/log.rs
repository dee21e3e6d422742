//! A shard's log as the model keeps it: entries in place, small enough to be copied a million times.
//!
//! Positions, chains and epoch tables are the product's types, made from the entries whenever a rule asks for them.

use crate::position::{EpochTable, Gsn, LogPosition, LogTail};

/// How many entries a log may have: epochs and writes are bounded by the setup.
pub(super) const CAPACITY: usize = 14;

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) enum Content {
    /// Opens its epoch.
    #[default]
    Barrier,
    /// The client's write of this number.
    Write(u8),
    /// Compaction dropped it from a log that was shipped all the same: nobody may ever hold this as committed.
    Hole,
}

/// One entry; its gsn is its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Entry {
    pub(super) epoch: u8,
    pub(super) content: Content,
    /// The batch goes on with the next entry.
    pub(super) more: bool,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Log {
    len: u8,
    entries: [Entry; CAPACITY],
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for entry in self.entries() {
            let content = match entry.content {
                Content::Barrier => "B".to_owned(),
                Content::Write(write) => format!("w{write}"),
                Content::Hole => "HOLE".to_owned(),
            };
            write!(f, "{separator}{}:{content}{}", entry.epoch, if entry.more { "+" } else { "" })?;
            separator = " ";
        }
        Ok(())
    }
}

impl Log {
    pub(super) const EMPTY: Self =
        Self { len: 0, entries: [Entry { epoch: 0, content: Content::Barrier, more: false }; CAPACITY] };

    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut log = Self::default();
        entries.iter().for_each(|&entry| log.append(entry));
        log
    }

    pub(super) fn len(&self) -> u8 {
        self.len
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    /// The entry at `gsn`.
    pub(super) fn at(&self, gsn: u8) -> Option<Entry> {
        self.entries().get(usize::from(gsn).checked_sub(1)?).copied()
    }

    pub(super) fn append(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    pub(super) fn truncate(&mut self, gsn: u8) {
        if gsn < self.len {
            self.entries[usize::from(gsn)..].fill(Entry::default());
            self.len = gsn;
        }
    }

    /// The first `gsn` entries.
    pub(super) fn prefix(mut self, gsn: u8) -> Self {
        self.truncate(gsn);
        self
    }

    /// The last batch end at or before `gsn`: a torn batch is cut away.
    pub(super) fn batch_end(&self, mut gsn: u8) -> u8 {
        while self.at(gsn).is_some_and(|entry| entry.more) {
            gsn -= 1;
        }
        gsn
    }

    /// The entries of the batch that begins after `gsn`.
    pub(super) fn batch_after(&self, gsn: u8) -> &[Entry] {
        let rest = &self.entries()[usize::from(gsn)..];
        let len = rest.iter().position(|entry| !entry.more).map_or(rest.len(), |last| last + 1);
        &rest[..len]
    }

    /// The gsn of `write`.
    pub(super) fn find(&self, write: u8) -> Option<u8> {
        let place = self.entries().iter().position(|entry| entry.content == Content::Write(write))?;
        Some(place as u8 + 1)
    }

    /// The log's end as it would be after `gsn`.
    pub(super) fn tail_at(&self, gsn: u8) -> LogTail {
        let Some(last) = self.at(gsn) else { return LogTail::default() };
        let chain = self.entries()[..usize::from(gsn)].iter().fold(0u32, |chain, entry| {
            let content = match entry.content {
                Content::Barrier => 0,
                Content::Write(write) => u32::from(write) + 1,
                Content::Hole => 0x1000,
            };
            let link = u32::from(entry.epoch) << 24 | u32::from(entry.more) << 16 | content;
            (chain.rotate_left(5) ^ link).wrapping_mul(0x9e37_79b9)
        });
        LogTail { last: LogPosition::new(last.epoch.into(), gsn.into()), chain }
    }

    pub(super) fn tail(&self) -> LogTail {
        self.tail_at(self.len)
    }

    /// Which epoch opened where.
    pub(super) fn epochs(&self) -> EpochTable {
        let mut table = EpochTable::new();
        let mut last = 0;
        for (gsn, entry) in (1 as Gsn..).zip(self.entries()) {
            if entry.epoch > last {
                table.open(entry.epoch.into(), gsn);
                last = entry.epoch;
            }
        }
        table
    }
}
