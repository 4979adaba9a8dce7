//! The worker's threads and the queues between them.
//!
//! ```text
//! reader ─┬─► video: decode + scale ─┬─► encode rung 0 ─┐
//!         │                          ├─► encode rung 1 ─┼─► writer ─► stdout
//!         │                          └─► thumbnail ─────┤
//!         └─► audio: decode + encode × sound tracks ────┘
//! ```
//!
//! Every queue is short and blocks when full. The backpressure reaches the pipe, where the supervisor sheds. Only
//! thumbnails are skipped, while the previous thumbnail is still being made. The end of input travels downstream as
//! closed queues: a stage that sees its input queue closed flushes, passes the rest on, and ends. A stage that fails
//! closes its input and output queues, and its error surfaces where the stage is joined.

use super::audio::{AudioFormat, AudioTranscoder};
use super::cadence::{Decimator, KeyDecider};
use super::captions::{CaptionCarry, captions_of};
use super::counters::WorkerCounters;
use super::decode::{DecodedPicture, VideoDecoder};
use super::encode::VideoEncoder;
use super::error::TranscodeError;
use super::scale::Cascade;
use super::thumbnail::{self, Schedule};
use super::{log, raw};
use crate::wire::{AUDIO_TRACK, AudioRung, Job, OpenedTrack, Request, Response, WireUnit, is_audio_track};
use bytes::Bytes;
use ffmpeg_next::frame;
use media::{MAX_SOUND_TRACKS, MediaTime, Unit, VideoCodec};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Queue length in coded units between the reader and a decoder: enough to decouple them, while a backlog stays with
/// the supervisor, which can shed it.
const UNITS: usize = 8;
/// Queue length in pictures between scaling and a rung's encoder; each picture takes up to 3 MB at 1080p. The queue
/// lets the rungs run slightly apart when one rung meets a picture that is expensive to encode.
const PICTURES: usize = 2;
/// Queue length in responses between all stages and the writer.
const RESPONSES: usize = 32;
/// The decoder uses several threads when the largest rung has more pixels than this.
const PARALLEL_DECODING_FROM: u32 = 1920 * 1088;

/// State that all stages share.
#[derive(Clone)]
struct Context {
    job: Arc<Job>,
    counters: Arc<WorkerCounters>,
    out: SyncSender<Response>,
    processors: usize,
}

impl Context {
    fn send(&self, response: Response) -> Result<(), TranscodeError> {
        self.out.send(response).map_err(|_| TranscodeError::Downstream)
    }
}

enum VideoInput {
    Config(VideoCodec, Bytes),
    Unit(Unit),
}

enum AudioInput {
    Config(AudioFormat),
    Unit(Unit),
}

type Stage = JoinHandle<Result<(), TranscodeError>>;

/// The decoding and encoding stages. Their output goes to the queue passed to [`Self::start`].
pub(super) struct Pipeline {
    video: Option<(SyncSender<VideoInput>, Stage)>,
    /// A stage for each sound track that is transcoded.
    audio: Vec<(u8, SyncSender<AudioInput>, Stage)>,
}

/// Creates the queue to the writer: all stages send into it, the writer reads from it.
pub(super) fn output_queue() -> (SyncSender<Response>, Receiver<Response>) {
    sync_channel(RESPONSES)
}

impl Pipeline {
    /// Starts the stages that the job needs.
    pub(super) fn start(
        job: Job,
        counters: Arc<WorkerCounters>,
        out: SyncSender<Response>,
        processors: usize,
    ) -> Result<Self, TranscodeError> {
        counters.begin(job.rungs.len());
        let context = Context { job: Arc::new(job), counters, out, processors };
        let video = if context.job.rungs.is_empty() {
            None
        } else {
            let (sender, receiver) = sync_channel(UNITS);
            let context = context.clone();
            Some((sender, spawn("video", move || VideoStage::new(context).run(&receiver))?))
        };
        let main = context.job.audio.iter().map(|rung| (AUDIO_TRACK, rung));
        let others = context.job.sound_tracks.iter().map(|job| (job.track, &job.rung));
        let mut audio = Vec::new();
        for (track, rung) in main.chain(others).take(MAX_SOUND_TRACKS) {
            let (sender, receiver) = sync_channel(UNITS);
            let (context, rung) = (context.clone(), rung.clone());
            let stage = spawn("audio", move || run_audio(&context, track, &rung, &receiver))?;
            audio.push((track, sender, stage));
        }
        Ok(Self { video, audio })
    }

