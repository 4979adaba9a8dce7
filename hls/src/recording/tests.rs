//! Recordings of packaged media, read back with mp4-atom as a player does: from tables to samples, from samples to
//! bytes.

use super::*;
use crate::fmp4::index::MediaKind;
use crate::packager::CutRule;
use crate::testing::{AVCC, Run, START_MS, audio, audio_at, epoch, frames, ms, sound, video};
use crate::track::TrackKind;

const FPS: (i64, i64) = (30, 1);

/// A sample as described by the tables; times in seconds on the movie's timeline.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    at: f64,
    until: f64,
    key: bool,
    entry: u32,
    data: Vec<u8>,
}

/// Records all segments in file order, video before audio.
fn record(run: &Run, rungs: &[&str], missing: &[u64]) -> (Vec<u8>, Moov) {
    let mut recording = Recording::new();
    let mut segments: Vec<_> =
        run.segments.iter().filter(|segment| !missing.contains(&segment.info().sequence)).collect();
    segments.sort_by_key(|segment| {
        (segment.info().sequence, rungs.iter().position(|rung| *rung == segment.info().rung.as_str()))
    });
    let mut tracks = Vec::new();
    for rung in rungs {
        let init = run.inits.iter().find(|init| init.rung.as_str() == *rung).unwrap();
        tracks.push((*rung, recording.add_track(&init.body).unwrap(), init.name.clone()));
    }
    let mut payload = Vec::new();
    for segment in segments {
        let Some((rung, track, init)) =
            tracks.iter_mut().find(|(rung, ..)| *rung == segment.info().rung.as_str())
        else {
            continue;
        };
        if *init != segment.info().init {
            let new = run
                .inits
                .iter()
                .find(|init| init.rung == segment.info().rung && init.name == segment.info().init)
                .unwrap();
            recording.set_init(*track, &new.body).unwrap();
            init.clone_from(&new.name);
        }
        let body = segment.body().unwrap();
        let kind = if *rung == "audio" { MediaKind::Audio } else { MediaKind::Video };
        recording.append(*track, body.len() as u64, &SegmentIndex::of(body, kind).unwrap()).unwrap();
        payload.extend_from_slice(body);
    }
    assert_eq!(recording.payload_bytes(), payload.len() as u64);
    let mut file = recording.header().unwrap().to_vec();
    let mut rest = file.as_slice();
    let Some(Any::Ftyp(_)) = Any::decode_maybe(&mut rest).unwrap() else { panic!("ftyp first") };
    let Some(Any::Moov(moov)) = Any::decode_maybe(&mut rest).unwrap() else { panic!("then the index") };
    assert_eq!(rest.len() as u64, MDAT_HEADER_BYTES);
    assert_eq!(&rest[..8], b"\0\0\0\x01mdat");
    assert_eq!(u64::from_be_bytes(rest[8..].try_into().unwrap()), MDAT_HEADER_BYTES + payload.len() as u64);
    file.extend_from_slice(&payload);
    (file, moov)
}

fn shown(file: &[u8], trak: &Trak) -> Vec<Shown> {
    let stbl = &trak.mdia.minf.stbl;
    let timescale = f64::from(trak.mdia.mdhd.timescale);
    let edits = &trak.edts.as_ref().unwrap().elst.as_ref().unwrap().entries;
    let wait =
        edits.iter().filter(|edit| edit.media_time.is_none()).map(|edit| edit.segment_duration).sum::<u64>();
    let from = edits.last().unwrap().media_time.unwrap();
    let shift = wait as f64 / f64::from(MOVIE_TIMESCALE) - from as f64 / timescale;
    let StszSamples::Different { sizes } = &stbl.stsz.samples else { panic!() };
    let durations: Vec<u32> =
        stbl.stts.entries.iter().flat_map(|run| vec![run.sample_delta; run.sample_count as usize]).collect();
    let offsets: Vec<i64> = stbl.ctts.as_ref().map_or(vec![0; sizes.len()], |ctts| {
        ctts.entries.iter().flat_map(|run| vec![run.sample_offset; run.sample_count as usize]).collect()
    });
    assert_eq!((durations.len(), offsets.len()), (sizes.len(), sizes.len()), "the tables agree");
    assert!(offsets.iter().all(|offset| *offset >= 0));
    let chunks = &stbl.co64.as_ref().unwrap().entries;
    let (mut number, mut decode, mut all) = (0, 0u64, Vec::new());
    for (chunk, offset) in (1..).zip(chunks) {
        let run = stbl.stsc.entries.iter().rev().find(|run| run.first_chunk <= chunk).unwrap();
        let mut at = *offset as usize;
        for _ in 0..run.samples_per_chunk {
            let size = sizes[number] as usize;
            let time = (decode as i64 + offsets[number]) as f64 / timescale + shift;
            all.push(Shown {
                at: time,
                until: time + f64::from(durations[number]) / timescale,
                key: stbl.stss.as_ref().is_none_or(|stss| stss.entries.contains(&(number as u32 + 1))),
                entry: run.sample_description_index,
                data: file[at..at + size].to_vec(),
            });
            at += size;
            decode += u64::from(durations[number]);
            number += 1;
        }
    }
    assert_eq!(number, sizes.len());
    assert_eq!(decode, trak.mdia.mdhd.duration);
    all
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.000_05
}

