//! A stream whose store does not answer for a while: what is on disk, what is given up, and in which order it returns.

use super::*;
use crate::delivery::testing::{TextPlaylists, init, segment, tracks};
use crate::delivery::{Answer, DeliveryEvent, DeliveryPlan, StoreJob, StoreWork};
use std::collections::{BTreeMap, BTreeSet};
use store::{StoreError, Version};

const SECOND: Duration = Duration::from_secs(1);
/// Renditions with the sizes of their segments.
const RUNGS: [(&str, usize); 3] = [("720p", 1000), ("480p", 400), ("360p", 200)];
const MEMORY: usize = 20_000;

/// A plan, its store and its disk.
struct World {
    plan: DeliveryPlan<TextPlaylists>,
    now: Duration,
    store_answers: bool,
    /// What is on disk: sizes of the bodies.
    disk: BTreeMap<SpoolId, usize>,
    /// Sizes of the bodies read back from disk, in order.
    returned: Vec<usize>,
    random: fastrand::Rng,
}

impl World {
    fn new(spool_bytes: u64, seed: u64) -> Self {
        let settings =
            DeliverySettings { max_waiting_bytes: MEMORY, spool_bytes, ..DeliverySettings::default() };
        let mut plan = DeliveryPlan::new("live/demo", TextPlaylists::default(), settings);
        plan.input(DeliveryEvent::Tracks(tracks(&RUNGS.map(|(rung, _)| rung))), Duration::ZERO);
        RUNGS.iter().for_each(|(rung, _)| plan.input(DeliveryEvent::Init(init(rung, "s")), Duration::ZERO));
        let random = fastrand::Rng::with_seed(seed);
        let (disk, returned) = (BTreeMap::new(), Vec::new());
        let mut world = Self { plan, now: Duration::ZERO, store_answers: true, disk, returned, random };
        world.work();
        world
    }

    /// One second of media; each segment of a rendition is one byte larger than the one before.
    fn publish(&mut self, sequence: u64) {
        for (rung, bytes) in RUNGS {
            let segment = segment(rung, "s", sequence, bytes + sequence as usize);
            self.checked(|plan, now| plan.input(DeliveryEvent::Segment(segment), now));
            self.work();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += SECOND / 10;
            self.work();
        }
    }

    /// Calls the plan and checks what it gave up by that.
    fn checked<T>(&mut self, call: impl FnOnce(&mut DeliveryPlan<TextPlaylists>, Duration) -> T) -> T {
        let (lost, held) = (self.plan.counters().lost, self.plan.waiting_bytes());
        let result = call(&mut self.plan, self.now);
        let largest = RUNGS[0].1 * 2;
        if self.plan.counters().lost > lost {
            assert!(held >= MEMORY - (MEMORY / 8).max(largest), "lost with room in memory: {held}");
        }
        assert!(self.plan.waiting_bytes() <= MEMORY);
        let spooled = self.plan.spooled_bytes();
        assert!(spooled <= self.plan.settings.spool_bytes, "{spooled} on disk");
        result
    }

    /// Does the jobs that are due, in any order.
    fn work(&mut self) {
        let mut jobs = Vec::new();
        loop {
            while let Some(job) = self.checked(|plan, now| plan.poll(now)) {
                if let StoreWork::Unspool(id) = job.work {
                    self.returned.push(self.disk[&id]);
                }
                jobs.push(job);
            }
            if jobs.is_empty() {
                return;
            }
            let job = jobs.swap_remove(self.random.usize(..jobs.len()));
            let id = job.id;
            let result = self.answer(job);
            self.checked(|plan, now| plan.done(id, result, now));
        }
    }

