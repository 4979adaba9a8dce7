//! The two cursors, and what viewers see of segments that are acknowledged out of order.

use super::*;
use crate::names::SessionId;
use crate::packager::CutRule;
use crate::presentation::Presentation;
use crate::testing::{Run, START_MS, epoch, frames, video};
use media::{MediaSpan, MediaTime, WallTime};

const SECOND: Duration = Duration::from_secs(1);

fn rung() -> RungName {
    RungName::new("720p").unwrap()
}

fn init(session: &str) -> InitSegment {
    InitSegment { rung: rung(), name: format!("{session}-init.mp4"), body: "init".into() }
}

/// A segment of as many bytes as its number, and ten.
fn segment(session: &str, sequence: u64) -> SegmentInfo {
    SegmentInfo {
        rung: rung(),
        sequence,
        session: SessionId::new(session).unwrap(),
        discontinuity: false,
        start: MediaTime::ZERO + MediaSpan::from_millis(1000 * sequence as i64),
        duration: MediaSpan::from_millis(1000),
        wall: WallTime::from_unix_micros(0),
        name: format!("{session}-{sequence}.m4s"),
        init: format!("{session}-init.mp4"),
        bytes: Some(10 + sequence),
    }
}

/// A ledger with segments from number 0 on, with deadlines one second apart.
fn ledger(segments: u64) -> Ledger {
    let mut ledger = Ledger::default();
    for sequence in 0..segments {
        ledger.enter(segment("s", sequence), SECOND * (sequence as u32 + 1));
    }
    ledger
}

fn live(ledger: &mut Ledger) -> Vec<(u64, Option<u64>)> {
    let next = std::iter::from_fn(|| ledger.next_live());
    next.map(|segment| (segment.sequence, segment.bytes)).collect()
}

fn archived(ledger: &mut Ledger) -> Vec<(u64, bool)> {
    let next = std::iter::from_fn(|| ledger.next_archived());
    next.map(|settled| (settled.sequence, settled.stored)).collect()
}

#[test]
fn the_live_cursor_moves_at_the_deadline_and_the_archive_cursor_at_the_final_fate() {
    let mut ledger = ledger(4);
    ledger.init_readable(&init("s"));
    assert!(ledger.readable(&rung(), 0) && ledger.readable(&rung(), 2));
    assert_eq!((live(&mut ledger), archived(&mut ledger)), (vec![(0, Some(10))], vec![(0, true)]));
    assert_eq!(ledger.next_deadline(), Some(SECOND * 2));
    assert_eq!(ledger.overdue(SECOND * 2), [(rung(), 1, Missing::Segment)]);
    assert!(ledger.late(&rung(), 1), "a gap now");
    assert!(!ledger.late(&rung(), 1), "and only once");
    assert_eq!(live(&mut ledger), [(1, None), (2, Some(12))]);
    assert_eq!(archived(&mut ledger), [], "its upload continues");
    assert!(!ledger.readable(&rung(), 1), "too late for viewers");
    assert_eq!(archived(&mut ledger), [(1, true), (2, true)]);
    assert!(ledger.never(&rung(), 3));
    assert_eq!((live(&mut ledger), archived(&mut ledger)), (vec![(3, None)], vec![(3, false)]));
    assert!(ledger.is_listed() && ledger.next_deadline().is_none());
}

#[test]
fn a_readable_segment_waits_for_its_init_segment() {
    let mut ledger = ledger(2);
    assert!(ledger.readable(&rung(), 0) && ledger.readable(&rung(), 1));
    assert_eq!((live(&mut ledger), archived(&mut ledger)), (vec![], vec![]));
    assert_eq!(ledger.overdue(SECOND), [(rung(), 0, Missing::Init)]);
    assert!(ledger.late(&rung(), 0));
    assert_eq!((live(&mut ledger), archived(&mut ledger)), (vec![(0, None)], vec![]));
    ledger.init_readable(&init("s"));
    assert_eq!((live(&mut ledger), archived(&mut ledger)), (vec![(1, Some(11))], vec![(0, true), (1, true)]));
}

#[test]
fn what_cannot_be_read_at_the_end_never_will_be() {
    let mut ledger = ledger(4);
    ledger.init_readable(&init("s"));
    ledger.late(&rung(), 0);
    ledger.readable(&rung(), 1);
    ledger.enter(segment("t", 4), SECOND);
    ledger.readable(&rung(), 4);
    ledger.close();
    assert_eq!(archived(&mut ledger), [(0, false), (1, true), (2, false), (3, false), (4, false)]);
    assert!(ledger.is_listed());
}

#[test]
fn an_init_segment_is_known_as_long_as_either_cursor_needs_it() {
    let mut ledger = ledger(2);
    ledger.init_readable(&init("s"));
    ledger.late(&rung(), 0);
    ledger.never(&rung(), 1);
    assert_eq!(live(&mut ledger).len(), 2);
    for session in ["t", "u"] {
        ledger.init_readable(&init(session));
    }
    ledger.readable(&rung(), 0);
    assert_eq!(archived(&mut ledger), [(0, true), (1, false)]);
    ledger.init_readable(&init("v"));
    assert_eq!(ledger.renditions[&rung()].inits.len(), 1, "earlier ones are forgotten");
}

/// Moves the live cursor into a presentation, and returns the playlist.
fn shown(ledger: &mut Ledger, presentation: &mut Presentation) -> String {
    std::iter::from_fn(|| ledger.next_live()).for_each(|segment| presentation.add(segment));
    presentation.media_playlist(&rung()).unwrap_or_default()
}

#[test]
fn viewers_see_a_segment_after_those_before_it_and_after_its_init() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS, &[video("720p")], CutRule::Grid));
    run.push_all(&[("720p", frames(START_MS, (30, 1), 30, 120, false))]);
    run.end(None);
    let (mut ledger, mut presentation) = (Ledger::default(), Presentation::new(&run.timing));
    presentation.set_tracks(&[video("720p")]);
    run.segments.iter().for_each(|segment| ledger.enter(segment.info().clone(), SECOND));
    let listed = |text: String| text.lines().filter(|line| line.ends_with(".m4s")).count();
    ledger.readable(&rung(), 0);
    assert_eq!(listed(shown(&mut ledger, &mut presentation)), 0, "no init yet");
    presentation.add_init(&run.inits[0]);
    ledger.init_readable(&run.inits[0]);
    assert_eq!(listed(shown(&mut ledger, &mut presentation)), 1);
    ledger.readable(&rung(), 3);
    ledger.readable(&rung(), 2);
    assert_eq!(listed(shown(&mut ledger, &mut presentation)), 1, "1 is missing");
    ledger.late(&rung(), 1);
    assert_eq!(listed(shown(&mut ledger, &mut presentation)), 4);
    ledger.readable(&rung(), 1);
    let text = shown(&mut ledger, &mut presentation);
    assert!(text.contains("#EXT-X-GAP"), "a gap stays a gap: players have seen it");
}
