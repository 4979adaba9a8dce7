//! The contenders that write to a bucket: the encoder, and FFmpeg with an upload loop.

use crate::outage::Memory;
use crate::uploader::{Target, Uploader};
use crate::{Row, cost, delay};
use anyhow::Context;
use hls::timing::{Latency, Timing};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::encoder_process::{Encoder, Options, free_port};
use tests::footage::{Camera, Footage};
use tests::gcs::{FakeGcs, Fault, Operation};
use tests::patience::{eventually, pause};
use tests::playlist;
use tests::process::{Program, listens};
use tests::reference::Reference;

/// Picture size of the published stream in pixels.
pub(crate) const SIZE: (usize, usize) = (1280, 720);
/// Bucket name.
const BUCKET: &str = "live";
/// Stream name and key.
const STREAM: &str = "bench";
/// Video rungs, largest first; audio is added to them.
const RUNGS: [&str; 3] = ["720p", "480p", "360p"];
const LADDER: &str = "720p@2800k,480p@1400k,360p@800k";
/// Playlist length in seconds; the encoder's own default.
const WINDOW: f64 = 30.0;
/// Pause between the first playlists and the measurement.
const SETTLE: Duration = Duration::from_secs(2);
/// Time after the measurement for the playlists of the last measured frames to appear.
const TRAILING: Duration = Duration::from_secs(4);

/// Delays every call by `call`, except public reads.
pub(crate) fn slow(fake: &FakeGcs, call: Duration) {
    fake.set_rule(move |asked| match asked.operation {
        Operation::Public => Fault::None,
        _ => Fault::Slow(call),
    });
}

/// Waits until every rung's playlist below a folder names a segment.
fn wait_for_playlists(fake: &FakeGcs, folder: &str) {
    eventually(&format!("playlists in {folder}"), Duration::from_secs(60), || {
        let state = fake.state();
        let listed = |rung: &str| {
            let object = state.objects.peek(BUCKET, &format!("{folder}/{rung}/index.m3u8"))?;
            let media = playlist::media(std::str::from_utf8(&object.body).ok()?).ok()?;
            (!media.segments.is_empty()).then_some(())
        };
        RUNGS.iter().try_for_each(|rung| listed(rung))
    });
}

/// Evaluates the calls and objects below a folder.
fn row(
    fake: &FakeGcs,
    folder: &str,
    name: String,
    segment_seconds: f64,
    window: &Range<Duration>,
) -> anyhow::Result<Row> {
    let delays = delay::delays(fake, BUCKET, folder, &RUNGS, window).with_context(|| name.clone())?;
    let hour = cost::Hour::of(fake, BUCKET, folder, window);
    Ok(Row { name, segment_seconds, delays, hour })
}

/// The encoder with its own bucket, and a camera publishing to it.
pub(crate) struct EncoderRun {
    latency: String,
    pub(crate) encoder: Encoder,
    pub(crate) fake: FakeGcs,
    camera: Camera,
    on_air: Instant,
}

// === impl EncoderRun ===

impl EncoderRun {
    pub(crate) fn start(
        latency: &str,
        call: Duration,
        footage: &Footage,
        clip: &Path,
    ) -> anyhow::Result<Self> {
        eprintln!("bench-store: encoder, --latency {latency}");
        let fake = FakeGcs::start(BUCKET);
        slow(&fake, call);
        let options = Options::default()
            .set("--output", &format!("gs://{BUCKET}/tv"))
            .set("--gcs-endpoint", &fake.endpoint())
            .set("--ladder", LADDER)
            .set("--latency", latency)
            // The tests' default preset is faster.
            .set("--preset", "veryfast");
        let encoder = Encoder::start(options.unjudged());
        let camera = Camera::start(footage.clone(), clip, &encoder.rtmp_url(STREAM))?;
        let on_air = Instant::now();
        wait_for_playlists(&fake, &folder());
        Ok(Self { latency: latency.to_owned(), encoder, fake, camera, on_air })
    }

