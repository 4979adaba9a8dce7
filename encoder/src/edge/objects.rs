//! What an edge keeps in memory: objects by their whole path, in a bounded number of bytes, each fetched once however
//! many requests wait for it. Where objects are fetched from does not belong here.

use super::flights::{Boarded, Flights};
use crate::origin::CachedObject;
use metrics::{counter, gauge};
use quick_cache::sync::Cache;
use quick_cache::{OptionsBuilder, Weighter};
use std::sync::Arc;
use std::time::Duration;
use store::content_type;
use tokio::time::Instant;

/// Bytes that an entry takes beside its body and its name.
const ENTRY_BYTES: usize = 512;
/// Bytes of the least object, for the number of entries that the cache makes room for in advance.
const TYPICAL_BYTES: u64 = 64 * 1024;

/// Least bytes of a shard of the cache, where there are several: room for four of the largest objects.
const SHARD_BYTES: u64 = 128 << 20;
/// Most shards. A shard's lock is held for a look-up, so a few are enough for many cores.
const MOST_SHARDS: usize = 16;

/// What came of a fetch.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The object.
    Found(Arc<CachedObject>),
    /// There is no such object.
    Missing,
    /// Neither encoder nor store answered.
    Failed,
}

/// How long an object may be kept without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Its name is never reused. That it is missing is not remembered.
    ForEver,
    /// It may change. That it is missing is remembered as long.
    For(Duration),
}

/// The objects.
#[derive(Debug)]
pub(super) struct Objects {
    cache: Cache<Arc<str>, Entry, Weight>,
    flights: Flights<Outcome>,
}

#[derive(Clone, Debug)]
struct Entry {
    outcome: Outcome,
    until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Arc<str>, Entry> for Weight {
    fn weight(&self, name: &Arc<str>, entry: &Entry) -> u64 {
        let body = match &entry.outcome {
            // A compressed copy may be kept beside a playlist. It is made later, when the weight no longer changes.
            Outcome::Found(object) if object.object.content_type == content_type::PLAYLIST => {
                2 * object.object.body.len()
            }
            Outcome::Found(object) => object.object.body.len(),
            Outcome::Missing | Outcome::Failed => 0,
        };
        (body + name.len() + ENTRY_BYTES) as u64
    }
}

impl Objects {
    /// Keeps `bytes` at most, the bodies of answers that are being sent not counted.
    pub(super) fn new(bytes: u64) -> Arc<Self> {
        let entries = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).max(64);
        // By default there are four for each core, and what is larger than a shard is not kept.
        let shards = usize::try_from(bytes / SHARD_BYTES).unwrap_or(usize::MAX).clamp(1, MOST_SHARDS);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(bytes)
            .shards(shards)
            .build()
            .expect("both capacities are given");
        let cache = Cache::with_options(options, Weight, Default::default(), Default::default());
        Arc::new(Self { cache, flights: Flights::default() })
    }

    /// An object, or that it is missing, if that is known and current.
    pub(super) fn get(&self, name: &str) -> Option<Outcome> {
        let entry = self.cache.get(name)?;
        if entry.until.is_some_and(|until| until <= Instant::now()) {
            return None;
        }
        counter!("encoder_edge_objects_total", "how" => "hit").increment(1);
        Some(entry.outcome)
    }

