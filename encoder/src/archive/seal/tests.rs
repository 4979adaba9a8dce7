//! Whole broadcasts into the memory store, on paused time: the archives that remain, also after an encoder's death.

use super::*;
use crate::archive::page::Page;
use crate::archive::testing::{self, Studio, contents};
use crate::archive::{ArchiveManager, ArchiveSettings, RecordingHandle};
use crate::delivery::outputs::StorePlaylists;
use crate::delivery::{self, Delivery, DeliveryEvent};
use hls::SessionId;
use hls::resume::{Past, StoredPlaylist};
use media::WallTime;
use std::time::Duration;
use store::memory::{InjectedFault, MemoryStore, Operation, RecordedCall};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const STREAM: &str = "live/demo";

/// An encoder with one stream, reduced to publishing and archiving.
struct OnAir {
    manager: Arc<ArchiveManager>,
    recording: RecordingHandle,
    publisher: Delivery<StorePlaylists>,
    written: JoinHandle<delivery::DeliveryCounters>,
}

impl OnAir {
    fn new(store: &MemoryStore) -> Self {
        let manager = ArchiveManager::new(Arc::new(store.clone()), "me".to_owned());
        let target_duration = testing::timing().target_duration;
        let settings = ArchiveSettings { target_duration, ..ArchiveSettings::default() };
        let recording = manager.begin(STREAM, settings, WallTime::from_unix_micros(0));
        Self::with(store, manager, recording)
    }

    fn with(store: &MemoryStore, manager: Arc<ArchiveManager>, recording: RecordingHandle) -> Self {
        let playlists = StorePlaylists::new(&testing::timing()).0;
        let playlists = playlists.with_archive(Some(recording.archive.clone()));
        let (publisher, written) = Delivery::start(
            Arc::new(store.clone()),
            STREAM,
            playlists,
            delivery::DeliverySettings::default(),
        );
        Self { manager, recording, publisher, written }
    }

    fn tell(&self, events: Vec<DeliveryEvent>) {
        for event in events {
            if let DeliveryEvent::Segment(segment) = &event {
                self.recording.archive.packaged(segment);
            }
            self.publisher.input(event);
        }
    }

    async fn run(&self, studio: &mut Studio, seconds: i64) {
        for _ in 0..seconds {
            self.tell(studio.run(1));
            tokio::time::sleep(SECOND).await;
        }
    }

    /// Ends the stream in the regular way.
    async fn end(self, studio: &mut Studio) {
        self.tell(studio.end());
        self.publisher.input(DeliveryEvent::End);
        self.written.await.unwrap();
        self.manager.finish(self.recording);
        self.manager.idle().await;
    }

    /// Kills the process: aborts its tasks.
    async fn kill(self) {
        self.recording.task.abort();
        self.written.abort();
        let _ = (self.recording.task.await, self.written.await);
    }
}

fn shared(store: &MemoryStore) -> Arc<dyn Store> {
    Arc::new(store.clone())
}

async fn only_archive(store: &MemoryStore) -> ArchivePlace {
    let mut places = crate::archive::load::archives(&shared(store), STREAM).await.unwrap();
    assert_eq!(places.len(), 1, "{places:?}");
    places.remove(0)
}

fn file(store: &MemoryStore, place: &ArchivePlace, file: &str) -> String {
    store.text(&format!("{}/{file}", place.folder())).unwrap_or_default()
}

/// Names of segments in a playlist, gaps left out.
fn listed(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let is_gap = |at: usize| at >= 2 && lines[at - 2] == "#EXT-X-GAP";
    let segments = (0..lines.len()).filter(|&at| lines[at].ends_with(".m4s") && !is_gap(at));
    segments.map(|at| lines[at].trim_start_matches("../../").to_owned()).collect()
}

