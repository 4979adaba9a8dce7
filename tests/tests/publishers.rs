//! What publishers really send: habits of cameras, phones and programs that other servers' users have reported, each with
//! its relatives. All of them stream at the same time, each to a stream of its own, and come out as the same pictures and
//! the same sound.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use media::h264::{LengthSize, Record, length_prefixed_units};
use media::{AudioConfig, VideoConfig, aac, h264};
use rtmp::MessageKind::{Audio, Video};
use std::time::Duration;
use tests::checker::watch::{Watch, report};
use tests::checker::{Rule, Settings};
use tests::encoder_process::{Encoder, Options};
use tests::fixtures;
use tests::patience::eventually;
use tests::sender::{self, Announced, Message};
use tests::{turn, verdict};

/// Bytes of an AVC tag before its data, and of an AAC tag.
const AVC_HEAD: usize = 5;
const AAC_HEAD: usize = 2;

/// The clip that all habits change: pictures of 320x180 with two B-frames, AAC-LC in stereo, flashes and beeps.
struct Clip {
    messages: Vec<Message>,
    video: VideoConfig,
    audio: AudioConfig,
}

impl Clip {
    fn read() -> Self {
        let messages = sender::messages(&fixtures::clip("small"));
        let first = |kind| messages.iter().find(|m| m.kind == kind && m.body[1] == 0).unwrap();
        let (video, _) = h264::read_config(&first(Video).body.slice(AVC_HEAD..), None).unwrap();
        let audio = aac::read_config(&first(Audio).body.slice(AAC_HEAD..), None).unwrap();
        Self { video, audio, messages }
    }

    /// The parameter sets.
    fn sets(&self) -> Vec<&[u8]> {
        let record: &[u8] = &self.video.record;
        Record::read(record).unwrap().parameter_sets().collect()
    }

    /// Each message through a function that makes one or several messages of the message.
    fn each(&self, change: impl Fn(&Message) -> Vec<Message>) -> Vec<Message> {
        self.messages.iter().flat_map(change).collect()
    }

    /// The same for pictures: the rest stays.
    fn pictures(&self, change: impl Fn(&Message, Vec<&[u8]>) -> Vec<Message>) -> Vec<Message> {
        self.each(
            |message| {
                if is_picture(message) { change(message, units(message)) } else { vec![message.clone()] }
            },
        )
    }

    /// The same for frames of sound.
    fn sound(&self, change: impl Fn(&Message) -> Vec<Message>) -> Vec<Message> {
        self.each(|message| if is_frame(message) { change(message) } else { vec![message.clone()] })
    }
}

fn is_picture(message: &Message) -> bool {
    message.kind == Video && message.body[1] == 1
}

fn is_frame(message: &Message) -> bool {
    message.kind == Audio && message.body[1] == 1
}

fn is_config(message: &Message) -> bool {
    message.body[1] == 0
}

fn is_key(message: &Message) -> bool {
    is_picture(message) && message.body[0] >> 4 == 1
}

fn units(message: &Message) -> Vec<&[u8]> {
    length_prefixed_units(&message.body[AVC_HEAD..], LengthSize::Four).map(Result::unwrap).collect()
}

fn with_body(message: &Message, parts: &[&[u8]]) -> Message {
    Message { body: Bytes::from(parts.concat()), ..message.clone() }
}

/// The picture with other bytes behind its tag's header.
fn picture(message: &Message, data: &[u8]) -> Message {
    with_body(message, &[&message.body[..AVC_HEAD], data])
}

fn with_lengths(units: &[&[u8]]) -> Vec<u8> {
    units
        .iter()
        .flat_map(|unit| [&u32::try_from(unit.len()).unwrap().to_be_bytes()[..], unit].concat())
        .collect()
}

fn with_start_codes(units: &[&[u8]], code: &[u8]) -> Vec<u8> {
    units.iter().flat_map(|unit| [code, unit].concat()).collect()
}

const LONG: &[u8] = &[0, 0, 0, 1];
const SHORT: &[u8] = &[0, 0, 1];

/// An ADTS header of AAC-LC, 48 kHz, stereo, before a frame.
fn adts(frame: &[u8]) -> Vec<u8> {
    let len = 7 + frame.len();
    let head = [0xff, 0xf1, 0x4c, 0x80 | (len >> 11) as u8, (len >> 3) as u8, (len << 5) as u8 | 0x1f, 0xfc];
    [&head[..], frame].concat()
}

fn composition(message: &Message) -> i32 {
    let body = &message.body;
    i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8
}

