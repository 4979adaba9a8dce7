//! HDR pictures (PQ and HLG, ITU-R BT.2100) to SDR: 10-bit 4:2:0 in, 8-bit 4:2:0 in BT.709 out, of the same size.
//!
//! What belongs here: which pictures are HDR, the mathematics, and its table. What does not: scaling, and which rungs are
//! made from which pictures ([`super::scale`]).
//!
//! The path of a colour: transfer function to display light, BT.2020 to BT.709 primaries, the tone curve, display gamma
//! 2.4 (ITU-R BT.1886). SDR white is [`WHITE`] cd/m². The curve leaves light up to [`KNEE`] of SDR white as it is and
//! bends what is brighter, up to the peak of the source, by a Möbius function; above [`DESATURATE`] times SDR white,
//! colours fade to white. FFmpeg's filters `zscale=t=linear:npl=100` and `tonemap=mobius` compute the same.
//!
//! All this is computed once for a grid of colours, and pictures are looked up: the two chroma values select four nodes,
//! between which is interpolated; along luma the table is complete. So grey is exact, and a pixel costs four look-ups.

use ffmpeg_next::color::{Primaries, Space, TransferCharacteristic};
use ffmpeg_next::frame::side_data::Type as SideData;
use ffmpeg_next::{format, frame};
use std::ops::Range;
use std::thread;

/// Luminance of SDR white in cd/m²: the reference of ITU-R BT.1886 displays.
const WHITE: f32 = 100.0;
/// Where the tone curve begins to bend, as a share of SDR white.
const KNEE: f32 = 0.3;
/// Luminance, in multiples of SDR white, above which colours fade.
const DESATURATE: f32 = 2.0;
/// Peak luminance of a PQ source that does not say it, and of every HLG source, in cd/m².
const USUAL_PEAK: u32 = 1000;
/// Peak luminances that are believed, in cd/m².
const PEAKS: Range<u32> = 200..10_001;

/// How light is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    /// Perceptual quantiser (SMPTE ST 2084).
    Pq,
    /// Hybrid log-gamma (ARIB STD-B67).
    Hlg,
}

/// The properties of an HDR picture that decide how it becomes SDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HdrSource {
    transfer: Transfer,
    gamut: Gamut,
    matrix: Matrix,
    /// Peak luminance in cd/m².
    peak: u32,
}

/// The primaries of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gamut {
    Bt709,
    Bt2020,
    DisplayP3,
}

/// The weights of luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matrix {
    Bt601,
    Bt709,
    Bt2020,
}

impl HdrSource {
    /// What a picture signals; `None` for SDR. Whatever is not signalled is taken to be as in BT.2100.
    pub(super) fn of(picture: &frame::Video) -> Option<Self> {
        let transfer = match picture.color_transfer_characteristic() {
            TransferCharacteristic::SMPTE2084 => Transfer::Pq,
            TransferCharacteristic::ARIB_STD_B67 => Transfer::Hlg,
            _ => return None,
        };
        let gamut = match picture.color_primaries() {
            Primaries::BT709 => Gamut::Bt709,
            Primaries::SMPTE432 => Gamut::DisplayP3,
            _ => Gamut::Bt2020,
        };
        let matrix = match picture.color_space() {
            // libswscale converts RGB with its default, BT.601.
            Space::RGB | Space::SMPTE170M | Space::BT470BG => Matrix::Bt601,
            Space::BT709 => Matrix::Bt709,
            _ => Matrix::Bt2020,
        };
        let told = match transfer {
            Transfer::Pq => brightest_content(picture).or_else(|| mastering_peak(picture)),
            Transfer::Hlg => None,
        };
        Some(Self { transfer, gamut, matrix, peak: told.unwrap_or(USUAL_PEAK) })
    }

    /// This source with the peak of `former`, if both differ in nothing else: the picture must not pump.
    pub(super) fn like(self, former: Option<Self>) -> Self {
        match former {
            Some(former) if (Self { peak: former.peak, ..self }) == former => former,
            Some(_) | None => self,
        }
    }
}

