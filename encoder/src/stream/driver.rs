//! A stream's I/O: the task that carries out what [`StreamCore`] decides, the stream's worker processes, and its clock.
//! Decisions do not belong here.

use super::anchor::Now;
use super::core::{Effect, StreamCore};
use super::delays::Stage;
use super::measured::Measured;
use super::report::MetricsReport;
use super::run::RunId;
use crate::delivery::outputs::{Acknowledged, Outputs};
use crate::stream::worker::{Worker, WorkerEvent, WorkerOptions};
use hls::RungName;
use hls::packager::Output;
use media::{MediaTime, WallTime};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument, debug, error, info, warn};
use transcode::wire::{Job, Request, Response};

/// Interval at which the core's time-driven decisions run; all of these allow half a second or more.
const TICK: Duration = Duration::from_millis(100);
/// How long a worker may take to exit after it reported that it has finished.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);

/// A stream's state, shared by its publisher's connection, its workers and its driver. The lock is held for one
/// decision, never across an await.
pub(crate) struct SharedCore {
    core: Mutex<StreamCore>,
    /// Wakes the driver: there may be effects.
    wake: Notify,
    /// Wakes the workers' feeders: there may be requests.
    feed: Notify,
    /// Notified when a request was taken from a queue.
    taken: Notify,
    /// Output statistics for operators.
    output: Mutex<Measured>,
}

impl SharedCore {
    /// Shares a core.
    pub(crate) fn new(core: StreamCore) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(core),
            wake: Notify::new(),
            feed: Notify::new(),
            taken: Notify::new(),
            output: Mutex::default(),
        })
    }

    /// Passes an event to the core, then wakes the feeders and, if the event had effects, the driver. Most published
    /// media only joins a segment and has no effect: the driver sleeps through it.
    pub(crate) fn with<T>(&self, tell: impl FnOnce(&mut StreamCore, Now) -> T) -> T {
        let (result, wanted) = {
            let mut core = self.lock();
            let result = tell(&mut core, now());
            (result, core.has_effects())
        };
        if wanted {
            self.wake.notify_one();
        }
        self.feed.notify_waiters();
        result
    }

    /// Reads the core without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&StreamCore) -> T) -> T {
        look(&self.lock())
    }

    /// Output statistics so far.
    pub(crate) fn output(&self) -> MutexGuard<'_, Measured> {
        // Statistics only: they remain usable after a panic in any holder of the lock.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until fewer than `limit` requests are queued for workers; for callers that feed faster than live.
    pub(crate) async fn room(&self, limit: usize) {
        while self.look(StreamCore::waiting_requests) >= limit {
            // When a worker dies, its queued requests disappear without a notification: check again after a while.
            let _ = tokio::time::timeout(TICK, self.taken.notified()).await;
        }
    }

    fn report(&self, report: &mut MetricsReport) {
        let (stream, packager) = self.look(|core| (core.counters(), core.packager_counters()));
        if !report.is_current(&stream, &packager) {
            report.bring_up(stream, packager);
        }
    }

    /// A panic in a decision poisons the lock. The driver then gives the stream up; until then all other callers still
    /// get answers.
    fn lock(&self) -> MutexGuard<'_, StreamCore> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next request for a worker; `None` once its run is gone.
    async fn next_request(&self, id: RunId) -> Option<Request> {
        loop {
            let fed = self.feed.notified();
            tokio::pin!(fed);
            // Registered before the core is checked, so that no notification in between is missed.
            fed.as_mut().enable();
            {
                let mut core = self.lock();
                if let Some(request) = core.next_request(id, Instant::now()) {
                    self.taken.notify_one();
                    return Some(request);
                }
                if !core.has_run(id) {
                    return None;
                }
            }
            fed.await;
        }
    }
}

/// Reads the monotonic and the wall clock together.
pub(crate) fn now() -> Now {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Now {
        instant: Instant::now(),
        wall: WallTime::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX)),
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnding {
    /// The stream is over.
    Ended,
    /// Another encoder writes the stream's playlists: the stream continues there.
    TakenOver,
}

