//! The functions that the fuzz targets in `tests/fuzz` and the tests that replay `fixtures/corpus` call: each takes
//! bytes, returns nothing, and asserts every guarantee that holds for untrusted bytes. The encoder itself does not use
//! them.
//!
//! To add a target, add a function here, an entry in [`TARGETS`], a file in `tests/fuzz/fuzz_targets`, a folder of seeds,
//! and an empty file for the inputs that are found.

mod corpus;
mod packager;

use crate::archive::page::Page;
use crate::delivery::takeover;
use crate::identity::StreamTerms;
pub use audience::fuzzing::audience;
use bytes::Bytes;
pub use corpus::corpus;
use hls::Timing;
use hls::presentation::Presentation;
use hls::resume::Past;
use hls::timing::Latency;
use listen::proxy::{BadHeader, Header, HeaderReader, MAX_V2_BYTES};
use media::{MediaTime, VideoCodec, aac, av1, captions, framing, h264, hevc, sound, vpx};
pub use packager::packager;
use rtmp::chunk::{ChunkLimits, ChunkReader};
use rtmp::flv::{FlvDemuxer, Tag};
use rtmp::ingest::Ingest;
use rtmp::session::{ServerEvent, ServerSession};
use rtmp::timeline::Timeline;
use rtmp::{MediaMessage, MessageKind, amf};
use std::time::{Duration, Instant};
pub use transcode::wire::protocol::fuzz_worker_protocol as worker_protocol;

/// The function of a target.
pub(crate) type Target = fn(&[u8]);

/// Name and function of every target; the name is also that of its folder of seeds.
pub const TARGETS: [(&str, Target); 12] = [
    ("codec_facts", codec_facts),
    ("stored_playlists", stored_playlists),
    ("stored_records", stored_records),
    ("chunk_reader", chunk_reader),
    ("amf_guard", amf_guard),
    ("flv", flv),
    ("timeline", timeline),
    ("worker_protocol", worker_protocol),
    ("packager", packager),
    ("tokens", tokens),
    ("proxy_header", proxy_header),
    ("audience", audience),
];

/// Everything after the handshake: chunks, AMF, the session, and the resulting media. The first byte gives the size of
/// the pieces in which the rest arrives.
pub fn chunk_reader(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(piece).max(1);
    for limits in [ChunkLimits::BEFORE_PUBLISH, ChunkLimits::PUBLISHING] {
        let mut reader = ChunkReader::new(limits);
        'pieces: for mut part in bytes.chunks(piece) {
            loop {
                match reader.read(&mut part) {
                    Ok(Some(message)) => assert!(message.payload.len() <= limits.partial_bytes),
                    Ok(None) => break,
                    Err(_) => break 'pieces,
                }
                assert!(reader.buffered_bytes() <= limits.partial_bytes);
            }
        }
    }
    session(bytes, piece);
}

/// Runs a whole session and returns the number of media items that came out.
fn session(bytes: &[u8], piece: usize) -> usize {
    let mut media = 0;
    let now = Instant::now();
    let mut session = ServerSession::new(([127, 0, 0, 1], 1935).into());
    let mut ingest = Ingest::new();
    let handshake = [&[3][..], &[0; 2 * 1536]].concat();
    for mut part in std::iter::once(&handshake[..]).chain(bytes.chunks(piece)) {
        loop {
            let event = match session.handle(&mut part, now) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => return media,
            };
            assert!(session.buffered_bytes() <= ChunkLimits::PUBLISHING.partial_bytes);
            match event {
                ServerEvent::Publish(_) | ServerEvent::PublishInstead(_) => {
                    if session.accept().is_err() {
                        return media;
                    }
                }
                ServerEvent::Media(message) => match ingest.push(message) {
                    Ok(read) => media += read.count(),
                    Err(_) => return media,
                },
                ServerEvent::Metadata(metadata) => ingest.metadata(&metadata),
                ServerEvent::Refused(_) | ServerEvent::Ended(_) => {}
            }
        }
    }
    media
}

/// Stream keys that are tokens, key sets, keys files, and answers of back ends: the input is read as each of them.
pub fn tokens(input: &[u8]) {
    admission::fuzzing::tokens(input, StreamTerms::check);
}

/// The header of the PROXY protocol. The first byte gives the size of the pieces in which the rest arrives.
pub fn proxy_header(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let (whole, length) = read_proxy_header(bytes, bytes.len().max(1));
    assert!(length <= MAX_V2_BYTES);
    assert!(whole != Ok(Header::Incomplete) || length == bytes.len());
    if matches!(whole, Ok(Header::Proxied(_) | Header::Local)) {
        assert!(listen::proxy::begins_header(bytes));
        assert_eq!(read_proxy_header(&bytes[..length - 1], length), (Ok(Header::Incomplete), length - 1));
        assert_eq!(read_proxy_header(bytes, usize::from(piece).max(1)), (whole, length), "in pieces");
    }
}

