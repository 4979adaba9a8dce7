//! Finishes an archive: playlists become VOD, recordings are composed, and a last object marks the archive as
//! complete. Everything comes from the store, so any process can do it: the encoder whose broadcast ended, the next
//! one, or an operator after a crash. Sealing a complete archive does nothing; an interrupted seal continues where it
//! stopped.

use super::compose::{Piece, carry_out, missing, plan};
use super::contents::{Contents, multivariant};
use super::each::{Failure, each, persist};
use super::load::{LoadError, Loaded, list_all, load};
use super::names::ArchivePlace;
use super::recorder::playlist;
use bytes::Bytes;
use hls::recording::RecordingError;
use hls::{RungName, Track};
use media::MediaSpan;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Caching, Listed, Object, ObjectName, Store, content_type};
use tracing::warn;

/// Concurrent removals and reads of init segments.
const AT_A_TIME: usize = 16;

/// Why an archive could not be finished. Completed steps remain, and the next attempt continues from there.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The archive cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A store call failed.
    #[error(transparent)]
    Store(#[from] Failure),
    /// No recording can be made of this media. The playlists are complete.
    #[error("no recording of {rung}: {error}")]
    Recording {
        /// The rung of the recording.
        rung: RungName,
        /// Why the recording cannot be made.
        error: RecordingError,
    },
}

/// State of an archive after sealing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// Whether the archive was complete before.
    pub already: bool,
    /// Media time from the start of the first segment to the end of the last.
    pub duration: MediaSpan,
    /// Segments that can be read.
    pub segments: usize,
    /// Missing segments, listed as gaps.
    pub gaps: usize,
    /// Bytes of the segments that can be read.
    pub segments_bytes: u64,
    /// The renditions: video from largest to smallest, then audio.
    pub tracks: Vec<Track>,
    /// Recordings, in the order in which they were requested.
    pub recordings: Vec<SealedRecording>,
    /// A fingerprint of the sealed contents: a segment that is stored later changes it.
    pub fingerprint: String,
    /// Number of compose requests that sealing took.
    pub compositions: u64,
}

/// A recording of a sealed archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRecording {
    /// The rung.
    pub rung: RungName,
    /// The object.
    pub object: ObjectName,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The object that marks an archive as complete (`sealed.json`).
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// Fingerprint of the sealed contents: a segment that is stored later changes it.
    fingerprint: String,
    duration_seconds: f64,
    segments: usize,
    gaps: usize,
}

/// Finishes an archive.
///
/// # Errors
/// See `SealError`.
pub async fn seal(store: &Arc<dyn Store>, place: &ArchivePlace) -> Result<Sealed, SealError> {
    let Loaded { pages, rest, objects } = load(store, place).await?;
    let mut contents = pages;
    rest.into_iter().for_each(|entry| contents.push(entry));
    contents.fill_gaps();
    let infos = || contents.lanes.values().flatten().map(|entry| &entry.info);
    let segments = infos().filter(|info| info.bytes.is_some()).count();
    let gaps = infos().count() - segments;
    let mut sealed = Sealed {
        already: false,
        duration: contents.duration(),
        segments,
        gaps,
        segments_bytes: infos().filter_map(|info| info.bytes).sum(),
        tracks: contents.tracks().into_iter().cloned().collect(),
        recordings: recordings(place, &contents, &objects),
        fingerprint: contents.fingerprint(),
        compositions: 0,
    };
    let mark = Mark {
        fingerprint: sealed.fingerprint.clone(),
        duration_seconds: contents.duration().as_secs_f64(),
        segments,
        gaps,
    };
    let mark_name = place.sealed();
    if objects.iter().any(|listed| listed.name == mark_name)
        && let Some(stored) = persist(&mark_name, || store.read(&mark_name)).await?
        && serde_json::from_slice::<Mark>(&stored.body).is_ok_and(|old| old.fingerprint == mark.fingerprint)
    {
        return Ok(Sealed { already: true, ..sealed });
    }
    if contents.is_empty() {
        sealed.recordings.clear();
    } else {
        write_playlists(store, place, &contents).await?;
        for recording in &mut sealed.recordings {
            sealed.compositions += record(store, place, &contents, recording).await?;
        }
    }
    let body = serde_json::to_vec(&mark).expect("text and numbers can be written").into();
    replace(
        store,
        &place.sealed(),
        Object { body, content_type: content_type::JSON, caching: Caching::None },
    )
    .await?;
    clean(store, place).await;
    let note = place.note();
    persist(&note, || store.remove(&note)).await?;
    Ok(sealed)
}

