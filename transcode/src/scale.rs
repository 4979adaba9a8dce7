//! Scales the decoded picture to one picture per rung: 8-bit 4:2:0, limited range, square pixels, at the rung's size.
//!
//! Each rung is made from the next larger rung of the same shape, not from the source: a third of the pixels to read.
//! A rung with the source's own size and format shares the decoded picture without copying it. A source of another
//! shape than the rung (after a change of resolution within a job) is fitted inside the rung with black bars. Of an
//! interlaced picture only the upper field is used: half the lines, but no combing.
//!
//! HDR pictures are tone-mapped to SDR in BT.709 ([`super::tonemap`]) at the size of the rung that is made from the source,
//! usually the largest; the other rungs are made from that one. Each picture says itself whether it is HDR.

use super::error::TranscodeError;
use super::raw::{self, Rect, Scaler, ScalerSetup};
use super::tonemap::{HdrSource, ToneMapper};
use crate::wire::VideoRung;
use ffmpeg_next::{Rational, color, ffi, format, frame, picture};

/// Horizontal and vertical difference, in pixels, that rounding rungs to even sizes explains; such a difference gets
/// no bars.
const ROUNDING: u32 = 2;

/// Filter for downscaling. A cascade filters the lower rungs more than once. With bicubic the lower rungs came out 0.2
/// dB of SSIM below one bicubic step from the source, with this filter above it. The whole cascade takes 5 % of a
/// ladder's CPU.
const FILTER: i32 = ffi::SWS_LANCZOS;

/// The most threads that tone-map one picture: four keep up with 60 pictures of 1080p a second.
const MAPPING_THREADS: usize = 4;
/// Format of HDR pictures that are tone-mapped.
const HDR_PIXELS: format::Pixel = format::Pixel::YUV420P10LE;
/// Black in [`HDR_PIXELS`]: luma, and both chroma values.
const HDR_BLACK: [u16; 3] = [64, 512, 512];

/// The properties of a source picture that decide how it is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PictureShape {
    pixels: format::Pixel,
    size: (u32, u32),
    sample_aspect: (u32, u32),
    full_range: bool,
    interlaced: bool,
    /// Present if the picture has to be tone-mapped.
    hdr: Option<HdrSource>,
}

impl PictureShape {
    fn of(frame: &frame::Video) -> Self {
        let Rational(num, den) = frame.aspect_ratio();
        let sample_aspect = match (u32::try_from(num), u32::try_from(den)) {
            (Ok(num), Ok(den)) if num > 0 && den > 0 => (num, den),
            _ => (1, 1),
        };
        Self {
            pixels: frame.format(),
            size: (frame.width(), frame.height()),
            sample_aspect,
            full_range: frame.color_range() == color::Range::JPEG
                || matches!(
                    frame.format(),
                    format::Pixel::YUVJ420P | format::Pixel::YUVJ422P | format::Pixel::YUVJ444P
                ),
            interlaced: frame.is_interlaced() && frame.height() >= 4,
            hdr: HdrSource::of(frame),
        }
    }

    /// Display aspect ratio as (width, height) of a fraction.
    fn aspect(&self) -> (u64, u64) {
        (
            u64::from(self.size.0) * u64::from(self.sample_aspect.0),
            u64::from(self.size.1) * u64::from(self.sample_aspect.1),
        )
    }
}

/// Where a picture of an aspect ratio goes in a frame: the whole frame, or centred between bars.
fn fit(aspect: (u64, u64), frame: (u32, u32)) -> Rect {
    let whole = Rect { x: 0, y: 0, width: frame.0, height: frame.1 };
    let (across, down) = (aspect.0.max(1), aspect.1.max(1));
    let width = (u64::from(frame.1) * across / down).min(u64::from(u32::MAX)) as u32;
    let height = (u64::from(frame.0) * down / across).min(u64::from(u32::MAX)) as u32;
    if width.abs_diff(frame.0) <= ROUNDING || height.abs_diff(frame.1) <= ROUNDING {
        return whole;
    }
    // All sizes and offsets are multiples of two, for 4:2:0.
    if width < frame.0 {
        let width = (width & !1).max(2);
        Rect { x: ((frame.0 - width) / 2) & !1, width, ..whole }
    } else {
        let height = (height & !1).max(2);
        Rect { y: ((frame.1 - height) / 2) & !1, height, ..whole }
    }
}

