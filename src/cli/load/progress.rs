//! How a load is shown while it runs, on stderr: a bar on a terminal, a line every two seconds elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::api::quantity;

const BETWEEN_LINES: Duration = Duration::from_secs(2);
const BETWEEN_DRAWS: Duration = Duration::from_millis(100);

/// Shows, or not.
pub(super) struct Progress {
    kind: Kind,
    started: Instant,
    shown: Option<Instant>,
    /// Bytes that earlier runs have loaded: they say nothing about the rate.
    begun_at: u64,
}

enum Kind {
    Silent,
    Lines,
    Bar(ProgressBar),
}

impl Progress {
    pub(super) fn new(wanted: bool) -> Self {
        let kind = match wanted {
            false => Kind::Silent,
            true if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                bar.set_style(style);
                Kind::Bar(bar)
            }
            true => Kind::Lines,
        };
        Self { kind, started: Instant::now(), shown: None, begun_at: 0 }
    }

    /// The load begins at this byte.
    pub(super) fn begin(&mut self, offset: u64) {
        self.started = Instant::now();
        self.begun_at = offset;
    }

    /// So much is acknowledged: `offset` of `total` bytes of the file, `entries` by this run.
    pub(super) fn update(&mut self, offset: u64, total: u64, entries: u64, last: bool) {
        let between = match &self.kind {
            Kind::Silent => return,
            Kind::Lines => BETWEEN_LINES,
            Kind::Bar(_) => BETWEEN_DRAWS,
        };
        let since = self.shown.unwrap_or(self.started);
        if !last && since.elapsed() < between {
            return;
        }
        self.shown = Some(Instant::now());
        let text = describe(self.started.elapsed(), self.begun_at, offset, total, entries);
        match &self.kind {
            Kind::Silent => {}
            Kind::Lines => {
                let percent = (offset * 100).checked_div(total).unwrap_or(100);
                let _ = std::io::stderr().write_all(format!("load: {percent}%  {text}\n").as_bytes());
            }
            Kind::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(offset);
                bar.set_message(text);
                if last {
                    bar.abandon();
                }
            }
        }
    }
}

fn describe(elapsed: Duration, begun_at: u64, offset: u64, total: u64, entries: u64) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let bytes_per_second = offset.saturating_sub(begun_at) as f64 / seconds;
    let left = if offset >= total {
        "done".to_owned()
    } else if bytes_per_second < 1.0 {
        "time left unknown".to_owned()
    } else {
        let left = ((total - offset) as f64 / bytes_per_second).ceil() as u64;
        format!("{}:{:02} left", left / 60, left % 60)
    };
    format!(
        "{} of {}  {entries} entries  {:.0} entries/s  {left}",
        quantity::format(offset),
        quantity::format(total),
        entries as f64 / seconds,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_leave_out_what_was_loaded_before() {
        let text = describe(Duration::from_secs(10), 5 << 20, 10 << 20, 20 << 20, 5000);
        assert_eq!(text, "10Mi of 20Mi  5000 entries  500 entries/s  0:20 left");
    }
}
