//! FLV files written by ffmpeg: what the ingest reads is compared with what ffprobe reports for the same file.

#![allow(clippy::unwrap_used)] // A test helper's unwrap is the test's failure.

use bytes::Bytes;
use encoder::testing::fuzzing::flv_file;
use media::{AudioConfig, Media, Unit, VideoConfig};
use rtmp::ingest::Ingest;
use rtmp::timeline::Repairs;
use std::path::Path;
use std::process::Command;

struct Read {
    video_config: VideoConfig,
    audio_config: AudioConfig,
    video: Vec<Unit>,
    audio: Vec<Unit>,
    repairs: Repairs,
}

fn make(path: &Path, arguments: &str) {
    let status = Command::new("ffmpeg")
        .args("-v error -nostdin -y".split(' '))
        .args(arguments.split(' '))
        .arg(path)
        .status()
        .expect("ffmpeg is installed");
    assert!(status.success(), "{arguments}");
}

fn read(path: &Path) -> Read {
    let file = Bytes::from(std::fs::read(path).unwrap());
    let mut ingest = Ingest::new();
    let (mut video_config, mut audio_config) = (None, None);
    let (mut video, mut audio) = (Vec::new(), Vec::new());
    for message in flv_file(&file) {
        for media in ingest.push(message).unwrap() {
            match media {
                Media::VideoConfig(config) => assert_eq!(video_config.replace(config), None),
                Media::AudioConfig(config) => assert_eq!(audio_config.replace(config), None),
                Media::Video(unit) => video.push(unit),
                Media::Audio(unit) => audio.push(unit),
                Media::TrackConfig(..) | Media::Track(..) => panic!("the files have one sound track"),
            }
        }
    }
    assert_eq!(ingest.oddities(), Default::default());
    Read {
        video_config: video_config.unwrap(),
        audio_config: audio_config.unwrap(),
        video,
        audio,
        repairs: ingest.repairs(),
    }
}

/// One field of each packet, or of each stream, of the selected kind.
fn ffprobe(path: &Path, stream: &str, entries: &str) -> Vec<String> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end_matches(',').to_string()).collect()
}

#[test]
fn units_are_those_that_ffprobe_sees() {
    let folder = tempfile::tempdir().unwrap();
    for (name, size, rate, ratio, aspect, b_frames) in [
        ("ntsc", "640x360", "30000/1001", (30_000, 1001), "1/1", 2),
        ("film", "642x362", "24000/1001", (24_000, 1001), "4/3", 3),
        ("fast", "320x568", "60", (60, 1), "1/1", 0),
    ] {
        let path = folder.path().join(format!("{name}.flv"));
        make(
            &path,
            &format!(
                "-f lavfi -i testsrc2=size={size}:rate={rate} -f lavfi -i sine=sample_rate=44100 -t 3 \
                 -vf setsar={aspect} -c:v libx264 -preset veryfast -bf {b_frames} -g 30 -pix_fmt yuv420p \
                 -c:a aac -ac 2"
            ),
        );
        let read = read(&path);
        let config = &read.video_config;
        assert_eq!(format!("{}x{}", config.width, config.height), size);
        assert_eq!(format!("{}/{}", config.sample_aspect.0, config.sample_aspect.1), aspect);
        assert_eq!(config.frame_rate, Some(ratio), "{name}");
        assert_eq!((read.audio_config.sample_rate, read.audio_config.channels), (44_100, 2));

        let sizes: Vec<String> = read.video.iter().map(|unit| unit.data.len().to_string()).collect();
        assert_eq!(sizes, ffprobe(&path, "v", "packet=size"), "{name}");
        let keys: Vec<bool> = read.video.iter().map(|unit| unit.key).collect();
        let flags = ffprobe(&path, "v", "packet=flags");
        assert_eq!(keys, flags.iter().map(|flags| flags.starts_with('K')).collect::<Vec<_>>(), "{name}");
        let sizes: Vec<String> = read.audio.iter().map(|unit| unit.data.len().to_string()).collect();
        assert_eq!(sizes, ffprobe(&path, "a", "packet=size"), "{name}");

        // Decode times are on the exact frame grid; presentation times are within 2.5 ms of the file's.
        let (num, den) = (i64::from(ratio.0), i64::from(ratio.1));
        let first = read.video[0].dts;
        for (n, unit) in read.video.iter().enumerate() {
            let exact = media::time::rescale(n as i64 * den, num, 90_000);
            assert_eq!((unit.dts - first).ticks_90k(), exact, "{name} frame {n}");
        }
        let stamps = ffprobe(&path, "v", "packet=pts_time");
        let zero: f64 = ffprobe(&path, "v", "packet=dts_time")[0].parse().unwrap();
        for (unit, stamp) in read.video.iter().zip(&stamps) {
            let off = (unit.pts - first).as_secs_f64() - (stamp.parse::<f64>().unwrap() - zero);
            assert!(off.abs() < 0.0025, "{name}: {stamp} is off by {off}");
        }
        for pair in read.audio.windows(2) {
            let step = (pair[1].dts - pair[0].dts).ticks_90k();
            assert!((2089..=2090).contains(&step), "{name}: {step}");
        }
        assert_eq!(read.repairs, Repairs::default(), "{name}");
    }
}

/// The I pictures of open GOPs have a recovery point but are no IDR pictures: segments cannot be cut there.
#[test]
fn open_gops_have_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("open.flv");
    make(
        &path,
        "-f lavfi -i testsrc2=size=320x180:rate=30 -f lavfi -i sine -t 3 -c:v libx264 -preset veryfast -bf 2 -g 15 \
         -x264-params open-gop=1:scenecut=0 -pix_fmt yuv420p -c:a aac",
    );
    let file = Bytes::from(std::fs::read(&path).unwrap());
    let mut ingest = Ingest::new();
    let mut keys = 0;
    for message in flv_file(&file) {
        for media in ingest.push(message).unwrap() {
            keys += u32::from(matches!(media, Media::Video(unit) if unit.key));
        }
    }
    assert_eq!(keys, 1);
    assert!(ingest.oddities().false_keys >= 4, "{:?}", ingest.oddities());
}
