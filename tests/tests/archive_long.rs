//! An hour's recording at CPU speed. The published media has timestamps that rounding spoils: 29.97 frames per second
//! with B-frames and AAC at 44.1 kHz, both in RTMP's whole milliseconds. Every video frame and every AAC frame must
//! have its own correct time in the recording, and flash and beep must still coincide at the end.
//!
//! The media is real and small: two GOPs and two AAC frames (a tone, silence) that FFmpeg made, repeated. Nothing is
//! encoded: the rung is `source`. Everything between the RTMP messages and the sealed archive is the encoder's own
//! code, on paused time.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use bytes::Bytes;
use encoder::testing::archive::{ArchiveManager, ArchiveSettings};
use encoder::testing::delivery::{FreshReason, OutputOptions, Outputs, StreamStart};
use encoder::testing::events::Events;
use encoder::testing::origin::{ObjectCache, StreamPath};
use encoder::testing::stream::{Effect, Now, StreamCore, StreamSettings, video_settings};
use hls::timing::{Latency, Timing};
use media::{Media, WallTime};
use rtmp::ingest::Ingest;
use rtmp::{MediaMessage, MessageKind};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use store::memory::MemoryStore;
use tests::probe;
use tests::verdict::SYNC_LIMIT;
use transcode::demux::FileDemuxer;

/// Video frames in the loop: two GOPs.
const LOOP: u64 = 60;
/// Repetitions of the loop: 60 frames at 29.97 per second make an hour and 3.6 s in all.
const LOOPS: u64 = 1800;
const PICTURES: u64 = LOOPS * LOOP;
/// Duration of a video frame in seconds, as a ratio.
const PICTURE: (u64, u64) = (1001, 30_000);
/// Duration of an AAC frame in seconds, as a ratio.
const FRAME: (u64, u64) = (1024, 44_100);
/// Duration of flash and beep at the start of each loop, in seconds.
const MARK: f64 = 0.1;
const SECOND: Duration = Duration::from_secs(1);
const STARTED: i64 = 1_795_348_800_000_000;

const fn seconds(count: u64, (num, den): (u64, u64)) -> f64 {
    count as f64 * num as f64 / den as f64
}

/// Timestamp in RTMP's milliseconds, rounded.
const fn millis(count: u64, (num, den): (u64, u64)) -> u64 {
    (count * num * 1000 + den / 2) / den
}

/// Number of AAC frames that fit into the duration of the video.
const FRAMES: u64 = PICTURES * PICTURE.0 * FRAME.1 / (PICTURE.1 * FRAME.0);

/// A video frame of the loop, in decoding order.
struct Picture {
    data: Bytes,
    key: bool,
    /// The frame's number in presentation order.
    shown: u64,
}

/// The encoded media that the hour is assembled from.
struct Material {
    avc: Bytes,
    pictures: Vec<Picture>,
    /// Largest distance in frames between decoding order and presentation order.
    reordering: u64,
    aac: Bytes,
    tone: Bytes,
    silence: Bytes,
}

fn made(folder: &Path, name: &str, arguments: &str) -> Vec<Media> {
    let file = folder.join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]).args(arguments.split(' ')).arg(&file);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    FileDemuxer::open(&file).unwrap().map(Result::unwrap).collect()
}

/// An AAC frame from the middle of the clip, and the codec configuration.
fn aac(folder: &Path, name: &str, source: &str) -> (Bytes, Bytes) {
    let media = made(folder, name, &format!("{source} -t 1 -ac 1 -c:a aac -b:a 48k"));
    let config = media.iter().find_map(|media| match media {
        Media::AudioConfig(config) => Some(config.record.clone()),
        _ => None,
    });
    let frames = media.into_iter().filter_map(|media| match media {
        Media::Audio(unit) => Some(unit.data),
        _ => None,
    });
    (config.unwrap(), frames.collect::<Vec<_>>().swap_remove(20))
}

impl Material {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let video = made(
            folder.path(),
            "loop.mp4",
            &format!(
                "color=black:s=160x90:r=30000/1001,drawbox=color=white:t=fill:enable='lt(t,{MARK})' -frames:v {LOOP} \
                 -pix_fmt yuv420p -c:v libx264 -preset veryfast -bf 2 -g 30 -keyint_min 30 -sc_threshold 0"
            ),
        );
        let mut avc = Bytes::new();
        let mut units = Vec::new();
        for media in video {
            match media {
                Media::VideoConfig(config) => avc = config.record,
                Media::Video(unit) => units.push(unit),
                Media::Audio(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {
                    unreachable!("there is no sound in it")
                }
            }
        }
        let zero = units.iter().map(|unit| unit.pts).min().unwrap();
        let number = |ticks: i64| (ticks as f64 / (90_000.0 * seconds(1, PICTURE))).round() as u64;
        let pictures: Vec<_> = units
            .into_iter()
            .map(|unit| Picture {
                data: unit.data,
                key: unit.key,
                shown: number((unit.pts - zero).ticks_90k()),
            })
            .collect();
        assert_eq!(pictures.iter().filter(|picture| picture.key).count(), 2);
        assert_eq!(pictures.len() as u64, LOOP);
        let reordering =
            pictures.iter().zip(0..).map(|(picture, n): (_, u64)| n.saturating_sub(picture.shown));
        let reordering = reordering.max().unwrap();
        assert!(reordering > 0, "there are B-frames");
        let (aac_config, tone) = aac(folder.path(), "tone.mp4", "aevalsrc=0.5*sin(2*PI*1000*t):s=44100");
        let (_, silence) = aac(folder.path(), "silence.mp4", "anullsrc=r=44100");
        Self { avc, pictures, reordering, aac: aac_config, tone, silence }
    }

