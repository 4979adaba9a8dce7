use super::*;
use crate::delivery::outputs::StorePlaylists;
use crate::delivery::{Delivery, DeliveryEvent, DeliverySettings};
use hls::packager::InitSegment;
use hls::presentation::Presentation;
use hls::track::Track;
use hls::{Segment, SegmentInfo, SessionId, Timing};
use media::{MediaSpan, MediaTime};
use std::fmt::Write as _;
use store::memory::{InjectedFault, MemoryStore, Operation, RecordedCall};

const WINDOW: Duration = Duration::from_secs(30);
const NOW: WallTime = WallTime::from_unix_micros(1_795_348_800_000_000);

fn latency(seconds: f64) -> Latency {
    Latency::from_secs_f64(seconds).unwrap()
}

fn at(seconds: i64) -> WallTime {
    NOW + MediaSpan::from_millis(seconds * 1000)
}

/// A media playlist of one-second segments; the last segment ended `ended_ago` seconds before `NOW`.
fn playlist(first: u64, count: u64, ended_ago: i64) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-DISCONTINUITY-SEQUENCE:3\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"s-0-init.mp4\"\n"
    );
    for index in 0..count {
        let wall = at(-ended_ago - (count - index) as i64).unix_micros() / 1_000_000;
        let date = 1_795_348_800 - wall;
        let (minutes, seconds) = ((3600 - date) / 60, (3600 - date) % 60);
        write!(
            text,
            "#EXT-X-PROGRAM-DATE-TIME:2026-11-22T11:{minutes:02}:{seconds:02}.000Z\n#EXTINF:1.00000,\ns-0-{}.m4s\n",
            first + index
        )
        .unwrap();
    }
    text
}

const MULTIVARIANT: &str = "#EXTM3U\n#EXT-X-VERSION:8\n\
    #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio/index.m3u8\",GROUP-ID=\"audio\",NAME=\"Audio\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=1000,AUDIO=\"audio\"\n720p/index.m3u8\n";

async fn put(store: &MemoryStore, path: &str, text: impl Into<Bytes>) {
    let object = Object { body: text.into(), content_type: content_type::PLAYLIST, caching: Caching::None };
    store.replace(&ObjectName::new(format!("live/show/{path}")), object).await.unwrap();
}

/// A stream whose publisher left ten seconds ago.
async fn left() -> MemoryStore {
    let store = MemoryStore::new();
    put(&store, "index.m3u8", MULTIVARIANT).await;
    put(&store, "720p/index.m3u8", playlist(100, 12, 10)).await;
    put(&store, "audio/index.m3u8", playlist(101, 11, 10)).await;
    // A rendition of an earlier ladder, which the multivariant playlist does not list.
    put(&store, "480p/index.m3u8", playlist(10, 5, 70)).await;
    store
}

async fn claim(
    store: &MemoryStore,
    lease_client: &LeaseClient,
) -> Result<(StreamStart, Option<Lease>), ClaimRefused> {
    claim_at(store, lease_client, 4.0, NOW).await
}

async fn claim_at(
    store: &MemoryStore,
    lease_client: &LeaseClient,
    seconds: f64,
    now: WallTime,
) -> Result<(StreamStart, Option<Lease>), ClaimRefused> {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    let claim = Claim { latency: latency(seconds), reconnect_window: WINDOW, proven: true, now };
    lease_client.claim(&store, "live/show", claim).await
}

