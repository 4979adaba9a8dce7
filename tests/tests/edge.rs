//! Edges between viewers and encoders: streams are found, follow their publishers to other encoders, and play as
//! recordings afterwards; whatever viewers ask for, encoders and the store are asked little.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use chrono::{DateTime, Utc};
use rustix::process::Signal;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::archived::Archived;
use tests::balancer::Balancer;
use tests::browser::{self, Play, Played};
use tests::edge_process::{Edge, secret_file};
use tests::encoder_process::{Encoder, KEY, Options, STREAM, workspace};
use tests::gcs::FakeGcs;
use tests::gcs::faults::Fault;
use tests::http::{Client, join};
use tests::patience::{eventually, pause};
use tests::process::Program;
use tests::static_server::StaticServer;
use tests::upsets::{GIVEN_UP, INTERRUPTED, STORE_FAILS};
use tests::varnish::{Freshness, Varnish};
use tests::{fixtures, playlist, publisher, turn};

/// Encoders and edges with a directory and a secret in common.
struct Fleet {
    directory: tempfile::TempDir,
    secret: tempfile::NamedTempFile,
    _turn: turn::Turn,
}

impl Fleet {
    fn new() -> Self {
        fixtures::clip("small-gop1s");
        let turn = turn::Turn::take();
        Self { directory: tempfile::tempdir().unwrap(), secret: secret_file(), _turn: turn }
    }

    fn options(&self) -> Options {
        self.open_options().with_keys()
    }

    /// Encoders that know no keys: the key is the name.
    fn open_options(&self) -> Options {
        alone()
            .set("--output", self.directory.path().to_str().unwrap())
            .set("--edge-secret", self.secret.path().to_str().unwrap())
            .set("--advertise", "127.0.0.1")
    }

    fn encoder(&self) -> Encoder {
        Encoder::start(self.options())
    }

    fn edge(&self) -> Edge {
        let (directory, secret) =
            (self.directory.path().to_str().unwrap(), self.secret.path().to_str().unwrap());
        Edge::start(&["--output", directory, "--edge-secret", secret])
    }
}

/// An encoder that knows of no edge.
fn alone() -> Options {
    Options::default()
        .set("--latency", "3")
        .set("--ladder", "source,180p@200k")
        .set("--preset", "ultrafast")
        .set("--reconnect-window", "10")
}

fn publish(url: &str) -> Program {
    publisher::ffmpeg_looped(&fixtures::clip("small-gop1s"), url)
}

/// Waits until every rung that a multivariant playlist names lists a segment, and returns the playlists' addresses.
#[track_caller]
fn playlists(url: &str) -> Vec<String> {
    let client = Client::default();
    eventually(&format!("{url} with segments"), Duration::from_secs(30), || {
        let text = client.get(url).ok().filter(|answer| answer.status == 200)?.text().ok()?;
        let all: Vec<_> =
            playlist::multivariant(&text).ok()?.playlists().iter().map(|rung| join(url, rung)).collect();
        let listed = all.iter().all(|url| {
            let media = client.get(url).ok().and_then(|answer| answer.text().ok());
            media.and_then(|text| playlist::media(&text).ok()).is_some_and(|media| !media.segments.is_empty())
        });
        (listed && !all.is_empty()).then_some(all)
    })
}

/// Platforms repeat SIGTERM. An edge serves on for five seconds all the same, while balancers still send it viewers.
#[test]
fn told_to_leave_again_it_still_waits_for_balancers() {
    let mut edge = Edge::start(&["--encoders", "127.0.0.1:9"]);
    let asked = Instant::now();
    edge.signal(Signal::TERM);
    eventually("readiness to fall", Duration::from_secs(5), || {
        let ready = Client::default().get(&format!("http://127.0.0.1:{}/readyz", edge.admin)).ok()?;
        (ready.status == 503).then_some(())
    });
    edge.signal(Signal::TERM);
    edge.wait(Duration::from_secs(15));
    assert!(asked.elapsed() >= Duration::from_secs(5), "left after {:?}:\n{}", asked.elapsed(), edge.log());
}

