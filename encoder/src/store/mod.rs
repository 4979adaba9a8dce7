//! Where segments and playlists are kept: the trait, and its errors. Order, pacing, retry and acknowledgement are in
//! [`crate::publish`]; what to write is decided by `hls`.

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub mod dir;
pub mod memory;

#[cfg(test)]
mod contract;

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
}

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A passing fault of the store or the way to it: the same call may go through later.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The object exists and was asked not to.
    #[error("object exists already")]
    Exists,
    /// The store is full or read-only, or credentials or set-up are wrong: a retry does not help, an operator does.
    #[error("store refuses: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Exists | Self::Refused(_) => false,
        }
    }
}

/// A store's answer, some time later.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps objects under names.
pub trait Store: Send + Sync + 'static {
    /// Writes an object whose name is never reused; readers see all of it or nothing.
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Writes an object over its former version; readers see the old or the new one whole.
    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()>;

    /// Removes an object; removing what is not there succeeds.
    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()>;

    /// Where the objects are, for logs and people.
    fn location(&self) -> String;
}
