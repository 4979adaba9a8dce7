//! The encoder against a third-party Cloud Storage: PyPI's gcp-storage-emulator, which `make setup-test` installs. With
//! it, this project's own idea of Cloud Storage is not the only judge of what the encoder sends.
//!
//! The emulator's JSON API limits what can be tested. It judges uploads as google-cloud-storage writes them, with
//! metadata and checksums, reads and ranges, listings, deletions, compositions and copies. It has no gRPC, ignores
//! ifGenerationMatch and sends no generation with a download, so an encoder alone does not start on it ("cannot be
//! reached"); a gateway in front adds those ([`tests::gcs::emulator`]). It has no limits, permissions, faults or bucket
//! settings: the fake covers those (`gcs_store.rs`, `gcs_faults.rs`, `gcs_live.rs`). Its public downloads carry no
//! Cache-Control; the metadata shows that the emulator understood the value.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use serde_json::Value;
use std::time::Duration;
use store::contract;
use store::gcs::GcsStore;
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::gcs::Emulator;
use tests::http::{Client, join};
use tests::patience::eventually;
use tests::{fixtures, playlist, probe, publisher, turn};

const BUCKET: &str = "live";

#[tokio::test]
async fn keeps_the_contract_of_every_store() {
    let Some(emulator) = Emulator::start(BUCKET) else { return };
    let location = "gs://live/tv/one".parse().unwrap();
    let store = GcsStore::open(location, Some(&emulator.endpoint())).await.unwrap();
    contract::check(&store).await;
}

/// Every stored object, as the emulator lists it.
fn objects(emulator: &Emulator, client: &Client) -> Vec<Value> {
    let url = emulator.url(&format!("storage/v1/b/{BUCKET}/o?prefix=tv%2Flive"));
    let listed: Value = serde_json::from_slice(&client.get(&url).unwrap().body).unwrap();
    listed["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_broadcast_is_stored_and_its_recording_composed() {
    let Some(emulator) = Emulator::start(BUCKET) else { return };
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--output", &format!("gs://{BUCKET}/tv"))
        .set("--gcs-endpoint", &emulator.endpoint())
        .set("--ladder", "360p@800k");
    let encoder = Encoder::start(options);
    let clip = fixtures::clip("footage-720p30-gop1s");
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    eventually("some segments", Duration::from_secs(60), || {
        (encoder.metric("encoder_store_segments_total", &[]) > 16.0).then_some(())
    });
    publisher.stop(Duration::from_secs(5));
    let client = Client::default();
    let stored = eventually("a complete archive", Duration::from_secs(40), || {
        let stored = objects(&emulator, &client);
        let sealed = stored.iter().any(|object| object["name"].as_str().unwrap().ends_with("/sealed.json"));
        sealed.then_some(stored)
    });
    encoder.stop();

    let named = |end: &str| {
        let names = stored.iter().filter_map(|object| object["name"].as_str());
        names.filter(|name| name.ends_with(end)).map(str::to_owned).collect::<Vec<_>>()
    };
    for object in &stored {
        let (name, kind) = (object["name"].as_str().unwrap(), object["contentType"].as_str().unwrap());
        let caching = object["cacheControl"].as_str().unwrap();
        if name.ends_with(".m4s") {
            assert!(caching.contains("immutable"), "{object}");
            assert_eq!(
                kind,
                if name.contains("/audio/") { "audio/mp4" } else { "video/iso.segment" },
                "{name}"
            );
        } else if name.ends_with(".m3u8") {
            assert!(caching.contains("no-store") && kind == "application/vnd.apple.mpegurl", "{object}");
        }
    }
    let public = |name: &str| emulator.url(&format!("{BUCKET}/{name}"));
    for list in [format!("tv/live/{STREAM}/360p/index.m3u8"), named("/360p.m3u8").remove(0)] {
        let url = public(&list);
        let media = playlist::media(&client.get(&url).unwrap().text().unwrap()).unwrap();
        assert!(media.ended && media.segments.len() >= 8, "{list}: {media:?}");
        for segment in &media.segments {
            for uri in [Some(&segment.uri), segment.map.as_ref()].into_iter().flatten() {
                let answer = client.get(&join(&url, uri)).unwrap();
                assert!(answer.status == 200 && !answer.body.is_empty(), "{list} names {uri}");
            }
        }
    }
    // Download the recording completely: the emulator has one thread, and a player that seeks holds two connections.
    let body = client.get(&public(&named("/recording.mp4").remove(0))).unwrap().body;
    let file = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    std::fs::write(file.path(), body).unwrap();
    let vod = client.get(&public(&named("/360p.m3u8").remove(0))).unwrap().text().unwrap();
    let vod = playlist::media(&vod).unwrap().duration();
    let seconds = probe::duration(file.path().to_str().unwrap()).unwrap();
    eprintln!("{} objects; recording of {seconds:.3} s, playlist of {vod:.3} s", stored.len());
    assert!((seconds - vod).abs() <= 1.0 / 30.0);
    probe::decodes_clean(file.path()).unwrap();
}
