//! The real Cloud Storage client against the fake, over sockets: the contract of every store, the errors for a bucket
//! that cannot be used, and the findings of `encoder bucket check`.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::process::Command;
use std::time::{Duration, Instant};
use store::gcs::check::{Weight, judge, look};
use store::gcs::{BucketError, BucketLocation, GcsStore};
use store::{Caching, Location, Object, ObjectName, Store, StoreError, content_type, contract};
use tests::encoder_process::binary;
use tests::gcs::objects::{DEFAULT_CACHE_CONTROL, Permission, Settings};
use tests::gcs::{FakeGcs, Fault, Operation};

const BUCKET: &str = "live";

fn location() -> BucketLocation {
    "gs://live/tv/one".parse().unwrap()
}

async fn open(fake: &FakeGcs) -> Result<GcsStore, BucketError> {
    GcsStore::open(location(), Some(&fake.endpoint())).await
}

fn segment(body: &str) -> Object {
    Object {
        body: body.to_owned().into(),
        content_type: content_type::VIDEO_SEGMENT,
        caching: Caching::Immutable,
    }
}

fn name() -> ObjectName {
    ObjectName::new("live/demo/720p/s-1.m4s")
}

#[tokio::test]
async fn keeps_the_contract_of_every_store() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    contract::check(&store).await;
    let names = fake.state().objects.names(BUCKET);
    assert!(names.iter().all(|name| name.starts_with("tv/one/live/")), "nothing else is left: {names:?}");
}

#[tokio::test]
async fn several_buckets_share_out_the_streams() {
    let fake = FakeGcs::start(BUCKET);
    let others = ["live-1", "live-2"];
    others.iter().for_each(|other| fake.state().objects.set_bucket(other, Settings::live()));
    let location = "gs://live/tv/one,gs://live-1/tv/one,gs://live-2";
    let location = Location::parse(location, Some(fake.endpoint())).unwrap();
    let store = location.open().await.unwrap();
    contract::check(&*store).await;
    for n in 0..40 {
        store.create(&ObjectName::new(format!("live/{n}/s-1.m4s")), segment("x")).await.unwrap();
    }
    let reader = location.open_to_read().await.unwrap();
    let listed = reader.list(&ObjectName::new("live"), None).await.unwrap();
    assert!(listed.len() >= 40, "{listed:?}");
    for bucket in [BUCKET, "live-1", "live-2"] {
        let streams = fake.state().objects.names(bucket).len();
        assert!(streams >= 4, "{streams} objects in {bucket}");
    }

    let absent = Location::parse("gs://live,gs://absent", Some(fake.endpoint())).unwrap();
    let error = absent.open().await.err().unwrap().to_string();
    assert!(error.starts_with("there is no bucket absent"), "{error}");
    fake.state().objects.deny("live-1", &[Permission::Create]);
    let error = location.open().await.err().unwrap().to_string();
    assert!(error.contains("storage.objects.create on gs://live-1"), "{error}");
}

#[tokio::test]
async fn a_page_without_objects_is_not_the_end_of_a_listing() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    store.create(&name(), segment("x")).await.unwrap();
    fake.state().objects.set_empty_pages(BUCKET, true);
    let folder = ObjectName::new("live/demo");
    let listed = store.list(&folder, None).await.unwrap();
    assert_eq!(listed.iter().map(|listed| &listed.name).collect::<Vec<_>>(), [&name()]);
    assert_eq!(store.list(&folder, Some(&name())).await, Ok(Vec::new()), "this is the end");
}

#[tokio::test]
async fn an_upload_is_one_request_with_all_that_viewers_need() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    fake.state().calls.clear();
    // Larger than the client crate's threshold for splitting uploads.
    let body = "0123456789".repeat(2 << 20);
    store.create(&name(), segment(&body)).await.unwrap();
    let calls: Vec<_> = fake.state().calls.iter().map(|call| call.operation).collect();
    assert_eq!(calls, [Operation::Insert]);
    let object = fake.state().objects.peek(BUCKET, "tv/one/live/demo/720p/s-1.m4s").unwrap().clone();
    assert_eq!(object.body, body);
    assert_eq!(object.content_type, "video/iso.segment");
    assert_eq!(object.cache_control, "public, max-age=31536000, immutable");
    assert_ne!(object.cache_control, DEFAULT_CACHE_CONTROL);
}

#[tokio::test]
async fn faults_are_told_apart_and_nothing_is_tried_behind_the_callers_back() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    let passing = [
        Fault::Status(408),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Cut,
        Fault::LostAnswer,
    ];
    for (number, fault) in passing.into_iter().enumerate() {
        fake.set_rule(move |_| fault);
        fake.state().calls.clear();
        let name = ObjectName::new(format!("live/demo/720p/s-{number}.m4s"));
        let error = store.create(&name, segment("x")).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        let error = store.remove(&name).await.unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        assert_eq!(fake.state().calls.len(), 2, "{fault:?}: one attempt each");
    }
    fake.set_rule(|_| Fault::Status(403));
    let error = store.create(&name(), segment("x")).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn after_a_lost_answer_the_same_bytes_are_a_success() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    fake.set_rule(|call| if call.operation == Operation::Insert { Fault::LostAnswer } else { Fault::None });
    store.create(&name(), segment("x")).await.unwrap_err();
    fake.set_rule(|_| Fault::None);
    store.create(&name(), segment("x")).await.unwrap();
    assert_eq!(store.create(&name(), segment("y")).await, Err(StoreError::Exists));
}

