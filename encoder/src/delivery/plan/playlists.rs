//! Selects, renders and writes the next playlist. Each playlist's state and pacing are in [`super::paced`].

use super::paced::{PlaylistWriter, ReadBack};
use super::removals::Removal;
use super::{Answer, DeliveryPlan, Flight, StoreJob, StoreWork};
use crate::delivery::Playlists;
use bytes::Bytes;
use hls::RungName;
use std::time::Duration;
use store::{Caching, Object, StoreError, content_type};

impl<P: Playlists> DeliveryPlan<P> {
    pub(super) fn start_playlist(&mut self, now: Duration) -> Option<StoreJob> {
        let key = self
            .paced
            .iter()
            .find(|(key, paced)| paced.due().is_some_and(|due| due <= now) && self.may_write(key))
            .map(|(key, _)| key.clone())?;
        let text = match &key {
            Some(rung) => self.playlists.media_playlist(rung),
            None => self.playlists.multivariant(),
        };
        let name = match &key {
            Some(rung) => self.object_name(rung, "index.m3u8"),
            None => self.below_prefix("index.m3u8"),
        };
        let paced = self.paced.get_mut(&key)?;
        let Some(text) = text.filter(|text| paced.is_news(text)) else {
            paced.nothing_new(now);
            return self.start_playlist(now);
        };
        let failures = paced.failures();
        let work = match paced.expected() {
            None => {
                paced.start_reading();
                StoreWork::Read(name)
            }
            Some(expected) => {
                paced.start(text.clone(), now);
                let (body, content_type) = (Bytes::from(text), content_type::PLAYLIST);
                StoreWork::Replace(name, Object { body, content_type, caching: Caching::None }, expected)
            }
        };
        let timeout = self.timeout(failures);
        Some(self.job(Flight::Playlist(key), work, timeout))
    }

    /// The multivariant playlist waits until the store has every media playlist that has something to list.
    pub(super) fn may_write(&self, key: &Option<RungName>) -> bool {
        let is_there = |rung: &RungName| {
            let acknowledged =
                self.paced.get(&Some(rung.clone())).is_some_and(PlaylistWriter::is_acknowledged);
            acknowledged || self.playlists.media_playlist(rung).is_none()
        };
        let current = self.tracks.iter().map(|track| &track.rung);
        key.is_some() || current.chain(self.paced.keys().flatten()).all(is_there)
    }

    pub(super) fn playlist_done(
        &mut self,
        key: Option<RungName>,
        result: Result<Answer, StoreError>,
        now: Duration,
    ) {
        let interval = self.settings.playlist_interval;
        let Some(paced) = self.paced.get_mut(&key) else { return };
        match result {
            Ok(Answer::Written(version)) => {
                self.counters.playlists += 1;
                let first = paced.acknowledged(version, interval);
                if first {
                    self.mark(None);
                }
            }
            Ok(Answer::Read(stored)) => match paced.read(stored, interval) {
                ReadBack::Ours => {}
                ReadBack::Foreign => self.fenced(),
            },
            Ok(Answer::Done | Answer::Body(_)) => debug_assert!(false, "not the answer to what was asked"),
            Err(StoreError::Changed) => paced.changed(now),
            // Refused writes are retried too: the disk may have room by then, and the last playlist must be written.
            Err(error) => {
                let failures = paced.failures() + 1;
                let pause =
                    if error.is_retryable() { self.backoff(failures) } else { self.settings.max_backoff };
                if let Some(paced) = self.paced.get_mut(&key) {
                    paced.failed(now + pause, interval);
                }
            }
        }
    }

    /// Another encoder has taken the stream over in the store: this encoder writes no more objects of the stream.
    fn fenced(&mut self) {
        self.counters.fenced = true;
        self.stop();
    }

    /// Removes the playlists of renditions that were taken over but do not continue: players that find no playlist
    /// switch to another rendition, while a playlist that stopped growing would hold them.
    pub(super) fn remove_playlists_that_ended(&mut self, now: Duration) {
        let inherited = std::mem::take(&mut self.inherited);
        for rung in inherited.into_iter().filter(|rung| !self.tracks.iter().any(|t| t.rung == *rung)) {
            let name = self.object_name(&rung, "index.m3u8");
            self.removals.push_back(Removal::new(name, now));
            self.paced.remove(&Some(rung));
        }
    }

    pub(super) fn mark(&mut self, key: Option<RungName>) {
        self.paced.entry(key).or_default().mark();
    }

    /// A playlist whose text is unchanged when its time comes is not written.
    pub(super) fn mark_all(&mut self) {
        self.paced.values_mut().for_each(PlaylistWriter::mark);
    }
}
