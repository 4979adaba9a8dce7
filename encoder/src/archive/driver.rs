//! Runs a [`Recorder`] against a store on tokio, and finishes archives in the background. Decisions are the recorder's.

use super::load::{noted, unsealed};
use super::names::Place;
use super::recorder::{Recorder, Settings, Write};
use super::seal::{SealError, Sealed, seal};
use crate::publish::Playlists;
use crate::store::{Store, StoreError};
use hls::packager::{InitSegment, Segment};
use hls::{RungName, SessionId, Track, WallTime};
use metrics::counter;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info, warn};

/// One write.
const ATTEMPT: Duration = Duration::from_secs(30);
/// What the last page may take after a broadcast's end. What is not written then is found by whoever seals.
const LAST_PAGE_WITHIN: Duration = Duration::from_secs(30);

/// What remains of broadcasts: makes the recorder of each, and finishes archives one after the other in the background.
pub struct Keeper {
    store: Arc<dyn Store>,
    settings: Settings,
    /// Sealing is in no hurry, and copies whole broadcasts in a directory.
    one_at_a_time: Semaphore,
    /// Archives that are to be finished.
    unfinished: watch::Sender<usize>,
}

/// A running broadcast's archive. Clones share it. Nothing here waits for the store.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    recorder: Mutex<Recorder>,
    changed: Notify,
    started: Instant,
}

/// An archive and the task that writes it. The task answers where the archive is, unless nothing of it is to be sealed
/// here: another encoder goes on with it, or there was no media.
#[derive(Debug)]
pub struct Recording {
    /// The handle.
    pub archive: Archive,
    /// Ends after [`Archive::end`].
    pub task: JoinHandle<Option<Place>>,
}

/// A store's playlists, and an archive that is told what is told to them.
#[derive(Debug)]
pub struct Observed<P> {
    /// The playlists.
    pub playlists: P,
    /// The archive, where there is one.
    pub archive: Option<Archive>,
}

// === impl Keeper ===

impl Keeper {
    /// For all broadcasts of a process. Of `settings` each archive has its own target duration.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Arc<Self> {
        let (unfinished, _) = watch::channel(0);
        Arc::new(Self { store, settings, one_at_a_time: Semaphore::new(1), unfinished })
    }

    /// What a stream's archive is told at its start.
    pub fn settings(&self, target_duration: u32) -> Settings {
        Settings { target_duration, ..self.settings.clone() }
    }

    /// Begins the archive of the stream `{app}/{name}`, and finishes those that encoders before this one left behind.
    pub fn begin(self: &Arc<Self>, stream: &str, target_duration: u32, started: WallTime) -> Recording {
        self.seal_earlier(stream, SessionId::from_start(started.unix_micros(), 0));
        self.record(Recorder::new(stream, self.settings(target_duration)))
    }

    /// Writes an archive, new or resumed.
    pub fn record(&self, recorder: Recorder) -> Recording {
        let shared = Arc::new(Shared {
            recorder: Mutex::new(recorder),
            changed: Notify::new(),
            started: Instant::now(),
        });
        let task = tokio::spawn(drive(shared.clone(), self.store.clone()).in_current_span());
        Recording { archive: Archive { shared }, task }
    }

    /// The broadcast is over and its uploads are settled: finishes its archive in the background.
    pub fn finish(self: &Arc<Self>, recording: Recording) {
        recording.archive.end();
        let keeper = self.clone();
        self.in_background(async move {
            match recording.task.await {
                Ok(Some(place)) => keeper.seal(&place).await,
                Ok(None) => {}
                Err(error) => error!(%error, "writing an archive failed"),
            }
        });
    }

    /// Finishes a stream's archives whose encoder died: those that began before `before`.
    pub fn seal_earlier(self: &Arc<Self>, stream: &str, before: SessionId) {
        let (keeper, stream) = (self.clone(), stream.to_owned());
        self.in_background(async move {
            match unsealed(&keeper.store, &stream).await {
                Ok(places) => {
                    for place in places.into_iter().filter(|place| *place.session() < before) {
                        keeper.seal(&place).await;
                    }
                }
                Err(error) => warn!(%error, "cannot look for unfinished archives"),
            }
        });
    }

    /// Finishes the archives that an earlier process of this one's name left behind when it died: a container that is
    /// started again has the name that it had. `is_dead` says whether an owner was such a process.
    pub fn seal_own(self: &Arc<Self>, is_dead: impl Fn(&str) -> bool + Send + 'static) {
        let keeper = self.clone();
        self.in_background(async move {
            match noted(&keeper.store).await {
                Ok(noted) => {
                    let places =
                        noted.into_iter().filter(|(_, owner)| is_dead(owner)).map(|(place, _)| place);
                    for place in places.collect::<Vec<_>>() {
                        keeper.seal(&place).await;
                    }
                }
                Err(error) => warn!(%error, "cannot look for unfinished archives"),
            }
        });
    }

    /// Waits until nothing is left to be finished.
    pub async fn idle(&self) {
        let mut unfinished = self.unfinished.subscribe();
        // The sender is here.
        let _ = unfinished.wait_for(|count| *count == 0).await;
    }

    /// Counted from now on, so that whoever waits for [`Keeper::idle`] misses nothing.
    fn in_background(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let keeper = self.clone();
        keeper.unfinished.send_modify(|count| *count += 1);
        let task = async move {
            // A panic in it must not keep others waiting for ever.
            if let Err(error) = tokio::spawn(work.in_current_span()).await {
                error!(%error, "finishing an archive failed");
            }
            keeper.unfinished.send_modify(|count| *count -= 1);
        };
        tokio::spawn(task);
    }

    async fn seal(&self, place: &Place) {
        // Never closed.
        let _turn = self.one_at_a_time.acquire().await;
        let began = Instant::now();
        let sealed: Result<Sealed, SealError> = seal(&self.store, place).await;
        let outcome = match sealed {
            Ok(Sealed { already: true, .. }) => {
                // Whoever completed it died before it took the note away. Left there it costs the next one a look.
                if let Err(error) = self.store.remove(&place.note()).await {
                    debug!(archive = %place.folder(), %error, "the note on a complete archive remains");
                }
                "already"
            }
            Ok(sealed) => {
                info!(
                    archive = %place.folder(),
                    seconds = sealed.duration.as_secs_f64(),
                    segments = sealed.segments,
                    gaps = sealed.gaps,
                    compositions = sealed.compositions,
                    took_seconds = began.elapsed().as_secs_f64(),
                    "archive is complete"
                );
                "sealed"
            }
            Err(error) => {
                error!(archive = %place.folder(), %error, "archive is not complete: `encoder archive seal` goes on with it");
                "failed"
            }
        };
        counter!("encoder_archives_total", "result" => outcome).increment(1);
    }
}

