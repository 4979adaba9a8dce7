//! A stream that continues on another encoder: readers of the store see one stream, even if the encoder that started
//! the stream crashed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tests::archived::Archived;
use tests::browser::{self, Play};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Rule, Settings};
use tests::encoder_process::{Encoder, KEY, Options, STREAM, subcommand, workspace};
use tests::gcs::FakeGcs;
use tests::gcs::audit::audit;
use tests::http::Client;
use tests::patience::{eventually, pause};
use tests::process::Program;
use tests::static_server::StaticServer;
use tests::upsets::{GIVEN_UP, INTERRUPTED};
use tests::{fixtures, publisher, turn};

/// A directory that several encoders write to and viewers read from.
struct Place {
    directory: tempfile::TempDir,
    server: StaticServer,
    _turn: turn::Turn,
}

/// Number of segments, of one second each, after which a stream can be taken over: two claims within four seconds count
/// as a race, which the second claimant loses.
const SETTLED: usize = 6;

fn clip() -> PathBuf {
    fixtures::clip("footage-720p30-gop1s")
}

impl Place {
    fn new() -> Self {
        // Create the clip before taking the turn: other tests need not wait for that.
        clip();
        let turn = turn::Turn::take();
        let directory = tempfile::tempdir().unwrap();
        let server = StaticServer::start(vec![directory.path().to_owned()]).unwrap();
        Self { directory, server, _turn: turn }
    }

    fn options(&self) -> Options {
        self.open_options().with_keys()
    }

    /// Encoders that know no keys: the key is the name.
    fn open_options(&self) -> Options {
        Options::default()
            .set("--output", self.directory.path().to_str().unwrap())
            .set("--ladder", "480p@1400k,360p@800k")
            .set("--reconnect-window", "8")
    }

    fn encoder(&self) -> Encoder {
        Encoder::start(self.options())
    }

    fn url(&self) -> String {
        self.server.url(&format!("live/{STREAM}/index.m3u8"))
    }

    /// Watches the stream in the store as viewers see it, once it has a playlist.
    fn watch(&self) -> Watch {
        wait_for_playlist(&self.url());
        // The file server knows media types only by file extension; other tests check how punctual an encoder is.
        let ignore = BTreeSet::from([Rule::ContentType, Rule::LateUpdate]);
        let watch = Watch::start(&self.url(), Settings { ignore, ..Settings::default() });
        more_segments(&watch, SETTLED);
        watch
    }
}

fn wait_for_playlist(url: &str) {
    let client = Client::default();
    eventually("the store's multivariant playlist", Duration::from_secs(40), || {
        client.get(url).ok().filter(|answer| answer.status == 200)
    });
}

/// Number of segments that every rendition has listed at least.
fn listed(watch: &Watch) -> usize {
    let checker = watch.checker();
    let lists = checker.multivariant_seen().map(|m| m.playlists()).unwrap_or_default();
    lists.iter().map(|l| checker.listed(l).len()).min().unwrap_or(0)
}

fn more_segments(watch: &Watch, more: usize) {
    let target = listed(watch) + more;
    eventually("more segments", Duration::from_secs(40), || (listed(watch) >= target).then_some(()));
}

/// Checks the number of discontinuities after the first segment seen.
#[track_caller]
fn discontinuities(checker: &Checker, expected: usize) {
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    for list in checker.multivariant_seen().unwrap().playlists() {
        let listed = checker.listed(&list);
        let count = listed.iter().skip(1).filter(|s| s.discontinuity).count();
        assert_eq!(count, expected, "discontinuities in {list}");
        assert!(listed.windows(2).all(|pair| pair[0].msn + 1 == pair[1].msn), "{list} has a hole");
        // Where a publisher was cut off, audio may have arrived without video, or one rendition may have one segment
        // more than another.
        for pair in listed.windows(2).filter(|pair| pair[0].gap) {
            assert!(
                pair[1].gap || pair[1].discontinuity,
                "{list} has a gap at {}, in the middle",
                pair[0].msn
            );
        }
        let gaps = listed.iter().filter(|s| s.gap).count();
        assert!(gaps <= 2 * (expected + 1), "{list} has {gaps} gaps");
    }
}

/// Checks that the archive is one recording of all encoders, with audio in sync after the break between them, and that
/// it holds every segment that viewers saw.
#[track_caller]
fn one_recording(archived: &Archived, shown: &Checker) {
    let judged = archived.judge(3).unwrap();
    eprintln!("{judged:.3?}");
    assert_eq!(judged.breaks.len(), 1);
    archived.holds_what_was_shown(shown).unwrap();
    eprintln!("sound off by {:.3} s at most", archived.in_step(judged.breaks[0]).unwrap());
    archived.in_step(0.0).unwrap();
}

