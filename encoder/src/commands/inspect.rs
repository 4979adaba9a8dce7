//! `encoder inspect`: tells what a publisher sends, or what a file has that a publisher would send, and what to change.
//! Nothing is decoded and nothing is kept. A file is read in a confined process; its figures are those of its packets.
//!
//! Standard output has the report alone; everything else is in the log.

use super::live_input::LiveInput;
use crate::config::input::{AwaitedPublisher, Input};
use crate::config::{InspectConfig, PrintReport};
use crate::fault::Fault;
use crate::ingest::single::SinglePublisher;
use crate::inspect::{Arrival, AudioFacts, Inspector, PublishReport, UnitFacts, VideoFacts, brief, screen};
use rtmp::Refusal;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::info;
use transcode::demux::{FileReader, SurveyInfo, SurveyedPacket};

/// How often the report of a publisher is shown.
const EVERY: Duration = Duration::from_secs(1);
/// How often a line is logged where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often the media time is compared with `--duration`.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes of writable memory of the process that reads a file: the default of `--worker-memory`.
const FILE_MEMORY: u64 = 1536 << 20;
/// Clears the terminal, and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Inspects an input, and prints the report.
///
/// # Errors
/// The input cannot be read, or there is no media in it.
pub(super) async fn inspect(config: InspectConfig) -> Result<(), Fault> {
    let InspectConfig { input, print, duration, max_pixels, sandbox } = config;
    match input {
        Input::File(file) => {
            let reader = FileReader::this_binary(sandbox, FILE_MEMORY).map_err(|error| Fault::Machine {
                what: "cannot find this program",
                why: error.to_string(),
            })?;
            let reading = tokio::task::spawn_blocking(move || of_file(&reader, &file, duration));
            let report = reading
                .await
                .map_err(|error| Fault::Machine { what: "reading failed", why: error.to_string() })??;
            print_last(&report, print)
        }
        Input::Publisher(awaited) => of_publisher(awaited, print, duration, max_pixels).await,
    }
}

/// Looks at a file's packets. Blocks.
fn of_file(reader: &FileReader, file: &Path, duration: Option<Duration>) -> Result<PublishReport, Fault> {
    let name = if file == Path::new("-") { PathBuf::from("standard input") } else { file.to_owned() };
    let unreadable = |why: String| Fault::Input { file: name.display().to_string(), why };
    let survey = reader.survey(file).map_err(|error| unreadable(error.to_string()))?;
    let mut inspector = Inspector::new(Arrival::File);
    take_headers(&mut inspector, survey.info());
    for packet in survey {
        let SurveyedPacket { video, pts, dts, key, bytes } =
            packet.map_err(|error| unreadable(error.to_string()))?;
        let facts = UnitFacts { pts, dts, key, bytes: bytes.into() };
        if video {
            inspector.video_unit(facts)
        } else {
            inspector.audio_unit(facts)
        }
        if duration.is_some_and(|duration| inspector.seconds() >= duration.as_secs_f64()) {
            break;
        }
    }
    Ok(inspector.report())
}

fn take_headers(inspector: &mut Inspector, info: &SurveyInfo) {
    if let Some(video) = &info.video {
        inspector.video_facts(VideoFacts {
            codec: codec_name(&video.codec),
            profile: video.profile.clone(),
            width: video.width,
            height: video.height,
            stated_frame_rate: video.frame_rate,
        });
    }
    if let Some(audio) = &info.audio {
        inspector.audio_facts(AudioFacts {
            codec: codec_name(&audio.codec),
            profile: audio.profile.clone(),
            sample_rate: audio.sample_rate,
            channels: audio.channels,
        });
    }
    if info.other_tracks {
        inspector.has_other_tracks();
    }
}

/// The codec's name as a report has it, from libav's.
fn codec_name(name: &str) -> String {
    match name {
        "h264" => "H.264".to_owned(),
        "ac3" => "AC-3".to_owned(),
        "eac3" => "E-AC-3".to_owned(),
        "opus" => "Opus".to_owned(),
        name => name.to_uppercase(),
    }
}

async fn of_publisher(
    awaited: AwaitedPublisher,
    print: PrintReport,
    duration: Option<Duration>,
    max_pixels: u64,
) -> Result<(), Fault> {
    let single = SinglePublisher::new(awaited.clone(), max_pixels, None);
    let live = LiveInput::listen(&awaited, single.clone()).await?;
    if !live.publisher().await {
        live.close().await;
        return Err(Fault::Interrupted { what: "no publisher came" });
    }
    let mut shown = LiveReport::new(print);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = live.end() => break,
            _ = looks.tick() => {
                let enough = |duration: Duration| single.inspector().seconds() >= duration.as_secs_f64();
                if duration.is_some_and(enough) {
                    single.end(Refusal::EndedByOperator("the inspection is over".into()));
                    break;
                }
                if shown.is_due() {
                    let report = single.inspector().report();
                    shown.show(&report)?;
                }
            }
        }
    }
    let report = single.inspector().report();
    shown.clear();
    print_last(&report, print)?;
    let cause = live.cause();
    live.close().await;
    let has_media = single.inspector().progress().1 > 0;
    if has_media {
        return Ok(());
    }
    let why = cause.unwrap_or_else(|| "no video or audio that can be read".to_owned());
    Err(Fault::Input { file: awaited.to_string(), why })
}

/// Shows the report while the publisher publishes.
struct LiveReport {
    print: PrintReport,
    is_terminal: bool,
    last: Instant,
}

impl LiveReport {
    fn new(print: PrintReport) -> Self {
        Self { print, is_terminal: io::stdout().is_terminal(), last: Instant::now() }
    }

    fn is_due(&self) -> bool {
        let every = match (self.print, self.is_terminal) {
            (PrintReport::JsonLines, _) | (PrintReport::Words, true) => EVERY,
            (PrintReport::Json, _) | (PrintReport::Words, false) => LINE_EVERY,
        };
        self.last.elapsed() >= every
    }

    fn show(&mut self, report: &PublishReport) -> Result<(), Fault> {
        self.last = Instant::now();
        match (self.print, self.is_terminal) {
            (PrintReport::JsonLines, _) => write(&line(report)?),
            (PrintReport::Words, true) => write(&format!("{CLEAR}{}\nCtrl-C ends.\n", screen(report))),
            (PrintReport::Json, _) | (PrintReport::Words, false) => {
                info!(media_seconds = report.seconds, received = brief(report), "inspecting");
                Ok(())
            }
        }
    }

    /// Makes room for the last report.
    fn clear(&self) {
        if self.print == PrintReport::Words && self.is_terminal {
            // The report follows, and fails where this fails.
            let _ = write(CLEAR);
        }
    }
}

/// Prints the report at the end.
fn print_last(report: &PublishReport, print: PrintReport) -> Result<(), Fault> {
    match print {
        PrintReport::Words => write(&screen(report)),
        PrintReport::Json => write(&(json(serde_json::to_string_pretty(report))? + "\n")),
        PrintReport::JsonLines => write(&line(report)?),
    }
}

fn line(report: &PublishReport) -> Result<String, Fault> {
    Ok(json(serde_json::to_string(report))? + "\n")
}

/// Only a map with keys that are not text could fail.
fn json(text: serde_json::Result<String>) -> Result<String, Fault> {
    text.map_err(|error| Fault::Machine { what: "cannot write the report", why: error.to_string() })
}

fn write(text: &str) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Fault::Machine { what: "cannot write the report", why: error.to_string() })
}
