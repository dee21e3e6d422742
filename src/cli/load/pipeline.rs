//! A window of puts in flight, and how far every line is acknowledged.
//!
//! Invariants: the checkpoint covers only lines before which nothing is outstanding; two puts of one key are never in
//! flight together; records read ahead, puts in flight and their bytes are bounded.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::checkpoint::{self, Checkpoint};
use super::progress::Progress;
use super::record::{Fields, ReadFault, Record, Records};
use crate::client::{Client, Refusal, WriteError};

/// Records that travel together from the reader; several such chunks may wait.
const CHUNK_RECORDS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNKS_AHEAD: usize = 4;
/// Bytes of values in flight at most (one larger value goes alone).
const WINDOW_BYTES: usize = 16 << 20;
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(1);
/// After a put that the cluster could not take.
const PAUSE: Duration = Duration::from_millis(100);

/// What a load has done.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// Put by this run.
    pub(super) entries: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
    /// Every line up to this one is committed.
    pub(super) last_line: u64,
    /// Lines that earlier runs had loaded.
    pub(super) resumed_after: u64,
    /// Puts that were sent again because their outcome was unknown.
    pub(super) resent: u64,
    pub(super) elapsed: Duration,
}

/// Why a load ended before the end of the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("line {line}: {cause}")]
    Line { line: u64, cause: String },
    #[error("line {line}: {cause}")]
    Refused { line: u64, cause: Refusal },
    #[error("the cluster has acknowledged nothing for {waited:.0?}: {cause}")]
    Stalled { waited: Duration, cause: String },
    #[error("interrupted")]
    Interrupted,
    #[error("{operation}: {source}")]
    File { operation: &'static str, source: io::Error },
    #[error("it was changed before line {line}, up to which an earlier run has loaded it")]
    Changed { line: u64 },
}

/// A load that did not reach the end, and how far it came.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) report: Report,
    pub(super) error: LoadError,
}

/// A load to be done.
pub(super) struct Loader {
    pub(super) client: Client,
    pub(super) file: PathBuf,
    pub(super) fields: Fields,
    pub(super) tree: String,
    pub(super) window: usize,
    pub(super) restart: bool,
    pub(super) give_up: Duration,
}

enum Chunk {
    Records(Vec<Record>),
    Fault(ReadFault),
}

/// A line in flight, in the order of the file.
struct Slot {
    line: u64,
    end: u64,
    bytes: u64,
    done: bool,
}

/// How one put ended.
struct Settled {
    line: u64,
    key: Bytes,
    bytes: usize,
    resent: u64,
    result: Result<(), LoadError>,
}

