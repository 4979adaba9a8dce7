//! A stream's I/O: the task that carries out what [`StreamCore`] decides, the stream's worker processes, and its clock.
//! Decisions do not belong here.

use super::anchor::Now;
use super::core::{Effect, StreamCore};
use super::delays::Stage;
use super::measured::Measured;
use super::report::MetricsReport;
use super::run::RunId;
use crate::delivery::outputs::{Acknowledged, Outputs};
use crate::stream::worker::budget::MemoryBudget;
use crate::stream::worker::child::shrink;
use crate::stream::worker::{Worker, WorkerEvent, WorkerFault, WorkerOptions};
use crate::wake::until;
use hls::RungName;
use hls::packager::Output;
use media::{MediaTime, WallTime};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{Instrument, debug, error, info, warn};
use transcode::wire::{Job, Request, Response};

/// Interval at which figures for operators are brought up to date while nothing else wakes the driver: counters in the
/// metrics, and the progress of the store in `/status`. No decision depends on it.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// How long a worker may take to exit after it reported that it has finished.
const EXIT_DEADLINE: Duration = Duration::from_secs(3);

/// A stream's state, shared by its publisher's connection, its workers and its driver. The lock is held for one
/// decision, never across an await.
pub(crate) struct SharedCore {
    state: Mutex<ScheduledCore>,
    /// Wakes the driver: there may be effects, or the driver has to tick the core earlier than it intends to.
    wake: Notify,
    /// Wakes the workers' feeders: there may be requests.
    feed: Notify,
    /// Notified when there are fewer requests queued for workers.
    room: Notify,
    /// Output statistics for operators.
    output: Mutex<Measured>,
}

/// A core, and when its driver ticks it next.
struct ScheduledCore {
    core: StreamCore,
    /// When the driver will tick the core, as far as it knows; `None` if it waits for events alone.
    next_tick: Option<Instant>,
}

/// Wakes the driver if a decision panics, which poisons the lock. To be declared before the lock is taken, because the
/// lock has to be poisoned when the driver looks.
struct WakeOnPanic<'a>(&'a Notify);

impl ScheduledCore {
    /// Whether the driver has to be woken.
    fn needs_driver(&self) -> bool {
        let is_earlier = |at| self.next_tick.is_none_or(|next| at < next);
        self.core.has_effects() || self.core.wake_at().is_some_and(is_earlier)
    }
}

impl Drop for WakeOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

