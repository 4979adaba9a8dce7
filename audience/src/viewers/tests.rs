use super::streams::Stream;
use super::*;
use crate::cmcd::Sid;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

const KEY: [u8; 16] = [7; 16];

/// A count, and a clock.
struct World {
    count: Audience,
    now: Instant,
}

impl World {
    fn new(limit: usize) -> Self {
        let now = Instant::now();
        Self { count: Audience::new(limit, Key::from_random(KEY), now), now }
    }

    fn wait(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// A request of the viewer with this address.
    fn asks(&mut self, viewer: u32, stream: &str, asked: Asked<'_>) -> Session {
        self.count.seen(stream, asked, &at(viewer), self.now)
    }

    fn watches(&mut self, viewer: u32, stream: &str, rung: &str) {
        self.asks(viewer, stream, Asked::Rung(rung));
    }

    fn viewers(&mut self) -> u64 {
        self.count.viewers(self.now)
    }

    /// The viewers of the only stream.
    fn report(&mut self) -> String {
        self.count.report("live/a", self.now).to_string()
    }
}

fn at(address: u32) -> Viewer<'static> {
    Viewer { sid: None, address: IpAddr::V4(Ipv4Addr::from_bits(address)), agent: b"Safari" }
}

/// Whether an estimate is near enough.
fn is_within(estimate: u64, viewers: u64, share: f64) -> bool {
    (estimate as f64 - viewers as f64).abs() <= viewers as f64 * share
}

#[test]
fn a_viewer_counts_once_whatever_it_asks_for() {
    let mut world = World::new(100);
    for viewer in [1, 2, 1, 1, 2] {
        world.watches(viewer, "live/a", "720p");
    }
    assert_eq!(world.report(), "720p=2");
    world.watches(1, "live/b", "720p");
    assert_eq!(world.viewers(), 3, "another stream is watched as well");
}

#[test]
fn a_viewer_moves_to_the_rung_that_it_asks_for() {
    let mut world = World::new(100);
    world.watches(1, "live/a", "720p");
    world.watches(2, "live/a", "720p");
    world.watches(1, "live/a", "1080p");
    assert_eq!(world.report(), "1080p=1, 720p=1");
    world.watches(2, "live/a", "1080p");
    assert_eq!(world.report(), "1080p=2");
    world.watches(2, "live/a", "no rung");
    assert_eq!(world.report(), "1080p=2");
}

#[test]
fn sound_does_not_move_a_viewer_of_pictures() {
    let mut world = World::new(100);
    world.watches(1, "live/a", "720p");
    world.asks(1, "live/a", Asked::Sound("audio"));
    world.asks(2, "live/a", Asked::Sound("audio"));
    assert_eq!(world.report(), "720p=1, audio=1");
    world.watches(2, "live/a", "720p");
    assert_eq!(world.report(), "720p=2", "the sound came first");
    world.wait(10.0);
    world.watches(2, "live/a", "720p");
    world.asks(1, "live/a", Asked::Sound("audio"));
    world.wait(6.0);
    world.asks(1, "live/a", Asked::Sound("audio"));
    assert_eq!(world.report(), "720p=1, audio=1", "viewer 1 listens without pictures");
}

#[test]
fn a_viewer_leaves_after_the_window() {
    let mut world = World::new(100);
    world.wait(3.7);
    world.watches(1, "live/a", "720p");
    world.wait(7.0);
    world.watches(2, "live/a", "720p");
    world.wait(8.0);
    assert_eq!(world.viewers(), 2);
    world.wait(1.0);
    assert_eq!(world.viewers(), 1);
    world.watches(2, "live/a", "720p");
    world.wait(15.0);
    assert_eq!(world.viewers(), 1, "its last request counts");
    world.wait(1.0);
    assert_eq!((world.viewers(), world.report()), (0, String::new()));
    assert!(world.count.streams(world.now).is_empty() && world.count.ring_is_empty());
}

#[test]
fn a_long_pause_and_a_clock_that_stands_still_are_harmless() {
    let mut world = World::new(100);
    let start = world.now;
    for viewer in 1..=3 {
        world.watches(viewer, "live/a", "720p");
        world.wait(1e5);
    }
    assert_eq!(world.viewers(), 0);
    world.watches(1, "live/a", "720p");
    world.now = start;
    world.watches(2, "live/a", "720p");
    assert_eq!(world.viewers(), 2);
    world.now += Duration::from_secs(u64::from(u32::MAX) * 2);
    assert_eq!(world.viewers(), 0);
    world.watches(1, "live/a", "720p");
    assert_eq!(world.viewers(), 1);
}

#[test]
fn a_session_id_beats_the_address() {
    let mut world = World::new(100);
    let sids = [Sid::new("one").unwrap(), Sid::new("two").unwrap()];
    for (sid, address) in [(0, 1), (0, 2), (1, 1), (1, 3)] {
        let viewer = Viewer { sid: Some(&sids[sid]), ..at(address) };
        world.count.seen("live/a", Asked::Rung("720p"), &viewer, world.now);
    }
    assert_eq!(world.viewers(), 2);
}

