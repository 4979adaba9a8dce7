//! `encoder transcode`: the pipeline of a live stream applied to a file, as fast as possible. Core, worker and
//! packager are the same as for a live stream; without real-time deadlines nothing is shed and nothing expires. The
//! file is demuxed in a confined process of its own.

use crate::delivery::outputs::Outputs;
use crate::fault::Fault;
use crate::logging::rounded;
use crate::stream::driver::{SharedCore, drive};
use crate::stream::worker::WorkerOptions;
use crate::stream::{StreamCore, StreamSettings};
use indicatif::{ProgressBar, ProgressStyle};
use media::{Media, MediaSpan, MediaTime};
use std::path::PathBuf;
use std::time::Instant;
use store::Location;
use tokio::sync::mpsc;
use tracing::info;
use transcode::confine::ConfineOptions;
use transcode::demux::{DemuxOptions, FileReader};

/// Media items read ahead of the encoder.
const READ_AHEAD: usize = 64;
/// Most requests queued for the worker.
const WAITING_REQUESTS: usize = 128;
/// Longer than any file: disables the limits of a live stream.
const FOR_EVER: MediaSpan = MediaSpan::from_millis(1_000 * 86_400 * 365);

/// Encodes a file to HLS in a directory. `confine` says how the worker and the process that reads the file are
/// confined.
///
/// # Errors
/// The input cannot be read, the output cannot be written, or the worker died.
pub(super) async fn transcode(
    input: PathBuf,
    output: PathBuf,
    settings: StreamSettings,
    confine: ConfineOptions,
) -> Result<(), Fault> {
    let unreadable = |why: String| Fault::Input { file: input.display().to_string(), why };
    let no_program =
        |error: std::io::Error| Fault::Machine { what: "cannot find this program", why: error.to_string() };
    let files =
        FileReader::this_binary(confine.mode, confine.memory.unwrap_or(u64::MAX)).map_err(no_program)?;
    let mut reader = read(files, input.clone());
    let duration = match reader.recv().await {
        Some(Ok(Read::Opened(duration))) => duration,
        Some(Err(why)) => return Err(unreadable(why)),
        Some(Ok(Read::Media(..))) | None => return Err(unreadable("reading it failed".to_owned())),
    };
    let location = Location::directory(&output);
    let store = location.open().await.map_err(|error| Fault::store("OUTDIR", &location, &error))?;

    let mut settings = StreamSettings { live: false, ..settings };
    settings.timing = settings.timing.without_parts();
    settings.timing.shed_queue = FOR_EVER;
    settings.timing.window = FOR_EVER;
    settings.timing.stall = FOR_EVER;
    let timing = settings.timing.clone();
    let core = SharedCore::new(StreamCore::new(settings, 0, Instant::now()));
    core.with(StreamCore::publisher_came)
        .map_err(|error| Fault::Machine { what: "encoding failed", why: error.to_string() })?;
    let workers = WorkerOptions::this_binary(&confine, tracing::Span::none()).map_err(no_program)?;
    let driver = tokio::spawn(drive(core.clone(), Outputs::to_store(store, &timing), workers));

    let started = Instant::now();
    let bar = progress_bar(duration);
    let mut first: Option<MediaTime> = None;
    while let Some(next) = reader.recv().await {
        let Read::Media(next, read_at) = next.map_err(unreadable)? else { continue };
        if let Media::Video(unit) | Media::Audio(unit) = &next {
            let first = *first.get_or_insert(unit.dts);
            bar.set_position((unit.dts - first).to_duration().as_millis() as u64);
        }
        core.room(WAITING_REQUESTS).await;
        // Give up after the worker's first death: the media it held would be missing from the output, and the same
        // input would probably kill the next worker too.
        if core.look(|core| core.counters().worker_restarts) > 0 {
            break;
        }
        core.with(|core, now| core.media(next, read_at, now));
    }
    core.with(StreamCore::close);
    driver.await.map_err(|error| Fault::Machine { what: "encoding failed", why: error.to_string() })?;
    bar.finish_and_clear();
    let counters = core.look(StreamCore::counters);
    if counters.worker_restarts > 0 {
        return Err(Fault::Machine {
            what: "encoding failed",
            why: "the encoding process died; what was encoded until then is in the output".to_owned(),
        });
    }
    if core.look(|core| core.plan().is_none()) {
        return Err(Fault::Input {
            file: input.display().to_string(),
            why: "no video or audio in it".to_owned(),
        });
    }
    info!(
        playlist = %output.join("index.m3u8").display(),
        seconds = rounded(started.elapsed().as_secs_f64()),
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

fn progress_bar(duration: Option<MediaSpan>) -> ProgressBar {
    let style = "{elapsed_precise} [{bar:40}] {percent}% {msg}";
    let bar = match duration {
        Some(duration) => ProgressBar::new(duration.to_duration().as_millis() as u64),
        None => ProgressBar::new_spinner(),
    };
    if let (Some(_), Ok(style)) = (duration, ProgressStyle::with_template(style)) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
