//! What every store does, as one test body.

use super::{Caching, Object, ObjectName, Store, StoreError, content_type};
use bytes::Bytes;

fn object(body: &str) -> Object {
    Object {
        body: Bytes::copy_from_slice(body.as_bytes()),
        content_type: content_type::VIDEO_SEGMENT,
        caching: Caching::Immutable,
    }
}

/// Runs the contract against an empty store; `read` looks at an object from outside.
pub(crate) async fn check(store: &dyn Store, read: impl Fn(&ObjectName) -> Option<Bytes>) {
    let name = ObjectName::new("live/demo/720p/s-1.m4s");
    let other = ObjectName::new("live/demo/720p/s-2.m4s");
    assert_eq!(read(&name), None);

    store.create(&name, object("first")).await.expect("an unused name");
    assert_eq!(read(&name).as_deref(), Some(&b"first"[..]), "readable once acknowledged");

    let error = store.create(&name, object("second")).await.expect_err("the name is used");
    assert!(matches!(error, StoreError::Exists), "{error:?}");
    assert_eq!(read(&name).as_deref(), Some(&b"first"[..]), "a refused write changes nothing");

    store.replace(&name, object("third")).await.expect("over an object");
    store.replace(&other, object("new")).await.expect("where there was none");
    assert_eq!(read(&name).as_deref(), Some(&b"third"[..]));
    assert_eq!(read(&other).as_deref(), Some(&b"new"[..]));

    store.remove(&name).await.expect("an object");
    store.remove(&name).await.expect("removing what is not there succeeds");
    store.remove(&ObjectName::new("no/such/folder/x.m4s")).await.expect("nor is its folder");
    assert_eq!(read(&name), None);
    assert_eq!(read(&other).as_deref(), Some(&b"new"[..]), "neighbours stay");

    // Whoever loses the race for a name must know it: exactly one of many wins.
    let contested = ObjectName::new("live/demo/720p/s-3.m4s");
    let bodies: Vec<String> = (0..8).map(|n| format!("writer {n}")).collect();
    let mut won = Vec::new();
    let mut calls: Vec<_> =
        bodies.iter().map(|body| (body, store.create(&contested, object(body)))).collect();
    // Started together, then each awaited.
    std::future::poll_fn(|context| {
        calls.retain_mut(|(body, call)| match call.as_mut().poll(context) {
            std::task::Poll::Ready(Ok(())) => {
                won.push(body.clone());
                false
            }
            std::task::Poll::Ready(Err(error)) => {
                assert!(matches!(error, StoreError::Exists), "{error:?}");
                false
            }
            std::task::Poll::Pending => true,
        });
        if calls.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(won.len(), 1);
    assert_eq!(read(&contested).as_deref(), Some(won[0].as_bytes()));
    assert!(!store.location().is_empty());
}
