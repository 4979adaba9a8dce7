//! Decides what is written of an archive while its broadcast runs: the sans-IO core. Segments from the packager and
//! their outcomes go in, objects to be written come out, one at a time. Time is a span since any fixed start.
//!
//! - **Order.** The archive cursor of the delivery's [`hls::ledger`] gives it: each rendition's segments are listed
//!   in order once their final fate is known, stored, however late, or lost. So the archive lags the live
//!   playlists while a store is slow, and lists late segments that the live playlists lack.
//! - **Pages** of the index ([`super::page`]) are created, never rewritten: an encoder that finds another encoder's
//!   page under its next number is not the only writer and stops. A page is written every
//!   [`ArchiveSettings::page_every`], and when an epoch begins.
//! - **Times.** Each epoch begins as long after the previous one's end as the wall clock says; the epoch's own
//!   timestamps do not matter.
//! - **EVENT playlists** are rewritten every [`ArchiveSettings::playlists_every`], and less often as they grow.
//! - **Resuming.** All state except the last minute is in the store: [`Recorder::resume`] continues, also in another
//!   process, from what [`super::load`] found there: pages and the segments after them.
//!
//! Bounds: the uploader bounds the number of waiting segments; playlists' text grows by some sixty bytes a segment and
//! rendition.

mod lane;
mod pages;
mod playlists;
mod renditions;
mod timeline;

use super::contents::Contents;
use super::names::ArchivePlace;
use super::page::{ArchivedEpoch, PageEntry};
use hls::fmp4::index::{MediaKind, SegmentIndex};
use hls::ledger::Settled;
use hls::{RungName, Segment, SegmentInfo, Track};
use pages::IndexPages;
use playlists::{EventPlaylist, EventPlaylists};
use renditions::ArchiveRenditions;
use std::time::Duration;
use store::{Caching, Object, ObjectName, StoreError, content_type};
use timeline::ArchiveTimeline;

/// What an archive keeps, and how often it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchiveSettings {
    /// Rungs that get an MP4; rungs that the stream does not have are left out. `None` selects the top rung.
    pub recordings: Option<Vec<RungName>>,
    /// Whether any MP4 is made.
    pub mp4: bool,
    /// The owner, in the form of `archive::owner`: a process that starts under this name after a crash completes the
    /// archive.
    pub owner: String,
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: u32,
    /// Interval between two pages of the index.
    pub page_every: Duration,
    /// Interval between two versions of a playlist while the playlist is short.
    pub playlists_every: Duration,
    /// Pause after a failed write.
    pub pause: Duration,
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self {
            recordings: None,
            mp4: true,
            owner: String::new(),
            target_duration: 1,
            page_every: Duration::from_secs(60),
            playlists_every: Duration::from_secs(15),
            pause: Duration::from_secs(1),
        }
    }
}

/// An object to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// [`store::Store::create`]
    Create(ObjectName, Object),
    /// [`store::Store::replace`]
    Replace(ObjectName, Object),
}

/// State of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The broadcast is over: what is known is still written.
    Ending,
    /// Another encoder continues the archive.
    Fenced,
}

/// Where the archive is in the store.
#[derive(Debug)]
enum Site {
    /// Nowhere: there is no segment yet. The stream is `{app}/{name}`.
    Unnamed { stream: String },
    Named {
        place: ArchivePlace,
        /// The store has the note with the owner's name.
        noted: bool,
    },
}

/// The write in flight.
#[derive(Clone, Debug, PartialEq)]
enum Flying {
    Note,
    Page,
    Playlist(RungName),
    Multivariant(String),
}

/// Decides what is written of one archive. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Recorder {
    settings: ArchiveSettings,
    phase: Phase,
    site: Site,
    renditions: ArchiveRenditions,
    timeline: ArchiveTimeline,
    pages: IndexPages,
    playlists: EventPlaylists,
    flying: Option<Flying>,
    /// Earliest time for the next write.
    not_before: Duration,
}

// === impl Site ===

impl Site {
    fn place(&self) -> Option<&ArchivePlace> {
        match self {
            Self::Unnamed { .. } => None,
            Self::Named { place, .. } => Some(place),
        }
    }

