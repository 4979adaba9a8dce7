//! Drives a real worker process with media made by the ffmpeg command, and checks its output with ffprobe.

use bytes::Bytes;
use encoder::testing::stream::{Worker, WorkerEvent, WorkerExit, WorkerOptions};
use media::h264::{Record, annex_b, length_prefixed_units};
use media::{AudioCodec, MediaTime, Unit, VideoCodec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use transcode::wire::{
    AUDIO_TRACK, AudioRung, Job, Keyframes, OpenedTrack, Request, Response, VideoRung, VideoSettings,
    WireUnit, WorkerProgress,
};

pub(crate) const SECOND: i64 = 90_000;

/// A command's stdout. Its stderr must be empty: ffmpeg and ffprobe report problems there.
pub(crate) fn run_quiet(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().expect("ffmpeg is installed");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {} {errors}", output.status);
    output.stdout
}

/// Media as a publisher sends it: made by ffmpeg, muxed to FLV and demuxed again.
pub(crate) struct Source {
    pub(crate) requests: Vec<Request>,
}

impl Source {
    /// Makes a source from ffmpeg's arguments for inputs and codecs.
    pub(crate) fn make(arguments: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("source.flv");
        // Only errors count here: a warning of ffmpeg must not fail a test.
        run_quiet(
            Command::new("ffmpeg")
                .args(["-v", "error"])
                .args(arguments.split_whitespace())
                .args(["-f", "flv", "-flvflags", "no_duration_filesize"])
                .arg(&file),
        );
        Self { requests: flv_requests(&std::fs::read(&file).unwrap()) }
    }

    /// Video of `testsrc2`; `options` are appended to the codec options.
    pub(crate) fn video(size: &str, rate: &str, seconds: u32, options: &str) -> Self {
        Self::make(&format!(
            "-f lavfi -i testsrc2=size={size}:rate={rate}:duration={seconds} \
             -c:v libx264 -preset ultrafast -bf 2 -g 50 -pix_fmt yuv420p {options}"
        ))
    }

    /// Adds `ticks` (1/90000 s) to all times.
    pub(crate) fn shifted(mut self, ticks: i64) -> Self {
        for unit in self.units_mut() {
            let shift = |t: MediaTime| MediaTime::from_ticks_90k(t.ticks_90k() + ticks);
            (unit.pts, unit.dts) = (shift(unit.pts), shift(unit.dts));
        }
        self
    }

    pub(crate) fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        self.requests.iter_mut().filter_map(|r| match r {
            Request::Unit(WireUnit { unit, .. }) => Some(unit),
            _ => None,
        })
    }

    pub(crate) fn units(&self, track: u8) -> Vec<&Unit> {
        let mut units = Vec::new();
        for request in &self.requests {
            if let Request::Unit(wire) = request
                && wire.track == track
            {
                units.push(&wire.unit);
            }
        }
        units
    }

    /// The video's presentation times, sorted.
    pub(crate) fn times(&self) -> Vec<i64> {
        let mut times: Vec<i64> = self.units(0).iter().map(|u| u.pts.ticks_90k()).collect();
        times.sort_unstable();
        times
    }
}

/// Converts FLV tags of H.264 and AAC to requests (Adobe Flash Video File Format 10.1, annex E.4).
fn flv_requests(file: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut rest = &file[13..];
    while rest.len() > 11 {
        let kind = rest[0];
        let size = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let time = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]])) * 90;
        let body = &rest[11..11 + size];
        rest = &rest[11 + size + 4..];
        let ticks = MediaTime::from_ticks_90k;
        match (kind, body.get(1)) {
            (9, Some(0)) => {
                let record = Bytes::copy_from_slice(&body[5..]);
                requests.push(Request::VideoConfig { codec: VideoCodec::H264, record });
            }
            (9, Some(1)) => {
                let offset = i64::from(i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8) * 90;
                requests.push(Request::Unit(WireUnit {
                    track: 0,
                    unit: Unit {
                        pts: ticks(time + offset),
                        dts: ticks(time),
                        key: body[0] >> 4 == 1,
                        data: Bytes::copy_from_slice(&body[5..]),
                    },
                }));
            }
            (8, Some(0)) => {
                let record = Bytes::copy_from_slice(&body[2..]);
                requests.push(Request::AudioConfig {
                    track: AUDIO_TRACK,
                    codec: AudioCodec::Aac,
                    sample_rate: 48_000,
                    channels: 2,
                    record,
                });
            }
            (8, Some(1)) => requests.push(Request::Unit(WireUnit {
                track: AUDIO_TRACK,
                unit: Unit {
                    pts: ticks(time),
                    dts: ticks(time),
                    key: true,
                    data: Bytes::copy_from_slice(&body[2..]),
                },
            })),
            _ => {}
        }
    }
    requests
}

