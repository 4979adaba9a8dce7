//! Where the objects come from that answer requests: [`ObjectSource`]. An encoder answers from its object cache; an edge
//! answers from encoders and the store ([`crate::edge`]). HTTP does not belong here.

use super::cache::{CachedObject, MULTIVARIANT, ObjectCache, StreamPath, THUMBNAIL, playlist_path};
use futures_util::future::{BoxFuture, FutureExt as _};
use listen::fairness::Source;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectName, Store};
use tokio::sync::watch;

/// A request is held for at most this many target durations (rfc8216bis 6.2.5.2).
pub(super) const HOLD_TARGET_DURATIONS: u32 = 3;

/// Where the objects come from that answer requests.
pub(crate) trait ObjectSource: Send + Sync + 'static {
    /// Looks an object up for a client, without waiting. `path` is relative to the stream, as the client wrote it.
    fn find(
        self: &Arc<Self>,
        stream: &StreamPath,
        path: &str,
        query: Option<&str>,
        client: Option<Source>,
    ) -> Found;

    /// The streams that can be watched live now, ordered by path.
    fn listing(&self) -> Vec<ListedStream>;
}

/// What a source has under a name.
pub(crate) enum Found {
    /// The object.
    Object(Arc<CachedObject>),
    /// A media playlist, on whose next version a request may be held.
    Playlist(watch::Receiver<Arc<CachedObject>>),
    /// An object that is read from the store while it is sent.
    Stored(StoredObject),
    /// Not here yet: the request is held until the future resolves. The future ends within a bounded time and does not
    /// resolve to another `Later`.
    Later(BoxFuture<'static, Found>),
    /// No such object. A shared cache may remember that for a moment.
    Missing,
    /// No such media now: the name may be that of media that is about to exist.
    NotNow,
    /// The source cannot tell: it is asked too much, or what it would ask does not answer. A retry helps.
    Overloaded,
}

/// An object that is too large to be kept in memory.
pub(crate) struct StoredObject {
    /// The store that has it.
    pub(crate) store: Arc<dyn Store>,
    /// Its name there.
    pub(crate) name: ObjectName,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// The value of Content-Type.
    pub(crate) content_type: &'static str,
}

/// One stream in `/streams.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ListedStream {
    /// The application.
    pub(crate) app: String,
    /// The stream's name.
    pub(crate) name: String,
    /// The URL path of the multivariant playlist.
    playlist: String,
    /// The URL path of the thumbnail, if there is one.
    thumbnail: Option<String>,
    /// The stream's start in milliseconds since 1970.
    pub(crate) since_unix_ms: i64,
    /// The configured latency from glass to glass, in seconds.
    latency_secs: f64,
    /// The distance from the live edge that players keep, in seconds.
    hold_back_secs: f64,
    /// The renditions: video from largest to smallest, then audio.
    rungs: Vec<String>,
}

// === impl ObjectSource for ObjectCache ===

impl ObjectSource for ObjectCache {
    fn find(self: &Arc<Self>, stream: &StreamPath, path: &str, _: Option<&str>, _: Option<Source>) -> Found {
        if let Some(versions) = self.follow(stream, path) {
            return Found::Playlist(versions);
        }
        match self.get(stream, path) {
            Some(stored) => Found::Object(stored),
            None => match hinted(self, stream, path) {
                Some(part) => Found::Later(part.complete(Arc::clone(self), stream.clone(), path).boxed()),
                None if is_media(path) => Found::NotNow,
                None => Found::Missing,
            },
        }
    }

    fn listing(&self) -> Vec<ListedStream> {
        let list = |(path, info): (StreamPath, super::StreamInfo)| ListedStream {
            playlist: format!("/{path}/{MULTIVARIANT}"),
            thumbnail: self.get(&path, THUMBNAIL).map(|_| format!("/{path}/{THUMBNAIL}")),
            app: path.app.to_string(),
            name: path.name.to_string(),
            since_unix_ms: info.started.unix_micros() / 1000,
            latency_secs: info.latency_secs,
            hold_back_secs: info.hold_back_secs,
            rungs: info.rungs,
        };
        self.live().into_iter().map(list).collect()
    }
}

/// Whether a path within a stream can be that of a segment, a part or an init segment.
pub(crate) fn is_media(path: &str) -> bool {
    path.ends_with(".m4s") || path.ends_with(".mp4")
}

/// A part that its media playlist hints at.
struct HintedPart {
    versions: watch::Receiver<Arc<CachedObject>>,
    longest: Duration,
}

/// Looks a hinted part up. `None` if the playlist does not hint at the part.
fn hinted(cache: &ObjectCache, stream: &StreamPath, path: &str) -> Option<HintedPart> {
    let (rung, file) = path.split_once('/')?;
    let versions = cache.follow(stream, &playlist_path(rung))?;
    let stored = Arc::clone(&versions.borrow());
    let longest = HOLD_TARGET_DURATIONS * stored.reload.as_ref()?.target_duration;
    // Between the lookup of the part and this one the part may have been added, and the hint moved on.
    let may_come = is_hinted(&stored, file) || cache.get(stream, path).is_some();
    may_come.then_some(HintedPart { versions, longest })
}

fn is_hinted(stored: &CachedObject, file: &str) -> bool {
    stored.reload.as_ref().is_some_and(|reload| reload.hint.as_deref() == Some(file))
}

impl HintedPart {
    /// Waits until the part is complete (rfc8216bis 4.4.5.3). No byte is sent earlier, so that the client measures the
    /// bandwidth of its network and not the speed of the encoder. The part is missing if the segment ended before the
    /// part was made, or if the part is not complete within three target durations.
    fn complete(
        mut self,
        cache: Arc<ObjectCache>,
        stream: StreamPath,
        path: &str,
    ) -> impl Future<Output = Found> + Send + use<> {
        let path = path.to_owned();
        async move {
            let file = path.split_once('/').map_or("", |(_, file)| file);
            // A playlist is replaced only after the part that it newly lists was added. So once the hint has changed,
            // the part either exists or will never exist.
            let moved_on = self.versions.wait_for(|stored| !is_hinted(stored, file));
            let moved_on = matches!(tokio::time::timeout(self.longest, moved_on).await, Ok(Ok(_)));
            let part = if moved_on { cache.get(&stream, &path) } else { None };
            part.map_or(Found::NotNow, Found::Object)
        }
    }
}