/// MaxCLL of a picture's content light level (AVContentLightMetadata begins with this number).
fn brightest_content(picture: &frame::Video) -> Option<u32> {
    let data = picture.side_data(SideData::ContentLightLevel)?;
    Some(u32::from_ne_bytes(*data.data().first_chunk()?)).filter(|peak| PEAKS.contains(peak))
}

/// The peak luminance of the display that a picture was mastered on. In AVMasteringDisplayMetadata
/// (libavutil/mastering_display_metadata.h) the fraction max_luminance follows nine other fractions of eight bytes.
fn mastering_peak(picture: &frame::Video) -> Option<u32> {
    const MAX_LUMINANCE: usize = 9 * 8;
    let data = picture.side_data(SideData::MasteringDisplayMetadata)?;
    let [a, b, c, d, e, f, g, h] = *data.data().get(MAX_LUMINANCE..)?.first_chunk::<8>()?;
    let (over, under) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
    u32::try_from(over.checked_div(under)?).ok().filter(|peak| PEAKS.contains(peak))
}

type Triple = [f32; 3];

impl Matrix {
    /// The weights of red, green and blue.
    fn weights(self) -> Triple {
        match self {
            Self::Bt601 => [0.299, 0.587, 0.114],
            Self::Bt709 => [0.2126, 0.7152, 0.0722],
            Self::Bt2020 => [0.2627, 0.6780, 0.0593],
        }
    }
}

impl Gamut {
    /// The luminance of red, green and blue.
    fn luminance(self) -> Triple {
        match self {
            Self::Bt709 => [0.2126, 0.7152, 0.0722],
            Self::Bt2020 => [0.2627, 0.6780, 0.0593],
            Self::DisplayP3 => [0.2290, 0.6917, 0.0793],
        }
    }

    /// Linear light in these primaries to BT.709 (ITU-R BT.2087 for BT.2020; all have the white D65).
    fn to_bt709(self) -> [Triple; 3] {
        match self {
            Self::Bt709 => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            Self::Bt2020 => [
                [1.660_49, -0.587_64, -0.072_85],
                [-0.124_55, 1.132_90, -0.008_35],
                [-0.018_15, -0.100_58, 1.118_73],
            ],
            Self::DisplayP3 => {
                [[1.224_94, -0.224_94, 0.0], [-0.042_06, 1.042_06, 0.0], [-0.019_64, -0.078_63, 1.098_27]]
            }
        }
    }
}

fn dot(a: Triple, b: Triple) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Display light in cd/m² of a PQ value of 0 to 1 (SMPTE ST 2084).
fn pq_light(value: f32) -> f32 {
    const M1: f32 = 2610.0 / 16384.0;
    const M2: f32 = 2523.0 / 32.0;
    const C1: f32 = 3424.0 / 4096.0;
    const C2: f32 = 2413.0 / 128.0;
    const C3: f32 = 2392.0 / 128.0;
    let power = value.clamp(0.0, 1.0).powf(1.0 / M2);
    10_000.0 * ((power - C1).max(0.0) / (C2 - C3 * power)).powf(1.0 / M1)
}

/// Scene light of 0 to 1 of an HLG value of 0 to 1 (ITU-R BT.2100, table 5).
fn hlg_light(value: f32) -> f32 {
    const A: f32 = 0.178_832_77;
    const B: f32 = 1.0 - 4.0 * A;
    const C: f32 = 0.559_910_7;
    let value = value.clamp(0.0, 1.0);
    if value <= 0.5 { value * value / 3.0 } else { (((value - C) / A).exp() + B) / 12.0 }
}

/// The tone curve, from and to multiples of SDR white; `peak` becomes 1.
fn mobius(light: f32, peak: f32) -> f32 {
    if light <= KNEE {
        return light;
    }
    let a = -KNEE * KNEE * (peak - 1.0) / (KNEE * KNEE - 2.0 * KNEE + peak);
    let b = (KNEE * KNEE - 2.0 * KNEE * peak + peak) / (peak - 1.0).max(1e-6);
    (b * b + 2.0 * b * KNEE + KNEE * KNEE) / (b - a) * (light + a) / (light + b)
}

