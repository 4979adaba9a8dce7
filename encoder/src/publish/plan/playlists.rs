//! Which playlist is rendered and written now. When one may be is in [`super::paced`].

use super::paced::Paced;
use super::{Flight, Job, Plan, Work};
use crate::publish::Playlists;
use crate::store::{Caching, Object, StoreError, content_type};
use bytes::Bytes;
use hls::RungName;
use std::time::Duration;

impl<P: Playlists> Plan<P> {
    pub(super) fn start_playlist(&mut self, now: Duration) -> Option<Job> {
        let key = self
            .paced
            .iter()
            .find(|(key, paced)| paced.due().is_some_and(|due| due <= now) && self.may_write(key))
            .map(|(key, _)| key.clone())?;
        let text = match &key {
            Some(rung) => self.playlists.media_playlist(rung),
            None => self.playlists.multivariant(),
        };
        let paced = self.paced.get_mut(&key)?;
        let Some(text) = text.filter(|text| paced.is_news(text)) else {
            paced.nothing_new();
            return self.start_playlist(now);
        };
        paced.start(text.clone(), now);
        let name = match &key {
            Some(rung) => self.object_name(rung, "index.m3u8"),
            None => self.below_prefix("index.m3u8"),
        };
        let body = Bytes::from(text);
        let object = Object { body, content_type: content_type::PLAYLIST, caching: Caching::None };
        Some(self.job(Flight::Playlist(key), Work::Replace(name, object), self.settings.attempt_timeout))
    }

    /// The multivariant playlist waits for those that it may name: all that have something to list.
    pub(super) fn may_write(&self, key: &Option<RungName>) -> bool {
        let is_there = |rung: &RungName| {
            let acknowledged = self.paced.get(&Some(rung.clone())).is_some_and(Paced::is_acknowledged);
            acknowledged || self.playlists.media_playlist(rung).is_none()
        };
        let current = self.tracks.iter().map(|track| &track.rung);
        key.is_some() || current.chain(self.paced.keys().flatten()).all(is_there)
    }

    pub(super) fn playlist_done(
        &mut self,
        key: Option<RungName>,
        result: Result<(), StoreError>,
        now: Duration,
    ) {
        let backoff = self.settings.max_backoff.min(self.backoff(1));
        let interval = self.settings.playlist_interval;
        let Some(paced) = self.paced.get_mut(&key) else { return };
        match result {
            Ok(()) => {
                self.counters.playlists += 1;
                let first = paced.acknowledged(interval);
                if first {
                    self.mark(None);
                }
            }
            // Refused ones are tried again too: the disk may have room by then, and the last one must be written.
            Err(error) => {
                let pause = if error.is_retryable() { backoff } else { self.settings.max_backoff };
                paced.failed(now + pause, interval);
            }
        }
    }

    pub(super) fn mark(&mut self, key: Option<RungName>) {
        self.paced.entry(key).or_default().mark();
    }

    /// What says nothing new when its time comes is not written.
    pub(super) fn mark_all(&mut self) {
        self.paced.values_mut().for_each(Paced::mark);
    }
}
