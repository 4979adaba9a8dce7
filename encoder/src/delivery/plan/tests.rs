//! Single decisions; whole streams against a store with faults are in the driver's tests.

use super::*;
use crate::delivery::testing::{TextPlaylists, init, segment, tracks};
use std::collections::BTreeMap;
use store::{Stored, Version};

const SECOND: Duration = Duration::from_secs(1);

fn plan(settings: DeliverySettings) -> DeliveryPlan<TextPlaylists> {
    let mut plan = DeliveryPlan::new("live/demo", TextPlaylists::default(), settings);
    plan.input(DeliveryEvent::Tracks(tracks(&["720p"])), Duration::ZERO);
    plan
}

/// All attempts that are due, by object name. Reads of playlists are answered immediately: no such object.
fn due(plan: &mut DeliveryPlan<TextPlaylists>, now: Duration) -> Vec<(String, StoreJob)> {
    let mut jobs = Vec::new();
    while let Some(job) = plan.poll(now) {
        let name = match &job.work {
            StoreWork::Create(name, _) | StoreWork::Replace(name, _, _) | StoreWork::Remove(name) => {
                name.as_str().to_owned()
            }
            StoreWork::Read(_) => {
                plan.done(job.id, Ok(Answer::Read(None)), now);
                continue;
            }
            StoreWork::Spool(..) | StoreWork::Unspool(_) | StoreWork::Discard(_) => {
                panic!("there is no spool")
            }
        };
        jobs.push((name, job));
    }
    jobs
}

/// The answer of a store that did as asked.
fn good(job: &StoreJob) -> Result<Answer, StoreError> {
    Ok(match job.work {
        StoreWork::Create(..) | StoreWork::Remove(_) | StoreWork::Spool(..) | StoreWork::Discard(_) => {
            Answer::Done
        }
        StoreWork::Unspool(_) => panic!("nothing was spooled"),
        StoreWork::Read(_) => Answer::Read(None),
        // Any version that was not used before.
        StoreWork::Replace(..) => Answer::Written(Version::of_test_store(job.id.0 as i64)),
    })
}

fn names(jobs: &[(String, StoreJob)]) -> Vec<&str> {
    jobs.iter().map(|(name, _)| name.strip_prefix("live/demo/").unwrap()).collect()
}

fn unavailable() -> Result<Answer, StoreError> {
    Err(StoreError::Unavailable("test".into()))
}

#[test]
fn segments_are_written_together_and_listed_in_order() {
    let mut plan = plan(DeliverySettings::default());
    plan.input(DeliveryEvent::Init(init("720p", "s")), Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 10)), Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 1, 10)), Duration::ZERO);
    let jobs = due(&mut plan, Duration::ZERO);
    assert_eq!(names(&jobs), ["720p/s-init.mp4", "720p/s-0.m4s", "720p/s-1.m4s"]);
    // The second segment is stored first: nothing may be listed yet.
    plan.done(jobs[2].1.id, good(&jobs[2].1), Duration::ZERO);
    plan.done(jobs[0].1.id, good(&jobs[0].1), Duration::ZERO);
    assert_eq!(names(&due(&mut plan, Duration::ZERO)), [""; 0]);
    plan.done(jobs[1].1.id, good(&jobs[1].1), Duration::ZERO);
    let jobs = due(&mut plan, Duration::ZERO);
    assert_eq!(names(&jobs), ["720p/index.m3u8"], "the multivariant playlist waits for those that it names");
    let StoreWork::Replace(_, object, _) = &jobs[0].1.work else { panic!("playlists are replaced") };
    assert_eq!(object.body, "720p: init s-init.mp4, s-0.m4s 10, s-1.m4s 10");
    plan.done(jobs[0].1.id, good(&jobs[0].1), Duration::ZERO);
    assert_eq!(names(&due(&mut plan, Duration::ZERO)), ["index.m3u8"]);
}