fn two_tracks() -> Run {
    let mut run = Run::with_parts(2.0);
    run.begin(epoch(0, START_MS, &[video("720p"), audio()], CutRule::Grid));
    run.push_all(&[("720p", frames(START_MS, FPS, 30, 120, true)), ("audio", sound(START_MS, 48_000, 188))]);
    run.end(None);
    run
}

/// Each sample has its pushed bytes, presentation time and keyframe flag.
#[test]
fn tables_lead_to_every_sample_at_its_time() {
    let run = two_tracks();
    let (file, moov) = record(&run, &["720p", "audio"], &[]);
    let pictures = shown(&file, &moov.trak[0]);
    let pushed = frames(START_MS, FPS, 30, 120, true);
    assert_eq!(pictures.len(), 120);
    for (shown, pushed) in pictures.iter().zip(&pushed) {
        assert_eq!((&shown.data[..], shown.key), (&pushed.data[..], pushed.key));
        assert!(near(shown.at, (pushed.pts - ms(START_MS)).as_secs_f64()), "{shown:?} {:?}", pushed.pts);
    }
    let sounds = shown_audio(&file, &moov);
    for (n, (shown, pushed)) in sounds.iter().zip(sound(START_MS, 48_000, 188)).enumerate() {
        assert_eq!(shown.data[..], pushed.data[..]);
        assert!(near(shown.at, n as f64 * 1024.0 / 48_000.0), "{n}: {}", shown.at);
    }
    assert!(near(moov.mvhd.duration as f64 / 90_000.0, 188.0 * 1024.0 / 48_000.0));
    assert_eq!((moov.trak[0].tkhd.track_id, moov.trak[1].tkhd.track_id, moov.mvhd.next_track_id), (1, 2, 3));
}

fn shown_audio(file: &[u8], moov: &Moov) -> Vec<Shown> {
    shown(file, &moov.trak[1])
}

/// A missing segment becomes a still picture; all later samples keep their times.
#[test]
fn a_missing_segment_lengthens_the_sample_before_it() {
    let run = two_tracks();
    let missing = run.of("720p")[1];
    let (whole, index) = record(&run, &["720p", "audio"], &[]);
    let (file, moov) = record(&run, &["720p", "audio"], &[missing.info().sequence]);
    for track in 0..2 {
        let all = shown(&whole, &index.trak[track]);
        let kept = shown(&file, &moov.trak[track]);
        let hole =
            kept.windows(2).max_by(|a, b| (a[0].until - a[0].at).total_cmp(&(b[0].until - b[0].at))).unwrap();
        assert!(hole[0].until - hole[0].at > 0.9, "{:?}", hole[0].until - hole[0].at);
        let last = (all.last().unwrap(), kept.last().unwrap());
        assert!(near(last.0.at, last.1.at) && last.0.data == last.1.data);
        assert!(kept.len() < all.len());
    }
    assert_eq!(moov.mvhd.duration, index.mvhd.duration);
}

/// Decode time of a track's last sample, in seconds on the movie's timeline.
fn last_sample(moov: &Moov, track: usize) -> f64 {
    let trak = &moov.trak[track];
    let (stts, timescale) = (&trak.mdia.minf.stbl.stts.entries, f64::from(trak.mdia.mdhd.timescale));
    let all: u64 = stts.iter().map(|run| u64::from(run.sample_count) * u64::from(run.sample_delta)).sum();
    let edits = &trak.edts.as_ref().unwrap().elst.as_ref().unwrap().entries;
    assert_eq!(edits.len(), 1, "nothing waits");
    let before = edits[0].media_time.unwrap() + u64::from(stts.last().unwrap().sample_delta);
    (all - before) as f64 / timescale
}