/// A transfer function as a table, because nodes are many and powers are slow.
struct Curve(Vec<f32>);

impl Curve {
    const STEPS: usize = 4096;

    /// The values of `f` from 0 to 1.
    fn new(f: impl Fn(f32) -> f32) -> Self {
        Self((0..=Self::STEPS + 1).map(|at| f(at as f32 / Self::STEPS as f32)).collect())
    }

    fn at(&self, x: f32) -> f32 {
        let x = x.clamp(0.0, 1.0) * Self::STEPS as f32;
        let (below, share) = (x as usize, x.fract());
        self.0[below] + (self.0[below + 1] - self.0[below]) * share
    }
}

/// Converts one colour: 10-bit luma and chroma in limited range to 8-bit ones, not rounded.
struct Conversion {
    source: HdrSource,
    /// Coded value to light; for PQ in multiples of SDR white, for HLG scene light.
    to_light: Curve,
    /// The square root of light to the SDR value: fine steps where light is little.
    from_light: Curve,
}

impl Conversion {
    fn new(source: HdrSource) -> Self {
        let to_light = match source.transfer {
            Transfer::Pq => Curve::new(|value| pq_light(value) / WHITE),
            Transfer::Hlg => Curve::new(hlg_light),
        };
        Self { source, to_light, from_light: Curve::new(|root| root.powf(2.0 / 2.4)) }
    }

    fn convert(&self, luma: u16, u: u16, v: u16) -> Triple {
        let HdrSource { transfer, gamut, matrix, peak } = self.source;
        let weights = matrix.weights();
        let luma = (f32::from(luma) - 64.0) / 876.0;
        let (cb, cr) = ((f32::from(u) - 512.0) / 896.0, (f32::from(v) - 512.0) / 896.0);
        let red = luma + 2.0 * (1.0 - weights[0]) * cr;
        let blue = luma + 2.0 * (1.0 - weights[2]) * cb;
        let green = (luma - weights[0] * red - weights[2] * blue) / weights[1];
        let mut light = [red, green, blue].map(|value| self.to_light.at(value));
        if transfer == Transfer::Hlg {
            // The system gamma of a display of 1000 cd/m².
            let gain = dot(gamut.luminance(), light).max(1e-6).powf(0.2) * (USUAL_PEAK as f32 / WHITE);
            light = light.map(|light| light * gain);
        }
        let mut light = gamut.to_bt709().map(|row| dot(row, light));
        let luminance = dot(Gamut::Bt709.luminance(), light);
        let faded = (luminance - DESATURATE).max(1e-6) / luminance.max(1e-6);
        light = light.map(|light| light + (luminance - light) * faded.min(1.0));
        let brightest = light.into_iter().fold(1e-6, f32::max);
        let gain = mobius(brightest, peak as f32 / WHITE) / brightest;
        let [red, green, blue] = light.map(|light| self.from_light.at((light * gain).clamp(0.0, 1.0).sqrt()));
        let weights = Matrix::Bt709.weights();
        let luma = dot(weights, [red, green, blue]);
        let (cb, cr) = ((blue - luma) / (2.0 - 2.0 * weights[2]), (red - luma) / (2.0 - 2.0 * weights[0]));
        [16.0 + 219.0 * luma, 128.0 + 224.0 * cb, 128.0 + 224.0 * cr]
    }
}

/// The grid's steps in 10-bit chroma, from the lowest value on, as (number of steps, size): finest near grey, where colours
/// change most.
const STEPS: [(usize, usize); 5] = [(12, 32), (6, 16), (8, 8), (6, 16), (12, 32)];
/// Nodes along one chroma value, from 0 to 1024.
const NODES: usize = 45;
/// A share of the way between two nodes has this many binary places.
const SHARE_BITS: u32 = 5;
/// Values of luma.
const LUMAS: usize = 1024;
/// Luma values between two entries of the table of chroma, as a power of two.
const CHROMA_LUMA_BITS: u32 = 2;
const CHROMA_LUMAS: usize = LUMAS >> CHROMA_LUMA_BITS;
/// The tables have this many binary places.
const PLACES: u32 = 6;

