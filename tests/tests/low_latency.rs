//! The contract of low-latency HLS (rfc8216bis 6.2.5 and appendix B.1) against the running origin, an edge in front of
//! it, and a cache in front of that; and every setting of the latency knob, judged by hls-parser and the cross-reload
//! checker.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use bytes::Bytes;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tests::checker::Settings;
use tests::checker::watch::{Watch, report};
use tests::edge_process::Edge;
use tests::encoder_process::{Encoder, Options, STREAM, wait_until_listed, workspace};
use tests::http::{Client, Response, join};
use tests::patience::eventually;
use tests::playlist::{self, Media, Part};
use tests::static_server::StaticServer;
use tests::varnish::{Freshness, Varnish};
use tests::{browser, fixtures, publisher, turn};

/// Who answers a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// The encoder.
    Origin,
    /// An edge in front of the encoder.
    Edge,
    /// Varnish in front of that edge. The edge allows a cache to answer a request without directives with a version that
    /// is up to a second old.
    Cache,
}

/// One rendition of a stream at one server.
struct Rendition {
    server: Server,
    client: Client,
    url: String,
}

impl Rendition {
    /// A rendition below the multivariant playlist at `top`.
    fn at(server: Server, top: &str, name: &str) -> Self {
        Self { server, client: Client::default(), url: join(top, &format!("{name}/index.m3u8")) }
    }

    fn get(&self, query: &str) -> Response {
        self.client.get(&format!("{}{query}", self.url)).unwrap()
    }

    fn list(&self, query: &str) -> Media {
        let response = self.get(query);
        assert_eq!(response.status, 200, "{:?}: {query}", self.server);
        playlist::media(&response.text().unwrap()).unwrap()
    }

    /// The newest version. A cache is asked for the segment after the next one, and holds that request.
    fn newest(&self) -> Media {
        let list = self.list("");
        match self.server {
            Server::Origin | Server::Edge => list,
            Server::Cache => self.list(&format!("?_HLS_msn={}", list.edge().0 + 1)),
        }
    }

    /// The version with the part that `list` hints at, once that part has been read. Only the origin itself has both at
    /// the same moment: they come to an edge in two answers.
    fn with_hinted(&self, list: &Media) -> Media {
        let (msn, part) = list.edge();
        match self.server {
            Server::Origin => self.list(""),
            Server::Edge | Server::Cache => self.list(&format!("?_HLS_msn={msn}&_HLS_part={part}")),
        }
    }

    fn object(&self, uri: &str) -> Response {
        self.client.get(&join(&self.url, uri)).unwrap()
    }

    fn body(&self, uri: &str) -> Bytes {
        let response = self.object(uri);
        assert_eq!(response.status, 200, "{:?}: {uri}", self.server);
        response.body
    }
}

fn named(list: &Media, msn: u64) -> Vec<&Part> {
    list.parts.iter().filter(|p| p.msn == msn).collect()
}

/// One stream at three servers, each judged by the whole contract.
#[test]
fn the_servers_contract() {
    let _turn = turn::Turn::take();
    let clip = fixtures::clip("footage-720p30-gop2s");
    let options = Options::default()
        .set("--latency", "3")
        .set("--ladder", "360p@600k,240p@300k")
        .set("--reconnect-window", "30");
    let encoder = Encoder::start(options);
    let edge = Edge::start(&["--encoders", &format!("127.0.0.1:{}", encoder.ports.http)]);
    let cache = Varnish::start(edge.address(), Freshness::Server);
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let served = [
        (Server::Origin, encoder.playlist_url(STREAM)),
        (Server::Edge, edge.playlist_url(STREAM)),
        (Server::Cache, cache.url(&format!("live/{STREAM}/index.m3u8"))),
    ];
    let served = served.map(|(server, top)| {
        wait_until_listed(&top);
        [Rendition::at(server, &top, "360p"), Rendition::at(server, &top, "audio")]
    });
    at_each(&served, |video, audio| {
        blocking_reload(video);
        hinted_parts(video, audio);
        assert_eq!(video.list("").server_control, audio.list("").server_control);
    });
    // Killed: a publisher that says goodbye ends the stream, and its playlists.
    publisher.signal(Signal::KILL);
    publisher.wait(Duration::from_secs(5));
    at_each(&served, |video, _| publisher_gone(video));
    edge.stop();
    encoder.stop();
}