#[test]
fn every_stream_is_found_and_asked_for_once() {
    let fleet = Fleet::new();
    let names = ["one", "two", "three", "four"];
    let encoders: Vec<_> = names.iter().map(|_| Encoder::start(fleet.open_options())).collect();
    let edges = [fleet.edge(), fleet.edge()];
    let front = Balancer::of_edges(&[&edges[0], &edges[1]]);
    let publishers: Vec<_> =
        encoders.iter().zip(names).map(|(encoder, name)| publish(&encoder.rtmp_url(name))).collect();
    for name in names {
        playlists(&front.url(&format!("live/{name}/index.m3u8")));
        for edge in &edges {
            playlists(&edge.playlist_url(name));
        }
    }
    // A hundred viewers hold the same reload: the encoder holds one.
    let url = playlists(&edges[0].playlist_url(names[0])).remove(0);
    let held = |query: &str| {
        let url = format!("{url}{query}");
        std::thread::spawn(move || Client::default().get(&url).unwrap())
    };
    let asked = || edges[0].metric("encoder_edge_upstream_requests_total", &["playlist"]);
    for _ in 0..3 {
        let text = Client::default().get(&url).unwrap().text().unwrap();
        let (msn, part) = playlist::media(&text).unwrap().edge();
        let before = asked();
        let viewers: Vec<_> =
            (0..100).map(|_| held(&format!("?_HLS_msn={}&_HLS_part={part}", msn + 1))).collect();
        for viewer in viewers {
            let answer = viewer.join().unwrap();
            assert_eq!(answer.status, 200);
            assert!(playlist::media(&answer.text().unwrap()).unwrap().edge() > (msn, part));
        }
        // Four streams' playlists are followed, with two parts a second.
        let most = 12.0 * 2.0 * 3.0;
        assert!(asked() - before < most, "{} requests for a hundred viewers", asked() - before);
    }
    let record = std::fs::read_to_string(fleet.directory.path().join("live/one/owner.json")).unwrap();
    assert!(record.contains("\"at\":") && !record.contains("127.0.0.1"), "{record}");
    for publisher in publishers {
        drop(publisher);
    }
    for edge in edges {
        edge.stop();
    }
}

/// hls.js plays a stream for so many seconds, in a thread.
fn viewer(source: &str, seconds: f64) -> std::thread::JoinHandle<Played> {
    let source = source.to_owned();
    std::thread::spawn(move || {
        let js = workspace().join("tests/js");
        let pages = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
        let page = pages.url(&format!("player.html?src={source}"));
        browser::play(&Play { page, seconds, switches: Vec::new(), patience: 30.0 }).unwrap()
    })
}

#[test]
fn a_viewer_goes_on_while_the_stream_moves_and_an_edge_dies() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.encoder(), fleet.encoder());
    a.allow(GIVEN_UP);
    [&a, &b].into_iter().for_each(|encoder| encoder.allow(INTERRUPTED));
    let (one, two) = (fleet.edge(), fleet.edge());
    let front = Balancer::of_edges(&[&one, &two]);
    let mut first = publish(&a.rtmp_url(KEY));
    playlists(&front.url(&format!("live/{STREAM}/index.m3u8")));
    let viewer = viewer(&front.url(&format!("live/{STREAM}/index.m3u8")), 40.0);

    // The publisher loses its connection, and returns to another encoder.
    pause(Duration::from_secs(10));
    first.signal(Signal::KILL);
    first.wait(Duration::from_secs(5));
    let cut = Instant::now();
    let second = publish(&b.rtmp_url(KEY));
    let moves = |edge: &Edge| edge.metric("encoder_edge_moves_total", &[]);
    eventually("the edges to follow", Duration::from_secs(20), || {
        (moves(&one) + moves(&two) > 0.0).then_some(())
    });
    eprintln!("followed {:.1} s after the cut", cut.elapsed().as_secs_f64());
    pause(Duration::from_secs(8));
    one.kill();
    let played = viewer.join().unwrap();
    eprintln!("{played:?}");
    drop(second);
    assert!(played.errors.iter().all(|(_, fatal)| !fatal), "{played:?}");
    assert!(played.console.iter().all(|line| line.contains("net::")), "{played:?}");
    two.stop();
}