fn with_composition(message: &Message, offset: i32) -> Message {
    let body = &message.body;
    with_body(message, &[&body[..2], &offset.to_be_bytes()[1..], &body[AVC_HEAD..]])
}

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sound {
    /// The beeps, in step with the flashes.
    InStep,
    /// Silence, because nothing could be read.
    Silence,
}

struct Habit {
    name: &'static str,
    announced: bool,
    messages: Vec<Message>,
    sound: Sound,
}

fn habit(name: &'static str, messages: Vec<Message>) -> Habit {
    Habit { name, announced: false, messages, sound: Sound::InStep }
}

/// Makes one or several messages of a picture's message and its NAL units.
type ChangePicture<'a> = dyn Fn(&Message, Vec<&[u8]>) -> Vec<Message> + 'a;

/// Cameras: parameter sets in band, start codes, lengths and zeros of their own.
fn framings(clip: &Clip) -> Vec<Habit> {
    let no_header = |change: &ChangePicture<'_>| -> Vec<Message> {
        let header = |m: &&Message| !(m.kind == Video && is_config(m));
        let rest: Vec<Message> = clip.messages.iter().filter(header).cloned().collect();
        Clip { messages: rest, video: clip.video.clone(), audio: clip.audio.clone() }.pictures(change)
    };
    let sets = clip.sets();
    let with_sets = |message: &Message, units: &[&[u8]]| -> Vec<Vec<u8>> {
        let before = if is_key(message) { sets.clone() } else { Vec::new() };
        before.iter().chain(units).map(|unit| unit.to_vec()).collect()
    };
    let in_one = |code: Option<&'static [u8]>| {
        no_header(&|message, units| {
            let units = with_sets(message, &units);
            let units: Vec<&[u8]> = units.iter().map(|unit| &unit[..]).collect();
            let data = code.map_or_else(|| with_lengths(&units), |code| with_start_codes(&units, code));
            vec![picture(message, &data)]
        })
    };
    let apart = no_header(&|message, units| {
        let mut all: Vec<Message> = Vec::new();
        if is_key(message) {
            all.extend(sets.iter().map(|set| picture(message, &with_lengths(&[set]))));
        }
        all.push(picture(message, &with_lengths(&units)));
        all
    });
    let framed = |make: &dyn Fn(&[&[u8]]) -> Vec<u8>| {
        clip.pictures(|message, units| vec![picture(message, &make(&units))])
    };
    let padded = |zeros: usize| framed(&|units| [with_lengths(units), vec![0; zeros]].concat());
    let short_lengths = clip.each(|message| {
        let mut body = message.body.to_vec();
        if message.kind == Video && is_config(message) {
            body[AVC_HEAD + 4] = body[AVC_HEAD + 4] & !3 | 1;
        } else if is_picture(message) {
            body.truncate(AVC_HEAD);
            for unit in units(message) {
                body.extend(u16::try_from(unit.len()).unwrap().to_be_bytes());
                body.extend(unit);
            }
        }
        vec![with_body(message, &[&body])]
    });
    let sets_as_stream = clip.each(|message| {
        let is_header = message.kind == Video && is_config(message);
        vec![if is_header { picture(message, &with_start_codes(&sets, LONG)) } else { message.clone() }]
    });
    let odd_set = clip.each(|message| {
        if !(message.kind == Video && is_config(message)) {
            return vec![message.clone()];
        }
        let mut kept = h264::ParameterSets::default();
        for set in &sets {
            let odd = [*set, &[0xff, 0xff]].concat();
            kept.keep(if set[0] & 0x1f == 7 { &odd } else { set });
        }
        vec![picture(message, &kept.record().unwrap())]
    });
    let header_each_key = |turn: bool| {
        let header = clip.messages.iter().find(|m| m.kind == Video && is_config(m)).unwrap().clone();
        clip.pictures(move |message, _| {
            let mut header = Message { at_ms: message.at_ms, ..header.clone() };
            if turn {
                let mut body = header.body.to_vec();
                body[AVC_HEAD + 2] = (message.at_ms / 10) as u8;
                header.body = body.into();
            }
            let before = is_key(message).then_some(header);
            before.into_iter().chain([message.clone()]).collect()
        })
    };
    vec![
        habit("sets-in-band", in_one(None)),
        habit("sets-in-messages-of-their-own", apart),
        habit("byte-stream-without-header", in_one(Some(LONG))),
        habit("byte-stream-of-short-codes", in_one(Some(SHORT))),
        habit("byte-stream-with-header", framed(&|units| with_start_codes(units, LONG))),
        habit(
            "start-codes-in-a-length",
            framed(&|units| with_lengths(&[&with_start_codes(units, LONG)[4..]])),
        ),
        habit("one-zero-behind", padded(1)),
        habit("three-zeros-behind", padded(3)),
        habit("nine-zeros-behind", padded(9)),
        habit("lengths-of-two-bytes", short_lengths),
        habit("header-as-byte-stream", sets_as_stream),
        habit("odd-bytes-behind-a-set", odd_set),
        habit("header-before-each-key", header_each_key(false)),
        habit("another-byte-in-each-header", header_each_key(true)),
    ]
}

