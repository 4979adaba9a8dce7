//! `encoder publish` against a real RTMP server: ffmpeg listens and records, ffprobe checks the recording.
#![allow(clippy::unwrap_used, reason = "helpers of tests; clippy knows test functions only")]

use clap::Parser;
use publisher::{PublishArgs, PublishError, run_until};
use rtmp::session::{ServerEvent, ServerSession};
use rtmp::{MediaMessage, MessageKind, Refusal};
use std::future::{Future, pending};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transcode::pattern::read_clock;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PublishArgs,
}

/// Files are read in the test's own process: the program of the confined process is not this one.
fn args(words: &[&str]) -> PublishArgs {
    Cli::parse_from([&["publish", "--worker-sandbox=off"], words].concat()).args
}

/// ffmpeg as an RTMP server that takes one publisher and records it.
struct Recorder {
    child: Child,
    url: String,
    file: PathBuf,
}

impl Recorder {
    fn start(dir: &Path, name: &str) -> Self {
        let address = free_address();
        let (url, file) = (format!("rtmp://{address}/live/key"), dir.join(name));
        let child = Command::new("ffmpeg")
            .args(["-loglevel", "warning", "-listen", "1", "-i", &url, "-c", "copy", "-copyts", "-y"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("ffmpeg is installed");
        Self { child, url, file }
    }

    /// Waits until ffmpeg has written the whole recording.
    fn finish(mut self) -> PathBuf {
        assert!(self.child.wait().unwrap().success(), "ffmpeg saw an orderly end");
        self.file.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // The process has already exited when the test passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that was just free: ffmpeg cannot listen on port 0.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn publish(words: &[&str], stop: impl Future<Output = ()>) -> Result<(), PublishError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), Box::pin(run_until(args(words), stop)))
            .await
            .expect("publishing ends within a minute")
    })
}

fn output(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn ffprobe(file: &Path) -> serde_json::Value {
    let shown = ["-v", "error", "-of", "json", "-show_streams", "-show_format", "-show_packets"];
    serde_json::from_slice(&output("ffprobe", &[&shown[..], &[file.to_str().unwrap()]].concat())).unwrap()
}

/// (dts, pts) in seconds of every packet of the given codec type.
fn times(probed: &serde_json::Value, kind: &str) -> Vec<(f64, f64)> {
    let second = |packet: &serde_json::Value, name: &str| packet[name].as_str().unwrap().parse().unwrap();
    let packets = probed["packets"].as_array().unwrap().iter().filter(|packet| packet["codec_type"] == kind);
    packets.map(|packet| (second(packet, "dts_time"), second(packet, "pts_time"))).collect()
}

fn codecs(probed: &serde_json::Value) -> Vec<&str> {
    let mut codecs: Vec<&str> = probed["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| stream["codec_name"].as_str().unwrap())
        .collect();
    codecs.sort_unstable();
    codecs
}

/// Makes a file with ffmpeg: `seconds` of moving video and a tone, encoded with the arguments in `encoding`.
fn made(dir: &Path, name: &str, seconds: u32, encoding: &[&str]) -> PathBuf {
    let file = dir.join(name);
    let (picture, tone) =
        (format!("testsrc2=size=320x240:rate=25:duration={seconds}"), format!("sine=duration={seconds}"));
    let sources = ["-loglevel", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &tone];
    output("ffmpeg", &[&sources[..], encoding, &[file.to_str().unwrap()]].concat());
    file
}

#[test]
fn the_test_pattern_arrives_in_real_time_with_its_clock_and_marks() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), "out.mkv");
    let started = SystemTime::now();
    publish(
        &[
            "--test-pattern",
            "--size",
            "640x360",
            "--bitrate",
            "800k",
            "--duration",
            "3",
            "--reconnect",
            &recorder.url,
        ],
        pending(),
    )
    .unwrap();
    let took = started.elapsed().unwrap();
    assert!((2.5..8.0).contains(&took.as_secs_f64()), "3 s in real time, took {took:?}");
    let file = recorder.finish();

    let probed = ffprobe(&file);
    assert_eq!(codecs(&probed), ["aac", "h264"]);
    let video = times(&probed, "video");
    assert!((80..=90).contains(&video.len()), "{} frames", video.len());
    for kind in ["video", "audio"] {
        assert!(times(&probed, kind).windows(2).all(|pair| pair[0].0 < pair[1].0), "{kind} goes forward");
    }

