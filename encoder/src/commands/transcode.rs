//! `encoder transcode`: the pipeline of a live stream applied to one input, with its output in a directory. Core, worker
//! and packager are the same as for a live stream.
//!
//! A file, or standard input, is read as fast as possible: without real-time deadlines nothing is shed and nothing
//! expires. It is demuxed in a confined process of its own. A publisher is encoded in real time, by the same rules as in
//! `encoder serve`: what the machine is too slow for is shed. In both cases the playlists keep every segment, and end
//! with the input.

use super::live_input::LiveInput;
use super::progress::{EVERY, ProgressLine};
use crate::config::TranscodeConfig;
use crate::config::input::{AwaitedPublisher, Input};
use crate::delivery::outputs::Outputs;
use crate::fault::Fault;
use crate::ingest::single::SinglePublisher;
use crate::inspect::{Arrival, Inspector};
use crate::logging::rounded;
use crate::stream::driver::{SharedCore, drive};
use crate::stream::worker::WorkerOptions;
use crate::stream::{StreamCore, StreamSettings};
use hls::Timing;
use media::{Media, MediaSpan};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::Location;
use tokio::sync::mpsc;
use tracing::info;
use transcode::confine::ConfineOptions;
use transcode::demux::{DemuxOptions, FileReader};

/// Media items read ahead of the encoder.
const READ_AHEAD: usize = 64;
/// Most requests queued for the worker.
const WAITING_REQUESTS: usize = 128;
/// Longer than any input: disables the limits of a live stream.
const FOR_EVER: MediaSpan = MediaSpan::from_millis(1_000 * 86_400 * 365);

/// Encodes an input to HLS in a directory.
///
/// # Errors
/// The input cannot be read, the output cannot be written, or the worker died.
pub(super) async fn transcode(config: TranscodeConfig) -> Result<(), Fault> {
    let TranscodeConfig { input, output, settings, workers } = config;
    // On the heap: everything that is opened here makes large futures.
    match input {
        Input::File(file) => Box::pin(of_file(file, output, settings, workers)).await,
        Input::Publisher(awaited) => Box::pin(of_publisher(awaited, output, settings, workers)).await,
    }
}

/// What writes to the directory.
async fn outputs(output: &Path, timing: &Timing) -> Result<Outputs, Fault> {
    let location = Location::directory(output);
    let store = location.open().await.map_err(|error| Fault::store("OUTDIR", &location, &error))?;
    Ok(Outputs::to_store(store, timing))
}

fn worker_options(confine: &ConfineOptions) -> Result<WorkerOptions, Fault> {
    WorkerOptions::this_binary(confine, tracing::Span::none()).map_err(no_program)
}

fn no_program(error: std::io::Error) -> Fault {
    Fault::Machine { what: "cannot find this program", why: error.to_string() }
}

fn failed(why: impl ToString) -> Fault {
    Fault::Machine { what: "encoding failed", why: why.to_string() }
}

async fn of_file(
    input: PathBuf,
    output: PathBuf,
    settings: StreamSettings,
    confine: ConfineOptions,
) -> Result<(), Fault> {
    let name =
        if input == Path::new("-") { "standard input".to_owned() } else { input.display().to_string() };
    let unreadable = |why: String| Fault::Input { file: name.clone(), why };
    let files =
        FileReader::this_binary(confine.mode, confine.memory.unwrap_or(u64::MAX)).map_err(no_program)?;
    let mut reader = read(files, input);
    let duration = match reader.recv().await {
        Some(Ok(Read::Opened(duration))) => duration,
        Some(Err(why)) => return Err(unreadable(why)),
        Some(Ok(Read::Media(..))) | None => return Err(unreadable("reading it failed".to_owned())),
    };
    let mut settings = StreamSettings { live: false, ..settings };
    settings.timing = settings.timing.without_parts();
    settings.timing.shed_queue = FOR_EVER;
    settings.timing.window = FOR_EVER;
    settings.timing.stall = FOR_EVER;
    let outputs = outputs(&output, &settings.timing).await?;
    let core = SharedCore::new(StreamCore::new(settings, 0, Instant::now()));
    core.with(StreamCore::publisher_came).map_err(failed)?;
    let driver = tokio::spawn(drive(core.clone(), outputs, worker_options(&confine)?));

    let mut inspector = Inspector::new(Arrival::File);
    let mut line = ProgressLine::new(duration);
    let mut moves = tokio::time::interval(EVERY);
    loop {
        let next = tokio::select! {
            next = reader.recv() => next,
            _ = moves.tick() => {
                line.show(&core, &inspector);
                continue;
            }
        };
        let Some(next) = next else { break };
        let Read::Media(next, read_at) = next.map_err(unreadable)? else { continue };
        inspector.media(&next);
        core.room(WAITING_REQUESTS).await;
        // Give up after the worker's first death: the media it held would be missing from the output, and the same
        // input would probably kill the next worker too.
        if core.look(|core| core.counters().worker_restarts) > 0 {
            break;
        }
        core.with(|core, now| core.media(next, read_at, now));
    }
    core.with(StreamCore::close);
    driver.await.map_err(failed)?;
    let took = line.finish();
    if core.look(StreamCore::counters).worker_restarts > 0 {
        return Err(failed("the encoding process died; what was encoded until then is in the output"));
    }
    finish(&core, &name, &output, took)
}

