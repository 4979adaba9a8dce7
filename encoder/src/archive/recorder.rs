//! What is written of an archive while its broadcast goes on: the sans-IO core. What the packager made and what became
//! of it goes in, objects to be written come out, one at a time. Time is a span since any fixed start.
//!
//! - **Order.** Each rendition's segments are listed in the order of their numbers once their fate is known: stored,
//!   however late, or lost. So the archive is behind the live playlists while a store is slow, and has what they lack.
//! - **Pages** of the index ([`super::page`]) are created, never rewritten: whoever finds somebody else's page under the
//!   next number is not alone and stops. A page comes every [`Settings::page_every`], and when an epoch begins.
//! - **Times.** Each epoch begins as much behind the one before as the wall clock says, whatever its own times are.
//! - **EVENT playlists** are rewritten now and then: every [`Settings::playlists_every`], and more seldom as they grow.
//! - **Resuming.** All state is in the store but for the last minute: [`Recorder::resume`] goes on from what
//!   [`super::load`] found there, pages and the segments behind them, in another process as well.
//!
//! Bounds: what waits is bounded by whoever uploads; playlists' text grows by some sixty bytes a segment and rendition.

mod lane;

use super::contents::Contents;
use super::names::Place;
use super::page::{Entry, Epoch, Page};
use crate::store::{Caching, Object, ObjectName, StoreError, content_type};
use bytes::Bytes;
use hls::fmp4::index::{MediaKind, SegmentIndex};
use hls::packager::Segment;
use hls::{
    ArchivePlaylist, MediaSpan, MediaTime, RungName, SegmentInfo, SessionId, Track, WallTime,
    archive_multivariant,
};
use lane::{Lane, Waiting};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// Playlists are rewritten a second later for each so many bytes of them: a tenth of a broadcast's bytes is the most
/// that this can come to, and after hours it is far less.
const BYTES_A_SECOND: u64 = 20_000;
/// Entries of a page at most, however long the store was away: some megabytes of text.
const MAX_PAGE_ENTRIES: usize = 4_000;

/// What is kept, and how often it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rungs of which there is to be an MP4; those that the stream does not have are left out. `None` is the top one.
    pub recordings: Option<Vec<RungName>>,
    /// Whether there is to be any MP4.
    pub mp4: bool,
    /// Who writes it, as [`super::owner`] has it: whoever starts under that name after a crash completes it.
    pub owner: String,
    /// EXT-X-TARGETDURATION.
    pub target_duration: u32,
    /// Between two pages of the index.
    pub page_every: Duration,
    /// Between two versions of a playlist, at first.
    pub playlists_every: Duration,
    /// After a failed write.
    pub pause: Duration,
}

