//! The benefit of hedged requests: the encoder's publisher on paused time, with and without a second attempt next to a
//! slow one. The only part that measures no process: a process has no setting to turn second attempts off.

use crate::delay::{Delays, first_named};
use anyhow::ensure;
use bytes::Bytes;
use encoder::testing::delivery::{
    Delivery, DeliveryCounters, DeliveryEvent, DeliverySettings, StorePlaylists,
};
use hls::packager::InitSegment;
use hls::timing::Timing;
use hls::track::{Track, TrackKind, VideoTrack};
use hls::{RungName, Segment, SegmentInfo, SessionId, names};
use media::{MediaSpan, MediaTime, VideoCodec, WallTime};
use std::sync::Arc;
use std::time::Duration;
use tests::gcs::{DirectStore, Fault};
use tokio::time::Instant;

/// Length of the published stream in seconds.
const SECONDS: u64 = 1800;
const RUNGS: [&str; 3] = ["360p", "480p", "720p"];
/// Share of slow calls; and below, their duration.
const SLOW: f64 = 0.02;
const TAIL: Duration = Duration::from_secs(2);
/// A delay that never passes: turns hedging off.
const NEVER: Duration = Duration::from_secs(86_400);
const FIRST: u64 = 1000;
const STREAM: &str = "live/tv";

/// Which calls may be slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    All,
    Segments,
}

/// Prints the table.
pub(crate) fn print(call: Duration) -> anyhow::Result<()> {
    println!("| `--latency` | slow may be | second attempt | segments | median | 99 % | longest | gaps |");
    println!("|---|---|---|---|---|---|---|---|");
    let usual = DeliverySettings::default().second_attempt_after;
    let attempts = [(NEVER, "never".to_owned()), (usual, format!("after {} ms", usual.as_millis()))];
    for latency in crate::LATENCIES {
        let timing = Timing::new(latency.parse()?);
        for (tail, which) in [(Tail::All, "any call"), (Tail::Segments, "a segment's upload")] {
            for (after, name) in &attempts {
                let (delays, counters) = run(&timing, call, tail, *after)?;
                println!(
                    "| {latency} | {which} | {name} | {} | {:.2} s | {:.2} s | {:.2} s | {} |",
                    segments(&timing) * RUNGS.len() as u64,
                    delays.at(0.5),
                    delays.at(0.99),
                    delays.at(1.0),
                    counters.gaps.values().sum::<u64>()
                );
            }
        }
    }
    println!(
        "\nFrom a segment's arrival to its playlist; {SECONDS} s of stream at CPU speed. Where segments last a second, as \
         long as there must be between two writes of a playlist, one that was late once stays late by as much."
    );
    Ok(())
}

fn segments(timing: &Timing) -> u64 {
    SECONDS / timing.segment.to_duration().as_secs()
}

fn run(
    timing: &Timing,
    call: Duration,
    tail: Tail,
    second_attempt_after: Duration,
) -> anyhow::Result<(Delays, DeliveryCounters)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let settings = DeliverySettings {
        segment_deadline: timing.upload_deadline.to_duration(),
        second_attempt_after,
        ..DeliverySettings::default()
    };
    runtime.block_on(async {
        let store = DirectStore::new();
        let mut random = fastrand::Rng::with_seed(1);
        store.set_rule(move |asked| {
            let may_be_slow = tail == Tail::All || asked.writes_segment();
            Fault::Slow(if random.f64() < SLOW && may_be_slow { TAIL } else { call })
        });
        let (came, counters) = publish(&store, timing, settings).await?;
        ensure!(counters.sealed, "{counters:?}");
        let state = store.state();
        let mut delays = Vec::new();
        for rung in RUNGS {
            let playlist = format!("{STREAM}/{rung}/index.m3u8");
            let named = first_named(state.objects.journal(), store.bucket(), &playlist)?;
            for (number, came) in (FIRST..).zip(&came) {
                let name = names::segment_name(&session(), number);
                delays.extend(named.get(&name).map(|at| (*at - *came).as_secs_f64()));
            }
        }
        Ok((Delays::new(delays, 0), counters))
    })
}

/// Publishes the segments of all rungs in step; returns the arrival time of each segment number.
async fn publish(
    store: &DirectStore,
    timing: &Timing,
    settings: DeliverySettings,
) -> anyhow::Result<(Vec<Duration>, DeliveryCounters)> {
    // The store's clock started at the same moment, because time is paused.
    let began = Instant::now();
    let (playlists, _acknowledged) = StorePlaylists::new(timing);
    let (publisher, task) = Delivery::start(Arc::new(store.clone()), STREAM, playlists, settings);
    publisher.input(DeliveryEvent::Tracks(RUNGS.iter().map(|rung| track(rung)).collect()));
    for rung in RUNGS {
        let name = names::init_name(&session());
        let init = InitSegment { rung: RungName::new(rung)?, name, body: Bytes::from_static(b"init") };
        publisher.input(DeliveryEvent::Init(init));
    }
    let mut came = Vec::new();
    for number in 0..segments(timing) {
        came.push(began.elapsed());
        for rung in RUNGS {
            publisher.input(DeliveryEvent::Segment(segment(rung, number, timing.segment)?));
        }
        tokio::time::sleep(timing.segment.to_duration()).await;
    }
    drop(publisher);
    Ok((came, task.await?))
}

fn session() -> SessionId {
    SessionId::from_start(1_795_348_800_000_000, 0)
}

fn segment(rung: &str, number: u64, duration: MediaSpan) -> anyhow::Result<Segment> {
    let sequence = FIRST + number;
    let ticks = i64::try_from(number)? * duration.ticks_90k();
    let info = SegmentInfo {
        rung: RungName::new(rung)?,
        sequence,
        session: session(),
        // An epoch begins with a discontinuity.
        discontinuity: number == 0,
        start: MediaTime::from_ticks_90k(ticks),
        duration,
        wall: WallTime::from_unix_micros(1_795_348_800_000_000 + ticks * 100 / 9),
        name: names::segment_name(&session(), sequence),
        init: names::init_name(&session()),
        bytes: None,
    };
    // Every body is unique.
    Ok(Segment::new(info, Some(format!("{rung} {sequence}").into())))
}

fn track(rung: &str) -> Track {
    Track {
        rung: RungName::new(rung).expect("a name of ours"),
        kind: TrackKind::Video(VideoTrack {
            codec: VideoCodec::H264,
            // High profile, level 3.1, without parameter sets.
            config: Bytes::from_static(&[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1, 0, 0]),
            width: 1280,
            height: 720,
            sample_aspect: (1, 1),
            frame_rate: 25.0,
            nominal_bitrate: 2_000_000,
            captions: media::captions::CaptionServices::NONE,
        }),
    }
}