    fn answer(&mut self, job: StoreJob) -> Result<Answer, StoreError> {
        match job.work {
            StoreWork::Spool(id, body) => {
                self.disk.insert(id, body.len());
                assert!(self.disk.values().sum::<usize>() as u64 <= self.plan.settings.spool_bytes);
                Ok(Answer::Done)
            }
            StoreWork::Unspool(id) => Ok(Answer::Body(vec![0; self.disk[&id]].into())),
            StoreWork::Discard(id) => {
                self.disk.remove(&id);
                Ok(Answer::Done)
            }
            _ if !self.store_answers => Err(StoreError::Unavailable("test".into())),
            StoreWork::Read(_) => Ok(Answer::Read(None)),
            StoreWork::Replace(..) => Ok(Answer::Written(Version::of_test_store(self.random.i64(..)))),
            StoreWork::Create(..) | StoreWork::Remove(_) => Ok(Answer::Done),
        }
    }

    /// An outage: `seconds` without the store, then everything that is left is stored. Returns the
    /// numbers of the lost segments, by rendition.
    fn outage(&mut self, seconds: u64) -> BTreeMap<String, BTreeSet<u64>> {
        self.store_answers = false;
        for sequence in 0..seconds {
            self.publish(sequence);
            self.pass(SECOND);
        }
        self.store_answers = true;
        self.returned.clear();
        self.pass(SECOND * 200);
        let mut lost: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut settled = 0;
        while let Some(next) = self.plan.next_settled() {
            settled += 1;
            if !next.stored {
                lost.entry(next.rung.to_string()).or_default().insert(next.sequence);
            }
        }
        assert_eq!(settled, seconds * RUNGS.len() as u64, "each has its final fate");
        assert!(self.disk.is_empty() && self.plan.spooled_bytes() == 0 && self.plan.waiting_bytes() == 0);
        lost
    }
}

#[test]
fn late_segments_wait_on_disk_and_the_oldest_comes_out_first() {
    let mut world = World::new(1 << 20, 7);
    assert_eq!(world.outage(100), BTreeMap::new());
    let counters = world.plan.counters();
    assert!(counters.spooled > 200 && counters.spool_full == 0, "{counters:?}");
    for (number, (rung, bytes)) in RUNGS.into_iter().enumerate() {
        let end = if number == 0 { usize::MAX } else { RUNGS[number - 1].1 };
        let of_rung = world.returned.iter().filter(|size| (bytes..end).contains(size));
        assert!(of_rung.is_sorted(), "{rung}: {:?}", world.returned);
    }
}

/// In every order of the answers, nothing is given up while memory has room, memory and disk stay within their
/// bounds, and the largest rendition gives way to the others.
#[test]
fn when_memory_and_disk_are_full_the_largest_rendition_s_oldest_goes() {
    for seed in 0..20 {
        let mut world = World::new(30_000 + seed * 1000, seed);
        let lost = world.outage(60);
        let counters = world.plan.counters();
        assert!(counters.spool_full > 0, "{counters:?}");
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["720p"], "smaller renditions keep their place");
        let lost = &lost["720p"];
        // All but the one or other that was on its way to the disk when its turn came.
        assert!(lost.last().is_some_and(|last| *last < lost.len() as u64 + 5), "the oldest go: {lost:?}");
        // 60 s are about 98 kB.
        let room = MEMORY as u64 + world.plan.settings.spool_bytes;
        let too_much = (98_000 - room) / 1000;
        assert!((too_much..=too_much + 10).contains(&(lost.len() as u64)), "{too_much}: {lost:?}");
    }
}

/// The largest rendition has nothing left to give: the next one's segments go.
#[test]
fn when_nothing_of_the_largest_is_left_the_next_goes() {
    let mut world = World::new(5_000, 3);
    let lost = world.outage(60);
    assert!(lost["720p"].len() > 50 && !lost["480p"].is_empty(), "{lost:?}");
    assert!(!lost.contains_key("360p"), "{lost:?}");
}

#[test]
fn without_a_disk_memory_alone_holds_late_segments() {
    let mut world = World::new(0, 5);
    let lost = world.outage(20);
    assert_eq!(world.plan.counters().spooled, 0);
    assert_eq!(lost.keys().collect::<Vec<_>>(), ["720p"]);
}
