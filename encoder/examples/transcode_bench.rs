//! Feeds one worker from an FLV file as fast as it can encode, and writes each rung's H.264 byte stream.
//!
//! `transcode_bench WORKER_BINARY IN.flv OUT_FOLDER [LOOKAHEAD] [B_FRAMES]` prints the wall time,
//! the worker's peak memory and the bytes of each track; run it under `/usr/bin/time -v` or `perf stat` to measure both
//! processes together.

use anyhow::{Context, bail};
use bytes::Bytes;
use encoder::testing::stream::{Worker, WorkerEvent, WorkerOptions};
use media::h264::{LengthSize, Record, annex_b, length_prefixed_units};
use media::{AudioCodec, MediaTime, Unit, VideoCodec};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use transcode::wire::{
    AUDIO_TRACK, AudioRung, Job, Keyframes, Request, Response, VideoRung, VideoSettings, WireUnit,
};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "its purpose")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [binary, input, folder, rest @ ..] = &arguments[..] else {
        bail!("transcode_bench WORKER_BINARY IN.flv OUT_FOLDER [LOOKAHEAD] [B_FRAMES]");
    };
    let number = |index: usize, default: u32| rest.get(index).map_or(Ok(default), |text| text.parse());
    let (lookahead_frames, b_frames) = (number(0, 10)?, number(1, 3)?);
    let file = std::fs::read(input).context("reading the input")?;
    let options = WorkerOptions {
        program: binary.into(),
        arguments: vec!["transcode-worker".into()],
        memory_limit: 4 << 30,
        span: tracing::Span::none(),
    };
    let rung = |name: &str, width, height, bitrate| VideoRung {
        name: name.into(),
        width,
        height,
        frame_rate: (30, 1),
        bitrate,
    };
    let job = Job {
        rungs: vec![
            rung("720p", 1280, 720, 2_800_000),
            rung("480p", 854, 480, 1_400_000),
            rung("360p", 640, 360, 800_000),
        ],
        video: VideoSettings {
            encoder: "libx264".into(),
            preset: "veryfast".into(),
            keyframes: Keyframes::Grid { ticks_90k: 180_000 },
            lookahead_frames,
            b_frames,
            vbv_ms: 1000,
        },
        audio: Some(AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 }),
        sound_tracks: Vec::new(),
        encode_from_90k: 0,
        max_pixels: 0,
        thumbnail_every_ms: 5000,
    };
    let begun = Instant::now();
    let mut worker = Worker::spawn(options)?;
    let queue = worker.requests.clone();
    let pid = worker.pid().context("just started")?;
    tokio::spawn(async move {
        let mut requests = vec![Request::Start(job)];
        requests.extend(flv_requests(&file));
        requests.push(Request::Finish);
        for request in requests {
            if queue.send(request).await.is_err() {
                break;
            }
        }
    });
    let mut files: BTreeMap<u8, File> = BTreeMap::new();
    let (mut bytes, mut peak) = (BTreeMap::<u8, usize>::new(), String::new());
    loop {
        match worker.next().await.context("an exit comes first")? {
            WorkerEvent::Response(Response::Opened(tracks)) => {
                for track in tracks {
                    let path = Path::new(folder).join(format!("{}.h264", track.track));
                    let mut file = File::create(path)?;
                    if track.track != AUDIO_TRACK {
                        file.write_all(&annex_b(Record::read(&track.config)?.parameter_sets()))?;
                    }
                    files.insert(track.track, file);
                }
            }
            WorkerEvent::Response(Response::Unit(WireUnit { track, unit })) => {
                *bytes.entry(track).or_default() += unit.data.len();
                if let Some(file) = files.get_mut(&track).filter(|_| track != AUDIO_TRACK) {
                    let units = length_prefixed_units(&unit.data, LengthSize::Four);
                    file.write_all(&annex_b(units.filter_map(Result::ok)))?;
                }
            }
            WorkerEvent::Response(Response::Progress(_)) => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                if let Some(line) = status.lines().find(|line| line.starts_with("VmHWM")) {
                    peak = line.into();
                }
            }
            WorkerEvent::Response(_) => {}
            WorkerEvent::Exited(exit) => {
                println!("{:.2?} {peak} {bytes:?} clean: {}", begun.elapsed(), exit.is_clean());
                return Ok(());
            }
        }
    }
}

/// Converts FLV tags of H.264 and AAC to requests (Adobe Flash Video File Format 10.1, annex E.4). The file is trusted.
fn flv_requests(file: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut rest = &file[13..];
    while rest.len() > 11 {
        let size = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let time = i64::from(u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]])) * 90;
        let (kind, body) = (rest[0], &rest[11..11 + size]);
        rest = &rest[11 + size + 4..];
        let unit = |track, offset: i64, key, data: &[u8]| {
            let (dts, pts) = (MediaTime::from_ticks_90k(time), MediaTime::from_ticks_90k(time + offset));
            let unit = Unit { pts, dts, key, data: Bytes::copy_from_slice(data) };
            Request::Unit(WireUnit { track, unit })
        };
        match (kind, body.get(1)) {
            (9, Some(0)) => requests.push(Request::VideoConfig {
                codec: VideoCodec::H264,
                record: Bytes::copy_from_slice(&body[5..]),
            }),
            (9, Some(1)) => {
                let offset = i64::from(i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8) * 90;
                requests.push(unit(0, offset, body[0] >> 4 == 1, &body[5..]));
            }
            (8, Some(0)) => requests.push(Request::AudioConfig {
                track: AUDIO_TRACK,
                codec: AudioCodec::Aac,
                sample_rate: 48_000,
                channels: 2,
                record: Bytes::copy_from_slice(&body[2..]),
            }),
            (8, Some(1)) => requests.push(unit(AUDIO_TRACK, 0, true, &body[2..])),
            _ => {}
        }
    }
    requests
}
