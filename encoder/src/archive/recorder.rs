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

use super::contents::Contents;
use super::names::ArchivePlace;
use super::page::{ArchivedEpoch, Page, PageEntry};
use bytes::Bytes;
use hls::fmp4::index::{MediaKind, SegmentIndex};
use hls::ledger::Settled;
use hls::{ArchivePlaylist, RungName, Segment, SegmentInfo, SessionId, Track, archive_multivariant};
use lane::RecordingLane;
use media::{MediaSpan, MediaTime, WallTime};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;
use store::{Caching, Object, ObjectName, StoreError, content_type};

/// Playlists are rewritten one second later for each 20,000 bytes of their text: so playlists add a tenth of a
/// broadcast's bytes at most, and far less after hours.
const BYTES_A_SECOND: u64 = 20_000;
/// Most entries of a page, even after a long outage of the store: some megabytes of text.
const MAX_PAGE_ENTRIES: usize = 4_000;

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
    /// `{app}/{name}`
    stream: String,
    place: Option<ArchivePlace>,
    phase: Phase,
    /// Renditions from the next session on.
    tracks: Vec<Track>,
    /// All renditions of the archive so far.
    all_tracks: Vec<Track>,
    recordings: Vec<RungName>,
    session: Option<SessionId>,
    /// End of the archive so far, on its own time axis and by the wall clock.
    end: Option<(MediaTime, WallTime)>,
    /// See [`ArchivedEpoch::shift`].
    shift: MediaSpan,
    /// Sequence numbers of discontinuities after the archive's first segment.
    discontinuities: HashSet<u64>,
    first_sequence: Option<u64>,
    lanes: BTreeMap<RungName, RecordingLane>,
    /// Contents of the next page: settled segments that are in no page yet.
    page: Page,
    /// The page that is being written: the same bytes until the store has it.
    frozen: Option<Bytes>,
    page_number: u64,
    /// The store has the note with the owner's name.
    noted: bool,
    /// An epoch has begun that no page names.
    urgent: bool,
    page_due: Duration,
    playlists_due: Duration,
    /// Playlists still to be written in this round.
    round: VecDeque<RungName>,
    multivariant: Option<String>,
    /// Whether the multivariant playlist may have changed in this round.
    multivariant_due: bool,
    flying: Option<Flying>,
    not_before: Duration,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder for a new archive of the stream `{app}/{name}`. The first segment's session becomes the archive's
    /// name.
    pub(crate) fn new(stream: impl Into<String>, settings: ArchiveSettings) -> Self {
        Self {
            settings,
            stream: stream.into(),
            place: None,
            phase: Phase::Open,
            tracks: Vec::new(),
            all_tracks: Vec::new(),
            recordings: Vec::new(),
            session: None,
            end: None,
            shift: MediaSpan::ZERO,
            discontinuities: HashSet::new(),
            first_sequence: None,
            lanes: BTreeMap::new(),
            page: Page::default(),
            frozen: None,
            page_number: 0,
            noted: false,
            urgent: false,
            page_due: Duration::ZERO,
            playlists_due: Duration::ZERO,
            round: VecDeque::new(),
            multivariant: None,
            multivariant_due: false,
            flying: None,
            not_before: Duration::ZERO,
        }
    }

    /// Continues an archive of another process: `pages` are the stored pages, `rest` the stored segments that no page
    /// names, in order. Pages, playlists, numbers and times continue from there.
    pub(crate) fn resume(
        stream: impl Into<String>,
        settings: ArchiveSettings,
        place: ArchivePlace,
        pages: Contents,
        rest: Vec<PageEntry>,
    ) -> Self {
        let mut recorder = Self::new(stream, settings);
        recorder.settings.target_duration = recorder.settings.target_duration.max(pages.target_duration);
        recorder.page_number = pages.next_page;
        recorder.recordings.clone_from(&pages.recordings);
        recorder.session = pages.epochs.last().map(|epoch| epoch.session.clone());
        recorder.all_tracks = pages.tracks().into_iter().cloned().collect();
        recorder.tracks.clone_from(&recorder.all_tracks);
        recorder.place = Some(place);
        recorder.page.entries.clone_from(&rest);
        let mut all = pages;
        rest.into_iter().for_each(|entry| all.push(entry));
        all.fill_gaps();
        let ends = all
            .lanes
            .values()
            .filter_map(|lane| lane.last())
            .map(|entry| (entry.info.end(), entry.info.wall + entry.info.duration));
        recorder.end = ends.max();
        recorder.first_sequence =
            all.lanes.values().filter_map(|lane| Some(lane.first()?.info.sequence)).min();
        let mut playlists = all.playlists();
        for (rung, entries) in all.lanes {
            let Some(playlist) = playlists.remove(&rung) else { continue };
            let infos = || entries.iter().map(|entry| &entry.info);
            let breaks =
                infos().filter(|info| info.discontinuity && Some(info.sequence) != recorder.first_sequence);
            recorder.discontinuities.extend(breaks.map(|info| info.sequence));
            let last = entries.last().map(|entry| entry.info.clone());
            let lane =
                RecordingLane { waiting: VecDeque::new(), playlist, last, changed: true, written: false };
            recorder.lanes.insert(rung, lane);
        }
        recorder
    }

    /// The archive's place in the store; `None` before the first segment.
    pub(crate) fn place(&self) -> Option<&ArchivePlace> {
        self.place.as_ref()
    }

    /// Whether another encoder was found to continue the archive: nothing is written any more.
    pub(crate) fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// Sets the renditions from the next epoch on.
    pub(crate) fn tracks(&mut self, tracks: &[Track]) {
        self.tracks = tracks.to_vec();
    }

    /// Takes a segment from the packager. Call it before [`Recorder::settled`], which reports the segment's fate.
    pub(crate) fn packaged(&mut self, segment: &Segment) {
        if self.phase != Phase::Open {
            return;
        }
        if self.session.as_ref() != Some(&segment.info().session) {
            self.begin_epoch(segment.info());
        }
        let mut info = segment.info().clone();
        info.start += self.shift;
        self.end = self.end.max(Some((info.end(), info.wall + info.duration)));
        if info.discontinuity && self.first_sequence.is_some_and(|first| info.sequence > first) {
            self.discontinuities.insert(info.sequence);
        }
        let kind = if self.is_audio(&info.rung) { MediaKind::Audio } else { MediaKind::Video };
        let (recorded, shown) = (self.is_recorded(&info.rung), self.is_shown(&info.rung));
        let body = segment.body().filter(|_| recorded || shown);
        // Indexing a segment of our own packager always succeeds. If it failed, the recording would lack the segment.
        let mut index = body.and_then(|body| SegmentIndex::of(body, kind).ok());
        if let Some(index) = &mut index {
            index.shift(self.shift.to_scaled(self.timescale(&segment.info().rung)));
        }
        let picture = index.as_ref().filter(|_| shown).and_then(SegmentIndex::first_sample_end);
        let entry = PageEntry { info, index: index.filter(|_| recorded), picture };
        self.lane(&segment.info().rung).waiting.push_back(entry);
    }

    /// Lists a segment, readable or as a gap. Call it in order within each rendition.
    pub(crate) fn settled(&mut self, settled: &Settled) {
        let Settled { rung, sequence, stored } = settled;
        let Some(lane) = self.lanes.get_mut(rung) else { return };
        while lane.waiting.front().is_some_and(|entry| entry.info.sequence <= *sequence) {
            let Some(entry) = lane.waiting.pop_front() else { return };
            let stored = *stored && entry.info.sequence == *sequence;
            self.page.entries.extend(lane.list(entry, stored, &self.discontinuities));
        }
    }

    /// Ends the broadcast. Segments that are not settled by now count as lost.
    pub(crate) fn end(&mut self) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Ending;
        for lane in self.lanes.values_mut() {
            for entry in std::mem::take(&mut lane.waiting) {
                self.page.entries.extend(lane.list(entry, false, &self.discontinuities));
            }
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
        self.next_note().or_else(|| self.next_page(now)).or_else(|| self.next_playlist(now))
    }

    /// Takes the result of a write.
    pub(crate) fn done(&mut self, result: Result<(), StoreError>, now: Duration) {
        let Some(flying) = self.flying.take() else { return };
        match (flying, result) {
            (Flying::Note, Ok(())) => self.noted = true,
            (Flying::Page, Ok(())) => {
                self.frozen = None;
                self.page_number += 1;
            }
            (Flying::Page, Err(StoreError::Exists)) => self.fenced(),
            (Flying::Playlist(rung), Ok(())) => {
                self.lane(&rung).written = true;
            }
            (Flying::Multivariant(text), Ok(())) => self.multivariant = Some(text),
            (Flying::Playlist(rung), Err(_)) => {
                self.lane(&rung).changed = true;
                self.not_before = now + self.settings.pause;
            }
            (Flying::Multivariant(_), Err(_)) => {
                self.multivariant_due = true;
                self.not_before = now + self.settings.pause;
            }
            (Flying::Note | Flying::Page, Err(_)) => self.not_before = now + self.settings.pause,
        }
    }

    /// When [`Recorder::poll`] may return a write without further input.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        if self.flying.is_some() || self.phase == Phase::Fenced {
            return None;
        }
        let page = (self.frozen.is_some() || self.has_news()).then(|| {
            let at_once = self.urgent || self.frozen.is_some() || self.phase == Phase::Ending;
            if at_once { Duration::ZERO } else { self.page_due }
        });
        let playlists = self.lanes.values().any(|lane| lane.changed) || self.phase == Phase::Open;
        let playlists = (playlists && self.place.is_some()).then_some(self.playlists_due);
        page.into_iter().chain(playlists).min().map(|at| at.max(self.not_before))
    }

    /// Whether the broadcast is over and the store has the whole index, or another encoder continues the archive.
    pub(crate) fn is_finished(&self) -> bool {
        let all = self.phase == Phase::Ending && self.frozen.is_none() && !self.has_news();
        self.flying.is_none() && (all || self.phase == Phase::Fenced)
    }

    // --- consequences ---

    fn lane(&mut self, rung: &RungName) -> &mut RecordingLane {
        let target_duration = self.settings.target_duration;
        self.lanes.entry(rung.clone()).or_insert_with(|| RecordingLane {
            waiting: VecDeque::new(),
            playlist: ArchivePlaylist::new(ArchivePlace::way_to_media(rung), target_duration),
            last: None,
            changed: false,
            written: false,
        })
    }

    fn is_audio(&self, rung: &RungName) -> bool {
        self.tracks.iter().any(|track| track.rung == *rung && track.is_audio())
    }

    fn timescale(&self, rung: &RungName) -> u32 {
        let track = self.tracks.iter().find(|track| track.rung == *rung);
        track.map_or(hls::fmp4::VIDEO_TIMESCALE, Track::timescale)
    }

    /// Audio goes into every recording.
    fn is_recorded(&self, rung: &RungName) -> bool {
        self.recordings.contains(rung) || !self.recordings.is_empty() && self.is_audio(rung)
    }

    /// The I-frame playlist for seek bars is made from the smallest video rendition.
    fn is_shown(&self, rung: &RungName) -> bool {
        let mut videos = self.tracks.iter().rev().filter(|track| !track.is_audio());
        videos.next().is_some_and(|track| track.rung == *rung)
    }

    fn begin_epoch(&mut self, segment: &SegmentInfo) {
        if self.place.is_none() {
            self.place = Some(ArchivePlace::new(self.stream.clone(), segment.session.clone()));
            self.first_sequence = Some(segment.sequence);
        }
        self.session = Some(segment.session.clone());
        // Another process's timestamps start anew, and within one process they continue one second later, however long
        // the publisher was away: the wall clock gives the true distance.
        if let Some((end, wall)) = self.end {
            let away = (segment.wall - wall).max(MediaSpan::ZERO);
            self.shift = end + away - segment.start;
        }
        for track in &self.tracks {
            match self.all_tracks.iter_mut().find(|known| known.rung == track.rung) {
                Some(known) => known.clone_from(track),
                None => self.all_tracks.push(track.clone()),
            }
        }
        self.all_tracks.sort_by_key(Track::is_audio);
        if self.recordings.is_empty() && self.settings.mp4 {
            self.recordings = choose(self.settings.recordings.as_deref(), &self.tracks);
        }
        self.page.epochs.push(ArchivedEpoch {
            session: segment.session.clone(),
            start: segment.start,
            wall: segment.wall,
            shift: self.shift,
            tracks: self.tracks.clone(),
        });
        self.urgent = true;
    }

    fn has_news(&self) -> bool {
        !self.page.entries.is_empty() || !self.page.epochs.is_empty()
    }

    /// The note is written before anything else, so that the search for unfinished archives finds every archive that
    /// has objects.
    fn next_note(&mut self) -> Option<Write> {
        let place = self.place.as_ref().filter(|_| !self.noted)?;
        self.flying = Some(Flying::Note);
        let body = self.settings.owner.clone().into();
        let object = Object { body, content_type: content_type::TEXT, caching: Caching::None };
        Some(Write::Replace(place.note(), object))
    }

    fn next_page(&mut self, now: Duration) -> Option<Write> {
        let place = self.place.as_ref()?;
        if self.frozen.is_none() {
            let due = self.urgent || self.phase == Phase::Ending || now >= self.page_due;
            if !due || !self.has_news() {
                return None;
            }
            self.urgent = false;
            self.page_due = now + self.settings.page_every;
            let rest = self.page.entries.split_off(self.page.entries.len().min(MAX_PAGE_ENTRIES));
            let next = Page { entries: rest, ..Page::default() };
            let page = std::mem::replace(&mut self.page, next);
            let recordings = self.recordings.clone();
            let page = Page { target_duration: self.settings.target_duration, recordings, ..page };
            self.frozen = Some(page.to_json());
        }
        let body = self.frozen.clone()?;
        self.flying = Some(Flying::Page);
        let object = Object { body, content_type: content_type::JSON, caching: Caching::None };
        Some(Write::Create(place.page(self.page_number), object))
    }

    /// Media playlists one after the other, then the multivariant playlist that names them.
    fn next_playlist(&mut self, now: Duration) -> Option<Write> {
        let place = self.place.as_ref().filter(|_| self.phase == Phase::Open)?;
        if self.round.is_empty() && now >= self.playlists_due {
            self.round =
                self.lanes.iter().filter(|(_, lane)| lane.changed).map(|(rung, _)| rung.clone()).collect();
            self.playlists_due = now + self.settings.playlists_every;
            self.multivariant_due |= !self.round.is_empty();
        }
        while let Some(rung) = self.round.pop_front() {
            let Some(lane) = self.lanes.get_mut(&rung) else { continue };
            let Some(text) = lane.playlist.render(false).filter(|_| lane.changed) else { continue };
            lane.changed = false;
            self.playlists_due += Duration::from_secs(text.len() as u64 / BYTES_A_SECOND);
            let name = place.playlist(&rung);
            self.flying = Some(Flying::Playlist(rung));
            return Some(Write::Replace(name, playlist(text)));
        }
        // The multivariant playlist names no rendition whose playlist the store lacks.
        let ready = |lane: &RecordingLane| lane.written || lane.playlist.next_sequence().is_none();
        if !self.multivariant_due || !self.lanes.values().all(ready) {
            return None;
        }
        self.multivariant_due = false;
        let tracks = self.all_tracks.iter();
        let listed: Vec<_> =
            tracks.filter_map(|track| Some((track, &self.lanes.get(&track.rung)?.playlist))).collect();
        let text = archive_multivariant(&listed, None)?;
        if self.multivariant.as_ref() == Some(&text) {
            return None;
        }
        self.flying = Some(Flying::Multivariant(text.clone()));
        Some(Write::Replace(place.multivariant(), playlist(text)))
    }
}

pub(super) fn playlist(text: String) -> Object {
    Object { body: text.into(), content_type: content_type::PLAYLIST, caching: Caching::None }
}

/// The rungs to record: of the requested rungs those that exist; without a request the first rung, which is the
/// largest.
fn choose(asked: Option<&[RungName]>, tracks: &[Track]) -> Vec<RungName> {
    let there = |rung: &&RungName| tracks.iter().any(|track| track.rung == **rung);
    match asked {
        Some(asked) => asked.iter().filter(there).cloned().collect(),
        None => tracks.first().map(|track| track.rung.clone()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