/// The input that a rung's picture is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    Source,
    Rung(usize),
}

struct ScaledRung {
    size: (u32, u32),
    /// Scalers for the feeds used so far: one, or two when the larger rung drops pictures.
    scalers: Vec<(Feed, Scaler)>,
    pool: Pool,
    /// The HDR picture at the rung's size, before it is tone-mapped.
    hdr: Option<frame::Video>,
}

/// Pictures that are reused once no other reference to them exists. The pool grows to the number of pictures that the
/// downstream queues hold together.
#[derive(Default)]
struct Pool {
    frames: Vec<frame::Video>,
}

impl Pool {
    /// A picture to write to, black where bars are: new pictures are filled with black, and the scaler targets only
    /// the rectangle between the bars.
    fn take(&mut self, size: (u32, u32)) -> Result<&mut frame::Video, ffmpeg_next::Error> {
        let free = self.frames.iter_mut().position(raw::is_unshared);
        let index = match free {
            Some(index) => index,
            None => {
                let mut frame = raw::allocate(format::Pixel::YUV420P, size.0, size.1)?;
                for plane in 0..3 {
                    frame.data_mut(plane).fill(if plane == 0 { 16 } else { 128 });
                }
                self.frames.push(frame);
                self.frames.len() - 1
            }
        };
        Ok(&mut self.frames[index])
    }
}

/// Scales to all rungs of a job. A cascade stays on one thread: libswscale's contexts are not `Send`.
pub(super) struct Cascade {
    rungs: Vec<ScaledRung>,
    shape: Option<PictureShape>,
    mapper: Option<ToneMapper>,
    /// The largest number of threads that tone-map a picture.
    threads: usize,
}

impl Cascade {
    /// `processors` bounds the threads that share the work on one picture.
    pub(super) fn new(rungs: &[VideoRung], processors: usize) -> Self {
        let rung = |r: &VideoRung| ScaledRung {
            size: (r.width.into(), r.height.into()),
            scalers: Vec::new(),
            pool: Pool::default(),
            hdr: None,
        };
        let rungs = rungs.iter().map(rung).collect();
        Self { rungs, shape: None, mapper: None, threads: processors.clamp(1, MAPPING_THREADS) }
    }

    /// The picture for each rung that wants it, in the order of the rungs.
    pub(super) fn scale(
        &mut self,
        source: &frame::Video,
        wanted: &[bool],
    ) -> Result<Vec<Option<frame::Video>>, TranscodeError> {
        let mut shape = PictureShape::of(source);
        shape.hdr = shape.hdr.map(|hdr| hdr.like(self.shape.and_then(|former| former.hdr)));
        if self.shape != Some(shape) {
            for rung in &mut self.rungs {
                rung.scalers.clear();
                rung.pool = Pool::default();
                rung.hdr = None;
            }
            self.shape = Some(shape);
        }
        if self.mapper.as_ref().map(ToneMapper::source) != shape.hdr {
            self.mapper = shape.hdr.map(|hdr| ToneMapper::new(hdr, self.threads));
        }
        let failed = |source| TranscodeError::libav("scaling", source);
        let mut made: Vec<Option<frame::Video>> = Vec::with_capacity(self.rungs.len());
        for index in 0..self.rungs.len() {
            let picture = if wanted.get(index).copied().unwrap_or(false) {
                Some(self.make(index, shape, source, &made).map_err(failed)?)
            } else {
                None
            };
            made.push(picture);
        }
        Ok(made)
    }