/// Judges all servers at the same time, each on a thread with the server's name.
fn at_each(served: &[[Rendition; 2]], judge: impl Fn(&Rendition, &Rendition) + Sync) {
    std::thread::scope(|scope| {
        for [video, audio] in served {
            let thread = std::thread::Builder::new().name(format!("{:?}", video.server));
            thread.spawn_scoped(scope, || judge(video, audio)).unwrap();
        }
    });
}

/// Each version is answered when it is there; requests that make no sense are refused.
fn blocking_reload(video: &Rendition) {
    // Blocking reload: each response has the requested part, and requesting one part after the other misses none.
    let (mut msn, mut part) = video.newest().edge();
    let mut held = Duration::ZERO;
    for _ in 0..8 {
        let response = video.get(&format!("?_HLS_msn={msn}&_HLS_part={part}"));
        held += response.took;
        let list = playlist::media(&response.text().unwrap()).unwrap();
        let (next, parts) = list.edge();
        assert!((next, parts) > (msn, part), "asked for {msn}.{part}, ends at {next}.{parts}");
        assert!(
            (next, parts) <= (msn + 1, 1) || next == msn,
            "held too long: {msn}.{part} became {next}.{parts}"
        );
        (msn, part) = (next, parts);
    }
    assert!(held > Duration::from_secs(2), "eight parts of half a second came in {held:?}");
    let whole = video.list(&format!("?_HLS_msn={msn}"));
    assert!(whole.edge().0 > msn);

    // A part number beyond the last of its segment selects the first part of the next segment.
    let (next, _) = whole.edge();
    let list = video.list(&format!("?_HLS_msn={}&_HLS_part=9", next - 1));
    assert!(list.edge() >= (next, 1), "{:?}", list.edge());

    // Requests for segments and parts removed long ago succeed; invalid requests fail.
    assert_eq!(video.get("?_HLS_msn=1").status, 200);
    assert_eq!(video.get("?_HLS_msn=1&_HLS_part=7").status, 200);
    assert_eq!(video.get("?_HLS_unknown=1").status, 200);
    for query in [
        "?_HLS_part=0".to_owned(),
        format!("?_HLS_msn={}", next + 50),
        format!("?_HLS_msn={next}&_HLS_part=99"),
    ] {
        assert_eq!(video.get(&query).status, 400, "{query}");
    }
}

/// A request for the hinted part is held; segments are their parts.
fn hinted_parts(video: &Rendition, audio: &Rendition) {
    // A request for the hinted part is held until the part is complete; a part that is not hinted is not held.
    for rendition in [video, audio] {
        let list = rendition.newest();
        let hint = list.hint.clone().unwrap();
        let body = rendition.body(&hint);
        let (msn, _) = list.edge();
        let list = rendition.with_hinted(&list);
        assert!(list.parts.iter().any(|p| p.uri == hint), "{hint} is whole, and listed: {:?}", list.parts);
        let whole = rendition.list(&format!("?_HLS_msn={msn}"));
        let segment = whole.segments.iter().find(|s| s.msn == msn).unwrap();
        let parts = named(&whole, msn);
        assert!(parts[0].independent && parts.len() == 2, "{parts:?}");
        let joined: Vec<u8> = parts.iter().flat_map(|part| rendition.body(&part.uri)).collect();
        assert_eq!(rendition.body(&segment.uri), joined, "a segment is its parts");
        assert!(joined.windows(body.len()).any(|window| window == body));
        assert_eq!(rendition.object(&format!("{hint}.m4s")).status, 404);
        assert_eq!(rendition.object(&hint.replace(".m4s", "9.m4s")).status, 404);
        for part in parts {
            let answer = rendition.object(&part.uri);
            assert!(answer.header("cache-control").unwrap().contains("immutable"), "{:?}", answer.headers);
        }
    }
}

/// The publisher has stopped: blocking reloads get 503 after three target durations, and a request for the hinted part
/// gets 404.
fn publisher_gone(video: &Rendition) {
    let (msn, part) = eventually("the last part", Duration::from_secs(20), || {
        let response = video.get("");
        let list = playlist::media(&response.text().unwrap()).unwrap();
        let (msn, part) = list.edge();
        (video.get(&format!("?_HLS_msn={msn}&_HLS_part={part}")).status == 503).then_some((msn, part))
    });
    let asked = Instant::now();
    assert_eq!(video.get(&format!("?_HLS_msn={msn}&_HLS_part={part}")).status, 503);
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
    let hint = video.list("").hint.unwrap();
    assert_eq!(video.object(&hint).status, 404);
}

/// Settings whose streams are watched through an edge too: one with parts and one without.
const THROUGH_AN_EDGE: [&str; 2] = ["3", "6"];