impl Loader {
    /// Loads until the end of the file, a line that cannot be loaded, or `stop`.
    pub(super) async fn run(self, mut progress: Progress, stop: impl Future<Output = ()>) -> Result<Report, Failed> {
        let started = Instant::now();
        let mut report = Report::default();
        let outcome = self.load(&mut report, &mut progress, stop).await;
        report.elapsed = started.elapsed();
        match outcome {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { report, error }),
        }
    }

    async fn load(
        &self,
        report: &mut Report,
        progress: &mut Progress,
        stop: impl Future<Output = ()>,
    ) -> Result<(), LoadError> {
        // The id names the cluster in the checkpoint; it is known once a leader was found.
        let cluster_id = match self.client.describe().await {
            Ok(description) => description.cluster_id,
            Err(error) => return Err(LoadError::Stalled { waited: self.give_up, cause: error.to_string() }),
        };
        let failed = |operation| move |source| LoadError::File { operation, source };
        let mut file = File::open(&self.file).map_err(failed("opening it"))?;
        let total = file.metadata().map_err(failed("reading its size"))?.len();
        let mut checkpoint = self.begin(&mut file, cluster_id)?;
        file.seek(SeekFrom::Start(checkpoint.offset)).map_err(failed("reading it"))?;
        report.resumed_after = checkpoint.line;
        report.last_line = checkpoint.line;
        progress.begin(checkpoint.offset);

        let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let source = Records::new(
            BufReader::with_capacity(1 << 20, file),
            self.fields.clone(),
            checkpoint.line,
            checkpoint.offset,
        );
        // Ends by itself when the receiver goes; never waited for.
        tokio::task::spawn_blocking(move || read(source, &sender));

        let mut tail = File::open(&self.file).map_err(failed("opening it"))?;
        let mut waiting: VecDeque<Record> = VecDeque::new();
        let mut slots: VecDeque<Slot> = VecDeque::new();
        let mut puts: FuturesUnordered<BoxFuture<'static, Settled>> = FuturesUnordered::new();
        let mut keys: HashSet<Bytes> = HashSet::new();
        let mut bytes_in_flight = 0;
        let mut at_end = false;
        let mut error: Option<LoadError> = None;
        let acknowledged = Arc::new(Mutex::new(Instant::now()));
        let mut tick = tokio::time::interval(BETWEEN_CHECKPOINTS);
        tokio::pin!(stop);
        loop {
            while error.is_none() && puts.len() < self.window {
                let Some(record) = waiting.front() else { break };
                let bytes = record.key.len() + record.value.len();
                let too_much = bytes_in_flight > 0 && bytes_in_flight + bytes > WINDOW_BYTES;
                if too_much || !keys.insert(record.key.clone()) {
                    break;
                }
                let record = waiting.pop_front().expect("there is a first one");
                bytes_in_flight += bytes;
                slots.push_back(Slot { line: record.line, end: record.end, bytes: bytes as u64, done: false });
                puts.push(Box::pin(put(self.client.clone(), record, Arc::clone(&acknowledged), self.give_up)));
            }
            if puts.is_empty() && (error.is_some() || (at_end && waiting.is_empty())) {
                break;
            }
            tokio::select! {
                Some(settled) = puts.next(), if !puts.is_empty() => {
                    keys.remove(&settled.key);
                    bytes_in_flight -= settled.bytes;
                    report.resent += settled.resent;
                    match settled.result {
                        Ok(()) => {
                            let slot = slots.binary_search_by_key(&settled.line, |slot| slot.line);
                            slots[slot.expect("a put in flight has its slot")].done = true;
                            while slots.front().is_some_and(|slot| slot.done) {
                                let slot = slots.pop_front().expect("there is a first one");
                                report.entries += 1;
                                report.bytes += slot.bytes;
                                (checkpoint.line, checkpoint.offset) = (slot.line, slot.end);
                            }
                        }
                        // Of several, the one of the first line.
                        Err(cause) => if error.as_ref().is_none_or(|e| line_of(&cause) < line_of(e)) {
                            error = Some(cause);
                        },
                    }
                    progress.update(checkpoint.offset, total, report.entries, false);
                }
                chunk = chunks.recv(), if error.is_none() && !at_end && waiting.is_empty() => match chunk {
                    Some(Chunk::Records(records)) => waiting.extend(records),
                    Some(Chunk::Fault(ReadFault::Line { line, cause })) => error = Some(LoadError::Line { line, cause }),
                    Some(Chunk::Fault(ReadFault::Io(source))) => {
                        error = Some(LoadError::File { operation: "reading it", source });
                    }
                    None => at_end = true,
                },
                _ = tick.tick() => {
                    if let Err(source) = save(&mut checkpoint, &mut tail, self) {
                        error.get_or_insert(LoadError::File { operation: "writing its checkpoint", source });
                    }
                    progress.update(checkpoint.offset, total, report.entries, false);
                }
                () = &mut stop, if error.is_none() => error = Some(LoadError::Interrupted),
            }
        }
        report.last_line = checkpoint.line;
        match error {
            None => {
                // Lines without content at the end are loaded, too.
                progress.update(total, total, report.entries, true);
                Checkpoint::remove(&self.file).map_err(failed("removing its checkpoint"))
            }
            Some(error) => {
                progress.update(checkpoint.offset, total, report.entries, true);
                // The first error is the one to tell; an old checkpoint only makes the next run put more again.
                let _ = save(&mut checkpoint, &mut tail, self);
                Err(error)
            }
        }
    }

    /// Where to begin.
    fn begin(&self, file: &mut File, cluster_id: String) -> Result<Checkpoint, LoadError> {
        let fresh = Checkpoint {
            format_version: checkpoint::FORMAT_VERSION,
            cluster_id,
            tree: self.tree.clone(),
            key: self.fields.key.clone(),
            value: self.fields.value.clone(),
            offset: 0,
            line: 0,
            tail_crc: 0,
        };
        if self.restart {
            return Ok(fresh);
        }
        let Some(found) = Checkpoint::read(&self.file) else { return Ok(fresh) };
        // Of another cluster, tree or fields: another load, of which nothing is done yet.
        let same = Checkpoint { offset: 0, line: 0, tail_crc: 0, ..found.clone() } == fresh;
        if !same {
            return Ok(fresh);
        }
        let crc = checkpoint::tail_crc(file, found.offset)
            .map_err(|source| LoadError::File { operation: "reading it", source })?;
        if crc != Some(found.tail_crc) {
            return Err(LoadError::Changed { line: found.line });
        }
        Ok(found)
    }
}

