//! What the origin can answer with: objects per stream, in memory. No HTTP here.
//!
//! The library keeps what it is given until it is told to drop it: its size is bounded by the window of whoever fills
//! it. Locks are held for a look-up or an insertion in a map, never while a body is sent: a reader clones a handle to
//! immutable bytes and goes.

use crate::store::{Caching, Object};
use bytes::Bytes;
use hls::WallTime;
use hls::names::is_valid_name;
use hls::presentation::Edge;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
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
    /// For a media playlist whose next version may be waited for.
    pub reload: Option<Reloadable>,
    /// The body compressed, once somebody has asked for it.
    pub(super) gzip: OnceLock<Bytes>,
}

/// What holding a request for a media playlist goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloadable {
    /// Where this version ends.
    pub edge: Edge,
    /// Its EXT-X-TARGETDURATION.
    pub target_duration: Duration,
    /// Its PART-TARGET, where its segments are divided.
    pub part_target: Option<Duration>,
    /// File name of the part that it hints at: a request for it is held.
    pub hint: Option<Arc<str>>,
}

/// Every stream's objects. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Library {
    streams: RwLock<BTreeMap<StreamPath, Arc<Shelf>>>,
}

#[derive(Debug)]
struct Shelf {
    objects: RwLock<HashMap<String, Slot>>,
    info: RwLock<Option<StreamInfo>>,
}

/// One object's place.
#[derive(Debug)]
enum Slot {
    Plain(Arc<Stored>),
    /// A channel for each, so that a waiter wakes for its own playlist's versions and nothing else; it closes (sender
    /// dropped) when the playlist or its stream is removed.
    MediaPlaylist(watch::Sender<Arc<Stored>>),
}

/// Path within a stream of its multivariant playlist.
pub(super) const MULTIVARIANT: &str = "index.m3u8";
/// File name of a rendition's playlist.
pub(super) const MEDIA_PLAYLIST: &str = "index.m3u8";
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

// === impl Slot ===

impl Slot {
    fn stored(&self) -> Arc<Stored> {
        match self {
            Self::Plain(stored) => Arc::clone(stored),
            Self::MediaPlaylist(versions) => Arc::clone(&versions.borrow()),
        }
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
        let stored = Arc::new(Stored { object, etag, reload: None, gzip: OnceLock::new() });
        write(&self.shelf_or_new(stream).objects).insert(path.to_owned(), Slot::Plain(stored));
    }

    /// Adds or replaces a media playlist, and wakes whoever waits for it. Everything that it lists was put before.
    pub fn put_playlist(&self, stream: &StreamPath, path: &str, object: Object, reload: Reloadable) {
        let etag = etag(&object);
        let stored = Arc::new(Stored { object, etag, reload: Some(reload), gzip: OnceLock::new() });
        let shelf = self.shelf_or_new(stream);
        let mut objects = write(&shelf.objects);
        match objects.get(path) {
            // Not `send`, which keeps the old version when nobody waits.
            Some(Slot::MediaPlaylist(versions)) => drop(versions.send_replace(stored)),
            Some(Slot::Plain(_)) | None => {
                objects.insert(path.to_owned(), Slot::MediaPlaylist(watch::Sender::new(stored)));
            }
        }
    }

    /// Drops an object; one that is not there is no error. Answers that are being sent keep its bytes to their end.
    pub fn remove(&self, stream: &StreamPath, path: &str) {
        if let Some(shelf) = self.shelf(stream) {
            write(&shelf.objects).remove(path);
        }
    }

    /// Says what viewers may know about a stream.
    pub fn set_info(&self, stream: &StreamPath, info: StreamInfo) {
        *write(&self.shelf_or_new(stream).info) = Some(info);
    }

    /// Drops a stream with all its objects; whoever follows one of its playlists sees the end.
    pub fn remove_stream(&self, stream: &StreamPath) {
        write(&self.streams).remove(stream);
    }

    /// An object.
    pub fn get(&self, stream: &StreamPath, path: &str) -> Option<Arc<Stored>> {
        read(&self.shelf(stream)?.objects).get(path).map(Slot::stored)
    }

    /// Follows a media playlist: the value is its newest version, the channel closes when it is removed or its stream
    /// is. `None` for what was not put with [`Library::put_playlist`].
    pub fn follow(&self, stream: &StreamPath, path: &str) -> Option<watch::Receiver<Arc<Stored>>> {
        match read(&self.shelf(stream)?.objects).get(path)? {
            Slot::Plain(_) => None,
            Slot::MediaPlaylist(versions) => Some(versions.subscribe()),
        }
    }

    /// How many follow a media playlist.
    #[cfg(test)]
    pub(super) fn followers(&self, stream: &StreamPath, path: &str) -> usize {
        let shelf = self.shelf(stream).unwrap();
        match read(&shelf.objects).get(path) {
            Some(Slot::MediaPlaylist(versions)) => versions.receiver_count(),
            Some(Slot::Plain(_)) | None => 0,
        }
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
            read(&shelf.objects).values().map(|slot| slot.stored().object.body.len() as u64).sum()
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
        Arc::clone(
            write(&self.streams)
                .entry(stream.clone())
                .or_insert_with(|| Arc::new(Shelf { objects: RwLock::default(), info: RwLock::default() })),
        )
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
    async fn whoever_follows_a_playlist_sees_its_versions_alone_and_its_end() {
        let library = Library::new();
        let stream = StreamPath::new("live", "demo").unwrap();
        let put = |rung: &str, last_sequence, text| {
            let reload = Reloadable {
                edge: Edge { last_sequence, last_parts: 0, open_parts: 0, ended: false },
                target_duration: Duration::from_secs(1),
                part_target: None,
                hint: None,
            };
            library.put_playlist(&stream, rung, playlist(text), reload);
        };
        assert!(library.follow(&stream, "720p").is_none());
        library.put(&stream, MULTIVARIANT, playlist("m"));
        assert!(library.follow(&stream, MULTIVARIANT).is_none(), "nothing to wait for");
        put("720p", 1, "1");
        let mut versions = library.follow(&stream, "720p").unwrap();
        assert_eq!(&versions.borrow_and_update().object.body[..], b"1");
        put("360p", 1, "other");
        library.put(&stream, "720p/1.m4s", playlist("media"));
        assert!(!versions.has_changed().unwrap(), "woken for nothing");
        put("720p", 2, "2");
        versions.changed().await.unwrap();
        assert_eq!(versions.borrow_and_update().reload.as_ref().unwrap().edge.last_sequence, 2);
        assert_eq!(&library.get(&stream, "720p").unwrap().object.body[..], b"2");
        library.remove_stream(&stream);
        assert!(versions.changed().await.is_err(), "closed");
        assert!(library.get(&stream, "720p").is_none());
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