    /// Measures for at least `least`, and until the stream has run for `on_air`. Samples the supervisor's memory
    /// meanwhile.
    pub(crate) fn measure(&mut self, least: Duration, on_air: Duration) -> anyhow::Result<(Row, Memory)> {
        pause(SETTLE);
        let length = least.max(on_air.saturating_sub(self.on_air.elapsed() + TRAILING));
        let mut memory = Memory::default();
        let begin = self.fake.now();
        while self.fake.now() < begin + length {
            memory.look(&self.encoder);
        }
        let window = begin..self.fake.now();
        pause(TRAILING);
        self.camera.check()?;
        let name = format!("encoder, `--latency {}`", self.latency);
        let segment_seconds = timing(&self.latency)?.segment.as_secs_f64();
        Ok((row(&self.fake, &folder(), name, segment_seconds, &window)?, memory))
    }

    /// Stops the encoder as an operator would.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.camera.check()?;
        drop(self.camera);
        self.encoder.stop();
        Ok(())
    }
}

/// The stream's folder in the bucket.
fn folder() -> String {
    format!("tv/live/{STREAM}")
}

fn timing(latency: &str) -> anyhow::Result<Timing> {
    let latency: Latency = latency.parse()?;
    Ok(Timing::new(latency))
}

/// FFmpeg writes the same ladder to a directory; two upload loops copy it to separate folders of the bucket.
pub(crate) struct FfmpegRun {
    segment_seconds: f64,
    fake: FakeGcs,
    camera: Camera,
    uploaders: Vec<(&'static str, &'static str, Uploader)>,
    _program: Program,
    _folder: tempfile::TempDir,
}

// === impl FfmpegRun ===

impl FfmpegRun {
    pub(crate) fn start(
        segment_seconds: f64,
        call: Duration,
        footage: &Footage,
        clip: &Path,
    ) -> anyhow::Result<Self> {
        eprintln!("bench-store: FFmpeg and uploaders, segments of {segment_seconds} s");
        let fake = FakeGcs::start(BUCKET);
        slow(&fake, call);
        let mut reference = Reference::three_rungs();
        (reference.gop_seconds, reference.segment_seconds) = (segment_seconds, segment_seconds);
        reference.window = (WINDOW / segment_seconds) as u32;
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let url = format!("rtmp://127.0.0.1:{port}/live/{STREAM}");
        let mut command = reference.command(&["-f", "flv", "-listen", "1", "-i", &url], folder.path());
        let program = Program::spawn("ffmpeg (contender)", &mut command);
        eventually("FFmpeg to listen", Duration::from_secs(10), || listens(port).then_some(()));
        let all: Vec<_> = RUNGS.into_iter().chain(["audio"]).map(str::to_owned).collect();
        let each: Vec<_> = all.iter().map(|rung| vec![rung.clone()]).collect();
        let start = |prefix: &'static str, name, groups| {
            let target = Target { endpoint: fake.endpoint(), bucket: BUCKET.into(), prefix: prefix.into() };
            (prefix, name, Uploader::start(target, folder.path(), groups))
        };
        let uploaders = vec![
            start("one", "FFmpeg, a loop that uploads", vec![all]),
            start("each", "FFmpeg, a loop for each rendition", each),
        ];
        let camera = Camera::start(footage.clone(), clip, &url)?;
        for (prefix, ..) in &uploaders {
            wait_for_playlists(&fake, prefix);
        }
        Ok(Self { segment_seconds, fake, camera, uploaders, _program: program, _folder: folder })
    }

    /// Measures both loops over `length`.
    pub(crate) fn measure(mut self, length: Duration) -> anyhow::Result<Vec<Row>> {
        pause(SETTLE);
        let begin = self.fake.now();
        pause(length);
        let window = begin..self.fake.now();
        pause(TRAILING);
        self.camera.check()?;
        let Self { segment_seconds, fake, uploaders, .. } = self;
        let rows = uploaders.into_iter().map(|(prefix, name, uploader)| {
            uploader.stop().context(name)?;
            row(&fake, prefix, name.to_owned(), segment_seconds, &window)
        });
        rows.collect()
    }
}
