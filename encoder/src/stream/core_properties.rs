//! Properties that hold for the core in any order of events: random publishers, workers and clocks.

use super::core_tests::{Stage, Ticks, settings};
use super::run::RunId;
use super::tests::{audio_config, unit_at, video_config};
use hls::{RungName, Segment, SegmentInfo};
use media::{Media, MediaSpan};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use transcode::wire::Response;

/// Maximum number of simultaneous workers of one stream.
const MAX_WORKERS: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    Come,
    Go,
    Publish {
        ms: u64,
        video: bool,
        audio: bool,
    },
    Wait {
        ms: u64,
    },
    /// The publisher's media time and the clock advance while it sends nothing.
    Pause {
        ms: u64,
    },
    VideoConfig(usize),
    AudioConfig(usize),
    KeyEvery {
        ms: i64,
    },
    Kill(usize),
    /// Workers take requests and send no responses.
    Hang(bool),
    /// A worker reports that it has finished, without having been asked to finish.
    FinishUnasked(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Come),
        1 => Just(Event::Go),
        8 => (40u64..6_000, prop::bool::weighted(0.85), prop::bool::weighted(0.85))
            .prop_map(|(ms, video, audio)| Event::Publish { ms, video, audio }),
        1 => (50u64..40_000).prop_map(|ms| Event::Wait { ms }),
        1 => (50u64..90_000).prop_map(|ms| Event::Pause { ms }),
        2 => (0usize..3).prop_map(Event::VideoConfig),
        2 => (0usize..4).prop_map(Event::AudioConfig),
        1 => prop::sample::select(vec![40, 400, 1000, 2000, 5000, 20_000]).prop_map(|ms| Event::KeyEvery { ms }),
        2 => (0usize..4).prop_map(Event::Kill),
        2 => prop::bool::weighted(0.3).prop_map(Event::Hang),
        1 => (0usize..4).prop_map(Event::FinishUnasked),
    ]
}

/// A publisher that sends the core what an ingest would pass on.
struct Publisher {
    stage: Stage,
    published: bool,
    /// Media time after the axis' start, in milliseconds.
    at_ms: i64,
    last_key_ms: Option<i64>,
    key_every_ms: i64,
    video: usize,
    audio: usize,
}

impl Publisher {
    fn new(ladder: &str) -> Self {
        Self::on(Stage::new(ladder))
    }

    fn on(stage: Stage) -> Self {
        Self { stage, published: false, at_ms: 0, last_key_ms: None, key_every_ms: 1000, video: 0, audio: 0 }
    }

    fn send_video_config(&mut self) {
        let (width, height) = [(1280, 720), (640, 480), (720, 1280)][self.video];
        self.stage.send(Media::VideoConfig(video_config(width, height)));
        self.last_key_ms = None;
    }

    fn send_audio_config(&mut self) {
        let (object_type, rate, channels) =
            [(2, 48_000, 2), (2, 44_100, 2), (2, 48_000, 6), (5, 48_000, 2)][self.audio];
        self.stage.send(Media::AudioConfig(audio_config(object_type, rate, channels)));
    }

    fn come(&mut self) {
        if self.published || self.stage.core.is_over() {
            return;
        }
        let now = self.stage.now();
        if let Some(after) = self.stage.core.publisher_came(now).unwrap() {
            self.at_ms = self.at_ms.max((after.ticks_90k() - 900_000) / 90 + 1000);
        }
        self.published = true;
        self.last_key_ms = None;
    }

    fn go(&mut self) {
        if self.published {
            self.published = false;
            self.stage.go();
        }
    }

    fn publish(&mut self, ms: u64, video: bool, audio: bool) {
        if !self.published {
            return self.stage.wait(ms);
        }
        for _ in 0..ms / 40 {
            self.stage.pass(Duration::from_millis(40));
            self.at_ms += 40;
            let at = self.at_ms;
            if video {
                let key = self.last_key_ms.is_none_or(|last| at - last >= self.key_every_ms);
                if key {
                    self.last_key_ms = Some(at);
                }
                self.stage.send(Media::Video(unit_at(at, key)));
            }
            if audio {
                for part in [0, 20] {
                    self.stage.send(Media::Audio(unit_at(at + part, true)));
                }
            }
            self.stage.step();
        }
    }

    fn worker(&self, index: usize) -> Option<RunId> {
        self.stage.workers.keys().copied().nth(index)
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Come => {
                if !self.published {
                    self.come();
                    self.send_video_config();
                    self.send_audio_config();
                }
            }
            Event::Go => self.go(),
            Event::Publish { ms, video, audio } => self.publish(ms, video, audio),
            Event::Wait { ms } => self.stage.wait(ms),
            Event::Pause { ms } => {
                self.stage.wait(ms);
                self.at_ms += ms as i64;
            }
            Event::VideoConfig(kind) => {
                self.video = kind;
                if self.published {
                    self.send_video_config();
                }
            }
            Event::AudioConfig(kind) => {
                self.audio = kind;
                if self.published {
                    self.send_audio_config();
                }
            }
            Event::KeyEvery { ms } => self.key_every_ms = ms,
            Event::Kill(index) => {
                if let Some(id) = self.worker(index) {
                    self.stage.workers.remove(&id);
                    let now = self.stage.now();
                    self.stage.core.worker_gone(id, now);
                    self.stage.settle();
                }
            }
            Event::Hang(stuck) => self.stage.stuck = stuck,
            Event::FinishUnasked(index) => {
                if let Some(id) = self.worker(index) {
                    let now = self.stage.now();
                    self.stage.core.worker_said(id, Response::Finished, now);
                    self.stage.workers.remove(&id);
                    self.stage.core.worker_gone(id, now);
                    self.stage.settle();
                }
            }
        }
    }
}

