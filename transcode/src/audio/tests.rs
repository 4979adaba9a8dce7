use super::*;

#[test]
fn small_differences_are_jitter() {
    let mut clock = SampleClock::new(48_000);
    assert_eq!(clock.fix(1000), Fix::Resync);
    clock.origin = Some(1000);
    clock.taken = 48_000;
    assert_eq!(clock.at(clock.taken), 91_000);
    assert_eq!(clock.fix(91_000 + TOLERANCE_TICKS), Fix::None);
    assert_eq!(clock.fix(91_000 - TOLERANCE_TICKS), Fix::None);
}

#[test]
fn holes_are_filled_and_overlaps_left_out_up_to_a_bound() {
    let clock = SampleClock { rate: 48_000, origin: Some(0), taken: 0 };
    assert_eq!(clock.fix(90_000), Fix::Silence(48_000));
    assert_eq!(clock.fix(-9000), Fix::Skip(4800));
    assert_eq!(clock.fix(LONGEST_SILENCE_TICKS + 1), Fix::Resync);
    assert_eq!(clock.fix(i64::MIN / 2), Fix::Resync);
}

#[test]
fn a_record_that_is_none_is_an_error() {
    let rung = AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 };
    let opened = AudioTranscoder::open(AudioCodec::Aac, &[0xff; 2], &rung);
    assert!(matches!(opened, Err(TranscodeError::AudioConfig(_))));
}
