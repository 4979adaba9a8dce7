//! The contract of every store as one test body: the tests of each store run it.

use super::{
    Caching, Expected, MAX_LISTED, MAX_SOURCES, Object, ObjectName, Store, StoreError, StoreFuture, Stored,
    content_type,
};
use bytes::Bytes;
use std::task::Poll;

fn object(body: &str) -> Object {
    Object {
        body: Bytes::copy_from_slice(body.as_bytes()),
        content_type: content_type::VIDEO_SEGMENT,
        caching: Caching::Immutable,
    }
}

async fn stored(store: &dyn Store, name: &ObjectName) -> Option<Stored> {
    store.read(name).await.expect("reading works")
}

async fn text(store: &dyn Store, name: &ObjectName) -> Option<String> {
    let body = stored(store, name).await?.body;
    Some(String::from_utf8_lossy(&body).into_owned())
}

/// Runs the contract against an empty store. Waits four times for the store's rewrite interval. Panics where the
/// store breaks the contract.
pub async fn check(store: &dyn Store) {
    segments(store).await;
    versions(store).await;
    race(store).await;
    listing(store).await;
    composing(store).await;
    assert!(!store.location().is_empty());
}

async fn pause(store: &dyn Store) {
    tokio::time::sleep(store.rewrite_interval()).await;
}

async fn segments(store: &dyn Store) {
    let name = ObjectName::new("live/demo/720p/s-1.m4s");
    let other = ObjectName::new("live/demo/720p/s-2.m4s");
    assert_eq!(text(store, &name).await, None);

    store.create(&name, object("first")).await.expect("an unused name");
    assert_eq!(text(store, &name).await.as_deref(), Some("first"), "readable once acknowledged");
    store.create(&name, object("first")).await.expect("the answer to the first may have been lost");

    let error = store.create(&name, object("second")).await.expect_err("the name is used");
    assert_eq!(error, StoreError::Exists);
    assert_eq!(text(store, &name).await.as_deref(), Some("first"), "a refused write changes nothing");

    pause(store).await;
    store.replace(&name, object("third")).await.expect("over an object");
    store.replace(&other, object("new")).await.expect("where there was none");
    assert_eq!(text(store, &name).await.as_deref(), Some("third"));
    assert_eq!(text(store, &other).await.as_deref(), Some("new"));

    for (range, part) in [(1..3, "hi"), (0..5, "third"), (3..99, "rd")] {
        let read = store.read_range(&name, range.clone()).await.expect("reading works");
        assert_eq!(read.as_deref(), Some(part.as_bytes()), "{range:?}");
    }
    assert_eq!(store.read_range(&ObjectName::new("no/such/x.m4s"), 0..5).await, Ok(None));

    store.remove(&name).await.expect("an object");
    store.remove(&name).await.expect("removing what is not there succeeds");
    store.remove(&ObjectName::new("no/such/folder/x.m4s")).await.expect("nor is its folder");
    assert_eq!(text(store, &name).await, None);
    assert_eq!(text(store, &other).await.as_deref(), Some("new"), "neighbours stay");
}

async fn versions(store: &dyn Store) {
    let name = ObjectName::new("live/demo/720p/index.m3u8");
    let first = store.replace_if(&name, object("a"), Expected::Absent).await.expect("nothing is there");
    assert_eq!(stored(store, &name).await.map(|stored| stored.version), Some(first));
    let error = store.replace_if(&name, object("x"), Expected::Absent).await.expect_err("something is there");
    assert_eq!(error, StoreError::Changed);

    pause(store).await;
    let second = store.replace_if(&name, object("b"), Expected::Version(first)).await.expect("as expected");
    assert!(second > first);
    let error =
        store.replace_if(&name, object("x"), Expected::Version(first)).await.expect_err("it is another");
    assert_eq!(error, StoreError::Changed);
    assert_eq!(stored(store, &name).await, Some(Stored { version: second, body: "b".into() }));

    store.remove(&name).await.expect("an object");
    let error =
        store.replace_if(&name, object("x"), Expected::Version(second)).await.expect_err("it is gone");
    assert_eq!(error, StoreError::Changed);
    pause(store).await;
    let third = store.replace_if(&name, object("c"), Expected::Absent).await.expect("nothing is there");
    assert!(third > second, "versions grow across removals");
}