/// The result, and how many bytes were taken.
fn read_proxy_header(bytes: &[u8], piece: usize) -> (Result<Header, BadHeader>, usize) {
    let mut reader = HeaderReader::default();
    let mut taken = 0;
    for mut part in bytes.chunks(piece) {
        assert!((1..=MAX_V2_BYTES).contains(&reader.wants()));
        let given = part.len();
        let header = reader.read(&mut part);
        taken += given - part.len();
        if header != Ok(Header::Incomplete) {
            return (header, taken);
        }
    }
    (Ok(Header::Incomplete), taken)
}

/// Reads the input as AMF values and as a command.
pub fn amf_guard(input: &[u8]) {
    assert!(amf::read(input).values.len() <= amf::MAX_VALUES);
    amf::command(input).ok();
}

/// Codec configurations and access units, without a container: the first byte says of which kind the rest is.
pub fn codec_facts(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else { return };
    match kind % 8 {
        0 => {
            if let Ok((config, _)) = h264::read_config(&Bytes::copy_from_slice(bytes), None) {
                assert!(h264::codecs_string(&config.record).is_some());
                assert!(h264::Record::read(&config.record).is_ok(), "what was rewritten is readable");
            }
        }
        1 => {
            let sets: Vec<Bytes> = h264::annex_b_units(bytes).map(Bytes::copy_from_slice).collect();
            h264::largest_picture(sets.iter().map(|set| &set[..]));
            if let Some(config) = h264::in_band_config(&sets, None) {
                assert!(config.width > 0 && config.height > 0);
            }
            assert!(is_length_prefixed(&h264::annex_b_to_length_prefixed(bytes)));
        }
        2 => {
            for codec in VideoCodec::ALL {
                let found = captions::triplets(codec, bytes);
                captions::note_services(&found, &mut captions::CaptionServices::default());
                if let Some(unit) = captions::with_captions_before(codec, &[], &found) {
                    assert_eq!(captions::triplets(codec, &unit), found, "what is written is read back");
                }
            }
            let payload = Bytes::copy_from_slice(bytes);
            for size in
                [None, Some(h264::LengthSize::One), Some(h264::LengthSize::Two), Some(h264::LengthSize::Four)]
            {
                for facts in [h264::facts, hevc::facts] {
                    if let Some(unit) = framing::read_unit(&payload, size, facts) {
                        // One-byte lengths or three-byte start codes of units of one byte become four-byte lengths.
                        assert!(is_length_prefixed(&unit.data) && 2 * unit.data.len() <= 5 * bytes.len());
                    }
                }
            }
        }
        3 => {
            if let Ok(config) = aac::read_config(&Bytes::copy_from_slice(bytes), None) {
                assert!(config.sample_rate > 0 && config.channels > 0 && config.frame_samples > 0);
            }
            aac::codecs_string(bytes);
        }
        4 => {
            let payload = Bytes::copy_from_slice(bytes);
            if let Ok((config, _)) = hevc::read_config(&payload, None) {
                assert!(hevc::read_config(&config.record, None).is_ok(), "what was rewritten is readable");
            }
            hevc::largest_picture_of_record(bytes);
            let sets: Vec<Bytes> = h264::annex_b_units(bytes).map(Bytes::copy_from_slice).collect();
            hevc::in_band_config(&sets, None);
        }
        5 => {
            av1::read_config(&Bytes::copy_from_slice(bytes)).ok();
            av1::read_unit(bytes);
            vpx::read_vp8(bytes).ok();
            vpx::read_vp9(bytes).ok();
        }
        6 => {
            let record = Bytes::copy_from_slice(bytes);
            let read =
                [sound::mpeg_audio(bytes), sound::opus(&record), sound::flac(&record), sound::ac3(bytes)];
            for config in read.into_iter().flatten() {
                assert!(config.sample_rate > 0 && (1..=8).contains(&config.channels));
            }
        }
        _ => {
            let frames = aac::adts_frames(bytes).take_while(Result::is_ok).flatten();
            let whole: usize = frames.map(|frame| frame.data.len()).sum();
            assert!(whole <= bytes.len());
        }
    }
}