#[test]
fn a_viewer_goes_on_when_an_encoder_dies() {
    let fleet = Fleet::new();
    let (mut a, b) = (fleet.encoder(), fleet.encoder());
    b.allow(INTERRUPTED);
    let edge = fleet.edge();
    let first = publish(&a.rtmp_url(KEY));
    let source = edge.playlist_url(STREAM);
    playlists(&source);
    let viewer = viewer(&source, 30.0);
    pause(Duration::from_secs(8));
    a.signal(Signal::KILL);
    a.wait(Duration::from_secs(5));
    let second = publish(&b.rtmp_url(KEY));
    eventually("the edge to follow", Duration::from_secs(20), || {
        (edge.metric("encoder_edge_moves_total", &[]) > 0.0).then_some(())
    });
    let played = viewer.join().unwrap();
    eprintln!("stood still for {:.1} s, {:?}", played.longest_freeze, played.errors);
    // What it is about: no number that the viewer has seen names another segment afterwards.
    assert!(played.errors.iter().all(|(what, fatal)| !fatal && !what.contains("mismatch")), "{played:?}");
    assert!(played.longest_freeze < 10.0 && played.advanced > 20.0, "{played:?}");
    drop((first, second));
    edge.stop();
}

#[test]
fn live_goes_on_without_the_store() {
    const BUCKET: &str = "live";
    let _turn = turn::Turn::take();
    let (fake, secret) = (FakeGcs::start(BUCKET), secret_file());
    let (place, endpoint) = (format!("gs://{BUCKET}/tv"), fake.endpoint());
    let secret = secret.path().to_str().unwrap();
    let encoder = Encoder::start(
        alone()
            .set("--output", &place)
            .set("--gcs-endpoint", &endpoint)
            .set("--edge-secret", secret)
            .set("--advertise", "127.0.0.1")
            .expecting(&["encoder_store_writes_total"])
            .allowing(STORE_FAILS),
    );
    let edge = Edge::start(&["--output", &place, "--gcs-endpoint", &endpoint, "--edge-secret", secret]);
    let publisher = publish(&encoder.rtmp_url(STREAM));
    let url = playlists(&edge.playlist_url(STREAM)).remove(0);
    let client = Client::default();
    let listed = || playlist::media(&client.get(&url).unwrap().text().unwrap()).unwrap().edge();
    fake.set_rule(|_| Fault::Status(503));
    let (before, _) = listed();
    eventually("more segments", Duration::from_secs(20), || (listed().0 > before + 5).then_some(()));
    assert_eq!(client.get(&edge.playlist_url(STREAM)).unwrap().status, 200, "new viewers come in");
    let unknown = client.get(&edge.playlist_url("another")).unwrap();
    assert_eq!((unknown.status, unknown.header("retry-after")), (503, Some("1")));
    fake.set_rule(|_| Fault::None);
    drop(publisher);
    edge.stop();
}

/// The records in the store seal the encoders' addresses: an edge with another secret shows what the store has.
#[test]
fn with_another_secret_viewers_get_the_stream_from_the_store() {
    let fleet = Fleet::new();
    let encoder = fleet.encoder();
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "not the secret of this fleet\n").unwrap();
    let directory = fleet.directory.path().to_str().unwrap();
    let edge = Edge::start(&["--output", directory, "--edge-secret", other.path().to_str().unwrap()]);
    let publisher = publish(&encoder.rtmp_url(KEY));
    playlists(&edge.playlist_url(STREAM));
    assert!(edge.metric("encoder_edge_lookups_total", &["result=\"store\""]) > 0.0);
    assert_eq!(edge.metric("encoder_edge_upstream_requests_total", &["result=\"found\""]), 0.0);
    drop(publisher);
    let log = edge.stop();
    assert!(log.contains("the address of the stream's encoder cannot be opened"), "{log}");
}

#[test]
fn names_that_never_were_cost_little() {
    let fleet = Fleet::new();
    let edge = fleet.edge();
    let asked = Instant::now();
    let answer = edge.get("live/never/index.m3u8");
    assert_eq!((answer.status, answer.header("cache-control")), (404, Some("public, max-age=1")));
    assert!(asked.elapsed() < Duration::from_millis(50), "{:?}", asked.elapsed());
    let client = Client::default();
    let mut told = [0; 2];
    for number in 0..5000 {
        match client.get(&edge.url(&format!("live/never{number}/index.m3u8"))).unwrap().status {
            404 => told[0] += 1,
            503 => told[1] += 1,
            other => panic!("{other}"),
        }
    }
    let looked = edge.metric("encoder_edge_lookups_total", &["none"]);
    eprintln!("{told:?}, {looked} looked up in {:.1} s", asked.elapsed().as_secs_f64());
    assert!(looked <= 32.0 + 4.0 * asked.elapsed().as_secs_f64() + 1.0, "{looked}");
    for path in ["live/../secret", "live/never/owner.json", "live/never/archive/x/sealed.json", "x"] {
        assert_eq!(edge.get(path).status, 404, "{path}");
    }
    edge.stop();
}

