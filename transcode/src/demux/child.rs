//! The process that demuxes one file, which is its stdin: the hidden subcommand `demux-worker`. It confines itself
//! before it reads the first byte, and writes [`FileMessage`]s to stdout. The other end is [`super::reader`].

use super::survey::Survey;
use super::{DemuxError, DemuxOptions, FileDemuxer};
use crate::confine::{ConfineOptions, confine};
use crate::wire::file::{FileFailure, FileMessage};
use crate::wire::protocol::{FrameWriter, ProtocolError};
use crate::{NOT_CONFINED, log};
use bytes::BytesMut;
use ff::format;
use ff::format::context::StreamIo;
use ffmpeg_next as ff;
#[cfg(feature = "testing")]
use media::Media;
use std::io::{self, Read, Seek, SeekFrom, Stdin, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// Exit code when the other end of the pipe is gone (EX_IOERR of sysexits(3)).
const PIPE_BROKEN: u8 = 74;
/// Interval between checks that the parent process still lives.
const PARENT_EVERY: Duration = Duration::from_secs(1);
/// What files begin with, or contain in their first bytes, that make libav open other files: HLS, ffmpeg's lists, DASH.
const LISTS: [&[u8]; 3] = [b"#EXTM3U", b"ffconcat version", b"<MPD"];
/// What the operator reads about such a file.
const NAMES_FILES: &str =
    "it names other files, which a confined process cannot read; --worker-sandbox off reads them";
/// The first bytes of a file in which [`LISTS`] are looked for.
const LIST_HEAD: usize = 4 << 10;

/// What the process is to read.
#[derive(Clone, Debug, Default)]
pub struct DemuxJob {
    /// Which tracks, and how they are encoded again.
    pub options: DemuxOptions,
    /// The extension of the file's name, which helps libav where the content leaves the format open.
    pub extension: Option<String>,
    /// Whether to look at the packets alone ([`super::SurveyInfo`]) instead of reading media.
    pub survey: bool,
}

/// The hidden subcommand `demux-worker`: confines the process, then demuxes the file that is its stdin.
pub fn demux_worker_main(options: &ConfineOptions, job: &DemuxJob) -> ExitCode {
    let parent = rustix::process::getppid();
    if let Err(error) = confine(options) {
        log(format_args!("{error}"));
        return ExitCode::from(NOT_CONFINED);
    }
    // Dropped at the end of this function, which ends the watch.
    let (_stop, stopped) = sync_channel(0);
    let watch = move || end_with_parent(parent, &stopped);
    if let Err(error) = thread::Builder::new().name("parent".into()).spawn(watch) {
        log(format_args!("cannot start a thread: {error}"));
        return ExitCode::from(NOT_CONFINED);
    }
    let mut output = MessageOutput::default();
    let sent = match send_file(job, &mut output) {
        Ok(()) => output.send(&FileMessage::Ended),
        Err(SendError::File(error)) => output.send(&FileMessage::Failed(failure(&error))),
        Err(SendError::Output) => Err(SendError::Output),
    };
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(PIPE_BROKEN) }
}

/// Ends the process when its parent is gone: libav may hang, and then nothing is written to the broken pipe.
fn end_with_parent(parent: Option<rustix::process::Pid>, stopped: &Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PARENT_EVERY) {
        if rustix::process::getppid() != parent {
            std::process::exit(PIPE_BROKEN.into());
        }
    }
}

enum SendError {
    /// The file cannot be read (to its end).
    File(DemuxError),
    /// The other end of the pipe is gone.
    Output,
}

impl From<DemuxError> for SendError {
    fn from(error: DemuxError) -> Self {
        Self::File(error)
    }
}

#[derive(Default)]
struct MessageOutput {
    writer: FrameWriter<FileMessage>,
    buffer: BytesMut,
}