/// Every running worker belongs to a run, and the number of workers is bounded.
fn check_workers(stage: &Stage) {
    for id in stage.workers.keys() {
        assert!(stage.core.has_run(*id), "{id:?} works for nobody");
    }
    assert!(stage.workers.len() <= MAX_WORKERS, "{} workers", stage.workers.len());
}

/// PART-TARGET of the settings in use, in milliseconds.
const LISTED_PART_MS: i64 = 550;

/// Media sequence numbers have no hole, all renditions of an epoch have all numbers, except that a rendition may end
/// before the last one, and discontinuities are aligned.
fn check_segments(segments: &[Segment]) {
    let segments: Vec<&SegmentInfo> = segments.iter().map(Segment::info).collect();
    let mut slots: BTreeMap<u64, Vec<&SegmentInfo>> = BTreeMap::new();
    let mut rungs: BTreeMap<String, BTreeSet<&RungName>> = BTreeMap::new();
    for segment in &segments {
        slots.entry(segment.sequence).or_default().push(segment);
        rungs.entry(segment.session.to_string()).or_default().insert(&segment.rung);
    }
    let sequences: Vec<u64> = slots.keys().copied().collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    for (sequence, slot) in &slots {
        let names: BTreeSet<&RungName> = slot.iter().map(|segment| &segment.rung).collect();
        assert_eq!(names.len(), slot.len(), "{sequence} twice");
        let all = &rungs[&slot[0].session.to_string()];
        let is_last = Some(sequence) == sequences.last();
        assert!(names == *all || is_last && names.is_subset(all), "{sequence}: {names:?} of {all:?}");
        assert!(slot.iter().all(|segment| segment.discontinuity == slot[0].discontinuity), "{sequence}");
    }
    let mut last: BTreeMap<&RungName, &SegmentInfo> = BTreeMap::new();
    for segment in &segments {
        if let Some(last) = last.insert(&segment.rung, segment) {
            // A part that was listed stays, even if its epoch turns out to end within that part.
            let listed = if segment.session == last.session { 0 } else { LISTED_PART_MS };
            let overlap = last.start + last.duration - segment.start;
            assert!(overlap <= MediaSpan::from_millis(listed), "{}: {:?}", segment.rung, segment.start);
            assert!(segment.wall >= last.wall, "{}", segment.rung);
        }
    }
}

#[test]
fn an_epoch_begins_after_the_gap_that_ends_the_one_before() {
    for (pause_ms, config) in [(3440, true), (3440, false), (1000, true), (5960, true)] {
        let mut publisher = Publisher::new("720p,360p");
        publisher.play(Event::Come);
        publisher.publish(40, true, false);
        publisher.publish(pause_ms, false, false);
        publisher.publish(40, true, false);
        if config {
            publisher.play(Event::VideoConfig(0));
        }
        publisher.play(Event::Kill(0));
        publisher.publish(20_000, true, true);
        check_segments(&publisher.stage.segments);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, max_shrink_time: 15_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_stream_goes_on_and_ends(
        ladder in prop::sample::select(vec!["720p,360p", "source,360p", "source"]),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut publisher = Publisher::new(ladder);
        publisher.play(Event::Come);
        for event in events {
            publisher.play(event);
            check_workers(&publisher.stage);
            prop_assert!(publisher.stage.core.waiting_requests() < 1000);
        }
        // Workers and publisher recover: video and audio must arrive within seconds.
        publisher.stage.stuck = false;
        publisher.key_every_ms = 1000;
        publisher.play(Event::Come);
        if publisher.published {
            publisher.publish(20_000, true, true);
            let lag = publisher.stage.core.lag().as_secs_f64();
            prop_assert!(lag < 5.0, "{lag} s behind");
            let last = publisher.stage.segments.last().unwrap().info().sequence;
            let whole = publisher.stage.segments.iter().filter(|s| s.info().sequence == last - 1);
            for segment in whole {
                prop_assert!(segment.body().is_some(), "{} has a gap at the end", segment.info().rung);
            }
        }
        let now = publisher.stage.now();
        publisher.stage.core.close(now);
        publisher.stage.settle();
        publisher.stage.wait(10_000);
        prop_assert!(publisher.stage.ended, "closed, and it does not end");
        prop_assert!(publisher.stage.workers.is_empty());
        check_segments(&publisher.stage.segments);
    }
}

/// A stream's whole life, and what it came to.
fn life(ladder: &str, ticks: Ticks, events: Vec<Event>) -> Stage {
    let mut settings = settings(ladder);
    // On the grid of the constant ticks, like all other durations.
    settings.timing.worker_silence = MediaSpan::from_millis(2150);
    let mut publisher = Publisher::on(Stage::ticked(settings, ticks));
    publisher.play(Event::Come);
    for event in events {
        publisher.play(event);
    }
    publisher.go();
    publisher.stage.wait(60_000);
    publisher.stage
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 500, max_shrink_time: 15_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ticks_at_other_times_than_the_core_wants_change_nothing(
        ladder in prop::sample::select(vec!["720p,360p", "source,360p", "source"]),
        events in prop::collection::vec(event(), 1..40),
    ) {
        let often = life(ladder, Ticks::Constant, events.clone());
        let seldom = life(ladder, Ticks::WakeAt, events);
        prop_assert!(seldom.ended, "nothing woke it to end");
        for (one, other) in often.effects.iter().zip(&seldom.effects) {
            prop_assert_eq!(one, other);
        }
        prop_assert_eq!(often.effects.len(), seldom.effects.len());
        prop_assert_eq!(often.core.counters(), seldom.core.counters());
        prop_assert!(often.segments == seldom.segments);
    }
}
