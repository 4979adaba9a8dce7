//! The code inside the worker process: it reads coded media from stdin and writes a ladder of renditions to stdout.
//! Also the code inside the process that demuxes a file, and the other end of its pipe ([`demux`]). This is the only
//! crate that names ffmpeg_next; `raw` is the only file with `unsafe`. Not here: tokio, sockets, files (except in
//! `demux`) and the wall clock; the worker works on media time alone.
//!
//! Both processes parse bytes from strangers in C, so they have nothing to lose: [`confine`] leaves them stdin, stdout,
//! stderr, memory and threads. The supervisor replaces the worker when anything is wrong with it. A worker must not
//! outlive its supervisor, and it must not pass damaged media on.

#[cfg(feature = "testing")]
mod attack;
mod audio;
mod cadence;
mod captions;
pub mod confine;
mod contribution;
mod counters;
mod decode;
pub mod demux;
mod encode;
pub mod error;
pub mod pattern;
mod pipeline;
mod raw;
mod scale;
mod thumbnail;
mod tonemap;
pub mod wire;

#[cfg(feature = "testing")]
pub use attack::attack_message;
pub use error::{OUT_OF_MEMORY, TranscodeError};
pub use raw::FORBIDDEN_CALL;

use crate::wire::protocol::{FrameReader, FrameWriter};
use crate::wire::{Request, Response};
use bytes::BytesMut;
use confine::ConfineOptions;
use counters::{Reporter, WorkerCounters};
use pipeline::Pipeline;
use std::fmt::Arguments;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two [`Response::Progress`] and between two checks that the supervisor still lives.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Bytes per read from stdin, and bytes collected before a write to stdout.
const CHUNK: usize = 64 << 10;

/// Silences libav's own lines on standard error; its relevant failures come back as errors, whose texts this fetches.
fn quiet() {
    static TEXTS: Once = Once::new();
    TEXTS.call_once(ffmpeg_next::util::error::register_all);
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Fatal);
}

/// Whether an encoder works only with device files, so that its worker is confined less. Unknown encoders count as
/// such.
pub fn needs_devices(encoder: &str) -> bool {
    !matches!(encoder, "libx264" | "libopenh264")
}

/// Whether libav on this machine has an H.264 encoder called `name`.
pub fn has_video_encoder(name: &str) -> bool {
    ffmpeg_next::encoder::find_by_name(name).is_some_and(|codec| codec.id() == ffmpeg_next::codec::Id::H264)
}

/// Exit code of a worker that cannot be confined as it has to be (EX_OSERR of sysexits(3)).
pub(crate) const NOT_CONFINED: u8 = 71;

/// The hidden subcommand `transcode-worker`: confines the process, then runs the worker on its standard streams. With
/// `only_report` it writes the [`confine::Confinement`] as JSON to stdout instead, and exits.
pub fn worker_main(options: &ConfineOptions, only_report: bool) -> ExitCode {
    // Read before the process is confined: the number of processors stands in files.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let supervisor = rustix::process::getppid();
    let confinement = match confine::confine(options) {
        Ok(confinement) => confinement,
        Err(error) => {
            log(format_args!("{error}"));
            return ExitCode::from(NOT_CONFINED);
        }
    };
    if only_report {
        let told = serde_json::to_writer(io::stdout(), &confinement);
        return if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let orphaned = move || rustix::process::getppid() != supervisor;
    let code = run_worker_with(io::stdin(), io::stdout(), processors, orphaned);
    ExitCode::from(code)
}

/// Runs a worker on a pair of pipes until [`Request::Finish`], the end of `input`, or an error. Returns the exit code:
/// 0, or the value of [`TranscodeError::exit_code`]. The end of `input` without [`Request::Finish`] means that the
/// supervisor is gone; the worker still flushes everything, because the other end of `output` may still be read.
pub fn run_worker(input: impl Read, output: impl Write + Send + 'static) -> u8 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    run_worker_with(input, output, processors, || false)
}

fn run_worker_with(
    input: impl Read,
    output: impl Write + Send + 'static,
    processors: usize,
    orphaned: impl Fn() -> bool + Send + 'static,
) -> u8 {
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Warning);
    ffmpeg_next::log::set_flags(ffmpeg_next::log::Flags::SKIP_REPEATED);
    match run(input, output, processors, orphaned) {
        Ok(()) => 0,
        Err(error) => {
            log(format_args!("{error}"));
            error.exit_code()
        }
    }
}

/// Writes a line for the supervisor's log. libav writes its own lines, which begin with the codec's name in brackets,
/// to the same stream; the supervisor bounds the length and the rate of both.
fn log(line: Arguments<'_>) {
    // A failed write to stderr cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "worker: {line}");
}

