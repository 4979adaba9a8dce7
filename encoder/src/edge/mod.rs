//! An edge: answers viewers for every stream of a fleet, so that the number of viewers is no concern of the encoders.
//! Each object and each version of a playlist is fetched once, however many viewers wait for it.
//!
//! An edge is an [`ObjectSource`]: the server, the holding of requests and the answers are the origin's own
//! ([`crate::origin`]). What belongs here: where a stream is ([`places`]), what is asked of encoders ([`upstream`],
//! [`stream`]) and of the store ([`stored`]), what is kept ([`objects`]), what strangers may cause ([`budget`]), who
//! may watch ([`passes`]), and who watches ([`viewers`]; encoders learn of it in [`reports`]).
//! What does not: media, which is not looked into, and the rules of playlists.
//!
//! | who is asked | for what | how often |
//! |---|---|---|
//! | encoder | a playlist's next version | one held request for each playlist that viewers follow |
//! | encoder | segments and parts | once each |
//! | encoder | multivariant playlist, picture | once a second at most |
//! | store | the stream's record | once a second and stream at most: at first, and while playlists stand still |
//! | store | media and playlists that no encoder has | once each; playlists once a second |

mod access;
mod budget;
mod flights;
mod objects;
mod pass_hook;
mod passes;
mod places;
mod reports;
pub(crate) mod secret;
mod stored;
mod stream;
mod upstream;
mod viewers;
mod warnings;

#[cfg(test)]
mod tests;

pub(crate) use access::EdgeAccess;
pub(crate) use pass_hook::PassHookConfig;
pub(crate) use passes::{Passes, ViewerAccess};
pub(crate) use reports::EdgeReports;
pub(crate) use viewers::Viewers;

use crate::origin::cache::{MULTIVARIANT, THUMBNAIL};
use crate::origin::source::{Found, ListedStream, ObjectSource};
use crate::origin::{ObjectCache, StreamPath};
use crate::telemetry;
use budget::{LookUpBudget, Paid};
use flights::{Boarded, Flights};
use futures_util::FutureExt as _;
use listen::fairness::Source;
use metrics::{counter, gauge};
use objects::{Objects, Outcome};
use places::{Place, Places};
use quick_cache::sync::Cache;
use secret::EdgeSecret;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::Store;
use stored::{Named, StoredStreams};
use stream::{EdgeStream, FROM_START};
use tracing::debug;
use upstream::Upstream;

/// How long an edge remembers that a name is no stream's, without asking again.
const NOBODYS: Duration = Duration::from_secs(1);
/// Names of that kind that are remembered.
const MOST_NOBODYS: usize = 16_384;
/// Streams that an edge knows at the same time. Further ones are refused until viewers have left others.
const MOST_STREAMS: usize = 65_536;

/// An encoder's address for the records of its streams.
#[derive(Clone, Debug)]
pub(crate) struct Advertised {
    /// Seals the address.
    pub(crate) secret: EdgeSecret,
    /// Where edges reach the encoder.
    pub(crate) address: SocketAddr,
}

impl Advertised {
    /// The sealed address for the record of the stream `{app}/{name}`.
    pub(crate) fn seal(&self, stream: &str) -> Option<String> {
        self.secret.seal(stream, self.address)
    }
}

/// What an edge is made of.
pub(crate) struct EdgeOptions {
    /// The store in common with the encoders.
    pub(crate) store: Option<Arc<dyn Store>>,
    /// The secret in common with the encoders.
    pub(crate) secret: Option<EdgeSecret>,
    /// Encoders that are asked for their streams, as `HOST:PORT`.
    pub(crate) encoders: Vec<String>,
    /// Bytes of objects that are kept in memory.
    pub(crate) cache_bytes: u64,
    /// Who watches.
    pub(crate) viewers: Arc<Viewers>,
}

/// An edge. Share it in an `Arc`.
pub(crate) struct Edge {
    shared: Arc<Shared>,
    encoders: Vec<String>,
    streams: Mutex<HashMap<StreamPath, Arc<EdgeStream>>>,
    budget: Mutex<LookUpBudget>,
    look_ups: Flights<LookUp>,
    /// Names that no stream had when they were last looked up.
    nobodys: Cache<StreamPath, Instant>,
}

/// What came of looking a stream up.
#[derive(Clone)]
enum LookUp {
    Stream(Arc<EdgeStream>),
    Nobodys,
    /// The look-up was refused, or the store did not answer.
    Unknown,
}

/// What the streams of an edge share.
struct Shared {
    upstream: Upstream,
    places: Places,
    stored: Option<StoredStreams>,
    objects: Arc<Objects>,
    /// The newest version of each playlist that is followed.
    playlists: Arc<ObjectCache>,
    viewers: Arc<Viewers>,
}