/// Makes SDR pictures of one kind of HDR pictures. Its tables take 6.2 MB.
pub(super) struct ToneMapper {
    source: HdrSource,
    /// For each node a curve over luma.
    luma: Vec<u16>,
    /// For each node a curve over luma in coarser steps, of both chroma values.
    chroma: Vec<[u16; 2]>,
    /// See [`places`].
    places: Vec<(u16, u16)>,
    threads: usize,
}

/// The chroma values of all nodes.
fn nodes() -> Vec<u16> {
    let mut at = 0;
    let mut nodes = vec![0];
    for size in STEPS.into_iter().flat_map(|(count, size)| std::iter::repeat_n(size, count)) {
        at += size as u16;
        nodes.push(at);
    }
    nodes
}

/// For each chroma value the number of the node below it, and the share of the way to the next node.
fn places() -> Vec<(u16, u16)> {
    let steps = STEPS.into_iter().flat_map(|(count, size)| std::iter::repeat_n(size, count)).enumerate();
    let share = |at: usize, size: usize| ((at << SHARE_BITS) / size) as u16;
    steps.flat_map(|(node, size)| (0..size).map(move |at| (node as u16, share(at, size)))).collect()
}

/// The four nodes around a pair of chroma values, and their weights, which add up to 1 with twice [`SHARE_BITS`].
#[derive(Clone, Copy)]
struct Corners {
    nodes: [usize; 4],
    weights: [u32; 4],
}

impl Corners {
    /// The weighted value, rounded to a byte.
    fn mix(self, value: impl Fn(usize) -> u16) -> u8 {
        let sum: u32 = self
            .nodes
            .into_iter()
            .zip(self.weights)
            .map(|(node, weight)| u32::from(value(node)) * weight)
            .sum();
        let places = PLACES + 2 * SHARE_BITS;
        ((sum + (1 << (places - 1))) >> places).min(255) as u8
    }
}

impl ToneMapper {
    /// Computes the tables. `threads` is the largest number of threads that convert a picture.
    pub(super) fn new(source: HdrSource, threads: usize) -> Self {
        let conversion = Conversion::new(source);
        let fixed = |value: f32| (value * (1 << PLACES) as f32).round().clamp(0.0, 65_535.0) as u16;
        let (mut luma, mut chroma) = (Vec::new(), Vec::new());
        luma.reserve_exact(NODES * NODES * LUMAS);
        chroma.reserve_exact(NODES * NODES * CHROMA_LUMAS);
        let (coarse, nodes) = (1 << CHROMA_LUMA_BITS, nodes());
        for node in 0..NODES * NODES {
            let (u, v) = (nodes[node % NODES], nodes[node / NODES]);
            let colours: Vec<Triple> =
                (0..=CHROMA_LUMAS).map(|at| conversion.convert((at * coarse) as u16, u, v)).collect();
            for pair in colours.windows(2) {
                let step = (pair[1][0] - pair[0][0]) / coarse as f32;
                luma.extend((0..coarse).map(|at| fixed(pair[0][0] + step * at as f32)));
                chroma.push([fixed((pair[0][1] + pair[1][1]) / 2.0), fixed((pair[0][2] + pair[1][2]) / 2.0)]);
            }
        }
        Self { source, luma, chroma, places: places(), threads: threads.max(1) }
    }

    /// The pictures that this is for.
    pub(super) fn source(&self) -> HdrSource {
        self.source
    }

