//! A worker process seen from the supervisor: starting it, its three pipes, its memory, its exit. [`crate::stream`]
//! decides when a worker is started, replaced or abandoned; nothing here restarts a worker.
//!
//! A worker cannot outlive its supervisor: the worker's stdin is closed when the supervisor dies, for any reason, and
//! the worker exits at the end of its stdin (or, when it hangs, once it notices that its parent changed). A
//! parent-death signal is not used: Linux ties it to the thread that started the child, and the runtime's threads are
//! created and destroyed at any time. The worker confines itself ([`transcode::confine`]) and can start no process that
//! would outlive it.

use super::stderr::{Lines, StderrLine};
use crate::telemetry::GaugeShare;
use bytes::BytesMut;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;
use transcode::OUT_OF_MEMORY;
use transcode::confine::{ConfineOptions, Confinement, confined_command, forbidden_call};
use transcode::wire::protocol::{FrameReader, FrameWriter, ProtocolError};
use transcode::wire::{Request, Response};

/// Capacity of the request queue between the caller and the pipe, in messages of up to 16 MiB each. Kept minimal:
/// requests in this queue can no longer be shed.
const REQUESTS: usize = 2;
/// Capacity of the queue of decoded responses. When the queue is full, the worker's pipe fills and the worker blocks.
const EVENTS: usize = 32;
/// Interval between checks of the worker's memory.
const MEMORY_EVERY: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 << 10;
/// Time after the worker's exit to drain its stderr; what is left in the pipe then is discarded.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time for a worker to report what confines it: it may have to be read from a cold disk.
const REPORT_WITHIN: Duration = Duration::from_secs(10);
/// Time for the worker to exit by itself after it has closed its stdin; then it is killed.
const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The program to run: this binary, except in tests.
    pub program: PathBuf,
    /// The program's arguments.
    pub arguments: Vec<OsString>,
    /// The worker is killed when its resident memory exceeds this many bytes.
    pub memory_limit: u64,
    /// The stream's tracing span; the worker's log lines are recorded in this span.
    pub span: tracing::Span,
}

impl WorkerOptions {
    /// Options to run this binary's hidden subcommand `transcode-worker`, confined as `confine` says.
    ///
    /// # Errors
    /// When the system does not report the path of this binary.
    pub fn this_binary(confine: &ConfineOptions, span: tracing::Span) -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut arguments: Vec<OsString> =
            vec!["transcode-worker".into(), "--sandbox".into(), confine.mode.name().into()];
        if confine.devices {
            arguments.push("--devices".into());
        }
        Ok(Self { program, arguments, memory_limit: confine.memory.unwrap_or(u64::MAX), span })
    }

    /// The same with another memory limit, in bytes, which the kernel enforces as well.
    #[must_use]
    pub fn with_memory(mut self, limit: u64) -> Self {
        self.arguments.extend(["--memory".into(), limit.to_string().into()]);
        Self { memory_limit: limit, ..self }
    }

    /// Starts a worker only to learn what confines it.
    ///
    /// # Errors
    /// When no process can be started, or the worker cannot be confined as it has to be: the system's configuration.
    /// The text is for the operator.
    pub(crate) async fn confinement(&self) -> Result<Confinement, String> {
        let output = worker_command(self).arg("--report").stdin(Stdio::null()).output();
        let output = tokio::time::timeout(REPORT_WITHIN, output)
            .await
            .map_err(|_| "a worker does not report within 10 seconds".to_owned())?
            .map_err(|error| format!("cannot start a worker: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let said = said.trim().trim_start_matches("worker: ");
            return Err(if said.is_empty() { output.status.to_string() } else { said.to_owned() });
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }
}

/// An event of a running worker.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A message from the worker.
    Response(Response),
    /// The worker exited. Always sent, and always the last event.
    Exited(WorkerExit),
}

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnding {
    /// It exited with this code; see [`transcode::TranscodeError::exit_code`].
    Code(i32),
    /// It was killed by this signal: 9 is also the kernel's out-of-memory killer, 11 and 6 are crashes.
    Signal(i32),
    /// The system did not report a status.
    Unknown,
}