#[test]
fn streams_are_sorted_by_viewers() {
    let mut world = World::new(100);
    for (viewer, stream, rung) in
        [(1, "live/b", "720p"), (2, "live/c", "720p"), (3, "live/c", "360p"), (4, "live/a", "360p")]
    {
        world.watches(viewer, stream, rung);
    }
    let streams = world.count.streams(world.now);
    let named: Vec<_> = streams.iter().map(|stream| (&*stream.stream, stream.viewers)).collect();
    assert_eq!(named, [("live/c", 2), ("live/a", 1), ("live/b", 1)]);
    assert_eq!(streams[0].rungs, [("360p".to_owned(), 1), ("720p".to_owned(), 1)]);
    assert_eq!(
        world.count.rungs(world.now),
        BTreeMap::from([("360p".to_owned(), 2), ("720p".to_owned(), 2)])
    );
}

#[test]
fn names_are_bounded() {
    let mut world = World::new(1000);
    world.watches(1, &"a".repeat(MAX_STREAM_BYTES + 1), "720p");
    world.watches(1, "live/a", "../720p");
    world.watches(1, "live/a", "");
    assert!(world.viewers() == 0 && world.count.streams(world.now).is_empty());
    for rung in 0..40 {
        world.watches(rung, "live/a", &format!("rung{rung}"));
    }
    assert_eq!(world.viewers(), 32);
    world.watches(0, "live/a", "rung39");
    assert_eq!(world.viewers(), 32, "a viewer stays where there is no place for its rung");
    world.watches(0, "live/a", "rung1");
    world.watches(39, "live/a", "rung39");
    assert_eq!(world.viewers(), 33, "a rung without viewers gives its place away");
}

#[test]
fn a_new_key_does_not_count_viewers_twice() {
    let mut world = World::new(100);
    assert!(!world.count.is_key_due(world.now));
    world.wait(KEY_LIFETIME.as_secs_f64());
    assert!(world.count.is_key_due(world.now));
    let former = world.asks(1, "live/a", Asked::Rung("720p"));
    world.watches(2, "live/a", "720p");
    world.count.replace_key(Key::from_random([8; 16]), world.now);
    assert!(!world.count.is_key_due(world.now));
    assert_ne!(world.asks(1, "live/a", Asked::Sound("audio")), former);
    assert_eq!(world.report(), "720p=2");
    world.wait(10.0);
    world.watches(1, "live/a", "360p");
    assert_eq!(world.report(), "360p=1, 720p=1");
    world.wait(6.0);
    assert_eq!(world.report(), "360p=1");
    world.wait(10.0);
    assert!(world.viewers() == 0 && world.count.ring_is_empty());
}

#[test]
fn a_new_key_keeps_the_bound() {
    let mut world = World::new(1000);
    (0..4000).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
    world.count.replace_key(Key::from_random([8; 16]), world.now);
    (0..4000).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
    assert!(world.count.sessions.len() <= 1000);
    assert!(is_within(world.viewers(), 4000, 0.25), "{}", world.viewers());
    world.wait(16.0);
    assert_eq!(world.viewers(), 0);
}

#[test]
fn the_sample_grows_again_when_viewers_leave() {
    let mut world = World::new(1000);
    (0..20_000).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
    assert!(world.count.sessions.len() <= 1000);
    let mut estimates = Vec::new();
    for _ in 0..60 {
        world.wait(1.0);
        (0..300).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
        estimates.push(world.viewers());
    }
    assert_eq!(estimates.last(), Some(&300), "exact again");
    assert!(estimates[16..].iter().all(|estimate| is_within(*estimate, 300, 0.8)), "{estimates:?}");
}

#[test]
fn one_session_is_enough_of_a_limit() {
    let mut world = World::new(0);
    (0..1000).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
    assert!(world.count.sessions.len() <= 1);
    world.wait(16.0);
    assert_eq!(world.viewers(), 0);
}

#[test]
fn a_session_is_as_small_as_the_module_says() {
    assert_eq!(size_of::<(Session, Tracked)>(), 24);
}

#[test]
fn debug_output_has_nothing_of_a_viewer() {
    let mut world = World::new(100);
    world.watches(1, "live/a", "720p");
    assert_eq!(format!("{:?}", world.count), "Audience { sessions: 1, .. }");
}

/// Prints the time of a request (`--no-capture` shows the figure).
#[test]
fn a_hundred_thousand_viewers_are_counted_exactly() {
    const VIEWERS: u32 = 100_000;
    let mut world = World::new(200_000);
    for second in 0..20 {
        let start = Instant::now();
        (0..VIEWERS).for_each(|viewer| world.watches(viewer, "live/a", "720p"));
        println!("second {second}: {} ns for each request", start.elapsed().as_nanos() / u128::from(VIEWERS));
        world.wait(1.0);
    }
    assert_eq!(world.viewers(), u64::from(VIEWERS));
}

