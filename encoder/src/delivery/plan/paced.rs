//! State of one rewritten object: when it may be written again, and whether the store holds this encoder's own text.
//! The text is rendered elsewhere, just before the write.
//!
//! Every write names the version that it expects to replace. So an old text never overwrites a newer one, however late
//! its request arrives, and of two encoders that write one playlist, one finds out. The expected version is learnt by
//! reading: before the first write, and whenever the store reports another version. A read returns either one of this
//! encoder's own writes, whose answer was lost, or another encoder's write.

use std::collections::VecDeque;
use std::time::Duration;
use store::{Expected, Stored, Version};

/// Most unanswered writes that are remembered. At one write a second and time-outs of some seconds, no older write is
/// in flight.
const MAX_DOUBTFUL: usize = 256;

/// A playlist's writes: one at a time, spaced, always with the newest text.
#[derive(Debug, Default)]
pub(super) struct PlaylistWriter {
    /// The text may have changed since the last rendering.
    marked: bool,
    doing: Doing,
    /// The text that the store acknowledged last.
    written: Option<String>,
    /// Version that the next write expects to replace; `None` has to be read first.
    expected: Option<Expected>,
    /// Texts, by length and checksum, of unanswered writes since `expected` was learnt.
    doubtful: VecDeque<(usize, u32)>,
    /// Failed attempts since the last successful one.
    failures: u32,
    /// When the text was rendered that the store is known to have.
    current_at: Option<Duration>,
    last_start: Option<Duration>,
    not_before: Duration,
}

#[derive(Debug, Default)]
enum Doing {
    #[default]
    Nothing,
    Reading,
    Writing(String),
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadBack {
    /// The stored text is no obstacle to writing.
    Ours,
    /// Another encoder writes this playlist.
    Foreign,
}

fn print(text: &[u8]) -> (usize, u32) {
    (text.len(), crc32c::crc32c(text))
}

impl PlaylistWriter {
    /// A playlist that was taken over: the store has this text of another writer with this encoder's added comment,
    /// written just now in a known version. The same text without the comment counts as unchanged and must not be
    /// written: its first writer would take it for its own write.
    pub(super) fn inherited(text: String, version: Version, interval: Duration) -> Self {
        let expected = Some(Expected::Version(version));
        Self { written: Some(text), expected, not_before: interval, ..Self::default() }
    }

    /// The text may have changed.
    pub(super) fn mark(&mut self) {
        self.marked = true;
    }

    /// Earliest time for the next write, or for the read before it; `None` if neither is needed.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.marked && self.is_idle()).then_some(self.not_before)
    }

    /// Version that the next write expects to replace; `None` has to be read first.
    pub(super) fn expected(&self) -> Option<Expected> {
        self.expected
    }

    /// Whether the text differs from what the store has.
    pub(super) fn is_news(&self, text: &str) -> bool {
        self.written.as_deref() != Some(text)
    }

    pub(super) fn nothing_new(&mut self, now: Duration) {
        self.marked = false;
        self.current_at = Some(now);
    }

    /// When the text was rendered that the store is known to have.
    pub(super) fn current_at(&self) -> Option<Duration> {
        self.current_at
    }

    pub(super) fn start_reading(&mut self) {
        self.doing = Doing::Reading;
    }

    pub(super) fn start(&mut self, text: String, now: Duration) {
        self.marked = false;
        self.doing = Doing::Writing(text);
        self.last_start = Some(now);
    }

    /// Takes the result of a read.
    pub(super) fn read(&mut self, stored: Option<Stored>, interval: Duration) -> ReadBack {
        self.doing = Doing::Nothing;
        self.failures = 0;
        self.space(interval);
        // Before this encoder's first acknowledged write, a stored text is another writer's, to be replaced.
        let first = self.written.is_none();
        match stored {
            // The object was deleted from outside: write it again.
            None => self.expected = Some(Expected::Absent),
            Some(stored) => {
                let text = print(&stored.body);
                let ours = self.doubtful.contains(&text)
                    || self.written.as_ref().is_some_and(|written| print(written.as_bytes()) == text);
                if !first && !ours {
                    return ReadBack::Foreign;
                }
                self.expected = Some(Expected::Version(stored.version));
            }
        }
        self.doubtful.clear();
        ReadBack::Ours
    }

    /// The store acknowledged the write; true the first time.
    pub(super) fn acknowledged(&mut self, version: Version, interval: Duration) -> bool {
        let first = self.written.is_none();
        if let Doing::Writing(text) = std::mem::take(&mut self.doing) {
            self.written = Some(text);
        }
        self.expected = Some(Expected::Version(version));
        // Unanswered writes that are still in flight expect a version that is gone.
        self.doubtful.clear();
        self.failures = 0;
        self.current_at = self.last_start;
        self.space(interval);
        first
    }

    /// A write failed: the store may or may not have the text. The old text is never sent again; the next attempt
    /// renders anew.
    pub(super) fn failed(&mut self, again: Duration, interval: Duration) {
        if let Doing::Writing(text) = std::mem::take(&mut self.doing) {
            self.doubtful.push_back(print(text.as_bytes()));
            if self.doubtful.len() > MAX_DOUBTFUL {
                self.doubtful.pop_front();
            }
        }
        self.marked = true;
        self.failures += 1;
        self.space(interval);
        self.not_before = self.not_before.max(again);
    }

    /// The store has another version than expected: that version must be read now.
    pub(super) fn changed(&mut self, now: Duration) {
        self.doing = Doing::Nothing;
        self.marked = true;
        self.expected = None;
        self.not_before = now;
    }

    /// Failed attempts since the last successful one.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.written.is_some()
    }

    /// Whether the store has the newest text, or there was never any text.
    pub(super) fn is_sealed(&self) -> bool {
        !self.marked && self.is_idle()
    }

    fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Nothing)
    }

    fn space(&mut self, interval: Duration) {
        self.not_before = self.last_start.map_or(Duration::ZERO, |start| start + interval);
    }
}
