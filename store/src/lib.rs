//! The store that keeps segments and playlists: the trait and its errors. Order, pacing, retry and acknowledgement
//! belong to the callers; `hls` decides what to write.
//!
//! What all stores have in common is stated in the documentation of [`Store`] and tested by one contract: a bucket, a
//! directory and memory behave alike, so callers need not know which kind of store they use.
#![forbid(unsafe_code)]

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod dir;
pub mod gcs;
pub mod latest;
mod location;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod spread;

pub use location::{Location, OpenError, StoreFinding};

/// Most sources of one [`Store::compose`] (Cloud Storage's limit; larger objects are composed from composites).
pub const MAX_SOURCES: usize = 32;

/// Most names in one answer of [`Store::list`].
pub const MAX_LISTED: usize = 1000;

/// The name of an object below the store's root: `{app}/{name}/{rung}/{file}`, where every part is a valid name or
/// file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Takes a relative path. Panics in debug builds when a part of the path is empty, `.` or `..`: names are made
    /// from checked parts only.
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        debug_assert!(
            path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."),
            "object names are made from checked parts: {path}"
        );
        Self(path)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long caches may keep a copy of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// For names that are never reused: a year, `immutable`.
    Immutable,
    /// For objects that are rewritten: not cacheable.
    None,
}

impl Caching {
    /// The value of the Cache-Control header.
    pub const fn cache_control(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::None => "no-cache, no-store, max-age=0",
        }
    }
}

/// An object to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The object's bytes.
    pub body: Bytes,
    /// The value of Content-Type.
    pub content_type: &'static str,
    /// How long caches may keep the object.
    pub caching: Caching,
}

/// Content types (Apple HLS authoring specification 10.4).
pub mod content_type {
    /// Playlists.
    pub const PLAYLIST: &str = "application/vnd.apple.mpegurl";
    /// Video media segments.
    pub const VIDEO_SEGMENT: &str = "video/iso.segment";
    /// Video init segments.
    pub const VIDEO_INIT: &str = "video/mp4";
    /// Audio init and media segments.
    pub const AUDIO: &str = "audio/mp4";
    /// JPEG pictures.
    pub const JPEG: &str = "image/jpeg";
    /// Video and audio in one MP4 file.
    pub const MP4: &str = "video/mp4";
    /// Plain text.
    pub const TEXT: &str = "text/plain";
    /// State that programs keep for each other.
    pub const JSON: &str = "application/json";
}

/// Identifies one write of an object. A version is opaque: callers get it from a store, compare it, and give it back to
/// the same store. Later writes of the same name have greater versions, even if the object was removed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(i64);

impl Version {
    /// Makes a version from what the store behind it counts writes with.
    pub(crate) const fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number, for the store that made the version.
    pub(crate) const fn number(self) -> i64 {
        self.0
    }

    /// Makes a version for a store that another crate has for its tests.
    #[cfg(any(test, feature = "testing"))]
    pub const fn of_test_store(number: i64) -> Self {
        Self(number)
    }

    /// The number of a version made by [`Version::of_test_store`], for the same store.
    #[cfg(any(test, feature = "testing"))]
    pub const fn in_test_store(self) -> i64 {
        self.0
    }
}

/// The precondition of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No object has the name.
    Absent,
    /// The object has this version.
    Version(Version),
}

/// An object that was read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version that was read.
    pub version: Version,
    /// The object's bytes.
    pub body: Bytes,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The object's name.
    pub name: ObjectName,
    /// The object's size in bytes.
    pub size: u64,
}

/// Why a store did not carry out a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A passing fault of the store or of the network: the same call may succeed later. It is unknown whether the
    /// call was carried out.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// Another object already has the name, which was expected to be unused.
    #[error("the name is taken by something else")]
    Exists,
    /// The precondition failed: the object has another version than expected.
    #[error("the object is another version than expected")]
    Changed,
    /// The object to read does not exist.
    #[error("there is no such object")]
    Missing,
    /// The store is full or read-only, or the credentials or the configuration are wrong: a retry does not help, an
    /// operator has to act.
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

/// Runs one attempt and gives it up after `limit`. An attempt that was given up may still be carried out.
///
/// # Errors
/// The attempt's own error, or [`StoreError::Unavailable`] when the attempt is given up.
pub async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("no answer within {:.1} s", limit.as_secs_f64())))
    })
}

/// The future of a store's answer.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps objects under names.
///
/// Every call is one attempt: the caller decides how long to wait and whether to retry. A call that was given up may
/// still be carried out. Every call is therefore harmless when made twice, except [`Store::replace`], whose older
/// version may arrive late and win; [`Store::replace_if`] has no such window.
pub trait Store: Send + Sync + 'static {
    /// Writes an object whose name is never reused; readers see the complete object or nothing. Also succeeds when
    /// the same bytes are already stored under the name, because the answer to an earlier attempt may have been lost.
    /// Other bytes under the name are [`StoreError::Exists`].
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Writes an object, replacing any object of that name; readers see the old or the new object complete.
    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Writes an object if the precondition `expected` holds, otherwise fails with [`StoreError::Changed`]. Of
    /// several concurrent callers with the same precondition, in any process, exactly one wins. After an attempt
    /// without an answer the stored object may be the caller's own: check with [`Store::read`].
    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version>;

    /// Reads a small object (a playlist, some state) completely into memory. `None` when the object does not exist.
    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>>;

    /// Reads a range of an object's bytes into memory, so the range should be small. Returns fewer bytes where the
    /// object ends earlier; bytes outside the range are not transferred. `None` when the object does not exist.
    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>>;

    /// Lists the objects below a folder at any depth, in byte order of their names, starting after `after`: at most
    /// [`MAX_LISTED`]. An empty answer means the end.
    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>>;

    /// Composes one object from 1 to [`MAX_SOURCES`] sources, in their order, replacing any object named `target`.
    /// The bytes do not pass through this process where the store can avoid it. If a source does not exist, the call
    /// fails with [`StoreError::Missing`] and writes nothing.
    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()>;

    /// Removes an object; removing an object that does not exist succeeds.
    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()>;

    /// The minimum interval between the starts of two writes of one name; the store refuses or delays faster writes.
    fn rewrite_interval(&self) -> Duration;

    /// The store's location, for logs and operators.
    fn location(&self) -> String;

    /// The location below which an object is: of several buckets, the object's own.
    fn location_of(&self, _name: &ObjectName) -> String {
        self.location()
    }
}