fn save(checkpoint: &mut Checkpoint, file: &mut File, loader: &Loader) -> io::Result<()> {
    if checkpoint.offset == 0 {
        return Ok(());
    }
    match checkpoint::tail_crc(file, checkpoint.offset)? {
        Some(crc) => {
            checkpoint.tail_crc = crc;
            checkpoint.write(&loader.file)
        }
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
    }
}

/// The line that an error is about; errors about none come last.
fn line_of(error: &LoadError) -> u64 {
    match error {
        LoadError::Line { line, .. } | LoadError::Refused { line, .. } => *line,
        _ => u64::MAX,
    }
}

/// Reads to the end, or until nobody wants more.
fn read(mut source: Records<BufReader<File>>, sender: &mpsc::Sender<Chunk>) {
    loop {
        let mut records = Vec::new();
        let mut bytes = 0;
        let fault = loop {
            match source.next() {
                Ok(Some(record)) => {
                    bytes += record.key.len() + record.value.len();
                    records.push(record);
                    if records.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                        break None;
                    }
                }
                Ok(None) => break Some(None),
                Err(fault) => break Some(Some(fault)),
            }
        };
        if !records.is_empty() && sender.blocking_send(Chunk::Records(records)).is_err() {
            return;
        }
        match fault {
            None => {}
            Some(None) => return,
            Some(Some(fault)) => {
                let _ = sender.blocking_send(Chunk::Fault(fault));
                return;
            }
        }
    }
}

