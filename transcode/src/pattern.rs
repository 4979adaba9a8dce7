//! The encoded test pattern of `encoder publish --test-pattern`: a source when there is no camera, and a measuring
//! tool. Drawing and tone are pure and live in submodules; this module connects them to the encoders. The caller
//! decides when a frame is due.
//!
//! What can be measured with the pattern:
//! - the age of a picture: [`read_clock`] reads the wall clock at which the picture was drawn from any copy of the
//!   picture, scaled or recompressed (the layout is in [`clock_code`]); people read the digits;
//! - audio/video sync: with the first frame of every second of media time the dial flashes white for exactly that
//!   frame, and a beep of 1 kHz and 100 ms begins. Between beeps there is a quiet tone, never silence;
//! - lost frames: the frame counter shows them.

pub mod clock_code;
mod draw;
mod font;
mod noise;
mod tone;

pub use super::contribution::EncodeError;
pub use clock_code::{draw_clock, read_clock};

use super::contribution::{
    ContributionAudio, ContributionSettings, ContributionVideo, FRAME_SAMPLES, SAMPLE_RATE,
};
use draw::{Canvas, Painter};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use media::time::TICKS_PER_SECOND;
use media::{Media, MediaSpan, MediaTime, WallTime};
use std::fmt;

/// Where the pattern's media axis begins: 10 s, as for a file.
const ORIGIN: MediaTime = MediaTime::from_ticks_90k(10 * TICKS_PER_SECOND);

/// Frame rate as a fraction, in frames per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    /// Numerator, at least 1.
    pub num: u32,
    /// Denominator, at least 1.
    pub den: u32,
}

impl FrameRate {
    /// Presentation time of a frame, relative to the start.
    pub fn time_of(self, frame: u64) -> MediaSpan {
        MediaSpan::from_ticks_90k(self.scaled(frame, TICKS_PER_SECOND as u64) as i64)
    }

    fn scaled(self, frame: u64, per_second: u64) -> u64 {
        let scaled = u128::from(frame) * u128::from(self.den) * u128::from(per_second) / u128::from(self.num);
        scaled as u64
    }

    fn millis(self, frame: u64) -> u64 {
        self.scaled(frame, 1000)
    }

    /// Whether this is the first frame of a second.
    fn is_mark(self, frame: u64) -> bool {
        frame == 0 || self.scaled(frame, 1) != self.scaled(frame - 1, 1)
    }

    /// Position of a frame within its second, 0 to 1.
    fn phase(self, frame: u64) -> f64 {
        (self.scaled(frame, 1_000_000) % 1_000_000) as f64 / 1e6
    }

    /// Index of the sample at which the first frame of a second begins, at `per_second` samples per second.
    fn mark_sample(self, second: u64, per_second: u64) -> u64 {
        let frame = (second * u64::from(self.num)).div_ceil(u64::from(self.den));
        self.scaled(frame, per_second)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.num.is_multiple_of(self.den) {
            write!(f, "{}", self.num / self.den)
        } else {
            write!(f, "{:.2}", f64::from(self.num) / f64::from(self.den))
        }
    }
}

/// Settings of the pattern.
#[derive(Clone, Debug)]
pub struct PatternSettings {
    /// Width in pixels; even, at least 160.
    pub width: u16,
    /// Height in pixels; even, at least 160.
    pub height: u16,
    /// Frames per second, 1 to 120.
    pub frame_rate: FrameRate,
    /// Video bit rate, in bits per second.
    pub bitrate: u32,
    /// Whether the pattern has video.
    pub video: bool,
    /// Whether the pattern has audio.
    pub audio: bool,
}

/// Bit rate of the tone, in bits per second.
const AUDIO_BITRATE: u32 = 128_000;

/// An encoded test pattern, frame by frame.
pub struct Pattern {
    frame_rate: FrameRate,
    next_frame: u64,
    video: Option<Video>,
    audio: Option<Audio>,
}

struct Video {
    painter: Painter,
    picture: Canvas,
    encoder: ContributionVideo,
}