    /// The first segment's session becomes the archive's name. False if the archive has a name already.
    fn name(&mut self, segment: &SegmentInfo) -> bool {
        match self {
            Self::Named { .. } => false,
            Self::Unnamed { stream } => {
                let place = ArchivePlace::new(std::mem::take(stream), segment.session.clone());
                *self = Self::Named { place, noted: false };
                true
            }
        }
    }

    fn set_noted(&mut self) {
        if let Self::Named { noted, .. } = self {
            *noted = true;
        }
    }
}

// === impl Recorder ===

impl Recorder {
    /// A recorder for a new archive of the stream `{app}/{name}`. The first segment's session becomes the archive's
    /// name.
    pub(crate) fn new(stream: impl Into<String>, settings: ArchiveSettings) -> Self {
        Self {
            phase: Phase::Open,
            site: Site::Unnamed { stream: stream.into() },
            renditions: ArchiveRenditions::default(),
            timeline: ArchiveTimeline::default(),
            pages: IndexPages::default(),
            playlists: EventPlaylists::new(settings.target_duration, settings.playlists_every),
            flying: None,
            not_before: Duration::ZERO,
            settings,
        }
    }

    /// Continues an archive of another process: `pages` are the stored pages, `rest` the stored segments that no page
    /// names, in order. Pages, playlists, numbers and times continue from there.
    pub(crate) fn resume(
        mut settings: ArchiveSettings,
        place: ArchivePlace,
        pages: Contents,
        rest: Vec<PageEntry>,
    ) -> Self {
        settings.target_duration = settings.target_duration.max(pages.target_duration);
        let tracks = pages.tracks().into_iter().cloned().collect();
        let renditions = ArchiveRenditions::resume(tracks, pages.recordings.clone());
        let index = IndexPages::resume(pages.next_page, rest.clone());
        let mut all = pages;
        rest.into_iter().for_each(|entry| all.push(entry));
        all.fill_gaps();
        let timeline = ArchiveTimeline::resume(&all);
        Self {
            phase: Phase::Open,
            site: Site::Named { place, noted: false },
            renditions,
            timeline,
            pages: index,
            playlists: EventPlaylists::resume(all, settings.target_duration, settings.playlists_every),
            flying: None,
            not_before: Duration::ZERO,
            settings,
        }
    }

    /// The archive's place in the store; `None` before the first segment.
    pub(crate) fn place(&self) -> Option<&ArchivePlace> {
        self.site.place()
    }

    /// Whether another encoder was found to continue the archive: nothing is written any more.
    pub(crate) fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// Sets the renditions from the next epoch on.
    pub(crate) fn tracks(&mut self, tracks: &[Track]) {
        self.renditions.set_current(tracks);
    }

    /// Takes a segment from the packager. Call it before [`Recorder::settled`], which reports the segment's fate.
    pub(crate) fn packaged(&mut self, segment: &Segment) {
        if self.phase != Phase::Open {
            return;
        }
        if self.timeline.is_new_epoch(segment.info()) {
            self.begin_epoch(segment.info());
        }
        let info = self.timeline.add(segment.info());
        let (recorded, shown) =
            (self.renditions.is_recorded(&info.rung), self.renditions.is_shown(&info.rung));
        let kind = if self.renditions.is_audio(&info.rung) { MediaKind::Audio } else { MediaKind::Video };
        let body = segment.body().filter(|_| recorded || shown);
        // Indexing a segment of our own packager always succeeds. If it failed, the recording would lack the segment.
        let mut index = body.and_then(|body| SegmentIndex::of(body, kind).ok());
        if let Some(index) = &mut index {
            index.shift(self.timeline.shift().to_scaled(self.renditions.timescale(&info.rung)));
        }
        let picture = index.as_ref().filter(|_| shown).and_then(SegmentIndex::first_sample_end);
        self.playlists.add(PageEntry { info, index: index.filter(|_| recorded), picture });
    }

    fn begin_epoch(&mut self, segment: &SegmentInfo) {
        if self.site.name(segment) {
            self.timeline.begin(segment);
        }
        self.timeline.begin_epoch(segment);
        self.renditions.begin_epoch(&self.settings);
        self.pages.add_epoch(ArchivedEpoch {
            session: segment.session.clone(),
            start: segment.start,
            wall: segment.wall,
            shift: self.timeline.shift(),
            tracks: self.renditions.current().to_vec(),
        });
    }

    /// Lists a segment, readable or as a gap. Call it in order within each rendition.
    pub(crate) fn settled(&mut self, settled: &Settled) {
        self.pages.add(self.playlists.settled(settled, self.timeline.discontinuities()));
    }

