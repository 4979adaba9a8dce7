//! The published source: a file, once or in a loop, or the test pattern. A thread of its own reads it, because libav
//! blocks. When media is sent is decided by [`super::connection`].
//!
//! A file in other codecs than H.264 and AAC is opened when the server has said what it takes: then it is known what has to
//! be encoded.
//!
//! The queue to the sender is bounded in access units. When it is full, a file waits. The test pattern does not wait,
//! because it shows the current time: it drops media up to the next keyframe and counts it.

use super::progress::ProgressDisplay;
use super::{EnhancedMode, PublishSettings};
use media::{AudioCodec, Media, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};
use rtmp::client::ServerCodecs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use transcode::demux::{DemuxError, DemuxOptions, FileReader, PASSABLE, SourceInfo};
use transcode::pattern::{EncodeError, Pattern, PatternSettings};

/// Capacity of the queue from source to sender in access units: about two seconds of video and audio.
const QUEUE_UNITS: usize = 160;

/// What to publish.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// A media file, repeated endlessly if `looped`, and how it is read.
    File { path: PathBuf, looped: bool, reader: FileReader },
    /// The test pattern.
    Pattern(PatternSettings),
}

/// Why the source has no (more) media. A retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be opened or read.
    #[error(transparent)]
    File(#[from] DemuxError),
    /// The test pattern cannot be encoded.
    #[error("test pattern: {0}")]
    Pattern(#[from] EncodeError),
    /// The thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A running source. Dropping it stops its thread.
pub(super) struct Source {
    /// Media in order of dts. The channel closes when the source ends; an error is the last item.
    pub(super) media: mpsc::Receiver<Result<Media, SourceError>>,
    /// Whether the source itself produces media in real time.
    pub(super) live: bool,
    dropped: Arc<AtomicU64>,
    /// Dropped together with the source, which wakes the pattern's thread.
    _stop: std::sync::mpsc::SyncSender<()>,
}

/// A source that is started before the first connection, or once a server has said what it takes.
pub(super) struct PendingSource {
    /// `None` once it is started.
    input: Option<Input>,
    settings: PublishSettings,
    /// libav's names of the file's codecs that can be sent as they are by Enhanced RTMP.
    enhanced: Vec<String>,
    /// Those that are sent as they are.
    passed: Vec<String>,
    running: Option<Source>,
}

impl PendingSource {
    pub(super) fn new(input: Input, settings: PublishSettings, info: Option<&SourceInfo>) -> Self {
        let tracks = info.into_iter().flat_map(|info| {
            [info.video.as_ref().filter(|_| settings.video), info.audio.as_ref().filter(|_| settings.audio)]
        });
        let codecs = tracks.flatten().map(|track| track.codec.clone());
        let enhanced = codecs.filter(|codec| PASSABLE.contains(&codec.as_str())).collect();
        Self { input: Some(input), settings, enhanced, passed: Vec::new(), running: None }
    }

    /// Whether it depends on the server what is encoded, and the source has not been started.
    pub(super) fn asks_the_server(&self) -> bool {
        self.input.is_some() && self.settings.enhanced == EnhancedMode::Auto && !self.enhanced.is_empty()
    }

    /// The source, which is started if it was not. `server` is what the server takes by Enhanced RTMP; `None` where it was
    /// not asked.
    pub(super) fn start(
        &mut self,
        server: Option<&ServerCodecs>,
        progress: &mut ProgressDisplay,
    ) -> Result<&mut Source, SourceError> {
        if let Some(input) = self.input.take() {
            let taken = |codec: &String| match self.settings.enhanced {
                EnhancedMode::Always => true,
                EnhancedMode::Never => false,
                EnhancedMode::Auto => server.is_some_and(|server| takes(server, codec)),
            };
            self.passed = self.enhanced.iter().filter(|codec| taken(codec)).cloned().collect();
            for codec in &self.enhanced {
                progress.say(&if self.passed.contains(codec) {
                    format!("{codec} is sent as it is, by Enhanced RTMP")
                } else if self.settings.enhanced == EnhancedMode::Never {
                    format!("{codec} is encoded again")
                } else {
                    format!("{codec} is encoded again: the server does not say that it takes {codec}")
                });
            }
            self.running = Some(Source::start(input, self.settings, self.passed.clone())?);
        }
        self.running.as_mut().ok_or_else(|| SourceError::Thread(std::io::ErrorKind::NotFound.into()))
    }

    /// A codec in which media is sent and which this server does not take; `None` where it takes all, or need not say so.
    pub(super) fn not_taken(&self, server: &ServerCodecs) -> Option<&str> {
        let asked = self.settings.enhanced == EnhancedMode::Auto;
        self.passed.iter().find(|codec| asked && !takes(server, codec)).map(String::as_str)
    }

    /// Number of access units dropped because the connection did not take them in time.
    pub(super) fn dropped(&self) -> u64 {
        self.running.as_ref().map_or(0, Source::dropped)
    }
}

/// Whether a server takes a codec, which has this name in libav.
fn takes(server: &ServerCodecs, codec: &str) -> bool {
    match codec {
        "hevc" => server.video.contains(&VideoCodec::Hevc),
        "av1" => server.video.contains(&VideoCodec::Av1),
        "opus" => server.audio.contains(&AudioCodec::Opus),
        "flac" => server.audio.contains(&AudioCodec::Flac),
        "ac3" => server.audio.contains(&AudioCodec::Ac3),
        "eac3" => server.audio.contains(&AudioCodec::Eac3),
        _ => false,
    }
}

impl Source {
    /// Starts the thread, which opens a file before it delivers the first media. `pass` has the codecs that are not encoded
    /// again, beside H.264 and AAC.
    fn start(input: Input, settings: PublishSettings, pass: Vec<String>) -> Result<Self, SourceError> {
        let (sender, media) = mpsc::channel(QUEUE_UNITS);
        let (stop, stopped) = std::sync::mpsc::sync_channel(0);
        let dropped = Arc::new(AtomicU64::new(0));
        let live = matches!(input, Input::Pattern(_));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("publish-source".into())
            .spawn(move || {
                let outcome = match input {
                    Input::File { path, looped, reader } => {
                        let PublishSettings { video, audio, bitrate, duration, .. } = settings;
                        let options = DemuxOptions { video, audio, bitrate, pass };
                        play(&reader, &path, looped, &options, duration, &sender)
                    }
                    Input::Pattern(pattern) => generate(&pattern, &settings, &sender, &stopped, &counter),
                };
                if let Err(error) = outcome {
                    // A closed channel is not an error: the receiver no longer needs the outcome.
                    let _ = sender.blocking_send(Err(error));
                }
            })
            .map_err(SourceError::Thread)?;
        Ok(Self { media, live, dropped, _stop: stop })
    }

    /// Number of access units dropped because the connection did not take them in time.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Discards the media queued while there was no connection, because a live source must be shown live. Returns the
    /// configurations among that media.
    pub(super) fn discard_backlog(&mut self) -> Vec<Media> {
        let mut configs = Vec::new();
        while let Ok(Ok(media)) = self.media.try_recv() {
            match media {
                Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => configs.push(media),
                Media::Video(_) | Media::Audio(_) | Media::Track(..) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        configs
    }
}

/// Plays a file; returns when the file ended, the receiver is gone, or the wanted duration has been played.
fn play(
    reader: &FileReader,
    path: &Path,
    looped: bool,
    options: &DemuxOptions,
    duration: MediaSpan,
    sender: &mpsc::Sender<Result<Media, SourceError>>,
) -> Result<(), SourceError> {
    let mut axis = LoopAxis::default();
    loop {
        let file = reader.open(path, options)?;
        axis.next_pass();
        for media in file {
            let media = axis.place(media?);
            if axis.elapsed() >= duration || sender.blocking_send(Ok(media)).is_err() {
                return Ok(());
            }
        }
        // A file without any access unit would loop without end.
        if !looped || axis.elapsed() == MediaSpan::ZERO {
            return Ok(());
        }
    }
}

/// Generates the test pattern in real time; returns when it was stopped or has run for the wanted duration.
fn generate(
    pattern: &PatternSettings,
    settings: &PublishSettings,
    sender: &mpsc::Sender<Result<Media, SourceError>>,
    stopped: &Receiver<()>,
    dropped: &AtomicU64,
) -> Result<(), SourceError> {
    let mut pattern = Pattern::open(pattern)?;
    // Begin at a full second of the wall clock, so that flash and beep are on the second.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = Instant::now() + Duration::from_nanos(u64::from(1_000_000_000 - now.subsec_nanos()));
    let mut gate = Gate::default();
    while pattern.next_due() < settings.duration {
        let due = start + pattern.next_due().to_duration();
        match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = WallTime::from_unix_micros(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX));
        for media in pattern.advance(wall)? {
            if !gate.admits(&media) {
                dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            match sender.try_send(Ok(media)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    gate.close();
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Admits media, except video between a drop and the next keyframe.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: bool,
}

impl Gate {
    /// Media was lost: drops video until the next keyframe.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn admits(&mut self, media: &Media) -> bool {
        match media {
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => true,
            Media::Video(Unit { key: true, .. }) => {
                self.closed = false;
                true
            }
            Media::Video(_) => !self.closed,
            // Audio is useful without video, and the source may have no video at all.
            Media::Audio(_) | Media::Track(..) => true,
        }
    }
}

/// Places the passes of a loop one after the other on one media axis.
#[derive(Debug, Default)]
struct LoopAxis {
    /// First dts of all passes.
    first: Option<MediaTime>,
    /// Where the next pass begins: after the end of the longer track.
    end: Option<MediaTime>,
    /// Shift of this pass, known from its first access unit on.
    shift: Option<MediaSpan>,
    /// Last dts and its distance to the previous dts, for video and audio.
    video: Option<(MediaTime, MediaSpan)>,
    audio: Option<(MediaTime, MediaSpan)>,
}

impl LoopAxis {
    fn next_pass(&mut self) {
        self.shift = None;
        self.video = None;
        self.audio = None;
    }

    fn place(&mut self, mut media: Media) -> Media {
        let (unit, last) = match &mut media {
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {
                return media;
            }
            Media::Video(unit) => (unit, &mut self.video),
            Media::Audio(unit) => (unit, &mut self.audio),
        };
        let shift = *self.shift.get_or_insert(self.end.map_or(MediaSpan::ZERO, |end| end - unit.dts));
        (unit.pts, unit.dts) = (unit.pts + shift, unit.dts + shift);
        let step = last.map_or(MediaSpan::from_millis(40), |(dts, _)| unit.dts - dts);
        *last = Some((unit.dts, step));
        self.first.get_or_insert(unit.dts);
        self.end = self.end.max(Some(unit.dts + step));
        media
    }

    fn elapsed(&self) -> MediaSpan {
        match (self.first, self.end) {
            (Some(first), Some(end)) => end - first,
            (None, _) | (_, None) => MediaSpan::ZERO,
        }
    }
}

/// Reads information about a file without playing it.
pub(super) fn probe(reader: &FileReader, path: &Path) -> Result<SourceInfo, SourceError> {
    Ok(reader.open(path, &DemuxOptions::default())?.info())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn unit(dts_ms: i64, key: bool) -> Unit {
        let dts = MediaTime::ZERO + MediaSpan::from_millis(10_000 + dts_ms);
        Unit { pts: dts, dts, key, data: Bytes::new() }
    }

    fn placed(axis: &mut LoopAxis, media: Media) -> i64 {
        match axis.place(media) {
            Media::Video(unit) | Media::Audio(unit) | Media::Track(_, unit) => {
                unit.dts.to_scaled(1000) - 10_000
            }
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => panic!("not a unit"),
        }
    }

    #[test]
    fn passes_follow_each_other_without_a_jump() {
        let mut axis = LoopAxis::default();
        let mut seen = Vec::new();
        for _ in 0..3 {
            axis.next_pass();
            for (video, ms) in [(true, 0), (false, 10), (true, 40), (false, 31), (true, 80)] {
                let media = if video { Media::Video(unit(ms, true)) } else { Media::Audio(unit(ms, true)) };
                seen.push(placed(&mut axis, media));
            }
        }
        assert_eq!(seen, [0, 10, 40, 31, 80, 120, 130, 160, 151, 200, 240, 250, 280, 271, 320]);
        assert_eq!(axis.elapsed(), MediaSpan::from_millis(360));
    }

    #[test]
    fn a_closed_gate_opens_with_a_key_frame() {
        let mut gate = Gate::default();
        assert!(gate.admits(&Media::Video(unit(0, false))));
        gate.close();
        assert!(!gate.admits(&Media::Video(unit(0, false))));
        assert!(gate.admits(&Media::Audio(unit(0, true))));
        assert!(gate.admits(&Media::Video(unit(0, true))));
        assert!(gate.admits(&Media::Video(unit(0, false))));
    }
}
