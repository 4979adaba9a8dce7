//! `encoder publish` with files in other codecs than H.264, and inside TLS: towards this encoder, and towards a recent
//! FFmpeg as a server; ffprobe judges.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::certificate::Certificate;
use tests::checker::Settings;
use tests::checker::watch::{Watch, report};
use tests::encoder_process::{Encoder, Options, STREAM, free_port, subcommand};
use tests::patience::eventually;
use tests::process::{Program, listens};
use tests::{fixtures, probe, publisher, turn, verdict};

/// A clip in a container that files have, with another codec for its sound if `sound` names one.
fn file(folder: &Path, clip: &str, sound: &str) -> PathBuf {
    let file = folder.join(format!("{clip}-{sound}.mkv"));
    let mut command = Command::new(publisher::recent_ffmpeg());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-i"]).arg(fixtures::clip(clip));
    command.args(["-c:v", "copy", "-c:a", sound]).arg(&file);
    Program::spawn("ffmpeg", &mut command).succeed(Duration::from_secs(60));
    file
}

fn publish(arguments: &[&str], file: &Path, url: &str) -> Program {
    let mut command = subcommand("publish");
    command.args(arguments).arg(file).arg(url);
    Program::spawn("encoder publish", &mut command)
}

/// An encoder that also takes publishers inside TLS, at the port that is returned.
fn inside_tls(certificate: &Certificate, options: Options) -> (Encoder, u16) {
    let port = free_port();
    let options = options
        .set("--rtmps-listen", &format!("127.0.0.1:{port}"))
        .set("--tls-cert", certificate.file().to_str().unwrap())
        .set("--tls-key", certificate.key_file().to_str().unwrap())
        // The files are read while one of them is new and the other one is not.
        .allowing(&["encoder_certificate_changes_total"]);
    (Encoder::start(options), port)
}

#[test]
fn files_are_sent_as_they_are_to_a_server_that_takes_their_codecs_inside_tls() {
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::new();
    for (clip, codec, height, sound) in [
        ("hevc-gop1s", "hevc", 180, "libopus"),
        ("av1-gop1s", "av1", 180, "flac"),
        ("small-gop1s", "h264", 240, "ac3"),
    ] {
        let file = file(folder.path(), clip, sound);
        let options = Options::default()
            .set("--ladder", "source+hevc+av1,120p@200k")
            .set("--reconnect-window", "1")
            .allowing(&["encoder_dropped_units_total", "encoder_silent_frames_total"]);
        let (encoder, port) = inside_tls(&certificate, options);
        let authority = certificate.file();
        let url = format!("rtmps://localhost:{port}/live/{STREAM}");
        let mut publisher = publish(&["--tls-ca", authority.to_str().unwrap()], &file, &url);
        let watch = Watch::start(&encoder.wait_for_stream(STREAM), Settings::default());
        let said = publisher.succeed(Duration::from_secs(60));
        for sent in [codec, sound.trim_start_matches("lib")].iter().filter(|codec| **codec != "h264") {
            assert!(said.contains(&format!("{sent} is sent as it is")), "{said}");
        }
        watch.checker().expect_outage();
        eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
        let checker = watch.finish();
        let mut wrong = Vec::new();
        if !checker.violations().is_empty() {
            wrong.push(report(checker.violations()));
        }
        let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
        verdict::keyframes_aligned(&recorded, &mut wrong);
        verdict::sound_in_step(&recorded, &mut wrong);
        let source = recorded.iter().find(|one| one.rendition.starts_with("source/")).unwrap();
        assert_eq!((source.stream.codec_name.as_str(), source.stream.height), (codec, Some(height)));
        let log = encoder.stop();
        assert!(wrong.is_empty(), "{clip}: {}\n{log}", wrong.join("\n"));
    }
}

#[test]
fn a_server_that_cannot_be_trusted_is_told_in_words() {
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::new();
    let (encoder, port) = inside_tls(&certificate, Options::default().unjudged());
    let clip = fixtures::clip("small");
    let authority = certificate.file();
    let trusting = ["--tls-ca", authority.to_str().unwrap()];
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let plain = encoder.rtmp_url(STREAM).replace("rtmp://", "rtmps://").replace("127.0.0.1", "localhost");
    let url = |host: &str| format!("rtmps://{host}:{port}/live/{STREAM}");
    for (arguments, url, code, reason) in [
        (&[][..], url("localhost"), 69, "signed by nobody whom this machine trusts"),
        (&trusting, url("127.0.0.1"), 69, "its certificate is for another host"),
        (&trusting, plain, 69, "may not speak TLS at this port"),
        (&["--tls-ca", empty.to_str().unwrap()], url("localhost"), 64, "has no certificate"),
        (&["--tls-ca", "/nowhere.pem"], url("localhost"), 64, "/nowhere.pem"),
    ] {
        let mut publisher = publish(arguments, &clip, &url);
        let status = publisher.wait(Duration::from_secs(30)).expect("the program ends");
        let said = publisher.output();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains(reason) && !said.contains(STREAM), "{said}");
    }
    encoder.stop();
}

/// FFmpeg takes HEVC, but does not say so.
#[test]
fn ffmpeg_records_what_it_was_sent() {
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), "hevc", "libopus");
    for (mode, codecs, said) in [
        ("always", ["hevc", "opus"], "hevc is sent as it is, by Enhanced RTMP"),
        ("auto", ["h264", "aac"], "the server does not say that it takes hevc"),
        ("never", ["h264", "aac"], "hevc is encoded again"),
    ] {
        let port = free_port();
        let url = format!("rtmp://127.0.0.1:{port}/live/key");
        let recording = folder.path().join(format!("{mode}.mkv"));
        let mut command = Command::new(publisher::recent_ffmpeg());
        command.args(["-nostdin", "-loglevel", "warning", "-listen", "1", "-i", &url]);
        command.args(["-c", "copy", "-y"]).arg(&recording);
        let mut server = Program::spawn("ffmpeg (server)", &mut command);
        eventually("FFmpeg", Duration::from_secs(20), || listens(port).then_some(()));
        let mut publisher = publish(&["--enhanced", mode], &file, &url);
        let output = publisher.succeed(Duration::from_secs(60));
        assert!(output.contains(said), "{output}");
        server.succeed(Duration::from_secs(20));
        let streams = probe::streams(&recording.to_string_lossy()).unwrap();
        let found: Vec<&str> = streams.iter().map(|stream| stream.codec_name.as_str()).collect();
        assert_eq!(found, codecs, "{mode}");
        probe::decodes_clean(&recording).unwrap();
    }
}