/// Runs a stream until it has ended and everything is written, or until another encoder has taken it over.
pub(crate) async fn drive(
    shared: Arc<SharedCore>,
    mut outputs: Outputs,
    workers: WorkerOptions,
) -> StreamEnding {
    // Dropping this set kills the workers, however this function ends.
    let mut tasks = JoinSet::new();
    let mut running: HashMap<RunId, AbortHandle> = HashMap::new();
    let has_parts = shared.look(StreamCore::has_parts);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut report = MetricsReport::default();
    'stream: loop {
        if shared.core.is_poisoned() {
            error!("a decision failed: the stream is given up");
            break;
        }
        let mut fresh: Vec<(RungName, MediaTime)> = Vec::new();
        shared.report(&mut report);
        let effects: Vec<Effect> = {
            let (mut core, now) = (shared.lock(), now());
            let mut effects = Vec::new();
            while let Some(effect) = core.poll() {
                if let Effect::Packaged(output) = &effect {
                    if let Some((rung, end)) = new_media(output, has_parts) {
                        core.passed(Stage::Packaged, rung.as_str(), end, now);
                        fresh.push((rung.clone(), end));
                    }
                    if let Output::Segment(segment) = output {
                        shared.output().packaged(segment);
                    }
                }
                effects.push(effect);
            }
            effects
        };
        for effect in effects {
            match effect {
                Effect::StartWorker(id, job) => {
                    let task = run_worker(shared.clone(), id, *job, workers.clone());
                    running.insert(id, tasks.spawn(task.in_current_span()));
                }
                // The task owns the child process; aborting the task kills the child.
                Effect::StopWorker(id) => {
                    if let Some(task) = running.remove(&id) {
                        shared.output().worker_gone(id);
                        task.abort();
                    }
                }
                Effect::Epoch(tracks) => outputs.epoch(tracks),
                Effect::Packaged(output) => outputs.packaged(output),
                Effect::Thumbnail(picture) => outputs.thumbnail(picture),
                Effect::Ended => break 'stream,
            }
        }
        outputs.refresh();
        let stored = outputs.acknowledged();
        if !fresh.is_empty() || !stored.is_empty() {
            let (mut core, now) = (shared.lock(), now());
            for (rung, end) in &fresh {
                core.passed(Stage::Readable, rung.as_str(), *end, now);
            }
            for Acknowledged { rung, end, at } in stored {
                core.passed(Stage::Stored, rung.as_str(), end, at);
            }
        }
        shared.output().stored(|| outputs.stored());
        if outputs.is_fenced() {
            drop(tasks);
            outputs.taken_over();
            return StreamEnding::TakenOver;
        }
        running.retain(|_, task| !task.is_finished());
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            () = shared.wake.notified() => {}
            _ = ticks.tick() => shared.lock().tick(now()),
        }
    }
    drop(tasks);
    shared.report(&mut report);
    outputs.ended().await
}

/// Rendition and end time of media that became available: a part, or a segment if no parts are made. A gap has no body
/// and therefore no age.
fn new_media(output: &Output, has_parts: bool) -> Option<(&RungName, MediaTime)> {
    match output {
        Output::Part(part) if part.body.is_some() => Some((&part.rung, part.start + part.duration)),
        Output::Segment(segment) if !has_parts && segment.body.is_some() => {
            Some((&segment.rung, segment.start + segment.duration))
        }
        Output::Init(_) | Output::Part(_) | Output::Segment(_) => None,
    }
}

/// Runs one worker: feeds it and passes its responses to the core until the worker exits, then reports the exit to the
/// core.
async fn run_worker(shared: Arc<SharedCore>, id: RunId, job: Job, options: WorkerOptions) {
    let options = WorkerOptions { span: tracing::Span::current(), ..options };
    let mut worker = match Worker::spawn(options) {
        Ok(worker) => worker,
        Err(error) => {
            error!(
                worker = id.0,
                %error,
                "cannot start a worker: check the limits on processes and memory"
            );
            shared.with(|core, now| core.worker_gone(id, now));
            return;
        }
    };
    debug!(worker = id.0, pid = worker.pid().unwrap_or(0), rungs = job.rungs.len(), "worker started");
    let requests = worker.requests.clone();
    let feeder = {
        let shared = shared.clone();
        async move {
            if requests.send(Request::Start(job)).await.is_err() {
                return;
            }
            while let Some(request) = shared.next_request(id).await {
                let last = matches!(request, Request::Finish);
                // A broken pipe means that the worker has ended; the loop below handles that.
                if requests.send(request).await.is_err() || last {
                    return;
                }
            }
        }
    };
    // In a set, so that the feeder is aborted together with this task.
    let mut feeders = JoinSet::new();
    feeders.spawn(feeder.in_current_span());
    let (mut finished, mut killed) = (false, false);
    loop {
        let patience = if finished { EXIT_DEADLINE } else { Duration::MAX };
        let Ok(event) = tokio::time::timeout(patience, worker.next()).await else {
            if std::mem::replace(&mut killed, true) {
                warn!(worker = id.0, "a killed worker does not end: it is left to the system");
                break;
            }
            warn!(worker = id.0, "worker has finished and does not end: it is killed");
            worker.kill();
            continue;
        };
        shared.output().worker_memory(id, worker.resident());
        match event {
            Some(WorkerEvent::Response(response)) => {
                finished |= response == Response::Finished;
                shared.with(|core, now| core.worker_said(id, response, now))
            }
            Some(WorkerEvent::Exited(exit)) => {
                if exit.is_clean() {
                    info!(worker = id.0, "worker finished");
                } else {
                    let fault = exit.fault.as_ref().map(ToString::to_string);
                    warn!(worker = id.0, ending = %exit.ending, fault, "worker died");
                }
                break;
            }
            None => break,
        }
    }
    shared.output().worker_gone(id);
    shared.with(|core, now| core.worker_gone(id, now));
}
