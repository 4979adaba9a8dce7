//! The process that demuxes a file: it gives the same media as libav in this process, and what an attack from inside it
//! can do. The attacks are the worker's ([`crate::sandbox`]).

use bytes::Bytes;
use media::Media;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use transcode::confine::Wall;
use transcode::demux::{DemuxError, DemuxOptions, FileDemuxer, FileReader};

const PROGRAM: &str = env!("CARGO_BIN_EXE_encoder");
const COPIED: [&str; 10] = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac"];

/// Makes a file of two seconds with ffmpeg.
fn made(folder: &TempDir, name: &str, arguments: &[&str]) -> PathBuf {
    let file = folder.path().join(name);
    let picture = "testsrc2=size=160x120:rate=25:duration=2";
    let status = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=duration=2"])
        .args(arguments)
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success(), "{name}");
    file
}

/// The reader that the commands use, with more arguments.
fn confined(more: &[&str]) -> FileReader {
    let arguments = ["demux-worker", "--memory=536870912"].iter().chain(more).map(OsString::from);
    FileReader::Confined { program: PROGRAM.into(), arguments: arguments.collect() }
}

fn all(reader: &FileReader, file: &Path, options: &DemuxOptions) -> Vec<Media> {
    reader.open(file, options).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_file_gives_the_same_media_as_in_one_process() {
    let folder = TempDir::new().unwrap();
    let mpeg4: &[&str] = &["-c:v", "mpeg4", "-c:a", "libmp3lame"];
    let vp9: &[&str] = &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"];
    let files: &[(&str, &[&str])] = &[
        // ffmpeg writes the index of MP4 at the end: it cannot be read without seeking.
        ("a.mp4", &COPIED),
        ("a.mkv", &COPIED),
        ("a.flv", &COPIED),
        ("a.ts", &COPIED),
        ("b.mkv", mpeg4),
        ("b.webm", vp9),
        ("c.mkv", &["-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "flac"]),
        ("c.mov", &["-c:v", "prores", "-c:a", "pcm_s16le"]),
        ("c.avi", &["-c:v", "mjpeg", "-c:a", "ac3"]),
        ("c.mpg", &["-c:v", "mpeg2video", "-c:a", "mp2"]),
        ("d.ogg", &["-vn", "-c:a", "libvorbis"]),
        ("d.wav", &["-vn"]),
        ("d.gif", &["-an"]),
    ];
    for (name, arguments) in files {
        let file = made(&folder, name, arguments);
        let here = FileDemuxer::open(&file).unwrap();
        let options = DemuxOptions::default();
        assert_eq!(confined(&[]).open(&file, &options).unwrap().info(), here.info(), "{name}");
        let recoded = here.info().video.is_some_and(|video| video.recoded);
        // x264 with several threads and a rate limit makes other bytes in each run.
        let known = |mut media: Media| {
            if let Media::Video(unit) = &mut media
                && recoded
            {
                unit.data = Bytes::new();
            }
            media
        };
        let here: Vec<Media> = here.map(Result::unwrap).map(known).collect();
        let there: Vec<Media> = all(&confined(&[]), &file, &options).into_iter().map(known).collect();
        assert!(here == there, "{name}: {} and {} items", here.len(), there.len());
        // The same for its packets alone, which are as many whether the file is encoded again or not.
        let survey = |reader: FileReader| {
            let survey = reader.survey(&file).unwrap();
            (survey.info().clone(), survey.map(Result::unwrap).collect::<Vec<_>>())
        };
        let (info, packets) = survey(FileReader::InThisProcess);
        assert!(!packets.is_empty() && packets.iter().any(|packet| packet.key), "{name}");
        assert!(info.video.is_some() || info.audio.is_some(), "{name}: {info:?}");
        assert!((info, packets) == survey(confined(&[])), "{name}");
    }
    let file = folder.path().join("a.mp4");
    let options = DemuxOptions { audio: false, ..DemuxOptions::default() };
    let video = all(&confined(&[]), &file, &options);
    assert!(video == all(&FileReader::InThisProcess, &file, &options));
    assert!(video.iter().all(|media| matches!(media, Media::VideoConfig(_) | Media::Video(_))));
}

/// As with `cat FILE | encoder transcode /dev/stdin OUTDIR`.
#[test]
fn a_pipe_is_read_without_seeking() {
    let folder = TempDir::new().unwrap();
    let file = made(&folder, "a.ts", &COPIED);
    let pipe = folder.path().join("pipe.ts");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let whole = std::fs::read(&file).unwrap();
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || File::options().write(true).open(pipe).unwrap().write_all(&whole).unwrap())
    };
    let there = all(&confined(&[]), &pipe, &DemuxOptions::default());
    writer.join().unwrap();
    let here = all(&FileReader::InThisProcess, &file, &DemuxOptions::default());
    // Times begin elsewhere, because libav reads the start of a track at the end of a file, too.
    let data = |media: &[Media]| {
        let data = media.iter().filter_map(|media| match media {
            Media::Video(unit) => Some((true, unit.data.clone())),
            Media::Audio(unit) => Some((false, unit.data.clone())),
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => None,
        });
        let (video, audio): (Vec<_>, Vec<_>) = data.partition(|(video, _)| *video);
        [video, audio].concat()
    };
    assert!(data(&there) == data(&here));
}

#[test]
fn errors_are_the_same_as_in_one_process() {
    let folder = TempDir::new().unwrap();
    let garbage = folder.path().join("garbage.mp4");
    std::fs::write(&garbage, b"nothing of the kind").unwrap();
    let sound = made(&folder, "a.m4a", &["-vn", "-c:a", "aac"]);
    let no_audio = DemuxOptions { audio: false, ..DemuxOptions::default() };
    for (file, options) in [
        (garbage, DemuxOptions::default()),
        (folder.path().join("absent.mp4"), DemuxOptions::default()),
        (sound, no_audio),
    ] {
        let told = |reader: FileReader| reader.open(&file, &options).map(|_| ()).unwrap_err().to_string();
        assert_eq!(told(confined(&[])), told(FileReader::InThisProcess));
    }
}

/// A playlist would make libav read files of the playlist's choice.
#[test]
fn files_that_name_other_files_are_refused_in_words() {
    let folder = TempDir::new().unwrap();
    made(&folder, "a.ts", &COPIED);
    let playlist = folder.path().join("index.m3u8");
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n";
    std::fs::write(&playlist, text).unwrap();
    let list = folder.path().join("list.ffconcat");
    std::fs::write(&list, "ffconcat version 1.0\nfile a.ts\n").unwrap();
    for file in [playlist, list] {
        let error = confined(&[]).open(&file, &DemuxOptions::default()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("names other files"), "{error}");
        assert!(error.to_string().contains("--worker-sandbox off"), "{error}");
        assert!(!all(&FileReader::InThisProcess, &file, &DemuxOptions::default()).is_empty());
    }
}

/// A file whose first picture carries an attack.
fn attack(folder: &TempDir, name: &str) -> PathBuf {
    let data = format!(
        "h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+attack-from-inside\\\\:{name}"
    );
    made(folder, "attack.mp4", &["-y", "-an", "-c:v", "libx264", "-preset", "ultrafast", "-bsf:v", &data])
}

/// Runs the process on a file, as root and as another user, and with walls left out.
fn run(file: &Path, arguments: &[&str], mut judge: impl FnMut(&Output, &str)) {
    let own = rustix::process::getuid().as_raw();
    let users = if own == 0 { vec![0, 10_001] } else { vec![own] };
    for user in users {
        for walls in ["", "--without=namespaces", "--without=landlock", "--without=landlock,namespaces"] {
            let output = Command::new(PROGRAM)
                .arg("demux-worker")
                .args(Some(walls).filter(|walls| !walls.is_empty()))
                .args(arguments)
                .env_clear()
                .current_dir("/")
                .uid(user)
                .gid(user)
                .stdin(File::open(file).unwrap())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            judge(&output, &format!("as {user} {walls}"));
        }
    }
}

#[test]
fn an_attack_from_inside_ends_the_process() {
    let folder = TempDir::new().unwrap();
    for (name, call) in [
        ("close-and-socket", libc::SYS_close),
        ("socket", libc::SYS_socket),
        ("openat2", libc::SYS_openat2),
        ("stat", libc::SYS_newfstatat),
        ("unlink", libc::SYS_unlinkat),
        ("execve", libc::SYS_execve),
        ("fork", libc::SYS_clone),
        ("kill", libc::SYS_kill),
        ("process-vm-readv", libc::SYS_process_vm_readv),
        ("mmap-exec", libc::SYS_mmap),
        ("mmap-file", libc::SYS_mmap),
        ("pread", libc::SYS_pread64),
        ("truncate", libc::SYS_ftruncate),
        ("dup", libc::SYS_dup),
        ("memfd", libc::SYS_memfd_create),
        ("io-uring", libc::SYS_io_uring_setup),
    ] {
        run(&attack(&folder, name), &[], |output, how| {
            assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name} {how}: {output:?}");
            let line = format!("{}{call}\n", transcode::FORBIDDEN_CALL);
            assert_eq!(String::from_utf8_lossy(&output.stderr), line, "{name} {how}");
        });
    }
}