/// Checks that the archive lists everything that the store has of the broadcast, in order, and that the recording
/// contains it.
fn check_whole(store: &MemoryStore, place: &ArchivePlace, gaps: usize) {
    let mut payload = 0;
    for rung in ["360p", "audio"] {
        let text = file(store, place, &format!("{rung}.m3u8"));
        assert!(text.contains("PLAYLIST-TYPE:VOD") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
        let names = listed(&text);
        let all = store.names();
        let stored: Vec<_> = all
            .iter()
            .filter_map(|name| name.strip_prefix("live/demo/"))
            .filter(|name| name.starts_with(rung) && name.ends_with(".m4s"))
            .collect();
        assert_eq!(names, stored, "{rung}");
        assert_eq!(text.matches("#EXT-X-GAP").count(), gaps, "{rung}: {text}");
        payload += names
            .iter()
            .map(|name| store.get(&format!("live/demo/{name}")).unwrap().body.len())
            .sum::<usize>();
    }
    let recording = store.get(&format!("{}/recording.mp4", place.folder())).unwrap();
    let mdat = recording.body.windows(4).position(|four| four == b"mdat").unwrap();
    let header = mdat + 12;
    assert_eq!(recording.body.len(), header + payload);
    let size = u64::from_be_bytes(recording.body[mdat + 4..header].try_into().unwrap());
    assert_eq!(size, 16 + payload as u64);
    // The first video segment follows the recording's header, unchanged.
    let first = &listed(&file(store, place, "360p.m3u8"))[0];
    let first = store.get(&format!("live/demo/{first}")).unwrap().body;
    assert_eq!(recording.body[header..header + first.len()], first[..]);
    assert!(file(store, place, "index.m3u8").contains("\n360p.m3u8\n"));
    assert!(!store.names().iter().any(|name| name.contains("/parts/")), "nothing is left of the work");
    assert!(!store.names().iter().any(|name| name.starts_with(".encoder")), "{:?}", store.names());
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_leaves_playlists_and_a_recording() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 90).await;
    let event = file(&store, &only_archive(&store).await, "360p.m3u8");
    assert!(event.contains("PLAYLIST-TYPE:EVENT") && listed(&event).len() > 60, "{event}");
    on_air.end(&mut studio).await;
    let place = only_archive(&store).await;
    check_whole(&store, &place, 0);
    assert!(file(&store, &place, "360p.m3u8").starts_with(&event.replace("EVENT", "VOD")), "it only grew");

    let calls = store.calls().len();
    let sealed = seal(&shared(&store), &place).await.unwrap();
    assert!(sealed.already && sealed.segments == 180 && sealed.duration.as_secs_f64() > 89.9, "{sealed:?}");
    let changes = |call: &RecordedCall| !matches!(call.operation, Operation::Read | Operation::List);
    assert!(!store.calls()[calls..].iter().any(changes), "sealing twice is harmless");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_comes_back_is_in_the_same_archive() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 10).await;
    // The media axis continues one second later, although seven seconds pass.
    studio.pause(7, 1);
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 10).await;
    on_air.end(&mut studio).await;
    let place = only_archive(&store).await;
    check_whole(&store, &place, 0);
    let text = file(&store, &place, "360p.m3u8");
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
    let duration = seal(&shared(&store), &place).await.unwrap().duration.as_secs_f64();
    assert!((duration - 27.0).abs() < 0.1, "10 s, 7 s away, 10 s: {duration}");
}

/// The encoder dies 50 seconds after the last page: the segments that it had stored are found.
#[tokio::test(start_paused = true)]
async fn what_a_dead_encoder_stored_is_sealed_by_whoever_comes() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 30).await;
    studio.now += 3;
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 50).await;
    on_air.kill().await;
    let place = only_archive(&store).await;
    let loaded = load(&shared(&store), &place).await.unwrap();
    assert!(loaded.rest.len() > 90, "{} segments are in no page", loaded.rest.len());
    let sealed = seal(&shared(&store), &place).await.unwrap();
    assert!(!sealed.already && sealed.gaps == 0, "{sealed:?}");
    check_whole(&store, &place, 0);

    // What sealing read from the boxes agrees with what the encoder would have written.
    let text = file(&store, &place, "360p.m3u8");
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
    assert_eq!(text.matches("#EXTINF:1.00000,").count(), listed(&text).len());
    assert_eq!(text.matches("#EXT-X-PROGRAM-DATE-TIME").count(), 2, "{text}");
    assert!(seal(&shared(&store), &place).await.unwrap().already);
}

