//! What a controller tells humans: one line a decision, with its reason.

use std::fmt;

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The normal course.
    Info,
    /// Something is missing or was given up, and nothing is lost.
    Warning,
    /// A human is needed, or a rule was found broken.
    Alarm,
}

/// A line for the log, or an event of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// One word in CamelCase, stable: `ChangeStarted`, `LeaderDecided`, ...
    pub reason: &'static str,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.text)
    }
}
