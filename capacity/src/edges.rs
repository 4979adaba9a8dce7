//! The arithmetic of viewers: how many an edge carries, how many edges they need, what encoders send to edges, and
//! what the store and the network cost. Nothing is simulated here.
//!
//! The constants are the only place for figures that were measured or read: docs/scale.md shows them as tables.

use crate::table::{markdown, whole};

// === one edge: measured by `make bench-edge` on two cores, except where a comment says otherwise ===

/// Answers a second of one core: compressed playlists to 10,000 viewers over HTTP/1.1, a connection each.
const EDGE_REQUESTS_PER_CORE: f64 = 26_000.0;
/// Gbit/s that one core sends with TLS, without the cost of the requests: a careful guess.
const EDGE_GBIT_PER_CORE: f64 = 3.0;
/// Memory of a connection with its held requests, KiB.
const EDGE_KIB_PER_CONNECTION: f64 = 48.0;
/// Memory of an edge without connections and cache, MiB.
const EDGE_MIB: f64 = 24.0;
/// A compressed playlist with its answer's head, KiB.
const PLAYLIST_KIB: f64 = 0.6;

// === one edge: chosen ===

/// Cores of an edge, and of its node.
const EDGE_CORES: f64 = 8.0;
/// Planned use of processors and network.
const EDGE_LOAD: f64 = 0.7;
/// `--connections`.
const EDGE_CONNECTIONS: f64 = 20_000.0;
/// Gbit/s that a node with eight cores sends to the internet.
const NODE_GBIT: f64 = 7.0;
/// Memory of a node, GiB.
const NODE_GIB: f64 = 32.0;
/// Media that edges keep of each stream, seconds: what viewers near the live edge ask for.
const KEPT_SECONDS: f64 = 12.0;

// === media: the default ladder for 1080p30 ===

/// Mbit/s of each rung, and the share of viewers that watch the rung.
const RUNGS: [(&str, f64, f64); 4] =
    [("1080p", 5.6, 0.35), ("720p", 2.8, 0.35), ("480p", 1.4, 0.2), ("360p", 0.85, 0.1)];
/// Mbit/s of the audio rendition, which every viewer gets.
const AUDIO_MBIT: f64 = 0.128;
/// Parts a second of a rendition at `--latency 4`.
const PARTS_PER_SECOND: f64 = 2.0;
/// Writes an hour of a stream to its bucket, archive included (README.md, "Beside FFmpeg"): latency, writes.
const WRITES_PER_HOUR: [(u32, f64); 2] = [(4, 31_000.0), (10, 17_500.0)];

// === prices: US dollars ===

/// A thousand writes to a bucket.
const PRICE_CLASS_A: f64 = 0.005;
/// A thousand reads from a bucket.
const PRICE_CLASS_B: f64 = 0.0004;
/// A GiB to the internet, beyond the first 10 TiB of a month.
const PRICE_INTERNET: f64 = 0.08;
/// A GiB from Cloud CDN, beyond the first 1,000 TiB of a month.
const PRICE_CDN: f64 = 0.02;
/// A thousand requests to Cloud CDN.
const PRICE_CDN_LOOKUP: f64 = 0.00075;
/// An hour of a node with 8 cores and 32 GiB.
const PRICE_NODE: f64 = 0.39;
/// Encoders on two such nodes, as one node with 16 cores.
const ENCODERS_ON_TWO_NODES: f64 = 3.0;

/// Writes a second that a bucket takes to begin with.
const BUCKET_WRITES: f64 = 1_000.0;
/// Minutes in which a bucket's writes a second may double.
const BUCKET_DOUBLES_MINUTES: f64 = 20.0;
/// Endpoints in a slice.
const SLICE_ENDPOINTS: f64 = 100.0;
/// Services that select the encoders: `rtmp`, `encoders`.
const SERVICES: f64 = 2.0;
/// Mean length of a stream, as in the simulation, in seconds.
const STREAM_SECONDS: f64 = 1_800.0;

const STREAMS: [f64; 3] = [100.0, 1_000.0, 10_000.0];
/// Streams that share a million viewers.
const SHARED_BY: [f64; 4] = [1.0, 100.0, 1_000.0, 10_000.0];
const VIEWERS: [f64; 3] = [10_000.0, 100_000.0, 1_000_000.0];

/// What one viewer asks of an edge.
#[derive(Clone, Copy)]
struct Viewer {
    name: &'static str,
    requests_per_second: f64,
    mbit: f64,
    connections: f64,
    held: f64,
}

/// Video and audio are renditions of their own, each with a playlist.
const RENDITIONS: f64 = 2.0;