/// The next broadcast of the same name completes the archive, and its own segments are not added to the dead encoder's
/// archive.
#[tokio::test(start_paused = true)]
async fn the_next_encoder_seals_what_the_one_before_left() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 20).await;
    on_air.kill().await;
    let first = only_archive(&store).await;
    let manager = ArchiveManager::new(shared(&store), String::new());
    // The unfinished rest of the first broadcast was lost with the process.
    studio.end();
    studio.now += 100;
    let later = WallTime::from_unix_micros(1_795_348_800_000_000 + 1_000_000 * studio.now);
    let recording = manager.begin(STREAM, ArchiveSettings::default(), later);
    let on_air = OnAir::with(&store, manager, recording);
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 20).await;
    let text = file(&store, &first, "360p.m3u8");
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && listed(&text).len() == 19, "{text}");
    on_air.end(&mut studio).await;
    let sealed = seal(&shared(&store), &first).await.unwrap();
    assert!(sealed.already, "{sealed:?}");
    assert_eq!(crate::archive::load::archives(&shared(&store), STREAM).await.unwrap().len(), 2);
}

/// A restarted container finds the archive that it had left; other processes leave it alone.
#[tokio::test(start_paused = true)]
async fn a_process_that_starts_again_seals_what_it_left() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 20).await;
    on_air.kill().await;
    let place = only_archive(&store).await;
    let manager = ArchiveManager::new(shared(&store), String::new());
    manager.seal_dead(|owner| owner == "somebody else");
    manager.idle().await;
    assert_eq!(file(&store, &place, "sealed.json"), "");
    manager.seal_dead(|owner| owner == "me");
    manager.idle().await;
    check_whole(&store, &place, 0);
}

/// A restarted container gets the same process ID: its own streams must not be taken for a dead process's.
#[tokio::test(start_paused = true)]
async fn what_began_here_is_not_taken_for_what_a_dead_process_left() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 20).await;
    let manager = on_air.manager.clone();
    // The broadcast is over here, and may continue on another encoder.
    on_air.kill().await;
    manager.seal_dead(|owner| owner == "me");
    manager.idle().await;
    let place = only_archive(&store).await;
    assert_eq!(file(&store, &place, "sealed.json"), "");
    assert!(file(&store, &place, "360p.m3u8").contains("PLAYLIST-TYPE:EVENT"));
}

/// Live viewers get gaps for late segments; the archive gets the segments.
#[tokio::test(start_paused = true)]
async fn what_was_late_is_in_the_archive() {
    let store = MemoryStore::new();
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 10).await;
    let down = Instant::now();
    store.set_faults(move |_| {
        if down.elapsed() < 20 * SECOND { InjectedFault::Unavailable } else { InjectedFault::None }
    });
    on_air.run(&mut studio, 60).await;
    assert!(store.text("live/demo/360p/index.m3u8").is_some());
    assert!(on_air.publisher.counters().late > 10, "{:?}", on_air.publisher.counters());
    on_air.end(&mut studio).await;
    check_whole(&store, &only_archive(&store).await, 0);
}

/// The stream's past as the store's playlists list it.
fn past(store: &MemoryStore) -> Past {
    let playlists = ["360p", "audio"].map(|rung| {
        let text = store.text(&format!("{STREAM}/{rung}/index.m3u8")).unwrap();
        let rung = RungName::new(rung).unwrap();
        let playlist = StoredPlaylist::parse(&rung, &text).unwrap();
        (rung, playlist)
    });
    Past::new(playlists).unwrap()
}

