//! The stream's playlists: lists segments, and selects, renders and writes the next playlist. Each playlist's writes
//! and their pacing are in [`super::paced`].

use super::jobs::{Answer, StoreWork};
use super::names::ObjectNames;
use super::paced::{PlaylistWriter, ReadBack};
use crate::delivery::{DeliverySettings, Inherited, Playlists};
use bytes::Bytes;
use hls::packager::InitSegment;
use hls::track::Track;
use hls::{RungName, SegmentInfo};
use media::MediaTime;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Caching, Object, ObjectName, StoreError, content_type};

/// A segment that the store's playlists list as readable from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedSegment {
    /// The rendition.
    pub rung: RungName,
    /// End time of the segment.
    pub end: MediaTime,
}

/// An attempt at a playlist.
#[derive(Debug)]
pub(super) struct PlaylistAttempt {
    /// `None` is the multivariant playlist.
    pub(super) rung: Option<RungName>,
    pub(super) work: StoreWork,
    pub(super) timeout: Duration,
}

/// What became of an attempt at a playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaylistOutcome {
    /// The store has the text.
    Written,
    /// There will be another attempt.
    Again,
    /// Another encoder writes this playlist.
    Foreign,
}

/// A stream's playlists, and their writes.
#[derive(Debug)]
pub(super) struct PlaylistWriters<P> {
    settings: Arc<DeliverySettings>,
    names: ObjectNames,
    playlists: P,
    /// Renditions of the current epoch.
    rungs: Vec<RungName>,
    /// Renditions that were taken over, until the first tracks tell which of these renditions continue.
    inherited: Vec<RungName>,
    /// Rewritten objects by rung; `None` is the multivariant playlist.
    writers: BTreeMap<Option<RungName>, PlaylistWriter>,
    /// Segments that were listed as readable since [`PlaylistWriters::take_listed`].
    listed: Vec<ListedSegment>,
    /// Nothing is written any more.
    gave_up: bool,
    random: fastrand::Rng,
}

impl<P: Playlists> PlaylistWriters<P> {
    /// `inherited` are playlists that were taken over.
    pub(super) fn new(
        playlists: P,
        names: ObjectNames,
        settings: Arc<DeliverySettings>,
        inherited: Vec<Inherited>,
    ) -> Self {
        let mut writers = BTreeMap::new();
        if !inherited.is_empty() {
            // Removals must wait until this playlist is rewritten: the former owner's text still names those objects.
            writers.insert(None, PlaylistWriter::default());
        }
        let mut rungs = Vec::new();
        for Inherited { rung, text, version } in inherited {
            let writer = PlaylistWriter::inherited(text, version, settings.playlist_interval);
            writers.insert(Some(rung.clone()), writer);
            rungs.push(rung);
        }
        let random = fastrand::Rng::with_seed(settings.seed);
        let (inherited, rungs, listed) = (rungs, Vec::new(), Vec::new());
        Self { settings, names, playlists, rungs, inherited, writers, listed, gave_up: false, random }
    }

    /// Name of the multivariant playlist.
    pub(super) fn multivariant(&self) -> ObjectName {
        self.names.playlist(None)
    }

    /// Sets the renditions of a new epoch. Returns the playlists to be removed: those of renditions that were taken over
    /// but do not continue. Players that find no playlist switch to another rendition, while a playlist that stopped
    /// growing would hold them.
    pub(super) fn set_tracks(&mut self, tracks: &[Track]) -> Vec<ObjectName> {
        self.playlists.set_tracks(tracks);
        self.rungs = tracks.iter().map(|track| track.rung.clone()).collect();
        let mut inherited = std::mem::take(&mut self.inherited);
        inherited.retain(|rung| !self.rungs.contains(rung));
        let mut ended = Vec::new();
        for rung in inherited {
            ended.push(self.names.playlist(Some(&rung)));
            self.writers.remove(&Some(rung));
        }
        self.mark_all();
        ended
    }

    /// An init segment is readable.
    pub(super) fn add_init(&mut self, init: &InitSegment) {
        self.playlists.add_init(init);
        self.mark_all();
    }

    /// Lists the next segment of its rendition, readable or as a gap.
    pub(super) fn list(&mut self, segment: SegmentInfo) {
        if segment.bytes.is_some() {
            self.listed.push(ListedSegment { rung: segment.rung.clone(), end: segment.end() });
        }
        self.mark(Some(segment.rung.clone()));
        self.playlists.add(segment);
        self.mark(None);
        // One rendition's segment may move the window of all renditions.
        self.mark_all();
    }

    /// The stream has ended.
    pub(super) fn end(&mut self) {
        self.playlists.end();
        self.mark_all();
    }

    /// Objects that left the playlists long enough ago that no player requests them.
    pub(super) fn take_expired(&mut self) -> Vec<ObjectName> {
        let expired = self.playlists.take_expired();
        expired.into_iter().map(|(rung, file)| self.names.media(&rung, &file)).collect()
    }

