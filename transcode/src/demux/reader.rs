//! The end of a file's pipe that trusts nothing: starts the confined process that demuxes the file ([`super::child`])
//! and reads its messages. Blocking, for a thread of the caller's.

use super::survey::{Survey, SurveyInfo, SurveyedPacket};
use super::{DemuxError, DemuxOptions, FileDemuxer, SourceInfo, input_of, let_dts_grow};
use crate::NOT_CONFINED;
use crate::confine::{SandboxMode, confined_command, forbidden_call};
use crate::wire::file::{FileFailure, FileMessage, is_whole};
use crate::wire::protocol::{FrameReader, ProtocolError};
use ffmpeg_next as ff;
use media::{Media, MediaTime, VideoCodec};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

/// Bytes per read from the pipe.
const CHUNK: usize = 64 << 10;
/// What is kept of the process's stderr: its last bytes.
const LAST_WORDS: usize = 4 << 10;
/// Characters of the process's texts that are shown.
const SHOWN: usize = 400;

/// The path that stands for standard input.
const STDIN: &str = "-";

/// How files are read.
#[derive(Clone, Debug)]
pub enum FileReader {
    /// By libav in this process: for files that their owner trusts, and for tests. Only so does libav read files that
    /// an input names, such as the segments of a playlist.
    InThisProcess,
    /// In a confined process for each file.
    Confined {
        /// The program to run: this binary, except in tests.
        program: PathBuf,
        /// The program's arguments; those that depend on the file follow them.
        arguments: Vec<OsString>,
    },
}

impl FileReader {
    /// Reads files in this binary's hidden subcommand `demux-worker`, confined as `mode` says, with at most `memory`
    /// bytes of writable memory; [`SandboxMode::Off`] reads them in this process.
    ///
    /// # Errors
    /// When the system does not report the path of this binary.
    pub fn this_binary(mode: SandboxMode, memory: u64) -> io::Result<Self> {
        if mode == SandboxMode::Off {
            return Ok(Self::InThisProcess);
        }
        let arguments =
            ["demux-worker", "--sandbox", mode.name(), "--memory", &memory.to_string()].map(OsString::from);
        Ok(Self::Confined { program: std::env::current_exe()?, arguments: arguments.into() })
    }

    /// Opens a file and reads its headers. `-` is standard input.
    ///
    /// # Errors
    /// See [`DemuxError`].
    pub fn open(&self, path: &Path, options: &DemuxOptions) -> Result<FileMedia, DemuxError> {
        match self {
            Self::InThisProcess => {
                let path = in_this_process(path);
                Ok(FileMedia(DemuxSource::InThisProcess(Box::new(FileDemuxer::open_with(path, options)?))))
            }
            Self::Confined { program, arguments } => {
                let command = demux_command(program, arguments, path, options);
                Ok(FileMedia(DemuxSource::Confined(Box::new(ConfinedDemuxer::open(command, path)?))))
            }
        }
    }

    /// Opens a file to look at its packets alone. `-` is standard input.
    ///
    /// # Errors
    /// See [`DemuxError`].
    pub fn survey(&self, path: &Path) -> Result<FileSurvey, DemuxError> {
        match self {
            Self::InThisProcess => {
                let path = in_this_process(path);
                let survey = Survey::new(input_of(path)?, path)?;
                Ok(FileSurvey { info: survey.info(), source: SurveySource::InThisProcess(Box::new(survey)) })
            }
            Self::Confined { program, arguments } => {
                let mut command = demux_command(program, arguments, path, &DemuxOptions::default());
                command.arg("--survey");
                let mut demuxer = ConfinedDemuxer::spawn(command, path)?;
                let info = match demuxer.receive()? {
                    FileMessage::Surveyed(info) => named_plainly(info),
                    FileMessage::Failed(failure) => return Err(demuxer.reported(failure)),
                    FileMessage::Opened(_)
                    | FileMessage::Media(_)
                    | FileMessage::Packet(_)
                    | FileMessage::Ended => return Err(demuxer.out_of_order()),
                };
                Ok(FileSurvey { info, source: SurveySource::Confined(Box::new(demuxer)) })
            }
        }
    }
}

/// The same with names that a terminal may show.
fn named_plainly(mut info: SurveyInfo) -> SurveyInfo {
    if let Some(video) = &mut info.video {
        video.codec = printable(&video.codec);
        video.profile = video.profile.as_deref().map(printable);
    }
    if let Some(audio) = &mut info.audio {
        audio.codec = printable(&audio.codec);
        audio.profile = audio.profile.as_deref().map(printable);
    }
    info
}

/// A file whose packets alone are looked at, in the order of the file. A confined process that reads the file ends when
/// this value is dropped.
pub struct FileSurvey {
    info: SurveyInfo,
    source: SurveySource,
}