    /// RTMP timestamp (ms) and payload of the `n`th video frame, in decoding order.
    fn picture(&self, n: u64) -> (u64, Bytes) {
        let Picture { data, key, shown } = &self.pictures[(n % LOOP) as usize];
        let at = millis(n, PICTURE);
        let shown_at = millis(n - n % LOOP + shown + self.reordering, PICTURE);
        let [_, a, b, c] = ((shown_at - at) as u32).to_be_bytes();
        (at, tag(&[if *key { 0x17 } else { 0x27 }, 1, a, b, c], data))
    }

    /// RTMP timestamp (ms) and payload of the `n`th AAC frame. Audio begins when the first video frame is shown.
    fn frame(&self, n: u64) -> (u64, Bytes) {
        let middle = seconds(n, FRAME) + seconds(1, FRAME) / 2.0;
        let marked = middle % seconds(LOOP, PICTURE) < MARK;
        let data = if marked { &self.tone } else { &self.silence };
        (self.delay() + millis(n, FRAME), tag(&[0xaf, 1], data))
    }

    fn delay(&self) -> u64 {
        millis(self.reordering, PICTURE)
    }
}

fn tag(head: &[u8], data: &[u8]) -> Bytes {
    [head, data].concat().into()
}

/// A stream with a simulated clock.
struct Stream {
    ingest: Ingest,
    core: StreamCore,
    outlet: Outputs,
    zero: Instant,
    now: Duration,
    ended: bool,
}

impl Stream {
    fn begin(outlet: &OutputOptions) -> Self {
        let timing = Timing::new(Latency::from_secs_f64(4.0).unwrap()).without_parts();
        let started = WallTime::from_unix_micros(STARTED);
        let path = StreamPath::new("live", "long").unwrap();
        let beginning = StreamStart::Fresh { above: 0, discontinuities: 0, why: FreshReason::New };
        let outlet = Outputs::new(outlet, path, &timing, started, &beginning);
        let settings = StreamSettings {
            ladder: "source".parse().unwrap(),
            cores: 1,
            video: video_settings("libx264".into(), "veryfast".into(), &timing),
            timing,
            reconnect_window: SECOND,
            max_pixels: 8192 * 8192,
            thumbnail_every_ms: 4000,
            live: true,
        };
        let zero = Instant::now();
        let mut core = StreamCore::new(settings, 1_795_348_800, zero);
        let now = Duration::ZERO;
        core.publisher_came(Now { instant: zero, wall: started }).unwrap();
        Self { ingest: Ingest::new(), core, outlet, zero, now, ended: false }
    }

    fn clock(&self) -> Now {
        let wall = WallTime::from_unix_micros(STARTED + self.now.as_micros() as i64);
        Now { instant: self.zero + self.now, wall }
    }

    /// Delivers one RTMP message.
    fn publish(&mut self, kind: MessageKind, at: u64, payload: Bytes) {
        self.now = self.now.max(Duration::from_millis(at));
        let now = self.clock();
        let message =
            MediaMessage { kind, timestamp_ms: u32::try_from(at).unwrap(), payload, arrived: now.instant };
        for media in self.ingest.push(message).unwrap() {
            self.core.media(media, now.instant, now);
        }
    }

    /// Processes the stream's pending effects, then lets time pass, so that queued writes are carried out.
    async fn pass(&mut self, time: Duration) {
        self.core.tick(self.clock());
        while let Some(effect) = self.core.poll() {
            match effect {
                Effect::StartWorker(..) | Effect::StopWorker(_) => panic!("nothing is to be encoded"),
                Effect::Epoch(tracks) => self.outlet.epoch(tracks),
                Effect::Packaged(output) => self.outlet.packaged(output),
                Effect::Thumbnail(_) => {}
                Effect::Ended => self.ended = true,
            }
        }
        self.outlet.refresh();
        self.outlet.acknowledged();
        tokio::time::sleep(time).await;
    }
}