/// Mbit/s of all renditions.
fn ladder_mbit() -> f64 {
    RUNGS.iter().map(|(_, mbit, _)| mbit).sum::<f64>() + AUDIO_MBIT
}

/// Mbit/s of media of a viewer, on average over the rungs.
fn media_mbit() -> f64 {
    RUNGS.iter().map(|(_, mbit, share)| mbit * share).sum::<f64>() + AUDIO_MBIT
}

fn playlist_mbit(reloads_per_second: f64) -> f64 {
    reloads_per_second * PLAYLIST_KIB * 1024.0 * 8.0 / 1e6
}

/// A player of parts over HTTP/2: for each part and rendition a held reload and the part itself.
fn of_parts() -> Viewer {
    let reloads = PARTS_PER_SECOND * RENDITIONS;
    let mbit = media_mbit() + playlist_mbit(reloads);
    let requests_per_second = 2.0 * reloads;
    Viewer { name: "parts, `--latency 4`", requests_per_second, mbit, connections: 1.0, held: RENDITIONS }
}

/// A player of whole segments.
fn of_segments(name: &'static str, segment_seconds: f64) -> Viewer {
    let reloads = RENDITIONS / segment_seconds;
    let mbit = media_mbit() + playlist_mbit(reloads);
    Viewer { name, requests_per_second: 2.0 * reloads, mbit, connections: 1.0, held: 0.0 }
}

/// A player of parts behind a CDN that keeps media and passes every reload on.
fn of_reloads() -> Viewer {
    let reloads = PARTS_PER_SECOND * RENDITIONS;
    Viewer {
        name: "parts, media from a CDN",
        requests_per_second: reloads,
        mbit: playlist_mbit(reloads),
        // A CDN keeps few connections, with many requests each.
        connections: 0.0,
        held: RENDITIONS,
    }
}

fn viewers() -> [Viewer; 4] {
    [
        of_parts(),
        of_segments("segments of 1 s, `--latency 4`", 1.0),
        of_segments("segments of 2 s, `--latency 10`", 2.0),
        of_reloads(),
    ]
}

/// Viewers that an edge carries, by what limits their number.
struct Carried {
    connections: f64,
    held: f64,
    processors: f64,
    network: f64,
    memory: f64,
}

impl Carried {
    fn of(viewer: &Viewer) -> Self {
        let cores =
            viewer.requests_per_second / EDGE_REQUESTS_PER_CORE + viewer.mbit / 1e3 / EDGE_GBIT_PER_CORE;
        let kib = (NODE_GIB * EDGE_LOAD * 1024.0 - EDGE_MIB) * 1024.0;
        Self {
            connections: EDGE_CONNECTIONS / viewer.connections,
            held: 2.0 * EDGE_CONNECTIONS / viewer.held,
            processors: EDGE_CORES * EDGE_LOAD / cores,
            network: NODE_GBIT * EDGE_LOAD * 1e3 / viewer.mbit,
            memory: kib / (EDGE_KIB_PER_CONNECTION * viewer.connections),
        }
    }

    fn least(&self) -> f64 {
        [self.connections, self.held, self.processors, self.network, self.memory]
            .into_iter()
            .fold(f64::INFINITY, f64::min)
            .floor()
    }
}

fn edges_for(viewers: f64, viewer: &Viewer) -> f64 {
    (viewers / Carried::of(viewer).least()).ceil()
}

/// The figures that the other tables are made of.
pub(crate) fn constants() -> String {
    let row = |name: &str, value: String, what: &str| vec![format!("`{name}`"), value, what.to_owned()];
    let measured = "measured, `make bench-edge`";
    let rows = [
        row(
            "EDGE_REQUESTS_PER_CORE",
            format!("{}/s", whole(EDGE_REQUESTS_PER_CORE)),
            &format!("{measured}: 19,976 answers a second to 10,000 viewers took 0.77 of a core"),
        ),
        row(
            "EDGE_GBIT_PER_CORE",
            format!("{EDGE_GBIT_PER_CORE} Gbit/s"),
            "a careful guess, not measured: sent by one core with TLS, without the cost of the requests",
        ),
        row(
            "EDGE_KIB_PER_CONNECTION",
            format!("{EDGE_KIB_PER_CONNECTION} KiB"),
            &format!("{measured}: HTTP/1.1 without TLS, with a held request"),
        ),
        row(
            "EDGE_MIB",
            format!("{EDGE_MIB} MiB"),
            &format!("{measured}: without connections, with the media of one stream"),
        ),
        row(
            "PLAYLIST_KIB",
            format!("{PLAYLIST_KIB} KiB"),
            &format!("{measured}: a compressed playlist with its head at `--latency 3`"),
        ),
        row("EDGE_CORES", format!("{EDGE_CORES}"), "chosen: an edge has a node with 8 cores and 32 GiB"),
        row("EDGE_LOAD", format!("{EDGE_LOAD}"), "chosen: planned use of processors, network and memory"),
        row("EDGE_CONNECTIONS", whole(EDGE_CONNECTIONS), "`--connections`; twice as many held requests"),
        row(
            "NODE_GBIT",
            format!("{NODE_GBIT} Gbit/s"),
            "list value, check: from one node to the internet, without Tier_1 networking",
        ),
        row("KEPT_SECONDS", format!("{KEPT_SECONDS} s"), "media of a stream that live viewers ask for"),
    ];
    markdown(&["name", "value", "what"], &rows)
}