pub(crate) fn rung(width: u16, height: u16, rate: u32, bitrate: u32) -> VideoRung {
    VideoRung { name: format!("{height}p"), width, height, frame_rate: (rate, 1), bitrate }
}

pub(crate) fn job(rungs: Vec<VideoRung>) -> Job {
    Job {
        rungs,
        video: VideoSettings {
            encoder: "libx264".into(),
            preset: "ultrafast".into(),
            keyframes: Keyframes::Grid { ticks_90k: SECOND },
            lookahead_frames: 10,
            b_frames: 2,
            vbv_ms: 1000,
        },
        audio: None,
        sound_tracks: Vec::new(),
        encode_from_90k: 0,
        max_pixels: 0,
        thumbnail_every_ms: 0,
    }
}

pub(crate) fn stereo() -> AudioRung {
    AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 }
}

/// The configuration of one opening of a track, and the units that followed it.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    pub(crate) config: Vec<u8>,
    pub(crate) units: Vec<Unit>,
}

/// Everything that a worker sent, and how it exited.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The openings of each track, in order.
    pub(crate) tracks: BTreeMap<u8, Vec<Opening>>,
    pub(crate) thumbnails: Vec<Bytes>,
    pub(crate) progress: WorkerProgress,
    pub(crate) exit: WorkerExit,
}

impl Outcome {
    /// The opening of a track that must have exactly one.
    pub(crate) fn only(&self, track: u8) -> &Opening {
        let openings = &self.tracks[&track];
        assert_eq!(openings.len(), 1);
        &openings[0]
    }
}

pub(crate) fn options() -> WorkerOptions {
    WorkerOptions {
        program: PathBuf::from(env!("CARGO_BIN_EXE_encoder")),
        arguments: vec!["transcode-worker".into()],
        memory_limit: 1 << 30,
        span: tracing::Span::none(),
    }
}

/// Runs a job over a whole source.
pub(crate) async fn transcode(job: Job, source: Source) -> Outcome {
    let mut requests = vec![Request::Start(job)];
    requests.extend(source.requests);
    requests.push(Request::Finish);
    drive(requests).await
}

pub(crate) async fn drive(requests: Vec<Request>) -> Outcome {
    let mut worker = Worker::spawn(options()).unwrap();
    let queue = worker.requests.clone();
    let sender = tokio::spawn(async move {
        for request in requests {
            if queue.send(request).await.is_err() {
                break;
            }
        }
    });
    let mut tracks: BTreeMap<u8, Vec<Opening>> = BTreeMap::new();
    let mut thumbnails = Vec::new();
    let mut last = WorkerProgress::default();
    let exit = loop {
        match worker.next().await.expect("an exit comes before the end") {
            WorkerEvent::Response(Response::Opened(opened)) => {
                for OpenedTrack { track, config } in opened {
                    tracks.entry(track).or_default().push(Opening { config, units: Vec::new() });
                }
            }
            WorkerEvent::Response(Response::Unit(WireUnit { track, unit })) => {
                let openings = tracks.get_mut(&track).expect("opened before its first unit");
                openings.last_mut().unwrap().units.push(unit);
            }
            WorkerEvent::Response(Response::Thumbnail(jpeg)) => thumbnails.push(jpeg),
            WorkerEvent::Response(Response::Progress(progress)) => last = progress,
            WorkerEvent::Response(Response::Finished) => {}
            WorkerEvent::Exited(exit) => break exit,
        }
    };
    sender.await.unwrap();
    for openings in tracks.values() {
        let units = || openings.iter().flat_map(|o| &o.units);
        for (before, after) in units().zip(units().skip(1)) {
            assert!(before.dts < after.dts, "dts {:?} then {:?}", before.dts, after.dts);
        }
        for unit in units() {
            assert!(unit.dts <= unit.pts, "{unit:?}");
        }
    }
    Outcome { tracks, thumbnails, progress: last, exit }
}