    fn make(
        &mut self,
        index: usize,
        shape: PictureShape,
        source: &frame::Video,
        made: &[Option<frame::Video>],
    ) -> Result<frame::Video, ffmpeg_next::Error> {
        let size = self.rungs[index].size;
        let feed = self.feed(index, made);
        let (from, rect) = match feed {
            Feed::Source => (source, fit(shape.aspect(), size)),
            Feed::Rung(larger) => match &made[larger] {
                Some(frame) => (frame, Rect { x: 0, y: 0, width: size.0, height: size.1 }),
                None => (source, fit(shape.aspect(), size)),
            },
        };
        let from_source = feed == Feed::Source;
        let whole = (rect.width, rect.height) == size;
        let as_it_is = whole
            && (from.width(), from.height()) == size
            && (!from_source || (!shape.full_range && !shape.interlaced));
        let to_map = if from_source { self.mapper.as_ref() } else { None };
        if let Some(mapper) = to_map
            && as_it_is
            && from.format() == HDR_PIXELS
        {
            let target = self.rungs[index].pool.take(size)?;
            mapper.map(from, target)?;
            return finished(target, from, source, shape);
        }
        if as_it_is && to_map.is_none() && from.format() == format::Pixel::YUV420P {
            let mut same = raw::share(from)?;
            same.set_kind(picture::Type::None);
            return Ok(same);
        }
        let setup = ScalerSetup {
            from: from.format(),
            from_size: (from.width(), from.height()),
            one_field: from_source && shape.interlaced,
            from_full_range: from_source && shape.full_range,
            to: if to_map.is_some() { HDR_PIXELS } else { format::Pixel::YUV420P },
            to_size: size,
            to_rect: rect,
            to_full_range: false,
            flags: FILTER,
        };
        let rung = &mut self.rungs[index];
        let scaler = match rung.scalers.iter().position(|(f, s)| *f == feed && *s.setup() == setup) {
            Some(at) => &mut rung.scalers[at].1,
            None => {
                rung.scalers.retain(|(f, _)| *f != feed);
                rung.scalers.push((feed, Scaler::new(setup)?));
                &mut rung.scalers.last_mut().expect("pushed just now").1
            }
        };
        let target = rung.pool.take(size)?;
        match to_map {
            Some(mapper) => {
                let wide = match &mut rung.hdr {
                    Some(wide) => wide,
                    none => none.insert(black_hdr(size)?),
                };
                scaler.run(from, wide)?;
                mapper.map(wide, target)?;
            }
            None => scaler.run(from, target)?,
        }
        finished(target, from, source, shape)
    }

    /// The next larger rung of the same shape that has this picture, or the source if there is none.
    fn feed(&self, index: usize, made: &[Option<frame::Video>]) -> Feed {
        let (width, height) = self.rungs[index].size;
        (0..index)
            .rev()
            .find(|&larger| {
                let (w, h) = self.rungs[larger].size;
                let same_shape =
                    fit((w.into(), h.into()), (width, height)) == Rect { x: 0, y: 0, width, height };
                made[larger].is_some() && w >= width && h >= height && same_shape
            })
            .map_or(Feed::Source, Feed::Rung)
    }
}

/// Another reference to a picture that was made from `from`, with its time and with the colours of the source.
fn finished(
    made: &frame::Video,
    from: &frame::Video,
    source: &frame::Video,
    shape: PictureShape,
) -> Result<frame::Video, ffmpeg_next::Error> {
    let mut picture = raw::share(made)?;
    picture.set_pts(from.pts());
    if shape.hdr.is_some() {
        picture.set_color_range(color::Range::MPEG);
        picture.set_color_space(color::Space::BT709);
        picture.set_color_primaries(color::Primaries::BT709);
        picture.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
    } else {
        copy_colours(source, &mut picture);
    }
    Ok(picture)
}

/// A black HDR picture; the scaler writes only the rectangle between the bars.
fn black_hdr(size: (u32, u32)) -> Result<frame::Video, ffmpeg_next::Error> {
    let mut picture = raw::allocate(HDR_PIXELS, size.0, size.1)?;
    for (plane, black) in HDR_BLACK.into_iter().enumerate() {
        picture.data_mut(plane).as_chunks_mut::<2>().0.fill(black.to_le_bytes());
    }
    Ok(picture)
}

/// Copies the colour properties of the source, except for the range: [`Cascade`] always outputs limited range.
fn copy_colours(from: &frame::Video, to: &mut frame::Video) {
    to.set_color_range(color::Range::MPEG);
    to.set_color_space(match from.color_space() {
        // libswscale converted RGB to luma and chroma with its default, BT.601.
        color::Space::RGB => color::Space::SMPTE170M,
        space => space,
    });
    to.set_color_primaries(from.color_primaries());
    to.set_color_transfer_characteristic(from.color_transfer_characteristic());
}

#[cfg(test)]
mod tests;
