//! One rewritten object: when it may be written again, and whether what the store holds is ours. What it says is
//! rendered elsewhere, at the last moment.
//!
//! Every write names the version that it expects to replace. So an old text never lands on a newer one, however late its
//! request arrives, and of two encoders that write one playlist one finds out. The version to expect is learnt by
//! reading: before the first write, and whenever the store says that it is another one. Then what is there is either one
//! of our own writes, whose answer was lost, or somebody else's.

use crate::store::{Expected, Stored, Version};
use std::collections::VecDeque;
use std::time::Duration;

/// Writes without an answer that are remembered. At one a second and attempts of some seconds none older is under way.
const MAX_DOUBTFUL: usize = 256;

/// A playlist's writes: one at a time, spaced, the newest text.
#[derive(Debug, Default)]
pub(super) struct Paced {
    /// Something may have changed since the last rendering.
    marked: bool,
    doing: Doing,
    /// What the store acknowledged last.
    written: Option<String>,
    /// What the next write expects; `None` has to be read first.
    expected: Option<Expected>,
    /// Texts, by length and checksum, that may have been written since `expected` was known.
    doubtful: VecDeque<(usize, u32)>,
    /// Attempts that failed since the last that did not.
    failures: u32,
    /// When the text was rendered that the store is known to have.
    current_at: Option<Duration>,
    last_start: Option<Duration>,
    not_before: Duration,
    abandoned: bool,
}

#[derive(Debug, Default)]
enum Doing {
    #[default]
    Nothing,
    Reading,
    Writing(String),
}

/// What a read showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that keeps us from writing.
    Ours,
    /// Somebody else writes this playlist.
    Foreign,
}

fn print(text: &[u8]) -> (usize, u32) {
    (text.len(), crc32c::crc32c(text))
}

impl Paced {
    /// The store has this text of another writer with a comment of ours, written just now, and we know its version. The
    /// very same text without the comment is no news and must not be written: its first writer would take it for its own.
    pub(super) fn inherited(text: String, version: Version, interval: Duration) -> Self {
        let expected = Some(Expected::Version(version));
        Self { written: Some(text), expected, not_before: interval, ..Self::default() }
    }

    /// Something may have changed.
    pub(super) fn mark(&mut self) {
        self.marked = true;
    }

    /// When it may be written or, before that, read, if there is reason to.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.marked && self.is_idle() && !self.abandoned).then_some(self.not_before)
    }

    /// What the next write has to expect; `None` is to be read first.
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

    /// What the store holds.
    pub(super) fn read(&mut self, stored: Option<Stored>, interval: Duration) -> Found {
        self.doing = Doing::Nothing;
        self.failures = 0;
        self.space(interval);
        // Until a first write has gone through, what is there is somebody's who is to be replaced.
        let first = self.written.is_none();
        match stored {
            // Somebody tidied up: what we say is as true as before.
            None => self.expected = Some(Expected::Absent),
            Some(stored) => {
                let text = print(&stored.body);
                let ours = self.doubtful.contains(&text)
                    || self.written.as_ref().is_some_and(|written| print(written.as_bytes()) == text);
                if !first && !ours {
                    return Found::Foreign;
                }
                self.expected = Some(Expected::Version(stored.version));
            }
        }
        self.doubtful.clear();
        Found::Ours
    }

    /// The store has it; true the first time.
    pub(super) fn acknowledged(&mut self, version: Version, interval: Duration) -> bool {
        let first = self.written.is_none();
        if let Doing::Writing(text) = std::mem::take(&mut self.doing) {
            self.written = Some(text);
        }
        self.expected = Some(Expected::Version(version));
        // Those that are still on their way expect a version that is gone.
        self.doubtful.clear();
        self.failures = 0;
        self.current_at = self.last_start;
        self.space(interval);
        first
    }

    /// The store may or may not have it. Never the old text again: the next attempt renders anew.
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

    /// The store has another version than expected: what it has must be read, now.
    pub(super) fn changed(&mut self, now: Duration) {
        self.doing = Doing::Nothing;
        self.marked = true;
        self.expected = None;
        self.not_before = now;
    }

    /// Attempts that failed since the last that did not.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Nothing more is written.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    pub(super) fn is_clean(&self) -> bool {
        self.abandoned || self.is_sealed()
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.written.is_some()
    }

    /// Whether the store has the newest text, or there never was any.
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
