//! Where segments and playlists are kept: the trait, and its errors. Order, pacing, retry and acknowledgement are in
//! [`crate::publish`]; what to write is decided by `hls`.
//!
//! What all stores have in common is in [`Store`]'s documentation and tested by [`contract`]: a bucket, a directory and
//! memory behave alike, so that nothing above them asks which one it has.

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

#[doc(hidden)]
pub mod contract;
pub mod dir;
pub mod gcs;
pub mod memory;
pub mod newest;

/// Sources of one [`Store::compose`] at most (Cloud Storage's bound; what is larger is composed of composites).
pub const MAX_SOURCES: usize = 32;

/// Names in one answer of [`Store::list`] at most.
pub const MAX_LISTED: usize = 1000;

/// Names an object below the store's root: `{app}/{name}/{rung}/{file}`, every part a valid name or file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Takes a relative path of plain parts. Panics in debug builds when a part is empty, `.` or `..`: names are made
    /// from checked parts only.
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        debug_assert!(
            path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."),
            "object names are made from checked parts: {path}"
        );
        Self(path)
    }

    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long others may keep a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Names never reused: for ever.
    Immutable,
    /// Rewritten: not at all.
    None,
}

impl Caching {
    /// The Cache-Control header's value.
    pub const fn cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::None => "no-cache, no-store, max-age=0",
        }
    }
}

/// An object to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub body: Bytes,
    /// Content-Type.
    pub content_type: &'static str,
    /// Cache-Control.
    pub caching: Caching,
}

/// Content types (Apple HLS authoring specification 10.4).
pub mod content_type {
    /// Playlists.
    pub const PLAYLIST: &str = "application/vnd.apple.mpegurl";
    /// Media segments of video.
    pub const VIDEO_SEGMENT: &str = "video/iso.segment";
    /// Init segments of video.
    pub const VIDEO_INIT: &str = "video/mp4";
    /// Init and media segments of audio.
    pub const AUDIO: &str = "audio/mp4";
    /// Pictures.
    pub const JPEG: &str = "image/jpeg";
    /// Pictures and sound in one file.
    pub const MP4: &str = "video/mp4";
    /// A few words.
    pub const TEXT: &str = "text/plain";
    /// What programs keep for each other.
    pub const JSON: &str = "application/json";
}

/// Which writing of an object it is. Later ones of the same name are greater, across removals as well (Cloud Storage's
/// generation). Nothing else follows from the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(i64);

impl Version {
    /// From the number that [`Version::number`] gave, perhaps to another process.
    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number, to be kept somewhere.
    pub const fn number(self) -> i64 {
        self.0
    }
}

/// What must be under a name for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// This version.
    Version(Version),
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which version.
    pub version: Version,
    /// Its bytes.
    pub body: Bytes,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes' number.
    pub size: u64,
}

/// Why a store did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A passing fault of the store or the way to it: the same call may go through later. Whether the call was carried
    /// out is not known.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// Another object is under the name, which was to be unused.
    #[error("the name is taken by something else")]
    Exists,
    /// What is under the name is not what was expected.
    #[error("the object is another version than expected")]
    Changed,
    /// An object to be read from is not there.
    #[error("there is no such object")]
    Missing,
    /// The store is full or read-only, or credentials or set-up are wrong: a retry does not help, an operator does.
    #[error("store refuses: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Exists | Self::Changed | Self::Missing | Self::Refused(_) => false,
        }
    }
}

/// One attempt, given up after so long. It may still be carried out.
///
/// # Errors
/// The attempt's own, and [`StoreError::Unavailable`] when it is given up.
pub async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("no answer within {:.1} s", limit.as_secs_f64())))
    })
}

/// A store's answer, some time later.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps objects under names.
///
/// Every call is one attempt: whoever calls decides how long to wait and whether to try again. A call that was given up
/// may still be carried out. So each of them does no harm when it is made twice, but for [`Store::replace`], whose older
/// version may come late and win; [`Store::replace_if`] has no such window.
pub trait Store: Send + Sync + 'static {
    /// Writes an object whose name is never reused; readers see all of it or nothing. Succeeds as well when the very
    /// same bytes are there already, because an earlier attempt's answer may have been lost; other bytes are
    /// [`StoreError::Exists`].
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Writes an object over whatever has the name; readers see the old or the new one whole.
    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Writes an object if what has its name is as expected, else [`StoreError::Changed`]; of many who expect the same,
    /// in whichever process, exactly one wins. After an attempt without an answer the object may be the caller's own:
    /// [`Store::read`] tells.
    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version>;

    /// Reads an object that is small (a playlist, some state): all of it is held in memory. `None` when there is none.
    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>>;

    /// Reads a range of an object's bytes, fewer where it ends before; nothing of the rest is transferred. `None` when
    /// there is no such object. For ranges that are small: all of it is held in memory.
    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>>;

    /// What is below a folder at any depth, in the order of the names' bytes, behind `after`: [`MAX_LISTED`] at most. An
    /// empty answer is the end.
    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>>;

    /// Makes one object of several, 1 to [`MAX_SOURCES`], in their order, over whatever has the target's name. No byte
    /// passes through this process where the store can do without. A source that is not there is
    /// [`StoreError::Missing`], and nothing is written then.
    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()>;

    /// Makes a second object of the same bytes, content type and caching, over whatever has the target's name, as
    /// [`Store::compose`] does.
    fn copy<'a>(&'a self, target: &'a ObjectName, source: &'a ObjectName) -> StoreFuture<'a, ()>;

    /// Removes an object; removing what is not there succeeds.
    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()>;

    /// Between the starts of two writes of one name at least; more often is refused or slowed down.
    fn rewrite_interval(&self) -> Duration;

    /// Where the objects are, for logs and people.
    fn location(&self) -> String;
}