/// The second encoder's times start anew; the first had stored more than it ever listed, and writes one more page.
#[tokio::test(start_paused = true)]
async fn another_encoder_goes_on_with_the_archive() {
    let store = MemoryStore::new();
    let (mut studio, before) = (Studio::new(), OnAir::new(&store));
    before.tell(studio.begin());
    before.run(&mut studio, 40).await;
    let place = only_archive(&store).await;
    let past = past(&store);
    before.run(&mut studio, 25).await;
    let pages = |store: &MemoryStore| store.names().iter().filter(|name| name.contains("/index-0")).count();
    assert_eq!(pages(&store), 2, "one of them with numbers that are given again");

    let mut studio = studio.elsewhere(5, past.next_sequence());
    let manager = ArchiveManager::new(shared(&store), "another".to_owned());
    let recording = manager.go_on(STREAM, ArchiveSettings::default(), past.clone());
    let after = OnAir::with(&store, manager, recording);
    after.tell(studio.begin());
    after.run(&mut studio, 30).await;
    // Time for the former encoder's next page.
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!(before.recording.task.await.unwrap(), None, "the one before has found out");
    after.end(&mut studio).await;
    assert_eq!(only_archive(&store).await, place);
    let text = file(&store, &place, "360p.m3u8");
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
    assert!(text.contains("PLAYLIST-TYPE:VOD") && !text.contains("#EXT-X-GAP"), "{text}");
    let sealed = seal(&shared(&store), &place).await.unwrap();
    assert!(sealed.already);
    let listed = past.next_sequence() - 1_795_348_800;
    // 30 s without listed segments: the first encoder ran on for 25 s whose segments were never listed, then 5 s of
    // nothing.
    let expected = listed as f64 + 30.0 + 30.0;
    assert!((sealed.duration.as_secs_f64() - expected).abs() < 1.5, "{} of {expected}", sealed.duration);

    let Loaded { pages, .. } = load(&shared(&store), &place).await.unwrap();
    assert_eq!(pages.epochs.len(), 2);
    for (rung, lane) in &pages.lanes {
        for pair in lane.windows(2) {
            let [a, b] = pair else { unreachable!() };
            assert_eq!(b.info.sequence, a.info.sequence + 1, "{rung}");
            let spans = [a, b].map(|entry| entry.index.as_ref().unwrap().span().unwrap());
            assert!(spans[0].end <= spans[1].start, "{rung} {}: {spans:?}", a.info.sequence);
        }
    }
}

/// The archive of the sessions that the playlists name is missing: a new archive begins.
#[tokio::test(start_paused = true)]
async fn what_has_no_archive_gets_one() {
    let store = MemoryStore::new();
    let (mut studio, before) = (Studio::new(), OnAir::new(&store));
    before.tell(studio.begin());
    before.run(&mut studio, 10).await;
    let past = past(&store);
    before.kill().await;
    for name in store.names().iter().filter(|name| name.contains("archive")) {
        store.remove(&ObjectName::new(name.clone())).await.unwrap();
    }
    let mut studio = studio.elsewhere(5, past.next_sequence());
    let manager = ArchiveManager::new(shared(&store), String::new());
    let recording = manager.go_on(STREAM, ArchiveSettings::default(), past);
    let after = OnAir::with(&store, manager, recording);
    after.tell(studio.begin());
    after.run(&mut studio, 10).await;
    after.end(&mut studio).await;
    let place = only_archive(&store).await;
    let sealed = seal(&shared(&store), &place).await.unwrap();
    assert!((sealed.duration.as_secs_f64() - 10.0).abs() < 1.5, "{}", sealed.duration);
}

/// The store refuses every write after the tenth of each attempt; the next attempt continues. In the end the result is
/// as if there had been no interruption, and only compositions without an answer were repeated.
#[tokio::test(start_paused = true)]
async fn sealing_goes_on_where_it_was_cut_off() {
    let store = made_up(&["360p", "audio"], 600).await;
    let place = only_archive(&store).await;
    let mut attempts = 0;
    let sealed = loop {
        attempts += 1;
        assert!(attempts < 40);
        let mut left = 10;
        store.set_faults(move |call| {
            let writes = !matches!(call.operation, Operation::Read | Operation::List);
            left -= i32::from(writes);
            if left < 0 { InjectedFault::Refused } else { InjectedFault::None }
        });
        if let Ok(sealed) = seal(&shared(&store), &place).await {
            break sealed;
        }
    };
    assert!(attempts > 3, "{attempts}");
    assert_eq!(sealed.gaps, 0);
    let composed = store.calls().iter().filter(|call| call.operation == Operation::Compose).count();
    assert!(composed < 1_201 / 30 + 16 * attempts, "{composed} in {attempts} attempts");
    let whole = store.get(&format!("{}/recording.mp4", place.folder())).unwrap();
    store.set_faults(|_| InjectedFault::None);
    clean(&shared(&store), &place).await;
    store.remove(&place.sealed()).await.unwrap();
    seal(&shared(&store), &place).await.unwrap();
    assert!(store.get(&format!("{}/recording.mp4", place.folder())).unwrap() == whole);
    assert!(!store.names().iter().any(|name| name.contains("/parts/")));
}