impl fmt::Display for ProcessEnding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// A fault of a worker, or the reason why it was killed, as seen by the supervisor.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFault {
    /// The worker reached its memory limit: an allocation failed, or it was killed. A new worker may be started
    /// immediately.
    #[error("worker reached its memory limit of {limit} bytes; {resident} were resident at the last look")]
    Memory {
        /// Resident bytes at the last check.
        resident: u64,
        /// [`WorkerOptions::memory_limit`].
        limit: u64,
    },
    /// The worker violated the protocol and was killed.
    #[error("worker broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The worker's output ended in the middle of a message.
    #[error("worker's output was cut off")]
    CutOff,
    /// The worker was killed because [`Worker::kill`] was called or the [`Worker`] was dropped.
    #[error("worker was killed on request")]
    Killed,
    /// The worker made a system call that it is not allowed to make, and the kernel killed it: a stranger's code runs
    /// in libav, or libav needs a call that this program does not know of.
    #[error("worker made a forbidden system call: {call}")]
    Forbidden {
        /// The call's name; `unknown` if the worker could not say.
        call: &'static str,
    },
    /// Reading the worker's output pipe failed.
    #[error("worker's pipe failed: {0}")]
    Pipe(#[source] std::io::Error),
    /// A request exceeds the protocol's limits ([`transcode::wire::protocol::MAX_UNIT`],
    /// [`transcode::wire::protocol::MAX_CONTROL`]) and was not sent. The worker was killed: what follows has no use
    /// without that request.
    #[error("a request cannot be sent to the worker: {0}")]
    Request(#[source] ProtocolError),
    /// Writing to the worker's input pipe failed, and the worker did not exit by itself: it was killed.
    #[error("worker's input pipe failed: {0}")]
    Input(#[source] std::io::Error),
}

/// How and why a worker ended.
#[derive(Debug)]
pub struct WorkerExit {
    /// How the process ended.
    pub ending: ProcessEnding,
    /// The fault that the supervisor detected, if any.
    pub fault: Option<WorkerFault>,
    /// Whether the worker sent [`Response::Finished`]: all output for its input was sent.
    pub finished: bool,
}

impl WorkerExit {
    /// Whether the worker finished, without a fault, and exited with code 0.
    pub fn is_clean(&self) -> bool {
        self.finished && self.fault.is_none() && self.ending == ProcessEnding::Code(0)
    }
}

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    /// The request queue. `send` waits while the worker is busy, which tells the caller to shed. `send` fails once the
    /// worker accepts no more requests; [`Self::next`] then reports why.
    pub requests: mpsc::Sender<Request>,
    events: mpsc::Receiver<WorkerEvent>,
    kill: watch::Sender<bool>,
    shared: Arc<WorkerShared>,
    pid: Option<u32>,
}

#[derive(Debug)]
struct WorkerShared {
    resident: AtomicU64,
}

impl Worker {
    /// Starts a worker. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system cannot start a process: the process or memory limit is reached, or the binary is gone. A later
    /// retry may succeed.
    pub fn spawn(options: WorkerOptions) -> std::io::Result<Self> {
        let mut child = worker_command(&options).spawn()?;
        let pid = child.id();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("a pipe is missing"));
        };
        let shared = Arc::new(WorkerShared { resident: AtomicU64::new(0) });
        let (requests, queue) = mpsc::channel(REQUESTS);
        let (event, events) = mpsc::channel(EVENTS);
        let (kill, killed) = watch::channel(false);
        let span = options.span;
        let reader = tokio::spawn(read_responses(stdout, event.clone()).instrument(span.clone()));
        let writer = tokio::spawn(write_requests(stdin, queue).instrument(span.clone()));
        let log = tokio::spawn(forward_stderr(stderr).instrument(span.clone()));
        let watch = Watch { child, pid, limit: options.memory_limit, shared: shared.clone(), killed };
        tokio::spawn(supervise(watch, reader, writer, log, event).instrument(span));
        Ok(Self { requests, events, kill, shared, pid })
    }

    /// The next event; the last is [`WorkerEvent::Exited`], and `None` follows.
    ///
    /// Cancel-safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        self.events.recv().await
    }

    /// Kills the process; [`Self::next`] still returns the responses sent before, then the exit.
    pub fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// The worker's resident memory in bytes, at most one second old.
    pub fn resident(&self) -> u64 {
        self.shared.resident.load(Ordering::Relaxed)
    }

    /// The worker's process ID, for logs and tests.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

