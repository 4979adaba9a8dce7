//! Runs a [`DeliveryPlan`] against a store on tokio. The plan makes every decision; the clock, the tasks and the
//! metrics are here.

use super::outputs::Acknowledged;
use super::spool::StreamSpool;
use super::{
    Answer, DeliveryCounters, DeliveryEvent, DeliveryPlan, DeliverySettings, Gap, Inherited, ListedSegment,
    Playlists, Spool, StoreJob, StoreJobId, StoreWork,
};
use crate::archive::Archive;
use crate::logging::{counts, nonzero};
use crate::stream::driver::now;
use crate::telemetry::GaugeShare;
use crate::wake::until;
use metrics::{counter, histogram};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use store::{Store, StoreError, within};
use tokio::sync::Notify;
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument, debug, error, info, warn};

/// Shortest time between two log lines about failures and gaps: a full disk fails many times a second.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Who reads a stream's ledger: the playlists in the store, and listeners.
pub trait Readers {
    /// The playlists.
    type Playlists: Playlists;

    /// Separates the playlists, which the [`DeliveryPlan`] renders, from the listeners, which the [`Delivery`] tells.
    fn split(self) -> (Self::Playlists, FateListeners);
}

/// What learns of the segments' fates besides the playlists.
#[derive(Debug, Default)]
pub struct FateListeners {
    /// Told which segments are listed as readable, and when.
    acknowledged: Option<mpsc::SyncSender<Acknowledged>>,
    /// Told each segment's final fate.
    archive: Option<Archive>,
    /// The archive knows that another encoder has taken the stream over.
    told_of_fence: bool,
}

/// Publishes one stream. Dropping it ends the stream as [`DeliveryEvent::End`] does.
#[derive(Debug)]
pub struct Delivery<R: Readers> {
    shared: Arc<DeliveryShared<R::Playlists>>,
}

#[derive(Debug)]
struct DeliveryShared<P> {
    state: Mutex<State<P>>,
    changed: Notify,
    /// Notified when segments were listed, and when another encoder was found to write the playlists.
    news: Notify,
    started: Instant,
}

#[derive(Debug)]
struct State<P> {
    plan: DeliveryPlan<P>,
    listeners: FateListeners,
}

// === impl FateListeners ===

impl FateListeners {
    /// A listener to what is listed, and an archive if one is kept.
    pub(super) fn new(acknowledged: mpsc::SyncSender<Acknowledged>, archive: Option<Archive>) -> Self {
        Self { acknowledged: Some(acknowledged), archive, told_of_fence: false }
    }

    /// A new epoch begins.
    fn tracks(&self, event: &DeliveryEvent) {
        if let (DeliveryEvent::Tracks(tracks), Some(archive)) = (event, &self.archive) {
            archive.tracks(tracks);
        }
    }

    /// Passes on what the plan has decided. Returns whether segments were listed, or another encoder was found to
    /// write the playlists.
    fn update<P: Playlists>(&mut self, plan: &mut DeliveryPlan<P>) -> bool {
        let listed = plan.take_listed();
        let mut has_news = !listed.is_empty();
        for ListedSegment { rung, end } in listed {
            if let Some(acknowledged) = &self.acknowledged {
                // The receiver is gone once the stream is over. A full queue costs a sample of a statistic.
                let _ = acknowledged.try_send(Acknowledged { rung, end, at: now() });
            }
        }
        // Before the fates of what is not uploaded any more: the archive belongs to the other encoder.
        if plan.counters().fenced && !std::mem::replace(&mut self.told_of_fence, true) {
            self.archive.iter().for_each(Archive::fenced);
            has_news = true;
        }
        while let Some(settled) = plan.next_settled() {
            if let Some(archive) = &self.archive {
                archive.settled(settled);
            }
        }
        has_news
    }
}

// === impl Publisher ===

impl<R: Readers> Delivery<R> {
    /// Starts publishing below `prefix` (`{app}/{name}`). The task ends after [`DeliveryEvent::End`], once everything
    /// is written or given up ([`DeliverySettings::seal_within`]), and returns the counters.
    pub fn start(
        store: Arc<dyn Store>,
        prefix: impl Into<String>,
        readers: R,
        settings: DeliverySettings,
    ) -> (Self, JoinHandle<DeliveryCounters>) {
        Self::resume(store, None, prefix, readers, settings, Vec::new())
    }

