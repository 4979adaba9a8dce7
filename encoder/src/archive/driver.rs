//! Runs a [`Recorder`] against a store on tokio, and finishes archives in the background. The recorder makes the
//! decisions.

use super::announce::announce;
use super::load::{noted, unsealed};
use super::names::ArchivePlace;
use super::recorder::{ArchiveSettings, Recorder, Write};
use super::resume::go_on;
use super::seal::{SealError, Sealed, seal};
use crate::events::{Events, StreamEvents};
use crate::logging::{nonzero, rounded};
use crate::wake::until;
use hls::ledger::Settled;
use hls::resume::Past;
use hls::{Segment, SessionId, Track};
use media::WallTime;
use metrics::counter;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Store, StoreError, within};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info, warn};

/// Time-out of one write.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Longest time for the last page after a broadcast's end. If it is not stored by then, sealing reads its contents
/// from the segments.
const LAST_PAGE_WITHIN: Duration = Duration::from_secs(30);
/// Longest time for reading what another encoder left of an archive. The stream's events are buffered meanwhile: a
/// minute of media at most, which the origin holds anyway. After that, a new archive begins.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// The archive manager of a process: creates the recorder of each broadcast, and finishes archives one after the other
/// in the background.
pub struct ArchiveManager {
    store: Arc<dyn Store>,
    /// This process, in the form of `archive::owner`.
    owner: String,
    /// Sealing is not urgent, and copies whole broadcasts in a directory store.
    one_at_a_time: Semaphore,
    /// Number of archives that are still to be finished.
    unfinished: watch::Sender<usize>,
    /// Who is told of complete archives.
    events: Events,
    /// Streams that began here, until the search for archives of dead processes is done: the search may read a note on
    /// one of these streams before another encoder overwrites that note, and in a container the dead process had the
    /// same process ID.
    begun: Mutex<Option<BTreeSet<String>>>,
}

/// Handle of a running broadcast's archive. Clones share the archive. No call here waits for the store.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Arc<RecordingShared>,
}

#[derive(Debug)]
struct RecordingShared {
    state: Mutex<RecorderState>,
    changed: Notify,
    started: Instant,
}

#[derive(Debug)]
enum RecorderState {
    /// The archive that another encoder left is being read. Events are buffered meanwhile, in order.
    Reading(Vec<RecordingEvent>),
    Open(Box<Recorder>),
}

/// An event for a recorder.
#[derive(Debug)]
enum RecordingEvent {
    Tracks(Vec<Track>),
    Packaged(Box<Segment>),
    Settled(Settled),
    Fenced,
    End,
}

/// An archive and the task that writes it. The task returns the archive's place, unless there is nothing to seal here:
/// another encoder continues the archive, or there was no media.
#[derive(Debug)]
pub struct RecordingHandle {
    /// The archive's handle.
    pub archive: Archive,
    /// Ends after `Archive::end`.
    pub task: JoinHandle<Option<ArchivePlace>>,
    /// The stream's handle, which knows what the stream's back end wants to find again.
    pub(crate) events: Option<StreamEvents>,
}

// === impl Keeper ===

impl ArchiveManager {
    /// The manager of a process without a receiver of events.
    #[cfg(any(test, feature = "testing"))]
    pub fn new(store: Arc<dyn Store>, owner: String) -> Arc<Self> {
        Self::with_events(store, owner, Events::default())
    }

    /// Creates the manager for all broadcasts of the process `owner`, in the form of `archive::owner`. It tells of each
    /// archive that is complete.
    pub(crate) fn with_events(store: Arc<dyn Store>, owner: String, events: Events) -> Arc<Self> {
        let (unfinished, _) = watch::channel(0);
        Arc::new(Self {
            store,
            owner,
            one_at_a_time: Semaphore::new(1),
            unfinished,
            events,
            begun: Mutex::new(Some(BTreeSet::new())),
        })
    }