    /// Passes a request to its stage, and blocks while the stage's queue is full. Media for a track that the job does
    /// not use is ignored.
    ///
    /// # Errors
    /// [`TranscodeError::Downstream`] when the stage ended early; [`Self::finish`] returns the cause.
    pub(super) fn submit(&self, request: Request) -> Result<(), TranscodeError> {
        let sent = match request {
            Request::VideoConfig { codec, record } => {
                self.video.as_ref().is_none_or(|(q, _)| q.send(VideoInput::Config(codec, record)).is_ok())
            }
            Request::AudioConfig { track, codec, sample_rate, channels, record } => {
                let format = AudioFormat { codec, sample_rate, channels, record };
                self.audio(track).is_none_or(|q| q.send(AudioInput::Config(format)).is_ok())
            }
            Request::Unit(WireUnit { track, unit }) if is_audio_track(track) => {
                self.audio(track).is_none_or(|q| q.send(AudioInput::Unit(unit)).is_ok())
            }
            Request::Unit(WireUnit { unit, .. }) => {
                self.video.as_ref().is_none_or(|(q, _)| q.send(VideoInput::Unit(unit)).is_ok())
            }
            Request::Start(_) => return Err(TranscodeError::Unexpected("a second job")),
            Request::Finish => return Err(TranscodeError::Unexpected("finish inside the pipeline")),
        };
        if sent { Ok(()) } else { Err(TranscodeError::Downstream) }
    }

    fn audio(&self, track: u8) -> Option<&SyncSender<AudioInput>> {
        self.audio.iter().find(|(of, ..)| *of == track).map(|(_, queue, _)| queue)
    }

    /// Ends the input: waits until every stage is flushed, and returns the first error.
    pub(super) fn finish(self) -> Result<(), TranscodeError> {
        // Close all queues before waiting for any stage.
        let video = self.video.map(|(_, stage)| stage);
        let audio: Vec<Stage> = self.audio.into_iter().map(|(.., stage)| stage).collect();
        let video = video.map(|stage| join("video", stage));
        let audio: Vec<_> = audio.into_iter().map(|stage| join("audio", stage)).collect();
        first_cause(video.into_iter().chain(audio))
    }
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, TranscodeError> {
    Builder::new().name(name.into()).spawn(run).map_err(TranscodeError::Pipe)
}

fn join(name: &'static str, stage: Stage) -> Result<(), TranscodeError> {
    stage.join().unwrap_or(Err(TranscodeError::Panicked(name)))
}

/// The error that caused the others: a `Downstream` error counts only if there is no other error.
fn first_cause(results: impl IntoIterator<Item = Result<(), TranscodeError>>) -> Result<(), TranscodeError> {
    let mut consequence = Ok(());
    for result in results {
        match result {
            Err(TranscodeError::Downstream) => consequence = Err(TranscodeError::Downstream),
            Err(cause) => return Err(cause),
            Ok(()) => {}
        }
    }
    consequence
}

struct Coded {
    frame: frame::Video,
    pts: MediaTime,
    key: bool,
}

/// The encoders for one video configuration.
struct Encoders {
    queues: Vec<SyncSender<Coded>>,
    stages: Vec<Stage>,
}

impl Encoders {
    /// Opens the encoders of all rungs, announces their tracks, and starts a thread for each encoder.
    fn open(context: &Context, pictures: &[Option<frame::Video>]) -> Result<Self, TranscodeError> {
        let job = &context.job;
        let mut opened = Vec::new();
        let mut tracks = Vec::new();
        for (index, (rung, picture)) in job.rungs.iter().zip(pictures).enumerate() {
            let track = index as u8;
            let picture =
                picture.as_ref().ok_or(TranscodeError::Unexpected("a rung without its first picture"))?;
            let (encoder, record) = VideoEncoder::open(track, rung, &job.video, picture, context.processors)?;
            tracks.push(OpenedTrack { track, config: record.to_vec() });
            opened.push((track, encoder));
        }
        context.send(Response::Opened(tracks))?;
        let mut encoders = Self { queues: Vec::new(), stages: Vec::new() };
        for (track, encoder) in opened {
            let (sender, receiver) = sync_channel(PICTURES);
            let context = context.clone();
            encoders.stages.push(spawn("encode", move || run_encoder(&context, track, encoder, &receiver))?);
            encoders.queues.push(sender);
        }
        Ok(encoders)
    }