/// A caller that loses the race for a name must get an error: of several concurrent writers exactly one wins.
async fn race(store: &dyn Store) {
    let contested = ObjectName::new("live/demo/720p/s-3.m4s");
    let bodies: Vec<String> = (0..8).map(|n| format!("writer {n}")).collect();
    let calls = bodies.iter().map(|body| store.create(&contested, object(body)));
    let results = together(calls.collect()).await;
    let won: Vec<_> = results.iter().zip(&bodies).filter(|(result, _)| result.is_ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    assert_eq!(text(store, &contested).await.as_ref(), Some(won[0].1));
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(StoreError::Exists))), "{results:?}");

    let contested = ObjectName::new("live/demo/state.json");
    let calls = bodies.iter().map(|body| store.replace_if(&contested, object(body), Expected::Absent));
    let results = together(calls.collect()).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(StoreError::Changed))), "{results:?}");
}

async fn listing(store: &dyn Store) {
    let folder = ObjectName::new("live/list");
    assert_eq!(store.list(&folder, None).await, Ok(Vec::new()));
    // Names are ordered by their bytes: `-` before `/` before letters.
    let names = ["live/list/a-1.m4s", "live/list/a/1.m4s", "live/list/a/2.m4s", "live/list/b.m4s"];
    for name in names.iter().rev().chain(&["live/list2/c.m4s"]) {
        store.create(&ObjectName::new(*name), object(name)).await.expect("an unused name");
    }
    let listed = store.list(&folder, None).await.expect("listing works");
    let found: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(found, names, "all below the folder and nothing else");
    assert!(listed.iter().all(|listed| listed.size == listed.name.as_str().len() as u64));
    let rest = store.list(&folder, Some(&listed[1].name)).await.expect("listing works");
    assert_eq!(rest, listed[2..]);
    assert_eq!(store.list(&folder, listed.last().map(|last| &last.name)).await, Ok(Vec::new()));
    const { assert!(MAX_LISTED >= 4) };
}

async fn composing(store: &dyn Store) {
    let target = ObjectName::new("live/compose/whole.mp4");
    let parts: Vec<_> = (0..MAX_SOURCES).map(|n| ObjectName::new(format!("live/compose/{n}.m4s"))).collect();
    let mut whole = String::new();
    for part in &parts {
        store.create(part, object(part.as_str())).await.expect("an unused name");
        whole += part.as_str();
    }
    let missing = [parts[0].clone(), ObjectName::new("live/compose/nothing.m4s")];
    let compose = |sources| store.compose(&target, sources, content_type::VIDEO_INIT, Caching::Immutable);
    assert_eq!(compose(&missing).await, Err(StoreError::Missing));
    assert_eq!(text(store, &target).await, None);
    let (none, many) = ([], vec![parts[0].clone(); MAX_SOURCES + 1]);
    assert!(matches!(compose(&none).await, Err(StoreError::Refused(_))));
    assert!(matches!(compose(&many).await, Err(StoreError::Refused(_))));

    compose(&parts).await.expect("all are there");
    assert_eq!(text(store, &target).await, Some(whole));
    pause(store).await;
    compose(&parts).await.expect("again does no harm");
}

/// Starts all calls together and returns all their results.
async fn together<T>(calls: Vec<StoreFuture<'_, T>>) -> Vec<Result<T, StoreError>> {
    let mut calls: Vec<_> = calls.into_iter().map(|call| (call, None)).collect();
    std::future::poll_fn(|context| {
        for (call, result) in calls.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(ready) = call.as_mut().poll(context) {
                *result = Some(ready);
            }
        }
        if calls.iter().all(|(_, result)| result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    calls.into_iter().filter_map(|(_, result)| result).collect()
}
