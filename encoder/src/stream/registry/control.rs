//! What operators see and do with single streams: who publishes, ending a stream, bans. The routes are in
//! [`crate::admin`].

use super::{Registry, StreamEntry};
use crate::delivery::takeover::ClaimRefused;
use crate::origin::StreamPath;
use crate::status::{BanStatus, PublisherStatus, StreamDetails};
use crate::stream::bans::{self, Ban, TooManyBans};
use crate::stream::core::StreamCore;
use crate::stream::driver::now;
use media::WallTime;
use rtmp::Refusal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::StoreError;

/// What publishers are told when the operator gives no reason, and by encoders that know a ban from the store alone.
pub(crate) const DEFAULT_REASON: &str = "an operator ended this stream";

/// The bitrate is an average over this long to twice as long.
const RATE_OVER: Duration = Duration::from_secs(5);

/// Who publishes, and how much was received.
#[derive(Clone, Debug)]
pub(super) struct PublisherFacts {
    client: String,
    peer: SocketAddr,
    since: WallTime,
    bytes: u64,
    /// Bytes at two earlier times, newest first.
    marks: [(Instant, u64); 2],
}

// === impl PublisherFacts ===

impl PublisherFacts {
    pub(super) fn new(client: String, peer: SocketAddr, since: WallTime, now: Instant) -> Self {
        Self { client, peer, since, bytes: 0, marks: [(now, 0); 2] }
    }

    pub(super) fn received(&mut self, bytes: usize, arrived: Instant) {
        self.bytes += bytes as u64;
        let [newest, _] = self.marks;
        if arrived.saturating_duration_since(newest.0) >= RATE_OVER {
            self.marks = [(arrived, self.bytes), newest];
        }
    }

    fn status(&self, now: Instant) -> PublisherStatus {
        let [_, (at, bytes)] = self.marks;
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        let bits = (self.bytes - bytes) as f64 * 8.0;
        PublisherStatus {
            client: self.client.clone(),
            address: self.peer.to_string(),
            since: self.since.unix_micros() / 1_000_000,
            bytes: self.bytes,
            bits_per_second: if seconds > 0.0 { (bits / seconds).round() } else { 0.0 },
        }
    }
}

// === impl Registry ===

impl Registry {
    /// All streams, with their publishers.
    pub(crate) fn streams(&self) -> Vec<StreamDetails> {
        let entries: Vec<(StreamPath, Arc<StreamEntry>)> =
            self.lock().iter().map(|(path, entry)| (path.clone(), entry.clone())).collect();
        entries.iter().map(|(path, entry)| self.stream_details(path, entry)).collect()
    }

    /// One stream, with its publisher.
    pub(crate) fn stream(&self, path: &StreamPath) -> Option<StreamDetails> {
        let entry = self.lock().get(path).cloned()?;
        Some(self.stream_details(path, &entry))
    }

    fn stream_details(&self, path: &StreamPath, entry: &StreamEntry) -> StreamDetails {
        let stream = self.stream_status(path, entry);
        let facts = entry.present().facts.clone().filter(|_| stream.published);
        StreamDetails {
            stream,
            publisher: facts.map(|facts| facts.status(Instant::now())),
            metadata: entry.events.metadata().clone(),
        }
    }

    /// Ends a stream at once: its publisher is told the reason and disconnected, received media is flushed, playlists
    /// get EXT-X-ENDLIST and the archive is sealed. `false` if there is no such stream.
    pub(crate) fn end_stream(&self, path: &StreamPath, refusal: Refusal) -> bool {
        let Some(entry) = self.lock().get(path).cloned() else { return false };
        if entry.core.look(StreamCore::is_over) {
            return false;
        }
        entry.events.ending(&refusal);
        let told_first = entry.present().send_off.send_if_modified(|told| {
            let untold = told.is_none();
            told.get_or_insert(refusal);
            untold
        });
        entry.core.with(|core, now| core.close(now));
        if told_first {
            metrics::counter!("encoder_streams_ended_total", "by" => "operator").increment(1);
        }
        true
    }

    /// Lets nobody publish a stream here until a time. [`Registry::store_ban`] says so in the store.
    ///
    /// # Errors
    /// Too many other streams are banned.
    pub(crate) fn ban(&self, path: &StreamPath, ban: Ban) -> Result<(), TooManyBans> {
        self.bans.set(path, ban, now().wall)
    }

    /// Lifts a ban here; `false` if there is none.
    pub(crate) fn lift_ban(&self, path: &StreamPath) -> bool {
        self.bans.lift(path, now().wall)
    }

    /// The bans that this process keeps.
    pub(crate) fn bans(&self) -> Vec<BanStatus> {
        let shown = |(path, ban): (StreamPath, Ban)| BanStatus {
            app: path.app.to_string(),
            name: path.name.to_string(),
            banned_until: bans::rfc3339(ban.until),
            reason: ban.reason,
        };
        self.bans.list(now().wall).into_iter().map(shown).collect()
    }

    /// Brings the store's record of a stream in step with its ban here, so that other encoders keep the ban, or that
    /// nobody keeps it any longer. May take as long as the store; repeated attempts included.
    ///
    /// # Errors
    /// The store does not answer or refuses: only this process keeps the ban.
    pub(crate) async fn store_ban(&self, path: &StreamPath) -> Result<(), StoreError> {
        let now = now().wall;
        let until = self.bans.get(path, now).map(|ban| ban.until);
        let latency = self.latencies.next(path).latency;
        self.lease_client.ban(&self.outputs.store, &path.to_string(), latency, until, now).await
    }

    /// Refuses a publisher of a stream that is banned here.
    pub(super) fn refuse_banned(&self, path: &StreamPath) -> Result<(), Refusal> {
        match self.bans.get(path, now().wall) {
            Some(Ban { until, reason }) => Err(bans::refusal(&reason, Some(until))),
            None => Ok(()),
        }
    }
}

/// What a publisher is told whose stream could not be claimed in the store.
pub(super) fn not_claimed(path: &StreamPath, why: ClaimRefused) -> Refusal {
    match why {
        ClaimRefused::AlreadyOwned => {
            tracing::warn!(
                stream = %path,
                "another encoder has this stream, or has just taken it: its publisher is turned away here"
            );
            Refusal::AlreadyPublishing
        }
        ClaimRefused::Banned { until } => bans::refusal(DEFAULT_REASON, Some(until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitrate_is_that_of_the_last_seconds() {
        let began = Instant::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        let peer = "192.0.2.1:5".parse().unwrap();
        let mut facts =
            PublisherFacts::new("FMLE".into(), peer, WallTime::from_unix_micros(7_900_000), began);
        assert_eq!(facts.status(began).bits_per_second, 0.0);
        for second in 1..=20 {
            facts.received(if second <= 10 { 1_000_000 } else { 1000 }, after(second));
        }
        let status = facts.status(after(20));
        assert_eq!((status.bytes, status.since), (10_010_000, 7));
        assert_eq!((status.client.as_str(), status.address.as_str()), ("FMLE", "192.0.2.1:5"));
        assert!((status.bits_per_second - 8000.0).abs() < 1.0, "{status:?}");
        assert!(facts.status(after(100)).bits_per_second < 1000.0, "it falls when nothing comes");
    }
}