    fn finish(self) -> Result<(), TranscodeError> {
        drop(self.queues);
        let results: Vec<_> = self.stages.into_iter().map(|stage| join("encode", stage)).collect();
        first_cause(results)
    }
}

fn run_encoder(
    context: &Context,
    track: u8,
    mut encoder: VideoEncoder,
    pictures: &Receiver<Coded>,
) -> Result<(), TranscodeError> {
    let mut out = |unit: WireUnit| {
        context.counters.encoded.fetch_add(1, Ordering::Relaxed);
        context.send(Response::Unit(unit))
    };
    for Coded { frame, pts, key } in pictures {
        encoder.encode(frame, pts, key, &mut out)?;
        context.counters.rung(track, encoder.take_work());
    }
    encoder.finish(&mut out)
}

/// Decodes and scales. Owns the decoder and the encoders of the current configuration.
struct VideoStage {
    context: Context,
    decoder: Option<VideoDecoder>,
    keys: KeyDecider,
    decimators: Vec<Decimator>,
    captions: Vec<CaptionCarry>,
    cascade: Cascade,
    encoders: Option<Encoders>,
    last_pts: Option<MediaTime>,
    /// Pictures before this time are decoded but not encoded.
    encode_from: MediaTime,
    schedule: Schedule,
    thumbnails: Option<(SyncSender<frame::Video>, Stage)>,
}

impl VideoStage {
    fn new(context: Context) -> Self {
        let job = context.job.clone();
        Self {
            decoder: None,
            keys: KeyDecider::new(job.video.keyframes),
            decimators: job.rungs.iter().map(|r| Decimator::new(r.frame_rate)).collect(),
            captions: job.rungs.iter().map(|_| CaptionCarry::default()).collect(),
            cascade: Cascade::new(&job.rungs, context.processors),
            encoders: None,
            last_pts: None,
            encode_from: MediaTime::from_ticks_90k(job.encode_from_90k),
            schedule: Schedule::new(job.thumbnail_every_ms),
            thumbnails: None,
            context,
        }
    }

    fn run(mut self, input: &Receiver<VideoInput>) -> Result<(), TranscodeError> {
        let result = self.take_all(input);
        // An encoder that fails ends early and makes sending to it fail; its error is the cause.
        let encoders = self.encoders.take().map_or(Ok(()), Encoders::finish);
        let thumbnails = self.thumbnails.take().map_or(Ok(()), |(queue, stage)| {
            drop(queue);
            join("thumbnail", stage)
        });
        first_cause([result, encoders, thumbnails])
    }

    fn take_all(&mut self, input: &Receiver<VideoInput>) -> Result<(), TranscodeError> {
        for item in input {
            match item {
                VideoInput::Config(codec, record) => {
                    self.flush()?;
                    let threads = self.decoder_threads();
                    self.decoder =
                        Some(VideoDecoder::open(codec, &record, threads, self.context.job.max_pixels)?);
                    self.keys = KeyDecider::new(self.context.job.video.keyframes);
                }
                VideoInput::Unit(unit) => {
                    let Some(decoder) = &mut self.decoder else {
                        return Err(TranscodeError::Unexpected("video before its configuration"));
                    };
                    self.keys.submitted(unit.pts, unit.key);
                    decoder.submit(&unit);
                    self.take_pictures()?;
                }
            }
        }
        self.flush()
    }

    /// Number of decoder threads: one thread decodes everything up to 1080p60 well ahead of real time.
    fn decoder_threads(&self) -> usize {
        let largest = self.context.job.rungs.iter().map(|r| u32::from(r.width) * u32::from(r.height)).max();
        if largest.unwrap_or(0) > PARALLEL_DECODING_FROM { self.context.processors.clamp(1, 4) } else { 1 }
    }

    /// Drains the decoder and the encoders, and closes them.
    fn flush(&mut self) -> Result<(), TranscodeError> {
        if let Some(decoder) = &mut self.decoder {
            decoder.finish();
            self.take_pictures()?;
        }
        self.decoder = None;
        self.encoders.take().map_or(Ok(()), Encoders::finish)
    }