/// NTSC video, and 44.1 kHz audio with timestamps in milliseconds: neither frame duration is a whole number of ticks of
/// the other track's clock.
#[test]
fn after_three_hours_sound_and_pictures_are_in_step() {
    let (pictures, sounds) = (3 * 3600 * 30_000 / 1001, 3 * 3600 * 44_100 / 1024);
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS, &[video("720p"), audio_at(44_100)], CutRule::Grid));
    let all = [
        ("720p", frames(START_MS, (30_000, 1001), 30, pictures, false)),
        ("audio", sound(START_MS, 44_100, sounds)),
    ];
    run.push_all(&all);
    run.end(None);
    let (_, moov) = record(&run, &["720p", "audio"], &[]);
    let (picture, frame) =
        ((pictures - 1) as f64 * 1001.0 / 30_000.0, (sounds - 1) as f64 * 1024.0 / 44_100.0);
    assert!((last_sample(&moov, 0) - picture).abs() < 0.001, "{} of {picture}", last_sample(&moov, 0));
    assert!((last_sample(&moov, 1) - frame).abs() < 0.001, "{} of {frame}", last_sample(&moov, 1));
    let ends = f64::max(picture + 1001.0 / 30_000.0, frame + 1024.0 / 44_100.0);
    assert!((moov.mvhd.duration as f64 / 90_000.0 - ends).abs() < 0.001);
}

/// A publisher returns with another video format: each sample refers to the parameter sets that it was encoded with.
#[test]
fn each_codec_configuration_has_its_entry() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS, &[video("720p"), audio()], CutRule::Grid));
    run.push_all(&[("720p", frames(START_MS, FPS, 30, 60, false)), ("audio", sound(START_MS, 48_000, 94))]);
    let mut other = video("720p");
    let TrackKind::Video(track) = &mut other.kind else { panic!() };
    let mut config = AVCC.to_vec();
    config[3] = 0x1f;
    (track.config, track.height, track.width) = (config.into(), 720, 1280);
    let again = START_MS + 5_000;
    run.begin(epoch(1, again, &[other, audio()], CutRule::Grid));
    run.push_all(&[("720p", frames(again, FPS, 30, 60, false)), ("audio", sound(again, 48_000, 94))]);
    run.begin(epoch(2, again + 2_000, &[video("720p"), audio()], CutRule::Grid));
    run.push_all(&[
        ("720p", frames(again + 2_000, FPS, 30, 30, false)),
        ("audio", sound(again + 2_000, 48_000, 47)),
    ]);
    run.end(None);
    let (file, moov) = record(&run, &["720p", "audio"], &[]);
    let pictures = shown(&file, &moov.trak[0]);
    let entries: Vec<u32> = pictures.iter().map(|shown| shown.entry).collect();
    assert_eq!((entries[0], entries[60], entries[120]), (1, 2, 1));
    assert_eq!(moov.trak[0].mdia.minf.stbl.stsd.codecs.len(), 2);
    assert_eq!(moov.trak[1].mdia.minf.stbl.stsd.codecs.len(), 1);
    assert_eq!(moov.trak[0].tkhd.height.integer(), 720);
    // The pause is preserved: 2 s of media, 3 s without media.
    assert!(near(pictures[60].at, 5.0) && near(pictures[59].until, 5.0));
    let sounds = shown_audio(&file, &moov);
    assert!((sounds[94].at - 5.0).abs() < 0.022, "{}", sounds[94].at);
    assert!(sounds.windows(2).all(|pair| pair[1].at > pair[0].at));
}

#[test]
fn a_track_that_begins_later_waits_and_sound_before_the_pictures_is_cut() {
    for (delay_ms, expected_wait) in [(700, Some(700)), (-15, None)] {
        let mut run = Run::new(4.0);
        run.begin(epoch(0, START_MS, &[video("720p"), audio()], CutRule::Grid));
        run.push_all(&[
            ("720p", frames(START_MS, FPS, 30, 60, false)),
            ("audio", sound(START_MS + delay_ms, 48_000, 60)),
        ]);
        run.end(None);
        let (file, moov) = record(&run, &["720p", "audio"], &[]);
        let edits = &moov.trak[1].edts.as_ref().unwrap().elst.as_ref().unwrap().entries;
        let wait = (edits.len() == 2).then(|| edits[0].segment_duration / 90);
        assert_eq!(wait, expected_wait, "{edits:?}");
        assert!(near(shown(&file, &moov.trak[0])[0].at, 0.0));
        assert!(near(shown_audio(&file, &moov)[0].at, delay_ms as f64 / 1000.0));
        assert!(moov.trak.iter().all(|trak| trak.tkhd.duration <= moov.mvhd.duration));
    }
}

#[test]
fn without_media_there_is_no_recording() {
    assert_eq!(Recording::new().header(), Err(RecordingError::Empty));
    assert!(matches!(Recording::new().add_track(b"junk"), Err(RecordingError::Init(_))));
    let run = two_tracks();
    let mut recording = Recording::new();
    let track = recording.add_track(&run.inits[0].body).unwrap();
    let audio = run.inits.iter().find(|init| init.rung.as_str() == "audio").unwrap();
    assert_eq!(recording.set_init(track, &audio.body), Err(RecordingError::Timescale));
    assert_eq!(recording.header(), Err(RecordingError::Empty));
}