/// The page takes the server's clock from the Date of `/` (`readClock` in `web/src/player.js`).
#[test]
fn the_servers_clock_can_be_read_through_a_cache() {
    let fleet = Fleet::new();
    let edge = fleet.edge();
    let cache = Varnish::start(edge.address(), Freshness::Server);
    let client = Client::default();
    for _ in 0..15 {
        let asked = Utc::now();
        let answer = client.get(&cache.url("")).unwrap();
        let date = DateTime::parse_from_rfc2822(answer.header("date").unwrap()).unwrap();
        assert!(date.timestamp() >= asked.timestamp(), "asked at {asked}, answered at {date}");
        pause(Duration::from_millis(100));
    }
    edge.stop();
}

#[test]
fn an_encoder_for_edges_answers_nobody_else() {
    let fleet = Fleet::new();
    let encoder = Encoder::start(fleet.options().set("--origin-for", "edges"));
    let edge = fleet.edge();
    let publisher = publish(&encoder.rtmp_url(KEY));
    playlists(&edge.playlist_url(STREAM));
    for path in ["", "streams.json", &format!("live/{STREAM}/index.m3u8")] {
        assert_eq!(encoder.client.get(&encoder.url(path)).unwrap().status, 403, "{path}");
    }
    drop(publisher);
    edge.stop();
}

#[test]
fn without_a_store_in_common_encoders_are_asked() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(alone());
    let edge = Edge::start(&["--encoders", &format!("127.0.0.1:{}", encoder.ports.http)]);
    let publisher = publish(&encoder.rtmp_url(STREAM));
    playlists(&edge.playlist_url(STREAM));
    let listing: serde_json::Value = serde_json::from_str(&edge.get("streams.json").text().unwrap()).unwrap();
    assert_eq!(listing["streams"][0]["name"], STREAM, "{listing}");
    assert_eq!(edge.get("live/never/index.m3u8").status, 404);
    drop(publisher);
    edge.stop();
}

#[test]
fn the_address_that_was_live_plays_the_recording() {
    let fleet = Fleet::new();
    let encoder = fleet.encoder();
    let edge = fleet.edge();
    let url = edge.playlist_url(STREAM);
    let mut publisher = publish(&encoder.rtmp_url(KEY));
    let lists = playlists(&url);
    let client = Client::default();
    eventually("some seconds", Duration::from_secs(30), || {
        let media = playlist::media(&client.get(&lists[0]).unwrap().text().unwrap()).unwrap();
        (media.segments.len() > 8).then_some(())
    });
    // While the stream is live, everything so far is at another address.
    eventually("an archive", Duration::from_secs(30), || {
        let answer = client.get(&format!("{url}?from=START")).unwrap();
        (answer.status == 200 && answer.text().unwrap().contains("archive/")).then_some(())
    });
    publisher.stop(Duration::from_secs(5));
    let whole = Archived::complete(fleet.directory.path());
    encoder.stop();
    eventually("the recording at the same address", Duration::from_secs(20), || {
        let answer = client.get(&url).unwrap();
        assert_eq!(answer.status, 200);
        answer.text().unwrap().contains("archive/").then_some(())
    });
    for list in playlists(&url) {
        let text = client.get(&list).unwrap().text().unwrap();
        assert!(text.contains("#EXT-X-ENDLIST") && text.contains("#EXT-X-PLAYLIST-TYPE:VOD"), "{text}");
    }
    let seconds = judged_by_ffprobe(&url);
    assert!(seconds > 8.0, "{seconds}");
    played_by_gstreamer(&url);
    watched(&url, seconds);
    recording(&edge, &whole);
    edge.stop();
}