#[test]
fn other_files_and_writing_to_the_file_are_refused() {
    let folder = TempDir::new().unwrap();
    // The file is open for reading alone.
    for (name, errno) in [("open", libc::EACCES), ("proc", libc::EACCES), ("write", libc::EBADF)] {
        run(&attack(&folder, name), &[], |output, how| {
            assert_eq!(output.status.code(), Some(0), "{name} {how}: {output:?}");
            let line = format!("worker: attack {name}: refused: {errno}\n");
            assert_eq!(String::from_utf8_lossy(&output.stderr), line, "{name} {how}");
        });
    }
}

#[test]
fn a_forbidden_call_and_a_crash_are_told_with_their_reason() {
    let folder = TempDir::new().unwrap();
    let told = |reader: &FileReader, file: &Path| {
        let media = reader.open(file, &DemuxOptions::default()).unwrap();
        let outcome: Result<Vec<Media>, DemuxError> = media.collect();
        let error = outcome.unwrap_err();
        assert!(matches!(error, DemuxError::Process(_)), "{error:?}");
        error.to_string()
    };
    let error = told(&confined(&[]), &attack(&folder, "socket"));
    assert!(error.contains("forbidden system call: socket"), "{error}");
    let error = told(&confined(&[]), &attack(&folder, "leak"));
    assert!(error.contains("signal: 6") && error.contains("memory allocation"), "{error}");
}