/// Kills the publisher: its connection ends without notice.
fn cut(mut publisher: Program) {
    publisher.signal(Signal::KILL);
    publisher.wait(Duration::from_secs(5));
}

/// Ends the stream in order and returns the checker.
fn end(watch: Watch, mut publisher: Program) -> Checker {
    assert!(publisher.exited().is_none(), "the publisher was lost:\n{}", publisher.output());
    watch.checker().expect_outage();
    publisher.stop(Duration::from_secs(5));
    eventually("ENDLIST", Duration::from_secs(40), || watch.checker().ended().then_some(()));
    watch.finish()
}

/// Says which upsets a takeover is: the second encoder takes the stream from the first one, in the middle of its media.
fn takes_over(from: &Encoder, to: &Encoder) {
    from.allow(GIVEN_UP);
    from.allow(INTERRUPTED);
    to.allow(INTERRUPTED);
}

fn fenced(encoder: &Encoder) -> Option<()> {
    (encoder.metric("encoder_fenced_total", &[]) == 1.0).then_some(())
}

fn taken_over(encoder: &Encoder) -> f64 {
    encoder.metric("encoder_stream_starts_total", &["taken_over"])
}

#[test]
fn a_publisher_that_is_cut_off_goes_on_elsewhere() {
    let place = Place::new();
    let (a, b) = (place.encoder(), place.encoder());
    takes_over(&a, &b);
    let first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    let watch = place.watch();
    watch.checker().expect_outage();
    cut(first);
    let second = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(KEY));
    more_segments(&watch, 5);
    watch.checker().outage_over();
    assert_eq!(taken_over(&b), 1.0);
    // Without the fence, the old encoder would write EXT-X-ENDLIST at the end of its reconnect window.
    eventually("the former owner's end", Duration::from_secs(20), || fenced(&a));
    more_segments(&watch, 2);
    assert!(!watch.checker().ended());
    let log = a.stop();
    assert!(log.contains("another encoder writes this stream's playlists"), "{log}");
    let checker = end(watch, second);
    discontinuities(&checker, 1);
    assert_eq!(b.metric("encoder_fenced_total", &[]), 0.0);
    one_recording(&Archived::complete(place.directory.path()), &checker);
    let log = b.stop();
    assert!(log.contains("goes on with the archive that another encoder began"), "{log}");
}

/// The renditions of three sound tracks keep their names, and each has its discontinuity at the same segment.
#[test]
fn every_sound_track_goes_on_elsewhere() {
    let tracks = fixtures::clip("sound-tracks");
    let place = Place::new();
    let start = || Encoder::start(place.options().set("--ladder", "180p@300k"));
    let (a, b) = (start(), start());
    takes_over(&a, &b);
    let first = publisher::ffmpeg_all_tracks(&tracks, &a.rtmp_url(KEY));
    let watch = place.watch();
    let before = watch.checker().multivariant_seen().unwrap().media.clone();
    assert_eq!(before.len(), 3);
    watch.checker().expect_outage();
    cut(first);
    let second = publisher::ffmpeg_all_tracks(&tracks, &b.rtmp_url(KEY));
    more_segments(&watch, 5);
    watch.checker().outage_over();
    assert_eq!(taken_over(&b), 1.0);
    let checker = end(watch, second);
    discontinuities(&checker, 1);
    assert_eq!(checker.multivariant_seen().unwrap().media, before);
    let breaks = |list: &String| -> Vec<u64> {
        checker.listed(list).iter().skip(1).filter(|s| s.discontinuity).map(|s| s.msn).collect()
    };
    let all: Vec<_> = checker.multivariant_seen().unwrap().playlists().iter().map(breaks).collect();
    assert!(all.len() == 4 && all.iter().all(|breaks| *breaks == all[0]), "{all:?}");
    a.stop();
    b.stop();
}

