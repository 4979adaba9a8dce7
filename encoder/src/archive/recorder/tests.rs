//! When each object is written; whole broadcasts are in the tests of [`super::super::seal`].

use super::*;
use crate::archive::page::Page;
use crate::archive::testing::Studio;
use crate::delivery::DeliveryEvent;
use hls::ledger::Ledger;
use media::captions::CaptionServices;
use std::ops::{Deref, DerefMut};

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> ArchiveSettings {
    ArchiveSettings { target_duration: 1, ..ArchiveSettings::default() }
}

/// A recorder's writes: name and text, in order.
#[derive(Default)]
struct Written(Vec<(String, String)>);

impl Written {
    /// Takes every write that is due and acknowledges it immediately.
    fn drain(&mut self, recorder: &mut Recorder, now: Duration) {
        while let Some(write) = recorder.poll(now) {
            let (Write::Create(name, object) | Write::Replace(name, object)) = write;
            if ArchivePlace::of_note(&name).is_some() {
                assert!(self.0.is_empty(), "first of all, and once");
                recorder.done(Ok(()), now);
                continue;
            }
            let name = name.as_str().rsplit('/').next().unwrap().to_owned();
            self.0.push((name, String::from_utf8(object.body.to_vec()).unwrap()));
            recorder.done(Ok(()), now);
        }
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn last(&self, name: &str) -> &str {
        &self.0.iter().rev().find(|(written, _)| written == name).unwrap().1
    }
}

/// A recorder with the ledger that it reads.
struct Desk {
    recorder: Recorder,
    ledger: Ledger,
}

impl Desk {
    fn new(settings: ArchiveSettings) -> Self {
        Self { recorder: Recorder::new("live/demo", settings), ledger: Ledger::default() }
    }

    /// The outcome of a segment becomes known.
    fn settled(&mut self, rung: &RungName, sequence: u64, stored: bool) {
        if stored {
            self.ledger.readable(rung, sequence);
        } else {
            self.ledger.never(rung, sequence);
        }
        self.read();
    }

    fn read(&mut self) {
        while self.ledger.next_live().is_some() {}
        while let Some(settled) = self.ledger.next_archived() {
            self.recorder.settled(&settled);
        }
    }
}

impl Deref for Desk {
    type Target = Recorder;

    fn deref(&self) -> &Recorder {
        &self.recorder
    }
}

impl DerefMut for Desk {
    fn deref_mut(&mut self) -> &mut Recorder {
        &mut self.recorder
    }
}

/// Feeds a publisher's events to a recorder; `fate` gives each segment's outcome, `None` leaves the segment unsettled.
fn tell(desk: &mut Desk, events: Vec<DeliveryEvent>, fate: impl Fn(&Segment) -> Option<bool>) {
    for event in events {
        match event {
            DeliveryEvent::Tracks(tracks) => desk.tracks(&tracks),
            DeliveryEvent::Init(init) => {
                desk.ledger.init_readable(&init);
                desk.read();
            }
            DeliveryEvent::Segment(segment) => {
                desk.packaged(&segment);
                desk.ledger.enter(segment.info().clone(), SECOND);
                if let Some(stored) = fate(&segment) {
                    desk.settled(&segment.info().rung, segment.info().sequence, stored);
                }
            }
            DeliveryEvent::End => {}
        }
    }
}

const STORED: fn(&Segment) -> Option<bool> = |_| Some(true);

#[test]
fn a_page_is_written_when_an_epoch_begins_and_every_minute() {
    let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings()));
    let mut written = Written::default();
    tell(&mut recorder, studio.begin(), STORED);
    assert_eq!((recorder.poll(SECOND), recorder.wake_at()), (None, None), "nothing is known of it yet");
    for second in 1..130 {
        tell(&mut recorder, studio.run(1), STORED);
        written.drain(&mut recorder, SECOND * second);
    }
    assert_eq!(written.names()[0], "index-000000.json", "before anything else");
    let pages = written.names().iter().filter(|name| name.ends_with(".json")).count();
    let playlists = written.names().iter().filter(|name| **name == "360p.m3u8").count();
    assert_eq!((pages, playlists), (3, 9));
    let first_playlist = written.names().iter().position(|name| *name == "index.m3u8").unwrap();
    let before = &written.names()[..first_playlist];
    assert!(before.contains(&"360p.m3u8") && before.contains(&"audio.m3u8"), "{before:?}");
    tell(&mut recorder, studio.begin(), STORED);
    tell(&mut recorder, studio.run(2), STORED);
    written.drain(&mut recorder, SECOND * 131);
    let page = Page::from_json(written.last("index-000003.json").as_bytes()).unwrap();
    assert_eq!(page.epochs.len(), 1, "at once when a publisher is back");
    let entries = page.entries.iter().filter(|entry| entry.info.discontinuity).count();
    assert_eq!(entries, 2, "one break in both renditions");
}