    /// Segments that were listed as readable since the last call.
    pub(super) fn take_listed(&mut self) -> Vec<ListedSegment> {
        std::mem::take(&mut self.listed)
    }

    fn mark(&mut self, key: Option<RungName>) {
        self.writers.entry(key).or_default().mark();
    }

    /// A playlist whose text is unchanged when its time comes is not written.
    fn mark_all(&mut self) {
        self.writers.values_mut().for_each(PlaylistWriter::mark);
    }

    /// The next attempt, if one is due.
    pub(super) fn start(&mut self, now: Duration) -> Option<PlaylistAttempt> {
        if self.gave_up {
            return None;
        }
        loop {
            let due = |writer: &PlaylistWriter| writer.due().is_some_and(|due| due <= now);
            let next = self.writers.iter().find(|(key, writer)| due(writer) && self.may_write(key));
            let rung = next.map(|(key, _)| key.clone())?;
            if let Some(attempt) = self.start_one(rung, now) {
                return Some(attempt);
            }
        }
    }

    /// None if the text is unchanged: the playlist is no longer due.
    fn start_one(&mut self, rung: Option<RungName>, now: Duration) -> Option<PlaylistAttempt> {
        let text = match &rung {
            Some(rung) => self.playlists.media_playlist(rung),
            None => self.playlists.multivariant(),
        };
        let name = self.names.playlist(rung.as_ref());
        let writer = self.writers.get_mut(&rung)?;
        let Some(text) = text.filter(|text| writer.is_news(text)) else {
            writer.nothing_new(now);
            return None;
        };
        let timeout = self.settings.timeout(writer.failures());
        let work = match writer.expected() {
            None => {
                writer.start_reading();
                StoreWork::Read(name)
            }
            Some(expected) => {
                writer.start(text.clone(), now);
                let (body, content_type) = (Bytes::from(text), content_type::PLAYLIST);
                StoreWork::Replace(name, Object { body, content_type, caching: Caching::None }, expected)
            }
        };
        Some(PlaylistAttempt { rung, work, timeout })
    }

    /// The multivariant playlist waits until the store has every media playlist that has something to list.
    fn may_write(&self, key: &Option<RungName>) -> bool {
        let is_there = |rung: &RungName| {
            let acknowledged =
                self.writers.get(&Some(rung.clone())).is_some_and(PlaylistWriter::is_acknowledged);
            acknowledged || self.playlists.media_playlist(rung).is_none()
        };
        key.is_some() || self.rungs.iter().chain(self.writers.keys().flatten()).all(is_there)
    }

    /// Takes the result of an attempt.
    pub(super) fn done(
        &mut self,
        rung: Option<RungName>,
        result: Result<Answer, StoreError>,
        now: Duration,
    ) -> PlaylistOutcome {
        let interval = self.settings.playlist_interval;
        let Some(writer) = self.writers.get_mut(&rung) else { return PlaylistOutcome::Again };
        match result {
            Ok(Answer::Written(version)) => {
                let first = writer.acknowledged(version, interval);
                if first {
                    self.mark(None);
                }
                return PlaylistOutcome::Written;
            }
            Ok(Answer::Read(stored)) => match writer.read(stored, interval) {
                ReadBack::Ours => {}
                ReadBack::Foreign => return PlaylistOutcome::Foreign,
            },
            Ok(Answer::Done | Answer::Body(_)) => debug_assert!(false, "not the answer to what was asked"),
            Err(StoreError::Changed) => writer.changed(now),
            // Refused writes are retried too: the disk may have room by then, and the last playlist must be written.
            Err(error) => {
                let pause = self.settings.pause(&error, writer.failures() + 1, &mut self.random);
                writer.failed(now + pause, interval);
            }
        }
        PlaylistOutcome::Again
    }

    /// When [`PlaylistWriters::start`] may return an attempt without further input.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.gave_up {
            return None;
        }
        let writers = self.writers.iter().filter(|(key, _)| self.may_write(key));
        writers.filter_map(|(_, writer)| writer.due()).min()
    }

    /// When the oldest of the playlist texts in the store was rendered.
    pub(super) fn current_at(&self) -> Duration {
        self.writers.values().map(|writer| writer.current_at().unwrap_or_default()).min().unwrap_or_default()
    }

    /// Writes nothing more.
    pub(super) fn give_up(&mut self) {
        self.gave_up = true;
    }

    /// Whether nothing is left to write.
    pub(super) fn is_clean(&self) -> bool {
        self.gave_up || self.is_sealed()
    }

    /// Whether the store has the newest text of every playlist.
    pub(super) fn is_sealed(&self) -> bool {
        self.writers.values().all(PlaylistWriter::is_sealed)
    }
}
