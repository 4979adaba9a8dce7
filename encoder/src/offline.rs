//! `encoder transcode`: the pipeline of a live stream on a file, as fast as it goes. The same core, worker and
//! packager; only the clock that hurries is missing, so nothing is shed and nothing expires.

use crate::fault::Fault;
use crate::media::Media;
use crate::store::{DirStore, Store};
use crate::stream::driver::{SharedCore, drive};
use crate::stream::{Outlet, Settings, StreamCore};
use crate::transcode::demux::Demuxer;
use crate::worker::child::WorkerOptions;
use hls::{MediaSpan, MediaTime};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::info;

/// Units read ahead of the encoder.
const READ_AHEAD: usize = 64;
/// Requests that may wait for the worker.
const WAITING_REQUESTS: usize = 128;
/// Longer than any file.
const FOR_EVER: MediaSpan = MediaSpan::from_millis(1_000 * 86_400 * 365);

/// Encodes a file to HLS in a directory.
pub async fn transcode(input: PathBuf, output: PathBuf, settings: Settings, memory: u64) -> Result<(), Fault> {
    let unreadable = |why: String| Fault::Input { file: input.display().to_string(), why };
    let demuxer = Demuxer::open(&input).map_err(|error| unreadable(error.to_string()))?;
    let duration = demuxer.info().duration;
    let store: Arc<dyn Store> = Arc::new(DirStore::open(&output).await.map_err(|error| Fault::Store {
        place: output.display().to_string(),
        why: error.to_string(),
    })?);

    let mut settings = settings;
    settings.timing.shed_queue = FOR_EVER;
    settings.timing.window = FOR_EVER;
    settings.timing.stall = FOR_EVER;
    let timing = settings.timing.clone();
    let core = SharedCore::new(StreamCore::new(settings, 0, Instant::now()));
    core.with(|core, now| core.publisher_came(now));
    let workers = WorkerOptions::this_binary(memory, tracing::Span::none())
        .map_err(|error| Fault::Machine { what: "cannot find this program", why: error.to_string() })?;
    let driver = tokio::spawn(drive(core.clone(), Outlet::to_store(store, &timing), workers));

    let started = Instant::now();
    let bar = progress_bar(duration);
    let mut media = read(demuxer);
    let mut first: Option<MediaTime> = None;
    while let Some(next) = media.recv().await {
        let next = next.map_err(unreadable)?;
        if let Media::Video(unit) | Media::Audio(unit) = &next {
            let first = *first.get_or_insert(unit.dts);
            bar.set_position((unit.dts - first).to_duration().as_millis() as u64);
        }
        core.room(WAITING_REQUESTS).await;
        core.with(|core, now| core.media(next, now));
    }
    core.with(StreamCore::close);
    driver.await.map_err(|error| Fault::Machine { what: "encoding failed", why: error.to_string() })?;
    bar.finish_and_clear();
    let counters = core.look(StreamCore::counters);
    info!(
        playlist = %output.join("index.m3u8").display(),
        seconds = started.elapsed().as_secs_f32(),
        worker_restarts = counters.worker_restarts,
        "encoded"
    );
    if core.look(|core| core.plan().is_none()) {
        return Err(Fault::Input { file: input.display().to_string(), why: "no video or audio in it".to_owned() });
    }
    Ok(())
}

/// Reads on a thread of its own: files block.
fn read(demuxer: Demuxer) -> mpsc::Receiver<Result<Media, String>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        for media in demuxer {
            let failed = media.is_err();
            // A closed channel means that nobody wants the rest.
            if sender.blocking_send(media.map_err(|error| error.to_string())).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn progress_bar(duration: Option<Duration>) -> ProgressBar {
    let style = "{elapsed_precise} [{bar:40}] {percent}% {msg}";
    let bar = match duration {
        Some(duration) => ProgressBar::new(duration.as_millis() as u64),
        None => ProgressBar::new_spinner(),
    };
    if let (Some(_), Ok(style)) = (duration, ProgressStyle::with_template(style)) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