// A panic while one of these locks is held is impossible: values are moved, nothing else.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows every counter of an edge from the start, as [`telemetry::show`] does.
pub(crate) fn show_counters() {
    telemetry::show(&[
        "encoder_edge_moves_total",
        "encoder_edge_stored_total",
        "encoder_edge_upstream_bytes_total",
    ]);
    for result in ["encoder", "store", "none", "failed", "refused"] {
        counter!("encoder_edge_lookups_total", "result" => result).increment(0);
    }
    for how in ["hit", "joined", "fetched"] {
        counter!("encoder_edge_objects_total", "how" => how).increment(0);
    }
    for (kind, result) in ["playlist", "object"]
        .into_iter()
        .flat_map(|kind| ["found", "missing", "not_yet", "failed"].map(|result| (kind, result)))
    {
        counter!("encoder_edge_upstream_requests_total", "kind" => kind, "result" => result).increment(0);
    }
}

impl Edge {
    /// An edge that knows no stream.
    ///
    /// # Errors
    /// The machine does not provide what an HTTP client needs.
    pub(crate) fn new(options: EdgeOptions) -> Result<Arc<Self>, String> {
        let EdgeOptions { store, secret, encoders, cache_bytes, viewers } = options;
        let shared = Arc::new(Shared {
            upstream: Upstream::new(secret.clone())?,
            places: Places::new(store.clone(), secret, !encoders.is_empty()),
            stored: store.map(StoredStreams::new),
            objects: Objects::new(cache_bytes),
            playlists: ObjectCache::new(),
            viewers,
        });
        let budget = Mutex::new(LookUpBudget::new(Instant::now()));
        Ok(Arc::new(Self {
            shared,
            encoders,
            streams: Mutex::default(),
            budget,
            look_ups: Flights::default(),
            nobodys: Cache::new(MOST_NOBODYS),
        }))
    }

