//! The polling loop around a [`Checker`]: one thread that watches a live stream until it is stopped.

use super::{Checker, Fetched, Settings, Violation};
use crate::http::{self, Client, Response};
use crate::patience;
use chrono::Utc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval between two fetches of every playlist.
const INTERVAL: Duration = Duration::from_millis(150);

/// The multivariant playlist is fetched once per this many rounds.
const MULTIVARIANT_EVERY: u32 = 10;

/// A running watch. [`Watch::finish`] or dropping it stops the thread.
pub struct Watch {
    checker: Arc<Mutex<Checker>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the stream whose multivariant playlist is at `url`. The playlist must already exist.
    pub fn start(url: &str, settings: Settings) -> Self {
        let checker = Arc::new(Mutex::new(Checker::new(settings)));
        let stop = Arc::new(AtomicBool::new(false));
        let round = Round { url: url.to_owned(), client: Client::default(), start: Instant::now() };
        let thread = std::thread::spawn({
            let (checker, stop) = (checker.clone(), stop.clone());
            move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    round.run(&checker, count);
                    count += 1;
                    patience::pause(INTERVAL);
                }
            }
        });
        Self { checker, stop, thread: Some(thread) }
    }

    /// Locks the checker between two fetches.
    pub fn checker(&self) -> MutexGuard<'_, Checker> {
        lock(&self.checker)
    }

    /// Stops watching and returns the checker.
    pub fn finish(mut self) -> Checker {
        self.join();
        std::mem::replace(&mut *lock(&self.checker), Checker::new(Settings::default()))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.join();
    }
}

/// Text of a report, one violation per line.
pub fn report(violations: &[Violation]) -> String {
    violations.iter().map(|v| format!("{v}\n")).collect()
}

fn lock(checker: &Mutex<Checker>) -> MutexGuard<'_, Checker> {
    checker.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Round {
    url: String,
    client: Client,
    start: Instant,
}

impl Round {
    fn run(&self, checker: &Mutex<Checker>, count: u32) {
        if count.is_multiple_of(MULTIVARIANT_EVERY) {
            self.fetch(checker, &self.url, &self.url, |checker, fetched| {
                checker.multivariant("multivariant", fetched);
            });
        }
        let playlists = lock(checker).multivariant_seen().map(|m| m.playlists()).unwrap_or_default();
        for rendition in playlists {
            let url = http::join(&self.url, &rendition);
            let mut wishes = Vec::new();
            self.fetch(checker, &rendition, &url, |checker, fetched| {
                wishes = checker.media(&rendition, fetched)
            });
            for wish in wishes {
                let object = http::join(&url, &wish.uri);
                self.fetch(checker, &rendition, &object, |checker, fetched| {
                    checker.object(&rendition, &wish.uri, wish.kind, fetched);
                });
            }
        }
        let due = lock(checker).retention_due(self.start.elapsed());
        for (rendition, uri) in due {
            let object = http::join(&http::join(&self.url, &rendition), &uri);
            self.fetch(checker, &rendition, &object, |checker, fetched| {
                checker.retained(&rendition, &uri, fetched)
            });
        }
    }

    /// Fetches a URL; a server that does not answer counts as status 0.
    fn fetch(
        &self,
        checker: &Mutex<Checker>,
        _place: &str,
        url: &str,
        take: impl FnOnce(&mut Checker, Fetched<'_>),
    ) {
        let response = self.client.get(url).unwrap_or_else(|error| Response {
            status: 0,
            headers: Vec::new(),
            body: format!("{error:#}").into(),
            took: Duration::ZERO,
        });
        let fetched = Fetched { at: self.start.elapsed(), wall: Utc::now(), response: &response };
        take(&mut lock(checker), fetched);
    }
}
