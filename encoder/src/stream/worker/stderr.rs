//! A worker's stderr as log lines of bounded length and rate. Bytes and time go in, lines come out; reading the pipe
//! and logging are in [`super::child`].

use std::time::{Duration, Instant};

/// Maximum bytes of a line; the rest is cut off.
const LINE: usize = 400;
/// Maximum lines logged per [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// One item to log from a worker's stderr.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StderrLine {
    /// A line, cut after its first [`LINE`] bytes.
    Line(String),
    /// This many lines were left out since the last logged line.
    LeftOut(u64),
}

/// Splits stderr into lines, cuts them and limits their rate.
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

    /// Takes bytes and calls `log` for each line that they complete.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant, mut log: impl FnMut(StderrLine)) {
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

    /// The stream ended: logs an unfinished last line, and the number of lines left out.
    pub(super) fn finish(&mut self, now: Instant, mut log: impl FnMut(StderrLine)) {
        self.end_line(now, &mut log);
        if self.left_out > 0 {
            log(StderrLine::LeftOut(std::mem::take(&mut self.left_out)));
        }
    }

    fn end_line(&mut self, now: Instant, log: &mut impl FnMut(StderrLine)) {
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
            log(StderrLine::LeftOut(std::mem::take(&mut self.left_out)));
        }
        // libav prints metadata of the media, which may contain terminal control characters: keep them out of the log.
        log(StderrLine::Line(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, bytes: &[u8], now: Instant) -> Vec<StderrLine> {
        let mut got = Vec::new();
        lines.push(bytes, now, |l| got.push(l));
        got
    }

    fn line(text: &str) -> StderrLine {
        StderrLine::Line(text.into())
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
        assert_eq!(all(&mut lines, b"later\n", later), [StderrLine::LeftOut(80), line("later")]);
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