/// The command that starts a worker with three pipes.
fn worker_command(options: &WorkerOptions) -> Command {
    let mut command = Command::from(confined_command(&options.program, &options.arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

struct Watch {
    child: Child,
    pid: Option<u32>,
    limit: u64,
    shared: Arc<WorkerShared>,
    killed: watch::Receiver<bool>,
}

type Read = Result<bool, WorkerFault>;
type Written = Result<(), WorkerFault>;

/// What is known once the process has exited. A task that was still running then has no result yet.
struct End {
    status: Option<ExitStatus>,
    fault: Option<WorkerFault>,
    read: Option<Read>,
    written: Option<Written>,
}

impl Watch {
    /// Waits for the process to exit, and kills it on request, over the memory limit, on a protocol violation, or when
    /// a request cannot be sent.
    async fn until_end(&mut self, reader: &mut JoinHandle<Read>, writer: &mut JoinHandle<Written>) -> End {
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        let mut share = GaugeShare::new("encoder_worker_memory_bytes");
        let mut fault = None;
        let (mut read, mut written) = (None, None);
        let mut exit_by = tokio::time::Instant::now();
        loop {
            let input_failed = matches!(written, Some(Err(WorkerFault::Input(_))));
            tokio::select! {
                status = self.child.wait() => return End { status: status.ok(), fault, read, written },
                // An error means that the `Worker` was dropped.
                changed = self.killed.changed(), if fault.is_none() => {
                    if changed.is_err() || *self.killed.borrow() {
                        fault = Some(WorkerFault::Killed);
                    }
                }
                result = &mut *reader, if read.is_none() => {
                    let result = result.unwrap_or(Err(WorkerFault::CutOff));
                    // After a protocol violation no further output is usable. The end of the output alone precedes
                    // the process's exit; wait for its exit code.
                    if let Err(WorkerFault::Protocol(_)) = &result {
                        let _ = self.child.start_kill();
                    }
                    read = Some(result);
                }
                result = &mut *writer, if written.is_none() => {
                    exit_by = tokio::time::Instant::now() + EXIT_WITHIN;
                    let result = result.unwrap_or(Ok(()));
                    if let Err(WorkerFault::Request(_)) = &result {
                        let _ = self.child.start_kill();
                    }
                    written = Some(result);
                }
                // A worker that crashes closes its stdin, too: its exit says more than the broken pipe.
                () = tokio::time::sleep_until(exit_by), if input_failed && fault.is_none() => {
                    fault = written.take().and_then(Result::err);
                    written = Some(Ok(()));
                }
                _ = memory.tick(), if fault.is_none() => {
                    if let Some(resident) = self.pid.and_then(resident_bytes) {
                        self.shared.resident.store(resident, Ordering::Relaxed);
                        share.set(resident as f64);
                        if resident > self.limit {
                            fault = Some(WorkerFault::Memory { resident, limit: self.limit });
                        }
                    }
                }
            }
            if fault.is_some() {
                // Fails only when the process has exited meanwhile.
                let _ = self.child.start_kill();
            }
        }
    }
}

async fn supervise(
    mut watch: Watch,
    mut reader: JoinHandle<Read>,
    mut writer: JoinHandle<Written>,
    log: JoinHandle<Option<&'static str>>,
    events: mpsc::Sender<WorkerEvent>,
) {
    let End { status, mut fault, mut read, mut written } = watch.until_end(&mut reader, &mut writer).await;
    if written.is_none() {
        // Close the request queue: pending and later sends fail.
        writer.abort();
        written = writer.await.ok();
    }
    if let Some(Err(unsent @ WorkerFault::Request(_))) = written {
        fault.get_or_insert(unsent);
    }
    if read.is_none() {
        // All responses precede the exit event, however slowly the caller receives them.
        read = Some((&mut reader).await.unwrap_or(Err(WorkerFault::CutOff)));
    }
    // The last stderr lines may say why the worker ended.
    let forbidden = tokio::time::timeout(LAST_WORDS, log).await.ok().and_then(Result::ok).flatten();
    // The kernel's signal for a forbidden system call (signal(7)).
    if status.and_then(|status| status.signal()) == Some(Signal::SYS.as_raw()) {
        let call = forbidden.unwrap_or("unknown");
        metrics::counter!("encoder_worker_forbidden_calls_total", "call" => call).increment(1);
        fault = Some(WorkerFault::Forbidden { call });
    }
    if status.and_then(|status| status.code()) == Some(i32::from(OUT_OF_MEMORY)) {
        let resident = watch.shared.resident.load(Ordering::Relaxed);
        fault.get_or_insert(WorkerFault::Memory { resident, limit: watch.limit });
    }
    let finished = match read {
        Some(Ok(finished)) => finished,
        Some(Err(broken)) => {
            // A kill cuts the output off by itself: keep the fault that caused the kill.
            fault.get_or_insert(broken);
            false
        }
        None => false,
    };
    let ending = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => ProcessEnding::Code(code),
            (None, Some(signal)) => ProcessEnding::Signal(signal),
            (None, None) => ProcessEnding::Unknown,
        },
        None => ProcessEnding::Unknown,
    };
    // Fails only when the `Worker` was dropped; no caller needs the exit then.
    let _ = events.send(WorkerEvent::Exited(WorkerExit { ending, fault, finished })).await;
}

/// Reads until the end of the worker's output; returns whether it contained [`Response::Finished`].
async fn read_responses(mut stdout: ChildStdout, events: mpsc::Sender<WorkerEvent>) -> Read {
    let mut decoder = FrameReader::<Response>::new();
    let mut finished = false;
    loop {
        let read = stdout.read_buf(decoder.buffer(CHUNK)).await.map_err(WorkerFault::Pipe)?;
        if read == 0 {
            return if decoder.is_mid_message() { Err(WorkerFault::CutOff) } else { Ok(finished) };
        }
        while let Some(response) = decoder.next()? {
            finished |= response == Response::Finished;
            if events.send(WorkerEvent::Response(response)).await.is_err() {
                // The `Worker` was dropped, which kills the process.
                return Ok(false);
            }
        }
    }
}

/// Writes until the queue or the worker's stdin is closed. Dropping `stdin` closes the worker's input.
async fn write_requests(mut stdin: ChildStdin, mut queue: mpsc::Receiver<Request>) -> Written {
    let mut encoder = FrameWriter::<Request>::new();
    let mut buffer = BytesMut::new();
    while let Some(request) = queue.recv().await {
        encoder.encode(&request, &mut buffer).map_err(WorkerFault::Request)?;
        stdin.write_all(&buffer).await.map_err(WorkerFault::Input)?;
        buffer.clear();
    }
    Ok(())
}

/// Logs the worker's lines until the end of its stderr. Returns the forbidden call that the worker named.
async fn forward_stderr(mut stderr: ChildStderr) -> Option<&'static str> {
    let mut lines = Lines::new(Instant::now());
    let mut forbidden = None;
    let mut log = |logged| match logged {
        StderrLine::Line(line) => match forbidden_call(&line) {
            Some(call) => forbidden = Some(call),
            None => tracing::warn!(target: "encoder::worker", "{line}"),
        },
        StderrLine::LeftOut(count) => tracing::warn!(target: "encoder::worker", "{count} lines left out"),
    };
    let mut chunk = vec![0; 4096];
    loop {
        match stderr.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => lines.push(&chunk[..read], Instant::now(), &mut log),
        }
    }
    lines.finish(Instant::now(), &mut log);
    forbidden
}

/// Resident bytes of a process.
fn resident_bytes(pid: u32) -> Option<u64> {
    statm_bytes(pid, 1)
}

/// A number of `/proc/PID/statm` in bytes (proc(5), which gives them in pages).
fn statm_bytes(pid: u32, number: usize) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(number)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// Lowers the memory limit of a running worker to what it has now and `spare` bytes more, but not below `least`, if that
/// is less than `limit`. Returns the limit in force. A worker that has just ended has none.
pub(crate) fn shrink(pid: u32, limit: u64, spare: u64, least: u64) -> u64 {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    // The sixth number: private writable memory and stacks, which RLIMIT_DATA counts.
    let Some(data) = statm_bytes(pid, 5) else { return 0 };
    let lower = data.saturating_add(spare).max(least);
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let rlimit = Rlimit { current: Some(lower), maximum: Some(lower) };
    if lower >= limit || process.is_none() || prlimit(process, Resource::Data, rlimit).is_err() {
        return limit;
    }
    lower
}
