//! A worker process seen from the supervisor: starting it, its three pipes, its memory, its end. When a worker is
//! started, replaced or given up on is decided in [`crate::stream`]; nothing here restarts anything.
//!
//! A worker cannot outlive its supervisor: its stdin ends with the supervisor, however that dies, and the worker
//! ends with its stdin (or, when it hangs, once it sees that its parent changed). No signal tied to the parent's
//! death is used: Linux ties it to the thread that started the child, and the runtime's threads come and go.

use super::stderr::{Lines, Logged};
use bytes::BytesMut;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;
use transcode::wire::protocol::{Decoder, Encoder, ProtocolError};
use transcode::wire::{Request, Response};

/// Requests between the caller and the pipe, in messages of up to 16 MiB. As few as can be: what waits here can no
/// longer be shed.
const REQUESTS: usize = 2;
/// Decoded responses that wait for the caller. When full, the worker's pipe fills and the worker waits.
const EVENTS: usize = 32;
/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 << 10;
/// After the worker's end, how long its pipe may still be open before what is in it is given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// What to run; this very binary unless a test says otherwise.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Resident bytes from which on the worker is killed.
    pub memory_limit: u64,
    /// The stream's span: the worker's log lines appear in it.
    pub span: tracing::Span,
}

impl WorkerOptions {
    /// This binary's hidden subcommand.
    ///
    /// # Errors
    /// When the system does not say where this binary is.
    pub fn this_binary(memory_limit: u64, span: tracing::Span) -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self { program, arguments: vec!["transcode-worker".into()], memory_limit, span })
    }
}

/// What a worker has to say.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A message from it.
    Response(Response),
    /// It ended. The last event, and always the last.
    Exited(WorkerExit),
}

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code; see [`transcode::TranscodeError::exit_code`].
    Code(i32),
    /// By this signal: 9 is also the kernel's out-of-memory killer, 11 and 6 are crashes.
    Signal(i32),
    /// The system did not say.
    Unknown,
}

/// What the supervisor's side held against a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFault {
    /// It used more memory than it may, and was killed. A new one may be started at once.
    #[error("worker used {resident} bytes, more than {limit}")]
    Memory {
        /// Resident bytes when it was noticed.
        resident: u64,
        /// [`WorkerOptions::memory_limit`].
        limit: u64,
    },
    /// It wrote something that is not the protocol, and was killed.
    #[error("worker broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// Its output ended inside a message.
    #[error("worker's output was cut off")]
    CutOff,
    /// It was killed because [`Worker::kill`] was called or the [`Worker`] dropped.
    #[error("worker was killed on request")]
    Killed,
    /// A pipe to it failed.
    #[error("worker's pipe failed: {0}")]
    Pipe(#[source] std::io::Error),
}

/// A worker's end.
#[derive(Debug)]
pub struct WorkerExit {
    /// How the process ended.
    pub ending: Ending,
    /// What was wrong, if something was noticed from outside.
    pub fault: Option<WorkerFault>,
    /// Whether it said [`Response::Finished`]: everything sent to it has come out.
    pub finished: bool,
}

impl WorkerExit {
    /// Whether it did all that it was asked.
    pub fn is_clean(&self) -> bool {
        self.finished && self.fault.is_none() && self.ending == Ending::Code(0)
    }
}

/// A running worker. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    /// Where requests go. `send` waits while the worker is busy, which is the caller's sign to shed; it fails once
    /// the worker takes no more, of which [`Self::next`] says why.
    pub requests: mpsc::Sender<Request>,
    events: mpsc::Receiver<WorkerEvent>,
    kill: watch::Sender<bool>,
    shared: Arc<Shared>,
    pid: Option<u32>,
}

#[derive(Debug)]
struct Shared {
    last_response: Mutex<Instant>,
    resident: AtomicU64,
}

impl Worker {
    /// Starts a worker. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system starts no process: out of processes or memory, or the binary is gone. Trying again later may
    /// help.
    pub fn spawn(options: WorkerOptions) -> std::io::Result<Self> {
        let mut command = Command::new(&options.program);
        command
            .args(&options.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Nothing of ours is for it to know; credentials come in the environment.
            .env_clear()
            // glibc gives each thread an arena of its own and lets it grow: for a few threads that pass pictures
            // along, that is memory for nothing.
            .env("MALLOC_ARENA_MAX", "2")
            .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
            // A group of its own: Ctrl-C in a terminal is for the supervisor, which ends its workers in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(std::io::Error::other("a pipe is missing"));
        };
        let shared =
            Arc::new(Shared { last_response: Mutex::new(Instant::now()), resident: AtomicU64::new(0) });
        let (requests, queue) = mpsc::channel(REQUESTS);
        let (event, events) = mpsc::channel(EVENTS);
        let (kill, killed) = watch::channel(false);
        let span = options.span;
        let reader =
            tokio::spawn(read_responses(stdout, event.clone(), shared.clone()).instrument(span.clone()));
        let writer = tokio::spawn(write_requests(stdin, queue).instrument(span.clone()));
        let log = tokio::spawn(forward_stderr(stderr).instrument(span.clone()));
        let watch = Watch { child, pid, limit: options.memory_limit, shared: shared.clone(), killed };
        tokio::spawn(supervise(watch, reader, writer, log, event).instrument(span));
        Ok(Self { requests, events, kill, shared, pid })
    }