#[test]
fn whoever_still_publishes_elsewhere_is_sent_off() {
    let place = Place::new();
    let (a, b) = (place.encoder(), place.encoder());
    takes_over(&a, &b);
    let mut first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    let watch = place.watch();
    watch.checker().expect_outage();
    let second = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(KEY));
    let status = first.wait(Duration::from_secs(20));
    assert!(status.is_some(), "the former publisher goes on:\n{}\n{}", a.log(), b.log());
    eventually("the fencing to be counted", Duration::from_secs(5), || fenced(&a));
    let gone = a.client.get(&a.playlist_url(STREAM)).unwrap();
    assert_eq!(gone.status, 404, "its own viewers are to go elsewhere");
    eventually("its place to be free", Duration::from_secs(5), || {
        (a.admin("readyz").status == 200).then_some(())
    });
    more_segments(&watch, 5);
    watch.checker().outage_over();
    let checker = end(watch, second);
    discontinuities(&checker, 1);
    one_recording(&Archived::complete(place.directory.path()), &checker);
    let log = a.stop();
    assert!(log.contains("another encoder"), "{log}");
    b.stop();
}

/// An encoder that is told to leave asks a publisher that understands it to go to another one, which goes on with the
/// stream.
#[test]
fn a_publisher_that_is_asked_to_move_takes_its_stream_along() {
    let place = Place::new();
    let b = place.encoder();
    let to = format!("rtmp://127.0.0.1:{}", b.ports.rtmp);
    let mut a = Encoder::start(place.options().set("--drain-reconnect", &to));
    takes_over(&a, &b);
    let mut command = subcommand("publish");
    command.arg("--loop").arg(clip()).arg(a.rtmp_url(KEY));
    let publisher = Program::spawn("encoder publish", &mut command);
    let watch = place.watch();
    watch.checker().expect_outage();
    a.signal(Signal::TERM);
    b.wait_for_stream(STREAM);
    more_segments(&watch, 5);
    watch.checker().outage_over();
    let status = a.wait(Duration::from_secs(30));
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{status:?}\n{}", a.log());
    assert!(a.log().contains("publisher is asked to connect anew"), "{}", a.log());
    let checker = end(watch, publisher);
    discontinuities(&checker, 1);
    one_recording(&Archived::complete(place.directory.path()), &checker);
    b.stop();
}

/// Without credentials nobody takes a stream from a publisher that is alive; where its publisher has left, a publisher
/// of that name goes on.
#[test]
fn a_stranger_takes_no_stream_over() {
    let place = Place::new();
    let (a, b) = (Encoder::start(place.open_options()), Encoder::start(place.open_options()));
    takes_over(&a, &b);
    b.expect(&["encoder_rejected_total"]);
    let first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(STREAM));
    let watch = place.watch();
    let mut stranger = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(STREAM));
    assert!(stranger.wait(publisher::REFUSAL).is_some(), "a stranger publishes:\n{}", b.log());
    assert!(stranger.output().contains("already being published"), "{}", stranger.output());
    assert_eq!(b.admin("readyz").status, 200, "its place is free");
    more_segments(&watch, 3);
    discontinuities(&watch.checker(), 0);

    watch.checker().expect_outage();
    cut(first);
    let record = place.directory.path().join(format!("live/{STREAM}/owner.json"));
    eventually("the encoder to say that its publisher is gone", Duration::from_secs(10), || {
        std::fs::read_to_string(&record).ok()?.contains("\"published\":false").then_some(())
    });
    let second = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(STREAM));
    more_segments(&watch, 3);
    watch.checker().outage_over();
    assert_eq!(taken_over(&b), 1.0);
    discontinuities(&end(watch, second), 1);
}

#[test]
fn of_two_that_come_at_once_one_is_told() {
    let place = Place::new();
    let encoders = [place.encoder(), place.encoder()];
    for encoder in &encoders {
        encoder.allow(&["encoder_rejected_total"]);
        encoder.allow(GIVEN_UP);
    }
    let mut publishers =
        encoders.each_ref().map(|encoder| publisher::ffmpeg_looped(&clip(), &encoder.rtmp_url(KEY)));
    let watch = place.watch();
    let lost: Vec<_> = publishers.iter_mut().map(|publisher| publisher.exited().is_some()).collect();
    let Some(loser) = lost.iter().position(|lost| *lost).filter(|_| lost != [true, true]) else {
        panic!("exactly one is to publish: {lost:?}\n{}\n{}", encoders[0].log(), encoders[1].log());
    };
    let said = publishers[loser].output();
    assert!(said.contains("already being published"), "{said}");
    assert_eq!(encoders[loser].metric("encoder_rejected_total", &["already_publishing"]), 1.0);
    assert_eq!(encoders[loser].admin("readyz").status, 200, "its place is free");
    more_segments(&watch, 3);
    let [one, other] = publishers;
    discontinuities(&end(watch, if loser == 0 { other } else { one }), 0);
}

