//! Answers from the store: the stored playlists of a stream that no encoder has, its archive, and media that encoders no
//! longer have in memory. When the store is asked belongs in [`super::stream`].

use super::objects::Outcome;
use crate::archive;
use crate::archive::names::FOLDER;
use crate::origin::cache::{MEDIA_PLAYLIST, MULTIVARIANT, THUMBNAIL};
use crate::origin::source::StoredObject;
use crate::origin::{CachedObject, StreamPath};
use bytes::Bytes;
use media::{MediaSpan, WallTime};
use metrics::counter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Duration;
use store::{Caching, Object, ObjectName, Store, StoreError, content_type};
use tracing::debug;

/// Time-out of reading a playlist.
const TEXT_WITHIN: Duration = Duration::from_secs(3);
/// Time-out of reading a segment.
const MEDIA_WITHIN: Duration = Duration::from_secs(10);

/// How long before the last claim a broadcast may have begun: two days, negative.
const LONGEST_BROADCAST: MediaSpan = MediaSpan::from_millis(-48 * 3_600_000);

/// Recordings whose length is remembered: each is asked for again and again, in ranges.
const MOST_RECORDINGS: usize = 4096;

/// The store, read only.
#[derive(Clone)]
pub(super) struct StoredStreams {
    store: Arc<dyn Store>,
    /// The lengths of recordings, which are never written again.
    recordings: Arc<Cache<ObjectName, u64>>,
}

/// What a path within a stream names. Other paths name nothing: neither encoder nor store is asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The multivariant playlist.
    Multivariant,
    /// A rung's media playlist.
    Playlist(&'a str),
    /// A segment, a part or an init segment.
    Media,
    /// The thumbnail.
    Picture,
    /// A playlist of an archive.
    ArchivePlaylist,
    /// A recording: an archive's MP4.
    Recording,
}

impl<'a> Named<'a> {
    /// Reads a path.
    pub(super) fn read(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.splitn(4, '/').collect();
        match parts[..] {
            [MULTIVARIANT] => Some(Self::Multivariant),
            [THUMBNAIL] => Some(Self::Picture),
            [FOLDER, session, file] if media::is_valid_name(session) && is_file(file) => {
                match file.rsplit_once('.')? {
                    (_, "m3u8") => Some(Self::ArchivePlaylist),
                    (name, "mp4") if name.starts_with("recording") => Some(Self::Recording),
                    _ => None,
                }
            }
            [rung, MEDIA_PLAYLIST] if media::is_valid_name(rung) => Some(Self::Playlist(rung)),
            [rung, file] if media::is_valid_name(rung) && is_file(file) => match file.rsplit_once('.')? {
                (_, "m4s" | "mp4") => Some(Self::Media),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether a file name has none but the characters of ours, and no leading dot.
fn is_file(file: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=200).contains(&file.len()) && !file.starts_with('.') && file.bytes().all(plain)
}

/// Whether a path is that of a part, which no store has: `{rung}/{session}-{seq}.{part}.m4s`.
pub(super) fn is_part(path: &str) -> bool {
    path.ends_with(".m4s") && path.matches('.').count() > 1
}

/// The content type of media, from its path: an encoder writes no other names.
fn type_of(path: &str) -> &'static str {
    let (rung, file) = path.split_once('/').unwrap_or_default();
    match (rung, file.ends_with(".mp4")) {
        (rung, _) if hls::names::is_audio(rung) => content_type::AUDIO,
        (_, true) => content_type::VIDEO_INIT,
        (_, false) => content_type::VIDEO_SEGMENT,
    }
}

impl StoredStreams {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, recordings: Arc::new(Cache::new(MOST_RECORDINGS)) }
    }

    /// A playlist or a picture as it is stored.
    pub(super) async fn small(&self, stream: &StreamPath, path: &str) -> Outcome {
        let kind = if path.ends_with(".jpg") { content_type::JPEG } else { content_type::PLAYLIST };
        let read = self.read(stream, path, TEXT_WITHIN).await;
        self.outcome(stream, path, read, |body| Object { body, content_type: kind, caching: Caching::None })
    }

    /// A segment or an init segment.
    pub(super) async fn media(&self, stream: &StreamPath, path: &str) -> Outcome {
        if is_part(path) {
            return Outcome::Missing;
        }
        let content_type = type_of(path);
        let read = self.read(stream, path, MEDIA_WITHIN).await;
        self.outcome(stream, path, read, |body| Object { body, content_type, caching: Caching::Immutable })
    }