#[track_caller]
fn taken_over(claimed: Result<(StreamStart, Option<Lease>), ClaimRefused>) -> Inheritance {
    match claimed {
        Ok((StreamStart::TakenOver(inheritance), Some(_))) => *inheritance,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn anew(claimed: Result<(StreamStart, Option<Lease>), ClaimRefused>) -> (FreshReason, u64, u64) {
    match claimed {
        Ok((StreamStart::Fresh { above, discontinuities, why }, _)) => (why, above, discontinuities),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_without_a_past_begins_anew() {
    let store = MemoryStore::new();
    let claimed = claim(&store, &LeaseClient::default()).await.unwrap();
    assert!(claimed.1.is_some());
    assert_eq!(anew(Ok(claimed)), (FreshReason::New, 0, 0));
    assert_eq!(store.names(), ["live/show/owner.json"]);
}

#[tokio::test]
async fn captions_that_were_announced_stay_announced() {
    let store = left().await;
    let captioned = MULTIVARIANT.replace(
        "#EXT-X-STREAM-INF:",
        "#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID=\"captions\",NAME=\"CC1\",INSTREAM-ID=\"CC1\"\n\
         #EXT-X-STREAM-INF:CLOSED-CAPTIONS=\"captions\",",
    );
    put(&store, "index.m3u8", captioned).await;
    let inheritance = taken_over(claim(&store, &LeaseClient::default()).await);
    assert_eq!(inheritance.past.captions().names().collect::<Vec<_>>(), ["CC1"]);
    assert_eq!(inheritance.playlists.len(), 2);
}

#[tokio::test]
async fn a_stream_that_was_left_goes_on() {
    let store = left().await;
    let inheritance = taken_over(claim(&store, &LeaseClient::default()).await);
    assert_eq!((inheritance.past.next_sequence(), inheritance.past.discontinuities()), (112, 3));
    assert_eq!(inheritance.past.ended_at(), at(-10));
    assert_eq!(inheritance.latency, latency(4.0));
    let rungs: Vec<_> = inheritance.playlists.iter().map(|p| p.rung.as_str()).collect();
    assert_eq!(rungs, ["720p", "audio"]);
    for Inherited { rung, text, .. } in &inheritance.playlists {
        let stored = store.text(&format!("live/show/{rung}/index.m3u8")).unwrap();
        assert!(stored.starts_with(text) && stored[text.len()..].starts_with(NOTE), "{stored}");
    }
    // A second takeover, before this encoder has written anything.
    let again = taken_over(claim_at(&store, &LeaseClient::default(), 4.0, at(10)).await);
    assert_eq!(again.past, inheritance.past);
    assert_eq!(store.text("live/show/720p/index.m3u8").unwrap().matches(NOTE).count(), 1);
}

#[tokio::test]
async fn what_has_ended_or_is_too_old_begins_anew_behind_it() {
    let store = left().await;
    let claimed = claim_at(&store, &LeaseClient::default(), 4.0, at(22)).await;
    assert_eq!(anew(claimed), (FreshReason::WindowOver, 112, 3));
    for rung in ["720p", "audio"] {
        put(&store, &format!("{rung}/index.m3u8"), playlist(100, 12, 10) + "#EXT-X-ENDLIST\n").await;
    }
    let claimed = claim_at(&store, &LeaseClient::default(), 4.0, at(1)).await;
    assert_eq!(anew(claimed), (FreshReason::Ended, 112, 3));
    assert!(!store.text("live/show/720p/index.m3u8").unwrap().contains(NOTE), "nothing is written of it");
}

#[tokio::test]
async fn what_is_not_ours_begins_anew() {
    for (path, text) in [
        ("index.m3u8", "hello"),
        ("index.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n../../other/index.m3u8\n"),
        ("audio/index.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n"),
        ("audio/index.m3u8", ""),
    ] {
        let store = left().await;
        put(&store, path, text).await;
        let (why, ..) = anew(claim(&store, &LeaseClient::default()).await);
        assert_eq!(why, FreshReason::Unreadable, "{path} {text:?}");
        assert!(store.names().contains(&"live/show/owner.json".to_owned()));
    }
}

/// An encoder with another --latency keeps the stream's latency.
#[tokio::test]
async fn a_stream_keeps_its_latency() {
    let store = left().await;
    // This encoder would make two-second segments, and no lease records the stream's latency.
    let (why, above, _) = anew(claim_at(&store, &LeaseClient::default(), 10.0, NOW).await);
    assert_eq!((why, above), (FreshReason::TargetDuration, 112));
    let store = left().await;
    let first = LeaseClient::default();
    taken_over(claim_at(&store, &first, 3.5, NOW).await);
    let inheritance = taken_over(claim_at(&store, &LeaseClient::default(), 10.0, at(5)).await);
    assert_eq!(inheritance.latency, latency(3.5));
}

#[tokio::test(start_paused = true)]
async fn of_two_at_once_one_wins() {
    for seed in 0..20 {
        let store = if seed % 2 == 0 { MemoryStore::new() } else { left().await };
        let mut random = fastrand::Rng::with_seed(seed);
        store.set_faults(move |_| InjectedFault::Slow(Duration::from_millis(random.u64(1..100))));
        let claimants: Vec<_> = std::iter::repeat_with(LeaseClient::default).take(3).collect();
        let (a, b, c) = tokio::join!(
            claim(&store, &claimants[0]),
            claim(&store, &claimants[1]),
            claim(&store, &claimants[2])
        );
        let results = [a, b, c];
        let won: Vec<_> = results.iter().filter(|result| result.is_ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        // A claim three seconds later is still a race; but the same process may end a stream and begin another.
        let winner = results.iter().position(Result::is_ok).unwrap();
        assert_eq!(
            claim_at(&store, &LeaseClient::default(), 4.0, at(3)).await.err(),
            Some(ClaimRefused::AlreadyOwned)
        );
        assert!(claim_at(&store, &claimants[winner], 4.0, at(3)).await.is_ok());
    }
}

#[tokio::test]
async fn a_stream_that_ended_in_order_keeps_nobody_waiting() {
    let store = MemoryStore::new();
    let (_, owner) = claim(&store, &LeaseClient::default()).await.unwrap();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    owner.unwrap().release(&shared).await;
    assert!(claim_at(&store, &LeaseClient::default(), 4.0, at(1)).await.is_ok());
}

async fn ban(store: &MemoryStore, lease_client: &LeaseClient, until: Option<WallTime>, now: WallTime) {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    lease_client.ban(&store, "live/show", latency(4.0), until, now).await.unwrap();
}

#[tokio::test]
async fn a_banned_name_is_claimed_by_nobody_until_the_ban_is_over_or_lifted() {
    let store = left().await;
    let (here, elsewhere) = (LeaseClient::default(), LeaseClient::default());
    ban(&store, &here, Some(at(60)), NOW).await;
    for lease_client in [&here, &elsewhere] {
        let told = claim_at(&store, lease_client, 4.0, at(10)).await.err();
        assert_eq!(told, Some(ClaimRefused::Banned { until: at(60) }));
    }
    assert!(!store.text("live/show/720p/index.m3u8").unwrap().contains(NOTE), "nothing is fenced");
    ban(&store, &elsewhere, None, at(10)).await;
    taken_over(claim_at(&store, &elsewhere, 4.0, at(10)).await);

    ban(&store, &here, Some(at(60)), at(20)).await;
    assert!(claim_at(&store, &elsewhere, 4.0, at(59)).await.is_err());
    let claimed = claim_at(&store, &elsewhere, 4.0, at(60)).await;
    assert!(claimed.is_ok(), "{claimed:?}");
    let record = store.text("live/show/owner.json").unwrap();
    assert!(!record.contains("banned"), "a claim ends what is over: {record}");
}

#[tokio::test]
async fn a_ban_survives_the_release_of_the_lease_and_the_release_survives_the_ban() {
    let store = MemoryStore::new();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let owner = LeaseClient::default();
    let (_, lease) = claim(&store, &owner).await.unwrap();
    ban(&store, &LeaseClient::default(), Some(at(2)), NOW).await;
    lease.unwrap().release(&shared).await;
    let told = claim_at(&store, &LeaseClient::default(), 4.0, at(1)).await.err();
    assert_eq!(told, Some(ClaimRefused::Banned { until: at(2) }));
    // Without the release the lease would keep others out for another two seconds.
    assert!(claim_at(&store, &LeaseClient::default(), 4.0, at(2)).await.is_ok());
}

#[tokio::test]
async fn nothing_is_written_where_there_is_no_ban_to_lift() {
    let store = MemoryStore::new();
    ban(&store, &LeaseClient::default(), None, NOW).await;
    assert_eq!(store.names(), Vec::<String>::new());
}

/// A claim that runs at the same time either sees the ban or loses its own write.
#[tokio::test(start_paused = true)]
async fn a_ban_and_a_claim_at_once_end_with_the_ban() {
    for seed in 0..20 {
        let store = MemoryStore::new();
        let mut random = fastrand::Rng::with_seed(seed);
        store.set_faults(move |_| InjectedFault::Slow(Duration::from_millis(random.u64(1..100))));
        let (publisher, operator) = (LeaseClient::default(), LeaseClient::default());
        let (_, ()) = tokio::join!(claim(&store, &publisher), ban(&store, &operator, Some(at(60)), NOW));
        let told = claim_at(&store, &publisher, 4.0, at(10)).await.err();
        assert_eq!(told, Some(ClaimRefused::Banned { until: at(60) }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_keeps_nobody_waiting_for_long() {
    for fault in [
        InjectedFault::Hang,
        InjectedFault::Unavailable,
        InjectedFault::Refused,
        InjectedFault::Slow(Duration::from_secs(60)),
    ] {
        let store = left().await;
        store.set_faults(move |_| fault);
        let began = tokio::time::Instant::now();
        let (why, ..) = anew(claim(&store, &LeaseClient::default()).await);
        assert_eq!(why, FreshReason::StoreSilent, "{fault:?}");
        assert!(began.elapsed() <= LOOK_UP_WITHIN + Duration::from_millis(10), "{fault:?}");
    }
    // Findings from before the store went silent count.
    let store = left().await;
    store.set_faults(|call| {
        if call.operation == Operation::Replace { InjectedFault::Hang } else { InjectedFault::None }
    });
    assert_eq!(anew(claim(&store, &LeaseClient::default()).await), (FreshReason::StoreSilent, 112, 3));
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_passing_faults_are_outlived() {
    for fault in [InjectedFault::LostAnswer, InjectedFault::Unavailable, InjectedFault::Hang] {
        for nth in 0..8 {
            let store = left().await;
            let mut calls = 0;
            store.set_faults(move |_: &RecordedCall| {
                calls += 1;
                if calls - 1 == nth { fault } else { InjectedFault::Slow(Duration::from_millis(60)) }
            });
            let inheritance = taken_over(claim(&store, &LeaseClient::default()).await);
            assert_eq!(inheritance.past.next_sequence(), 112, "{fault:?} at call {nth}");
        }
    }
}

fn audio() -> Track {
    crate::archive::testing::tracks(&["audio"]).remove(0)
}

fn segment(session: &str, sequence: u64, first: u64) -> Segment {
    let session = SessionId::new(session).unwrap();
    let body = Bytes::from(format!("{session} {sequence}"));
    let info = SegmentInfo {
        rung: RungName::audio(),
        sequence,
        session: session.clone(),
        discontinuity: sequence == first,
        start: MediaTime::ZERO,
        duration: MediaSpan::from_millis(1000),
        wall: at(sequence as i64 - 100),
        name: hls::names::segment_name(&session, sequence),
        init: hls::names::init_name(&session),
        bytes: None,
    };
    Segment::new(info, Some(body))
}

fn init(session: &str) -> DeliveryEvent {
    let name = hls::names::init_name(&SessionId::new(session).unwrap());
    DeliveryEvent::Init(InitSegment { rung: RungName::audio(), name, body: Bytes::from_static(b"init") })
}

/// The former lease holder is alive and keeps writing; its next playlist write fails and stops it.
#[tokio::test(start_paused = true)]
async fn a_living_owner_is_fenced_and_its_successor_is_not() {
    let store = MemoryStore::new();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let timing = Timing::new(latency(4.0));
    let (first, second) = (LeaseClient::default(), LeaseClient::default());
    claim_at(&store, &first, 4.0, at(-10)).await.unwrap();
    let (playlists, _old) = StorePlaylists::new(&timing);
    let (old, old_task) = Delivery::start(
        shared.clone(),
        "live/show",
        playlists,
        DeliverySettings { archive: false, ..DeliverySettings::default() },
    );
    old.input(DeliveryEvent::Tracks(vec![audio()]));
    old.input(init("a-0"));
    let second_long = Duration::from_secs(1);
    for sequence in 100..110 {
        old.input(DeliveryEvent::Segment(segment("a-0", sequence, 100)));
        tokio::time::sleep(second_long).await;
    }
    // A segment that is written while the successor looks up the stream.
    let mut calls = 0;
    store.set_faults(move |_| {
        calls += 1;
        InjectedFault::Slow(Duration::from_millis(if calls == 3 { 300 } else { 50 }))
    });
    old.input(DeliveryEvent::Segment(segment("a-0", 110, 100)));
    let inheritance = taken_over(claim_at(&store, &second, 4.0, at(10)).await);
    let next = inheritance.past.next_sequence();
    assert!((110..=111).contains(&next));
    let (playlists, _new) = StorePlaylists::over(Presentation::resume(&timing, &inheritance.past));
    let (new, new_task) = Delivery::resume(
        shared,
        None,
        "live/show",
        playlists,
        DeliverySettings::default(),
        inheritance.playlists,
    );
    new.input(DeliveryEvent::Tracks(vec![audio()]));
    new.input(init("b-0"));
    tokio::time::sleep(2 * second_long).await;
    // The comment stays: the stored playlist must differ from the former lease holder's last write even before the
    // successor writes a new one.
    assert!(store.text("live/show/audio/index.m3u8").unwrap().contains(NOTE));
    for (sequence, old_sequence) in (next..next + 5).zip(111..) {
        old.input(DeliveryEvent::Segment(segment("a-0", old_sequence, 100)));
        new.input(DeliveryEvent::Segment(segment("b-0", sequence, next)));
        tokio::time::sleep(second_long).await;
    }
    assert!(old.is_fenced() && !new.is_fenced());
    drop((old, new));
    let (old, new) = (old_task.await.unwrap(), new_task.await.unwrap());
    assert!(old.fenced && !old.sealed, "{old:?}");
    assert!(new.sealed && !new.fenced, "{new:?}");
    let text = store.text("live/show/audio/index.m3u8").unwrap();
    let last = StoredPlaylist::parse(&RungName::audio(), &text).unwrap();
    let past = Past::new([(RungName::audio(), last)]).unwrap();
    assert_eq!((past.next_sequence(), past.ended()), (next + 5, true));
    assert_eq!(past.discontinuities(), 2);
    assert!(text.contains("a-0-109.m4s") && text.contains(&format!("b-0-{next}.m4s")), "{text}");
}

/// The claim of a publisher that has not proved who it is.
async fn claim_unproven(
    store: &MemoryStore,
    now: WallTime,
) -> Result<(StreamStart, Option<Lease>), ClaimRefused> {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    let claim = Claim { latency: latency(4.0), reconnect_window: WINDOW, proven: false, now };
    LeaseClient::default().claim(&store, "live/show", claim).await
}

/// Encoders let go of a stream while its publisher is away, so that a publisher without a credential can go on at
/// another encoder; they do not let go of a stream whose publisher is there.
#[tokio::test(start_paused = true)]
async fn a_stranger_takes_no_stream_from_a_publisher_that_is_alive() {
    let store = left().await;
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let (_, lease) = claim(&store, &LeaseClient::default()).await.unwrap();
    let mut lease = lease.unwrap();
    let before = store.text("live/show/owner.json").unwrap();
    // The newest media is ten seconds old, and the claim a few seconds.
    assert_eq!(claim_unproven(&store, at(9)).await.err(), Some(ClaimRefused::AlreadyOwned));
    assert_eq!(store.text("live/show/owner.json").unwrap(), before, "the stranger has written nothing");

    let (published, receiver) = watch::channel(true);
    let following = async {
        lease.follow(&shared, receiver).await;
        lease
    };
    let until_gone = async {
        published.send_replace(false);
        while !store.text("live/show/owner.json").unwrap().contains("\"published\":false") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (start, _) = claim_unproven(&store, at(9)).await.unwrap();
        assert!(matches!(start, StreamStart::TakenOver(_)), "{start:?}");
        // The former encoder finds out as soon as it writes again.
        published.send_replace(true);
    };
    let (lease, ()) = tokio::join!(following, until_gone);
    assert!(!lease.record.published);
}

#[tokio::test]
async fn a_publisher_with_proof_takes_its_stream_at_once() {
    let store = left().await;
    claim(&store, &LeaseClient::default()).await.unwrap();
    taken_over(claim_at(&store, &LeaseClient::default(), 4.0, at(5)).await);
}

/// An encoder that was killed does not say that its publisher is gone.
#[tokio::test]
async fn a_stream_without_new_media_is_free_for_strangers_in_the_end() {
    let store = left().await;
    claim(&store, &LeaseClient::default()).await.unwrap();
    assert_eq!(claim_unproven(&store, at(20)).await.err(), Some(ClaimRefused::AlreadyOwned));
    assert!(claim_unproven(&store, at(21)).await.is_ok());
}
