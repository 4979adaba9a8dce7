//! Publishers with other codecs than H.264 and AAC: a recent FFmpeg by Enhanced RTMP, Debian's FFmpeg for the sound of
//! plain FLV, and VP8, which neither of them sends. All come out as H.264 and AAC, in step.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use rtmp::MessageKind::Video;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::encoder_process::{Encoder, Options};
use tests::patience::eventually;
use tests::process::Program;
use tests::sender::{self, Message};
use tests::{fixtures, publisher, turn, verdict};

/// Publishes each of the clips with the FFmpeg at `program`, all at the same time; what comes out is the clip `small`.
#[track_caller]
fn all_come_out(program: &Path, clips: &[&str]) {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(for_streams(clips.len()));
    let mut running = Vec::new();
    for name in clips {
        let url = encoder.rtmp_url(name);
        let publisher = publisher::ffmpeg_at(program, &fixtures::clip(name), &url, &[]);
        running.push((*name, publisher));
    }
    let watches: Vec<_> =
        clips.iter().map(|name| Watch::start(&encoder.wait_for_stream(name), Settings::default())).collect();
    let mut all = Vec::new();
    let mut streams = Vec::new();
    for ((name, mut publisher), watch) in running.into_iter().zip(watches) {
        let ended = publisher.wait(Duration::from_secs(60));
        if !ended.is_some_and(|status| status.success()) {
            all.push(format!("{name}: the publisher ended with {ended:?}: {}", publisher.output()));
        }
        streams.push((name, ended_stream(watch)));
    }
    for (name, checker) in streams {
        all.extend(wrong_with(&checker).into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    let log = encoder.stop();
    assert!(all.is_empty(), "{}\n{log}", all.join("\n"));
}

fn for_streams(count: usize) -> Options {
    Options::default()
        .set("--capacity", &count.to_string())
        .set("--ladder", "180p@300k")
        .set("--reconnect-window", "1")
        // Sound that ends before the first picture, or begins after it.
        .allowing(&["encoder_dropped_units_total", "encoder_silent_frames_total"])
}

/// Watches a stream, whose publisher has gone, to its end. An encoder forgets a stream soon afterwards, so every watch
/// ends before the first stream is judged.
fn ended_stream(watch: Watch) -> Checker {
    watch.checker().expect_outage();
    eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
    watch.finish()
}

/// What is wrong with a stream of the clip `small`.
fn wrong_with(checker: &Checker) -> Vec<String> {
    let mut wrong = Vec::new();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let folder = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(checker, 0, folder.path(), &mut wrong);
    verdict::keyframes_aligned(&recorded, &mut wrong);
    verdict::sound_in_step(&recorded, &mut wrong);
    for one in &recorded {
        let stream = &one.stream;
        let shape = (stream.codec_name.as_str(), stream.width, stream.height);
        let expected = if one.video { ("h264", Some(320), Some(180)) } else { ("aac", None, None) };
        if shape != expected {
            wrong.push(format!("{}: {shape:?}", one.rendition));
        }
    }
    wrong
}

#[test]
fn video_codecs_of_enhanced_rtmp() {
    all_come_out(&publisher::recent_ffmpeg(), &["hevc", "hevc-10bit", "av1", "vp9"]);
}

#[test]
fn audio_codecs_of_enhanced_rtmp() {
    all_come_out(
        &publisher::recent_ffmpeg(),
        &["opus", "opus-surround", "flac", "ac3", "ac3-surround", "eac3"],
    );
}

#[test]
fn audio_codecs_of_plain_flv() {
    let clips = [
        "mp3",
        "mp3-mono",
        "speex",
        "pcm",
        "pcm-8bit",
        "alaw",
        "mulaw",
        "adpcm",
        "nellymoser",
        "aac-program-config",
    ];
    all_come_out(Path::new("ffmpeg"), &clips);
}

/// HEVC and AV1 under the codec ids that were in use before Enhanced RTMP, and VP8.
#[test]
fn video_codecs_that_no_ffmpeg_sends_so() {
    let legacy = |clip: &str, id: u8| -> Vec<Message> {
        let change = |message: Message| {
            if message.kind != Video || message.body[0] & 0x0f > 3 {
                return Some(message).filter(|m| m.kind != Video);
            }
            let body = &message.body;
            let (frame_type, packet_type) = (body[0] & 0x70, body[0] & 0x0f);
            let has_offset = packet_type == 1 && &body[1..5] == b"hvc1";
            let (offset, data) =
                if has_offset { (&body[5..8], &body[8..]) } else { (&[0, 0, 0][..], &body[5..]) };
            let head = [frame_type | id, packet_type.min(1) & u8::from(packet_type != 0)];
            Some(Message { body: Bytes::from([&head, offset, data].concat()), ..message })
        };
        sender::messages(&fixtures::clip(clip)).into_iter().filter_map(change).collect()
    };
    let streams = [("hevc-12", legacy("hevc", 12)), ("av1-13", legacy("av1", 13)), ("vp8", vp8())];
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(for_streams(streams.len()));
    let running: Vec<_> = streams
        .into_iter()
        .map(|(name, messages)| (name, sender::send(&encoder.rtmp_url(name), None, messages)))
        .collect();
    let watches: Vec<_> = running
        .iter()
        .map(|(name, _)| Watch::start(&encoder.wait_for_stream(name), Settings::default()))
        .collect();
    let mut streams = Vec::new();
    for ((name, sending), watch) in running.into_iter().zip(watches) {
        let said = sending.join().unwrap().unwrap();
        assert_eq!(said, None, "{name}");
        streams.push((name, ended_stream(watch)));
    }
    let mut all = Vec::new();
    for (name, checker) in streams {
        all.extend(wrong_with(&checker).into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    let log = encoder.stop();
    assert!(all.is_empty(), "{}\n{log}", all.join("\n"));
}

/// The clip `small` with its pictures in VP8, as Enhanced RTMP carries it.
fn vp8() -> Vec<Message> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.ivf");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-i"]).arg(fixtures::clip("small"));
    command.args("-an -c:v libvpx -deadline realtime -cpu-used 8 -g 60 -b:v 500k".split(' ')).arg(&file);
    let status = Program::spawn("ffmpeg", &mut command).wait(Duration::from_secs(60));
    assert!(status.is_some_and(|status| status.success()));
    let ivf = std::fs::read(file).unwrap();
    let mut messages: Vec<Message> = sender::messages(&fixtures::clip("small"));
    messages.retain(|message| message.kind != Video);
    // A file header of 32 bytes; before each frame its size and its time, here in units of 1/30 s.
    let mut rest = &ivf[32..];
    while let Some((head, tail)) = rest.split_first_chunk::<12>() {
        let size = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let number = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let (frame, behind) = tail.split_at(size);
        rest = behind;
        let first = if frame[0] & 1 == 0 { 0x91 } else { 0xa1 };
        let body = Bytes::from([&[first], &b"vp08"[..], frame].concat());
        messages.push(Message { kind: Video, at_ms: number * 1000 / 30, body });
    }
    messages.sort_by_key(|message| message.at_ms);
    messages
}
