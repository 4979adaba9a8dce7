//! The object cache of the origin: the objects of all streams, in memory. HTTP does not belong here.
//!
//! The cache keeps every object until the caller removes it, so its size is bounded by the playlist windows of the
//! streams that fill it. Locks are held for a look-up or an insertion in a map, never while a body is sent: a reader
//! clones a handle to immutable bytes and releases the lock.

use bytes::Bytes;
use hls::presentation::Edge;
use media::{WallTime, is_valid_name};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use store::{Caching, Object};
use tokio::sync::watch;

/// `{app}/{name}`: the path of a stream. It holds no secret: it contains the stream's name, not the publishing key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPath {
    /// The application, a valid name.
    pub app: Arc<str>,
    /// The stream, a valid name.
    pub name: Arc<str>,
}

/// Information about a stream that viewers may see before playback.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamInfo {
    /// Whether media is still being added.
    pub live: bool,
    /// When the stream began.
    pub started: WallTime,
    /// The renditions as in the playlists: video from largest to smallest, then audio.
    pub rungs: Vec<String>,
    /// The configured glass-to-glass latency in seconds.
    pub latency_secs: f64,
    /// The distance from the live edge that players are to keep, in seconds (HOLD-BACK).
    pub hold_back_secs: f64,
}

/// An object with its ETag and its reload state.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// Body, content type and caching.
    pub object: Object,
    /// The ETag, with quotes; weak if the object may be sent compressed, because the bytes on the wire differ then
    /// (RFC 9110 8.8.1).
    pub etag: Arc<str>,
    /// Set for a media playlist, on whose next version a request may be held.
    pub reload: Option<Reloadable>,
    /// The compressed body, once a request has asked for gzip.
    pub(super) gzip: OnceLock<Bytes>,
}

/// The properties of a media playlist that decide how long a request is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloadable {
    /// The last segment and part that this version lists.
    pub edge: Edge,
    /// The playlist's EXT-X-TARGETDURATION.
    pub target_duration: Duration,
    /// The playlist's PART-TARGET, if its segments have parts.
    pub part_target: Option<Duration>,
    /// The file name of the part in the preload hint: a request for that part is held.
    pub hint: Option<Arc<str>>,
}

/// The objects of all streams. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct ObjectCache {
    streams: RwLock<BTreeMap<StreamPath, Arc<StreamObjects>>>,
}

#[derive(Debug)]
struct StreamObjects {
    objects: RwLock<HashMap<String, CacheSlot>>,
    info: RwLock<Option<StreamInfo>>,
}

/// The entry of one object.
#[derive(Debug)]
enum CacheSlot {
    Plain(Arc<CachedObject>),
    /// Each media playlist has its own channel, so that a waiting request wakes only for versions of its playlist.
    /// The channel closes (its sender is dropped) when the playlist or its stream is removed.
    MediaPlaylist(watch::Sender<Arc<CachedObject>>),
}

/// The path of the multivariant playlist within a stream.
pub(crate) const MULTIVARIANT: &str = "index.m3u8";
/// The file name of a media playlist within its rendition's folder.
pub(crate) const MEDIA_PLAYLIST: &str = "index.m3u8";
/// The path of the thumbnail within a stream that has one.
pub(crate) const THUMBNAIL: &str = "thumb.jpg";

/// The path of a rendition's media playlist within its stream.
pub(crate) fn playlist_path(rung: &str) -> String {
    format!("{rung}/{MEDIA_PLAYLIST}")
}

// === impl StreamPath ===

impl StreamPath {
    /// Checks both parts: 1 to 64 characters of `A-Za-z0-9_-`.
    pub fn new(app: &str, name: &str) -> Result<Self, hls::names::InvalidName> {
        if is_valid_name(app) && is_valid_name(name) {
            Ok(Self { app: app.into(), name: name.into() })
        } else {
            Err(hls::names::InvalidName)
        }
    }
}

impl fmt::Display for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

// === impl CachedObject ===

impl CachedObject {
    /// An object with its ETag; `reload` for a media playlist.
    pub(crate) fn new(object: Object, reload: Option<Reloadable>) -> Self {
        let etag = etag(&object);
        Self { object, etag, reload, gzip: OnceLock::new() }
    }
}

// === impl CacheSlot ===