    /// Forgets streams that viewers have left, asks encoders for their streams, and shows the metrics. Never resolves.
    pub(crate) async fn attend(self: Arc<Self>) {
        let tidy = async {
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                self.tidy();
            }
        };
        tokio::join!(tidy, self.shared.places.attend(&self.encoders, &self.shared.upstream));
    }

    fn tidy(&self) {
        let mut streams = lock(&self.streams);
        streams.retain(|path, stream| {
            let idle = stream.is_idle();
            if idle {
                self.shared.playlists.remove_stream(path);
            }
            !idle
        });
        gauge!("encoder_edge_streams").set(streams.len() as f64);
        let followed: usize = streams.values().map(|stream| stream.followed()).sum();
        drop(streams);
        gauge!("encoder_edge_playlists").set(followed as f64);
        self.shared.objects.show();
        self.shared.viewers.show();
    }

    /// The streams that viewers ask for, with their encoders, for operators.
    pub(crate) fn known(&self) -> Vec<(StreamPath, Option<SocketAddr>, usize)> {
        let streams = lock(&self.streams);
        let mut known: Vec<_> = streams
            .iter()
            .map(|(path, stream)| (path.clone(), stream.encoder(), stream.followed()))
            .collect();
        known.sort_by(|a, b| a.0.cmp(&b.0));
        known
    }

    fn stream(&self, path: &StreamPath) -> Option<Arc<EdgeStream>> {
        // Under the lock: a stream that is forgotten meanwhile would be followed twice.
        let streams = lock(&self.streams);
        let stream = streams.get(path)?;
        stream.touch();
        Some(Arc::clone(stream))
    }

    /// Finds a stream that viewers have not asked for lately. Of all requests for a stream, one looks the stream up.
    async fn find_stream(self: Arc<Self>, path: StreamPath, client: Option<Source>) -> LookUp {
        if self.nobodys.get(&path).is_some_and(|since| since.elapsed() < NOBODYS) {
            return LookUp::Nobodys;
        }
        let edge = Arc::clone(&self);
        let name = path.to_string().into();
        let done = || self.stream(&path).map(LookUp::Stream);
        match self.look_ups.board(name, done, || edge.look_up(path.clone(), client)) {
            Boarded::Joined(flight) | Boarded::Begun(flight) => {
                flight.landed().await.unwrap_or(LookUp::Unknown)
            }
            Boarded::Done(found) => found,
            Boarded::Full => LookUp::Unknown,
        }
    }

    async fn look_up(self: Arc<Self>, path: StreamPath, client: Option<Source>) -> LookUp {
        let Some(paid) = self.pay(client) else {
            counter!("encoder_edge_lookups_total", "result" => "refused").increment(1);
            return LookUp::Unknown;
        };
        match self.shared.places.find(&path).await {
            Ok(Place::Nowhere) => {
                self.nobodys.insert(path, Instant::now());
                LookUp::Nobodys
            }
            Ok(place) => {
                lock(&self.budget).refund(paid);
                let mut streams = lock(&self.streams);
                if streams.len() >= MOST_STREAMS {
                    return LookUp::Unknown;
                }
                let new = || EdgeStream::new(path.clone(), place, Arc::clone(&self.shared));
                LookUp::Stream(Arc::clone(streams.entry(path.clone()).or_insert_with(new)))
            }
            Err(error) => {
                lock(&self.budget).refund(paid);
                debug!(stream = %path, %error, "cannot look up where a stream is");
                LookUp::Unknown
            }
        }
    }

    fn pay(&self, client: Option<Source>) -> Option<Paid> {
        lock(&self.budget).pay(client, Instant::now())
    }

    /// What is in memory and current. So what many ask for is answered also while no more requests may be held.
    fn in_memory(
        &self,
        stream: &EdgeStream,
        named: Named<'_>,
        path: &str,
        from_start: bool,
    ) -> Option<Found> {
        let query = match named {
            Named::Playlist(rung) => {
                if let Some(versions) = stream.shown(rung, path) {
                    return Some(Found::Playlist(versions));
                }
                // An encoder's playlist is followed.
                if stream.encoder().is_some() {
                    return None;
                }
                ""
            }
            Named::Multivariant if from_start => FROM_START,
            Named::Multivariant | Named::Picture | Named::Media | Named::ArchivePlaylist => "",
            Named::Recording => return None,
        };
        match self.shared.objects.get(&stream.object(&format!("{path}{query}")))? {
            Outcome::Found(object) => {
                stream.wants(path);
                Some(Found::Object(object))
            }
            Outcome::Missing => Some(Found::Missing),
            Outcome::Failed => None,
        }
    }

    /// Answers from a stream, as soon as there is an answer.
    async fn answer(&self, stream: Arc<EdgeStream>, path: &str, from_start: bool) -> Found {
        let Some(named) = Named::read(path) else { return Found::Missing };
        let outcome = match named {
            Named::Multivariant if from_start => stream.from_start().await,
            Named::Multivariant => stream.small(MULTIVARIANT).await,
            Named::Picture => stream.small(THUMBNAIL).await,
            Named::Media => stream.media(path).await,
            Named::Playlist(rung) => match Arc::clone(&stream).playlist(rung).await {
                Some(versions) => return Found::Playlist(versions),
                None => stream.stored(path).await,
            },
            Named::ArchivePlaylist => stream.stored(path).await,
            Named::Recording => return self.recording(&stream, path).await,
        };
        match outcome {
            Outcome::Found(object) => Found::Object(object),
            Outcome::Missing if named == Named::Media => Found::NotNow,
            Outcome::Missing => Found::Missing,
            Outcome::Failed => Found::Overloaded,
        }
    }

    async fn recording(&self, stream: &EdgeStream, path: &str) -> Found {
        let Some(stored) = &self.shared.stored else { return Found::Missing };
        if let Some(known) = stored.known_recording(stream.path(), path) {
            return Found::Stored(known);
        }
        if !stream.may_miss() {
            return Found::Overloaded;
        }
        match stored.recording(stream.path(), path).await {
            Ok(Some(recording)) => {
                stream.did_not_miss();
                Found::Stored(recording)
            }
            Ok(None) => Found::Missing,
            Err(_) => Found::Overloaded,
        }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl ObjectSource for Edge {
    fn find(
        self: &Arc<Self>,
        stream: &StreamPath,
        path: &str,
        query: Option<&str>,
        client: Option<Source>,
    ) -> Found {
        let Some(named) = Named::read(path) else { return Found::Missing };
        let known = self.stream(stream);
        let from_start =
            query.is_some_and(|query| query.split('&').any(|parameter| parameter == "from=START"));
        if let Some(found) = known.as_ref().and_then(|known| self.in_memory(known, named, path, from_start)) {
            return found;
        }
        let is_media = named == Named::Media;
        let (edge, stream, path) = (Arc::clone(self), stream.clone(), path.to_owned());
        let later = async move {
            let stream = match known {
                Some(known) => known,
                None => match Arc::clone(&edge).find_stream(stream, client).await {
                    LookUp::Stream(stream) => stream,
                    // Another edge may have shown the viewer the playlist of a stream that has just begun.
                    LookUp::Nobodys if is_media => return Found::NotNow,
                    LookUp::Nobodys => return Found::Missing,
                    LookUp::Unknown => return Found::Overloaded,
                },
            };
            edge.answer(stream, &path, from_start).await
        };
        Found::Later(later.boxed())
    }

    fn listing(&self) -> Vec<ListedStream> {
        self.shared.places.listing()
    }
}