    /// Like [`Delivery::start`], with a disk for late segments and with playlists that were taken over. If another
    /// encoder has written one of these playlists since the takeover, nothing is stored ([`DeliveryCounters::fenced`]).
    pub fn resume(
        store: Arc<dyn Store>,
        spool: Option<&Spool>,
        prefix: impl Into<String>,
        readers: R,
        mut settings: DeliverySettings,
        inherited: Vec<Inherited>,
    ) -> (Self, JoinHandle<DeliveryCounters>) {
        settings.playlist_interval = settings.playlist_interval.max(store.rewrite_interval());
        settings.spool_bytes = spool.map_or(0, Spool::bytes);
        let disk = spool.map(|spool| Arc::new(spool.stream()));
        let (playlists, listeners) = readers.split();
        let plan = DeliveryPlan::resume(prefix, playlists, settings, inherited);
        let shared = Arc::new(DeliveryShared {
            state: Mutex::new(State { plan, listeners }),
            changed: Notify::new(),
            news: Notify::new(),
            started: Instant::now(),
        });
        let task = tokio::spawn(drive(Arc::clone(&shared), store, disk).in_current_span());
        (Self { shared }, task)
    }

    /// Takes an event. Never waits for the store: holds a lock only for as long as a decision takes.
    pub fn input(&self, event: DeliveryEvent) {
        self.shared.with(|State { plan, listeners }, now| {
            listeners.tracks(&event);
            plan.input(event, now);
        });
        self.shared.changed.notify_one();
    }

    /// A copy of the counters.
    pub fn counters(&self) -> DeliveryCounters {
        self.shared.state().plan.counters().clone()
    }

    /// Waits until segments were listed, or another encoder was found to write the playlists, since the last call
    /// returned. For one caller at a time.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// See [`DeliveryCounters::fenced`].
    pub fn is_fenced(&self) -> bool {
        self.shared.state().plan.counters().fenced
    }

    /// Bytes of segments that wait for the store or are being written.
    #[cfg(any(test, feature = "testing"))]
    pub fn waiting_bytes(&self) -> usize {
        self.shared.state().plan.waiting_bytes()
    }
}

impl<R: Readers> Drop for Delivery<R> {
    fn drop(&mut self) {
        self.input(DeliveryEvent::End);
    }
}

// === impl Shared ===

impl<P: Playlists> DeliveryShared<P> {
    fn state(&self) -> MutexGuard<'_, State<P>> {
        // A panic inside the plan is a bug that the driver's task reports; the live path continues without a store.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the plan, and passes on what the listeners learn by that.
    fn with<T>(&self, call: impl FnOnce(&mut State<P>, Duration) -> T) -> T {
        let mut state = self.state();
        let result = call(&mut state, self.started.elapsed());
        let State { plan, listeners } = &mut *state;
        if listeners.update(plan) {
            self.news.notify_one();
        }
        result
    }
}

async fn drive<P: Playlists>(
    shared: Arc<DeliveryShared<P>>,
    store: Arc<dyn Store>,
    disk: Option<Arc<StreamSpool>>,
) -> DeliveryCounters {
    let mut attempts = JoinSet::new();
    let mut jobs: HashMap<Id, StoreJobId> = HashMap::new();
    let mut reported = DeliveryCounters::default();
    // Of several buckets, the stream's own.
    let location = store.location_of(&shared.state().plan.multivariant());
    let mut logged = LoggedFailures::default();
    let mut waiting = GaugeShare::new("encoder_store_waiting_bytes");
    let mut spooled = GaugeShare::new("encoder_spool_bytes");
    loop {
        let (wake_at, finished) = shared.with(|State { plan, .. }, now| {
            while let Some(job) = plan.poll(now) {
                let id = job.id;
                let attempt = attempts.spawn(attempt(Arc::clone(&store), disk.clone(), job));
                jobs.insert(attempt.id(), id);
            }
            report(plan.counters(), &mut reported);
            logged.update(plan.counters(), &location);
            waiting.set(plan.waiting_bytes() as f64);
            spooled.set(plan.spooled_bytes() as f64);
            logged.spooling(plan.counters(), plan.spooled_bytes());
            (plan.wake_at(), plan.is_finished())
        });
        if finished {
            break;
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = until(wake_at.map(|at| shared.started + at)) => {}
            Some(ended) = attempts.join_next_with_id() => {
                let (task, result) = match ended {
                    Ok((task, result)) => (task, result),
                    // The store panicked: a bug, but no reason to end the stream.
                    Err(error) => (error.id(), Err(StoreError::Unavailable(error.to_string()))),
                };
                if let Some(id) = jobs.remove(&task) {
                    shared.with(|state, now| state.plan.done(id, result, now));
                }
            }
        }
    }
    if let Some(disk) = disk {
        tokio::task::spawn_blocking(move || disk.clear());
    }
    let counters = shared.with(|State { plan, .. }, _| {
        plan.close();
        plan.counters().clone()
    });
    log_end(&counters, &location);
    counters
}