    /// Converts `from`, 10-bit 4:2:0 in limited range, into `to`, 8-bit 4:2:0 of the same size.
    pub(super) fn map(&self, from: &frame::Video, to: &mut frame::Video) -> Result<(), ffmpeg_next::Error> {
        let size = (from.width(), from.height());
        if from.format() != format::Pixel::YUV420P10LE
            || to.format() != format::Pixel::YUV420P
            || (to.width(), to.height()) != size
        {
            return Err(ffmpeg_next::Error::InvalidData);
        }
        let (width, height) = (size.0 as usize, size.1 as usize);
        let (across, down) = (width.div_ceil(2), height.div_ceil(2));
        let rows = Rows(from);
        // Rows of blocks of 2 x 2 pixels, which have one pair of chroma values.
        let per_thread = down.div_ceil(self.threads).max(64);
        let luma_stride = to.stride(0);
        thread::scope(|scope| {
            let mut bands = to.data_mut(0).chunks_mut(luma_stride * 2 * per_thread).enumerate();
            let rows = &rows;
            let last = bands.next_back();
            let convert = move |(index, band): (usize, &mut [u8])| {
                for (row, out) in band.chunks_mut(luma_stride).enumerate() {
                    let y = index * 2 * per_thread + row;
                    if y < height {
                        self.luma_row(rows.luma(y, width), rows.chroma(y / 2, across), &mut out[..width]);
                    }
                }
            };
            for band in bands {
                scope.spawn(move || convert(band));
            }
            last.into_iter().for_each(convert);
        });
        for plane in 1..3 {
            let stride = to.stride(plane);
            for (y, out) in to.data_mut(plane).chunks_mut(stride).take(down).enumerate() {
                let below = (2 * y + 1).min(height - 1);
                let luma = [rows.luma(2 * y, width), rows.luma(below, width)];
                self.chroma_row(luma, rows.chroma(y, across), plane - 1, &mut out[..across]);
            }
        }
        Ok(())
    }

    fn corners(&self, u: [u8; 2], v: [u8; 2]) -> Corners {
        let place = |value| self.places[usize::from(u16::from_le_bytes(value).min(1023))];
        let ((column, right), (row, below)) = (place(u), place(v));
        let node = usize::from(row) * NODES + usize::from(column);
        let (right, below) = (u32::from(right), u32::from(below));
        let (left, above) = ((1 << SHARE_BITS) - right, (1 << SHARE_BITS) - below);
        Corners {
            nodes: [node, node + 1, node + NODES, node + NODES + 1],
            weights: [left * above, right * above, left * below, right * below],
        }
    }

    fn luma_row(&self, luma: &[[u8; 2]], [u, v]: [&[[u8; 2]]; 2], out: &mut [u8]) {
        let blocks = out.chunks_mut(2).zip(luma.chunks(2)).zip(u.iter().zip(v));
        for ((out, luma), (u, v)) in blocks {
            let corners = self.corners(*u, *v);
            for (out, luma) in out.iter_mut().zip(luma) {
                let luma = usize::from(u16::from_le_bytes(*luma).min(1023));
                *out = corners.mix(|node| self.luma[node * LUMAS + luma]);
            }
        }
    }

    fn chroma_row(&self, luma: [&[[u8; 2]]; 2], [u, v]: [&[[u8; 2]]; 2], which: usize, out: &mut [u8]) {
        let pairs = luma[0].chunks(2).zip(luma[1].chunks(2));
        for ((out, (upper, lower)), (u, v)) in out.iter_mut().zip(pairs).zip(u.iter().zip(v)) {
            let corners = self.corners(*u, *v);
            let all = upper.iter().chain(lower);
            let sum: usize = all.map(|luma| usize::from(u16::from_le_bytes(*luma).min(1023))).sum();
            let luma = (sum / (upper.len() + lower.len())) >> CHROMA_LUMA_BITS;
            *out = corners.mix(|node| self.chroma[node * CHROMA_LUMAS + luma][which]);
        }
    }
}

/// The rows of a 10-bit picture's planes; each value has two bytes.
struct Rows<'a>(&'a frame::Video);

impl<'a> Rows<'a> {
    fn row(&self, plane: usize, y: usize, width: usize) -> &'a [[u8; 2]] {
        let start = y * self.0.stride(plane);
        self.0.data(plane)[start..start + 2 * width].as_chunks().0
    }

    fn luma(&self, y: usize, width: usize) -> &'a [[u8; 2]] {
        self.row(0, y, width)
    }

    fn chroma(&self, y: usize, width: usize) -> [&'a [[u8; 2]]; 2] {
        [self.row(1, y, width), self.row(2, y, width)]
    }
}

#[cfg(test)]
mod tests;