enum SurveySource {
    InThisProcess(Box<Survey>),
    Confined(Box<ConfinedDemuxer>),
}

impl FileSurvey {
    /// What the file's headers say.
    pub fn info(&self) -> &SurveyInfo {
        &self.info
    }
}

impl Iterator for FileSurvey {
    type Item = Result<SurveyedPacket, DemuxError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            SurveySource::InThisProcess(survey) => survey.next(),
            SurveySource::Confined(demuxer) => demuxer.next_of(ConfinedDemuxer::packet),
        }
    }
}

/// The path under which this process reads a file.
fn in_this_process(path: &Path) -> &Path {
    if path == Path::new(STDIN) { Path::new("/dev/stdin") } else { path }
}

/// An opened file. Media comes as from [`FileDemuxer`]. A confined process that reads the file ends when this value is
/// dropped.
pub struct FileMedia(DemuxSource);

enum DemuxSource {
    InThisProcess(Box<FileDemuxer>),
    Confined(Box<ConfinedDemuxer>),
}

impl FileMedia {
    /// The properties of the file, from its headers.
    pub fn info(&self) -> SourceInfo {
        match &self.0 {
            DemuxSource::InThisProcess(demuxer) => demuxer.info(),
            DemuxSource::Confined(demuxer) => demuxer.info.clone(),
        }
    }
}

impl Iterator for FileMedia {
    type Item = Result<Media, DemuxError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            DemuxSource::InThisProcess(demuxer) => demuxer.next(),
            DemuxSource::Confined(demuxer) => demuxer.next(),
        }
    }
}

fn demux_command(program: &Path, arguments: &[OsString], path: &Path, options: &DemuxOptions) -> Command {
    let mut command = confined_command(program, arguments);
    command
        .args(["--bitrate", &options.bitrate.to_string()])
        .args((!options.video).then_some("--no-video"))
        .args((!options.audio).then_some("--no-audio"))
        .args(options.pass.iter().flat_map(|codec| ["--pass", codec]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let plain =
        |extension: &&str| extension.len() <= 16 && extension.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(extension) = path.extension().and_then(|extension| extension.to_str()).filter(plain) {
        command.args(["--extension", extension]);
    }
    command
}

/// A confined process that demuxes a file.
#[derive(Debug)]
struct ConfinedDemuxer {
    child: Child,
    stdout: ChildStdout,
    stderr: Option<JoinHandle<Vec<u8>>>,
    messages: FrameReader<FileMessage>,
    /// What was read last from `stdout`.
    chunk: Vec<u8>,
    path: PathBuf,
    info: SourceInfo,
    /// Codec of the last video configuration.
    video: Option<VideoCodec>,
    /// Last dts of video and of audio.
    last: (Option<MediaTime>, Option<MediaTime>),
    ended: bool,
}

impl ConfinedDemuxer {
    fn open(command: Command, path: &Path) -> Result<Self, DemuxError> {
        let mut demuxer = Self::spawn(command, path)?;
        match demuxer.receive()? {
            FileMessage::Opened(info) => demuxer.info = info,
            FileMessage::Failed(failure) => return Err(demuxer.reported(failure)),
            FileMessage::Media(_)
            | FileMessage::Surveyed(_)
            | FileMessage::Packet(_)
            | FileMessage::Ended => return Err(demuxer.out_of_order()),
        }
        Ok(demuxer)
    }

    /// Starts the process.
    fn spawn(mut command: Command, path: &Path) -> Result<Self, DemuxError> {
        // For the texts of libav's errors.
        crate::quiet();
        let (path, file) = if path == Path::new(STDIN) {
            (Path::new("standard input"), Stdio::inherit())
        } else {
            let file = File::open(path).map_err(|error| DemuxError::Open {
                path: path.into(),
                error: ff::Error::Other { errno: error.raw_os_error().unwrap_or(libc::EIO) },
            })?;
            (path, file.into())
        };
        let unstarted = |error: io::Error| DemuxError::Process(format!("cannot be started: {error}"));
        let mut child = command.stdin(file).spawn().map_err(unstarted)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(DemuxError::Process("has no pipes".into()));
        };
        let stderr = thread::Builder::new().name("demux-stderr".into()).spawn(move || last_bytes(stderr));
        let mut demuxer = Self {
            child,
            stdout,
            stderr: None,
            messages: FrameReader::new(),
            chunk: vec![0; CHUNK],
            path: path.into(),
            info: SourceInfo::default(),
            video: None,
            last: (None, None),
            ended: false,
        };
        demuxer.stderr = Some(stderr.map_err(unstarted)?);
        Ok(demuxer)
    }

    /// Waits for the next message.
    fn receive(&mut self) -> Result<FileMessage, DemuxError> {
        let broken = |error: ProtocolError| DemuxError::Process(format!("broke the protocol: {error}"));
        loop {
            if let Some(message) = self.messages.next().map_err(broken)? {
                return Ok(message);
            }
            match self.stdout.read(&mut self.chunk) {
                Ok(0) => return Err(self.died()),
                Ok(read) => self.messages.push(&self.chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DemuxError::Process(format!("cannot be read: {error}"))),
            }
        }
    }

    fn step(&mut self) -> Result<Option<Media>, DemuxError> {
        match self.receive()? {
            FileMessage::Media(mut media) => {
                match &mut media {
                    Media::VideoConfig(config) => self.video = Some(config.codec),
                    // No file's track becomes a sound track beside the main sound.
                    Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {}
                    Media::Video(unit) => {
                        if !self.video.is_some_and(|codec| is_whole(codec, unit)) {
                            return Err(DemuxError::Process("broke the protocol: a damaged picture".into()));
                        }
                        let_dts_grow(&mut self.last.0, unit);
                    }
                    Media::Audio(unit) => let_dts_grow(&mut self.last.1, unit),
                }
                Ok(Some(media))
            }
            FileMessage::Ended => Ok(None),
            FileMessage::Failed(failure) => Err(self.reported(failure)),
            FileMessage::Opened(_) | FileMessage::Surveyed(_) | FileMessage::Packet(_) => {
                Err(self.out_of_order())
            }
        }
    }

    /// The next packet of a file whose packets alone are looked at.
    fn packet(&mut self) -> Result<Option<SurveyedPacket>, DemuxError> {
        match self.receive()? {
            FileMessage::Packet(packet) => Ok(Some(packet)),
            FileMessage::Ended => Ok(None),
            FileMessage::Failed(failure) => Err(self.reported(failure)),
            FileMessage::Opened(_) | FileMessage::Surveyed(_) | FileMessage::Media(_) => {
                Err(self.out_of_order())
            }
        }
    }

    /// The next item, as `step` reads it; none after the end or an error.
    fn next_of<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<T>, DemuxError>,
    ) -> Option<Result<T, DemuxError>> {
        if self.ended {
            return None;
        }
        let next = step(self).transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }

    fn out_of_order(&self) -> DemuxError {
        DemuxError::Process("broke the protocol: a message out of order".into())
    }

    fn reported(&self, failure: FileFailure) -> DemuxError {
        match failure {
            FileFailure::Open(number) => {
                DemuxError::Open { path: self.path.clone(), error: ff::Error::from(number) }
            }
            FileFailure::NoMedia => DemuxError::NoMedia { path: self.path.clone() },
            FileFailure::Other(text) => DemuxError::Reported(printable(&text)),
        }
    }

    /// The error of a process whose output ended too early.
    fn died(&mut self) -> DemuxError {
        // Changes nothing for a process that is ending, and ends one that only closed its output.
        let _ = self.child.kill();
        let status = self.child.wait();
        let words = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        DemuxError::Process(match status {
            Ok(status) => told(status, &words),
            Err(error) => format!("ended: {error}"),
        })
    }
}