/// An archive with one index page a minute, whose segments have meaningless bytes.
async fn made_up(rungs: &[&str], seconds: u64) -> MemoryStore {
    let store = MemoryStore::new();
    let place = ArchivePlace::new(STREAM, SessionId::new("a-0").unwrap());
    let all = contents(rungs, seconds);
    let object = |body: Bytes| Object { body, content_type: content_type::MP4, caching: Caching::None };
    for rung in rungs {
        let rung = RungName::new(rung).unwrap();
        store.create(&place.media(&rung, "a-0-init.mp4"), object(testing::init(&rung))).await.unwrap();
    }
    for entry in all.lanes.values().flatten() {
        let bytes = vec![b'.'; entry.info.bytes.unwrap() as usize];
        store.create(&place.media(&entry.info.rung, &entry.info.name), object(bytes.into())).await.unwrap();
    }
    for number in 0..seconds.div_ceil(60) {
        let minute = 100 + number * 60..100 + (number + 1) * 60;
        let entries = all.lanes.values().flatten().filter(|entry| minute.contains(&entry.info.sequence));
        let page = Page {
            target_duration: 1,
            recordings: all.recordings.clone(),
            captions: all.captions,
            epochs: if number == 0 { all.epochs.clone() } else { Vec::new() },
            entries: entries.cloned().collect(),
            claimed_by: None,
        };
        store.create(&place.page(number), object(page.to_json())).await.unwrap();
    }
    store
}

/// Three hours with 60 ms a call: sealing takes less than a minute, one compose request per thirty objects, and reads
/// no media.
#[tokio::test(start_paused = true)]
async fn three_hours_are_sealed_within_a_minute() {
    let store = made_up(&["360p", "audio"], 3 * 3600).await;
    let place = only_archive(&store).await;
    let before = store.calls().len();
    store.set_faults(|call| {
        assert!(call.operation != Operation::Read || !call.name.as_str().ends_with(".m4s"), "media is read");
        InjectedFault::Slow(Duration::from_millis(60))
    });
    let began = Instant::now();
    let sealed = seal(&shared(&store), &place).await.unwrap();
    let took = began.elapsed();
    let calls = &store.calls()[before..];
    let count = |operation| calls.iter().filter(|call| call.operation == operation).count();
    let composed = count(Operation::Compose);
    assert_eq!((sealed.segments, sealed.compositions as usize), (2 * 3 * 3600, composed));
    assert!(composed <= (1 + sealed.segments) / 30, "{composed} for {}", sealed.segments);
    // Removed are the pieces (one fewer than compose requests), the header and the note.
    assert_eq!(count(Operation::Remove), composed + 1);
    assert!(took < 60 * SECOND, "{took:?}");
    assert_eq!(sealed.duration.as_secs_f64(), 10_800.0);
}

#[tokio::test(start_paused = true)]
async fn an_archive_without_media_is_sealed_as_nothing() {
    let store = MemoryStore::new();
    store.set_faults(|call| match call.operation {
        Operation::Create if call.name.as_str().contains("-init.mp4") => InjectedFault::Refused,
        _ => InjectedFault::None,
    });
    let (mut studio, on_air) = (Studio::new(), OnAir::new(&store));
    on_air.tell(studio.begin());
    on_air.run(&mut studio, 5).await;
    on_air.end(&mut studio).await;
    let place = only_archive(&store).await;
    assert!(seal(&shared(&store), &place).await.unwrap().already);
    assert_eq!(file(&store, &place, "recording.mp4"), "");
}
