//! The audio rendition: timestamps, synchronisation with video, holes in the input.

use crate::support::{Opening, Outcome, SECOND, Source, job, rung, stereo, transcode};
use transcode::wire::{AUDIO_TRACK, AudioRung, Job, Request, WireUnit};

/// Duration of one AAC frame, 1024 samples at 48 kHz, in 1/90000 s.
const FRAME: i64 = 1920;

fn audio_job(audio: AudioRung) -> Job {
    Job { audio: Some(audio), ..job(Vec::new()) }
}

/// Three seconds of silence with a beep from 1 s to 2 s.
fn beep(rate: u32, channels: &str) -> Source {
    Source::make(&format!(
        "-f lavfi -i aevalsrc=exprs=0.5*sin(1000*2*PI*t)*between(t\\,1\\,2):s={rate}:d=3 \
         -af aformat=channel_layouts={channels} -c:a aac -b:a 128k"
    ))
}

async fn only_audio(source: Source, rung: AudioRung) -> Outcome {
    let outcome = transcode(audio_job(rung), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    outcome
}

/// Media time, in seconds, at which the audio first gets loud. Times are a player's: the first sample decoded from a
/// track has the time of the track's first unit.
fn onset(opening: &Opening, rate: u32, channels: usize) -> f64 {
    let pcm = opening.pcm();
    let at = pcm.chunks(channels).position(|s| s[0].abs() > 0.05).expect("a beep");
    opening.units[0].pts.as_secs_f64() + at as f64 / f64::from(rate)
}

#[tokio::test]
async fn times_count_samples_exactly() {
    let outcome = only_audio(beep(48_000, "stereo").shifted(12_345), stereo()).await;
    let times = outcome.only(AUDIO_TRACK).times(false);
    for pair in times.windows(2) {
        assert_eq!(pair[1] - pair[0], FRAME);
    }
    assert!((138..=145).contains(&times.len()), "{}", times.len());
}

#[tokio::test]
async fn sound_stays_where_it_was_whatever_is_converted() {
    for (rate, layout, channels) in [
        (48_000, "stereo", 2),
        (44_100, "stereo", 2),
        (48_000, "5.1", 2),
        (22_050, "mono", 2),
        (48_000, "stereo", 1),
    ] {
        let source = beep(rate, layout);
        // The onset for a player of the source, found by decoding the source's own units in the same way.
        let config = source.requests.iter().find_map(|r| match r {
            Request::AudioConfig { record, .. } => Some(record.to_vec()),
            _ => None,
        });
        let units = source.units(AUDIO_TRACK).into_iter().cloned().collect();
        let before = Opening { config: config.unwrap(), units };
        let source_channels = match layout {
            "5.1" => 6,
            "mono" => 1,
            _ => 2,
        };
        // The upmix to 5.1 puts the beep into some channels only: accept any channel.
        let pcm = before.pcm();
        let first = pcm.chunks(source_channels).position(|s| s.iter().any(|v| v.abs() > 0.05)).unwrap();
        let before = before.units[0].pts.as_secs_f64() + first as f64 / f64::from(rate);

        let outcome = only_audio(source, AudioRung { channels: channels as u8, ..stereo() }).await;
        let after = onset(outcome.only(AUDIO_TRACK), 48_000, channels);
        assert!((before - after).abs() < 0.012, "{rate} {layout}: {before:.4} became {after:.4}");
    }
}

#[tokio::test]
async fn the_configuration_says_what_comes_out() {
    let outcome = only_audio(beep(44_100, "5.1"), stereo()).await;
    // AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1): object type in 5 bits, rate index (3: 48 kHz) in 4, channels in 4.
    let config = &outcome.only(AUDIO_TRACK).config;
    assert_eq!((config[0] >> 3, (config[0] & 7) << 1 | config[1] >> 7, config[1] >> 3 & 15), (2, 3, 2));
}

#[tokio::test]
async fn a_hole_becomes_silence_and_step_is_kept() {
    let mut source = beep(48_000, "stereo");
    // Half a second of audio is lost before the beep.
    source.requests.retain(|r| match r {
        Request::Unit(WireUnit { unit, .. }) => !(SECOND / 4..SECOND * 3 / 4).contains(&unit.pts.ticks_90k()),
        _ => true,
    });
    let outcome = only_audio(source, stereo()).await;
    let track = outcome.only(AUDIO_TRACK);
    for pair in track.times(false).windows(2) {
        assert_eq!(pair[1] - pair[0], FRAME);
    }
    let onset = onset(track, 48_000, 2);
    assert!((onset - 1.0).abs() < 0.045, "{onset}");
}

#[tokio::test]
async fn a_long_hole_is_a_jump() {
    let mut source = beep(48_000, "stereo");
    for unit in source.units_mut().filter(|u| u.pts.ticks_90k() > SECOND) {
        let later = media::MediaSpan::from_ticks_90k(10 * SECOND);
        (unit.pts, unit.dts) = (unit.pts + later, unit.dts + later);
    }
    let outcome = only_audio(source, stereo()).await;
    let times = outcome.only(AUDIO_TRACK).times(false);
    let jumps: Vec<i64> = times.windows(2).map(|w| w[1] - w[0]).filter(|d| *d != FRAME).collect();
    assert_eq!(jumps.len(), 1, "{jumps:?}");
    assert!((9 * SECOND..=11 * SECOND).contains(&jumps[0]), "{jumps:?}");
}

#[tokio::test]
async fn jitter_of_milliseconds_changes_nothing() {
    let mut source = beep(48_000, "stereo");
    for (index, unit) in source.units_mut().enumerate() {
        let jitter = media::MediaSpan::from_millis([0, 15, -15, 20, 3][index % 5]);
        unit.pts += jitter;
    }
    let outcome = only_audio(source, stereo()).await;
    for pair in outcome.only(AUDIO_TRACK).times(false).windows(2) {
        assert_eq!(pair[1] - pair[0], FRAME);
    }
}

#[tokio::test]
async fn damaged_frames_are_counted() {
    let mut source = beep(48_000, "stereo");
    for (index, unit) in source.units_mut().enumerate() {
        if index % 10 == 5 {
            unit.data = bytes::Bytes::from(vec![0xff; 30]);
        }
    }
    let outcome = only_audio(source, stereo()).await;
    assert!(outcome.progress.decode_errors >= 5, "{:?}", outcome.progress);
    let onset = onset(outcome.only(AUDIO_TRACK), 48_000, 2);
    assert!((onset - 1.0).abs() < 0.045, "{onset}");
}

#[tokio::test]
async fn sound_and_picture_together() {
    let source = Source::make(
        "-f lavfi -i testsrc2=size=320x180:rate=30:duration=3 -f lavfi -i sine=frequency=440:duration=3:sample_rate=44100 \
         -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac",
    );
    let pictures = source.times();
    let job = Job { audio: Some(stereo()), ..job(vec![rung(320, 180, 30, 300_000)]) };
    let outcome = transcode(job, source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    assert_eq!(outcome.only(0).times(false), pictures);
    let sound = outcome.only(AUDIO_TRACK).times(false);
    assert!((sound[sound.len() - 1] - pictures[pictures.len() - 1]).abs() < SECOND / 4);
}