/// How the process ended, in words for the operator.
fn told(status: ExitStatus, words: &str) -> String {
    // The standard library ends its own last words with a note about backtraces.
    let says = |line: &&str| !line.is_empty() && !line.starts_with("note: ");
    let line = words.lines().rev().map(str::trim).find(says).unwrap_or_default();
    if status.signal() == Some(libc::SIGSYS) {
        let call = words.lines().rev().find_map(forbidden_call).unwrap_or("unknown");
        return format!(
            "made a forbidden system call: {call}; either the file is an attack, or libav needs the call for a file of \
             this kind"
        );
    }
    let line = printable(line.strip_prefix("worker: ").unwrap_or(line));
    if status.code() == Some(NOT_CONFINED.into()) {
        return format!("does not start: {line}");
    }
    if line.is_empty() { format!("ended: {status}") } else { format!("ended: {status}: {line}") }
}

/// Text from the process as a terminal may show it.
fn printable(text: &str) -> String {
    text.chars().take(SHOWN).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Reads to the end of the process's stderr, and returns its last bytes.
fn last_bytes(mut stderr: ChildStderr) -> Vec<u8> {
    let mut last = Vec::new();
    let mut chunk = [0; LAST_WORDS];
    loop {
        match stderr.read(&mut chunk) {
            Ok(0) => return last,
            Ok(read) => {
                last.extend_from_slice(&chunk[..read]);
                last.drain(..last.len().saturating_sub(LAST_WORDS));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return last,
        }
    }
}

impl Iterator for ConfinedDemuxer {
    type Item = Result<Media, DemuxError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_of(Self::step)
    }
}

impl Drop for ConfinedDemuxer {
    fn drop(&mut self) {
        // A process that has ended by itself is only collected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
