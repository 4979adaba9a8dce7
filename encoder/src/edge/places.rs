//! Where a stream is: at an encoder, in the store, or nowhere. An encoder leaves its address, sealed, in the stream's
//! record in the store; without a store in common the encoders are asked for their streams once a second. What is
//! fetched from there belongs in [`super::stream`].

use super::secret::EdgeSecret;
use super::upstream::Upstream;
use super::warnings::OncePerMinute;
use crate::delivery::takeover::{Whereabouts, lease_name};
use crate::fleet::resolve::addresses;
use crate::origin::StreamPath;
use crate::origin::source::ListedStream;
use futures_util::stream::{self, StreamExt as _};
use media::WallTime;
use metrics::counter;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use store::{Store, StoreError};
use tracing::{debug, warn};

/// Time-out of reading a record.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// Interval between two rounds over all encoders.
const ROUND: Duration = Duration::from_secs(1);
/// Encoders that are asked at the same time.
const AT_ONCE: usize = 64;
/// Rounds that an encoder may miss before its streams are taken to be elsewhere.
const MISSED_ROUNDS: u32 = 3;

/// Where a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An encoder has it.
    Encoder {
        /// The encoder's HTTP port.
        address: SocketAddr,
        /// Distinguishes this claim to the stream from all others.
        claim: Arc<str>,
        /// When the encoder claimed the stream.
        since: WallTime,
    },
    /// The store has it, and no encoder that can be asked.
    Store {
        /// Whether the stream has ended in order.
        ended: bool,
        /// When its last encoder claimed it; the beginning of 1970 if that is not known.
        since: WallTime,
    },
    /// There is no such stream.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoder { address, .. } => address.fmt(f),
            Self::Store { .. } => f.write_str("the store"),
            Self::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// Finds streams.
#[derive(Debug)]
pub(super) struct Places {
    record: Option<RecordReader>,
    surveyed: Option<RwLock<Surveyed>>,
    store_silent: OncePerMinute,
}

struct RecordReader {
    store: Arc<dyn Store>,
    secret: Option<EdgeSecret>,
    cannot_open: OncePerMinute,
}

impl fmt::Debug for RecordReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordReader").finish_non_exhaustive()
    }
}

/// What the encoders said in the last rounds.
#[derive(Debug, Default)]
struct Surveyed {
    encoders: BTreeMap<SocketAddr, Answered>,
}

#[derive(Debug)]
struct Answered {
    streams: Vec<ListedStream>,
    missed: u32,
}

impl Places {
    /// With a store that holds records, or encoders that are asked, or both.
    pub(super) fn new(store: Option<Arc<dyn Store>>, secret: Option<EdgeSecret>, asks: bool) -> Self {
        Self {
            record: store.map(|store| RecordReader { store, secret, cannot_open: OncePerMinute::default() }),
            surveyed: asks.then(RwLock::default),
            store_silent: OncePerMinute::default(),
        }
    }

    /// Finds a stream.
    ///
    /// # Errors
    /// The store does not answer.
    pub(super) async fn find(&self, stream: &StreamPath) -> Result<Place, StoreError> {
        let found = match (self.asked(stream), &self.record) {
            (Some(place), _) => Ok(place),
            (None, Some(record)) => record.read(stream).await,
            (None, None) => Ok(Place::Nowhere),
        };
        let result = match &found {
            Ok(Place::Encoder { .. }) => "encoder",
            Ok(Place::Store { .. }) => "store",
            Ok(Place::Nowhere) => "none",
            Err(_) => "failed",
        };
        counter!("encoder_edge_lookups_total", "result" => result).increment(1);
        if let Err(error) = &found
            && self.store_silent.is_due()
        {
            warn!(
                %stream,
                %error,
                "the store does not say where a stream is: viewers wait for streams that this edge does not know, and \
                 takeovers are not followed; check the store and the right to read it"
            );
        }
        found
    }

    /// Where the encoders say that a stream is: of several the one whose stream is the newest.
    fn asked(&self, stream: &StreamPath) -> Option<Place> {
        let surveyed = self.surveyed.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        let having = surveyed.encoders.iter().filter_map(|(address, answered)| {
            let is_it = |listed: &&ListedStream| *listed.app == *stream.app && *listed.name == *stream.name;
            answered.streams.iter().find(is_it).map(|listed| (listed.since_unix_ms, *address))
        });
        let (since, address) = having.max()?;
        let claim = format!("{address} {since}").into();
        Some(Place::Encoder { address, claim, since: WallTime::from_unix_micros(since.saturating_mul(1000)) })
    }

