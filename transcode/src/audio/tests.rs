use super::*;
use crate::wire::AUDIO_TRACK;

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
    // Jitter is left as it is, except behind a mark.
    assert_eq!((clock.fix(1_800), clock.fix(-1_800)), (Fix::None, Fix::None));
    assert_eq!(
        (clock.fix_within(1_800, 0), clock.fix_within(-1_800, 0)),
        (Fix::Silence(960), Fix::Skip(960))
    );
}

/// Frames of 1024 samples of a format, none of which can be decoded; returns the number of encoded units.
fn encoded_of(format: &AudioFormat, frames: usize) -> usize {
    let rung = AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 };
    let (mut transcoder, _) = AudioTranscoder::open(AUDIO_TRACK, format, &rung).unwrap();
    let mut units = 0;
    let mut out = |_| {
        units += 1;
        Ok(())
    };
    for number in 0..frames {
        let pts = MediaTime::from_ticks_90k(900_000 + 1920 * number as i64);
        let data = Bytes::from_static(&[0xff; 64]);
        transcoder.submit(&Unit { pts, dts: pts, key: true, data }, &mut out).unwrap();
    }
    assert_eq!(transcoder.take_errors(), frames as u64);
    transcoder.finish(&mut out).unwrap();
    units
}

#[test]
fn what_cannot_be_decoded_is_silence() {
    // A record that is none, and one whose frames are none.
    for record in [&[0xff; 2], &[0x11, 0x90]] {
        let record = Bytes::from_static(record);
        let format = AudioFormat { codec: AudioCodec::Aac, sample_rate: 48_000, channels: 2, record };
        let units = encoded_of(&format, 100);
        assert!((95..=103).contains(&units), "{units}");
    }
}

/// A track that pauses, and one that has sent nothing: the marks alone make silence up to their times.
#[test]
fn a_rendition_is_silent_up_to_a_mark() {
    let format =
        AudioFormat { codec: AudioCodec::PcmS16, sample_rate: 48_000, channels: 2, record: Bytes::new() };
    let rung = AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 };
    for heard_ms in [0, 400] {
        let (mut transcoder, _) = AudioTranscoder::open(AUDIO_TRACK - 1, &format, &rung).unwrap();
        let mut times = Vec::new();
        let mut out = |unit: WireUnit| {
            assert_eq!(unit.track, AUDIO_TRACK - 1);
            times.push(unit.unit.pts.ticks_90k() - 900_000);
            Ok(())
        };
        let mut submit = |ms: i64, data: &'static [u8], out: Out<'_>| {
            let pts = MediaTime::from_ticks_90k(900_000 + ms * 90);
            transcoder
                .submit(&Unit { pts, dts: pts, key: true, data: Bytes::from_static(data) }, out)
                .unwrap();
        };
        for ms in (0..heard_ms).step_by(20) {
            submit(ms, &[0x11; 960 * 4], &mut out);
        }
        for ms in (heard_ms..=6_000).step_by(500) {
            submit(ms, &[], &mut out);
        }
        // A mark within what is there already changes nothing.
        submit(1_000, &[], &mut out);
        assert_eq!(transcoder.take_errors(), 0);
        transcoder.finish(&mut out).unwrap();
        assert_eq!(times.first(), Some(&0), "{heard_ms}");
        let end = times.last().unwrap() / 90;
        assert!((5_850..=6_010).contains(&end), "{heard_ms}: {end}");
        assert!(times.windows(2).all(|pair| (1919..=1921).contains(&(pair[1] - pair[0]))), "{heard_ms}");
    }
}