/// Enhanced RTMP, with the same codecs.
fn enhanced(clip: &Clip) -> Vec<Habit> {
    let rewritten = |tracks: bool, mod_ex: bool| {
        clip.each(|message| {
            let body = &message.body;
            let (first, code, data): (u8, &[u8], Vec<u8>) = match message.kind {
                // Coded frames have a composition offset, sequence starts have none.
                Video if is_config(message) => (0x90, b"avc1", body[AVC_HEAD..].to_vec()),
                Video => (0x81 | body[0] & 0x70, b"avc1", body[2..].to_vec()),
                Audio => (0x90 | body[1], b"mp4a", body[AAC_HEAD..].to_vec()),
            };
            let packet_type = first & 0x0f;
            let multitrack = if message.kind == Video { 6 } else { 5 };
            let first = if mod_ex {
                first | 7
            } else if tracks {
                first & 0xf0 | multitrack
            } else {
                first
            };
            let mut head = vec![first];
            if mod_ex {
                // Three bytes of a nanosecond offset, then the packet type.
                head.extend([2, 0, 0, 9, if tracks { multitrack } else { packet_type }]);
            }
            let track = |id: u8| {
                let kind = [packet_type];
                with_body(message, &[&head, &kind, code, &[id], &data])
            };
            if tracks { vec![track(0), track(1)] } else { vec![with_body(message, &[&head, code, &data])] }
        })
    };
    vec![
        habit("enhanced", rewritten(false, false)),
        habit("enhanced-with-nanoseconds", rewritten(false, true)),
        habit("further-tracks", rewritten(true, false)),
        habit("further-tracks-with-nanoseconds", rewritten(true, true)),
    ]
}

/// Sound without its configuration, with headers of its own, or of a kind that nobody knows.
fn sounds(clip: &Clip) -> Vec<Habit> {
    let without_config: Vec<Message> =
        clip.messages.iter().filter(|m| !(m.kind == Audio && is_config(m))).cloned().collect();
    let bare = Clip { messages: without_config, video: clip.video.clone(), audio: clip.audio.clone() };
    let with_adts = |message: &Message| {
        vec![with_body(message, &[&message.body[..AAC_HEAD], &adts(&message.body[AAC_HEAD..])])]
    };
    let mut in_pairs: Vec<Message> = Vec::new();
    let mut half = None;
    for message in bare.sound(with_adts) {
        match half.take().filter(|_| is_frame(&message)) {
            Some(first) => {
                let first: &mut Message = &mut in_pairs[first];
                *first = with_body(first, &[&first.body, &message.body[AAC_HEAD..]]);
            }
            None => {
                // A picture between the frames of a pair ends the pair.
                half = is_frame(&message).then_some(in_pairs.len());
                in_pairs.push(message);
            }
        }
    }
    let unknown = clip.each(|message| match message.kind {
        Video => vec![message.clone()],
        Audio => vec![with_body(message, &[&[0xd2], &message.body[1..]])],
    });
    vec![
        Habit { announced: true, ..habit("aac-without-configuration", bare.messages.clone()) },
        habit("adts-without-configuration", bare.sound(with_adts)),
        habit("adts-with-configuration", clip.sound(with_adts)),
        habit("adts-frames-in-pairs", in_pairs),
        Habit { sound: Sound::Silence, ..habit("sound-of-an-unknown-format", unknown) },
    ]
}