    /// Begins the archive of the stream `{app}/{name}`, and finishes that stream's archives that earlier
    /// encoders left unfinished. The manager adds the owner to `settings`.
    pub fn begin(
        self: &Arc<Self>,
        stream: &str,
        settings: ArchiveSettings,
        started: WallTime,
    ) -> RecordingHandle {
        self.seal_earlier(stream, SessionId::from_start(started.unix_micros(), 0));
        self.begins(stream);
        let recorder = Recorder::new(stream, self.own(settings));
        let shared = RecordingShared::new(RecorderState::Open(Box::new(recorder)));
        let task = drive(shared.clone(), self.store.clone());
        RecordingHandle {
            archive: Archive { shared },
            task: tokio::spawn(task.in_current_span()),
            events: None,
        }
    }

    /// Continues the archive of a stream that was taken over: `past` is what its playlists list. If there is no such
    /// archive, or none that can be read within a minute, a new one begins.
    pub fn go_on(self: &Arc<Self>, stream: &str, settings: ArchiveSettings, past: Past) -> RecordingHandle {
        let settings = self.own(settings);
        let shared = RecordingShared::new(RecorderState::Reading(Vec::new()));
        let archive = Archive { shared: shared.clone() };
        self.begins(stream);
        let (manager, stream) = (self.clone(), stream.to_owned());
        let task = async move {
            let read = go_on(&manager.store, &stream, settings.clone(), &past);
            let recorder = match tokio::time::timeout(READ_WITHIN, read).await {
                Ok(Ok(recorder)) => recorder,
                Ok(Err(error)) => {
                    warn!(%error, "what another encoder left of the archive cannot be read: a new one begins");
                    None
                }
                Err(_) => {
                    warn!("what another encoder left of the archive is not read in time: a new one begins");
                    None
                }
            };
            if let Some(place) = recorder.as_ref().and_then(Recorder::place) {
                info!(archive = %place.folder(), "goes on with the archive that another encoder began");
            }
            shared.open(recorder.unwrap_or_else(|| Recorder::new(stream, settings)));
            drive(shared, manager.store.clone()).await
        };
        RecordingHandle { archive, task: tokio::spawn(task.in_current_span()), events: None }
    }

    fn own(&self, settings: ArchiveSettings) -> ArchiveSettings {
        ArchiveSettings { owner: self.owner.clone(), ..settings }
    }

    fn begins(&self, stream: &str) {
        if let Some(begun) = &mut *self.begun() {
            begun.insert(stream.to_owned());
        }
    }