/// Six concurrent encoders, each with another latency. The published video is passed through where it fits.
#[test]
fn every_knob_keeps_the_rules() {
    let _turn = turn::Turn::take();
    let clip = fixtures::clip("small-gop1s");
    let mut running = Vec::new();
    for knob in ["2", "3", "4", "6", "10", "15"] {
        let options = Options::default()
            .set("--latency", knob)
            .set("--ladder", "source,180p@200k")
            .set("--preset", "ultrafast");
        let encoder = Encoder::start(options);
        let publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
        running.push((knob, encoder, publisher));
    }
    let mut wrong = Vec::new();
    let mut edges = Vec::new();
    let mut watched = Vec::new();
    let watch = |url: &str| Watch::start(url, Settings::default());
    for (knob, encoder, _) in &running {
        let url = encoder.wait_for_stream(STREAM);
        watched.push((format!("knob {knob}"), *knob, watch(&url), url));
        if THROUGH_AN_EDGE.contains(knob) {
            let edge = Edge::start(&["--encoders", &format!("127.0.0.1:{}", encoder.ports.http)]);
            let url = edge.playlist_url(STREAM);
            wait_until_listed(&url);
            watched.push((format!("knob {knob} through an edge"), *knob, watch(&url), url));
            edges.push(edge);
        }
    }
    for (place, knob, watch, url) in watched {
        wrong.extend(broken_rules(&place, knob.parse().unwrap(), watch, &url));
    }
    for edge in edges {
        edge.stop();
    }
    for (_, encoder, mut publisher) in running {
        publisher.stop(Duration::from_secs(5));
        encoder.stop();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What hls-parser and the checker have against a stream's playlists, once they have seen enough of it.
fn broken_rules(place: &str, knob: u32, watch: Watch, url: &str) -> Vec<String> {
    let segments = if knob < 10 { 12 } else { 4 };
    eventually("enough segments", Duration::from_secs(60), || {
        (watch.checker().listed("source/index.m3u8").len() >= segments).then_some(())
    });
    let client = Client::default();
    let fetch = |url: &str| client.get(url).and_then(|r| r.text()).unwrap();
    let mut lists = Vec::new();
    for uri in playlist::multivariant(&fetch(url)).unwrap().playlists() {
        lists.push((format!("{place} {uri}"), fetch(&join(url, &uri))));
    }
    assert_eq!(lists.len(), 3, "{place}: source, 180p and audio");
    let divided = lists.iter().all(|(_, text)| text.contains("#EXT-X-PART:"));
    assert_eq!(divided, knob < 6, "{place}");
    let mut wrong = browser::strict(&lists).unwrap();
    let checker = watch.finish();
    if !checker.violations().is_empty() {
        wrong.push(format!("{place}:\n{}", report(checker.violations())));
    }
    wrong
}

/// A second player, with its own reading of the same playlists.
#[test]
fn shaka_player_plays_parts() {
    let _turn = turn::Turn::take();
    let clip = fixtures::clip("footage-720p30-gop1s");
    // At a latency of 3 s shaka-player stalls now and then: it waits the length of a part between reloads
    // (`HlsParser.getUpdatePlaylistDelay_`) and then checks up to a second later whether there is something to fetch
    // (`streaming.updateIntervalSeconds`).
    let options = Options::default().set("--latency", "4").set("--ladder", "360p@600k,240p@300k");
    let encoder = Encoder::start(options);
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let playlist = encoder.wait_for_stream(STREAM);
    // shaka-player 5.2.12 gives up on a playlist with one segment, and stalls if the playlist is initially shorter than
    // the player's distance to live.
    let rendition = Rendition::at(Server::Origin, &playlist, "240p");
    eventually("some segments", Duration::from_secs(20), || {
        (rendition.list("").segments.len() > 5).then_some(())
    });
    let js = workspace().join("tests/js");
    let page = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let played = browser::play_with_shaka(&page.url(&format!("shaka.html?src={playlist}")), 15.0).unwrap();
    assert!(played.errors.is_empty() && played.console.is_empty(), "{played:?}");
    // shaka-player reports a wait whenever the next part is not there yet; the test checks whether the picture stood
    // still.
    assert!(played.advanced / played.watched > 0.95 && played.stalls < 5, "{played:?}");
    let held = played.requests.iter().filter(|url| url.contains("_HLS_part=")).count();
    assert!(held > 10, "shaka-player asks for parts: {played:?}");
    publisher.stop(Duration::from_secs(5));
    encoder.stop();
}
