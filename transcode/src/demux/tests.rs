use super::*;
use std::process::Command;

fn made(dir: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let file = dir.join(name);
    let sources = [
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x240:rate=25:duration=2",
        "-f",
        "lavfi",
        "-i",
        "sine=duration=2",
    ];
    let status = Command::new("ffmpeg").args(sources).args(arguments).arg(&file).status().unwrap();
    assert!(status.success());
    file
}

struct Read {
    video: Vec<Unit>,
    audio: Vec<Unit>,
    media: Vec<Media>,
}

fn read(file: &Path) -> Read {
    let media: Vec<Media> = FileDemuxer::open(file).unwrap().map(Result::unwrap).collect();
    let units = |video: bool| {
        let units = media.iter().filter_map(|media| match media {
            Media::Video(unit) if video => Some(unit.clone()),
            Media::Audio(unit) if !video => Some(unit.clone()),
            _ => None,
        });
        units.collect::<Vec<_>>()
    };
    Read { video: units(true), audio: units(false), media }
}

const B_FRAMES: [&str; 10] =
    ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-c:a", "aac"];

#[test]
fn all_containers_give_the_same_media() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.ts", "a.mkv", "a.flv", "a.mov"] {
        let file = made(dir.path(), name, &B_FRAMES);
        let info = FileDemuxer::open(&file).unwrap().info();
        assert_eq!(info.video, Some(TrackInfo { codec: "h264".into(), recoded: false }), "{name}");
        assert_eq!(info.audio, Some(TrackInfo { codec: "aac".into(), recoded: false }), "{name}");
        let duration = info.duration.unwrap().as_secs_f64();
        assert!((1.9..2.2).contains(&duration), "{name}: {duration}");

        let Read { video, audio, media } = read(&file);
        assert_eq!(video.len(), 50, "{name}");
        assert_eq!(video.iter().filter(|unit| unit.key).count(), 2, "{name}");
        let start = video.iter().chain(&audio).map(|unit| unit.pts).min().unwrap().as_secs_f64();
        assert!((9.9..10.1).contains(&start), "{name} begins at {start}");
        for units in [&video, &audio] {
            assert!(units.windows(2).all(|pair| pair[0].dts < pair[1].dts), "{name}");
            assert!(units.iter().all(|unit| unit.pts >= unit.dts), "{name}");
        }
        // Matroska and FLV store times in milliseconds.
        let steps: Vec<i64> = video.windows(2).map(|pair| (pair[1].dts - pair[0].dts).ticks_90k()).collect();
        assert!(steps.iter().all(|step| (step - 3600).abs() <= 90), "{name}: {steps:?}");
        let order: Vec<MediaTime> = media
            .iter()
            .filter_map(|media| match media {
                Media::Video(unit) | Media::Audio(unit) => Some(unit.dts),
                Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {
                    None
                }
            })
            .collect();
        assert!(order.is_sorted(), "{name}: ordered across tracks");

        let configs: Vec<&Media> =
            media.iter().filter(|m| matches!(m, Media::VideoConfig(_) | Media::AudioConfig(_))).collect();
        assert_eq!(configs.len(), 2, "{name}");
        for config in configs {
            match config {
                Media::VideoConfig(config) => {
                    assert_eq!(
                        (config.width, config.height, config.sample_aspect),
                        (320, 240, (1, 1)),
                        "{name}"
                    );
                    assert_eq!(config.frame_rate, Some((25, 1)), "{name}");
                    h264_reader::avcc::AvcDecoderConfigurationRecord::try_from(&config.record[..]).unwrap();
                }
                Media::AudioConfig(config) => {
                    assert_eq!(
                        (config.sample_rate, config.channels, config.core_type),
                        (44_100, 1, 2),
                        "{name}"
                    );
                }
                Media::Video(_) | Media::Audio(_) | Media::TrackConfig(..) | Media::Track(..) => {
                    unreachable!()
                }
            }
        }
        for unit in &video {
            let mut rest = &unit.data[..];
            while let Some((length, behind)) = rest.split_first_chunk::<4>() {
                rest = &behind[u32::from_be_bytes(*length) as usize..];
            }
            assert!(rest.is_empty(), "{name}: whole NAL units");
        }
    }
}

#[test]
fn other_codecs_become_h264_and_aac_and_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = made(dir.path(), "a.mkv", &["-c:v", "mpeg4", "-c:a", "pcm_s16le"]);
    let info = FileDemuxer::open(&file).unwrap().info();
    assert_eq!(info.video, Some(TrackInfo { codec: "mpeg4".into(), recoded: true }));
    let Read { video, audio, .. } = read(&file);
    assert_eq!(video.len(), 50);
    let keys: Vec<i64> = video.iter().filter(|unit| unit.key).map(|unit| unit.pts.to_scaled(1000)).collect();
    assert_eq!(keys, [10_000, 11_000]);
    let end = audio.last().unwrap().pts.as_secs_f64();
    assert!((11.9..12.1).contains(&end), "sound at 48 kHz for as long as at 44.1: {end}");
}

#[test]
fn audio_that_is_encoded_again_keeps_its_time_behind_holes_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    for hole in [1, 5, 20] {
        let filter = format!("asetpts=PTS+gte(T\\,1)*{hole}/TB");
        let file = made(dir.path(), &format!("{hole}.mkv"), &["-vn", "-af", &filter, "-c:a", "flac"]);
        let audio = read(&file).audio;
        let end = audio.last().unwrap().pts.as_secs_f64();
        let expected = 12.0 + f64::from(hole);
        assert!((expected - 0.1..expected + 0.1).contains(&end), "{hole} s: {end}");
        let silent_frames = audio.len() - 2 * 48_000 / 1024;
        assert!(silent_frames <= 10 * 48_000 / 1024, "{hole} s: {silent_frames}");
    }
}

#[test]
fn one_track_may_be_left_out_and_one_alone_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let file = made(dir.path(), "a.mp4", &B_FRAMES);
    let options = DemuxOptions { audio: false, ..DemuxOptions::default() };
    let media = FileDemuxer::open_with(&file, &options).unwrap();
    assert!(media.map(Result::unwrap).all(|m| matches!(m, Media::VideoConfig(_) | Media::Video(_))));
    let sound = made(dir.path(), "a.m4a", &["-vn", "-c:a", "aac"]);
    assert!(FileDemuxer::open(&sound).unwrap().info().video.is_none());
    let neither = DemuxOptions { video: true, audio: false, ..DemuxOptions::default() };
    assert!(matches!(FileDemuxer::open_with(&sound, &neither), Err(DemuxError::NoMedia { .. })));
}

#[test]
fn a_file_cut_short_ends_and_garbage_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = made(dir.path(), "a.ts", &B_FRAMES);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(FileDemuxer::open(&file).unwrap().filter_map(Result::ok).count() > 20);
    std::fs::write(&file, b"nothing of the kind").unwrap();
    assert!(matches!(FileDemuxer::open(&file), Err(DemuxError::Open { .. })));
    assert!(matches!(FileDemuxer::open(dir.path().join("absent")), Err(DemuxError::Open { .. })));
}

#[test]
fn an_error_of_libav_has_a_text() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("garbage");
    std::fs::write(&file, b"nothing of the kind").unwrap();
    let error = FileDemuxer::open(&file).map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with(": there is no media in it that this build of libav can read"), "{error}");
    let error = FileDemuxer::open(dir.path().join("absent")).map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with(": No such file or directory"), "{error}");
}