/// The prices of the other tables.
pub(crate) fn prices() -> String {
    let storage = "[Cloud Storage](https://cloud.google.com/storage/pricing), as of 2026-09-20";
    let network = "[network](https://cloud.google.com/vpc/network-pricing), list price, check";
    let cdn = "[Cloud CDN](https://cloud.google.com/cdn/pricing), as of 2026-09-20";
    let compute = "[Compute Engine](https://cloud.google.com/compute/vm-instance-pricing), list price, check";
    let row =
        |what: &str, price: f64, page: &str| vec![what.to_owned(), format!("${price}"), page.to_owned()];
    let rows = [
        row(
            "1,000 class A operations (writes, compositions, lists), Standard, one region",
            PRICE_CLASS_A,
            storage,
        ),
        row("1,000 class B operations (reads)", PRICE_CLASS_B, storage),
        row("a GiB to the internet beyond 10 TiB a month; $0.12 for the first TiB", PRICE_INTERNET, network),
        row("a GiB from Cloud CDN at the largest volumes; $0.08 for the first 10 TiB", PRICE_CDN, cdn),
        row("1,000 requests to Cloud CDN", PRICE_CDN_LOOKUP, cdn),
        row("an hour of a node with 8 cores and 32 GiB (`n2-standard-8`, no discount)", PRICE_NODE, compute),
    ];
    markdown(&["US dollars for", "price", "page"], &rows)
}

/// What one edge carries.
pub(crate) fn one_edge() -> String {
    let rows: Vec<_> = viewers()
        .iter()
        .map(|viewer| {
            let carried = Carried::of(viewer);
            let bound = |value: f64| if value.is_finite() { whole(value.floor()) } else { "–".to_owned() };
            vec![
                viewer.name.to_owned(),
                format!("{}", viewer.requests_per_second),
                format!("{:.2}", viewer.mbit),
                bound(carried.connections),
                bound(carried.held),
                bound(carried.processors),
                bound(carried.network),
                bound(carried.memory),
                format!("**{}**", whole(carried.least())),
            ]
        })
        .collect();
    let header = [
        "viewers of",
        "requests/s",
        "Mbit/s",
        "by connections",
        "by held requests",
        "by processors",
        "by network",
        "by memory",
        "viewers of an edge",
    ];
    markdown(&header, &rows)
}

/// Edges for a number of viewers.
pub(crate) fn edges() -> String {
    let mut rows = Vec::new();
    for count in VIEWERS {
        for viewer in viewers() {
            let edges = edges_for(count, &viewer);
            rows.push(vec![
                whole(count),
                viewer.name.to_owned(),
                whole(count * viewer.connections),
                whole(count * viewer.held),
                whole(count * viewer.requests_per_second),
                whole(count * viewer.mbit / 1e3),
                whole(edges),
                format!("${:.2}", edges * PRICE_NODE),
            ]);
        }
    }
    let header =
        ["viewers", "of", "connections", "held requests", "requests/s", "Gbit/s", "edges", "nodes, an hour"];
    markdown(&header, &rows)
}

/// A million viewers of parts: what encoders send to edges.
pub(crate) fn fill() -> String {
    let viewers = 1_000_000.0;
    let viewer = of_parts();
    let edges = edges_for(viewers, &viewer);
    let rows: Vec<_> = SHARED_BY
        .iter()
        .map(|streams| {
            let of_stream = viewers / streams;
            // Each of the stream's viewers chooses an edge at random.
            let spread = edges * (1.0 - (1.0 - 1.0 / edges).powf(of_stream));
            // By name: as many as the viewers fill, and one for the imbalance.
            let named = ((of_stream / Carried::of(&viewer).least()).ceil() + 1.0).min(edges);
            let gib = |each: f64| {
                streams * each / edges * ladder_mbit() * KEPT_SECONDS * 1e6 / 8.0 / 1024.0_f64.powi(3)
            };
            vec![
                whole(*streams),
                whole(of_stream),
                whole(spread),
                whole(spread * ladder_mbit()),
                format!("{:.2}", gib(spread)),
                whole(named),
                whole(named * ladder_mbit()),
                format!("{:.2}", gib(named)),
            ]
        })
        .collect();
    let header = [
        "streams",
        "viewers of a stream",
        "at random: edges of a stream",
        "encoder sends, Mbit/s",
        "edge keeps, GiB",
        "by name: edges of a stream",
        "encoder sends, Mbit/s",
        "edge keeps, GiB",
    ];
    markdown(&header, &rows)
}