    /// Fetches an object, or waits for the fetch of that object that is under way. The fetch goes on when the waiting
    /// callers have left. If the fetch fails, the answer is the older version of the object in memory, if any.
    pub(super) async fn fetch<F>(
        self: &Arc<Self>,
        name: Arc<str>,
        keep: Keep,
        fetch: impl FnOnce() -> F,
    ) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (objects, key) = (Arc::clone(self), Arc::clone(&name));
        // An object is kept before its flight ends.
        let boarded = self.flights.board(
            Arc::clone(&name),
            || self.get(&name),
            || {
                let fetch = fetch();
                async move { objects.settle(&key, keep, fetch.await) }
            },
        );
        let (how, flight) = match boarded {
            Boarded::Joined(flight) => ("joined", flight),
            Boarded::Begun(flight) => ("fetched", flight),
            Boarded::Done(outcome) => return outcome,
            Boarded::Full => return Outcome::Failed,
        };
        counter!("encoder_edge_objects_total", "how" => how).increment(1);
        flight.landed().await.unwrap_or(Outcome::Failed)
    }

    /// The newest version of an object that is known, however old.
    pub(super) fn newest(&self, name: &str) -> Option<Arc<CachedObject>> {
        match self.cache.peek(name)?.outcome {
            Outcome::Found(object) => Some(object),
            Outcome::Missing | Outcome::Failed => None,
        }
    }

    fn settle(&self, name: &Arc<str>, keep: Keep, outcome: Outcome) -> Outcome {
        let until = match (keep, &outcome) {
            (_, Outcome::Failed) => {
                return self.cache.get(name).map_or(Outcome::Failed, |entry| entry.outcome);
            }
            (Keep::ForEver, Outcome::Missing) => return outcome,
            (Keep::ForEver, Outcome::Found(_)) => None,
            (Keep::For(time), Outcome::Found(_) | Outcome::Missing) => Some(Instant::now() + time),
        };
        self.cache.insert(Arc::clone(name), Entry { outcome: outcome.clone(), until });
        outcome
    }

    /// Shows how much is kept.
    pub(super) fn show(&self) {
        gauge!("encoder_edge_cache_bytes").set(self.cache.weight() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use store::{Caching, Object};
    use tokio::sync::oneshot;

    fn object(length: usize) -> Outcome {
        let body = vec![0; length].into();
        let object = Object { body, content_type: content_type::VIDEO_SEGMENT, caching: Caching::Immutable };
        Outcome::Found(Arc::new(CachedObject::new(object, None)))
    }

    fn is_found(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Found(_))
    }

    #[tokio::test]
    async fn what_many_wait_for_is_fetched_once_even_if_the_first_leaves() {
        let objects = Objects::new(1 << 20);
        let (arrive, arrived) = oneshot::channel();
        let first = objects.fetch("a".into(), Keep::ForEver, || async move {
            arrived.await.unwrap();
            object(10)
        });
        // Polled once, and left.
        assert!(first.now_or_never().is_none());
        let again = || -> std::future::Ready<Outcome> { panic!("fetched twice") };
        let mut waiting: Vec<_> =
            (0..1000).map(|_| Box::pin(objects.fetch("a".into(), Keep::ForEver, again))).collect();
        for fetch in &mut waiting {
            assert!(fetch.as_mut().now_or_never().is_none());
        }
        arrive.send(()).unwrap();
        for fetch in waiting {
            assert!(is_found(&fetch.await));
        }
        assert!(is_found(&objects.get("a").unwrap()));
        assert_eq!(objects.flights.under_way(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_shared_and_not_remembered() {
        let objects = Objects::new(1 << 20);
        let tries = Arc::new(AtomicUsize::new(0));
        for expected in 1..4 {
            let counted = Arc::clone(&tries);
            let first = objects.fetch("a".into(), Keep::ForEver, || async move {
                counted.fetch_add(1, Ordering::SeqCst);
                Outcome::Missing
            });
            let other = objects.fetch("a".into(), Keep::ForEver, || async { object(1) });
            let (first, other) = tokio::join!(first, other);
            assert!(matches!((first, other), (Outcome::Missing, Outcome::Missing)));
            assert_eq!(tries.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_change_is_asked_for_again_and_outlives_those_who_are_asked() {
        let objects = Objects::new(1 << 20);
        let keep = Keep::For(Duration::from_secs(1));
        let fetch = async |outcome: Outcome| objects.fetch("a".into(), keep, || async move { outcome }).await;
        assert!(matches!(fetch(Outcome::Missing).await, Outcome::Missing));
        assert!(matches!(fetch(object(1)).await, Outcome::Missing), "remembered");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(is_found(&fetch(object(1)).await));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(objects.get("a").is_none());
        assert!(is_found(&fetch(Outcome::Failed).await), "the older version");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let objects = Objects::new(1 << 20);
        for number in 0..1000 {
            let name = format!("{number}").into();
            objects.fetch(name, Keep::ForEver, || async { object(100_000) }).await;
            assert!(objects.cache.weight() <= 1 << 20, "{}", objects.cache.weight());
        }
    }

    #[tokio::test]
    async fn a_long_segment_is_kept_in_a_small_cache() {
        let objects = Objects::new(16 << 20);
        for name in ["a", "b"] {
            objects.fetch(name.into(), Keep::ForEver, || async { object(5 << 20) }).await;
            assert!(objects.get(name).is_some_and(|outcome| is_found(&outcome)), "{name}");
        }
    }

    #[tokio::test]
    async fn compressed_copies_of_playlists_are_within_the_bound() {
        let objects = Objects::new(1 << 20);
        let playlist = || async {
            let body = vec![b'#'; 100_000].into();
            let object = Object { body, content_type: content_type::PLAYLIST, caching: Caching::None };
            Outcome::Found(Arc::new(CachedObject::new(object, None)))
        };
        objects.fetch("a".into(), Keep::ForEver, playlist).await;
        assert!(objects.cache.weight() >= 200_000, "{}", objects.cache.weight());
    }

    #[tokio::test]
    async fn a_fetch_that_panics_leaves_nothing_behind() {
        let objects = Objects::new(1 << 20);
        let fetch = || async { panic!("a fault of the fetch") };
        assert!(matches!(objects.fetch("a".into(), Keep::ForEver, fetch).await, Outcome::Failed));
        assert!(is_found(&objects.fetch("a".into(), Keep::ForEver, || async { object(1) }).await));
    }
}
