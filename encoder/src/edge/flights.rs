//! Work that many callers wait for and that is done once: a caller that comes while the work is under way joins it. What
//! the work is belongs to the callers.

use super::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Most pieces of work under way. Each waits for at most a few answers of an encoder or of the store.
const MOST_FLIGHTS: usize = 16_384;

/// Results to come, by the name of the work.
type ByName<T> = Mutex<HashMap<Arc<str>, watch::Receiver<Option<T>>>>;

/// Work under way, by name.
#[derive(Debug)]
pub(super) struct Flights<T>(Arc<ByName<T>>);

/// A piece of work under way.
#[derive(Debug)]
pub(super) struct Flight<T>(watch::Receiver<Option<T>>);

/// What came of asking for work.
#[derive(Debug)]
pub(super) enum Boarded<T> {
    /// The work had begun before.
    Joined(Flight<T>),
    /// The work begins.
    Begun(Flight<T>),
    /// The work is done already.
    Done(T),
    /// Too much is under way.
    Full,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Joins the work of that name, or begins the work. The work goes on when the waiting callers have left. `done` is
    /// asked before work begins: other work of that name may have ended since the caller looked. Work that publishes its
    /// result before it ends is therefore never done twice.
    pub(super) fn board<F>(
        &self,
        name: Arc<str>,
        done: impl FnOnce() -> Option<T>,
        work: impl FnOnce() -> F,
    ) -> Boarded<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(&name) {
            return Boarded::Joined(Flight(flight.clone()));
        }
        if let Some(done) = done() {
            return Boarded::Done(done);
        }
        if flights.len() >= MOST_FLIGHTS {
            return Boarded::Full;
        }
        let (landed, flight) = watch::channel(None);
        flights.insert(Arc::clone(&name), flight.clone());
        drop(flights);
        let landing = Landing { flights: Arc::clone(&self.0), name };
        let work = work();
        tokio::spawn(async move {
            let result = work.await;
            drop(landing);
            landed.send_replace(Some(result));
        });
        Boarded::Begun(Flight(flight))
    }

    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        lock(&self.0).len()
    }
}

impl<T: Clone> Flight<T> {
    /// Waits until the work has ended. `None` if it panicked.
    pub(super) async fn landed(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Takes work out of the list when it ends, also by a panic.
struct Landing<T> {
    flights: Arc<ByName<T>>,
    name: Arc<str>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.name);
    }
}
