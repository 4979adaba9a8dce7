//! Makes a JPEG thumbnail of the stream at intervals, from the smallest rung's picture. This module also decides when
//! a thumbnail is due, on media time. The supervisor decides where the thumbnail goes.

use super::error::TranscodeError;
use super::raw::{self, Rect, Scaler, ScalerSetup};
use bytes::Bytes;
use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, encoder, ffi, format, frame, picture};
use media::{MediaSpan, MediaTime};

/// Maximum length of a thumbnail's longer side, in pixels.
const LONG_SIDE: u32 = 320;

/// JPEG quantiser, from 2 (best) to 31; 5 gives about 10 kB per picture.
const QUANTISER: i32 = 5;

/// Decides when a thumbnail is due.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Option<MediaSpan>,
    next: Option<MediaTime>,
}

impl Schedule {
    /// A thumbnail is due every `every_ms` milliseconds of media time; never if it is 0.
    pub(super) fn new(every_ms: u32) -> Self {
        Self { every: (every_ms > 0).then(|| MediaSpan::from_millis(every_ms.into())), next: None }
    }

    /// Whether to make a thumbnail of the picture at `pts`. The first picture is always taken.
    pub(super) fn due(&mut self, pts: MediaTime) -> bool {
        let Some(every) = self.every else { return false };
        let due = self.next.is_none_or(|next| pts >= next);
        if due {
            self.next = Some(pts + every);
        }
        due
    }
}

/// Size of a picture's thumbnail: the picture's own size, or scaled down to [`LONG_SIDE`]; even.
fn size_of(width: u32, height: u32) -> (u32, u32) {
    let long = width.max(height).max(1);
    if long <= LONG_SIDE {
        return (width & !1, height & !1);
    }
    let scale = |side: u32| (((side * LONG_SIDE + long / 2) / long) & !1).max(2);
    (scale(width), scale(height))
}

/// Makes a JPEG of a picture.
///
/// Scaler and encoder are opened for each thumbnail: once in several seconds, that costs less than keeping them open.
pub(super) fn jpeg(source: &frame::Video) -> Result<Bytes, TranscodeError> {
    let make = || -> Result<Bytes, Error> {
        let (width, height) = size_of(source.width(), source.height());
        let mut scaler = Scaler::new(ScalerSetup {
            from: source.format(),
            from_size: (source.width(), source.height()),
            one_field: false,
            from_full_range: false,
            to: format::Pixel::YUVJ420P,
            to_size: (width, height),
            to_rect: Rect { x: 0, y: 0, width, height },
            to_full_range: true,
            flags: ffi::SWS_BILINEAR,
        })?;
        let mut small = raw::allocate(format::Pixel::YUVJ420P, width, height)?;
        scaler.run(source, &mut small)?;
        small.set_pts(Some(0));
        small.set_kind(picture::Type::I);
        let codec = encoder::find(codec::Id::MJPEG).ok_or(Error::EncoderNotFound)?;
        let mut video = codec::Context::new_with_codec(codec).encoder().video()?;
        video.set_width(width);
        video.set_height(height);
        video.set_format(format::Pixel::YUVJ420P);
        video.set_time_base(Rational(1, 1));
        video.set_qmin(QUANTISER);
        video.set_qmax(QUANTISER);
        video.set_threading(threading::Config {
            kind: threading::Type::None,
            count: 1,
            ..Default::default()
        });
        raw::open(&mut video, &codec, Dictionary::new())?;
        let mut encoder = encoder::video::Encoder(video);
        encoder.send_frame(&small)?;
        encoder.send_eof()?;
        let mut packet = Packet::empty();
        encoder.receive_packet(&mut packet)?;
        packet.data().map(Bytes::copy_from_slice).ok_or(Error::InvalidData)
    };
    make().map_err(|source| TranscodeError::libav("making a thumbnail", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_side_is_what_counts() {
        assert_eq!(size_of(640, 360), (320, 180));
        assert_eq!(size_of(360, 640), (180, 320));
        assert_eq!(size_of(160, 90), (160, 90));
        assert_eq!(size_of(4000, 8), (320, 2));
    }

    #[test]
    fn due_at_once_and_then_every_interval() {
        let mut schedule = Schedule::new(1000);
        let due: Vec<i64> =
            (0..100).map(|n| n * 3000).filter(|&t| schedule.due(MediaTime::from_ticks_90k(t))).collect();
        assert_eq!(due, [0, 90_000, 180_000, 270_000]);
        assert!(!Schedule::new(0).due(MediaTime::ZERO));
    }

    #[test]
    fn a_picture_becomes_a_jpeg() {
        let mut grey = raw::allocate(format::Pixel::YUV420P, 426, 240).unwrap();
        for plane in 0..3 {
            grey.data_mut(plane).fill(128);
        }
        let jpeg = jpeg(&grey).unwrap();
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]), "{} bytes", jpeg.len());
    }
}