impl SharedCore {
    /// Shares a core.
    pub(crate) fn new(core: StreamCore) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(ScheduledCore { core, next_tick: None }),
            wake: Notify::new(),
            feed: Notify::new(),
            room: Notify::new(),
            output: Mutex::default(),
        })
    }

    /// Passes an event to the core, then wakes the feeders and, if the event had effects or made an earlier tick
    /// necessary, the driver. Most published media only joins a segment: the driver sleeps through it.
    pub(crate) fn with<T>(&self, tell: impl FnOnce(&mut StreamCore, Now) -> T) -> T {
        let result = self.change(|core| tell(core, now()));
        self.feed.notify_waiters();
        result
    }

    /// Changes the core, then wakes the driver and the callers of [`Self::room`] as far as the change concerns them.
    fn change<T>(&self, change: impl FnOnce(&mut StreamCore) -> T) -> T {
        let _wake_on_panic = WakeOnPanic(&self.wake);
        let mut state = self.lock();
        let waiting = state.core.waiting_requests();
        let result = change(&mut state.core);
        let (has_room, needs_driver) = (state.core.waiting_requests() < waiting, state.needs_driver());
        drop(state);
        if has_room {
            self.room.notify_one();
        }
        if needs_driver {
            self.wake.notify_one();
        }
        result
    }

    /// Reads the core without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&StreamCore) -> T) -> T {
        let _wake_on_panic = WakeOnPanic(&self.wake);
        look(&self.lock().core)
    }

    /// Output statistics so far.
    pub(crate) fn output(&self) -> MutexGuard<'_, Measured> {
        // Statistics only: they remain usable after a panic in any holder of the lock.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until fewer than `limit` requests are queued for workers; for one caller, which feeds faster than live.
    pub(crate) async fn room(&self, limit: usize) {
        while self.look(StreamCore::waiting_requests) >= limit {
            self.room.notified().await;
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
    fn lock(&self) -> MutexGuard<'_, ScheduledCore> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes and returns when the driver has to tick the core next.
    fn schedule(&self) -> Option<Instant> {
        let mut state = self.lock();
        state.next_tick = state.core.wake_at();
        state.next_tick
    }

    /// Waits for the next request for a worker; `None` once its run is gone.
    async fn next_request(&self, id: RunId) -> Option<Request> {
        loop {
            let fed = self.feed.notified();
            tokio::pin!(fed);
            // Registered before the core is checked, so that no notification in between is missed.
            fed.as_mut().enable();
            let (request, has_run) =
                self.change(|core| (core.next_request(id, Instant::now()), core.has_run(id)));
            if request.is_some() || !has_run {
                return request;
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
pub(crate) async fn drive(shared: Arc<SharedCore>, outputs: Outputs, workers: WorkerOptions) -> StreamEnding {
    StreamDriver {
        shared,
        outputs,
        budget: MemoryBudget::new(workers.memory_limit),
        workers,
        tasks: JoinSet::new(),
        running: HashMap::new(),
        report: MetricsReport::default(),
    }
    .run()
    .await
}

/// The task that carries out a core's effects.
struct StreamDriver {
    shared: Arc<SharedCore>,
    outputs: Outputs,
    workers: WorkerOptions,
    /// The memory of all workers of the stream.
    budget: MemoryBudget,
    /// One task for each worker. Dropping this set kills the workers, however the driver ends.
    tasks: JoinSet<()>,
    running: HashMap<RunId, AbortHandle>,
    report: MetricsReport,
}

/// Rendition and end time of media.
type MediaEnd = (RungName, MediaTime);

impl StreamDriver {
    async fn run(mut self) -> StreamEnding {
        let mut figures = tokio::time::interval(FIGURES_EVERY);
        figures.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.carry_out() {
            if self.outputs.is_fenced() {
                drop(self.tasks);
                self.outputs.taken_over();
                return StreamEnding::TakenOver;
            }
            let tick_at = self.shared.schedule();
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = until(tick_at.map(Into::into)) => self.shared.with(StreamCore::tick),
                () = self.outputs.news() => {}
                Some(_) = self.tasks.join_next() => self.forget_ended(),
                _ = figures.tick() => {}
            }
        }
        drop(self.tasks);
        self.shared.report(&mut self.report);
        self.outputs.ended().await
    }

    /// Carries out what the core has decided. False if the stream ends.
    fn carry_out(&mut self) -> bool {
        if self.shared.state.is_poisoned() {
            error!("a decision failed: the stream is given up");
            return false;
        }
        self.shared.report(&mut self.report);
        let (effects, fresh) = self.take_effects();
        for effect in effects {
            if self.carry_out_one(effect).is_break() {
                return false;
            }
        }
        self.outputs.refresh();
        self.record_passages(&fresh);
        self.shared.output().stored(|| self.outputs.stored());
        true
    }

    /// Takes the core's effects, and notes the media that became available by them.
    fn take_effects(&mut self) -> (Vec<Effect>, Vec<MediaEnd>) {
        let (mut state, now) = (self.shared.lock(), now());
        let core = &mut state.core;
        let has_parts = core.has_parts();
        let (mut effects, mut fresh) = (Vec::new(), Vec::new());
        while let Some(effect) = core.poll() {
            if let Effect::Packaged(output) = &effect {
                if let Some((rung, end)) = new_media(output, has_parts) {
                    core.passed(Stage::Packaged, rung.as_str(), end, now);
                    fresh.push((rung.clone(), end));
                }
                if let Output::Segment(segment) = output {
                    self.shared.output().packaged(segment);
                }
            }
            effects.push(effect);
        }
        (effects, fresh)
    }

    fn carry_out_one(&mut self, effect: Effect) -> ControlFlow<()> {
        match effect {
            Effect::StartWorker(id, job) => self.start_worker(id, *job),
            Effect::StopWorker(id) => self.stop_worker(id),
            Effect::Epoch(tracks) => self.outputs.epoch(tracks),
            Effect::Packaged(output) => self.outputs.packaged(output),
            Effect::Thumbnail(picture) => self.outputs.thumbnail(picture),
            Effect::Ended => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn start_worker(&mut self, id: RunId, job: Job) {
        let memory = loop {
            match self.budget.make_room(shrink) {
                Ok(memory) => break memory,
                Err(oldest) => {
                    warn!(
                        worker = oldest.0,
                        "the memory of the stream's workers is short: what this one has not flushed is lost"
                    );
                    self.stop_worker(oldest);
                    self.shared.with(|core, now| core.worker_gone(oldest, now));
                }
            }
        };
        let options = WorkerOptions { span: tracing::Span::current(), ..self.workers.clone() };
        let worker = match Worker::spawn(options.with_memory(memory)) {
            Ok(worker) => worker,
            Err(error) => {
                error!(
                    worker = id.0,
                    %error,
                    "cannot start a worker: check the limits on processes and memory"
                );
                self.shared.with(|core, now| core.worker_gone(id, now));
                return;
            }
        };
        if let Some(pid) = worker.pid() {
            self.budget.started(id, pid, memory);
        }
        let task = run_worker(self.shared.clone(), id, job, worker);
        self.running.insert(id, self.tasks.spawn(task.in_current_span()));
    }

    fn stop_worker(&mut self, id: RunId) {
        self.budget.ended(id);
        if let Some(task) = self.running.remove(&id) {
            self.shared.output().worker_gone(id);
            // The task owns the child process; aborting the task kills the child.
            task.abort();
        }
    }

    fn forget_ended(&mut self) {
        let ended: Vec<RunId> =
            self.running.iter().filter(|(_, task)| task.is_finished()).map(|(id, _)| *id).collect();
        for id in ended {
            self.running.remove(&id);
            self.budget.ended(id);
        }
    }

    /// Records the ages of media that has just become readable at the origin, and of media that the store has
    /// acknowledged.
    fn record_passages(&self, fresh: &[MediaEnd]) {
        let stored = self.outputs.acknowledged();
        if fresh.is_empty() && stored.is_empty() {
            return;
        }
        let (mut state, now) = (self.shared.lock(), now());
        for (rung, end) in fresh {
            state.core.passed(Stage::Readable, rung.as_str(), *end, now);
        }
        for Acknowledged { rung, end, at } in stored {
            state.core.passed(Stage::Stored, rung.as_str(), end, at);
        }
    }
}

/// Rendition and end time of media that became available: a part, or a segment if no parts are made. A gap has no body
/// and therefore no age.
fn new_media(output: &Output, has_parts: bool) -> Option<(&RungName, MediaTime)> {
    match output {
        Output::Part(part) if part.body().is_some() => Some((&part.info().rung, part.info().end())),
        Output::Segment(segment) if !has_parts && segment.body().is_some() => {
            Some((&segment.info().rung, segment.info().end()))
        }
        Output::Init(_) | Output::Part(_) | Output::Segment(_) => None,
    }
}

/// Runs one worker: feeds it and passes its responses to the core until the worker exits, then reports the exit to the
/// core.
async fn run_worker(shared: Arc<SharedCore>, id: RunId, job: Job, mut worker: Worker) {
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
                } else if let Some(WorkerFault::Forbidden { call }) = exit.fault {
                    error!(
                        worker = id.0,
                        call,
                        "a worker made a system call that it may not make, and was killed: the publisher's media makes \
                         libav run foreign code, or libav needs this call; keep the recording and report both"
                    );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::core_tests::settings;
    use crate::stream::tests::{audio_config, unit_at, video_config};
    use ::media::Media;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    /// How long a test waits for what has to happen.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn shared() -> Arc<SharedCore> {
        SharedCore::new(StreamCore::new(settings("360p"), 0, Instant::now()))
    }

    fn publish(shared: &SharedCore, media: Media) {
        shared.with(|core, now| core.media(media, now.instant, now));
    }

    /// A stream whose worker has been started and has taken no request.
    fn encoded() -> Arc<SharedCore> {
        let shared = shared();
        shared.with(StreamCore::publisher_came).unwrap();
        publish(&shared, Media::VideoConfig(video_config(1280, 720)));
        publish(&shared, Media::AudioConfig(audio_config(2, 48_000, 2)));
        for ms in (0..1000).step_by(40) {
            publish(&shared, Media::Video(unit_at(ms, ms == 0)));
            publish(&shared, Media::Audio(unit_at(ms, true)));
        }
        shared
    }

    async fn is_woken(shared: &SharedCore) -> bool {
        tokio::time::timeout(Duration::ZERO, shared.wake.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn the_driver_is_woken_when_a_tick_is_due_earlier() {
        let shared = shared();
        assert!(shared.schedule().is_some(), "the end of the reconnect window");
        shared.with(StreamCore::publisher_came).unwrap();
        publish(&shared, Media::AudioConfig(audio_config(2, 48_000, 2)));
        assert!(!is_woken(&shared).await);
        publish(&shared, Media::Audio(unit_at(0, true)));
        assert!(is_woken(&shared).await, "video is waited for no longer than this");
        assert!(shared.schedule().is_some());
        publish(&shared, Media::Audio(unit_at(20, true)));
        assert!(!is_woken(&shared).await, "that changes nothing");
    }

    #[tokio::test]
    async fn the_driver_is_woken_when_a_worker_takes_work() {
        let shared = encoded();
        while shared.lock().core.poll().is_some() {}
        shared.with(|core, now| core.worker_said(RunId(0), Response::Opened(Vec::new()), now));
        while shared.next_request(RunId(0)).await.is_some() && shared.look(StreamCore::waiting_requests) > 0 {
        }
        shared.with(|core, now| core.worker_said(RunId(0), Response::Opened(Vec::new()), now));
        assert_eq!(shared.schedule(), None, "it owes nothing");
        is_woken(&shared).await;
        publish(&shared, Media::Video(unit_at(1000, true)));
        assert!(!is_woken(&shared).await);
        assert!(shared.next_request(RunId(0)).await.is_some());
        assert!(is_woken(&shared).await, "it owes a response");
    }

    #[tokio::test]
    async fn the_queue_of_a_dead_worker_makes_room() {
        let shared = encoded();
        shared.with(StreamCore::publisher_gone);
        assert!(shared.look(StreamCore::waiting_requests) > 0);
        let room = tokio::spawn({
            let shared = shared.clone();
            async move { shared.room(1).await }
        });
        tokio::task::yield_now().await;
        shared.with(|core, now| core.worker_gone(RunId(0), now));
        tokio::time::timeout(PATIENCE, room).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_driver_is_woken_when_a_decision_panics() {
        let shared = shared();
        assert!(shared.schedule().is_some());
        let decision = || shared.with(|_, _| resume_unwind(Box::new("a bug")));
        assert!(catch_unwind(AssertUnwindSafe(decision)).is_err());
        assert!(is_woken(&shared).await && shared.state.is_poisoned());
    }
}