/// A step of a random test.
#[derive(Clone, Debug)]
enum Step {
    Ask { viewer: u8, stream: u8, rung: u8 },
    Wait { quarters: u8 },
    Rekey(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12u8, 0..3u8, 0..3u8).prop_map(|(viewer, stream, rung)| Step::Ask { viewer, stream, rung }),
        3 => (0..30u8).prop_map(|quarters| Step::Wait { quarters }),
        1 => any::<u8>().prop_map(Step::Rekey),
    ]
}

/// Counts by scanning: each viewer of each stream with its rung and second.
#[derive(Default)]
struct Model {
    seen: BTreeMap<(u8, u8), (u8, u64)>,
}

impl Model {
    fn rungs(&self, stream: u8, second: u64) -> Vec<(String, u32)> {
        let mut rungs = BTreeMap::new();
        let here = self.seen.iter().filter(|((of, _), (_, seen))| *of == stream && seen + 15 >= second);
        here.for_each(|(_, (rung, _))| *rungs.entry(format!("r{rung}")).or_default() += 1);
        rungs.into_iter().collect()
    }
}

proptest! {
    #[test]
    fn below_the_bound_counts_are_those_of_a_scan(steps in proptest::collection::vec(step(), 0..80)) {
        let (mut world, mut model) = (World::new(36), Model::default());
        let start = world.now;
        for step in steps {
            let second = (world.now - start).as_secs();
            match step {
                Step::Ask { viewer, stream, rung } => {
                    world.watches(viewer.into(), &format!("live/{stream}"), &format!("r{rung}"));
                    model.seen.insert((stream, viewer), (rung, second));
                }
                Step::Wait { quarters } => world.wait(f64::from(quarters) / 4.0),
                Step::Rekey(key) => world.count.replace_key(Key::from_random([key; 16]), world.now),
            }
            let second = (world.now - start).as_secs();
            for stream in 0..3 {
                let report = world.count.report(&format!("live/{stream}"), world.now);
                let rungs: Vec<_> = report.rungs().map(|(rung, viewers)| (rung.to_owned(), viewers)).collect();
                prop_assert_eq!(rungs, model.rungs(stream, second));
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_sample_does_the_tallies_agree(
        limit in 1..8usize, steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut world = World::new(limit);
        for step in steps {
            match step {
                Step::Ask { viewer, stream, rung } => {
                    world.watches(viewer.into(), &format!("live/{stream}"), &format!("r{rung}"));
                }
                Step::Wait { quarters } => world.wait(f64::from(quarters) / 4.0),
                Step::Rekey(key) => world.count.replace_key(Key::from_random([key; 16]), world.now),
            }
            world.viewers();
            world.count.check(limit);
        }
        world.wait(16.0);
        prop_assert_eq!(world.viewers(), 0);
        prop_assert!(world.count.ring_is_empty() && world.count.streams.iter().count() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn above_the_bound_the_estimate_is_within_five_percent(
        key in any::<[u8; 16]>(), seed in any::<u64>(), viewers in 1..120_000usize,
    ) {
        const LIMIT: usize = 20_000;
        let (mut random, mut world) = (fastrand::Rng::with_seed(seed), World::new(LIMIT));
        world.count.replace_key(Key::from_random(key), world.now);
        world.wait(16.0);
        let set: HashSet<u32> = std::iter::repeat_with(|| random.u32(..)).take(viewers).collect();
        for viewer in &set {
            world.watches(*viewer, "live/a", if viewer % 4 == 0 { "360p" } else { "720p" });
        }
        let (estimate, distinct) = (world.viewers(), set.len() as u64);
        prop_assert!(world.count.sessions.len() <= LIMIT);
        prop_assert!(is_within(estimate, distinct, if set.len() <= LIMIT { 0.0 } else { 0.05 }), "{estimate}");
        prop_assert_eq!(world.count.rungs(world.now).values().sum::<u64>(), estimate);
        set.iter().for_each(|viewer| world.watches(*viewer, "live/a", "360p"));
        prop_assert_eq!(world.report(), format!("360p={estimate}"));
        world.wait(16.0);
        prop_assert_eq!(world.viewers(), 0);
        prop_assert!(world.count.ring_is_empty());
    }
}

impl Audience {
    /// What holds after every step.
    fn check(&self, limit: usize) {
        assert!(self.sessions.len() <= limit);
        assert!(self.sessions.keys().all(|session| self.sampling.tracks(*session)));
        let counted = self.sessions.keys().filter(|session| self.sampling.counts(**session)).count();
        assert_eq!(self.streams.iter().map(Stream::counted).sum::<u64>(), counted as u64);
        let waiting = self.ring.sessions().filter(|session| self.sessions.contains_key(session));
        let mut waiting: Vec<_> = waiting.map(Session::hash).collect();
        waiting.sort_unstable();
        assert!(waiting.windows(2).all(|pair| pair[0] != pair[1]), "in one place of the ring");
        assert_eq!(waiting.len(), self.sessions.len());
    }

    fn ring_is_empty(&self) -> bool {
        self.ring.sessions().next().is_none() && self.sessions.is_empty()
    }
}