/// Puts one record, again if need be, until it is acknowledged or there is no hope.
async fn put(client: Client, record: Record, acknowledged: Arc<Mutex<Instant>>, give_up: Duration) -> Settled {
    let Record { line, key, value, .. } = record;
    let bytes = key.len() + value.len();
    let begun = Instant::now();
    let mut resent = 0;
    let result = loop {
        let cause = match client.put(key.clone(), value.clone()).await {
            Ok(_) => {
                *acknowledged.lock() = Instant::now();
                break Ok(());
            }
            // The same value under the same key: what the first attempt may have done, the second does again.
            Err(error @ WriteError::Indeterminate { .. }) => {
                resent += 1;
                error.to_string()
            }
            Err(WriteError::NotDone(refusal)) if refusal.is_transient() => refusal.to_string(),
            Err(WriteError::NotDone(cause)) => break Err(LoadError::Refused { line, cause }),
        };
        let waited = (*acknowledged.lock()).max(begun).elapsed();
        if waited >= give_up {
            break Err(LoadError::Stalled { waited, cause });
        }
        tokio::time::sleep(PAUSE).await;
    };
    Settled { line, key, bytes, resent, result }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::client::ClientOptions;
    use crate::client::fake::{FakeCluster, Fault};

    async fn loader(cluster: &FakeCluster, file: &Path) -> Loader {
        let options = ClientOptions::new(cluster.addresses.clone()).request_timeout(Duration::from_millis(500));
        Loader {
            client: Client::connect(options).await.expect("connects"),
            file: file.to_owned(),
            fields: Fields::new(None, None),
            tree: "default".into(),
            window: 16,
            restart: false,
            give_up: Duration::from_secs(5),
        }
    }

    fn lines(range: std::ops::Range<u64>) -> String {
        range.map(|i| format!("{{\"key\":\"k{i}\",\"value\":\"v{i}\"}}\n")).collect()
    }

    async fn run(loader: Loader) -> Result<Report, Failed> {
        loader.run(Progress::new(false), std::future::pending()).await
    }

    #[tokio::test]
    async fn every_line_is_put_and_nothing_is_left_behind() {
        let cluster = FakeCluster::start(3, Some(1)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        std::fs::write(&file, lines(0..1000)).expect("writes");
        let report = run(loader(&cluster, &file).await).await.expect("loads");
        assert_eq!((report.entries, report.last_line, report.resent), (1000, 1000, 0));
        assert_eq!(cluster.data.lock().map.len(), 1000);
        assert!(!Checkpoint::path(&file).exists());
    }

    #[tokio::test]
    async fn a_broken_line_stops_by_number_with_every_earlier_line_committed_and_resumes_after_the_mend() {
        let cluster = FakeCluster::start(1, Some(0)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        std::fs::write(&file, lines(0..700) + "{\"key\": oops}\n" + &lines(700..1000)).expect("writes");
        let failed = run(loader(&cluster, &file).await).await.expect_err("stops");
        assert!(matches!(failed.error, LoadError::Line { line: 701, .. }), "{:?}", failed.error);
        assert_eq!(failed.report.last_line, 700);
        assert_eq!(cluster.data.lock().map.len(), 700);

        std::fs::write(&file, lines(0..700) + "{\"key\":\"mended\",\"value\":\"m\"}\n" + &lines(700..1000))
            .expect("writes");
        let report = run(loader(&cluster, &file).await).await.expect("loads");
        assert_eq!((report.entries, report.resumed_after, report.last_line), (301, 700, 1001));
        assert_eq!(cluster.done().len(), 1001, "nothing is put twice");
    }

    #[tokio::test]
    async fn a_file_that_was_changed_where_it_is_loaded_is_refused_until_restart() {
        let cluster = FakeCluster::start(1, Some(0)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        std::fs::write(&file, lines(0..10) + "{\n").expect("writes");
        run(loader(&cluster, &file).await).await.expect_err("stops");
        std::fs::write(&file, lines(5..20)).expect("writes");
        let failed = run(loader(&cluster, &file).await).await.expect_err("refused");
        assert!(matches!(failed.error, LoadError::Changed { line: 10 }), "{:?}", failed.error);
        let again = Loader { restart: true, ..loader(&cluster, &file).await };
        assert_eq!(run(again).await.expect("loads").entries, 15);
    }

    #[tokio::test]
    async fn puts_of_unknown_outcome_are_sent_again_and_the_last_of_equal_keys_wins() {
        let cluster = FakeCluster::start(3, Some(0)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        let same: String = (0..50).map(|i| format!("{{\"key\":\"same\",\"value\":\"{i}\"}}\n")).collect();
        std::fs::write(&file, lines(0..200) + &same).expect("writes");
        cluster.next_faults([Fault::DropAfter, Fault::NoQuorum, Fault::DropBefore, Fault::IndeterminateDone]);
        let report = run(loader(&cluster, &file).await).await.expect("loads");
        assert!(report.resent >= 3, "{report:?}");
        assert_eq!(report.entries, 250);
        let data = cluster.data.lock();
        assert_eq!(data.map.len(), 201);
        assert_eq!(data.map[&Bytes::from("same")].0, "49");
    }

    #[tokio::test]
    async fn a_cluster_that_takes_nothing_is_given_up_and_the_load_resumes() {
        let cluster = FakeCluster::start(1, Some(0)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        std::fs::write(&file, lines(0..100)).expect("writes");
        cluster.next_faults(std::iter::repeat_n(Fault::NoQuorum, 100_000));
        let impatient = Loader { give_up: Duration::from_millis(300), ..loader(&cluster, &file).await };
        let failed = run(impatient).await.expect_err("gives up");
        assert!(matches!(failed.error, LoadError::Stalled { .. }), "{:?}", failed.error);
        cluster.data.lock().faults.clear();
        assert_eq!(run(loader(&cluster, &file).await).await.expect("loads").last_line, 100);
        assert_eq!(cluster.data.lock().map.len(), 100);
    }

    #[tokio::test]
    async fn an_interrupt_keeps_what_is_acknowledged() {
        let cluster = FakeCluster::start(1, Some(0)).await;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.jsonl");
        std::fs::write(&file, lines(0..5000)).expect("writes");
        let interrupted = loader(&cluster, &file).await;
        let data = Arc::clone(&cluster.data);
        let stop = async move {
            while data.lock().map.len() < 100 {
                tokio::task::yield_now().await;
            }
        };
        let failed = interrupted.run(Progress::new(false), stop).await.expect_err("stops");
        assert!(matches!(failed.error, LoadError::Interrupted));
        let done = failed.report.last_line;
        assert!((100..5000).contains(&done), "{done}");
        let report = run(loader(&cluster, &file).await).await.expect("loads");
        assert_eq!((report.resumed_after, report.last_line), (done, 5000));
        assert_eq!(cluster.done().len(), 5000);
    }
}