impl CacheSlot {
    fn stored(&self) -> Arc<CachedObject> {
        match self {
            Self::Plain(stored) => Arc::clone(stored),
            Self::MediaPlaylist(versions) => Arc::clone(&versions.borrow()),
        }
    }
}

// === impl Library ===

impl ObjectCache {
    /// An empty object cache.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds or replaces an object; `path` is relative to the stream (`720p/index.m3u8`). The first object creates the
    /// stream's entry.
    pub fn put(&self, stream: &StreamPath, path: &str, object: Object) {
        let stored = Arc::new(CachedObject::new(object, None));
        write(&self.stream_objects_or_new(stream).objects).insert(path.to_owned(), CacheSlot::Plain(stored));
    }

    /// Adds or replaces a media playlist and wakes the requests that wait for it. Everything that the playlist lists
    /// must have been added before.
    pub fn put_playlist(&self, stream: &StreamPath, path: &str, object: Object, reload: Reloadable) {
        let stored = Arc::new(CachedObject::new(object, Some(reload)));
        let stream_objects = self.stream_objects_or_new(stream);
        let mut objects = write(&stream_objects.objects);
        match objects.get(path) {
            // Not `send`, which keeps the old version when there is no receiver.
            Some(CacheSlot::MediaPlaylist(versions)) => drop(versions.send_replace(stored)),
            Some(CacheSlot::Plain(_)) | None => {
                objects.insert(path.to_owned(), CacheSlot::MediaPlaylist(watch::Sender::new(stored)));
            }
        }
    }

    /// Removes an object; a missing object is no error. Answers in progress keep the object's bytes until they end.
    pub fn remove(&self, stream: &StreamPath, path: &str) {
        if let Some(stream_objects) = self.stream_objects(stream) {
            write(&stream_objects.objects).remove(path);
        }
    }

    /// Sets the information about a stream that viewers may see.
    pub fn set_info(&self, stream: &StreamPath, info: StreamInfo) {
        *write(&self.stream_objects_or_new(stream).info) = Some(info);
    }

    /// Removes a stream with all its objects; requests that follow one of its playlists see the channel close.
    pub fn remove_stream(&self, stream: &StreamPath) {
        write(&self.streams).remove(stream);
    }

    /// Returns an object.
    pub fn get(&self, stream: &StreamPath, path: &str) -> Option<Arc<CachedObject>> {
        read(&self.stream_objects(stream)?.objects).get(path).map(CacheSlot::stored)
    }

    /// Follows a media playlist: the channel holds its newest version and closes when the playlist or its stream is
    /// removed. `None` for objects that were not added with [`ObjectCache::put_playlist`].
    pub fn follow(&self, stream: &StreamPath, path: &str) -> Option<watch::Receiver<Arc<CachedObject>>> {
        match read(&self.stream_objects(stream)?.objects).get(path)? {
            CacheSlot::Plain(_) => None,
            CacheSlot::MediaPlaylist(versions) => Some(versions.subscribe()),
        }
    }

    /// The number of receivers that follow a media playlist.
    pub(crate) fn followers(&self, stream: &StreamPath, path: &str) -> usize {
        let Some(stream_objects) = self.stream_objects(stream) else { return 0 };
        match read(&stream_objects.objects).get(path) {
            Some(CacheSlot::MediaPlaylist(versions)) => versions.receiver_count(),
            Some(CacheSlot::Plain(_)) | None => 0,
        }
    }

    /// Returns the information about a stream.
    pub fn info(&self, stream: &StreamPath) -> Option<StreamInfo> {
        read(&self.stream_objects(stream)?.info).clone()
    }

    /// The streams that can be watched live now, ordered by path.
    pub fn live(&self) -> Vec<(StreamPath, StreamInfo)> {
        let all_objects: Vec<_> = read(&self.streams)
            .iter()
            .map(|(path, stream_objects)| (path.clone(), Arc::clone(stream_objects)))
            .collect();
        all_objects
            .into_iter()
            .filter(|(_, stream_objects)| read(&stream_objects.objects).contains_key(MULTIVARIANT))
            .filter_map(|(path, stream_objects)| read(&stream_objects.info).clone().map(|info| (path, info)))
            .filter(|(_, info)| info.live)
            .collect()
    }

