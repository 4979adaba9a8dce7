//! Tells the receiver of events that an archive is complete. How events are delivered is in [`crate::events`].

use super::names::ArchivePlace;
use super::seal::{Sealed, SealedRecording};
use crate::events::{ArchiveReady, Events, RecordingFile, StreamEvents, TrackSummary, TrackSummaryKind};
use crate::origin::StreamPath;
use hls::{Track, TrackKind};
use serde_json::Map;

/// An archive is complete. An archive without media is nothing to tell of. `stream` is the stream's handle, if the
/// stream was this process's; `store` is the location of the store.
pub(crate) fn announce(
    events: &Events,
    stream: Option<&StreamEvents>,
    store: &str,
    place: &ArchivePlace,
    sealed: &Sealed,
) {
    if sealed.segments == 0 {
        return;
    }
    let ready = ArchiveReady {
        store: store.to_owned(),
        playlist: place.multivariant().to_string(),
        recordings: sealed.recordings.iter().map(file).collect(),
        duration_seconds: sealed.duration.as_secs_f64(),
        segments_bytes: sealed.segments_bytes,
        segments: sealed.segments,
        missing_segments: sealed.gaps,
        tracks: sealed.tracks.iter().map(summary).collect(),
    };
    let (session, fingerprint) = (place.session(), &sealed.fingerprint);
    if let Some(stream) = stream {
        return stream.archive_ready(session, fingerprint, ready);
    }
    // Archives lie in folders whose names are valid.
    let path = place.stream().split_once('/').and_then(|(app, name)| StreamPath::new(app, name).ok());
    if let Some(path) = path {
        events.stream(path, Map::new()).archive_ready(session, fingerprint, ready);
    }
}

fn file(recording: &SealedRecording) -> RecordingFile {
    RecordingFile {
        rung: recording.rung.to_string(),
        object: recording.object.to_string(),
        bytes: recording.bytes,
    }
}

fn summary(track: &Track) -> TrackSummary {
    let kind = match &track.kind {
        TrackKind::Video(video) => {
            TrackSummaryKind::Video { width: video.width, height: video.height, frame_rate: video.frame_rate }
        }
        TrackKind::Audio(audio) => {
            TrackSummaryKind::Audio { sample_rate: audio.sample_rate, channels: audio.channels }
        }
    };
    TrackSummary { rung: track.rung.to_string(), codecs: track.codecs_string(), kind }
}