#[test]
fn a_killed_encoder_goes_on_where_it_was() {
    let place = Place::new();
    let a = place.encoder();
    let mut first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    let watch = place.watch();
    watch.checker().expect_outage();
    a.signal(Signal::KILL);
    first.wait(Duration::from_secs(10));
    let a = place.encoder();
    a.allow(INTERRUPTED);
    let second = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    more_segments(&watch, 5);
    watch.checker().outage_over();
    assert_eq!(taken_over(&a), 1.0);
    let checker = end(watch, second);
    discontinuities(&checker, 1);
    one_recording(&Archived::complete(place.directory.path()), &checker);
    a.stop();
}

#[test]
fn a_bucket_is_taken_over_too() {
    const BUCKET: &str = "live";
    clip();
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    let options = || {
        Options::default()
            .set("--output", &format!("gs://{BUCKET}/tv"))
            .set("--gcs-endpoint", &fake.endpoint())
            .set("--ladder", "480p@1400k,360p@800k")
            .set("--reconnect-window", "8")
            .with_keys()
    };
    let (a, b) = (Encoder::start(options()), Encoder::start(options()));
    takes_over(&a, &b);
    let first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    let url = fake.public_url(BUCKET, &format!("tv/live/{STREAM}/index.m3u8"));
    wait_for_playlist(&url);
    let watch = Watch::start(&url, Settings { ignore: ignored_of_a_bucket(), ..Settings::default() });
    more_segments(&watch, SETTLED);
    watch.checker().expect_outage();
    cut(first);
    let second = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(KEY));
    more_segments(&watch, 5);
    watch.checker().outage_over();
    assert_eq!(taken_over(&b), 1.0, "{}", b.log());
    eventually("the former owner's end", Duration::from_secs(20), || fenced(&a));
    a.stop();
    let checker = end(watch, second);
    discontinuities(&checker, 1);
    let copy = tempfile::tempdir().unwrap();
    one_recording(&Archived::complete_in(&fake, BUCKET, "tv", copy.path()), &checker);
    let seen = audit(fake.state().objects.journal(), BUCKET);
    assert_eq!(seen.complaints, [""; 0]);
    // Seven playlists, including those of the archive with its I-frame playlist.
    assert!(seen.gaps <= 6 && seen.ended == (7, 7), "{seen:?}");
    b.stop();
}

/// Rules ignored for a bucket: a bucket returns objects as uploaded, without compressing.
fn ignored_of_a_bucket() -> BTreeSet<Rule> {
    BTreeSet::from([Rule::Gzip, Rule::LateUpdate])
}

/// Viewers of the store's URLs keep playing through a takeover without a reload.
#[test]
fn the_browser_plays_over_it() {
    let place = Place::new();
    let latency = |options: Options| options.set("--latency", "10");
    let (a, b) = (Encoder::start(latency(place.options())), Encoder::start(latency(place.options())));
    takes_over(&a, &b);
    let first = publisher::ffmpeg_looped(&clip(), &a.rtmp_url(KEY));
    wait_for_playlist(&place.url());
    let js = workspace().join("tests/js");
    let page = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let play = Play {
        page: page.url(&format!("player.html?src={}", place.url())),
        seconds: 30.0,
        switches: vec![],
        patience: tests::patience::patience(Duration::from_secs(30)).as_secs_f64(),
    };
    let (played, second) = std::thread::scope(|scope| {
        let played = scope.spawn(|| browser::play(&play));
        // Somewhere in the middle of the playing time.
        pause(Duration::from_secs(12));
        cut(first);
        let second = publisher::ffmpeg_looped(&clip(), &b.rtmp_url(KEY));
        (played.join().unwrap().unwrap(), second)
    });
    eprintln!("{played:?}");
    assert_eq!(taken_over(&b), 1.0, "{}", b.log());
    // Media is missing between the two encoders: hls.js may find a fragment without new media, or a hole, and
    // continues. Viewers do not notice.
    assert!(played.longest_freeze <= 0.2, "frozen for {} s", played.longest_freeze);
    let harmless = |complaint: &String| complaint.contains("fatal: false") || complaint.ends_with(" stalls");
    let complaints: Vec<_> = played.complaints(&play).into_iter().filter(|c| !harmless(c)).collect();
    assert_eq!(complaints, [""; 0]);
    drop(second);
    a.stop();
    b.stop();
}