/// The recordings that an archive has or will have, with the sizes of those that were listed.
fn recordings(place: &ArchivePlace, contents: &Contents, objects: &[Listed]) -> Vec<SealedRecording> {
    let recording = |(rung, number): (&RungName, usize)| {
        let object = place.recording(rung, number == 0);
        let bytes = objects.iter().find(|listed| listed.name == object).map_or(0, |listed| listed.size);
        SealedRecording { rung: rung.clone(), object, bytes }
    };
    contents.recordings.iter().zip(0..).map(recording).collect()
}

async fn replace(store: &Arc<dyn Store>, name: &ObjectName, object: Object) -> Result<(), Failure> {
    persist(name, || store.replace(name, object.clone())).await
}

/// Writes the media playlists, then the multivariant playlist that names them.
async fn write_playlists(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    contents: &Contents,
) -> Result<(), Failure> {
    let playlists = contents.playlists();
    for (rung, list) in &playlists {
        if let Some(text) = list.render(true) {
            replace(store, &place.playlist(rung), playlist(text)).await?;
        }
    }
    let pictures = contents.pictures();
    if let Some((rung, list)) = &pictures
        && let Some(text) = list.render(true)
    {
        replace(store, &place.pictures(rung), playlist(text)).await?;
    }
    if let Some(text) = multivariant(&contents.tracks(), &playlists, pictures.as_ref()) {
        replace(store, &place.multivariant(), playlist(text)).await?;
    }
    Ok(())
}

/// Composes a rung's recording, and notes its size; returns the number of compose requests.
async fn record(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    contents: &Contents,
    recording: &mut SealedRecording,
) -> Result<u64, SealError> {
    let SealedRecording { rung, object: target, bytes } = recording;
    let rung: &RungName = rung;
    let inits = read_inits(store, place, contents.recording_inits(rung)).await?;
    let parts = contents
        .recording(place, rung, |rung, name| inits.get(&(rung.clone(), name.to_owned())).cloned())
        .map_err(|error| SealError::Recording { rung: rung.clone(), error })?;
    *bytes = parts.header.len() as u64 + parts.segments_bytes;
    let names: String = parts.segments.iter().map(|(name, bytes)| format!("{name}:{bytes};")).collect();
    let fingerprint =
        format!("{:08x}{:08x}", crc32c::crc32c(&parts.header), crc32c::crc32c(names.as_bytes()));
    let header = Piece { name: place.header(rung, &fingerprint), bytes: parts.header.len() as u64 };
    let object = Object { body: parts.header, content_type: content_type::MP4, caching: Caching::None };
    persist(&header.name, || store.create(&header.name, object.clone())).await?;
    let segments = parts.segments.into_iter().map(|(name, bytes)| Piece { name, bytes });
    let sources = std::iter::once(header).chain(segments).collect();
    let levels = plan(sources, target.clone(), |level, index| place.part(rung, &fingerprint, level, index));
    let there = list_all(store, &place.parts()).await?;
    Ok(carry_out(store, missing(levels, &there), content_type::MP4, Caching::None).await?)
}

async fn read_inits(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    wanted: BTreeSet<(RungName, String)>,
) -> Result<BTreeMap<(RungName, String), Bytes>, Failure> {
    let read = each(wanted.into_iter().collect(), AT_A_TIME, |(rung, name)| {
        let (store, object) = (store.clone(), place.media(&rung, &name));
        async move {
            let stored = persist(&object, || store.read(&object)).await?;
            Ok(stored.map(|stored| ((rung, name), stored.body)))
        }
    });
    Ok(read.await?.into_iter().flatten().collect())
}

/// Removes the intermediate pieces of recordings. Pieces that cannot be removed cost storage and nothing else.
async fn clean(store: &Arc<dyn Store>, place: &ArchivePlace) {
    let removed = async {
        let parts = list_all(store, &place.parts()).await?;
        each(parts, AT_A_TIME, |part| {
            let store = store.clone();
            async move { persist(&part.name, || store.remove(&part.name)).await }
        })
        .await
    };
    if let Err(error) = removed.await {
        warn!(%error, "parts of a recording remain: they may be deleted by hand");
    }
}

#[cfg(test)]
mod tests;