#[test]
fn writes_of_one_playlist_keep_their_distance_and_the_newest_wins() {
    let mut plan = plan(DeliverySettings { playlist_interval: SECOND, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Init(init("720p", "s")), Duration::ZERO);
    for job in due(&mut plan, Duration::ZERO) {
        plan.done(job.1.id, good(&job.1), Duration::ZERO);
    }
    let mut starts = Vec::new();
    let mut last = String::new();
    // A segment every 200 ms; every attempt succeeds immediately.
    for step in 0..50_u64 {
        let now = Duration::from_millis(100 * step);
        if step % 2 == 0 && step < 40 {
            plan.input(DeliveryEvent::Segment(segment("720p", "s", step / 2, 1)), now);
        }
        loop {
            let jobs = due(&mut plan, now);
            if jobs.is_empty() {
                break;
            }
            for (name, job) in jobs {
                if let ("live/demo/720p/index.m3u8", StoreWork::Replace(_, object, _)) = (&*name, &job.work) {
                    starts.push(now);
                    last = String::from_utf8(object.body.to_vec()).unwrap();
                }
                plan.done(job.id, good(&job), now);
            }
        }
    }
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= SECOND), "{starts:?}");
    assert!(starts.len() >= 4);
    assert!(last.ends_with("s-19.m4s 1"), "{last}");
}

#[test]
fn a_failed_playlist_is_never_written_again_as_it_was() {
    let mut plan =
        plan(DeliverySettings { playlist_interval: Duration::ZERO, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Init(init("720p", "s")), Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1)), Duration::ZERO);
    for job in due(&mut plan, Duration::ZERO) {
        plan.done(job.1.id, good(&job.1), Duration::ZERO);
    }
    let first = due(&mut plan, Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 1, 1)), Duration::ZERO);
    for job in due(&mut plan, Duration::ZERO) {
        plan.done(job.1.id, good(&job.1), Duration::ZERO);
    }
    plan.done(first[0].1.id, unavailable(), Duration::ZERO);
    let second = due(&mut plan, SECOND);
    let StoreWork::Replace(_, object, _) = &second[0].1.work else { panic!("{second:?}") };
    assert!(object.body.ends_with(b"s-1.m4s 1"));
}

#[test]
fn when_too_much_waits_the_oldest_that_is_not_being_written_becomes_a_gap() {
    let settings = DeliverySettings { concurrency: 1, max_waiting_bytes: 300, ..DeliverySettings::default() };
    let mut plan = plan(settings);
    let mut flying = Vec::new();
    for sequence in 0..4 {
        plan.input(DeliveryEvent::Segment(segment("720p", "s", sequence, 100)), Duration::ZERO);
        flying.extend(due(&mut plan, Duration::ZERO));
        assert!(plan.waiting_bytes() <= 300);
    }
    assert_eq!(names(&flying), ["720p/s-0.m4s"]);
    plan.done(flying[0].1.id, good(&flying[0].1), Duration::ZERO);
    assert_eq!(names(&due(&mut plan, Duration::ZERO)), ["720p/s-2.m4s"], "1 gave way, 0 was being written");
    assert_eq!(plan.counters().gaps, BTreeMap::from([(Gap::Overflow, 1)]));
}

#[test]
fn when_too_many_init_segments_wait_the_oldest_is_given_up() {
    let mut plan = plan(DeliverySettings { concurrency: 100, ..DeliverySettings::default() });
    for epoch in 0..66 {
        plan.input(DeliveryEvent::Init(init("720p", &format!("s{epoch}"))), Duration::ZERO);
    }
    let jobs = due(&mut plan, Duration::ZERO);
    let expected: Vec<_> = (2..66).rev().map(|epoch| format!("720p/s{epoch}-init.mp4")).collect();
    assert_eq!(names(&jobs), expected);
}

#[test]
fn a_segment_larger_than_all_room_is_a_gap() {
    let mut plan = plan(DeliverySettings { max_waiting_bytes: 10, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 11)), Duration::ZERO);
    assert_eq!(plan.counters().gaps[&Gap::Overflow], 1);
    assert_eq!(plan.waiting_bytes(), 0);
}