    /// The multivariant playlist of the stream's newest archive, with addresses that are right where the stream's own
    /// multivariant playlist is. Missing if the stream that was claimed at `claimed` has no archive; `whole` asks for an
    /// archive that is complete.
    pub(super) async fn archive(&self, stream: &StreamPath, claimed: WallTime, whole: bool) -> Outcome {
        // The broadcast may have begun at another encoder.
        let since = claimed + LONGEST_BROADCAST;
        let newest = store::within(TEXT_WITHIN, archive::newest(&self.store, stream, since, whole)).await;
        let folder = match newest {
            Ok(Some(place)) => place.way_from_stream(),
            Ok(None) => return Outcome::Missing,
            Err(error) => return self.failed(stream, FOLDER, &error),
        };
        let path = format!("{folder}{MULTIVARIANT}");
        let read = self.read(stream, &path, TEXT_WITHIN).await;
        self.outcome(stream, &path, read, |body| {
            let text = String::from_utf8_lossy(&body);
            let body = hls::edit::moved_up(&text, &folder).into();
            Object { body, content_type: content_type::PLAYLIST, caching: Caching::None }
        })
    }

    /// A recording that was found before.
    pub(super) fn known_recording(&self, stream: &StreamPath, path: &str) -> Option<StoredObject> {
        let name = ObjectName::new(format!("{stream}/{path}"));
        let length = self.recordings.get(&name)?;
        Some(self.recording_of(name, length))
    }

    fn recording_of(&self, name: ObjectName, length: u64) -> StoredObject {
        StoredObject { store: Arc::clone(&self.store), name, length, content_type: content_type::MP4 }
    }

    /// A recording; `None` if there is none.
    ///
    /// # Errors
    /// The store does not answer.
    pub(super) async fn recording(
        &self,
        stream: &StreamPath,
        path: &str,
    ) -> Result<Option<StoredObject>, StoreError> {
        let name = ObjectName::new(format!("{stream}/{path}"));
        let Some((folder, _)) = name.as_str().rsplit_once('/') else { return Ok(None) };
        let folder = ObjectName::new(folder);
        // Recordings are the last in a folder's order, so one answer has them.
        let before = ObjectName::new(format!("{folder}/recording"));
        let listed = store::within(TEXT_WITHIN, self.store.list(&folder, Some(&before))).await;
        let listed = listed.inspect_err(|error| debug!(%stream, %error, "the store does not list"))?;
        let Some(length) = listed.iter().find(|listed| listed.name == name).map(|listed| listed.size) else {
            return Ok(None);
        };
        counter!("encoder_edge_stored_total").increment(1);
        self.recordings.insert(name.clone(), length);
        Ok(Some(self.recording_of(name, length)))
    }

    async fn read(
        &self,
        stream: &StreamPath,
        path: &str,
        within: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        let name = ObjectName::new(format!("{stream}/{path}"));
        Ok(store::within(within, self.store.read(&name)).await?.map(|stored| stored.body))
    }

    fn outcome(
        &self,
        stream: &StreamPath,
        path: &str,
        read: Result<Option<Bytes>, StoreError>,
        object: impl FnOnce(Bytes) -> Object,
    ) -> Outcome {
        match read {
            Ok(Some(body)) => {
                counter!("encoder_edge_stored_total").increment(1);
                Outcome::Found(Arc::new(CachedObject::new(object(body), None)))
            }
            Ok(None) => Outcome::Missing,
            Err(error) => self.failed(stream, path, &error),
        }
    }

    fn failed(&self, stream: &StreamPath, path: &str, error: &StoreError) -> Outcome {
        debug!(%stream, path, %error, "the store does not answer");
        Outcome::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_encoder_does_not_write_are_nobodys() {
        let cases = [
            ("index.m3u8", Some(Named::Multivariant)),
            ("thumb.jpg", Some(Named::Picture)),
            ("720p/index.m3u8", Some(Named::Playlist("720p"))),
            ("720p/kx-0-7.m4s", Some(Named::Media)),
            ("720p/kx-0-7.2.m4s", Some(Named::Media)),
            ("audio/kx-0-init.mp4", Some(Named::Media)),
            ("archive/kx-0/index.m3u8", Some(Named::ArchivePlaylist)),
            ("archive/kx-0/720p-pictures.m3u8", Some(Named::ArchivePlaylist)),
            ("archive/kx-0/recording-480p.mp4", Some(Named::Recording)),
            ("archive/kx-0/index-000000.json", None),
            ("archive/kx-0/sealed.json", None),
            ("archive/kx-0/parts/0.mp4", None),
            ("archive/kx-0/../owner.json", None),
            ("owner.json", None),
            ("720p/owner.json", None),
            ("720p/.m4s", None),
            ("720p/%2e%2e.m4s", None),
            ("../index.m3u8", None),
            ("720p//x.m4s", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(Named::read(path), expected, "{path}");
        }
        assert!(
            is_part("720p/kx-0-7.2.m4s") && !is_part("720p/kx-0-7.m4s") && !is_part("720p/kx-0-init.mp4")
        );
    }
}