    // A frame in the middle shows the time at which it was drawn.
    let gray = output(
        "ffmpeg",
        &[
            "-loglevel",
            "error",
            "-i",
            file.to_str().unwrap(),
            "-vf",
            "select=eq(n\\,45),scale=640:360",
            "-vsync",
            "0",
            "-frames:v",
            "1",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "gray",
            "-",
        ],
    );
    let shown = read_clock(&gray, 640, 640, 360).expect("the clock is readable");
    let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!((unix(started)..unix(started + took)).contains(&shown));

    // The clock stays readable in every frame of a low rung: a quarter of the pixels, at 100 kbit/s.
    let small = dir.path().join("small.mp4");
    let from = ["-loglevel", "error", "-i", file.to_str().unwrap(), "-an", "-vf", "scale=320:180"];
    let to =
        ["-c:v", "libx264", "-b:v", "100k", "-maxrate", "100k", "-bufsize", "100k", small.to_str().unwrap()];
    output("ffmpeg", &[&from[..], &to].concat());
    let shown =
        ["-loglevel", "error", "-i", small.to_str().unwrap(), "-f", "rawvideo", "-pix_fmt", "gray", "-"];
    let ages: Vec<Option<u64>> = output("ffmpeg", &shown)
        .chunks_exact(320 * 180)
        .map(|luma| read_clock(luma, 320, 320, 180))
        .collect();
    assert!(ages.len() >= 80 && ages.iter().all(Option::is_some), "{ages:?}");
    assert!(ages.is_sorted());

    // Flash and beep coincide: compare each bright dial with the first loud sample after 0.1 s of quiet.
    let dial = output(
        "ffmpeg",
        &[
            "-loglevel",
            "error",
            "-copyts",
            "-i",
            file.to_str().unwrap(),
            "-vf",
            "crop=32:32:304:20,scale=1:1:flags=area",
            "-vsync",
            "0",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "gray",
            "-",
        ],
    );
    let flashes: Vec<f64> =
        dial.iter().zip(&video).filter(|(level, _)| **level > 200).map(|(_, (_, pts))| *pts).collect();
    let sound = output(
        "ffmpeg",
        &["-loglevel", "error", "-i", file.to_str().unwrap(), "-ac", "1", "-f", "f32le", "-"],
    );
    let first_audio = times(&probed, "audio")[0].1;
    let samples: Vec<f32> = sound
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let mut beeps = Vec::new();
    let mut quiet_for = 48_000;
    for (at, sample) in samples.iter().enumerate() {
        if sample.abs() < 0.2 {
            quiet_for += 1;
        } else {
            if quiet_for > 4_800 {
                beeps.push(first_audio + at as f64 / 48_000.0);
            }
            quiet_for = 0;
        }
    }
    // Audio ends up to two frames after video, so one more beep may begin.
    assert!(flashes.len() == 3 && beeps.len() >= 3, "{flashes:?} {beeps:?}");
    for (flash, beep) in flashes.iter().zip(&beeps) {
        assert!((flash - beep).abs() < 0.005, "flash at {flash}, beep at {beep}");
    }
}

#[test]
fn files_are_passed_through_whatever_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let h264 =
        ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac", "-ar", "48000"];
    for name in ["a.mp4", "a.ts", "a.mkv", "a.flv"] {
        let file = made(dir.path(), name, 2, &h264);
        let recorder = Recorder::start(dir.path(), &format!("{name}.flv"));
        publish(&["--reconnect", file.to_str().unwrap(), &recorder.url], pending()).unwrap();
        let probed = ffprobe(&recorder.finish());
        assert_eq!(codecs(&probed), ["aac", "h264"], "{name}");
        let (video, audio) = (times(&probed, "video"), times(&probed, "audio"));
        assert_eq!(video.len(), 50, "{name}: all pictures");
        assert!((92..=96).contains(&audio.len()), "{name}: {} frames of sound", audio.len());
        assert!(video.iter().all(|(dts, pts)| pts >= dts), "{name}");
        assert!(
            video.windows(2).all(|pair| (0.038..0.042).contains(&(pair[1].0 - pair[0].0))),
            "{name}: even pace"
        );
        let frames = |file: &str| {
            let shown =
                ["-loglevel", "error", "-i", file, "-map", "0:v", "-f", "framehash", "-hash", "crc32", "-"];
            let listed = String::from_utf8(output("ffmpeg", &shown)).unwrap();
            let hashes = listed.lines().filter(|line| !line.starts_with('#'));
            hashes.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect::<Vec<_>>()
        };
        let sent = dir.path().join(format!("{name}.flv"));
        assert_eq!(
            frames(file.to_str().unwrap()),
            frames(sent.to_str().unwrap()),
            "{name}: decodes to the same"
        );
    }
}