impl Default for Settings {
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
pub enum Write {
    /// [`crate::store::Store::create`]
    Create(ObjectName, Object),
    /// [`crate::store::Store::replace`]
    Replace(ObjectName, Object),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing follows: what is known gets written.
    Ending,
    /// Another encoder goes on with it.
    Fenced,
}

/// What is being written.
#[derive(Clone, Debug, PartialEq)]
enum Flying {
    Note,
    Page,
    Playlist(RungName),
    Multivariant(String),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Recorder {
    settings: Settings,
    /// `{app}/{name}`
    stream: String,
    place: Option<Place>,
    phase: Phase,
    /// Renditions from the next session on.
    tracks: Vec<Track>,
    /// All that there ever were.
    all_tracks: Vec<Track>,
    recordings: Vec<RungName>,
    session: Option<SessionId>,
    /// Where it has come to, on its own axis and by the wall clock.
    end: Option<(MediaTime, WallTime)>,
    /// See [`Epoch::shift`].
    shift: MediaSpan,
    /// Discontinuities behind the archive's first segment.
    discontinuities: HashSet<u64>,
    first_sequence: Option<u64>,
    lanes: BTreeMap<RungName, Lane>,
    /// Settled and in no page.
    page: Page,
    /// A page that is being written: the same bytes until the store has them.
    frozen: Option<Bytes>,
    page_number: u64,
    /// The store knows whose it is.
    noted: bool,
    /// An epoch has begun that no page names.
    urgent: bool,
    page_due: Duration,
    playlists_due: Duration,
    /// Playlists to be written in this round.
    round: VecDeque<RungName>,
    multivariant: Option<String>,
    /// Whether the multivariant playlist may have changed in this round.
    multivariant_due: bool,
    flying: Option<Flying>,
    not_before: Duration,
}

// === impl Recorder ===

impl Recorder {
    /// An archive of the stream `{app}/{name}`. It has its name from the first segment's session.
    pub fn new(stream: impl Into<String>, settings: Settings) -> Self {
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

    /// Goes on with an archive of another process: `pages` are those that are stored, `rest` the segments that are
    /// stored and in no page, in order. Pages, playlists, numbers and times go on where they were.
    pub fn resume(
        stream: impl Into<String>,
        settings: Settings,
        place: Place,
        pages: Contents,
        rest: Vec<Entry>,
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
            .map(|entry| (entry.info.start + entry.info.duration, entry.info.wall + entry.info.duration));
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
            let inits = infos().map(|info| info.init.clone()).collect();
            let last = entries.last().map(|entry| entry.info.clone());
            let lane =
                Lane { waiting: VecDeque::new(), inits, playlist, last, changed: true, written: false };
            recorder.lanes.insert(rung, lane);
        }
        recorder
    }

    /// Where it is; `None` before the first segment.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Whether another encoder was found to go on with it: nothing is written any more.
    pub fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// Renditions from the next epoch on.
    pub fn tracks(&mut self, tracks: &[Track]) {
        self.tracks = tracks.to_vec();
    }

    /// An init segment is stored.
    pub fn init_stored(&mut self, rung: &RungName, name: &str) {
        self.lane(rung).inits.insert(name.to_owned());
        self.advance();
    }

    /// A segment was made; what becomes of it is told by [`Recorder::settled`]. Comes before that.
    pub fn packaged(&mut self, segment: &Segment) {
        if self.phase != Phase::Open {
            return;
        }
        if self.session.as_ref() != Some(&segment.session) {
            self.begin_epoch(segment);
        }
        let mut info = SegmentInfo::from(segment);
        info.start += self.shift;
        self.end = self.end.max(Some((info.start + info.duration, info.wall + info.duration)));
        if info.discontinuity && self.first_sequence.is_some_and(|first| info.sequence > first) {
            self.discontinuities.insert(info.sequence);
        }
        let kind = if self.is_audio(&info.rung) { MediaKind::Audio } else { MediaKind::Video };
        let (recorded, shown) = (self.is_recorded(&info.rung), self.is_shown(&info.rung));
        let body = segment.body.as_ref().filter(|_| recorded || shown);
        // A segment of our own packager has an index. Were it not so the recording would go on without it.
        let mut index = body.and_then(|body| SegmentIndex::of(body, kind).ok());
        if let Some(index) = &mut index {
            index.shift(self.shift.to_scaled(self.timescale(&segment.rung)));
        }
        let picture = index.as_ref().filter(|_| shown).and_then(SegmentIndex::first_sample_end);
        let entry = Entry { info, index: index.filter(|_| recorded), picture };
        let waiting = Waiting { entry, stored: None };
        self.lane(&segment.rung).waiting.push_back(waiting);
    }

    /// What became of a segment: readable, however late, or never.
    pub fn settled(&mut self, rung: &RungName, sequence: u64, stored: bool) {
        let waiting =
            self.lane(rung).waiting.iter_mut().find(|waiting| waiting.entry.info.sequence == sequence);
        if let Some(waiting) = waiting {
            waiting.stored.get_or_insert(stored);
        }
        self.advance();
    }

    /// Nothing follows. What is not settled by now is lost.
    pub fn end(&mut self) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Ending;
        for lane in self.lanes.values_mut() {
            for waiting in &mut lane.waiting {
                let has_init = lane.inits.contains(&waiting.entry.info.init);
                waiting.stored = Some(has_init && waiting.stored == Some(true));
            }
        }
        self.advance();
    }