/// libav may hang, and a pipe may stay silent: the process then notices by itself that its parent is gone.
#[test]
fn the_process_ends_with_its_parent() {
    let folder = TempDir::new().unwrap();
    let file = made(&folder, "a.mkv", &["-c:v", "libx264", "-bf", "0", "-g", "5", "-c:a", "aac"]);
    let mut parent = Command::new("sh")
        .args(["-c", "exec 3<&0; \"$0\" demux-worker <&3 3<&- & wait", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Stays open: the process waits for more of the file.
    let mut input = parent.stdin.take().unwrap();
    let whole = std::fs::read(file).unwrap();
    input.write_all(&whole).unwrap();
    let mut output = parent.stdout.take().unwrap();
    output.read_exact(&mut [0; 8]).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Ends when the last process closes the pipe.
    output.read_to_end(&mut Vec::new()).unwrap();
    drop(input);
}

/// Runs the program, and returns its exit code and what it said.
fn command(arguments: &[&OsStr]) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_commands_read_files_in_the_confined_process() {
    let folder = TempDir::new().unwrap();
    let (good, bad) = (made(&folder, "a.mp4", &COPIED), attack(&folder, "socket"));
    let output = folder.path().join("out");
    let fast = ["--ladder=90p@100k", "--preset=ultrafast"].map(OsStr::new);
    let transcode = |file: &Path| {
        command(&[&[OsStr::new("transcode")], &fast[..], &[file.as_os_str(), output.as_os_str()]].concat())
    };
    let (code, said) = transcode(&good);
    assert_eq!(code, Some(0), "{said}");
    assert!(output.join("index.m3u8").exists());
    let (code, said) = transcode(&bad);
    assert_eq!(code, Some(66), "{said}");
    assert!(said.contains("forbidden system call: socket"), "{said}");
    let playlist = output.join("index.m3u8");
    let nobody = OsStr::new("rtmp://127.0.0.1:1/live/key");
    let (code, said) = command(&[OsStr::new("publish"), playlist.as_os_str(), nobody]);
    assert_eq!(code, Some(66), "{said}");
    assert!(said.contains("names other files"), "{said}");
}

/// The modes of everything below a folder, and of the folder.
fn modes(path: &Path) -> Vec<u32> {
    let found = std::fs::symlink_metadata(path).unwrap();
    let mut all = vec![found.permissions().mode()];
    if found.is_dir() {
        all.extend(std::fs::read_dir(path).unwrap().flat_map(|entry| modes(&entry.unwrap().path())));
    }
    all
}

#[test]
fn what_is_written_is_for_the_owner_and_the_group() {
    let folder = TempDir::new().unwrap();
    let file = made(&folder, "a.mp4", &COPIED);
    // A stricter umask of the operator stays.
    for (umask, folders, files) in [("000", 0o40_750, 0o100_640), ("077", 0o40_700, 0o100_600)] {
        let output = folder.path().join(umask);
        let script =
            format!("umask {umask}; exec \"$0\" transcode --ladder=90p@100k --preset=ultrafast \"$@\"");
        let done = Command::new("sh").args(["-c", &script, PROGRAM]).args([&file, &output]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut modes = modes(&output);
        modes.sort_unstable();
        modes.dedup();
        assert_eq!(modes, [folders, files], "with umask {umask}");
    }
}

#[test]
fn a_published_file_arrives() {
    let folder = TempDir::new().unwrap();
    let file = made(&folder, "a.mp4", &COPIED);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (url, recording) = (format!("rtmp://{address}/live/key"), folder.path().join("recording.mkv"));
    let mut recorder = Command::new("ffmpeg")
        .args(["-loglevel", "warning", "-listen", "1", "-i", &url, "-c", "copy"])
        .arg(&recording)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let words = ["publish", "--reconnect"].map(OsStr::new);
    let (code, said) = command(&[&words[..], &[file.as_os_str(), OsStr::new(&url)]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(recorder.wait().unwrap().success());
    let media = all(&FileReader::InThisProcess, &recording, &DemuxOptions::default());
    assert_eq!(media.iter().filter(|media| matches!(media, Media::Video(_))).count(), 50);
}

#[test]
fn a_process_that_cannot_be_confined_or_speaks_otherwise_is_an_error() {
    let folder = TempDir::new().unwrap();
    let file = made(&folder, "a.ts", &COPIED);
    let told = |reader: &FileReader| {
        let error = reader.open(&file, &DemuxOptions::default()).map(|_| ()).unwrap_err();
        assert!(matches!(error, DemuxError::Process(_)), "{error:?}");
        error.to_string()
    };
    let error = told(&confined(&[&format!("--without={}", Wall::SystemCalls)]));
    assert!(error.contains("does not start") && error.contains("system-calls"), "{error}");
    let shell = |script: &str| FileReader::Confined {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
    };
    let error = told(&shell("echo something else; cat >/dev/null"));
    assert!(error.contains("broke the protocol"), "{error}");
    let error = told(&shell("printf 'out of \\033[2J luck\\n' >&2; exit 3"));
    assert!(error.contains("exit status: 3: out of \u{fffd}[2J luck"), "{error}");
    let error = told(&FileReader::Confined { program: "/no/program".into(), arguments: Vec::new() });
    assert!(error.contains("cannot be started"), "{error}");
}
