//! When a page of the index is written, and what is in it.

use super::super::page::{ArchivedEpoch, Page, PageEntry};
use super::ArchiveSettings;
use super::renditions::ArchiveRenditions;
use bytes::Bytes;
use std::time::Duration;

/// Most entries of a page, even after a long outage of the store: some megabytes of text.
const MAX_PAGE_ENTRIES: usize = 4_000;

/// The pages of an archive's index: the one that is being filled, and the one that is being written.
#[derive(Debug, Default)]
pub(super) struct IndexPages {
    /// Contents of the next page: settled segments that are in no page yet.
    next: Page,
    /// The page that is being written: the same bytes until the store has it.
    frozen: Option<Bytes>,
    /// Number of the page that is being written, or else of the next one.
    number: u64,
    /// An epoch has begun that no page names.
    is_urgent: bool,
    due: Duration,
}

impl IndexPages {
    /// Continues an index: `number` is the next page's, `entries` are stored segments that no page names.
    pub(super) fn resume(number: u64, entries: Vec<PageEntry>) -> Self {
        Self { next: Page { entries, ..Page::default() }, number, ..Self::default() }
    }

    /// An epoch begins: its page is due immediately.
    pub(super) fn add_epoch(&mut self, epoch: ArchivedEpoch) {
        self.next.epochs.push(epoch);
        self.is_urgent = true;
    }

    /// Adds settled segments.
    pub(super) fn add(&mut self, entries: impl IntoIterator<Item = PageEntry>) {
        self.next.entries.extend(entries);
    }

    /// Whether the store has everything.
    pub(super) fn is_stored(&self) -> bool {
        self.frozen.is_none() && !self.has_news()
    }

    fn has_news(&self) -> bool {
        !self.next.entries.is_empty() || !self.next.epochs.is_empty()
    }

    /// The page to write now, if one is due, with its number. At the broadcast's end (`is_ending`) every page is due.
    pub(super) fn start(
        &mut self,
        settings: &ArchiveSettings,
        renditions: &ArchiveRenditions,
        is_ending: bool,
        now: Duration,
    ) -> Option<(u64, Bytes)> {
        if self.frozen.is_none() {
            let due = self.is_urgent || is_ending || now >= self.due;
            if !due || !self.has_news() {
                return None;
            }
            self.is_urgent = false;
            self.due = now + settings.page_every;
            let rest = self.next.entries.split_off(self.next.entries.len().min(MAX_PAGE_ENTRIES));
            let next = Page { entries: rest, ..Page::default() };
            let page = std::mem::replace(&mut self.next, next);
            let recordings = renditions.recordings().to_vec();
            let captions = renditions.captions();
            let page = Page { target_duration: settings.target_duration, recordings, captions, ..page };
            self.frozen = Some(page.to_json());
        }
        Some((self.number, self.frozen.clone()?))
    }

    /// The store has the page of [`IndexPages::start`].
    pub(super) fn stored(&mut self) {
        self.frozen = None;
        self.number += 1;
    }

    /// When [`IndexPages::start`] may return a page without further input.
    pub(super) fn wake_at(&self, is_ending: bool) -> Option<Duration> {
        let at_once = self.is_urgent || self.frozen.is_some() || is_ending;
        (!self.is_stored()).then_some(if at_once { Duration::ZERO } else { self.due })
    }
}