/// Logs how the stream was stored.
fn log_end(counters: &DeliveryCounters, location: &str) {
    let &DeliveryCounters { segments, bytes, playlists, .. } = counters;
    let (gaps, troubles) = (counts(counters.gaps_by_reason()), counts(counters.troubles()));
    let last_failure = counters.last_failure.as_deref();
    if counters.fenced {
        error!(location, "another encoder writes this stream's playlists: this one stores no more");
    } else if counters.sealed {
        info!(location, segments, bytes, playlists, gaps, troubles, "stream is stored and sealed");
    } else {
        warn!(
            location,
            segments,
            bytes,
            playlists,
            gaps,
            troubles,
            last_failure,
            "stream is stored without its last playlists: check the store and the encoder's rights there"
        );
    }
}

async fn attempt(
    store: Arc<dyn Store>,
    disk: Option<Arc<StreamSpool>>,
    job: StoreJob,
) -> Result<Answer, StoreError> {
    let StoreJob { work, timeout, .. } = job;
    let (kind, name) = match &work {
        StoreWork::Create(name, _) => ("segment", name),
        StoreWork::Read(name) => ("read", name),
        StoreWork::Replace(name, _, _) => ("playlist", name),
        StoreWork::Remove(name) => ("removal", name),
        StoreWork::Spool(..) | StoreWork::Unspool(_) | StoreWork::Discard(_) => {
            return on_disk(disk, work, timeout).await;
        }
    };
    let call = async {
        Ok(match &work {
            StoreWork::Create(name, object) => {
                store.create(name, object.clone()).await?;
                Answer::Done
            }
            StoreWork::Read(name) => Answer::Read(store.read(name).await?),
            StoreWork::Replace(name, object, expected) => {
                Answer::Written(store.replace_if(name, object.clone(), *expected).await?)
            }
            StoreWork::Remove(name) => {
                store.remove(name).await?;
                Answer::Done
            }
            StoreWork::Spool(..) | StoreWork::Unspool(_) | StoreWork::Discard(_) => Answer::Done,
        })
    };
    let began = Instant::now();
    let result = within(timeout, call).await;
    let outcome = match &result {
        Ok(_) => "ok",
        Err(StoreError::Unavailable(_)) => "unavailable",
        Err(StoreError::Exists) => "exists",
        Err(StoreError::Changed) => "changed",
        Err(StoreError::Missing) => "missing",
        Err(StoreError::Refused(_)) => "refused",
    };
    counter!("encoder_store_writes_total", "kind" => kind, "result" => outcome).increment(1);
    match &result {
        Ok(_) => {
            histogram!("encoder_store_seconds", "kind" => kind).record(began.elapsed().as_secs_f64());
        }
        Err(error) => {
            debug!(object = %name, %error, retryable = error.is_retryable(), "store");
        }
    }
    result
}

