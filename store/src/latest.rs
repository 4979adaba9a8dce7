//! Writes an object of which only the newest version matters and no version is worth waiting for, such as a stream's
//! thumbnail. Objects that must not be lost, and writes that must not arrive late and win, belong in
//! the caller's delivery.

use super::{Object, ObjectName, Store};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{Instrument, debug};

/// Time-out of one write.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Writes the newest version, one write at a time. Versions that arrive during a write are dropped when a newer one
/// follows; failed writes are not retried. After a drop, the task still writes the last version it was given.
#[derive(Debug)]
pub struct LatestWriter {
    versions: watch::Sender<Option<Object>>,
}

impl LatestWriter {
    /// Starts a task that writes at most once per `pace`, and not more often than the store's rewrite interval
    /// allows.
    pub fn start(store: Arc<dyn Store>, name: ObjectName, pace: Duration) -> Self {
        let (versions, mut newest) = watch::channel(None);
        let pace = pace.max(store.rewrite_interval());
        let write = async move {
            while newest.changed().await.is_ok() {
                let Some(object) = newest.borrow_and_update().clone() else { continue };
                match tokio::time::timeout(ATTEMPT, store.replace(&name, object)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(object = %name, %error, "store"),
                    Err(_) => debug!(object = %name, "store: no answer"),
                }
                tokio::time::sleep(pace).await;
            }
        };
        tokio::spawn(write.in_current_span());
        Self { versions }
    }

    /// Queues a newer version. Never waits.
    pub fn put(&self, object: Object) {
        self.versions.send_replace(Some(object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{InjectedFault, MemoryStore};
    use crate::{Caching, content_type};

    fn picture(number: u8) -> Object {
        Object { body: vec![number].into(), content_type: content_type::JPEG, caching: Caching::None }
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_written_now_and_then_and_the_last_in_any_case() {
        let store = MemoryStore::new();
        let pace = Duration::from_secs(4);
        let newest = LatestWriter::start(Arc::new(store.clone()), ObjectName::new("a/b/thumb.jpg"), pace);
        for number in 0..40 {
            newest.put(picture(number));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        drop(newest);
        tokio::time::sleep(2 * pace).await;
        assert_eq!(store.get("a/b/thumb.jpg").unwrap().body[..], [39]);
        let calls = store.calls();
        assert!((5..=7).contains(&calls.len()), "{}", calls.len());
        assert!(calls.windows(2).all(|pair| pair[1].at - pair[0].at >= pace));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_costs_a_picture() {
        let store = MemoryStore::new();
        let mut calls = 0;
        store.set_faults(move |_| {
            calls += 1;
            if calls == 1 { InjectedFault::Hang } else { InjectedFault::None }
        });
        let newest = LatestWriter::start(Arc::new(store.clone()), ObjectName::new("a/b/thumb.jpg"), ATTEMPT);
        newest.put(picture(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        newest.put(picture(2));
        tokio::time::sleep(3 * ATTEMPT).await;
        assert_eq!(store.get("a/b/thumb.jpg").unwrap().body[..], [2]);
    }
}
