//! What the origin can answer with: objects per stream, in memory. No HTTP here.
//!
//! The library keeps what it is given until it is told to drop it: its size is bounded by the window of whoever fills
//! it. Locks are held for a look-up or an insertion in a map, never while a body is sent: a reader clones a handle to
//! immutable bytes and goes.

use crate::store::{Caching, Object};
use hls::WallTime;
use hls::names::is_valid_name;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// `{app}/{name}`: where a stream lives. Holds no secret: it is the name, not the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPath {
    /// Application, a valid name.
    pub app: Arc<str>,
    /// Stream, a valid name.
    pub name: Arc<str>,
}

/// What viewers may know about a stream before they play it.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamInfo {
    /// Whether media is still being added.
    pub live: bool,
    /// When it began.
    pub started: WallTime,
    /// Renditions as in the playlists, video from largest to smallest, then audio.
    pub rungs: Vec<String>,
    /// Seconds from glass to glass that the encoder was set to.
    pub latency_secs: f64,
    /// Seconds behind the live edge that players are told to keep (HOLD-BACK).
    pub hold_back_secs: f64,
}

/// An object and what a validator needs.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Bytes, type and caching.
    pub object: Object,
    /// ETag with quotes; weak for what may be sent compressed, for the bytes on the wire differ then (RFC 9110 8.8.1).
    pub etag: Arc<str>,
}

/// Every stream's objects. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Library {
    streams: RwLock<BTreeMap<StreamPath, Arc<Shelf>>>,
}

#[derive(Debug)]
struct Shelf {
    objects: RwLock<HashMap<String, Arc<Stored>>>,
    info: RwLock<Option<StreamInfo>>,
    /// Grows with every put and removal; ends (sender dropped) with the stream.
    version: watch::Sender<u64>,
}

/// Path within a stream of its multivariant playlist.
pub(super) const MULTIVARIANT: &str = "index.m3u8";
/// Path within a stream of its picture, where there is one.
pub(super) const THUMBNAIL: &str = "thumb.jpg";

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

// === impl Library ===

impl Library {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds or replaces an object; `path` is relative to the stream (`720p/index.m3u8`). The stream appears with its
    /// first object.
    pub fn put(&self, stream: &StreamPath, path: &str, object: Object) {
        let etag = etag(&object);
        let stored = Arc::new(Stored { object, etag });
        let shelf = self.shelf_or_new(stream);
        write(&shelf.objects).insert(path.to_owned(), stored);
        shelf.version.send_modify(|version| *version += 1);
    }

    /// Drops an object; one that is not there is no error. Answers that are being sent keep its bytes to their end.
    pub fn remove(&self, stream: &StreamPath, path: &str) {
        if let Some(shelf) = self.shelf(stream)
            && write(&shelf.objects).remove(path).is_some()
        {
            shelf.version.send_modify(|version| *version += 1);
        }
    }

    /// Says what viewers may know about a stream.
    pub fn set_info(&self, stream: &StreamPath, info: StreamInfo) {
        *write(&self.shelf_or_new(stream).info) = Some(info);
    }

    /// Drops a stream with all its objects; whoever follows its version sees the end.
    pub fn remove_stream(&self, stream: &StreamPath) {
        write(&self.streams).remove(stream);
    }

    /// An object.
    pub fn get(&self, stream: &StreamPath, path: &str) -> Option<Arc<Stored>> {
        read(&self.shelf(stream)?.objects).get(path).cloned()
    }

    /// Follows a stream: the value changes with every put and removal, the channel closes with the stream.
    pub fn watch(&self, stream: &StreamPath) -> Option<watch::Receiver<u64>> {
        Some(self.shelf(stream)?.version.subscribe())
    }

    /// What is known about a stream.
    pub fn info(&self, stream: &StreamPath) -> Option<StreamInfo> {
        read(&self.shelf(stream)?.info).clone()
    }

    /// Streams that can be watched live now, by path.
    pub fn live(&self) -> Vec<(StreamPath, StreamInfo)> {
        let shelves: Vec<_> =
            read(&self.streams).iter().map(|(path, shelf)| (path.clone(), Arc::clone(shelf))).collect();
        shelves
            .into_iter()
            .filter(|(_, shelf)| read(&shelf.objects).contains_key(MULTIVARIANT))
            .filter_map(|(path, shelf)| read(&shelf.info).clone().map(|info| (path, info)))
            .filter(|(_, info)| info.live)
            .collect()
    }

    /// Bytes of all bodies, for the metrics.
    pub fn total_bytes(&self) -> u64 {
        let shelves: Vec<_> = read(&self.streams).values().cloned().collect();
        let bytes = |shelf: &Shelf| -> u64 {
            read(&shelf.objects).values().map(|stored| stored.object.body.len() as u64).sum()
        };
        shelves.iter().map(|shelf| bytes(shelf)).sum()
    }

    fn shelf(&self, stream: &StreamPath) -> Option<Arc<Shelf>> {
        read(&self.streams).get(stream).cloned()
    }

    fn shelf_or_new(&self, stream: &StreamPath) -> Arc<Shelf> {
        if let Some(shelf) = self.shelf(stream) {
            return shelf;
        }
        Arc::clone(write(&self.streams).entry(stream.clone()).or_insert_with(|| {
            Arc::new(Shelf {
                objects: RwLock::default(),
                info: RwLock::default(),
                version: watch::Sender::new(0),
            })
        }))
    }
}

/// From the content, so that the same bytes have the same tag after a restart.
fn etag(object: &Object) -> Arc<str> {
    let mut hasher = DefaultHasher::new();
    object.body.hash(&mut hasher);
    let weak = match object.caching {
        Caching::Immutable => "",
        Caching::None => "W/",
    };
    format!("{weak}\"{:016x}-{:x}\"", hasher.finish(), object.body.len()).into()
}

// A panic cannot happen while one of the locks is held: map operations on values that are already built. Were it to
// happen all the same, the maps are whole.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::content_type;

    fn playlist(body: &'static str) -> Object {
        Object { body: body.into(), content_type: content_type::PLAYLIST, caching: Caching::None }
    }

    #[tokio::test]
    async fn whoever_follows_a_stream_sees_changes_and_its_end() {
        let library = Library::new();
        let path = StreamPath::new("live", "demo").unwrap();
        assert!(library.watch(&path).is_none());
        library.put(&path, MULTIVARIANT, playlist("1"));
        let mut versions = library.watch(&path).unwrap();
        let before = *versions.borrow_and_update();
        library.put(&path, MULTIVARIANT, playlist("2"));
        versions.changed().await.unwrap();
        assert!(*versions.borrow_and_update() > before);
        library.remove_stream(&path);
        assert!(versions.changed().await.is_err(), "closed");
        assert!(library.get(&path, MULTIVARIANT).is_none());
    }

    #[test]
    fn only_streams_with_a_playlist_and_media_to_come_are_live() {
        let library = Library::new();
        let info = StreamInfo {
            live: true,
            started: WallTime::from_unix_micros(0),
            rungs: vec![],
            latency_secs: 4.0,
            hold_back_secs: 3.0,
        };
        let path = StreamPath::new("live", "demo").unwrap();
        library.set_info(&path, info.clone());
        assert_eq!(library.live(), [], "nothing to play yet");
        library.put(&path, MULTIVARIANT, playlist("1"));
        assert_eq!(library.live(), [(path.clone(), info.clone())]);
        library.set_info(&path, StreamInfo { live: false, ..info });
        assert_eq!(library.live(), [], "ended");
        assert!(library.get(&path, MULTIVARIANT).is_some(), "and still readable");
    }
}
