use super::*;
use crate::cli::{Cli, Command};
use crate::rtmp::StreamKey;
use crate::store::memory::MemoryStore;
use clap::Parser;
use probes::State;
use std::num::NonZeroU32;

fn registry(when_full: WhenFull) -> (Arc<Registry>, Arc<Probe>) {
    let Command::Serve(args) = Cli::try_parse_from(["encoder", "serve"]).unwrap().command else {
        unreachable!("`serve` was given")
    };
    let settings = crate::config::serve(&args).unwrap().stream;
    let outlet =
        OutletOptions { library: crate::origin::Library::new(), store: Arc::new(MemoryStore::default()) };
    let workers = WorkerOptions::this_binary(1 << 30, tracing::Span::none()).unwrap();
    let probe = Probe::new(
        probes::Settings { capacity: NonZeroU32::MIN, recycle_after: None },
        Duration::from_secs(60),
    );
    probe.ready();
    (Registry::new(settings, outlet, workers, probe.clone(), when_full), probe)
}

fn request(key: &str) -> PublishRequest {
    PublishRequest {
        app: "live".into(),
        key: StreamKey::new(key.into()),
        query: String::new(),
        peer: "127.0.0.1:1".parse().unwrap(),
        client: String::new(),
    }
}

#[tokio::test]
async fn readiness_and_door_have_fallen_when_the_answer_is_made() {
    let (registry, probe) = registry(WhenFull::Refuse);
    let open = registry.open().unwrap();
    assert!(*open.borrow() && probe.readiness().is_ok());
    // The publisher is told only after this returns.
    let publisher = registry.admit(request("one")).await.ok().unwrap();
    assert_eq!(probe.readiness(), Err(Denied::Full));
    assert!(!*open.borrow());
    // A straggler who is in already is told.
    assert_eq!(registry.admit(request("two")).await.err(), Some(Refusal::Busy));
    assert_eq!(registry.admit(request("one")).await.err(), Some(Refusal::AlreadyPublishing));
    assert!(!*open.borrow());
    // In its reconnect window a stream waits for its publisher.
    drop(publisher);
    assert!(*open.borrow() && probe.readiness().is_err());
    let _back = registry.admit(request("one")).await.ok().unwrap();
    assert!(!*open.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_gives_its_place_and_the_door_back() {
    let (registry, probe) = registry(WhenFull::Refuse);
    let mut open = registry.open().unwrap();
    let publisher = registry.admit(request("one")).await.ok().unwrap();
    registry.end_all(&Refusal::Draining);
    assert!(!*open.borrow(), "its last writes are under way: nobody is awaited");
    drop(publisher);
    probe.subscribe().wait_for(|state| matches!(state, State::Free { .. })).await.unwrap();
    open.wait_for(|open| *open).await.unwrap();
}

#[tokio::test]
async fn whoever_is_to_be_told_always_gets_in_that_far() {
    assert!(registry(WhenFull::Tell).0.open().is_none());
}