    /// Another encoder goes on with the stream.
    pub fn fenced(&mut self) {
        self.phase = Phase::Fenced;
    }

    /// Whether [`Recorder::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// What is to be written now. Nothing else until it is [`Recorder::done`].
    pub fn poll(&mut self, now: Duration) -> Option<Write> {
        if self.flying.is_some() || self.phase == Phase::Fenced || now < self.not_before {
            return None;
        }
        self.next_note().or_else(|| self.next_page(now)).or_else(|| self.next_playlist(now))
    }

    /// How a write went.
    pub fn done(&mut self, result: Result<(), StoreError>, now: Duration) {
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

    /// When [`Recorder::poll`] may have something although nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
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

    /// Whether the broadcast is over and the store has the whole index, or this is not its archive any more.
    pub fn is_finished(&self) -> bool {
        let all = self.phase == Phase::Ending && self.frozen.is_none() && !self.has_news();
        self.flying.is_none() && (all || self.phase == Phase::Fenced)
    }

    // --- consequences ---

    fn lane(&mut self, rung: &RungName) -> &mut Lane {
        let target_duration = self.settings.target_duration;
        self.lanes.entry(rung.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            inits: HashSet::new(),
            playlist: ArchivePlaylist::new(Place::way_to_media(rung), target_duration),
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

    /// Sound goes into every recording.
    fn is_recorded(&self, rung: &RungName) -> bool {
        self.recordings.contains(rung) || !self.recordings.is_empty() && self.is_audio(rung)
    }

    /// The smallest pictures are those for seek bars.
    fn is_shown(&self, rung: &RungName) -> bool {
        let mut videos = self.tracks.iter().rev().filter(|track| !track.is_audio());
        videos.next().is_some_and(|track| track.rung == *rung)
    }

    fn begin_epoch(&mut self, segment: &Segment) {
        if self.place.is_none() {
            self.place = Some(Place::new(self.stream.clone(), segment.session.clone()));
            self.first_sequence = Some(segment.sequence);
        }
        self.session = Some(segment.session.clone());
        // Another process's times have begun anew, and those of one go on a second later however long a publisher was away.
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
        self.page.epochs.push(Epoch {
            session: segment.session.clone(),
            start: segment.start,
            wall: segment.wall,
            shift: self.shift,
            tracks: self.tracks.clone(),
        });
        self.urgent = true;
    }

    /// Lists what is settled, in order.
    fn advance(&mut self) {
        for lane in self.lanes.values_mut() {
            while let Some(Waiting { entry, stored: Some(stored) }) = lane.waiting.front() {
                if *stored && !lane.inits.contains(&entry.info.init) {
                    break;
                }
                let stored = *stored;
                let Some(Waiting { mut entry, .. }) = lane.waiting.pop_front() else { break };
                if !stored {
                    entry.info.bytes = None;
                    (entry.index, entry.picture) = (None, None);
                }
                if lane.list(&entry.info, &self.discontinuities) {
                    self.page.entries.push(entry);
                }
            }
        }
    }

    fn has_news(&self) -> bool {
        !self.page.entries.is_empty() || !self.page.epochs.is_empty()
    }

    /// First of all, so that an archive that has anything is known.
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

    /// Playlists one after the other, then the one that names them.
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
        // It names no rendition that the store lacks.
        let ready = |lane: &Lane| lane.written || lane.playlist.next_sequence().is_none();
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

/// Rungs to be recorded: of those that were asked for the ones that are there; unasked the first, the largest.
fn choose(asked: Option<&[RungName]>, tracks: &[Track]) -> Vec<RungName> {
    let there = |rung: &&RungName| tracks.iter().any(|track| track.rung == **rung);
    match asked {
        Some(asked) => asked.iter().filter(there).cloned().collect(),
        None => tracks.first().map(|track| track.rung.clone()).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