impl MessageOutput {
    fn send(&mut self, message: &FileMessage) -> Result<(), SendError> {
        let too_long = |error: ProtocolError| SendError::File(DemuxError::Reported(error.to_string()));
        self.writer.encode(message, &mut self.buffer).map_err(too_long)?;
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        written.map_err(|_| SendError::Output)
    }
}

fn send_file(job: &DemuxJob, output: &mut MessageOutput) -> Result<(), SendError> {
    if job.survey {
        return send_survey(job, output);
    }
    let demuxer = open_stdin(job, |input, path| FileDemuxer::new(input, path, &job.options))?;
    output.send(&FileMessage::Opened(demuxer.info()))?;
    for media in demuxer {
        let media = media?;
        #[cfg(feature = "testing")]
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            crate::attack::obey(unit);
        }
        output.send(&FileMessage::Media(media))?;
    }
    Ok(())
}

fn send_survey(job: &DemuxJob, output: &mut MessageOutput) -> Result<(), SendError> {
    let survey = open_stdin(job, Survey::new)?;
    output.send(&FileMessage::Surveyed(survey.info()))?;
    for packet in survey {
        output.send(&FileMessage::Packet(packet?))?;
    }
    Ok(())
}

fn failure(error: &DemuxError) -> FileFailure {
    match error {
        DemuxError::Open { error, .. } => FileFailure::Open((*error).into()),
        DemuxError::NoMedia { .. } => FileFailure::NoMedia,
        DemuxError::Codec { .. }
        | DemuxError::Read(_)
        | DemuxError::PictureSize(..)
        | DemuxError::Video(_)
        | DemuxError::Audio(_)
        | DemuxError::Broken(_)
        | DemuxError::Reported(_)
        | DemuxError::Process(_)
        | DemuxError::Encode(_) => FileFailure::Other(error.to_string()),
    }
}

/// Opens the file that is this process's stdin. A pipe is read as well, without seeking.
fn open_stdin<T>(
    job: &DemuxJob,
    read: impl FnOnce(format::context::Input, &Path) -> Result<T, DemuxError>,
) -> Result<T, DemuxError> {
    crate::quiet();
    // The name exists nowhere: libav reads the extension alone.
    let name = job.extension.as_deref().map(|extension| format!("input.{extension}"));
    let path = Path::new(name.as_deref().unwrap_or("input"));
    let input = StdinFile(io::stdin()).into_stream().and_then(|stream| {
        let mut protocols = ff::Dictionary::new();
        protocols.set("protocol_whitelist", "file");
        format::input_from_stream(stream, name.as_deref(), Some(protocols))
    });
    input
        .map_err(|error| DemuxError::Open { path: path.into(), error })
        .and_then(|input| read(input, path))
        .map_err(|error| if names_files() { DemuxError::Reported(NAMES_FILES.into()) } else { error })
}

/// Whether the file is a list of other files. A file that cannot be read again is none.
fn names_files() -> bool {
    let mut file = StdinFile(io::stdin());
    let mut head = Vec::new();
    let read = file.rewind().and_then(|()| file.take(LIST_HEAD as u64).read_to_end(&mut head));
    read.is_ok() && LISTS.iter().any(|list| head.windows(list.len()).any(|window| window == *list))
}

/// Descriptor 0 without the standard library's buffer, which cannot seek.
struct StdinFile(Stdin);

impl StdinFile {
    fn into_stream(mut self) -> Result<StreamIo, ff::Error> {
        if self.stream_position().is_ok() {
            StreamIo::from_read_seek(self)
        } else {
            StreamIo::from_read(self)
        }
    }
}

impl Read for StdinFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Seek for StdinFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(offset) => rustix::fs::SeekFrom::Start(offset),
            SeekFrom::End(offset) => rustix::fs::SeekFrom::End(offset),
            SeekFrom::Current(offset) => rustix::fs::SeekFrom::Current(offset),
        };
        Ok(rustix::fs::seek(&self.0, to)?)
    }
}