    /// Ends the broadcast. Segments that are not settled by now count as lost.
    pub(crate) fn end(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Ending;
            self.pages.add(self.playlists.end(self.timeline.discontinuities()));
        }
    }

    /// Another encoder continues the stream.
    pub(crate) fn fenced(&mut self) {
        self.phase = Phase::Fenced;
    }

    /// Whether [`Recorder::end`] was called.
    pub(crate) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// The next write, if one is due. Returns nothing more until [`Recorder::done`] reports that write's result.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<Write> {
        if self.flying.is_some() || self.phase == Phase::Fenced || now < self.not_before {
            return None;
        }
        let (flying, write) =
            self.next_note().or_else(|| self.next_page(now)).or_else(|| self.next_playlist(now))?;
        self.flying = Some(flying);
        Some(write)
    }

    /// Takes the result of a write.
    pub(crate) fn done(&mut self, result: Result<(), StoreError>, now: Duration) {
        let Some(flying) = self.flying.take() else { return };
        match (flying, result) {
            (Flying::Note, Ok(())) => self.site.set_noted(),
            (Flying::Page, Ok(())) => self.pages.stored(),
            (Flying::Playlist(rung), Ok(())) => self.playlists.media_stored(&rung),
            (Flying::Multivariant(text), Ok(())) => self.playlists.multivariant_stored(text),
            (Flying::Page, Err(StoreError::Exists)) => self.fenced(),
            (flying, Err(_)) => {
                match flying {
                    Flying::Note | Flying::Page => {}
                    Flying::Playlist(rung) => self.playlists.media_failed(&rung),
                    Flying::Multivariant(_) => self.playlists.multivariant_failed(),
                }
                self.not_before = now + self.settings.pause;
            }
        }
    }

    /// When [`Recorder::poll`] may return a write without further input.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        if self.flying.is_some() || self.phase == Phase::Fenced {
            return None;
        }
        let playlists = self.playlists.is_changed() || self.phase == Phase::Open;
        let playlists = (playlists && self.place().is_some()).then_some(self.playlists.due());
        let page = self.pages.wake_at(self.is_ending());
        page.into_iter().chain(playlists).min().map(|at| at.max(self.not_before))
    }

    /// Whether the broadcast is over and the store has the whole index, or another encoder continues the archive.
    pub(crate) fn is_finished(&self) -> bool {
        let all = self.phase == Phase::Ending && self.pages.is_stored();
        self.flying.is_none() && (all || self.phase == Phase::Fenced)
    }

    // --- writes ---

    /// The note is written before anything else, so that the search for unfinished archives finds every archive that
    /// has objects.
    fn next_note(&self) -> Option<(Flying, Write)> {
        match &self.site {
            Site::Unnamed { .. } | Site::Named { noted: true, .. } => None,
            Site::Named { place, noted: false } => {
                let body = self.settings.owner.clone().into();
                let object = Object { body, content_type: content_type::TEXT, caching: Caching::None };
                Some((Flying::Note, Write::Replace(place.note(), object)))
            }
        }
    }

    fn next_page(&mut self, now: Duration) -> Option<(Flying, Write)> {
        let place = self.site.place()?;
        let is_ending = self.phase == Phase::Ending;
        let (number, body) = self.pages.start(&self.settings, &self.renditions, is_ending, now)?;
        let object = Object { body, content_type: content_type::JSON, caching: Caching::None };
        Some((Flying::Page, Write::Create(place.page(number), object)))
    }

    fn next_playlist(&mut self, now: Duration) -> Option<(Flying, Write)> {
        let place = self.site.place().filter(|_| self.phase == Phase::Open)?;
        Some(match self.playlists.start(self.renditions.all(), now)? {
            EventPlaylist::Media(rung, text) => {
                let name = place.playlist(&rung);
                (Flying::Playlist(rung), Write::Replace(name, playlist(text)))
            }
            EventPlaylist::Multivariant(text) => {
                (Flying::Multivariant(text.clone()), Write::Replace(place.multivariant(), playlist(text)))
            }
        })
    }
}

pub(super) fn playlist(text: String) -> Object {
    Object { body: text.into(), content_type: content_type::PLAYLIST, caching: Caching::None }
}

#[cfg(test)]
mod tests;
