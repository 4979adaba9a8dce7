//! A day of a publisher with every habit at once, against a model that knows when each picture and each sound was really
//! taken: they stay together.

use super::{Timeline, tests::Clock};
use std::collections::VecDeque;

/// Pictures a second, samples a second, samples of a sound frame.
const RATE: f64 = 30.0;
const SAMPLES: f64 = 48_000.0;
const FRAME: f64 = 1024.0;
/// Sound may be before or behind its picture by this, in seconds.
const APART: f64 = 0.040;
/// Time after an upset until the tracks are compared again, in seconds.
const SETTLES: f64 = 20.0;

/// Chance: xorshift64*.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.unit()
    }

    fn once_in(&mut self, times: f64) -> bool {
        self.unit() * times < 1.0
    }
}

/// What a publisher does. Times are in seconds.
struct Habits {
    /// Random error of every time that is sent.
    jitter: f64,
    /// How much faster the sound card counts than the clock.
    drift: f64,
    /// Most that a track may be sent later than the other one.
    interleaving: f64,
    /// Mean interval between jumps of the clock, and their largest size.
    jumps: (f64, f64),
    /// Mean interval between silences, and the longest of them.
    silences: (f64, f64),
    /// Mean interval between stalls of the network, and the longest of them.
    stalls: (f64, f64),
    /// One picture or sound of so many is left out, or sent with a time of up to 0.4 s ago.
    losses: f64,
    disorder: f64,
}

/// One of the publisher's tracks.
struct Track {
    next: f64,
    step: f64,
    delay: f64,
    /// Places of the last two seconds, less the time at which the media was taken.
    offsets: VecDeque<(f64, f64)>,
}

impl Track {
    fn new(step: f64) -> Self {
        Self { next: 0.0, step, delay: 0.0, offsets: VecDeque::new() }
    }

    fn placed(&mut self, taken: f64, ticks: i64) {
        self.offsets.push_back((taken, ticks as f64 / 90_000.0 - taken));
        while self.offsets.front().is_some_and(|(at, _)| *at < taken - 2.0) {
            self.offsets.pop_front();
        }
    }

    fn offset(&self) -> f64 {
        self.offsets.iter().map(|(_, offset)| offset).sum::<f64>() / self.offsets.len() as f64
    }
}

/// Publishes for that long; returns how often the tracks were compared.
fn publish(habits: &Habits, seconds: f64, seed: u64) -> u32 {
    let mut chance = Chance(seed);
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_frame_rate(Some((RATE as u32, 1)));
    timeline.set_audio_format(SAMPLES as u32, FRAME as u32);
    let mut tracks = [Track::new(1.0 / RATE), Track::new(FRAME / SAMPLES * (1.0 - habits.drift))];
    // The publisher's clock minus the true time, from a time on; messages of before may still be on their way.
    let mut clocks = vec![(0.0, 3_600.0)];
    let mut wire = 0.0_f64;
    let (mut upset, mut compared, mut next_look) = (0.0, 0, 60.0);
    loop {
        let kind = usize::from(tracks[1].next + tracks[1].delay < tracks[0].next + tracks[0].delay);
        let track = &mut tracks[kind];
        let taken = track.next;
        if taken > seconds {
            return compared;
        }
        track.next += track.step;
        wire = wire.max(taken + track.delay);
        track.delay = (track.delay + chance.between(-0.005, 0.005)).clamp(0.0, habits.interleaving);
        if chance.once_in(habits.stalls.0 * RATE) {
            wire += chance.between(0.0, habits.stalls.1);
            upset = taken;
        }
        if chance.once_in(habits.silences.0 * RATE) {
            let silence = chance.between(0.1, habits.silences.1);
            for track in &mut tracks {
                track.next += (silence / track.step).round() * track.step;
            }
            upset = taken + silence;
        }
        if chance.once_in(habits.jumps.0 * RATE) {
            let size = chance.between(-habits.jumps.1, habits.jumps.1);
            // Jumps of every order of size.
            let size = size * chance.unit().powi(3);
            let now = clocks.last().unwrap().1;
            clocks.push((taken, now + size));
            clocks.drain(..clocks.len() - 2);
            upset = taken;
        }
        if chance.once_in(habits.losses) {
            continue;
        }
        let offset = clocks.iter().rev().find(|(from, _)| *from <= taken).unwrap_or(&clocks[0]).1;
        let error = chance.between(-habits.jitter, habits.jitter);
        let late = if chance.once_in(habits.disorder) { chance.between(0.0, 0.4) } else { 0.0 };
        let stamp = ((taken + offset + error - late) * 1000.0).round() as i64 as u32;
        let arrived = clock.at_ms((wire * 1000.0) as u64);
        let placed = if kind == 0 {
            timeline.video(stamp, 0, arrived).map(|stamp| stamp.pts)
        } else {
            timeline.audio(stamp, arrived)
        };
        if let Some(place) = placed
            && late == 0.0
        {
            tracks[kind].placed(taken, place.ticks_90k());
        }
        if taken > next_look && taken > upset + SETTLES {
            let apart = tracks[1].offset() - tracks[0].offset();
            assert!(
                apart.abs() <= APART,
                "{taken:.1} s: sound is {apart:.3} s late; {:?}",
                timeline.repairs()
            );
            compared += 1;
            next_look = taken + 10.0;
        }
    }
}

const TIDY: Habits = Habits {
    jitter: 0.0,
    drift: 0.0,
    interleaving: 0.0,
    jumps: (1e12, 0.0),
    silences: (1e12, 0.0),
    stalls: (1e12, 0.0),
    losses: 1e12,
    disorder: 1e12,
};

const WILD: Habits = Habits {
    jitter: 0.004,
    drift: 1e-4,
    interleaving: 0.3,
    jumps: (1_800.0, 36_000.0),
    silences: (900.0, 8.0),
    stalls: (300.0, 3.0),
    losses: 500.0,
    disorder: 5_000.0,
};

#[test]
fn each_habit_by_itself_keeps_sound_and_picture_together_for_an_hour() {
    let habits = [
        ("none", TIDY),
        ("jitter", Habits { jitter: 0.004, ..TIDY }),
        ("a fast sound card", Habits { drift: 1e-4, ..TIDY }),
        ("a slow sound card", Habits { drift: -1e-4, ..TIDY }),
        ("interleaving", Habits { interleaving: 0.5, ..TIDY }),
        ("jumps", Habits { jumps: (120.0, 36_000.0), ..TIDY }),
        ("small jumps", Habits { jumps: (120.0, 3.0), ..TIDY }),
        ("silences", Habits { silences: (120.0, 8.0), ..TIDY }),
        ("stalls", Habits { stalls: (60.0, 4.0), ..TIDY }),
        ("losses", Habits { losses: 100.0, ..TIDY }),
        ("disorder", Habits { disorder: 1_000.0, ..TIDY }),
    ];
    for (name, habits) in habits {
        println!("{name}");
        for seed in 1..=3 {
            assert!(publish(&habits, 3_600.0, seed) > 50, "{name}: often enough");
        }
    }
}

#[test]
fn a_day_of_all_habits_keeps_sound_and_picture_together() {
    assert!(publish(&WILD, 86_400.0, 1) > 1_000);
}

#[test]
fn many_hours_of_all_habits_keep_sound_and_picture_together() {
    for seed in 2..26 {
        assert!(publish(&WILD, 3_600.0, seed) > 20, "seed {seed}");
    }
}