impl Opening {
    /// Presentation times of the units, or only of the keyframes, sorted.
    pub(crate) fn times(&self, keys_only: bool) -> Vec<i64> {
        let wanted = self.units.iter().filter(|u| u.key || !keys_only);
        let mut times: Vec<i64> = wanted.map(|u| u.pts.ticks_90k()).collect();
        times.sort_unstable();
        times
    }

    fn save(&self, folder: &Path) -> PathBuf {
        let path = folder.join("track.h264");
        let record = Record::read(&self.config).unwrap();
        let mut stream = annex_b(record.parameter_sets()).to_vec();
        for unit in &self.units {
            let units = length_prefixed_units(&unit.data, record.length_size);
            stream.extend(annex_b(units.map(Result::unwrap)));
        }
        std::fs::write(&path, stream).unwrap();
        path
    }

    /// The properties that ffprobe finds in a video track. ffprobe decodes the whole track (`-show_frames`) and must
    /// not print a warning.
    pub(crate) fn probe(&self) -> Probe {
        let folder = TempDir::new().unwrap();
        let path = self.save(folder.path());
        let json = run_quiet(
            Command::new("ffprobe")
                .args(["-v", "warning", "-of", "json", "-show_streams", "-show_frames", "-f", "h264"])
                .args(["-show_entries"])
                .arg(
                    "stream=width,height,pix_fmt,profile,color_range,color_space,sample_aspect_ratio:\
                     frame=key_frame,pict_type",
                )
                .arg(&path),
        );
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let stream = &json["streams"][0];
        let text = |name: &str| stream[name].as_str().unwrap_or("").to_owned();
        let frames = json["frames"].as_array().unwrap();
        Probe {
            width: stream["width"].as_u64().unwrap(),
            height: stream["height"].as_u64().unwrap(),
            pixels: text("pix_fmt"),
            profile: text("profile"),
            range: text("color_range"),
            aspect: text("sample_aspect_ratio"),
            frames: frames.len(),
            keys: frames.iter().filter(|f| f["key_frame"] == 1).count(),
        }
    }

    /// One decoded picture of the track as grey values, row by row.
    pub(crate) fn picture(&self, index: usize) -> Vec<u8> {
        let folder = TempDir::new().unwrap();
        let path = self.save(folder.path());
        run_quiet(
            Command::new("ffmpeg")
                .args(["-v", "error", "-f", "h264", "-i"])
                .arg(&path)
                .arg("-vf")
                .arg(format!("select=eq(n\\,{index})"))
                .args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "gray", "-"]),
        )
    }

    /// Decoded samples of an audio track, channels interleaved.
    pub(crate) fn pcm(&self) -> Vec<f32> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("track.aac");
        let frequency_index = (self.config[0] & 7) << 1 | self.config[1] >> 7;
        let channels = self.config[1] >> 3 & 0xf;
        let mut stream = Vec::new();
        for unit in &self.units {
            // ADTS (ISO/IEC 14496-3 1.A.2.2): LC, no CRC, one block.
            let size = unit.data.len() as u16 + 7;
            stream.extend([
                0xff,
                0xf1,
                1 << 6 | frequency_index << 2 | channels >> 2,
                (channels & 3) << 6 | (size >> 11) as u8,
                (size >> 3) as u8,
                (size << 5) as u8 | 0x1f,
                0xfc,
            ]);
            stream.extend(&unit.data[..]);
        }
        std::fs::write(&path, stream).unwrap();
        let raw = run_quiet(
            Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(&path).args(["-f", "f32le", "-"]),
        );
        raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) pixels: String,
    pub(crate) profile: String,
    pub(crate) range: String,
    pub(crate) aspect: String,
    pub(crate) frames: usize,
    pub(crate) keys: usize,
}