/// What streams ask of the store and of Kubernetes.
pub(crate) fn streams() -> String {
    let mut rows = Vec::new();
    for streams in STREAMS {
        for (latency, writes) in WRITES_PER_HOUR {
            let per_second = streams * writes / 3600.0;
            let doublings = (per_second / BUCKET_WRITES).log2().max(0.0);
            rows.push(vec![
                whole(streams),
                latency.to_string(),
                whole(per_second),
                whole((per_second / BUCKET_WRITES).ceil()),
                format!("{} min", whole((doublings * BUCKET_DOUBLES_MINUTES).ceil())),
                format!("${}", whole(streams * writes / 1e3 * PRICE_CLASS_A)),
                format!("${}", whole(streams * PRICE_NODE * 2.0 / ENCODERS_ON_TWO_NODES)),
                format!("{:.1}", 2.0 * streams / STREAM_SECONDS),
                whole((streams / SLICE_ENDPOINTS).ceil() * SERVICES),
            ]);
        }
    }
    let header = [
        "streams",
        "`--latency`",
        "writes/s",
        "buckets, if all begin together",
        "one bucket: ramp",
        "class A, an hour",
        "encoders, an hour",
        "readiness changes/s",
        "EndpointSlices",
    ];
    markdown(&header, &rows)
}

/// What a thousand viewers cost in an hour.
pub(crate) fn cost() -> String {
    let thousands = |viewer: &Viewer| viewer.requests_per_second * 3600.0;
    let gib = |mbit: f64| mbit * 1e6 / 8.0 * 3600.0 / 1024.0_f64.powi(3) * 1e3;
    let nodes = |viewer: &Viewer| 1e3 / Carried::of(viewer).least() * PRICE_NODE;
    let [parts, seconds, pairs, reloads] = viewers();
    let row = |way: &str, viewer: &Viewer, bytes: f64, asked: f64, nodes: f64| {
        vec![
            way.to_owned(),
            whole(gib(viewer.mbit)),
            format!("${:.2}", gib(viewer.mbit) * bytes),
            format!("${:.2}", thousands(viewer) * asked),
            format!("${nodes:.2}"),
            format!("**${:.2}**", gib(viewer.mbit) * bytes + thousands(viewer) * asked + nodes),
        ]
    };
    let rows = [
        row("edges, parts", &parts, PRICE_INTERNET, 0.0, nodes(&parts)),
        row("edges, segments of 2 s", &pairs, PRICE_INTERNET, 0.0, nodes(&pairs)),
        row("CDN before edges, parts", &parts, PRICE_CDN, PRICE_CDN_LOOKUP, nodes(&reloads)),
        row("CDN before edges, segments of 2 s", &pairs, PRICE_CDN, PRICE_CDN_LOOKUP, 0.0),
        row("bucket, segments of 1 s", &seconds, PRICE_INTERNET, PRICE_CLASS_B, 0.0),
        // The CDN asks the bucket for each reload, because playlists are not kept.
        row(
            "CDN before a bucket, segments of 1 s",
            &seconds,
            PRICE_CDN,
            PRICE_CDN_LOOKUP + PRICE_CLASS_B / 2.0,
            0.0,
        ),
    ];
    markdown(&["way", "GiB", "bytes", "requests", "edges", "together"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_the_default_one_and_every_viewer_has_a_rung() {
        assert!((ladder_mbit() - 10.778).abs() < 1e-9);
        assert!((RUNGS.iter().map(|(_, _, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(media_mbit() < RUNGS[0].1 && media_mbit() > RUNGS[3].1);
    }

    #[test]
    fn the_narrowest_limit_bounds_an_edge() {
        for viewer in viewers() {
            let carried = Carried::of(&viewer);
            let least = carried.least();
            assert!(least >= 1.0 && least <= carried.processors && least <= carried.network);
            assert!((edges_for(least, &viewer) - 1.0).abs() < f64::EPSILON);
            assert!((edges_for(least + 1.0, &viewer) - 2.0).abs() < f64::EPSILON);
        }
    }
}