/// Playlists read back at a takeover: texts between zero bytes, the first one multivariant. What is read continues.
pub fn stored_playlists(input: &[u8]) {
    let Some(past) = past(input) else { return };
    assert!(past.next_sequence() > 0);
    let timing = Timing::new(Latency::from_secs_f64(6.0).expect("a latency"));
    if timing.target_duration == past.target_duration() {
        let resumed = Presentation::resume(&timing, &past);
        assert!(resumed.discontinuities() >= past.discontinuities());
    }
}

fn past(input: &[u8]) -> Option<Past> {
    let mut texts = input.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let rungs = hls::resume::renditions(&texts.next()?).ok()?;
    let parsed = rungs.iter().zip(texts).filter_map(|(rung, text)| {
        Some((rung.clone(), hls::resume::StoredPlaylist::parse(rung, &text).ok()?))
    });
    let past = Past::new(parsed).ok()?;
    assert!(past.rungs().count() <= rungs.len());
    Some(past)
}

/// Records of other encoders in the store: a page of an archive's index, or the owner's record.
pub fn stored_records(input: &[u8]) {
    match input.split_first() {
        Some((0, page)) => {
            if let Ok(page) = Page::from_json(page) {
                assert_eq!(Page::from_json(&page.to_json()).ok(), Some(page));
            }
        }
        Some((_, owner)) => takeover::read_owner(owner),
        None => {}
    }
}

