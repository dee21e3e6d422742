//! A member's log on disk: bounded by one rotation (`log` becomes `log.1`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// An append-only text file that starts anew when it is full.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit_bytes: u64,
}

impl LogFile {
    /// Opens for appending; at most twice `limit_bytes` are kept.
    pub fn open(path: PathBuf, limit_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, limit_bytes })
    }

    /// Appends one line.
    pub fn line(&mut self, text: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + text.len() as u64 + 1 > self.limit_bytes {
            let mut old = self.path.as_os_str().to_owned();
            old.push(".1");
            fs::rename(&self.path, PathBuf::from(old))?;
            self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
            self.bytes = 0;
        }
        // One write a line: a line is never torn between two processes' views of the file.
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_becomes_the_old_one_and_no_third_is_kept() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("log");
        let mut log = LogFile::open(path.clone(), 20).expect("opens");
        for line in ["first line", "second line", "third line"] {
            log.line(line.as_bytes()).expect("writes");
        }
        assert_eq!(fs::read_to_string(&path).expect("reads"), "third line\n");
        assert_eq!(fs::read_to_string(temp.path().join("log.1")).expect("reads"), "second line\n");
        assert_eq!(fs::read_dir(temp.path()).expect("reads").count(), 2);
    }

    #[test]
    fn a_log_goes_on_after_a_restart() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("log");
        LogFile::open(path.clone(), 1000).expect("opens").line(b"one").expect("writes");
        LogFile::open(path.clone(), 1000).expect("opens").line(b"two").expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "one\ntwo\n");
    }
}