/// Runs a disk job off the threads that streams run on. A disk job that hangs blocks a thread of the blocking pool,
/// not a stream.
async fn on_disk(
    disk: Option<Arc<StreamSpool>>,
    work: StoreWork,
    timeout: Duration,
) -> Result<Answer, StoreError> {
    let Some(disk) = disk else { return Err(StoreError::Refused("there is no spool".into())) };
    let call = tokio::task::spawn_blocking(move || {
        Ok(match &work {
            StoreWork::Spool(id, body) => {
                disk.write(*id, body)?;
                Answer::Done
            }
            StoreWork::Unspool(id) => Answer::Body(disk.read(*id)?),
            StoreWork::Discard(id) => {
                disk.discard(*id);
                Answer::Done
            }
            StoreWork::Create(..) | StoreWork::Read(_) | StoreWork::Replace(..) | StoreWork::Remove(_) => {
                Answer::Done
            }
        })
    });
    within(timeout, async {
        match call.await {
            Ok(result) => result.map_err(|error: std::io::Error| StoreError::Unavailable(error.to_string())),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    })
    .await
}

/// What was last logged about failures.
#[derive(Debug, Default)]
struct LoggedFailures {
    at: Option<Instant>,
    failures: u64,
    gaps: u64,
    is_spooling: bool,
    spool_full: u64,
    spool_failures: u64,
    spool_failed_at: Option<Instant>,
}

impl LoggedFailures {
    fn update(&mut self, now: &DeliveryCounters, location: &str) {
        // What the packager lacked is no fault of the store.
        let of_the_store = now.gaps.iter().filter(|(reason, _)| **reason != Gap::Packager);
        let gaps = of_the_store.map(|(_, count)| count).sum();
        let news = now.failures > self.failures || gaps > self.gaps;
        if !news || self.at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        warn!(
            location,
            failures = nonzero(now.failures - self.failures),
            gaps = nonzero(gaps - self.gaps),
            gaps_so_far = counts(now.gaps_by_reason()),
            last_failure = now.last_failure.as_deref(),
            "segments are late or missing in the store: check the store and the way to it"
        );
        (self.at, self.failures, self.gaps) = (Some(Instant::now()), now.failures, gaps);
    }

    /// Logs each change once: spooling started, spooling ended, spool full, spool failed.
    fn spooling(&mut self, now: &DeliveryCounters, bytes: u64) {
        if !self.is_spooling && now.spooled > 0 && bytes > 0 {
            self.is_spooling = true;
            warn!(bytes, "the store is slow: late segments wait on disk");
        } else if self.is_spooling && bytes == 0 {
            self.is_spooling = false;
            info!(segments = now.spooled, "nothing waits on disk any more");
        }
        if now.spool_full > self.spool_full {
            self.spool_full = now.spool_full;
            warn!(
                bytes,
                "the spool is full: segments of the largest renditions are given up first; a larger --spool holds more"
            );
        }
        if now.spool_failures > self.spool_failures
            && self.spool_failed_at.is_none_or(|at| at.elapsed() >= LOG_EVERY)
        {
            self.spool_failures = now.spool_failures;
            self.spool_failed_at = Some(Instant::now());
            warn!(
                error = now.last_spool_failure.as_deref(),
                "the spool fails: segments wait in memory alone for a while; check the disk of --spool"
            );
        }
    }
}

/// Shows the counters of all streams from the start, as zero.
pub(crate) fn show_counters() {
    report(&DeliveryCounters::default(), &mut DeliveryCounters::default());
}

/// Brings the process's metrics up to the plan's counters.
fn report(now: &DeliveryCounters, reported: &mut DeliveryCounters) {
    counter!("encoder_store_segments_total").increment(now.segments - reported.segments);
    counter!("encoder_store_bytes_total").increment(now.bytes - reported.bytes);
    counter!("encoder_store_late_total").increment(now.late - reported.late);
    counter!("encoder_store_lost_total").increment(now.lost - reported.lost);
    counter!("encoder_store_playlists_total").increment(now.playlists - reported.playlists);
    counter!("encoder_spool_segments_total").increment(now.spooled - reported.spooled);
    counter!("encoder_spool_full_total").increment(now.spool_full - reported.spool_full);
    counter!("encoder_spool_failures_total").increment(now.spool_failures - reported.spool_failures);
    for (reason, count) in &now.gaps {
        let before = reported.gaps.get(reason).copied().unwrap_or(0);
        counter!("encoder_store_gaps_total", "reason" => reason.as_str()).increment(count - before);
    }
    reported.clone_from(now);
}

#[cfg(test)]
mod tests;