    /// The total size of all bodies in bytes, for the metrics.
    pub fn total_bytes(&self) -> u64 {
        let all_objects: Vec<_> = read(&self.streams).values().cloned().collect();
        let bytes = |stream_objects: &StreamObjects| -> u64 {
            read(&stream_objects.objects).values().map(|slot| slot.stored().object.body.len() as u64).sum()
        };
        all_objects.iter().map(|stream_objects| bytes(stream_objects)).sum()
    }

    /// The number of streams with an entry, for tests.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        read(&self.streams).len()
    }

    fn stream_objects(&self, stream: &StreamPath) -> Option<Arc<StreamObjects>> {
        read(&self.streams).get(stream).cloned()
    }

    fn stream_objects_or_new(&self, stream: &StreamPath) -> Arc<StreamObjects> {
        if let Some(stream_objects) = self.stream_objects(stream) {
            return stream_objects;
        }
        Arc::clone(write(&self.streams).entry(stream.clone()).or_insert_with(|| {
            Arc::new(StreamObjects { objects: RwLock::default(), info: RwLock::default() })
        }))
    }
}

/// Derived from the content, so that the same bytes have the same ETag after a restart.
fn etag(object: &Object) -> Arc<str> {
    let mut hasher = DefaultHasher::new();
    object.body.hash(&mut hasher);
    let weak = match object.caching {
        Caching::Immutable => "",
        Caching::None => "W/",
    };
    format!("{weak}\"{:016x}-{:x}\"", hasher.finish(), object.body.len()).into()
}

// No panic can happen while one of the locks is held: the code only moves finished values in and out of maps. Even
// after a panic the maps would be consistent.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::content_type;

    fn playlist(body: &'static str) -> Object {
        Object { body: body.into(), content_type: content_type::PLAYLIST, caching: Caching::None }
    }

    #[tokio::test]
    async fn whoever_follows_a_playlist_sees_its_versions_alone_and_its_end() {
        let cache = ObjectCache::new();
        let stream = StreamPath::new("live", "demo").unwrap();
        let put = |rung: &str, last_sequence, text| {
            let reload = Reloadable {
                edge: Edge { last_sequence, last_parts: 0, open_parts: 0, ended: false },
                target_duration: Duration::from_secs(1),
                part_target: None,
                hint: None,
            };
            cache.put_playlist(&stream, rung, playlist(text), reload);
        };
        assert!(cache.follow(&stream, "720p").is_none());
        cache.put(&stream, MULTIVARIANT, playlist("m"));
        assert!(cache.follow(&stream, MULTIVARIANT).is_none(), "nothing to wait for");
        put("720p", 1, "1");
        let mut versions = cache.follow(&stream, "720p").unwrap();
        assert_eq!(&versions.borrow_and_update().object.body[..], b"1");
        put("360p", 1, "other");
        cache.put(&stream, "720p/1.m4s", playlist("media"));
        assert!(!versions.has_changed().unwrap(), "woken for nothing");
        put("720p", 2, "2");
        versions.changed().await.unwrap();
        assert_eq!(versions.borrow_and_update().reload.as_ref().unwrap().edge.last_sequence, 2);
        assert_eq!(&cache.get(&stream, "720p").unwrap().object.body[..], b"2");
        cache.remove_stream(&stream);
        assert!(versions.changed().await.is_err(), "closed");
        assert!(cache.get(&stream, "720p").is_none());
    }

    #[test]
    fn only_streams_with_a_playlist_and_media_to_come_are_live() {
        let cache = ObjectCache::new();
        let info = StreamInfo {
            live: true,
            started: WallTime::from_unix_micros(0),
            rungs: vec![],
            latency_secs: 4.0,
            hold_back_secs: 3.0,
        };
        let path = StreamPath::new("live", "demo").unwrap();
        cache.set_info(&path, info.clone());
        assert_eq!(cache.live(), [], "nothing to play yet");
        cache.put(&path, MULTIVARIANT, playlist("1"));
        assert_eq!(cache.live(), [(path.clone(), info.clone())]);
        cache.set_info(&path, StreamInfo { live: false, ..info });
        assert_eq!(cache.live(), [], "ended");
        assert!(cache.get(&path, MULTIVARIANT).is_some(), "and still readable");
    }
}
