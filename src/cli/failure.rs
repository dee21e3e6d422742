//! How a command says that it failed: one line `armdb: <what>: <cause>`, then the remedy if there is one.
//!
//! Commands return `anyhow::Error`. A [`Failure`] anywhere in its chain adds a remedy and may choose the
//! exit code; without one the code is 1. A closed stdout (`armdb scan | head`) is no failure.

use std::fmt;
use std::process::ExitCode;

use super::output::StdoutClosed;
use crate::api::manifest::{ManifestError, Refusal};

/// The command line or an input file is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The command did not do what was asked.
pub const EXIT_FAILURE: u8 = 1;
/// The cluster could not be reached, or could not do it in time; certainly not done.
pub const EXIT_UNREACHABLE: u8 = 3;
/// A write may have been done.
pub const EXIT_UNKNOWN: u8 = 4;
/// Stopped by SIGINT or SIGTERM, in order.
pub const EXIT_INTERRUPTED: u8 = 130;

/// An error with a remedy and an exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    remedy: Option<String>,
    code: u8,
}

impl Failure {
    /// The command could not do what was asked: exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, code: EXIT_FAILURE }
    }

    /// What the user gave is wrong: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, code: EXIT_USAGE }
    }

    /// As [`Self::new`], with an exit code of its own.
    pub fn with_code(message: impl Into<String>, code: u8) -> Self {
        Self { message: message.into(), remedy: None, code }
    }

    /// The cluster does not answer or cannot do it now: exit code 3.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, code: EXIT_UNREACHABLE }
    }

    /// A write whose outcome is unknown: exit code 4.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None, code: EXIT_UNKNOWN }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints `error` to stderr and returns the exit code it asks for.
pub fn report(error: &anyhow::Error) -> ExitCode {
    match explain(error) {
        None => ExitCode::SUCCESS,
        Some((text, code)) => {
            // eprintln! panics when stderr is closed; there is nobody left to tell.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            ExitCode::from(code)
        }
    }
}

/// What is printed for `error` and the exit code; `None` when the reader of stdout has gone away.
fn explain(error: &anyhow::Error) -> Option<(String, u8)> {
    if error.chain().any(|cause| cause.is::<StdoutClosed>()) {
        return None;
    }
    // A cause that a wrapper already quoted (`#[error("{what}: {source}")]`) is not said twice.
    let mut text = String::from("armdb: ");
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            text.push_str(&cause);
        } else if !said.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        said = cause;
    }
    text.push('\n');
    // downcast_ref also finds a Failure that was attached as context, which chain() does not.
    let failure =
        error.downcast_ref::<Failure>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Failure>()));
    if let Some(remedy) = failure.and_then(|failure| failure.remedy.as_ref()) {
        text.push_str("  remedy: ");
        text.push_str(remedy);
        text.push('\n');
    }
    // A manifest that is wrong is input that is wrong, whichever command read it.
    let input = error.chain().any(|cause| cause.is::<ManifestError>() || cause.is::<Refusal>());
    let otherwise = if input { EXIT_USAGE } else { EXIT_FAILURE };
    Some((text, failure.map_or(otherwise, |failure| failure.code)))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_cause_and_then_the_remedy() {
        let error = anyhow::Error::new(Failure::usage("replicas is 0").remedy("set replicas to 1..9"))
            .context("reading cluster.yaml");
        let (text, code) = explain(&error).expect("printed");
        assert_eq!(text, "armdb: reading cluster.yaml: replicas is 0\n  remedy: set replicas to 1..9\n");
        assert_eq!(code, EXIT_USAGE);
    }

    #[test]
    fn a_failure_attached_as_context_keeps_its_remedy_and_the_cause_below() {
        let error = Err::<(), _>(std::io::Error::other("permission denied"))
            .context(Failure::new("opening .armdb").remedy("chown it"))
            .expect_err("an error");
        let (text, code) = explain(&error).expect("printed");
        assert_eq!(text, "armdb: opening .armdb: permission denied\n  remedy: chown it\n");
        assert_eq!(code, EXIT_FAILURE);
    }

    #[test]
    fn a_refused_manifest_is_said_once_and_is_a_usage_error() {
        let error = anyhow::Error::new(crate::api::manifest::load("c.yaml", "a: 1").expect_err("refused"));
        let (text, code) = explain(&error).expect("printed");
        assert!(text.starts_with("armdb: c.yaml:1:1: ") && text.lines().count() == 1, "{text}");
        assert_eq!(code, EXIT_USAGE);
    }

    #[test]
    fn a_closed_stdout_is_no_failure() {
        assert!(explain(&anyhow::Error::new(StdoutClosed).context("printing")).is_none());
    }
}