#[test]
fn other_codecs_are_encoded_again() {
    let dir = tempfile::tempdir().unwrap();
    let other = ["-c:v", "mpeg4", "-c:a", "libmp3lame", "-ar", "44100"];
    let file = made(dir.path(), "a.mkv", 2, &other);
    let recorder = Recorder::start(dir.path(), "out.flv");
    publish(&["--reconnect", file.to_str().unwrap(), &recorder.url], pending()).unwrap();
    let probed = ffprobe(&recorder.finish());
    assert_eq!(codecs(&probed), ["aac", "h264"]);
    assert_eq!(times(&probed, "video").len(), 50);
    let audio = times(&probed, "audio");
    assert!((93..=97).contains(&audio.len()), "{} frames of sound", audio.len());
}

#[test]
fn a_loop_goes_on_without_a_jump() {
    let dir = tempfile::tempdir().unwrap();
    let file = made(dir.path(), "a.mp4", 1, &["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"]);
    let recorder = Recorder::start(dir.path(), "out.flv");
    publish(&["--reconnect", "--loop", "--duration", "3", file.to_str().unwrap(), &recorder.url], pending())
        .unwrap();
    let probed = ffprobe(&recorder.finish());
    let video = times(&probed, "video");
    assert!(video.len() > 70);
    for pair in video.windows(2) {
        let step = pair[1].0 - pair[0].0;
        // In each pass, audio is up to one frame longer than video.
        assert!((0.03..0.11).contains(&step), "a step of {step} s");
    }
}

#[test]
fn timestamps_wrap_after_32_bits() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), "out.flv");
    let start = (u32::MAX - 999).to_string();
    publish(
        &[
            "--test-pattern",
            "--size",
            "320x240",
            "--bitrate",
            "300k",
            "--no-audio",
            "--duration",
            "2",
            "--start-timestamp",
            &start,
            "--reconnect",
            &recorder.url,
        ],
        pending(),
    )
    .unwrap();
    // ffmpeg records all frames; its own handling of the wrapped timestamps is not checked.
    assert_eq!(times(&ffprobe(&recorder.finish()), "video").len(), 60);
}

#[test]
fn a_server_that_is_away_is_an_error_of_its_own() {
    let url = format!("rtmp://{}/live/key", free_address());
    let error = publish(&["--test-pattern", "--size", "320x240", &url], pending()).unwrap_err();
    assert!(matches!(error, PublishError::Lost { .. }) && error.exit_code() == 69, "{error}");
    assert!(!error.to_string().contains("key"), "{error}");
}

#[test]
fn a_bad_file_is_told_before_anybody_is_connected_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.mp4");
    std::fs::write(&file, b"this is no film").unwrap();
    for path in [file, dir.path().join("absent.mp4")] {
        let error = publish(&[path.to_str().unwrap(), "rtmp://127.0.0.1:1/live/key"], pending()).unwrap_err();
        assert!(matches!(error, PublishError::Input(_)) && error.exit_code() == 66, "{error}");
    }
}

#[test]
fn interrupting_ends_the_recording_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(dir.path(), "out.flv");
    // Stop once the recording has 20 kB.
    let file = recorder.file.clone();
    let recorded = async move {
        while std::fs::metadata(&file).map_or(0, |metadata| metadata.len()) < 20_000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let error = publish(
        &["--test-pattern", "--size", "320x240", "--bitrate", "300k", "--reconnect", &recorder.url],
        recorded,
    )
    .unwrap_err();
    assert!(matches!(error, PublishError::Interrupted) && error.exit_code() == 130);
    recorder.finish();
}

/// A server in a thread: each connection is handled by the next of `fates`. Returns the messages of each connection.
fn serve(listener: TcpListener, fates: Vec<Fate>) -> std::thread::JoinHandle<Vec<Vec<MediaMessage>>> {
    std::thread::spawn(move || {
        fates.into_iter().map(|fate| serve_one(listener.accept().unwrap().0, &fate)).collect()
    })
}

enum Fate {
    /// Refuse the publish.
    Refuse(Refusal),
    /// Accepts the publish and ends it in the same write.
    SendOff(Refusal),
    /// Accept, then close the connection after this many messages.
    CutAfter(usize),
    /// Accept, and serve until the client closes the connection.
    Serve,
}