    /// The next event; the last is [`WorkerEvent::Exited`], and `None` comes behind it.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        self.events.recv().await
    }

    /// Kills the process; [`Self::next`] still gives what it had said, then its end.
    pub fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// When it last said something (or started).
    pub fn last_response(&self) -> Instant {
        *self.shared.last_response.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its resident bytes, as of a second ago at most.
    pub fn resident(&self) -> u64 {
        self.shared.resident.load(Ordering::Relaxed)
    }

    /// Its process id, for logs and tests.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

struct Watch {
    child: Child,
    pid: Option<u32>,
    limit: u64,
    shared: Arc<Shared>,
    killed: watch::Receiver<bool>,
}

type Read = Result<bool, WorkerFault>;

impl Watch {
    /// Waits until the process ended, killing it when it must be.
    async fn until_end(
        &mut self,
        reader: &mut JoinHandle<Read>,
    ) -> (Option<ExitStatus>, Option<WorkerFault>, Option<Read>) {
        let mut memory = tokio::time::interval(MEMORY_EVERY);
        let mut fault = None;
        let mut read = None;
        loop {
            tokio::select! {
                status = self.child.wait() => return (status.ok(), fault, read),
                // An error means that the Worker was dropped.
                changed = self.killed.changed(), if fault.is_none() => {
                    if changed.is_err() || *self.killed.borrow() {
                        fault = Some(WorkerFault::Killed);
                    }
                }
                result = &mut *reader, if read.is_none() => {
                    let result = result.unwrap_or(Err(WorkerFault::CutOff));
                    // After a broken protocol nothing it says can be used. The mere end of its output comes just
                    // before its own, whose code is worth waiting for.
                    if let Err(WorkerFault::Protocol(_)) = &result {
                        let _ = self.child.start_kill();
                    }
                    read = Some(result);
                }
                _ = memory.tick(), if fault.is_none() => {
                    if let Some(resident) = self.pid.and_then(resident_bytes) {
                        self.shared.resident.store(resident, Ordering::Relaxed);
                        if resident > self.limit {
                            fault = Some(WorkerFault::Memory { resident, limit: self.limit });
                        }
                    }
                }
            }
            if fault.is_some() {
                // Fails only when it ended meanwhile.
                let _ = self.child.start_kill();
            }
        }
    }
}

async fn supervise(
    mut watch: Watch,
    mut reader: JoinHandle<Read>,
    writer: JoinHandle<Result<(), WorkerFault>>,
    log: JoinHandle<()>,
    events: mpsc::Sender<WorkerEvent>,
) {
    let (status, mut fault, mut read) = watch.until_end(&mut reader).await;
    // Its requests have nowhere to go: whoever waits to send learns it.
    writer.abort();
    let _ = writer.await;
    if read.is_none() {
        // All it said comes before its end, however slowly the caller takes it.
        read = Some((&mut reader).await.unwrap_or(Err(WorkerFault::CutOff)));
    }
    // Its last lines say why it ended.
    let _ = tokio::time::timeout(LAST_WORDS, log).await;
    let finished = match read {
        Some(Ok(finished)) => finished,
        Some(Err(broken)) => {
            // A kill cuts output off by its nature.
            fault.get_or_insert(broken);
            false
        }
        None => false,
    };
    let ending = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, Some(signal)) => Ending::Signal(signal),
            (None, None) => Ending::Unknown,
        },
        None => Ending::Unknown,
    };
    // The caller may be gone; nobody to tell then.
    let _ = events.send(WorkerEvent::Exited(WorkerExit { ending, fault, finished })).await;
}

/// Reads until the end of the worker's output; says whether it finished.
async fn read_responses(
    mut stdout: ChildStdout,
    events: mpsc::Sender<WorkerEvent>,
    shared: Arc<Shared>,
) -> Read {
    let mut decoder = Decoder::<Response>::new();
    let mut finished = false;
    loop {
        let read = stdout.read_buf(decoder.buffer(CHUNK)).await.map_err(WorkerFault::Pipe)?;
        if read == 0 {
            return if decoder.is_mid_message() { Err(WorkerFault::CutOff) } else { Ok(finished) };
        }
        while let Some(response) = decoder.next()? {
            *shared.last_response.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            finished |= response == Response::Finished;
            if events.send(WorkerEvent::Response(response)).await.is_err() {
                // The Worker was dropped, which kills the process.
                return Ok(false);
            }
        }
    }
}

/// Writes until the queue or the worker's input is closed. Dropping `stdin` is the worker's end of input.
async fn write_requests(
    mut stdin: ChildStdin,
    mut queue: mpsc::Receiver<Request>,
) -> Result<(), WorkerFault> {
    let mut encoder = Encoder::<Request>::new();
    let mut buffer = BytesMut::new();
    while let Some(request) = queue.recv().await {
        encoder.encode(&request, &mut buffer)?;
        stdin.write_all(&buffer).await.map_err(WorkerFault::Pipe)?;
        buffer.clear();
    }
    Ok(())
}

async fn forward_stderr(mut stderr: ChildStderr) {
    let mut lines = Lines::new(Instant::now());
    let log = |logged| match logged {
        Logged::Line(line) => tracing::warn!(target: "encoder::worker", "{line}"),
        Logged::LeftOut(count) => tracing::warn!(target: "encoder::worker", "{count} lines left out"),
    };
    let mut chunk = vec![0; 4096];
    loop {
        match stderr.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => lines.push(&chunk[..read], Instant::now(), log),
        }
    }
    lines.finish(Instant::now(), log);
}

/// Resident bytes of a process, from `/proc/PID/statm` (proc(5): the second number, in pages).
fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
