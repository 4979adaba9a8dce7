//! A worker's stderr as log lines of bounded length and rate. Bytes and time in, lines out; reading and logging are
//! in [`super::child`].

use std::time::{Duration, Instant};

/// Bytes of a line that are kept.
const LINE: usize = 400;
/// Lines let through in each [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// What came of a worker's stderr.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// A line, cut to a bounded length.
    Line(String),
    /// This many lines were left out since the last that was not.
    LeftOut(u64),
}

/// Splits, cuts and rates lines.
#[derive(Debug)]
pub(super) struct Lines {
    line: Vec<u8>,
    window_ends: Instant,
    let_through: u32,
    left_out: u64,
}

impl Lines {
    pub(super) fn new(now: Instant) -> Self {
        Self { line: Vec::new(), window_ends: now + WINDOW, let_through: 0, left_out: 0 }
    }

    /// Takes bytes and gives what is to be logged of them.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant, mut log: impl FnMut(Logged)) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line(now, &mut log);
            }
        }
    }

    /// The stream ended: an unfinished line counts, and so does what was left out.
    pub(super) fn finish(&mut self, now: Instant, mut log: impl FnMut(Logged)) {
        self.end_line(now, &mut log);
        if self.left_out > 0 {
            log(Logged::LeftOut(std::mem::take(&mut self.left_out)));
        }
    }

    fn end_line(&mut self, now: Instant, log: &mut impl FnMut(Logged)) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        if now >= self.window_ends {
            self.window_ends = now + WINDOW;
            self.let_through = 0;
        }
        if self.let_through == LINES {
            self.left_out += 1;
            return;
        }
        self.let_through += 1;
        if self.left_out > 0 {
            log(Logged::LeftOut(std::mem::take(&mut self.left_out)));
        }
        // Terminal control characters come from media (libav prints metadata) and have no business in a log.
        log(Logged::Line(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, bytes: &[u8], now: Instant) -> Vec<Logged> {
        let mut got = Vec::new();
        lines.push(bytes, now, |l| got.push(l));
        got
    }

    fn line(text: &str) -> Logged {
        Logged::Line(text.into())
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        let now = Instant::now();
        let mut lines = Lines::new(now);
        assert_eq!(all(&mut lines, b"one\nt", now), [line("one")]);
        assert_eq!(all(&mut lines, b"wo\n\n\x1b[31m\n", now), [line("two"), line("\u{fffd}[31m")]);
        let endless = [vec![b'x'; 100_000], vec![b'\n']].concat();
        assert_eq!(all(&mut lines, &endless, now), [line(&"x".repeat(LINE))]);
        assert!(lines.line.capacity() < 2 * LINE);
    }

    #[test]
    fn a_flood_is_counted_instead() {
        let now = Instant::now();
        let mut lines = Lines::new(now);
        let got = all(&mut lines, &b"again\n".repeat(100), now);
        assert_eq!(got.len(), LINES as usize);
        let later = now + WINDOW;
        assert_eq!(all(&mut lines, b"later\n", later), [Logged::LeftOut(80), line("later")]);
    }

    #[test]
    fn an_unfinished_last_line_is_not_lost() {
        let now = Instant::now();
        let mut lines = Lines::new(now);
        assert_eq!(all(&mut lines, b"panicked", now), []);
        let mut got = Vec::new();
        lines.finish(now, |l| got.push(l));
        assert_eq!(got, [line("panicked")]);
    }
}
