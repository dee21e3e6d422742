//! Everything that is shown or logged, on a thread of its own.
//!
//! Lines of the supervisor and of its members go to the members' log files and to stderr; on a terminal a table
//! stands below them, redrawn in place. The queue is bounded and never waited for: a terminal that is held
//! (Ctrl-S) or a slow disk must not stop the supervisor from failing over. What is dropped is counted and told.
//! stdout stays free for COMMAND.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::log_file::LogFile;

/// Lines that may wait for the disk or the terminal.
const QUEUE_LINES: usize = 4096;
/// Size at which a member's log is rotated.
const LOG_BYTES: u64 = 8 << 20;
/// Prefix colours of members, in turn; the supervisor has none.
const COLOURS: [&str; 6] = ["\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[31m"];

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The normal course.
    Info,
    /// Something is missing or was given up.
    Warning,
    /// A human is needed.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => " INFO",
            Self::Warning => " WARN",
            Self::Error => "ERROR",
        }
    }
}

/// How lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Every line, members' lines too, nothing is redrawn.
    Plain,
    /// The supervisor's lines and members' warnings above a live table.
    Table,
    /// The supervisor's lines and members' warnings: a command has the terminal.
    Quiet,
}

impl Style {
    /// The style for a run.
    pub fn choose(plain: bool, command: bool) -> Self {
        if command {
            Self::Quiet
        } else if !plain && io::stderr().is_terminal() {
            Self::Table
        } else {
            Self::Plain
        }
    }
}

enum Message {
    Supervisor { level: Level, text: String },
    Member { name: Arc<str>, line: Vec<u8> },
    Table(Vec<String>),
    End(SyncSender<()>),
}

/// A handle to the thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Output {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    style: Style,
}

impl Output {
    /// Starts the thread. `logs` are the members' log files.
    pub fn start(style: Style, logs: Vec<(Arc<str>, PathBuf)>) -> io::Result<(Self, OutputThread)> {
        let (sender, receiver) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new(style, logs, Arc::clone(&dropped))?;
        let thread = std::thread::Builder::new().name("output".into()).spawn(move || writer.run(&receiver))?;
        Ok((Self { sender: sender.clone(), dropped, style }, OutputThread { sender, thread: Some(thread) }))
    }

    /// How lines are shown.
    pub fn style(&self) -> Style {
        self.style
    }

    /// A line of the supervisor.
    pub fn tell(&self, level: Level, text: impl Into<String>) {
        self.send(Message::Supervisor { level, text: text.into() });
    }

    /// A line that a member wrote.
    pub(crate) fn member(&self, name: &Arc<str>, line: Vec<u8>) {
        self.send(Message::Member { name: Arc::clone(name), line });
    }

    /// The table as it is now; shown only in [`Style::Table`].
    pub(crate) fn table(&self, lines: Vec<String>) {
        if self.style == Style::Table {
            self.send(Message::Table(lines));
        }
    }