/// Captions begin within an epoch, whose page is written already; and they stay when the next publisher sends none.
#[test]
fn captions_that_begin_later_are_in_the_playlist_and_in_later_pages() {
    let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings()));
    let mut written = Written::default();
    tell(&mut recorder, studio.begin(), STORED);
    tell(&mut recorder, studio.run(20), STORED);
    written.drain(&mut recorder, SECOND * 20);
    assert!(written.last("index.m3u8").contains("CLOSED-CAPTIONS=NONE"));
    let mut tracks = crate::archive::testing::tracks(&["360p", "audio"]);
    tracks[0].add_captions(CaptionServices::named(["CC1"]));
    tell(&mut recorder, vec![DeliveryEvent::Tracks(tracks)], STORED);
    tell(&mut recorder, studio.run(60), STORED);
    written.drain(&mut recorder, SECOND * 80);
    assert!(written.last("index.m3u8").contains("INSTREAM-ID=\"CC1\""));
    tell(&mut recorder, studio.begin(), STORED);
    tell(&mut recorder, studio.run(2), STORED);
    written.drain(&mut recorder, SECOND * 90);
    let mut contents = Contents::default();
    for (_, text) in written.0.iter().filter(|(name, _)| name.starts_with("index-")) {
        contents.take(Page::from_json(text.as_bytes()).unwrap());
    }
    assert_eq!(contents.epochs.len(), 2);
    let announced = contents.tracks().into_iter().map(Track::captions).collect::<Vec<_>>();
    assert_eq!(announced, [CaptionServices::named(["CC1"]), CaptionServices::NONE]);
}

/// The recorder waits for late segments: an EVENT playlist can only grow at its end.
#[test]
fn segments_are_listed_in_order_whenever_they_come() {
    let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings()));
    let mut written = Written::default();
    tell(&mut recorder, studio.begin(), STORED);
    let first = 1_795_348_800;
    let late = |segment: &Segment| match (segment.info().rung.as_str(), segment.info().sequence - first) {
        ("360p", 3) => None,
        ("360p", 5) => Some(false),
        _ => Some(true),
    };
    tell(&mut recorder, studio.run(10), late);
    written.drain(&mut recorder, SECOND * 20);
    assert_eq!(written.last("360p.m3u8").matches("#EXTINF").count(), 3);
    assert!(written.last("audio.m3u8").matches("#EXTINF").count() >= 8);
    let early = written.last("360p.m3u8").to_owned();
    recorder.settled(&RungName::new("360p").unwrap(), first + 3, true);
    written.drain(&mut recorder, SECOND * 40);
    let text = written.last("360p.m3u8");
    assert!(text.starts_with(&early), "{text}");
    assert_eq!((text.matches("#EXTINF").count(), text.matches("#EXT-X-GAP").count()), (9, 1));
    assert!(text.contains("PLAYLIST-TYPE:EVENT") && !text.contains("ENDLIST"));
}

#[test]
fn a_failed_page_is_written_again_as_it_was_and_a_taken_one_ends_it() {
    let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings()));
    tell(&mut recorder, studio.begin(), STORED);
    tell(&mut recorder, studio.run(3), STORED);
    assert!(recorder.poll(SECOND).is_some());
    recorder.done(Ok(()), SECOND);
    let first = recorder.poll(SECOND).unwrap();
    assert_eq!(recorder.poll(SECOND), None, "one at a time");
    recorder.done(Err(StoreError::Unavailable("no answer".into())), SECOND);
    tell(&mut recorder, studio.run(3), STORED);
    assert_eq!(recorder.poll(SECOND), None, "not at once");
    assert_eq!(recorder.wake_at(), Some(SECOND * 2));
    assert_eq!(recorder.poll(SECOND * 2), Some(first), "its answer may have been lost");
    recorder.done(Err(StoreError::Exists), SECOND * 2);
    assert!(recorder.is_fenced() && recorder.is_finished());
    assert_eq!((recorder.poll(SECOND * 900), recorder.wake_at()), (None, None));
}

#[test]
fn the_end_settles_what_nobody_settled() {
    let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings()));
    let mut written = Written::default();
    tell(&mut recorder, studio.begin(), STORED);
    tell(&mut recorder, studio.run(5), |_| None);
    written.drain(&mut recorder, SECOND);
    assert!(!recorder.is_finished());
    recorder.end();
    written.drain(&mut recorder, SECOND);
    assert!(recorder.is_finished());
    let page = Page::from_json(written.last("index-000001.json").as_bytes()).unwrap();
    assert!(page.entries.len() >= 8 && page.entries.iter().all(|entry| entry.info.bytes.is_none()));
}

#[test]
fn rungs_are_recorded_as_asked() {
    let asked = |recordings: Option<&[&str]>, mp4| {
        let recordings =
            recordings.map(|names| names.iter().map(|name| RungName::new(name).unwrap()).collect());
        let settings = ArchiveSettings { recordings, mp4, ..settings() };
        let (mut studio, mut recorder) = (Studio::new(), Desk::new(settings));
        let mut written = Written::default();
        tell(&mut recorder, studio.begin(), STORED);
        tell(&mut recorder, studio.run(3), STORED);
        written.drain(&mut recorder, SECOND);
        recorder.end();
        written.drain(&mut recorder, SECOND);
        let pages = written.0.iter().filter(|(name, _)| name.ends_with(".json"));
        let mut contents = Contents::default();
        pages.for_each(|(_, text)| contents.take(Page::from_json(text.as_bytes()).unwrap()));
        let indexed = contents.lanes.values().flatten().filter(|entry| entry.index.is_some()).count();
        let names: Vec<_> = contents.recordings.iter().map(RungName::to_string).collect();
        (names.join(","), indexed > 0)
    };
    assert_eq!(asked(None, true), ("360p".into(), true));
    assert_eq!(asked(Some(&["720p", "360p"]), true), ("360p".into(), true));
    assert_eq!(asked(Some(&["720p"]), true), (String::new(), false));
    assert_eq!(asked(None, false), (String::new(), false));
}