/// Tag bodies of one publisher: kind in one byte, length in two bytes, body.
pub fn flv(input: &[u8]) {
    let mut demuxer = FlvDemuxer::new();
    let mut rest = input;
    let mut tracks = std::collections::BTreeSet::new();
    while let [kind, high, low, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (body, behind) = tail.split_at(length);
        rest = behind;
        let kind = if kind & 1 == 0 { MessageKind::Video } else { MessageKind::Audio };
        let body = Bytes::copy_from_slice(body);
        if kind == MessageKind::Audio {
            for (track, tag) in demuxer.read_other_sound(&body).tags {
                match tag {
                    Ok(Tag::AudioConfig(_)) => {
                        tracks.insert(track);
                    }
                    Ok(Tag::Audio(audio)) => {
                        tracks.insert(track);
                        let whole: usize = audio.frames.iter().map(Bytes::len).sum();
                        assert!(whole <= body.len());
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            assert!(tracks.len() < media::MAX_SOUND_TRACKS, "{tracks:?}");
        }
        match demuxer.read(kind, &body) {
            Ok(Tag::VideoConfig(config)) => {
                assert!((16..=8192).contains(&config.width) && (16..=8192).contains(&config.height));
                if let Some((num, den)) = config.frame_rate {
                    assert!(den > 0 && num >= den && u64::from(num) <= 240 * u64::from(den));
                }
            }
            Ok(Tag::Video(picture)) => assert!(!picture.data.is_empty()),
            Ok(Tag::AudioConfig(config)) => {
                assert!(config.sample_rate > 0 && config.channels > 0);
            }
            Ok(Tag::Audio(audio)) => {
                let whole: usize = audio.frames.iter().map(Bytes::len).sum();
                assert!(whole <= body.len());
            }
            Ok(Tag::EndOfSequence(_) | Tag::OtherTrack | Tag::Nothing) | Err(_) => {}
        }
    }
}

/// Whether the data consists entirely of non-empty NAL units, each preceded by its length in four bytes.
fn is_length_prefixed(mut data: &[u8]) -> bool {
    while let Some((length, tail)) = data.split_first_chunk::<4>() {
        match tail.split_at_checked(u32::from_be_bytes(*length) as usize) {
            Some(([_, ..], behind)) => data = behind,
            Some(([], _)) | None => return false,
        }
    }
    data.is_empty()
}

/// Messages of ten bytes: kind and format, pause before the message in units of 16 ms, time, composition offset.
/// Asserts that decode times strictly grow, that presentation is never before decoding, and that all times are above
/// zero and after the start of a resumed axis.
pub fn timeline(input: &[u8]) {
    let began = Instant::now();
    let resumed = MediaTime::from_ticks_90k(90_000);
    for (mut timeline, floor) in [(Timeline::new(), MediaTime::ZERO), (Timeline::resume(resumed), resumed)] {
        let mut now = began;
        let (mut video, mut audio) = (floor, floor);
        let mut rest = input;
        while let Some((message, tail)) = rest.split_first_chunk::<10>() {
            rest = tail;
            let [flags, pause, a, b, c, d, e, f, g, h] = *message;
            now += Duration::from_millis(16 * u64::from(pause));
            let time = u32::from_be_bytes([a, b, c, d]);
            let composition = i32::from_be_bytes([e, f, g, h]);
            match flags & 3 {
                0 => {
                    if let Some(stamp) = timeline.video(time, composition >> 8, now) {
                        assert!(stamp.dts > video && stamp.pts >= stamp.dts);
                        video = stamp.dts;
                    }
                }
                1 => {
                    if let Some(stamp) = timeline.audio(time, now) {
                        assert!(stamp > audio);
                        audio = stamp;
                    }
                }
                2 => timeline.set_frame_rate(Some((time, composition.unsigned_abs()))),
                _ => timeline.set_audio_format(time % 200_000, composition.unsigned_abs() % 10_000),
            }
        }
    }
}

/// Reads all audio and video tags of an FLV file as messages: 13 bytes of header; then tags of 11 bytes, body, and four
/// bytes. For tests that take their media from files.
pub fn flv_file(file: &Bytes) -> impl Iterator<Item = MediaMessage> + '_ {
    let arrived = Instant::now();
    let mut at = 13;
    std::iter::from_fn(move || {
        loop {
            let head = file.get(at..at + 11)?;
            let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
            let timestamp_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
            let kind = match head[0] {
                8 => Some(MessageKind::Audio),
                9 => Some(MessageKind::Video),
                _ => None,
            };
            if file.len() < at + 11 + length {
                return None;
            }
            let payload = file.slice(at + 11..at + 11 + length);
            at += 11 + length + 4;
            if let Some(kind) = kind {
                return Some(MediaMessage { kind, timestamp_ms, payload, arrived });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(target: &str, name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/../fixtures/corpus/{target}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn seeds_reach_the_resumed_stream() {
        for (name, next, discontinuities) in
            [("live", 12, 1), ("behind", 12, 1), ("two-epochs", 12, 2), ("ended", 10, 1)]
        {
            let past = past(&seed("stored_playlists", name)).expect(name);
            assert_eq!((past.next_sequence(), past.discontinuities()), (next, discontinuities), "{name}");
        }
        assert!(Page::from_json(&seed("stored_records", "page")[1..]).is_ok());
        let facts = |name| Bytes::from(seed("codec_facts", name)).slice(1..);
        assert!(h264::read_config(&facts("record"), None).is_ok());
        assert!(hevc::read_config(&facts("hevc-record"), None).is_ok());
        assert!(hevc::read_config(&facts("hevc-parameter-sets"), None).is_ok());
        assert!(av1::read_config(&facts("av1-record")).is_ok_and(|config| config.is_some()));
        assert!(av1::read_unit(&facts("av1-unit")).is_some_and(|unit| unit.key));
        assert!(vpx::read_vp9(&facts("vp9-keyframe")).is_ok_and(|frame| frame.key));
        assert!(vpx::read_vp8(&facts("vp8-keyframe")).is_ok_and(|frame| frame.key));
        assert!(sound::mpeg_audio(&facts("mp3-header")).is_some());
        assert!(sound::opus(&facts("opus-head")).is_some());
        assert!(sound::flac(&facts("flac-stream-info")).is_some());
        assert!(sound::ac3(&facts("ac3-header")).is_some() && sound::ac3(&facts("eac3-header")).is_some());
        let unit = framing::read_unit(&facts("byte-stream-unit"), None, h264::facts);
        assert!(unit.is_some_and(|unit| unit.key && unit.sets.len() == 2));
        assert_eq!(captions::triplets(VideoCodec::H264, &facts("captions")).len(), 2);
        for name in ["hevc-enhanced", "av1-vp9-vp8", "tracks", "sounds", "sets-in-band"] {
            assert!(flv_units(&seed("flv", name)) >= 2, "{name}");
        }
    }

    /// The number of pictures and pieces of audio in a seed of the target `flv`.
    fn flv_units(input: &[u8]) -> usize {
        let mut demuxer = FlvDemuxer::new();
        let (mut rest, mut units) = (input, 0);
        while let [kind, high, low, tail @ ..] = rest {
            let (body, behind) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            rest = behind;
            let kind = if kind & 1 == 0 { MessageKind::Video } else { MessageKind::Audio };
            let tag = demuxer.read(kind, &Bytes::copy_from_slice(body));
            units += usize::from(matches!(tag, Ok(Tag::Video(_) | Tag::Audio(_))));
        }
        units
    }

    /// Seeds that are refused early would not help a fuzzer.
    #[test]
    fn seeds_reach_the_media() {
        for (name, expected) in [("publish", 4), ("publish-in-small-pieces", 4), ("extended-time", 0)] {
            let path = format!("{}/../fixtures/corpus/chunk_reader/{name}", env!("CARGO_MANIFEST_DIR"));
            let seed = std::fs::read(path).unwrap();
            assert_eq!(session(&seed[1..], seed[0].into()), expected, "{name}");
        }
    }
}
