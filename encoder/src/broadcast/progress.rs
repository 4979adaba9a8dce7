//! What a person at the terminal sees of a running broadcast; plain lines when there is no terminal.

use hls::{MediaSpan, MediaTime};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between lines when nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The bit rate shown is that of at least this long.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Counts and shows.
pub(super) struct Progress {
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

/// Bits a second since a moment not long ago.
struct Rate {
    since: Instant,
    bytes: u64,
    shown_kbps: u64,
}

impl Progress {
    /// How often [`Progress::show`] is worth calling.
    pub(super) const EVERY: Duration = Duration::from_millis(250);

    /// `destination` without the key; `total` where the end is known.
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

    /// The server lets us publish.
    pub(super) fn published(&mut self) {
        self.connections += 1;
        self.rate = Rate { since: Instant::now(), bytes: 0, shown_kbps: 0 };
        self.say(&format!("publishing to {}", self.destination));
    }

    /// How often a server let us publish.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// An access unit was handed to the session.
    pub(super) fn unit(&mut self, video: bool, dts: MediaTime) {
        self.frames += u64::from(video);
        self.first.get_or_insert(dts);
        self.position = dts;
    }

    /// An access unit was left out on the way to a keyframe.
    pub(super) fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// Bytes left through the socket.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.rate.bytes += bytes as u64;
    }

    /// Shows the state of things, if it is time to.
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

    /// The last line.
    pub(super) fn finish(&mut self, dropped: u64, late: u64) {
        if self.connections > 0 {
            let line = self.line(dropped, late);
            self.say(&format!("sent {line}"));
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line of its own, above the moving one.
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
    // A closed terminal does not end a broadcast.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn clock(span: MediaSpan) -> String {
    let seconds = span.to_duration().as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