    /// All streams that the encoders have, ordered by path.
    pub(super) fn listing(&self) -> Vec<ListedStream> {
        let Some(surveyed) = &self.surveyed else { return Vec::new() };
        let surveyed = surveyed.read().unwrap_or_else(PoisonError::into_inner);
        let all = surveyed.encoders.values().flat_map(|answered| &answered.streams);
        let mut newest = BTreeMap::new();
        for listed in all {
            let entry = newest.entry((listed.app.clone(), listed.name.clone())).or_insert(listed);
            if entry.since_unix_ms < listed.since_unix_ms {
                *entry = listed;
            }
        }
        newest.into_values().cloned().collect()
    }

    /// Asks all encoders again and again. Never resolves where none are asked.
    pub(super) async fn attend(&self, encoders: &[String], upstream: &Upstream) {
        let Some(surveyed) = &self.surveyed else { return std::future::pending().await };
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut lost = false;
        loop {
            rounds.tick().await;
            let found = addresses(encoders, lost).await;
            lost = found.nameless + found.cut_off > 0;
            let ask = |address| async move { (address, upstream.listing(address).await) };
            let answers: Vec<_> =
                stream::iter(found.addresses).map(ask).buffer_unordered(AT_ONCE).collect().await;
            surveyed.write().unwrap_or_else(PoisonError::into_inner).settle(answers);
        }
    }
}

impl Surveyed {
    fn settle<E: fmt::Display>(&mut self, answers: Vec<(SocketAddr, Result<Vec<ListedStream>, E>)>) {
        for answered in self.encoders.values_mut() {
            answered.missed += 1;
        }
        for (address, answer) in answers {
            match answer {
                Ok(mut streams) => {
                    // Names are parts of paths: a stream with any other name is left out.
                    streams.retain(|listed| StreamPath::new(&listed.app, &listed.name).is_ok());
                    self.encoders.insert(address, Answered { streams, missed: 0 });
                }
                Err(error) => debug!(%address, %error, "encoder does not list its streams"),
            }
        }
        self.encoders.retain(|_, answered| answered.missed < MISSED_ROUNDS);
    }
}

impl RecordReader {
    async fn read(&self, stream: &StreamPath) -> Result<Place, StoreError> {
        let name = lease_name(&stream.to_string());
        let Some(stored) = store::within(READ_WITHIN, self.store.read(&name)).await? else {
            return Ok(Place::Nowhere);
        };
        let Some(found) = Whereabouts::parse(&stored.body) else {
            return Ok(Place::Store { ended: false, since: WallTime::from_unix_micros(0) });
        };
        let Whereabouts { sealed, claim, since, ended } = found;
        let Some(sealed) = sealed.filter(|_| !ended) else { return Ok(Place::Store { ended, since }) };
        let opened = self.secret.as_ref().and_then(|secret| secret.open(&stream.to_string(), &sealed));
        match opened {
            Some(address) => Ok(Place::Encoder { address, claim: claim.into(), since }),
            None => {
                if self.cannot_open.is_due() {
                    warn!(
                        %stream,
                        "the address of the stream's encoder cannot be opened: viewers get the stream from the store, \
                         later than live; give encoders and edges the same --edge-secret"
                    );
                }
                Ok(Place::Store { ended, since })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, since: i64) -> ListedStream {
        serde_json::from_value(serde_json::json!({
            "app": "live", "name": name, "playlist": "", "thumbnail": null, "since_unix_ms": since,
            "latency_secs": 2.0, "hold_back_secs": 1.0, "rungs": [],
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_of_two_is_the_stream_and_a_silent_encoder_is_waited_for() {
        let places = Places::new(None, None, true);
        let [old, new]: [SocketAddr; 2] = ["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()];
        let settle = |answers: Vec<(SocketAddr, Result<Vec<ListedStream>, &str>)>| {
            places.surveyed.as_ref().unwrap().write().unwrap().settle(answers);
        };
        let at = || match places.asked(&StreamPath::new("live", "demo").unwrap()) {
            Some(Place::Encoder { address, .. }) => Some(address),
            Some(Place::Store { .. } | Place::Nowhere) | None => None,
        };
        settle(vec![(old, Ok(vec![listed("demo", 1), listed("../x", 1)])), (new, Ok(vec![]))]);
        assert_eq!(at(), Some(old));
        assert_eq!(places.listing().len(), 1, "what is no name is left out");
        settle(vec![(old, Ok(vec![listed("demo", 1)])), (new, Ok(vec![listed("demo", 2)]))]);
        assert_eq!(at(), Some(new));
        settle(vec![(old, Ok(vec![listed("demo", 1)])), (new, Err("late"))]);
        assert_eq!(at(), Some(new));
        settle(vec![(old, Ok(vec![listed("demo", 1)])), (new, Err("late"))]);
        settle(vec![(old, Ok(vec![listed("demo", 1)])), (new, Err("late"))]);
        assert_eq!(at(), Some(old));
        settle(vec![(old, Ok(vec![]))]);
        assert_eq!(at(), None);
    }
}
