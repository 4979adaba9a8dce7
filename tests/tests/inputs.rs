//! `encoder inspect` and `encoder transcode` with a publisher, a file and a pipe as their input; FFmpeg publishes, and
//! ffprobe, FFmpeg and the checker of playlists judge what comes out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rtmp::MessageKind;
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Rule, Settings};
use tests::encoder_process::{Encoder, Options, STREAM, free_port, subcommand};
use tests::patience::eventually;
use tests::process::Program;
use tests::publisher;
use tests::sender::{self, Message};
use tests::static_server::StaticServer;
use tests::{browser, fixtures, turn, verdict};

/// The clip of all tests: 320x180, 30 frames a second for 15 s, a keyframe every two seconds, with flash and beep.
const CLIP: &str = "small";
/// The stream key, which no log shows.
const KEY: &str = "secret-key";
/// How long the longest command may take: the clip in real time, and the rest of the encoding.
const PATIENCE: Duration = Duration::from_secs(60);
/// The ladder of what is encoded.
const LADDER: [&str; 4] = ["--ladder", "source,144p@200k", "--preset", "ultrafast"];

/// A command whose standard output goes to a file.
struct Run {
    program: Program,
    stdout: PathBuf,
    _folder: tempfile::TempDir,
}

impl Run {
    /// Starts `encoder NAME ARGUMENTS`, with a shell's redirections behind it.
    fn start<A: AsRef<OsStr>>(name: &str, arguments: &[A], redirections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stdout = folder.path().join("stdout");
        let wanted = subcommand(name);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$@\" >\"$OUT\" {redirections}"), "sh"]);
        command.arg(wanted.get_program()).args(wanted.get_args()).args(arguments).env("OUT", &stdout);
        for (variable, value) in wanted.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        Self { program: Program::spawn(name, &mut command), stdout, _folder: folder }
    }

    /// Waits until the command listens for its publisher.
    fn listening(&self) {
        eventually("the listener", Duration::from_secs(20), || {
            self.program.output().contains("waiting for a publisher").then_some(())
        });
    }

    /// Waits for the end; returns the exit code, standard output and the log.
    fn ended(mut self) -> (Option<i32>, String, String) {
        let status = self.program.wait(PATIENCE);
        let log = self.program.output();
        assert!(!log.contains(KEY) && !log.contains("panicked"), "{log}");
        (status.and_then(|status| status.code()), std::fs::read_to_string(&self.stdout).unwrap(), log)
    }

    /// The report of a command that succeeds.
    fn report(self) -> Value {
        let (code, out, log) = self.ended();
        assert_eq!(code, Some(0), "{log}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

fn url(port: u16, key: &str) -> String {
    format!("rtmp://127.0.0.1:{port}/live/{key}")
}

/// What ffprobe says of a file's packets: video packets, audio packets, their bytes, and the keyframes' times.
struct Probed {
    video: (u64, u64),
    audio: (u64, u64),
    keyframes: Vec<f64>,
}

fn probed(file: &Path) -> Probed {
    let entries = "packet=codec_type,pts_time,size,flags";
    let done = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", entries, "-of", "json"])
        .arg(file)
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    let mut probed = Probed { video: (0, 0), audio: (0, 0), keyframes: Vec::new() };
    for packet in document["packets"].as_array().unwrap() {
        let text = |name: &str| packet[name].as_str().unwrap();
        let size: u64 = text("size").parse().unwrap();
        let is_video = text("codec_type") == "video";
        let counted = if is_video { &mut probed.video } else { &mut probed.audio };
        *counted = (counted.0 + 1, counted.1 + size);
        if is_video && text("flags").starts_with('K') {
            probed.keyframes.push(text("pts_time").parse().unwrap());
        }
    }
    probed
}

/// Compares a report with ffprobe's figures of the clip; adds complaints to `wrong`.
fn compare(report: &Value, probed: &Probed, wrong: &mut Vec<String>) {
    let (video, audio) = (&report["video"], &report["audio"]);
    let mut same = |name: &str, told: &Value, wanted: Value| {
        if *told != wanted {
            wrong.push(format!("{name}: {told}, not {wanted}"));
        }
    };
    same("codec", &video["codec"], "H.264".into());
    same("size", &video["width"], 320.into());
    same("size", &video["height"], 180.into());
    same("pictures", &video["pictures"], probed.video.0.into());
    same("keyframes", &video["keyframes"], probed.keyframes.len().into());
    same("audio codec", &audio["codec"], "AAC".into());
    same("sample rate", &audio["sample_rate"], 48_000.into());
    same("frames", &audio["frames"], probed.audio.0.into());
    same("gaps", &report["timing"]["gaps"], 0.into());
    same("unreadable", &report["unreadable"], Value::Array(Vec::new()));
    let mut near = |name: &str, told: &Value, wanted: f64, tolerance: f64| {
        let told = told.as_f64().unwrap_or(f64::NAN);
        if (told - wanted).abs() > tolerance || told.is_nan() {
            wrong.push(format!("{name}: {told}, not {wanted}"));
        }
    };
    near("frames a second", &video["frame_rate"], 30.0, 0.05);
    let seconds = probed.video.0 as f64 / 30.0;
    let bitrate = probed.video.1 as f64 * 8.0 / seconds;
    near("bitrate", &video["bits_per_second"], bitrate, bitrate * 0.01);
    let audio_bitrate = probed.audio.1 as f64 * 8.0 / (probed.audio.0 as f64 * 1024.0 / 48_000.0);
    near("audio bitrate", &audio["bits_per_second"], audio_bitrate, audio_bitrate * 0.01);
    let longest = probed.keyframes.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    near("longest GOP", &video["gop"]["most_seconds"], longest, 0.05);
}

/// ffprobe reads the playlists, the checker and FFmpeg the media, and the playlists are complete.
fn judge_output(folder: &Path, rules: Settings, wrong: &mut Vec<String>) -> Checker {
    let server = StaticServer::start(vec![folder.to_owned()]).unwrap();
    let url = server.url("index.m3u8");
    let watch = Watch::start(&url, rules);
    eventually("ENDLIST in every playlist", Duration::from_secs(20), || {
        watch.checker().ended().then_some(())
    });
    let checker = watch.finish();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let recorded_in = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(&checker, 0, recorded_in.path(), wrong);
    verdict::keyframes_aligned(&recorded, wrong);
    let worst = verdict::sound_in_step(&recorded, wrong);
    eprintln!("sound is off by {:.1} ms at most", worst * 1e3);
    let mut heights: Vec<_> = recorded.iter().filter_map(|recorded| recorded.stream.height).collect();
    heights.sort_unstable();
    if heights != [144, 180] {
        wrong.push(format!("pictures of {heights:?} lines"));
    }
    match tests::probe::streams(folder.join("index.m3u8").to_str().unwrap()) {
        Ok(streams) if streams.len() >= 3 => {}
        Ok(streams) => wrong.push(format!("ffprobe sees {streams:?}")),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    checker
}

#[test]
fn inspect_tells_what_a_publisher_sends() {
    let clip = fixtures::clip(CLIP);
    let probed = probed(&clip);
    let _turn = turn::Turn::take();
    let port = free_port();
    let run = Run::start("inspect", &["--json", "--live", &url(port, KEY)], "");
    run.listening();
    // Another key is told that it is another one, and does not take the place.
    let mut stranger = publisher::ffmpeg_once(&clip, &url(port, "another"));
    stranger.wait(publisher::REFUSAL);
    assert!(
        stranger.output().contains("another application or stream key is awaited"),
        "{}",
        stranger.output()
    );
    let mut publisher = publisher::ffmpeg_once(&clip, &url(port, KEY));
    // While the publisher is there, a second one is refused.
    eventually("a first report", Duration::from_secs(20), || {
        std::fs::read_to_string(&run.stdout).is_ok_and(|out| out.lines().count() > 1).then_some(())
    });
    let mut second = publisher::ffmpeg_once(&clip, &url(port, KEY));
    second.wait(publisher::REFUSAL);
    assert!(second.output().contains("already"), "{}", second.output());
    publisher.succeed(PATIENCE);
    let (code, out, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    let reports: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(reports.len() > 5, "one every second: {}", reports.len());
    let last = reports.last().unwrap();
    let mut wrong = Vec::new();
    compare(last, &probed, &mut wrong);
    if last["program"].as_str().is_none_or(|program| !program.starts_with("Lavf")) {
        wrong.push(format!("program: {}", last["program"]));
    }
    if !last["advice"].as_array().unwrap().is_empty() {
        wrong.push(format!("advice on a good stream: {}", last["advice"]));
    }
    assert!(wrong.is_empty(), "{}\n{last:#}", wrong.join("\n"));
}

#[test]
fn inspect_ends_after_its_duration_and_says_in_words_what_to_change() {
    let _turn = turn::Turn::take();
    let port = free_port();
    let run = Run::start("inspect", &["--duration", "12", &url(port, KEY)], "");
    run.listening();
    // A keyframe every ten seconds, three B-frames in a row, and sound that no device plays.
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-re"]);
    command.args(["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine"]);
    command.args([
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-b:v",
        "300k",
        "-g",
        "300",
    ]);
    command.args([
        "-bf",
        "3",
        "-x264-params",
        "b-adapt=0:scenecut=0",
        "-c:a",
        "aac",
        "-ar",
        "22050",
        "-ac",
        "1",
    ]);
    let mut publisher = Program::spawn("ffmpeg", command.args(["-f", "flv", &url(port, KEY)]));
    let (code, out, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    let told = ["H.264 (", "320x180", "30.00 measured, 30.00 stated, steady", "AAC (LC), 22050 Hz, mono"];
    let to_change =
        ["Set the keyframe interval to 2 s", "Set B-frames to 2", "Set the sample rate to 48 kHz"];
    for words in told.iter().chain(&to_change) {
        assert!(out.contains(words), "{words} is not in\n{out}");
    }
    assert!(out.matches("Why: ").count() >= 3, "{out}");
    assert!(log.contains("inspecting media_seconds="), "a line where there is no terminal:\n{log}");
    publisher.wait(publisher::REFUSAL);
    assert!(publisher.output().contains("the inspection is over"), "{}", publisher.output());
}

#[test]
fn inspect_agrees_with_ffprobe_on_files_and_pipes() {
    let clip = fixtures::clip(CLIP);
    let wanted = probed(&clip);
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let mut files = vec![clip.clone()];
    for extension in ["mp4", "mkv", "ts"] {
        let file = folder.path().join("clip").with_extension(extension);
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(&clip).args(["-c", "copy"]).arg(&file);
        assert!(command.status().unwrap().success());
        files.push(file);
    }
    for file in &files {
        let found = Run::start("inspect", &[OsStr::new("--json"), file.as_os_str()], "").report();
        // Containers frame H.264 and AAC differently: each is its own measure.
        let before = wrong.len();
        compare(&found, &probed(file), &mut wrong);
        if wrong.len() > before {
            wrong.push(format!("in {}", file.display()));
        }
    }
    let redirections = format!("<'{}'", clip.display());
    let from_file = Run::start("inspect", &["--json", "-"], &redirections).report();
    compare(&from_file, &wanted, &mut wrong);
    let piped = Command::new("sh")
        .args(["-c", "cat \"$1\" | \"$2\" inspect --json -", "sh"])
        .args([clip.as_os_str(), tests::encoder_process::binary().as_os_str()])
        .output()
        .unwrap();
    compare(&serde_json::from_slice(&piped.stdout).unwrap(), &wanted, &mut wrong);
    let short = Run::start("inspect", &[OsStr::new("--json"), "--duration=4".as_ref(), clip.as_os_str()], "");
    let seconds = short.report()["seconds"].as_f64().unwrap();
    if !(4.0..4.2).contains(&seconds) {
        wrong.push(format!("four seconds became {seconds}"));
    }
    // Any codec will do, because nothing is decoded.
    let file = folder.path().join("hevc.mp4");
    let mut command = Command::new("ffmpeg");
    command.args([
        "-nostdin",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=30:duration=3",
    ]);
    command.args(["-c:v", "libx265", "-x265-params", "log-level=error"]).arg(&file);
    assert!(command.status().unwrap().success());
    let other = Run::start("inspect", &[OsStr::new("--json"), file.as_os_str()], "").report();
    if other["video"]["codec"] != "HEVC"
        || other["video"]["frame_rate"].as_f64().is_none_or(|rate| rate < 29.0)
    {
        wrong.push(format!("{other:#}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn transcode_encodes_a_publisher_to_complete_playlists() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let output = folder.path().join("out");
    let source = url(port, KEY);
    let run =
        Run::start("transcode", &[&LADDER[..], &[source.as_str(), output.to_str().unwrap()]].concat(), "");
    run.listening();
    publisher::ffmpeg_once(&clip, &source).succeed(PATIENCE);
    let (code, _, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("encoding media_seconds="), "a line where there is no terminal:\n{log}");
    // On a machine that has too much to do, media may be late.
    let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(complaints.filter(|line| !line.contains("media is late")).count(), 0, "{log}");
    let mut wrong = Vec::new();
    let checker = judge_output(&output, Settings::default(), &mut wrong);
    for rendition in ["source/index.m3u8", "144p/index.m3u8"] {
        let seconds: f64 = checker.listed(rendition).iter().map(|segment| segment.duration).sum();
        if !(14.8..15.3).contains(&seconds) {
            wrong.push(format!("{rendition} has {seconds} s of media"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_interrupted_publisher_leaves_complete_playlists() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let output = folder.path().join("out");
    let source = url(port, KEY);
    let run =
        Run::start("transcode", &[&LADDER[..], &[source.as_str(), output.to_str().unwrap()]].concat(), "");
    run.listening();
    let mut publisher = publisher::ffmpeg_looped(&clip, &source);
    eventually("segments", Duration::from_secs(40), || {
        let list = std::fs::read_to_string(output.join("source/index.m3u8")).unwrap_or_default();
        (list.matches("#EXTINF").count() >= 4).then_some(())
    });
    run.program.signal(Signal::INT);
    let (code, _, log) = run.ended();
    assert_eq!(code, Some(0), "{log}");
    publisher.wait(publisher::REFUSAL);
    assert!(publisher.output().contains("was interrupted"), "{}", publisher.output());
    let mut wrong = Vec::new();
    judge_output(&output, Settings::default(), &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn transcode_encodes_files_and_pipes() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    let sources: [(&str, String); 2] =
        [(clip.to_str().unwrap(), String::new()), ("-", format!("<'{}'", clip.display()))];
    for (number, (source, redirections)) in sources.into_iter().enumerate() {
        let output = folder.path().join(number.to_string());
        let arguments = [&LADDER[..], &[source, output.to_str().unwrap()]].concat();
        let (code, _, log) = Run::start("transcode", &arguments, &redirections).ended();
        assert_eq!(code, Some(0), "{log}");
        // A file's media lasts longer than its encoding.
        let rules = Settings { ignore: [Rule::DateTimeFuture].into(), ..Settings::default() };
        judge_output(&output, rules, &mut wrong);
    }
    let output = folder.path().join("piped");
    let piped = Command::new("sh")
        .args(["-c", "cat \"$1\" | \"$2\" transcode --ladder 144p@200k --preset ultrafast - \"$3\"", "sh"])
        .args([clip.as_os_str(), tests::encoder_process::binary().as_os_str(), output.as_os_str()])
        .output()
        .unwrap();
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert!(std::fs::read_to_string(output.join("144p/index.m3u8")).unwrap().contains("#EXT-X-ENDLIST"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_cannot_be_read_has_a_reason_and_an_exit_code() {
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let empty = folder.path().join("empty.mp4");
    std::fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    let free = url(free_port(), KEY);
    let elsewhere = free.replace("127.0.0.1", "0.0.0.0");
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let taken = url(port, KEY);
    let cases: [(&str, i32, &str); 7] = [
        ("/etc/passwd", 66, "cannot read /etc/passwd: cannot open /etc/passwd: there is no media in it"),
        ("/nowhere/at/all.mp4", 66, "No such file or directory"),
        (empty, 66, "empty.mp4: "),
        (&elsewhere, 64, "--publish-anyone"),
        ("rtmps://127.0.0.1/live/secret-key", 64, "is not supported"),
        ("rtmp://127.0.0.1/secret-key", 64, "/APP/KEY"),
        (&taken, 71, "cannot listen on 127.0.0.1"),
    ];
    for (input, code, reason) in cases {
        for (command, arguments) in [("inspect", vec![input]), ("transcode", vec![input, out.as_str()])] {
            let (ended, stdout, log) = Run::start(command, &arguments, "</dev/null").ended();
            assert_eq!(ended, Some(code), "{command} {input}: {log}");
            assert!(log.contains(reason), "{command} {input}: {log}");
            assert!(!log.trim_end().ends_with(':'), "{command} {input}: {log}");
            assert_eq!(stdout, "", "{command} {input}");
        }
    }
    let nothing = Run::start("inspect", &["-"], "</dev/null").ended();
    assert!(nothing.0 == Some(66) && nothing.2.contains("cannot read standard input"), "{nothing:?}");
    // A signal before a publisher comes.
    for command in ["inspect", "transcode"] {
        let arguments = if command == "inspect" { vec![free.as_str()] } else { vec![free.as_str(), &out] };
        let run = Run::start(command, &arguments, "");
        run.listening();
        run.program.signal(Signal::INT);
        let (code, _, log) = run.ended();
        assert!(code == Some(130) && log.contains("no publisher came"), "{command} {code:?}: {log}");
    }
}

/// Sound of a format that nobody knows: the page and `/status` warn as long as it comes, and say what is sent.
#[test]
fn the_operators_page_warns_of_what_cannot_be_read() {
    let clip = sender::messages(&fixtures::clip("small-gop1s"));
    let _turn = turn::Turn::take();
    let upsets = ["encoder_odd_messages_total", "encoder_unreadable_media_total"];
    let options = Options::default()
        .set("--ladder", "180p@300k")
        .expecting(&upsets)
        .allowing(&["encoder_silent_frames_total", "encoder_timestamp_repairs_total"])
        .logging(&["media that cannot be read"]);
    let encoder = Encoder::start(options);
    let length_ms = clip.iter().map(|message| message.at_ms).max().unwrap() + 33;
    let rounds = (0..4).flat_map(|round| {
        clip.iter()
            .map(move |message| Message { at_ms: message.at_ms + round * length_ms, ..message.clone() })
    });
    let unreadable = rounds.map(|message| match message.kind {
        MessageKind::Audio => Message { body: vec![0xd2, 0].into(), ..message },
        MessageKind::Video => message,
    });
    let _sending = sender::send(&encoder.rtmp_url(STREAM), None, unreadable.collect());
    encoder.wait_for_stream(STREAM);
    let admin = format!("http://127.0.0.1:{}/", encoder.ports.admin);
    let page = browser::operator_page_with_warning(&admin).unwrap();
    assert!(page.console.is_empty() && page.foreign.is_empty(), "{:?} {:?}", page.console, page.foreign);
    let warning =
        "The publisher's audio cannot be read, and viewers do not get it: audio of an unknown sound format.";
    assert_eq!(page.unreadable, warning);
    assert!(
        page.advice.iter().any(|advice| advice.starts_with("Change the audio codec")),
        "{:?}",
        page.advice
    );
    let told = &page.status["streams"][0]["publish_report"];
    assert_eq!(told["unreadable"][0]["kind"], "audio", "{told:#}");
    assert_eq!(told["audio"], Value::Null, "{told:#}");
    assert!(page.facts["video sent"].starts_with("H.264 (High"), "{:?}", page.facts);
    assert!(page.facts["keyframes sent"].starts_with("every 1 s"), "{:?}", page.facts);
    encoder.stop();
}