fn run(
    input: impl Read,
    output: impl Write + Send + 'static,
    processors: usize,
    orphaned: impl Fn() -> bool + Send + 'static,
) -> Result<(), TranscodeError> {
    let counters = Arc::new(WorkerCounters::default());
    let (out, responses) = pipeline::output_queue();
    let writer = {
        let counters = counters.clone();
        thread::Builder::new()
            .name("writer".into())
            .spawn(move || write_responses(output, &responses, &counters, &orphaned))?
    };
    let read = read_requests(input, &counters, out, processors);
    // `read_requests` has dropped the sender, so the writer ends once it has written what is queued.
    let written = writer.join().unwrap_or(Err(TranscodeError::Panicked("writer")));
    match (read, written) {
        (Err(TranscodeError::Downstream), Err(cause)) => Err(cause),
        (Err(cause), _) => Err(cause),
        (Ok(()), written) => written,
    }
}

/// The first thread: reads requests from the pipe and submits them to the pipeline.
fn read_requests(
    mut input: impl Read,
    counters: &Arc<WorkerCounters>,
    out: SyncSender<Response>,
    processors: usize,
) -> Result<(), TranscodeError> {
    let mut decoder = FrameReader::<Request>::new();
    let mut pipeline: Option<Pipeline> = None;
    let mut chunk = vec![0; CHUNK];
    let ended = 'pipe: loop {
        let read = match input.read(&mut chunk) {
            Ok(0) => break Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => break Err(error.into()),
        };
        decoder.push(&chunk[..read]);
        loop {
            let step = match (decoder.next(), &pipeline) {
                (Err(error), _) => Err(error.into()),
                (Ok(None), _) => break,
                (Ok(Some(Request::Finish)), _) => break 'pipe Ok(true),
                (Ok(Some(Request::Start(job))), None) => {
                    Pipeline::start(job, counters.clone(), out.clone(), processors)
                        .map(|p| pipeline = Some(p))
                }
                (Ok(Some(_)), None) => Err(TranscodeError::Unexpected("media before the job")),
                (Ok(Some(request)), Some(pipeline)) => {
                    #[cfg(feature = "testing")]
                    if let Request::Unit(wire::WireUnit { unit, .. }) = &request {
                        attack::obey(unit);
                    }
                    pipeline.submit(request)
                }
            };
            if let Err(error) = step {
                break 'pipe Err(error);
            }
        }
    };
    let flushed = pipeline.map_or(Ok(()), Pipeline::finish);
    match (ended, flushed) {
        // `Downstream` only says that a stage is gone; joining the stage gives the cause.
        (Err(TranscodeError::Downstream), Err(cause)) => Err(cause),
        (Err(cause), _) | (Ok(_), Err(cause)) => Err(cause),
        (Ok(false), Ok(())) => Ok(()),
        (Ok(true), Ok(())) => {
            let _ = out.send(Response::Progress(counters.progress()));
            out.send(Response::Finished).map_err(|_| TranscodeError::Downstream)
        }
    }
}

/// The last thread: writes responses to the pipe, and counters between them.
///
/// Counters are sent only when they have changed. A worker that hangs therefore falls silent although it is being sent
/// media, and the supervisor watches for that.
fn write_responses(
    mut output: impl Write,
    responses: &Receiver<Response>,
    counters: &WorkerCounters,
    orphaned: &dyn Fn() -> bool,
) -> Result<(), TranscodeError> {
    let mut encoder = FrameWriter::<Response>::new();
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut reporter = Reporter::new(Instant::now());
    let mut next_progress = Instant::now() + PROGRESS_EVERY;
    loop {
        let response = match responses.try_recv() {
            Ok(response) => Some(response),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // The queue is empty: write what was collected before waiting.
                write(&mut output, &mut buffer)?;
                match responses.recv_timeout(next_progress.saturating_duration_since(Instant::now())) {
                    Ok(response) => Some(response),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        if let Some(response) = &response {
            encoder.encode(response, &mut buffer)?;
        }
        if Instant::now() >= next_progress {
            next_progress = Instant::now() + PROGRESS_EVERY;
            // If the supervisor dies while the pipeline hangs, the reader thread never reaches the end of stdin;
            // without this check the process would stay alive indefinitely.
            if orphaned() {
                log(format_args!("the supervisor is gone"));
                std::process::exit(74);
            }
            if let Some(progress) = reporter.progress(counters, Instant::now()) {
                encoder.encode(&Response::Progress(progress), &mut buffer)?;
            }
        }
        if buffer.len() >= CHUNK {
            write(&mut output, &mut buffer)?;
        }
    }
    write(&mut output, &mut buffer)
}

fn write(output: &mut impl Write, buffer: &mut BytesMut) -> Result<(), TranscodeError> {
    if !buffer.is_empty() {
        output.write_all(buffer)?;
        output.flush()?;
        buffer.clear();
    }
    Ok(())
}