#[tokio::test]
async fn what_is_missing_at_the_start_is_said_by_name() {
    let fake = FakeGcs::start("other");
    let error = open(&fake).await.unwrap_err();
    assert!(matches!(&error, BucketError::NoBucket(bucket) if bucket == BUCKET), "{error}");
    assert!(!error.is_retryable());

    let fake = FakeGcs::start(BUCKET);
    let all = [Permission::Create, Permission::Get, Permission::List, Permission::Delete];
    for denied in all {
        fake.state().objects.deny(BUCKET, &[denied]);
        let error = open(&fake).await.unwrap_err();
        let BucketError::Forbidden { permissions, .. } = &error else { panic!("{denied:?}: {error}") };
        assert_eq!(permissions, denied.name());
        assert!(error.to_string().contains("roles/storage.objectUser"), "{error}");
    }
    fake.state().objects.deny(BUCKET, &all);
    let error = open(&fake).await.unwrap_err().to_string();
    assert!(error.contains("storage.objects.create") && error.contains("storage.objects.list"), "{error}");
}

#[tokio::test]
async fn opening_waits_out_what_passes() {
    let fake = FakeGcs::start(BUCKET);
    let mut number = 0;
    fake.set_rule(move |_| {
        number += 1;
        if number % 2 == 1 { Fault::Status(503) } else { Fault::None }
    });
    open(&fake).await.unwrap();
    assert_eq!(fake.state().objects.names(BUCKET), [""; 0], "the proof is removed");
}

#[tokio::test]
async fn the_check_reads_what_the_bucket_says() {
    let fake = FakeGcs::start(BUCKET);
    let findings = |facts| judge(&facts, BUCKET);
    let advice = findings(look(location(), Some(&fake.endpoint())).await.unwrap());
    assert!(advice.iter().all(|finding| finding.weight == Weight::Advice), "{advice:?}");
    fake.state().objects.set_bucket(BUCKET, Settings { versioning: true, ..Settings::default() });
    let wrong = findings(look(location(), Some(&fake.endpoint())).await.unwrap());
    let commands: Vec<_> = wrong.iter().flat_map(|finding| &finding.commands).collect();
    for flag in
        ["--cors-file", "--clear-soft-delete", "--no-versioning", "--member=allUsers", "--lifecycle-file"]
    {
        assert!(commands.iter().any(|command| command.contains(flag)), "{flag}: {commands:?}");
    }
}

fn run(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("ENCODER_")) {
            command.env_remove(name);
        }
    }
    let done = command.args(args).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.code(), text)
}

#[test]
fn the_binary_says_what_is_wrong_and_ends_as_for_a_bad_setting() {
    let fake = FakeGcs::start(BUCKET);
    let endpoint = fake.endpoint();
    let ports = ["--rtmp-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
    let serve = |output: &str| {
        let output = format!("--output={output}");
        let endpoint = format!("--gcs-endpoint={endpoint}");
        run(&[&["serve", &output, &endpoint], &ports[..]].concat())
    };
    let (code, text) = serve("gs://nobodys");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("there is no bucket nobodys"), "{text}");
    fake.state().objects.deny(BUCKET, &[Permission::Delete]);
    let (code, text) = serve("gs://live/tv");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("storage.objects.delete"), "{text}");
    let (code, text) = serve("gs://NO");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("lower-case"), "{text}");
}

#[test]
fn the_check_prints_commands_and_answers_by_its_exit_code() {
    let fake = FakeGcs::start(BUCKET);
    let endpoint = format!("--gcs-endpoint={}", fake.endpoint());
    let (code, text) = run(&["bucket", "check", "gs://live/tv", &endpoint]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("fit for live streams"), "{text}");
    fake.state().objects.set_bucket(BUCKET, Settings::default());
    let (code, text) = run(&["bucket", "check", "gs://live/tv", &endpoint]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("gcloud storage buckets update gs://live --clear-soft-delete"), "{text}");
    let (code, text) = run(&["bucket", "check", "gs://other", &endpoint]);
    assert_eq!(code, Some(64), "{text}");
}

/// A hanging request can be abandoned by its caller and does not block the next request.
#[tokio::test]
async fn a_hanging_upload_can_be_given_up() {
    let fake = FakeGcs::start(BUCKET);
    let store = open(&fake).await.unwrap();
    fake.set_rule(|call| if call.object.ends_with("s-1.m4s") { Fault::Hang } else { Fault::None });
    let began = Instant::now();
    let name = name();
    let hung = tokio::time::timeout(Duration::from_millis(200), store.create(&name, segment("x"))).await;
    assert!(hung.is_err());
    store.create(&ObjectName::new("live/demo/720p/s-2.m4s"), segment("x")).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}