    fn take_pictures(&mut self) -> Result<(), TranscodeError> {
        while let Some(picture) = self.decoder.as_mut().and_then(VideoDecoder::receive) {
            self.context.counters.decoded.fetch_add(1, Ordering::Relaxed);
            self.take_picture(picture)?;
        }
        if let Some(decoder) = &mut self.decoder {
            self.context.counters.decode_errors.fetch_add(decoder.take_errors(), Ordering::Relaxed);
            decoder.check_memory()?;
        }
        Ok(())
    }

    fn take_picture(&mut self, picture: DecodedPicture) -> Result<(), TranscodeError> {
        let pts = picture.pts;
        if pts < self.encode_from {
            self.last_pts = self.last_pts.max(Some(pts));
            return Ok(());
        }
        let captions = captions_of(&picture.frame);
        // A picture whose time is not later than the previous one cannot be shown; drop it here for all rungs.
        if self.last_pts.is_some_and(|last| pts <= last) {
            self.captions.iter_mut().for_each(|carry| carry.leave_out(&captions));
            return Ok(());
        }
        self.last_pts = Some(pts);
        // The first picture of an encoder is an IDR regardless of the grid, and every rung needs that picture.
        let key = self.keys.decide(pts) || self.encoders.is_none();
        let wanted: Vec<bool> = self.decimators.iter_mut().map(|d| d.keep(pts, key)).collect();
        let mut pictures = self.cascade.scale(&picture.frame, &wanted)?;
        drop(picture);
        for (carry, frame) in self.captions.iter_mut().zip(&mut pictures) {
            match frame {
                Some(frame) => raw::set_captions(frame, carry.encode(&captions).as_flattened())
                    .map_err(|source| TranscodeError::libav("captions", source))?,
                None => carry.leave_out(&captions),
            }
        }
        if self.encoders.is_none() {
            self.encoders = Some(Encoders::open(&self.context, &pictures)?);
        }
        if let Some(Some(smallest)) = pictures.last()
            && self.schedule.due(pts)
        {
            self.thumbnail(smallest)?;
        }
        let Some(encoders) = &self.encoders else { return Ok(()) };
        for (queue, frame) in encoders.queues.iter().zip(pictures) {
            if let Some(frame) = frame {
                queue.send(Coded { frame, pts, key }).map_err(|_| TranscodeError::Downstream)?;
            }
        }
        Ok(())
    }

    fn thumbnail(&mut self, picture: &frame::Video) -> Result<(), TranscodeError> {
        if self.thumbnails.is_none() {
            let (sender, receiver) = sync_channel(1);
            let context = self.context.clone();
            self.thumbnails =
                Some((sender, spawn("thumbnail", move || run_thumbnails(&context, &receiver))?));
        }
        let Some((queue, _)) = &self.thumbnails else { return Ok(()) };
        let shared = raw::share(picture).map_err(|source| TranscodeError::libav("sharing", source))?;
        match queue.try_send(shared) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(TranscodeError::Downstream),
        }
    }
}

fn run_thumbnails(context: &Context, pictures: &Receiver<frame::Video>) -> Result<(), TranscodeError> {
    for picture in pictures {
        match thumbnail::jpeg(&picture) {
            Ok(jpeg) => context.send(Response::Thumbnail(jpeg))?,
            // A failed thumbnail must not end the stream.
            Err(error) => log(format_args!("{error}")),
        }
    }
    Ok(())
}

fn run_audio(
    context: &Context,
    track: u8,
    rung: &AudioRung,
    input: &Receiver<AudioInput>,
) -> Result<(), TranscodeError> {
    let mut out = |unit| context.send(Response::Unit(unit));
    let mut transcoder: Option<AudioTranscoder> = None;
    for item in input {
        match item {
            AudioInput::Config(format) => {
                if let Some(mut old) = transcoder.take() {
                    old.finish(&mut out)?;
                }
                let (new, config) = AudioTranscoder::open(track, &format, rung)?;
                transcoder = Some(new);
                context.send(Response::Opened(vec![OpenedTrack { track, config: config.to_vec() }]))?;
            }
            AudioInput::Unit(unit) => {
                let Some(transcoder) = &mut transcoder else {
                    return Err(TranscodeError::Unexpected("audio before its configuration"));
                };
                transcoder.submit(&unit, &mut out)?;
                context.counters.decode_errors.fetch_add(transcoder.take_errors(), Ordering::Relaxed);
            }
        }
    }
    transcoder.map_or(Ok(()), |mut last| last.finish(&mut out))
}
