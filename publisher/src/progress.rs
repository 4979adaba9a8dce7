//! Terminal output of a running broadcast: a moving status line, or plain lines without a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use media::{MediaSpan, MediaTime};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Interval between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The displayed bit rate is measured over at least this long.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Counts what was sent and displays it.
pub(super) struct ProgressDisplay {
    destination: String,
    total: Option<MediaSpan>,
    bar: Option<ProgressBar>,
    last_line: Instant,
    first: Option<MediaTime>,
    position: MediaTime,
    frames: u64,
    skipped: u64,
    connections: u64,
    sent_bytes: u64,
    rate: Rate,
}

/// Measures the recent bit rate.
struct Rate {
    since: Instant,
    bytes: u64,
    shown_kbps: u64,
}

impl ProgressDisplay {
    /// How often to call [`ProgressDisplay::show`].
    pub(super) const EVERY: Duration = Duration::from_millis(250);

    /// `destination` is the URL without the key; `total` is the source's duration if known.
    pub(super) fn new(destination: String, total: Option<MediaSpan>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style =
                ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is well-formed");
            bar.set_style(style);
            bar
        });
        let now = Instant::now();
        Self {
            destination,
            total,
            bar,
            last_line: now,
            first: None,
            position: MediaTime::ZERO,
            frames: 0,
            skipped: 0,
            connections: 0,
            sent_bytes: 0,
            rate: Rate { since: now, bytes: 0, shown_kbps: 0 },
        }
    }

    /// The server accepted the publish.
    pub(super) fn published(&mut self) {
        self.connections += 1;
        self.rate = Rate { since: Instant::now(), bytes: 0, shown_kbps: 0 };
        self.say(&format!("publishing to {}", self.destination));
    }

    /// Number of connections on which the server accepted the publish.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// An access unit was handed to the session.
    pub(super) fn unit(&mut self, video: bool, dts: MediaTime) {
        self.frames += u64::from(video);
        self.first.get_or_insert(dts);
        self.position = dts;
    }

    /// An access unit was skipped while waiting for a keyframe.
    pub(super) fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// Bytes were written to the socket.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.rate.bytes += bytes as u64;
    }

    /// Updates the moving line, or prints a line if one is due.
    pub(super) fn show(&mut self, dropped: u64, late: u64) {
        let age = self.rate.since.elapsed();
        if age >= RATE_OVER {
            self.rate.shown_kbps = self.rate.bytes * 8 / (age.as_millis() as u64).max(1);
            self.rate = Rate { since: Instant::now(), bytes: 0, ..self.rate };
        }
        let line = self.line(dropped, late);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.say(&line);
            }
            None => {}
        }
    }

    /// Prints the last line.
    pub(super) fn finish(&mut self, dropped: u64, late: u64) {
        if self.connections > 0 {
            let line = self.line(dropped, late);
            self.say(&format!("sent {line}"));
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints a separate line, above the moving one.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(line)),
            None => write_line(line),
        }
    }

    fn line(&self, dropped: u64, late: u64) -> String {
        let played = self.first.map_or(MediaSpan::ZERO, |first| self.position - first);
        let total = self.total.map(|total| format!(" of {}", clock(total))).unwrap_or_default();
        let mut line = format!(
            "{}{total}  {} frames  {} kbit/s  {:.1} MB",
            clock(played),
            self.frames,
            self.rate.shown_kbps,
            self.sent_bytes as f64 / 1e6,
        );
        let dropped = dropped + self.skipped;
        for (count, name) in
            [(dropped, "dropped"), (late, "late"), (self.connections.saturating_sub(1), "reconnects")]
        {
            if count > 0 {
                line += &format!("  {count} {name}");
            }
        }
        line
    }
}

fn write_line(line: &str) {
    // A closed terminal must not end the broadcast.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn clock(span: MediaSpan) -> String {
    let seconds = span.to_duration().as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