struct Audio {
    encoder: ContributionAudio,
    /// Samples sent to the encoder.
    encoded: u64,
}

impl Pattern {
    /// Opens the encoders.
    pub fn open(settings: &PatternSettings) -> Result<Self, EncodeError> {
        super::quiet();
        let PatternSettings { width, height, frame_rate, bitrate, video, audio } = *settings;
        let video = video.then(|| {
            let painter = Painter::new(width.into(), height.into(), frame_rate);
            let picture = painter.canvas();
            let encoder = ContributionVideo::open(ContributionSettings {
                width,
                height,
                sample_aspect: (1, 1),
                frame_rate: (frame_rate.num, frame_rate.den),
                bitrate,
                preset: "ultrafast",
                zero_latency: true,
            })?;
            Ok::<_, EncodeError>(Video { painter, picture, encoder })
        });
        let audio = audio.then(|| {
            let encoder = ContributionAudio::open(AUDIO_BITRATE)?;
            Ok::<_, EncodeError>(Audio { encoder, encoded: 0 })
        });
        Ok(Self { frame_rate, next_frame: 0, video: video.transpose()?, audio: audio.transpose()? })
    }

    /// Time at which the next frame is due, relative to the first frame.
    pub fn next_due(&self) -> MediaSpan {
        self.frame_rate.time_of(self.next_frame)
    }

    /// Draws the next frame, showing `wall`, and encodes the frame and the audio up to the start of the following
    /// frame. The result is ordered by dts.
    pub fn advance(&mut self, wall: WallTime) -> Result<Vec<Media>, EncodeError> {
        let mut out = Vec::new();
        let frame = self.next_frame;
        self.next_frame += 1;
        if let Some(video) = &mut self.video {
            video.painter.paint(&mut video.picture, frame, (wall.unix_micros() / 1000).max(0) as u64);
            let mut coded = as_frame(&video.picture);
            video.encoder.encode(&mut coded, ORIGIN + self.frame_rate.time_of(frame), &mut out)?;
        }
        if let Some(audio) = &mut self.audio {
            // Encode two AAC frames more than have played by then: the encoder holds one frame back, and begins with a
            // frame of priming. So no audio comes out later that is due before the next picture.
            let until =
                self.frame_rate.scaled(self.next_frame, SAMPLE_RATE.into()) + 2 * FRAME_SAMPLES as u64;
            let origin = ORIGIN.to_scaled(SAMPLE_RATE);
            let mut samples = [0.0; FRAME_SAMPLES];
            while audio.encoded < until {
                tone::fill(&mut samples, audio.encoded, self.frame_rate);
                audio.encoder.encode([&samples, &samples], origin + audio.encoded as i64, &mut out)?;
                audio.encoded += FRAME_SAMPLES as u64;
            }
        }
        out.sort_by_key(|media| match media {
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => None,
            Media::Video(unit) | Media::Audio(unit) | Media::Track(_, unit) => Some(unit.dts),
        });
        Ok(out)
    }

    /// Flushes the encoders and returns the remaining media.
    pub fn finish(&mut self) -> Result<Vec<Media>, EncodeError> {
        let mut out = Vec::new();
        if let Some(video) = &mut self.video {
            video.encoder.finish(&mut out)?;
        }
        if let Some(audio) = &mut self.audio {
            audio.encoder.finish(&mut out)?;
        }
        Ok(out)
    }
}

fn as_frame(picture: &Canvas) -> frame::Video {
    let mut coded = frame::Video::new(Pixel::YUV420P, picture.width as u32, picture.height as u32);
    for (index, plane) in picture.planes.iter().enumerate() {
        let (stride, width) = (coded.stride(index), picture.width >> usize::from(index > 0));
        for (to, from) in coded.data_mut(index).chunks_mut(stride).zip(plane.chunks_exact(width)) {
            to[..width].copy_from_slice(from);
        }
    }
    coded
}

#[cfg(test)]
mod tests;