/// The two programs of docs/integration.md that make a pass, as they stand in the page, make one to [`STREAM`].
fn passes(folder: &std::path::Path) -> [String; 2] {
    let page = std::fs::read_to_string(workspace().join("docs/integration.md")).unwrap();
    [("sh", "sh"), ("py", "python3")].map(|(language, interpreter)| {
        let (_, block) = page.split_once(&format!("```{language}\n")).unwrap();
        let (code, _) = block.split_once("```").unwrap();
        let code = code.replace("live/demo", &format!("live/{STREAM}"));
        let output = Command::new(interpreter).args(["-c", &code]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

#[test]
fn with_a_secret_only_viewers_with_a_pass_watch() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(alone().with_keys());
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("viewer.secret");
    std::fs::write(&secret, "the secret that signs passes\n").unwrap();
    let encoders = format!("127.0.0.1:{}", encoder.ports.http);
    let edge = Edge::start(&["--encoders", &encoders, "--viewer-secret", secret.to_str().unwrap()]);
    let publisher = publish(&encoder.rtmp_url(KEY));
    let passes = passes(folder.path());
    for pass in &passes {
        let url = edge.url(&format!("pass/{pass}/live/{STREAM}/index.m3u8"));
        assert!(playlists(&url).iter().all(|list| list.contains(pass)), "playlists keep the pass");
        assert_eq!(decoded_by_ffmpeg(&url), "");
        let other = edge.get(&format!("pass/{pass}/live/other/index.m3u8"));
        assert_eq!((other.status, other.header("cache-control")), (403, Some("no-store")));
    }
    let problem = decoded_by_ffmpeg(&edge.playlist_url(STREAM));
    assert!(problem.contains("403"), "{problem}");
    assert_eq!((edge.get("streams.json").status, edge.get("").status), (403, 200));
    let counted = |result| edge.metric("encoder_viewer_passes_total", &[result]);
    assert!(counted("yes") > 8.0 && counted("no") >= 4.0, "{} {}", counted("yes"), counted("no"));
    eventually("the viewers to be counted", Duration::from_secs(5), || {
        let status: serde_json::Value = serde_json::from_slice(&edge.admin("status").body).unwrap();
        (status["streams"][0]["stream"] == format!("live/{STREAM}")
            && status["streams"][0]["viewers"].as_u64() > Some(0))
        .then_some(())
    });
    let told = edge.admin("status").text().unwrap() + &edge.admin("metrics").text().unwrap();
    drop(publisher);
    let log = edge.stop();
    for pass in &passes {
        assert!(!log.contains(pass) && !told.contains(pass), "a pass is in the log or the metrics");
    }
}

/// Plays two seconds, and returns what is wrong.
fn decoded_by_ffmpeg(url: &str) -> String {
    let mut ffmpeg = Command::new("ffmpeg");
    let ffmpeg = ffmpeg.args(["-v", "error", "-nostdin", "-i", url, "-t", "2", "-f", "null", "-"]);
    String::from_utf8(ffmpeg.output().unwrap().stderr).unwrap()
}

fn judged_by_ffprobe(url: &str) -> f64 {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", url])
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn played_by_gstreamer(url: &str) {
    let mut gst = Command::new("gst-launch-1.0");
    gst.args(["-q", "playbin3", &format!("uri={url}"), "video-sink=fakesink", "audio-sink=fakesink"]);
    Program::spawn("gst-launch", &mut gst).succeed(Duration::from_secs(60));
}

/// hls.js plays the recording to its end.
fn watched(url: &str, seconds: f64) {
    let js = workspace().join("tests/js");
    let pages = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let page = pages.url(&format!("player.html?src={url}"));
    let played = browser::play(&Play {
        page,
        seconds: (seconds - 3.0).min(10.0),
        switches: Vec::new(),
        patience: 30.0,
    });
    let played = played.unwrap();
    assert!(played.errors.is_empty() && played.console.is_empty(), "{played:?}");
    assert!(played.longest_freeze < 0.5, "{played:?}");
}

/// The MP4 comes as a whole and in ranges.
fn recording(edge: &Edge, whole: &Archived) {
    let path = whole.recording();
    let file = std::fs::read(&path).unwrap();
    // live/test/archive/SESSION/recording.mp4
    let names: Vec<_> = path.iter().collect();
    let relative: std::path::PathBuf = names[names.len() - 5..].iter().collect();
    let url = edge.url(relative.to_str().unwrap());
    let curl = |args: &[&str]| {
        let output = Command::new("curl").args(["-sS"]).args(args).arg(&url).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(curl(&[]) == file, "the whole file");
    assert!(curl(&["-r", "1000-1500999"]) == file[1000..1_501_000.min(file.len())], "a range");
    assert!(curl(&["-r", "-100"]) == file[file.len() - 100..], "the end");
    let head = String::from_utf8(curl(&["-I"])).unwrap().to_lowercase();
    assert!(head.contains(&format!("content-length: {}", file.len())), "{head}");
}