fn serve_one(mut socket: std::net::TcpStream, fate: &Fate) -> Vec<MediaMessage> {
    let mut session = ServerSession::new(socket.peer_addr().unwrap());
    let mut taken = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            return taken;
        }
        let mut input = &buffer[..length];
        while let Some(event) = session.handle(&mut input, Instant::now()).unwrap() {
            match (event, fate) {
                (ServerEvent::Publish(_), Fate::Refuse(refusal)) => session.refuse(refusal).unwrap(),
                (ServerEvent::Publish(_), Fate::SendOff(refusal)) => {
                    session.accept().unwrap();
                    session.refuse(refusal).unwrap();
                }
                (ServerEvent::Publish(_), Fate::CutAfter(_) | Fate::Serve) => session.accept().unwrap(),
                (ServerEvent::Media(message), _) => taken.push(message),
                (
                    ServerEvent::Ended(_)
                    | ServerEvent::Refused(_)
                    | ServerEvent::Metadata(_)
                    | ServerEvent::PublishInstead(_),
                    _,
                ) => {}
            }
        }
        let output = std::mem::take(session.output());
        if socket.write_all(&output).is_err()
            || matches!(fate, Fate::CutAfter(count) if taken.len() >= *count)
        {
            return taken;
        }
    }
}

fn listening() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtmp://{}/live/secret", listener.local_addr().unwrap());
    (listener, url)
}

const SMALL: [&str; 6] = ["--test-pattern", "--size", "160x160", "--bitrate", "100k", "--reconnect"];

#[test]
fn a_refusal_is_shown_and_not_tried_again() {
    let (listener, url) = listening();
    let server = serve(listener, vec![Fate::Refuse(Refusal::BadName("no such stream here".into()))]);
    let error = publish(&[&SMALL[..], &[&url]].concat(), pending()).unwrap_err();
    assert!(matches!(error, PublishError::Refused { .. }) && error.exit_code() == 77, "{error}");
    let shown = error.to_string();
    assert!(shown.contains("no such stream here") && !shown.contains("secret"), "{shown}");
    server.join().unwrap();
}

#[test]
fn a_publish_that_is_accepted_and_ended_in_one_write_is_lost() {
    let (listener, url) = listening();
    let server = serve(listener, vec![Fate::SendOff(Refusal::Draining)]);
    let once = &SMALL[..SMALL.len() - 1];
    let error = publish(&[once, &["--duration", "1", &url]].concat(), pending()).unwrap_err();
    assert!(matches!(error, PublishError::Lost { .. }), "{error}");
    assert!(error.to_string().contains(&Refusal::Draining.to_string()), "{error}");
    server.join().unwrap();
}

#[test]
fn a_lost_connection_is_made_again_and_begins_with_a_key_frame() {
    let (listener, url) = listening();
    let server = serve(listener, vec![Fate::CutAfter(20), Fate::Serve]);
    publish(&[&SMALL[..], &["--duration", "4", &url]].concat(), pending()).unwrap();
    let taken = server.join().unwrap();
    for messages in &taken {
        let of = |kind| {
            messages.iter().filter(move |message| message.kind == kind).map(|message| &message.payload)
        };
        let video: Vec<_> = of(MessageKind::Video).take(2).map(|body| (body[0], body[1])).collect();
        assert_eq!(video, [(0x17, 0), (0x17, 1)], "sequence header, then a keyframe");
        assert_eq!(of(MessageKind::Audio).next().map(|body| body[1]), Some(0), "sequence header first");
    }
    assert!(taken[1].len() > 50);
    let (before, after) = (taken[0].last().unwrap().timestamp_ms, taken[1].last().unwrap().timestamp_ms);
    assert!(after > before + 1_000, "time goes on over the gap: {before} to {after}");
}

#[test]
fn a_file_goes_on_where_it_was_when_the_connection_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        made(dir.path(), "a.mp4", 2, &["-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-c:a", "aac"]);
    let (listener, url) = listening();
    let server = serve(listener, vec![Fate::CutAfter(40), Fate::Serve]);
    publish(&["--reconnect", file.to_str().unwrap(), &url], pending()).unwrap();
    let taken = server.join().unwrap();
    let pictures = |messages: &[MediaMessage]| {
        messages
            .iter()
            .filter(|message| message.kind == MessageKind::Video && message.payload[1] == 1)
            .count()
    };
    let (first, second) = (pictures(&taken[0]), pictures(&taken[1]));
    // Frames in flight when the connection broke are lost, and so are those up to the next keyframe.
    assert!(first + second <= 50 && first + second >= 35, "{first} and {second} of 50");
}