// === impl Archive ===

impl Archive {
    /// See [`Recorder::packaged`]: before the segment is published.
    pub fn packaged(&self, segment: &Segment) {
        self.tell(|recorder| recorder.packaged(segment));
    }

    /// See [`Recorder::end`].
    pub fn end(&self) {
        self.tell(Recorder::end);
    }

    fn tell(&self, tell: impl FnOnce(&mut Recorder)) {
        tell(&mut self.shared.recorder());
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A panic in a decision is reported by the task that drives it; live goes on without an archive.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drive(shared: Arc<Shared>, store: Arc<dyn Store>) -> Option<Place> {
    let mut ended: Option<Instant> = None;
    loop {
        let (write, wake_at, finished) = {
            let (mut recorder, now) = (shared.recorder(), shared.started.elapsed());
            if recorder.is_ending() {
                ended.get_or_insert_with(Instant::now);
            }
            (recorder.poll(now), recorder.wake_at(), recorder.is_finished())
        };
        if finished {
            break;
        }
        if ended.is_some_and(|at| at.elapsed() > LAST_PAGE_WITHIN) {
            warn!(
                "the end of an archive's index is not stored: `encoder archive seal` reads it from the segments"
            );
            return None;
        }
        if let Some(write) = write {
            let result = attempt(&*store, write).await;
            shared.recorder().done(result, shared.started.elapsed());
            continue;
        }
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(shared.started + at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.changed.notified() => {}
            () = sleep => {}
        }
    }
    let recorder = shared.recorder();
    if recorder.is_fenced() {
        warn!("another encoder goes on with this stream's archive");
        return None;
    }
    recorder.place().cloned()
}

async fn attempt(store: &dyn Store, write: Write) -> Result<(), StoreError> {
    let (name, call) = match &write {
        Write::Create(name, object) => (name, store.create(name, object.clone())),
        Write::Replace(name, object) => (name, store.replace(name, object.clone())),
    };
    let result = tokio::time::timeout(ATTEMPT, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("no answer within {} s", ATTEMPT.as_secs())))
    });
    if let Err(error) = &result {
        debug!(object = %name, %error, "archive");
    }
    result
}

// === impl Observed ===

impl<P> Observed<P> {
    fn tell(&self, tell: impl FnOnce(&mut Recorder)) {
        if let Some(archive) = &self.archive {
            archive.tell(tell);
        }
    }
}

impl<P: Playlists> Playlists for Observed<P> {
    fn set_tracks(&mut self, tracks: &[Track]) {
        self.playlists.set_tracks(tracks);
        self.tell(|recorder| recorder.tracks(tracks));
    }

    fn add_init(&mut self, init: &InitSegment) {
        self.playlists.add_init(init);
        self.tell(|recorder| recorder.init_stored(&init.rung, &init.name));
    }

    fn add(&mut self, segment: &Segment, bytes: Option<u64>) {
        self.playlists.add(segment, bytes);
    }

    fn settled(&mut self, rung: &RungName, sequence: u64, stored: bool) {
        self.playlists.settled(rung, sequence, stored);
        self.tell(|recorder| recorder.settled(rung, sequence, stored));
    }

    fn fenced(&mut self) {
        self.playlists.fenced();
        self.tell(Recorder::fenced);
    }

    fn end(&mut self) {
        self.playlists.end();
    }

    fn media_playlist(&self, rung: &RungName) -> Option<String> {
        self.playlists.media_playlist(rung)
    }

    fn multivariant(&self) -> Option<String> {
        self.playlists.multivariant()
    }

    fn take_expired(&mut self) -> Vec<(RungName, String)> {
        self.playlists.take_expired()
    }
}