    fn send(&self, message: Message) {
        match self.sender.try_send(message) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Ends the thread when dropped, after what was said before is written.
#[derive(Debug)]
pub struct OutputThread {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for OutputThread {
    fn drop(&mut self) {
        // A thread that hangs on a held terminal is left behind: the process is about to end.
        let (done, wait) = sync_channel(1);
        if self.sender.try_send(Message::End(done)).is_ok()
            && wait.recv_timeout(Duration::from_secs(2)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

struct Writer {
    style: Style,
    colours: bool,
    width: usize,
    members: HashMap<Arc<str>, (LogFile, &'static str)>,
    /// Lines of the table that stand at the end of the terminal.
    drawn: usize,
    table: Vec<String>,
    dropped: Arc<AtomicU64>,
    /// A log that could not be written is told once.
    log_failed: bool,
}

impl Writer {
    fn new(style: Style, logs: Vec<(Arc<str>, PathBuf)>, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let width = logs.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("local".len());
        let members = logs
            .into_iter()
            .enumerate()
            .map(|(index, (name, path))| Ok((name, (LogFile::open(path, LOG_BYTES)?, COLOURS[index % COLOURS.len()]))))
            .collect::<io::Result<_>>()?;
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ok(Self { style, colours, width, members, drawn: 0, table: Vec::new(), dropped, log_failed: false })
    }

    fn run(&mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            let mut batch = vec![message];
            batch.extend(receiver.try_iter().take(QUEUE_LINES));
            let mut lines = Vec::new();
            let mut end = None;
            for message in batch {
                match message {
                    Message::Supervisor { level, text } => {
                        let text = format!("{} {} {text}", timestamp(), level.name());
                        lines.push(self.prefixed("local", None, text.as_bytes()));
                    }
                    Message::Member { name, line } => lines.extend(self.member(&name, &line)),
                    Message::Table(table) => self.table = table,
                    Message::End(done) => end = Some(done),
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let text = format!("{} {} {dropped} lines were dropped", timestamp(), Level::Warning.name());
                lines.push(self.prefixed("local", None, text.as_bytes()));
            }
            if end.is_some() {
                self.table.clear();
            }
            self.show(&lines);
            if let Some(done) = end {
                let _ = done.try_send(());
                return;
            }
        }
    }

    /// Logs a member's line; the line to show, if it is to be shown.
    fn member(&mut self, name: &Arc<str>, line: &[u8]) -> Option<Vec<u8>> {
        let (log, colour) = self.members.get_mut(name)?;
        let colour = *colour;
        let failed = log.line(line).err().filter(|_| !std::mem::replace(&mut self.log_failed, true));
        if let Some(error) = failed {
            let text =
                format!("{} {} the log of {name} cannot be written: {error}", timestamp(), Level::Warning.name());
            return Some(self.prefixed("local", None, text.as_bytes()));
        }
        let shown = self.style == Style::Plain || matters(line);
        shown.then(|| self.prefixed(name, Some(colour), line))
    }

    fn prefixed(&self, name: &str, colour: Option<&str>, text: &[u8]) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.width + text.len() + 16);
        let prefix = format!("{name:<width$} | ", width = self.width);
        match colour.filter(|_| self.colours) {
            Some(colour) => {
                line.extend_from_slice(colour.as_bytes());
                line.extend_from_slice(prefix.as_bytes());
                line.extend_from_slice(b"\x1b[0m");
            }
            None => line.extend_from_slice(prefix.as_bytes()),
        }
        line.extend_from_slice(text);
        line
    }

    /// Writes lines above the table and the table again, in one write so that the terminal does not flicker.
    fn show(&mut self, lines: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        if self.drawn > 0 {
            bytes.extend_from_slice(format!("\x1b[{}A\r\x1b[J", self.drawn).as_bytes());
        }
        for line in lines {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
        let (columns, rows) = rustix::termios::tcgetwinsize(io::stderr())
            .map_or((80, 24), |size| (usize::from(size.ws_col.max(20)), usize::from(size.ws_row.max(4))));
        self.drawn = 0;
        if self.style == Style::Table {
            // A table higher than the terminal could not be redrawn in place.
            for line in self.table.iter().take(rows - 1) {
                bytes.extend(line.chars().take(columns - 1).collect::<String>().into_bytes());
                bytes.push(b'\n');
                self.drawn += 1;
            }
        }
        if bytes.is_empty() {
            return;
        }
        // Nobody reads any more (a closed terminal, a closed pipe): the logs on disk go on.
        let _ = io::stderr().lock().write_all(&bytes);
    }
}

/// A member's line that is worth showing when not all are shown.
fn matters(line: &[u8]) -> bool {
    // The level stands near the beginning, after the time: `2026-... WARN armdb::...`.
    let head = &line[..line.len().min(64)];
    head.starts_with(b"armdb: ")
        || [&b" WARN "[..], b" ERROR ", b"\"WARN\"", b"\"ERROR\"", b"panicked"]
            .iter()
            .any(|level| head.windows(level.len()).any(|window| window == *level))
}

fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(style: Style, dir: &std::path::Path) -> Writer {
        let mut writer =
            Writer::new(style, vec![("kv-0-0".into(), dir.join("log"))], Arc::default()).expect("a writer");
        writer.colours = false;
        writer
    }

    #[test]
    fn every_line_of_a_member_is_logged_but_only_warnings_are_shown_beside_a_table() {
        let temp = tempfile::tempdir().expect("a directory");
        let mut writer = writer(Style::Table, temp.path());
        let name: Arc<str> = "kv-0-0".into();
        assert_eq!(writer.member(&name, b"2026-01-01T00:00:00Z  INFO armdb: quiet"), None);
        let shown = writer.member(&name, b"2026-01-01T00:00:00Z  WARN armdb: loud").expect("shown");
        assert_eq!(shown, b"kv-0-0 | 2026-01-01T00:00:00Z  WARN armdb: loud");
        let log = std::fs::read_to_string(temp.path().join("log")).expect("reads");
        assert_eq!(log.lines().count(), 2);
    }

    #[test]
    fn without_a_table_every_line_is_shown_behind_the_members_name() {
        let temp = tempfile::tempdir().expect("a directory");
        let mut writer = writer(Style::Plain, temp.path());
        assert_eq!(writer.member(&"kv-0-0".into(), b"anything").as_deref(), Some(&b"kv-0-0 | anything"[..]));
    }

    #[test]
    fn a_full_queue_drops_lines_and_never_blocks() {
        let (sender, _receiver) = sync_channel(1);
        let output = Output { sender, dropped: Arc::default(), style: Style::Plain };
        for _ in 0..5 {
            output.tell(Level::Info, "line");
        }
        assert_eq!(output.dropped.load(Ordering::Relaxed), 4);
    }
}
