//! A camera for latency measurements: real footage, published by FFmpeg, with the wall clock burnt into every frame
//! when the frame is passed to the publisher's encoder. A clock read off a screen therefore gives the age since the
//! camera, the publisher's own encoding included.
//!
//! The footage is decoded once and kept as raw frames. In real time the camera only copies frames, draws the clock and
//! writes to the pipe.

use crate::patience::pause;
use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transcode::pattern::draw_clock;

/// Published frames per second.
pub const FRAME_RATE: u32 = 30;
/// Published video bitrate in bits per second.
const BITRATE: &str = "2500k";

/// Raw frames in 8-bit YUV 4:2:0, played in a loop.
#[derive(Clone)]
pub struct Footage {
    width: usize,
    height: usize,
    frames: Arc<Vec<u8>>,
}

impl Footage {
    /// Decodes the first `seconds` of a clip, scaled to the given size (both sides even).
    pub fn decode(clip: &Path, (width, height): (usize, usize), seconds: f64) -> anyhow::Result<Self> {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-i"]).arg(clip).args(["-an", "-t"]);
        command.arg(seconds.to_string()).args(["-r", &FRAME_RATE.to_string(), "-pix_fmt", "yuv420p", "-vf"]);
        let decoded =
            command.arg(format!("scale={width}:{height}")).args(["-f", "rawvideo", "-"]).output()?;
        ensure!(decoded.status.success(), "decoding: {}", String::from_utf8_lossy(&decoded.stderr));
        let frame = width * height * 3 / 2;
        let whole = decoded.stdout.len() / frame * frame;
        ensure!(whole > 0, "{} has no picture", clip.display());
        let mut frames = decoded.stdout;
        frames.truncate(whole);
        Ok(Self { width, height, frames: Arc::new(frames) })
    }

    fn frame_bytes(&self) -> usize {
        self.width * self.height * 3 / 2
    }

    /// Copies frame `number` of the endless loop into `into` and draws the clock on it.
    fn expose(&self, number: u64, unix_ms: u64, into: &mut [u8]) {
        let bytes = self.frame_bytes();
        let at = (number % (self.frames.len() / bytes) as u64) as usize * bytes;
        into.copy_from_slice(&self.frames[at..at + bytes]);
        let (luma, chroma) = into.split_at_mut(self.width * self.height);
        let (u, v) = chroma.split_at_mut(chroma.len() / 2);
        draw_clock([luma, u, v], self.width, self.height, unix_ms);
    }
}

/// Record of the published frames.
#[derive(Clone, Debug, Default)]
pub struct Exposed {
    /// The clock of every frame in order, in milliseconds of Unix time.
    pub codes: Vec<u64>,
    /// Largest delay of a frame against its due time: how long the encoder made the camera wait.
    pub latest: Duration,
}

/// A camera that publishes until it is dropped.
pub struct Camera {
    ffmpeg: Child,
    stop: Arc<AtomicBool>,
    exposed: Arc<Mutex<Exposed>>,
    complaints: Arc<Mutex<String>>,
    threads: Vec<JoinHandle<()>>,
}

impl Camera {
    /// Publishes footage with the audio of `clip` to an RTMP URL: x264 `ultrafast` without lookahead or B-frames, a
    /// keyframe every second, AAC.
    pub fn start(footage: Footage, clip: &Path, url: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("ffmpeg");
        command.args(["-hide_banner", "-loglevel", "warning", "-fflags", "nobuffer", "-f", "rawvideo"]);
        command.args(["-pix_fmt", "yuv420p", "-framerate", &FRAME_RATE.to_string(), "-video_size"]);
        command.arg(format!("{}x{}", footage.width, footage.height)).args(["-i", "pipe:0"]);
        command.args(["-stream_loop", "-1", "-i"]).arg(clip).args(["-map", "0:v", "-map", "1:a"]);
        command.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"]);
        command.args(["-b:v", BITRATE, "-maxrate", BITRATE, "-bufsize", BITRATE, "-sc_threshold", "0"]);
        command.args(["-g", &FRAME_RATE.to_string(), "-keyint_min", &FRAME_RATE.to_string(), "-c:a", "copy"]);
        command.args(["-flush_packets", "1", "-f", "flv", url]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut ffmpeg = command.spawn().context("ffmpeg does not start")?;
        let mut pipe = ffmpeg.stdin.take().context("a pipe was asked for")?;
        let mut errors = ffmpeg.stderr.take().context("a pipe was asked for")?;

        let stop = Arc::new(AtomicBool::new(false));
        let exposed = Arc::new(Mutex::new(Exposed::default()));
        let complaints = Arc::new(Mutex::new(String::new()));
        let hand_over = {
            let (stop, exposed) = (stop.clone(), exposed.clone());
            move || expose_all(&footage, &mut pipe, &stop, &exposed)
        };
        let collect = {
            let complaints = complaints.clone();
            move || {
                let mut chunk = [0; 4096];
                while let Ok(length @ 1..) = errors.read(&mut chunk) {
                    locked(&complaints).push_str(&String::from_utf8_lossy(&chunk[..length]));
                }
            }
        };
        let threads = vec![std::thread::spawn(hand_over), std::thread::spawn(collect)];
        Ok(Self { ffmpeg, stop, exposed, complaints, threads })
    }

    /// The frames published so far.
    pub fn exposed(&self) -> Exposed {
        locked(&self.exposed).clone()
    }

    /// Checks that FFmpeg still publishes.
    ///
    /// # Errors
    /// FFmpeg has ended; the error holds its output.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.ffmpeg.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the publisher ended with {status}: {}", locked(&self.complaints)),
        }
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        // Closing the pipe ends the footage, and FFmpeg then ends the publish in order.
        self.stop.store(true, Ordering::Relaxed);
        if crate::patience::poll(Duration::from_secs(5), || self.ffmpeg.try_wait().ok().flatten()).is_none() {
            let _ = self.ffmpeg.kill();
            let _ = self.ffmpeg.wait();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn expose_all(footage: &Footage, pipe: &mut impl Write, stop: &AtomicBool, exposed: &Mutex<Exposed>) {
    let mut frame = vec![0; footage.frame_bytes()];
    let begin = Instant::now();
    for number in 0.. {
        let due = begin + Duration::from_nanos(number * 1_000_000_000 / u64::from(FRAME_RATE));
        pause(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let late = due.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let code = now.as_millis() as u64;
        footage.expose(number, code, &mut frame);
        {
            let mut exposed = locked(exposed);
            exposed.codes.push(code);
            exposed.latest = exposed.latest.max(late);
        }
        if pipe.write_all(&frame).is_err() {
            return;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use transcode::pattern::read_clock;

    #[test]
    fn every_frame_of_the_loop_shows_its_clock() {
        let (width, height) = (320, 180);
        let frames = Arc::new(vec![100; width * height * 3]);
        let footage = Footage { width, height, frames };
        let mut frame = vec![0; footage.frame_bytes()];
        for number in 0..5 {
            footage.expose(number, 1_795_370_645_678 + number, &mut frame);
            assert_eq!(read_clock(&frame, width, width, height), Some(1_795_370_645_678 + number));
        }
    }
}