/// Encodes what one publisher sends, in real time.
async fn of_publisher(
    awaited: AwaitedPublisher,
    output: PathBuf,
    mut settings: StreamSettings,
    confine: ConfineOptions,
) -> Result<(), Fault> {
    // Nobody watches over the origin: there are no parts, and the store's playlists keep everything.
    settings.timing = settings.timing.without_parts();
    settings.timing.window = FOR_EVER;
    let outputs = outputs(&output, &settings.timing).await?;
    let workers = worker_options(&confine)?;
    workers.confinement().await.map_err(|why| Fault::Machine {
        what: "cannot confine the process that decodes (--worker-sandbox)",
        why,
    })?;
    let max_pixels = settings.max_pixels;
    let core = SharedCore::new(StreamCore::new(settings, 0, Instant::now()));
    let single = SinglePublisher::new(awaited.clone(), max_pixels, Some(core.clone()));
    let live = LiveInput::listen(&awaited, single.clone()).await?;
    if !live.publisher().await {
        live.close().await;
        return Err(Fault::Interrupted { what: "no publisher came" });
    }
    let mut driver = tokio::spawn(drive(core.clone(), outputs, workers));
    let mut line = ProgressLine::new(None);
    let mut moves = tokio::time::interval(EVERY);
    // The stream's driver ends after its publisher, and sooner if a decision failed.
    let mut ended = false;
    let ending = loop {
        tokio::select! {
            ending = &mut driver => break ending,
            () = live.end(), if !ended => ended = true,
            () = live.interrupted_again(), if ended => {
                line.finish();
                return Err(Fault::Interrupted { what: "interrupted twice: the playlists are not complete" });
            }
            _ = moves.tick() => line.show(&core, &single.inspector()),
        }
    };
    ending.map_err(failed)?;
    single.end(rtmp::Refusal::Internal);
    let took = line.finish();
    let cause = live.cause();
    live.close().await;
    match cause {
        Some(why) => Err(Fault::Input { file: awaited.to_string(), why }),
        None => finish(&core, &awaited.to_string(), &output, took),
    }
}

/// Reports what was encoded.
fn finish(core: &SharedCore, input: &str, output: &Path, took: Duration) -> Result<(), Fault> {
    if core.look(|core| core.plan().is_none()) {
        return Err(Fault::Input { file: input.to_owned(), why: "no video or audio in it".to_owned() });
    }
    info!(
        playlist = %output.join("index.m3u8").display(),
        seconds = rounded(took.as_secs_f64()),
        "encoded"
    );
    Ok(())
}

/// A message from the reading thread.
enum Read {
    /// Sent first: the file is open; its duration if the file states one.
    Opened(Option<MediaSpan>),
    /// Sent afterwards: the content of the file, and when it was read.
    Media(Media, Instant),
}

/// Reads on a separate thread, because reads block, and libav's contexts, where there is no confined process, must stay
/// on the thread that made them.
fn read(files: FileReader, input: PathBuf) -> mpsc::Receiver<Result<Read, String>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let media = match files.open(&input, &DemuxOptions::default()) {
            Ok(media) => media,
            Err(error) => {
                // A closed channel, here and below, means that the receiver has stopped.
                let _ = sender.blocking_send(Err(error.to_string()));
                return;
            }
        };
        let opened = Read::Opened(media.info().duration);
        if sender.blocking_send(Ok(opened)).is_err() {
            return;
        }
        for media in media {
            let failed = media.is_err();
            let read = media.map(|media| Read::Media(media, Instant::now()));
            if sender.blocking_send(read.map_err(|error| error.to_string())).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