#[test]
fn a_name_that_is_taken_at_once_is_not_ours() {
    let mut plan = plan(DeliverySettings::default());
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1)), Duration::ZERO);
    let job = due(&mut plan, Duration::ZERO).remove(0).1;
    plan.done(job.id, Err(StoreError::Exists), Duration::ZERO);
    assert_eq!(plan.counters().gaps[&Gap::Refused], 1);
}

#[test]
fn a_rung_that_never_has_anything_to_list_does_not_hold_up_the_others() {
    let mut plan =
        plan(DeliverySettings { playlist_interval: Duration::ZERO, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Tracks(tracks(&["720p", "480p"])), Duration::ZERO);
    plan.input(DeliveryEvent::Init(init("720p", "s")), Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1)), Duration::ZERO);
    let mut written = Vec::new();
    loop {
        let jobs = due(&mut plan, Duration::ZERO);
        if jobs.is_empty() {
            break;
        }
        for (name, job) in jobs {
            plan.done(job.id, good(&job), Duration::ZERO);
            written.push(name);
        }
    }
    assert_eq!(written.last().unwrap(), "live/demo/index.m3u8");
}

#[test]
fn waking_up_never_spins() {
    // After every kind of failure, the next wake-up lies in the future once everything that is due was started.
    let mut plan = plan(DeliverySettings { seal_within: SECOND, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Init(init("720p", "s")), Duration::ZERO);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1)), Duration::ZERO);
    plan.input(DeliveryEvent::End, Duration::ZERO);
    let mut now = Duration::ZERO;
    for _ in 0..1000 {
        for (_, job) in due(&mut plan, now) {
            plan.done(job.id, unavailable(), now);
        }
        assert!(plan.poll(now).is_none());
        if plan.is_finished() {
            return;
        }
        let wake = plan.wake_at().expect("not finished, nothing in flight");
        assert!(wake > now, "{wake:?} at {now:?}");
        now = wake;
    }
    panic!("never finished");
}

/// This stream's multivariant playlist has the same text at the end as before.
#[test]
fn a_playlist_without_news_at_the_end_needs_no_write_to_be_sealed() {
    let mut plan =
        plan(DeliverySettings { playlist_interval: Duration::ZERO, ..DeliverySettings::default() });
    let now = Duration::ZERO;
    plan.input(DeliveryEvent::Init(init("720p", "s")), now);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 10)), now);
    plan.input(DeliveryEvent::End, now);
    while !plan.is_finished() {
        for (_, job) in due(&mut plan, now) {
            plan.done(job.id, good(&job), now);
        }
    }
    assert!(plan.counters().sealed, "{:?}", plan.counters());
}

/// The fence is found while the first segment of another rendition is on its way.
#[test]
fn a_fenced_encoder_does_not_begin_another_playlist() {
    let now = Duration::ZERO;
    let mut plan =
        plan(DeliverySettings { playlist_interval: Duration::ZERO, ..DeliverySettings::default() });
    plan.input(DeliveryEvent::Tracks(tracks(&["720p", "480p"])), now);
    plan.input(DeliveryEvent::Init(init("720p", "s")), now);
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1)), now);
    for _ in 0..3 {
        for (_, job) in due(&mut plan, now) {
            plan.done(job.id, good(&job), now);
        }
    }
    plan.input(DeliveryEvent::Segment(segment("720p", "s", 1, 1)), now);
    let job = due(&mut plan, now).remove(0).1;
    plan.done(job.id, good(&job), now);
    plan.input(DeliveryEvent::Segment(segment("480p", "s", 0, 1)), now);
    let jobs = due(&mut plan, now);
    let (name, playlist) = jobs.iter().find(|(name, _)| name.ends_with("720p/index.m3u8")).unwrap();
    plan.done(playlist.id, Err(StoreError::Changed), now);
    let read = plan.poll(now).unwrap();
    assert_eq!(read.work, StoreWork::Read(ObjectName::new(name.as_str())));
    let stored = Stored { version: Version::of_test_store(999), body: "another encoder's".into() };
    plan.done(read.id, Ok(Answer::Read(Some(stored))), now);
    assert!(plan.counters().fenced);
    assert_eq!((plan.poll(now), plan.wake_at()), (None, None));
}