    fn begun(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        // The code that holds the lock cannot panic, and a set of names has no half-updated state.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes the archive of a broadcast that is over and whose uploads are settled, in the background.
    pub fn finish(self: &Arc<Self>, recording: RecordingHandle) {
        self.in_background(self.clone().finishing(recording));
    }

    /// Like [`ArchiveManager::finish`], for a broadcast whose last playlists the store did not accept: the archive is
    /// finished if the store recovers within a minute or so, but [`ArchiveManager::idle`] does not wait for that.
    pub fn finish_in_background(self: &Arc<Self>, recording: RecordingHandle) {
        tokio::spawn(self.clone().finishing(recording).in_current_span());
    }

    async fn finishing(self: Arc<Self>, recording: RecordingHandle) {
        recording.archive.end();
        match recording.task.await {
            Ok(Some(place)) => self.seal(&place, recording.events.as_ref()).await,
            Ok(None) => {}
            Err(error) => {
                error!(%error, "writing an archive failed: `encoder archive seal` completes what is stored")
            }
        }
    }

    /// Finishes a stream's archives that began before `before` and whose encoder died.
    pub fn seal_earlier(self: &Arc<Self>, stream: &str, before: SessionId) {
        let (manager, stream) = (self.clone(), stream.to_owned());
        self.in_background(async move {
            match unsealed(&manager.store, &stream).await {
                Ok(places) => {
                    for place in places.into_iter().filter(|place| *place.session() < before) {
                        manager.seal(&place, None).await;
                    }
                }
                Err(error) => warn!(%error, "cannot look for unfinished archives: `encoder archive seal` completes them"),
            }
        });
    }

    /// Finishes the archives that an earlier process with this process's name left when it died: a restarted container
    /// keeps its name. `is_dead` says whether an owner was such a process. The search begins after the delay `after`,
    /// because a publisher may come back to this encoder or to another one and continue.
    pub fn seal_own(self: &Arc<Self>, after: Duration, is_dead: impl Fn(&str) -> bool + Send + 'static) {
        let manager = self.clone();
        tokio::spawn(async move {
            // [`ArchiveManager::idle`] does not wait for this delay: the next process searches too.
            tokio::time::sleep(after).await;
            manager.seal_dead(is_dead);
        });
    }

    /// Like [`ArchiveManager::seal_own`] without a delay; [`ArchiveManager::idle`] waits for it.
    pub(super) fn seal_dead(self: &Arc<Self>, is_dead: impl Fn(&str) -> bool + Send + 'static) {
        let manager = self.clone();
        self.in_background(async move {
            match noted(&manager.store).await {
                Ok(noted) => {
                    let places =
                        noted.into_iter().filter(|(_, owner)| is_dead(owner)).map(|(place, _)| place);
                    for place in places.collect::<Vec<_>>() {
                        let is_own = |begun: &BTreeSet<String>| begun.contains(place.stream());
                        if !manager.begun().as_ref().is_some_and(is_own) {
                            manager.seal(&place, None).await;
                        }
                    }
                }
                Err(error) => warn!(%error, "cannot look for unfinished archives: `encoder archive seal` completes them"),
            }
            *manager.begun() = None;
        });
    }

    /// Waits until no archive is left to be finished.
    pub async fn idle(&self) {
        let mut unfinished = self.unfinished.subscribe();
        // Cannot fail: `self` owns the sender.
        let _ = unfinished.wait_for(|count| *count == 0).await;
    }

    /// Runs work in the background. It is counted before this call returns, so [`ArchiveManager::idle`] misses nothing.
    fn in_background(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let manager = self.clone();
        manager.unfinished.send_modify(|count| *count += 1);
        let work = work.in_current_span();
        let task = async move {
            // A panic in the work must not block callers of [`ArchiveManager::idle`] forever.
            if let Err(error) = tokio::spawn(work).await {
                error!(%error, "finishing an archive failed: `encoder archive seal` goes on with it");
            }
            manager.unfinished.send_modify(|count| *count -= 1);
        };
        tokio::spawn(task.in_current_span());
    }

    /// `stream` is the stream's handle, if the stream was this process's.
    async fn seal(&self, place: &ArchivePlace, stream: Option<&StreamEvents>) {
        // Cannot fail: the semaphore is never closed.
        let _turn = self.one_at_a_time.acquire().await;
        let began = Instant::now();
        let sealed: Result<Sealed, SealError> = seal(&self.store, place).await;
        if let Ok(sealed) = &sealed {
            announce(&self.events, stream, &self.store.location_of(&place.folder()), place, sealed);
        }
        let outcome = match sealed {
            Ok(Sealed { already: true, .. }) => {
                // The process that completed the archive died before it removed the note. If the note remains, it
                // costs the next search one look.
                if let Err(error) = within(ATTEMPT, self.store.remove(&place.note())).await {
                    debug!(archive = %place.folder(), %error, "the note on a complete archive remains");
                }
                "already"
            }
            Ok(sealed) => {
                info!(
                    archive = %place.folder(),
                    seconds = rounded(sealed.duration.as_secs_f64()),
                    segments = sealed.segments,
                    gaps = nonzero(sealed.gaps as u64),
                    compositions = sealed.compositions,
                    took_seconds = rounded(began.elapsed().as_secs_f64()),
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
    /// See [`Recorder::packaged`]. Call it before the segment is published.
    pub fn packaged(&self, segment: &Segment) {
        self.tell(RecordingEvent::Packaged(Box::new(segment.clone())));
    }

    /// See [`Recorder::tracks`].
    pub fn tracks(&self, tracks: &[Track]) {
        self.tell(RecordingEvent::Tracks(tracks.to_vec()));
    }

    /// See [`Recorder::settled`].
    pub fn settled(&self, settled: Settled) {
        self.tell(RecordingEvent::Settled(settled));
    }

    /// See [`Recorder::fenced`].
    pub fn fenced(&self) {
        self.tell(RecordingEvent::Fenced);
    }

    /// See [`Recorder::end`].
    pub fn end(&self) {
        self.tell(RecordingEvent::End);
    }

    fn tell(&self, told: RecordingEvent) {
        match &mut *self.shared.state() {
            RecorderState::Open(recorder) => told.to(recorder),
            RecorderState::Reading(waiting) => waiting.push(told),
        }
        self.shared.changed.notify_one();
    }
}

impl RecordingEvent {
    fn to(self, recorder: &mut Recorder) {
        match self {
            Self::Tracks(tracks) => recorder.tracks(&tracks),
            Self::Packaged(segment) => recorder.packaged(&segment),
            Self::Settled(settled) => recorder.settled(&settled),
            Self::Fenced => recorder.fenced(),
            Self::End => recorder.end(),
        }
    }
}

impl RecordingShared {
    fn new(state: RecorderState) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), started: Instant::now() })
    }

    fn state(&self) -> MutexGuard<'_, RecorderState> {
        // The task that drives the recorder reports a panic in a decision; live continues without an archive.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the buffered events to the recorder and installs it.
    fn open(&self, mut recorder: Recorder) {
        let mut state = self.state();
        if let RecorderState::Reading(waiting) = &mut *state {
            waiting.drain(..).for_each(|told| told.to(&mut recorder));
        }
        *state = RecorderState::Open(Box::new(recorder));
    }

    /// Calls `ask` with the recorder; `None` while the archive is still being read.
    fn with<T>(&self, ask: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
        match &mut *self.state() {
            RecorderState::Open(recorder) => Some(ask(recorder)),
            RecorderState::Reading(_) => None,
        }
    }
}

/// Executes the recorder's writes until it is finished.
async fn drive(shared: Arc<RecordingShared>, store: Arc<dyn Store>) -> Option<ArchivePlace> {
    let mut ended: Option<Instant> = None;
    loop {
        let now = shared.started.elapsed();
        let (write, wake_at, finished) = shared.with(|recorder| {
            if recorder.is_ending() {
                ended.get_or_insert_with(Instant::now);
            }
            (recorder.poll(now), recorder.wake_at(), recorder.is_finished())
        })?;
        if finished {
            break;
        }
        if ended.is_some_and(|at| at.elapsed() > LAST_PAGE_WITHIN) {
            warn!("the end of an archive's index is not stored: it is read from the segments");
            return shared.with(|recorder| recorder.place().cloned()).flatten();
        }
        if let Some(write) = write {
            let result = attempt(&*store, write).await;
            let now = shared.started.elapsed();
            shared.with(|recorder| recorder.done(result, now));
            continue;
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = until(wake_at.map(|at| shared.started + at)) => {}
        }
    }
    let (fenced, place) = shared.with(|recorder| (recorder.is_fenced(), recorder.place().cloned()))?;
    if fenced {
        warn!("another encoder goes on with this stream's archive");
        return None;
    }
    place
}

async fn attempt(store: &dyn Store, write: Write) -> Result<(), StoreError> {
    let (name, call) = match &write {
        Write::Create(name, object) => (name, store.create(name, object.clone())),
        Write::Replace(name, object) => (name, store.replace(name, object.clone())),
    };
    let result = within(ATTEMPT, call).await;
    if let Err(error) = &result {
        debug!(object = %name, %error, "archive");
    }
    result
}