/// Publishes the hour and returns the recording.
async fn record(material: &Material) -> Bytes {
    let store = Arc::new(MemoryStore::new());
    let shared: Arc<dyn Store> = store.clone();
    let keeper = ArchiveManager::new(shared.clone(), String::new());
    let options = OutputOptions {
        cache: ObjectCache::new(),
        store: shared,
        spool: None,
        archives: keeper.clone(),
        archive: Some(ArchiveSettings::default()),
        events: Events::default(),
    };
    let mut stream = Stream::begin(&options);
    stream.publish(MessageKind::Video, 0, tag(&[0x17, 0, 0, 0, 0], &material.avc));
    stream.publish(MessageKind::Audio, 0, tag(&[0xaf, 0], &material.aac));
    let (mut pictures, mut frames) = (0, 0);
    let step = SECOND / 10;
    let mut due = step;
    while pictures < PICTURES || frames < FRAMES {
        let (picture, frame) = (material.picture(pictures), material.frame(frames));
        let video = pictures < PICTURES && (frames == FRAMES || picture.0 <= frame.0);
        let (kind, (at, payload)) =
            if video { (MessageKind::Video, picture) } else { (MessageKind::Audio, frame) };
        while Duration::from_millis(at) >= due {
            stream.pass(step).await;
            due += step;
        }
        stream.publish(kind, at, payload);
        *(if video { &mut pictures } else { &mut frames }) += 1;
    }
    let repairs = stream.ingest.repairs();
    assert_eq!(repairs.total(), 0, "{repairs:?}");
    stream.core.close(stream.clock());
    while !stream.ended {
        stream.now += step;
        stream.pass(step).await;
        assert!(stream.now < seconds_as_duration() + 60 * SECOND, "the stream does not end");
    }
    let counters = stream.core.counters();
    assert_eq!(
        (counters.shed_units, counters.silent_frames, counters.refused_samples),
        (0, 0, 0),
        "{counters:?}"
    );
    stream.outlet.ended().await;
    keeper.idle().await;
    let names = store.names();
    assert!(names.iter().any(|name| name.ends_with("/sealed.json")), "{} objects", names.len());
    let recording = names.iter().find(|name| name.ends_with("/recording.mp4")).unwrap();
    store.get(recording).unwrap().body
}

fn seconds_as_duration() -> Duration {
    Duration::from_secs_f64(seconds(PICTURES, PICTURE))
}

/// Compares a track's packet times with the expected ones, relative to the first packet. Returns in seconds: the first
/// packet's time, the largest error, and the last packet's error.
fn errors(recording: &Path, stream: &str, count: u64, each: (u64, u64)) -> (f64, f64, f64) {
    let mut times: Vec<_> =
        probe::packets_of(recording, stream).unwrap().iter().map(|packet| packet.pts).collect();
    times.sort_by(f64::total_cmp);
    assert_eq!(times.len() as u64, count, "packets of {stream}");
    let errors: Vec<_> = times.iter().zip(0..).map(|(pts, n)| pts - times[0] - seconds(n, each)).collect();
    let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
    (times[0], worst, errors[errors.len() - 1])
}

/// Distances between flashes and beeps in a piece of the recording that starts at `from` seconds.
fn marks(recording: &Path, from: f64) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let piece = folder.path().join("piece.mkv");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-ss", &from.to_string(), "-i"]).arg(recording);
    let done = command.args(["-t", "20", "-map", "0", "-c", "copy"]).arg(&piece).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    probe::sync_errors(&probe::flashes(&piece).unwrap(), &probe::beeps(&piece).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_hour_is_in_step_to_its_end() {
    let material = Material::make();
    let recording = record(&material).await;
    let file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    std::fs::write(file.path(), recording).unwrap();

    let (length, picture) = (seconds(PICTURES, PICTURE), seconds(1, PICTURE));
    let duration = probe::duration(file.path().to_str().unwrap()).unwrap();
    assert!((duration - length).abs() <= picture, "{duration} s of {length} s");

    let (video_start, video_worst, video_end) = errors(file.path(), "v", PICTURES, PICTURE);
    let (audio_start, audio_worst, audio_end) = errors(file.path(), "a", FRAMES, FRAME);
    let apart = |video: f64, audio: f64| (audio_start + audio - video_start - video).abs();
    eprintln!(
        "{duration:.3} s; pictures off by {video_worst:.6} s, sound by {audio_worst:.6} s at most; apart by {:.6} s at \
         the beginning, {:.6} s at the end",
        apart(0.0, 0.0),
        apart(video_end, audio_end)
    );
    // Errors of milliseconds from the start on, but no drift.
    assert!(video_worst < 0.002 && audio_worst < 0.002, "{video_worst} {audio_worst}");
    assert!(apart(0.0, 0.0) < SYNC_LIMIT / 10.0 && apart(video_end, audio_end) < SYNC_LIMIT / 10.0);

    for from in [0.0, length / 2.0, length - 20.0] {
        let marks = marks(file.path(), from);
        let worst = marks.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
        eprintln!("{} flashes from {from:.1} s on, sound off by {worst:.3} s at most", marks.len());
        assert!(marks.len() >= 8 && worst <= SYNC_LIMIT, "{marks:.3?}");
    }
}
