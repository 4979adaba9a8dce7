//! One rewritten object: when it may be written again. What it says is rendered elsewhere, at the last moment.

use std::time::Duration;

/// A playlist's writes: one at a time, spaced, the newest text.
#[derive(Debug, Default)]
pub(super) struct Paced {
    /// Something may have changed since the last rendering.
    marked: bool,
    /// What is being written.
    writing: Option<String>,
    /// What the store acknowledged last.
    written: Option<String>,
    last_start: Option<Duration>,
    not_before: Duration,
    abandoned: bool,
}

impl Paced {
    /// Something may have changed.
    pub(super) fn mark(&mut self) {
        self.marked = true;
    }

    /// When it may be written, if there is reason to.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.marked && self.writing.is_none() && !self.abandoned).then_some(self.not_before)
    }

    /// Whether the text differs from what the store has.
    pub(super) fn is_news(&self, text: &str) -> bool {
        self.written.as_deref() != Some(text)
    }

    pub(super) fn nothing_new(&mut self) {
        self.marked = false;
    }

    pub(super) fn start(&mut self, text: String, now: Duration) {
        self.marked = false;
        self.writing = Some(text);
        self.last_start = Some(now);
    }

    /// The store has it; true the first time.
    pub(super) fn acknowledged(&mut self, interval: Duration) -> bool {
        let first = self.written.is_none();
        self.written = self.writing.take();
        self.space(interval);
        first
    }

    /// The store may or may not have it. Never the old text again: the next attempt renders anew.
    pub(super) fn failed(&mut self, again: Duration, interval: Duration) {
        self.writing = None;
        self.marked = true;
        self.space(interval);
        self.not_before = self.not_before.max(again);
    }

    /// Nothing more is written.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    pub(super) fn is_clean(&self) -> bool {
        self.abandoned || (!self.marked && self.writing.is_none())
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.written.is_some()
    }

    /// Whether the store has the newest text, or there never was any.
    pub(super) fn is_sealed(&self) -> bool {
        !self.marked && self.writing.is_none()
    }

    fn space(&mut self, interval: Duration) {
        self.not_before = self.last_start.map_or(Duration::ZERO, |start| start + interval);
    }
}
