//! The register's store: compare-and-swap on bytes, which may be out, lost, or put back to an older state.

use crate::topology::register::{CasOutcome, ReadOutcome, Register, Version};

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    /// Never used twice, whatever is put back.
    version: u64,
    state: Option<Vec<u8>>,
    decoded: Option<Register>,
    /// Cannot be reached.
    pub(super) out: bool,
    /// Answers to reads take long.
    pub(super) slow: bool,
    /// Does what it is told and says that nobody knows.
    pub(super) forgetful: bool,
    earlier: Vec<Register>,
}

impl Store {
    pub(super) fn new(version: u64) -> Self {
        Self {
            version: version >> 1,
            state: None,
            decoded: None,
            out: false,
            slow: false,
            forgetful: false,
            earlier: Vec::new(),
        }
    }

    /// The register as it is, for whoever looks from outside.
    pub(super) fn present(&self) -> Option<&Register> {
        self.decoded.as_ref()
    }

    pub(super) fn read(&self) -> ReadOutcome {
        match &self.state {
            None => ReadOutcome::Absent,
            Some(bytes) => match Register::from_json(bytes) {
                Ok(register) => ReadOutcome::Found(Box::new(register), Version(self.version.to_string())),
                Err(error) => ReadOutcome::Failed(error.to_string()),
            },
        }
    }

    pub(super) fn swap(&mut self, expected: Option<&Version>, register: &Register) -> CasOutcome {
        let present = self.state.as_ref().map(|_| Version(self.version.to_string()));
        if present.as_ref() != expected {
            return CasOutcome::Conflict;
        }
        if let Some(earlier) = self.decoded.take() {
            self.earlier.push(earlier);
        }
        self.put(register.clone());
        CasOutcome::Written(Version(self.version.to_string()))
    }

    fn put(&mut self, register: Register) {
        self.version += 1;
        // A register that cannot be written is a fault of whoever made it.
        self.state = Some(register.to_json().unwrap_or_default());
        self.decoded = Some(register);
    }

    /// Somebody writes what nobody looks at: the version changes.
    pub(super) fn touch(&mut self) {
        if self.state.is_some() {
            self.version += 1;
        }
    }

    /// Deletes the register.
    pub(super) fn lose(&mut self) {
        self.version += 1;
        self.state = None;
        self.decoded = None;
    }

    /// Restores an older state, as from a backup.
    pub(super) fn roll_back(&mut self, states: usize) {
        let at = self.earlier.len().saturating_sub(states);
        if let Some(register) = self.earlier.get(at).filter(|r| r.initialized).cloned() {
            self.earlier.truncate(at);
            self.put(register);
        }
    }
}
