use super::*;

fn settings(capacity: u32, recycle_after: u32) -> ProbeSettings {
    ProbeSettings {
        capacity: NonZeroU32::new(capacity).unwrap(),
        recycle_after: NonZeroU32::new(recycle_after),
    }
}

fn free(taken: u32) -> BusyState {
    BusyState::Free { taken }
}

fn busy(streams: u32, taken: u32) -> BusyState {
    BusyState::Busy { streams, taken }
}

fn draining(streams: u32, why: BusyReason) -> BusyState {
    BusyState::Draining { streams, why }
}

fn spent(why: BusyReason) -> BusyState {
    BusyState::Spent { why }
}

fn broken() -> BusyReason {
    BusyReason::Fault("disk".into())
}

/// Every state against every event, capacity 2, no recycling.
#[test]
fn every_pair_of_state_and_event() {
    use BusyEvent::*;
    use Denied::*;
    let fault = || Fault("disk".into());
    let table = [
        (BusyState::Starting, Ready, Ok(free(0))),
        (BusyState::Starting, StreamAccepted, Err(Starting)),
        (BusyState::Starting, StreamEnded, Err(NoStream)),
        (BusyState::Starting, Drain, Ok(spent(BusyReason::Asked))),
        (BusyState::Starting, fault(), Ok(spent(broken()))),
        (free(3), Ready, Ok(free(3))),
        (free(3), StreamAccepted, Ok(busy(1, 4))),
        (free(3), StreamEnded, Err(NoStream)),
        (free(3), Drain, Ok(spent(BusyReason::Asked))),
        (free(3), fault(), Ok(spent(broken()))),
        (busy(1, 4), Ready, Ok(busy(1, 4))),
        (busy(1, 4), StreamAccepted, Ok(busy(2, 5))),
        (busy(1, 4), StreamEnded, Ok(free(4))),
        (busy(1, 4), Drain, Ok(draining(1, BusyReason::Asked))),
        (busy(1, 4), fault(), Ok(draining(1, broken()))),
        (busy(2, 5), Ready, Ok(busy(2, 5))),
        (busy(2, 5), StreamAccepted, Err(Full)),
        (busy(2, 5), StreamEnded, Ok(busy(1, 5))),
        (busy(2, 5), Drain, Ok(draining(2, BusyReason::Asked))),
        (busy(2, 5), fault(), Ok(draining(2, broken()))),
        (draining(2, BusyReason::Asked), Ready, Ok(draining(2, BusyReason::Asked))),
        (draining(2, BusyReason::Asked), StreamAccepted, Err(Leaving)),
        (draining(2, BusyReason::Asked), StreamEnded, Ok(draining(1, BusyReason::Asked))),
        (draining(1, BusyReason::Asked), StreamEnded, Ok(spent(BusyReason::Asked))),
        (draining(1, broken()), StreamEnded, Ok(spent(broken()))),
        (draining(2, BusyReason::Asked), Drain, Ok(draining(2, BusyReason::Asked))),
        (draining(2, broken()), Drain, Ok(draining(2, BusyReason::Asked))),
        (draining(2, BusyReason::Asked), fault(), Ok(draining(2, BusyReason::Asked))),
        (spent(BusyReason::Recycle), Ready, Ok(spent(BusyReason::Recycle))),
        (spent(BusyReason::Recycle), StreamAccepted, Err(Leaving)),
        (spent(BusyReason::Recycle), StreamEnded, Err(NoStream)),
        (spent(BusyReason::Recycle), Drain, Ok(spent(BusyReason::Asked))),
        (spent(BusyReason::Recycle), fault(), Ok(spent(BusyReason::Recycle))),
    ];
    for (state, event, expected) in &table {
        assert_eq!(state.on(event.clone(), &settings(2, 0)), *expected, "{state:?} on {event:?}");
    }
    for state in ["starting", "free", "busy", "draining", "spent"] {
        for event in [Ready, StreamAccepted, StreamEnded, Drain, fault()] {
            let covered = table.iter().any(|(from, on, _)| from.name() == state && *on == event);
            assert!(covered, "{state} on {event:?} is not in the table");
        }
    }
}

#[test]
fn recycling_takes_no_stream_beyond_the_limit_and_waits_for_the_last() {
    let settings = settings(2, 3);
    let full = busy(2, 3);
    assert_eq!(full.welcome(&settings), Err(Denied::Leaving));
    let one_left = full.on(BusyEvent::StreamEnded, &settings).unwrap();
    assert_eq!(one_left, busy(1, 3), "a running stream is never hurt by recycling");
    assert!(!one_left.wants_restart() && one_left.restarts_when_done(&settings));
    assert!(!busy(1, 2).restarts_when_done(&settings), "another one may come");
    assert_eq!(one_left.on(BusyEvent::StreamAccepted, &settings), Err(Denied::Leaving));
    let done = one_left.on(BusyEvent::StreamEnded, &settings).unwrap();
    assert_eq!(done, spent(BusyReason::Recycle));
    assert!(done.wants_restart());
}

#[test]
fn ready_means_that_a_stream_would_be_taken() {
    let settings = settings(2, 0);
    for state in [
        BusyState::Starting,
        free(0),
        busy(1, 1),
        busy(2, 2),
        draining(1, BusyReason::Asked),
        spent(BusyReason::Asked),
        spent(broken()),
    ] {
        let taken = state.on(BusyEvent::StreamAccepted, &settings);
        assert_eq!(state.welcome(&settings).err(), taken.err(), "{state:?}");
    }
}

#[test]
fn only_a_process_that_nobody_asked_to_leave_is_restarted() {
    assert!(spent(broken()).wants_restart());
    assert!(!spent(BusyReason::Asked).wants_restart());
    assert!(!draining(1, broken()).wants_restart(), "a restart would cut the stream that still runs");
    assert!(draining(1, broken()).restarts_when_done(&settings(2, 0)));
    assert!(!draining(1, BusyReason::Asked).restarts_when_done(&settings(2, 1)));
}