/// Times.
fn times(clip: &Clip) -> Vec<Habit> {
    // The same presentation, with decode times that are later than they can be.
    let late_decoding = |by: u32| {
        clip.pictures(|message, _| {
            let at_ms = message.at_ms + by;
            vec![Message { at_ms, ..with_composition(message, composition(message) - by as i32) }]
        })
    };
    let presentation = clip.pictures(|message, _| {
        let at_ms = message.at_ms.checked_add_signed(composition(message)).unwrap();
        vec![Message { at_ms, ..with_composition(message, 0) }]
    });
    let mut last = 0;
    let mut equal = clip.messages.clone();
    for (number, message) in equal.iter_mut().filter(|m| is_picture(m)).enumerate() {
        let at = message.at_ms;
        if number % 10 == 9 {
            message.at_ms = last;
        }
        last = at;
    }
    let late = |from_ms: u32| -> Vec<Message> {
        let mut started = false;
        let mut kept = clip.messages.clone();
        kept.retain(|message| {
            started |= is_key(message) && message.at_ms >= from_ms;
            message.kind == Audio || is_config(message) || started
        });
        kept
    };
    vec![
        habit("decode-times-80-ms-late", late_decoding(80)),
        habit("decode-times-200-ms-late", late_decoding(200)),
        habit("presentation-times", presentation),
        habit("every-tenth-time-twice", equal),
        Habit { announced: true, ..habit("video-two-seconds-late", late(2000)) },
        Habit { announced: true, ..habit("video-four-seconds-late", late(4000)) },
    ]
}

/// Publishes all habits at the same time; returns what is wrong. `upsets` are the counters that may rise.
fn wrong_with(clip: &Clip, habits: Vec<Habit>, upsets: &[&'static str]) -> Vec<String> {
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--capacity", &habits.len().to_string())
        .set("--ladder", "180p@300k")
        .set("--reconnect-window", "1")
        // Sound that ends before the first picture, or begins after it.
        .allowing(&["encoder_dropped_units_total", "encoder_silent_frames_total"])
        .allowing(upsets);
    let encoder = Encoder::start(options);
    let mut running = Vec::new();
    for Habit { name, announced, messages, sound } in habits {
        let whole = Announced {
            video: Some(clip.video.clone()),
            audio: Some(clip.audio.clone()),
            ..Announced::default()
        };
        let sending = sender::send(&encoder.rtmp_url(name), announced.then_some(whole), messages);
        running.push((name, sound, sending));
    }
    // An audio-only variant may stand before late video comes.
    let rules = Settings { ignore: [Rule::RenditionsChanged].into(), ..Settings::default() };
    let watches: Vec<_> = running
        .iter()
        .map(|(name, ..)| Watch::start(&encoder.wait_for_stream(name), rules.clone()))
        .collect();
    // An encoder forgets a stream soon after its end: every watch ends before the first stream is judged.
    let mut ended = Vec::new();
    for ((name, sound, sending), watch) in running.into_iter().zip(watches) {
        let mut wrong = Vec::new();
        match sending.join() {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(said))) => wrong.push(format!("sent off: {said}")),
            Ok(Err(error)) => wrong.push(format!("{error:#}")),
            Err(_) => wrong.push("the sender panicked".into()),
        }
        watch.checker().expect_outage();
        eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
        ended.push((name, sound, watch.finish(), wrong));
    }
    let mut all = Vec::new();
    for (name, sound, checker, mut wrong) in ended {
        if !checker.violations().is_empty() {
            wrong.push(report(checker.violations()));
        }
        let folder = tempfile::tempdir().unwrap();
        let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
        verdict::keyframes_aligned(&recorded, &mut wrong);
        let sizes: Vec<_> =
            recorded.iter().filter(|r| r.video).map(|r| (r.stream.width, r.stream.height)).collect();
        if sizes != [(Some(320), Some(180))] {
            wrong.push(format!("pictures of {sizes:?}"));
        }
        match sound {
            Sound::InStep => {
                verdict::sound_in_step(&recorded, &mut wrong);
            }
            Sound::Silence => {
                if !recorded.iter().any(|r| !r.video) {
                    wrong.push("no silence".into());
                }
            }
        }
        all.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    let log = encoder.stop();
    if !all.is_empty() {
        all.push(log);
    }
    all
}

#[track_caller]
fn fine(habits: impl FnOnce(&Clip) -> Vec<Habit>, upsets: &[&'static str]) {
    let clip = Clip::read();
    let wrong = wrong_with(&clip, habits(&clip), upsets);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pictures_in_every_framing() {
    fine(framings, &["encoder_odd_messages_total"]);
}

#[test]
fn enhanced_rtmp_with_tracks_and_nanoseconds() {
    fine(enhanced, &["encoder_odd_messages_total"]);
}

#[test]
fn sound_without_and_with_headers() {
    fine(sounds, &["encoder_odd_messages_total", "encoder_unreadable_media_total"]);
}

#[test]
fn times_of_all_kinds() {
    fine(times, &["encoder_timestamp_repairs_total"]);
}
