//! Chooses the renditions of a stream: takes the `--ladder` setting, the source and the number of cores, and returns
//! rungs with reasons. Pure; encoding is in [`transcode`], and [`crate::stream`] decides when to make or keep
//! a plan.

use media::VideoCodec;
use std::fmt;
use std::str::FromStr;
use transcode::wire::{VideoRung, rate_of};

/// Pixels per second that one core encodes with x264 `veryfast`, including decoding and scaling, with a third in
/// reserve. A slow cloud vCPU (one hyperthread, 2.2 GHz) encodes about 90 million, four thirds of this figure.
const PIXELS_PER_CORE_SECOND: f64 = 65e6;
/// The shorter sides that `auto` chooses from, largest first.
const AUTO_SIDES: [u16; 5] = [1080, 720, 480, 360, 240];
/// The most rungs that `auto` makes: further, smaller steps give viewers nothing, and each rung costs its share of a
/// core.
const AUTO_MAX_RUNGS: usize = 4;
/// The highest frame rate of a rung below 720p whose frame rate is not set explicitly, in frames per second.
const SMALL_RUNG_MAX_FPS: f64 = 31.0;
/// Accepted ranges: shorter side in pixels, bitrate in bit/s, frames per second.
const SIDES: std::ops::RangeInclusive<u16> = 64..=4320;
const BITRATES: std::ops::RangeInclusive<u32> = 50_000..=100_000_000;
const FRAME_RATES: std::ops::RangeInclusive<u32> = 1..=120;

/// The `--ladder` setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ladder {
    /// Rungs are chosen from the source and the number of cores.
    Auto,
    /// The rungs as listed.
    Rungs(Vec<RungSpec>),
}

/// One rung as written by the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RungSpec {
    /// The published video, passed through if its codec is one of these, and otherwise encoded.
    Source(PassedCodecs),
    /// An encoded rung.
    Encoded {
        /// The shorter side in pixels, so that portrait video works.
        side: u16,
        /// The highest frame rate in frames per second, if set.
        frame_rate: Option<u32>,
        /// The bitrate in bit/s, if set.
        bitrate: Option<u32>,
    },
}

/// The codecs that a rung `source` passes through. H.264 always is: every player decodes it. Further codecs are named by
/// the operator (`source+hevc+av1`), because viewers whose players lack a codec are left with the rungs below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassedCodecs {
    /// HEVC.
    pub hevc: bool,
    /// AV1.
    pub av1: bool,
}

impl PassedCodecs {
    /// Reads what follows `source`: `+hevc`, `+av1`, both or nothing. `None` for anything else.
    fn read(text: &str) -> Option<Self> {
        let mut passed = Self::default();
        let mut names = text.split('+');
        if !names.next()?.is_empty() {
            return None;
        }
        for name in names {
            let codec = match name {
                "hevc" => &mut passed.hevc,
                "av1" => &mut passed.av1,
                _ => return None,
            };
            if std::mem::replace(codec, true) {
                return None;
            }
        }
        Some(passed)
    }

    /// Whether video of this codec is passed through.
    const fn includes(self, codec: VideoCodec) -> bool {
        match codec {
            VideoCodec::H264 => true,
            VideoCodec::Hevc => self.hevc,
            VideoCodec::Av1 => self.av1,
            VideoCodec::Vp9 | VideoCodec::Vp8 => false,
        }
    }
}

/// Why a `--ladder` setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// There is no rung.
    #[error("a ladder needs at least one rung")]
    Empty,
    /// A rung is not `source` and not of a form like `720p`, `720p@2800k`, `720p60@4500k`.
    #[error("`{0}` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or `720p60@4500k`")]
    Malformed(String),
    /// A number is outside its range.
    #[error("`{rung}`: {what} must be {least} to {most}")]
    OutOfRange {
        /// The rung as written.
        rung: String,
        /// The quantity.
        what: &'static str,
        /// The smallest accepted value.
        least: u32,
        /// The largest accepted value.
        most: u32,
    },
    /// Two rungs have the same name and would share a folder.
    #[error("rung `{0}` is there twice")]
    Twice(String),
}

impl FromStr for Ladder {
    type Err = LadderError;

    fn from_str(text: &str) -> Result<Self, LadderError> {
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let mut rungs = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let rung: RungSpec = part.parse()?;
            if rungs.iter().any(|other: &RungSpec| other.name() == rung.name()) {
                return Err(LadderError::Twice(rung.name()));
            }
            rungs.push(rung);
        }
        if rungs.is_empty() { Err(LadderError::Empty) } else { Ok(Self::Rungs(rungs)) }
    }
}

impl FromStr for RungSpec {
    type Err = LadderError;

    fn from_str(text: &str) -> Result<Self, LadderError> {
        let malformed = || LadderError::Malformed(text.to_owned());
        if let Some(codecs) = text.strip_prefix("source") {
            return Ok(Self::Source(PassedCodecs::read(codecs).ok_or_else(malformed)?));
        }
        let (size, bitrate) = match text.split_once('@') {
            Some((size, bitrate)) => (size, Some(parse_bitrate(bitrate).ok_or_else(malformed)?)),
            None => (text, None),
        };
        let (side, frame_rate) = size.split_once('p').ok_or_else(malformed)?;
        let side: u16 = side.parse().map_err(|_| malformed())?;
        let frame_rate: Option<u32> = match frame_rate {
            "" => None,
            rate => Some(rate.parse().map_err(|_| malformed())?),
        };
        let check = |what, value: u32, range: std::ops::RangeInclusive<u32>| {
            if range.contains(&value) {
                return Ok(());
            }
            Err(LadderError::OutOfRange {
                rung: text.to_owned(),
                what,
                least: *range.start(),
                most: *range.end(),
            })
        };
        check("the shorter side", side.into(), u32::from(*SIDES.start())..=u32::from(*SIDES.end()))?;
        if let Some(rate) = frame_rate {
            check("the frame rate", rate, FRAME_RATES)?;
        }
        if let Some(bitrate) = bitrate {
            check("the bitrate in bit/s", bitrate, BITRATES)?;
        }
        Ok(Self::Encoded { side, frame_rate, bitrate })
    }
}

/// Parses a bitrate to bit/s: `2800k`, `2.8M`, `2800000`.
fn parse_bitrate(text: &str) -> Option<u32> {
    let (number, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1e3),
        b'm' | b'M' => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let bits = number.parse::<f64>().ok()? * unit;
    (bits.is_finite() && (0.0..=4e9).contains(&bits)).then_some(bits.round() as u32)
}

impl RungSpec {
    /// The rung's name in playlists: `source`, `720p`, `720p60`.
    pub fn name(&self) -> String {
        match self {
            Self::Source(_) => "source".to_owned(),
            Self::Encoded { side, frame_rate: None, .. } => format!("{side}p"),
            Self::Encoded { side, frame_rate: Some(rate), .. } => format!("{side}p{rate}"),
        }
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Rungs(rungs) => {
                let names: Vec<_> = rungs.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl fmt::Display for RungSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Self::Source(PassedCodecs { hevc, av1 }) = self {
            f.write_str(if *hevc { "+hevc" } else { "" })?;
            f.write_str(if *av1 { "+av1" } else { "" })?;
        }
        Ok(())
    }
}

/// The properties of the published video that are known when rungs are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SourceVideo {
    /// Codec.
    pub codec: VideoCodec,
    /// Coded width in pixels.
    pub width: u16,
    /// Coded height in pixels.
    pub height: u16,
    /// Sample aspect ratio.
    pub sample_aspect: (u16, u16),
    /// Frames per second as (numerator, denominator).
    pub frame_rate: (u32, u32),
    /// The bitrate in bit/s, if the publisher declared one.
    pub bitrate: Option<u32>,
}

impl SourceVideo {
    /// Width and height in square pixels. May be fractional.
    fn display_size(&self) -> (f64, f64) {
        let (num, den) = (f64::from(self.sample_aspect.0.max(1)), f64::from(self.sample_aspect.1.max(1)));
        // Enlarge one side instead of reducing the other, so that no detail is lost.
        if num >= den {
            (f64::from(self.width) * num / den, f64::from(self.height))
        } else {
            (f64::from(self.width), f64::from(self.height) * den / num)
        }
    }

    /// Frames per second.
    pub fn fps(&self) -> f64 {
        rate_of(self.frame_rate)
    }

    /// Width and height in square pixels, both even, for a given shorter side; never larger than the source.
    fn size_for(&self, side: u16) -> (u16, u16) {
        let (width, height) = self.display_size();
        let scale = (f64::from(side) / width.min(height)).min(1.0);
        let even = |length: f64| ((length * scale / 2.0).round() as u16).max(1) * 2;
        (even(width).min(even_down(width)), even(height).min(even_down(height)))
    }

    fn short_side(&self) -> f64 {
        let (width, height) = self.display_size();
        width.min(height)
    }
}

fn even_down(length: f64) -> u16 {
    ((length / 2.0).floor() as u16).max(1) * 2
}

/// The rungs of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Codec of the rung `source`, which passes the published video through unchanged; `None` where there is no such rung.
    pub source: Option<VideoCodec>,
    /// Encoded rungs, largest first.
    pub rungs: Vec<VideoRung>,
    /// The omitted and changed rungs with reasons, for the log.
    pub reasons: Vec<String>,
}

/// The shorter side, in pixels, of the rung that is added where no other one is H.264.
const ADDED_SIDE: u16 = 720;

/// Chooses the rungs for a source. `source_fits` says whether the published keyframes can serve as the keyframe grid;
/// if not, the rung `source` is encoded at the source's size under the same name. Beside a rung `source` of another codec
/// than H.264 there is always an encoded one, for players that lack the codec.
pub(crate) fn plan(ladder: &Ladder, source: &SourceVideo, source_fits: bool, cores: usize) -> Plan {
    match ladder {
        Ladder::Auto => plan_auto(source, cores),
        Ladder::Rungs(specs) => plan_listed(specs, source, source_fits),
    }
}

/// Adapts the rungs of `former` to a source that has changed. The names stay, so that the multivariant playlist does
/// not change; the sizes follow the new source and never exceed it.
///
/// The codec of a rung `source` stays or becomes H.264. To no other codec does it change: viewers have chosen the rung by
/// the codec that it had, and their players may not have another one.
pub(crate) fn replan(former: &Plan, source: &SourceVideo, source_fits: bool) -> Plan {
    let mut plan = Plan { source: None, rungs: Vec::new(), reasons: Vec::new() };
    if let Some(codec) = former.source {
        if !source_fits {
            plan.reasons.push(TOO_FAR_APART.to_owned());
        } else if ![codec, VideoCodec::H264].contains(&source.codec) {
            plan.reasons.push(format!(
                "rung `source` is encoded: {} is published, and the stream began with {}",
                source.codec.name(),
                codec.name()
            ));
        } else {
            plan.source = Some(source.codec);
        }
        if plan.source.is_none() {
            plan.rungs.push(encoded_source(source));
        }
    }
    for rung in &former.rungs {
        if rung.name == "source" {
            plan.rungs.push(encoded_source(source));
            continue;
        }
        let (width, height) = source.size_for(rung.width.min(rung.height));
        let frame_rate = divided_rate(source, rate_of(rung.frame_rate) + 0.5);
        plan.rungs.push(VideoRung { width, height, frame_rate, ..rung.clone() });
    }
    plan
}

const TOO_FAR_APART: &str = "published keyframes are too far apart: rung `source` is encoded";

fn plan_listed(specs: &[RungSpec], source: &SourceVideo, source_fits: bool) -> Plan {
    let mut plan = Plan { source: None, rungs: Vec::new(), reasons: Vec::new() };
    for spec in specs {
        match *spec {
            RungSpec::Source(codecs) if source_fits && codecs.includes(source.codec) => {
                plan.source = Some(source.codec);
            }
            RungSpec::Source(codecs) => {
                plan.rungs.push(encoded_source(source));
                plan.reasons.push(match codecs.includes(source.codec) {
                    true => TOO_FAR_APART.to_owned(),
                    false => format!("rung `source` is encoded: {} is published", source.codec.name()),
                });
            }
            RungSpec::Encoded { side, frame_rate, bitrate } => {
                if f64::from(side) > source.short_side() + 1.0 {
                    plan.reasons.push(format!("{} left out: larger than the source", spec.name()));
                    continue;
                }
                plan.rungs.push(encoded(spec.name(), side, frame_rate, bitrate, source));
            }
        }
    }
    match plan.source {
        _ if !plan.rungs.is_empty() => {}
        Some(VideoCodec::H264) => {}
        Some(codec) => {
            let side = even_down(source.short_side()).min(ADDED_SIDE);
            plan.reasons.push(format!("{side}p in H.264 added: not every player decodes {}", codec.name()));
            plan.rungs.push(encoded(format!("{side}p"), side, None, None, source));
        }
        None => {
            let side = even_down(source.short_side());
            plan.reasons.push(format!("every rung is larger than the source: one at its own size, {side}p"));
            plan.rungs.push(encoded(format!("{side}p"), side, None, None, source));
        }
    }
    plan.rungs.sort_by_key(|rung| std::cmp::Reverse(u32::from(rung.width) * u32::from(rung.height)));
    plan
}

fn plan_auto(source: &SourceVideo, cores: usize) -> Plan {
    let mut reasons = Vec::new();
    let short = source.short_side();
    let mut sides: Vec<u16> = AUTO_SIDES.into_iter().filter(|side| f64::from(*side) <= short + 1.0).collect();
    // A source between two steps adds its own size as the top rung, unless the next lower step is within a tenth of
    // that size.
    let own = even_down(short).min(AUTO_SIDES[0]);
    if sides.first().is_none_or(|top| f64::from(*top) < f64::from(own) * 0.9) {
        sides.insert(0, own);
    }
    sides.truncate(AUTO_MAX_RUNGS);
    let mut rungs: Vec<VideoRung> =
        sides.iter().map(|side| encoded(format!("{side}p"), *side, None, None, source)).collect();
    let budget = PIXELS_PER_CORE_SECOND * cores.max(1) as f64;
    // Over budget, first reduce the frame rate of the top rung, then drop the rung: a smooth small picture is better
    // than a stalling large one.
    while rungs.iter().map(pixel_rate).sum::<f64>() > budget {
        let Some(top) = rungs.first_mut() else { break };
        if rate_of(top.frame_rate) > SMALL_RUNG_MAX_FPS {
            top.frame_rate = divided_rate(source, SMALL_RUNG_MAX_FPS);
            reasons.push(format!("{} at {:.0} frames/s: {cores} cores", top.name, rate_of(top.frame_rate)));
        } else if rungs.len() > 1 {
            reasons.push(format!("{} left out: more than {cores} cores can encode", rungs[0].name));
            rungs.remove(0);
        } else {
            reasons.push(format!("even {} may be more than {cores} cores can encode", rungs[0].name));
            break;
        }
    }
    // A bitrate above the published one cannot restore detail.
    if let (Some(published), Some(top)) = (source.bitrate, rungs.first_mut())
        && published >= *BITRATES.start()
        && top.bitrate > published
    {
        top.bitrate = published;
        reasons.push(format!("{} held to the {} kbit/s that are published", top.name, published / 1000));
    }
    for i in 1..rungs.len() {
        let ceiling = rungs[i - 1].bitrate / 4 * 3;
        rungs[i].bitrate = rungs[i].bitrate.min(ceiling.max(*BITRATES.start()));
    }
    Plan { source: None, rungs, reasons }
}

fn encoded(
    name: String,
    side: u16,
    frame_rate: Option<u32>,
    bitrate: Option<u32>,
    source: &SourceVideo,
) -> VideoRung {
    let (width, height) = source.size_for(side);
    let at_most = match frame_rate {
        Some(rate) => f64::from(rate) + 0.5,
        None if side < 720 => SMALL_RUNG_MAX_FPS,
        None => f64::from(*FRAME_RATES.end()),
    };
    let frame_rate = divided_rate(source, at_most);
    let bitrate = bitrate.unwrap_or_else(|| default_bitrate(width, height, rate_of(frame_rate)));
    VideoRung { name, width, height, frame_rate, bitrate }
}

fn encoded_source(source: &SourceVideo) -> VideoRung {
    let side = even_down(source.short_side());
    let mut rung = encoded("source".to_owned(), side, Some(*FRAME_RATES.end()), None, source);
    rung.bitrate = source.bitrate.filter(|bits| BITRATES.contains(bits)).unwrap_or(rung.bitrate);
    rung
}

/// The source's frame rate divided by the smallest integer that brings it to `at_most`, so that frames are evenly
/// spaced.
fn divided_rate(source: &SourceVideo, at_most: f64) -> (u32, u32) {
    let divisor = (source.fps() / at_most).ceil().max(1.0) as u32;
    (source.frame_rate.0, source.frame_rate.1.max(1).saturating_mul(divisor))
}

fn pixel_rate(rung: &VideoRung) -> f64 {
    f64::from(rung.width) * f64::from(rung.height) * rate_of(rung.frame_rate)
}

/// The default bitrate in bit/s: 2,800 kbit/s for 720p30, scaled with the 0.85th power of the pixel rate, which gives
/// 5.6 Mbit/s for 1080p30 and 1.4 Mbit/s for 480p30, as in common ladders. Rounded to 50 kbit/s.
fn default_bitrate(width: u16, height: u16, fps: f64) -> u32 {
    let relative = f64::from(width) * f64::from(height) * fps / (1280.0 * 720.0 * 30.0);
    let bits = 2_800_000.0 * relative.powf(0.85);
    ((bits / 50_000.0).round() as u32 * 50_000).clamp(150_000, 20_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(width: u16, height: u16, fps: u32) -> SourceVideo {
        let codec = VideoCodec::H264;
        SourceVideo { codec, width, height, sample_aspect: (1, 1), frame_rate: (fps, 1), bitrate: None }
    }

    fn sizes(plan: &Plan) -> Vec<(&str, u16, u16)> {
        plan.rungs.iter().map(|rung| (rung.name.as_str(), rung.width, rung.height)).collect()
    }

    #[test]
    fn ladders_are_read_as_written() {
        let ladder: Ladder = "source+av1,720p60@4500k, 480p@1.4M,360p".parse().unwrap();
        assert_eq!(ladder.to_string(), "source+av1,720p60,480p,360p");
        assert_eq!(
            ladder,
            Ladder::Rungs(vec![
                RungSpec::Source(PassedCodecs { hevc: false, av1: true }),
                RungSpec::Encoded { side: 720, frame_rate: Some(60), bitrate: Some(4_500_000) },
                RungSpec::Encoded { side: 480, frame_rate: None, bitrate: Some(1_400_000) },
                RungSpec::Encoded { side: 360, frame_rate: None, bitrate: None },
            ])
        );
        assert_eq!("AUTO".parse::<Ladder>().unwrap(), Ladder::Auto);
    }

    #[test]
    fn bad_ladders_say_what_is_wrong() {
        for (text, error) in [
            ("", "a ladder needs at least one rung"),
            (
                "720",
                "`720` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or `720p60@4500k`",
            ),
            (
                "720p@",
                "`720p@` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or `720p60@4500k`",
            ),
            (
                "source+vp9",
                "`source+vp9` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or `720p60@4500k`",
            ),
            (
                "source+av1+av1",
                "`source+av1+av1` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or \
                 `720p60@4500k`",
            ),
            ("source,source+hevc", "rung `source` is there twice"),
            ("9p", "`9p`: the shorter side must be 64 to 4320"),
            ("720p@1k", "`720p@1k`: the bitrate in bit/s must be 50000 to 100000000"),
            (
                "720p@1k@2k",
                "`720p@1k@2k` is not a rung: write `source`, `source+hevc+av1`, `720p`, `720p@2800k` or `720p60@4500k`",
            ),
            ("720p0", "`720p0`: the frame rate must be 1 to 120"),
            ("720p,720p@1000k", "rung `720p` is there twice"),
        ] {
            assert_eq!(text.parse::<Ladder>().unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn portrait_counts_the_shorter_side() {
        let plan = plan(&"720p,480p".parse().unwrap(), &source(1080, 1920, 30), false, 2);
        assert_eq!(sizes(&plan), [("720p", 720, 1280), ("480p", 480, 854)]);
    }

    #[test]
    fn nothing_is_ever_upscaled() {
        let small = source(640, 360, 30);
        let listed = plan(&"1080p,720p,360p".parse().unwrap(), &small, false, 2);
        assert_eq!(sizes(&listed), [("360p", 640, 360)]);
        assert_eq!(listed.reasons.len(), 2);
        let only_larger = plan(&"1080p".parse().unwrap(), &source(321, 181, 30), false, 2);
        assert_eq!(sizes(&only_larger), [("180p", 320, 180)]);
    }

    #[test]
    fn anamorphic_sources_get_square_pixels() {
        let dv = SourceVideo { sample_aspect: (16, 11), ..source(720, 576, 25) };
        assert_eq!(sizes(&plan(&"576p".parse().unwrap(), &dv, false, 2)), [("576p", 1046, 576)]);
    }

    #[test]
    fn high_rates_are_divided_evenly() {
        let plan = plan(&"720p,480p,360p25".parse().unwrap(), &source(1280, 720, 50), false, 2);
        let rates: Vec<_> = plan.rungs.iter().map(|rung| rate_of(rung.frame_rate)).collect();
        assert_eq!(rates, [50.0, 25.0, 25.0]);
    }

    #[test]
    fn auto_follows_source_and_cores() {
        let hd = source(1920, 1080, 30);
        assert_eq!(
            sizes(&plan(&Ladder::Auto, &hd, false, 8)),
            [("1080p", 1920, 1080), ("720p", 1280, 720), ("480p", 854, 480), ("360p", 640, 360)]
        );
        let two = plan(&Ladder::Auto, &hd, false, 2);
        assert_eq!(two.rungs[0].name, "1080p");
        let one = plan(&Ladder::Auto, &hd, false, 1);
        assert_eq!(one.rungs[0].name, "720p");
        assert_eq!(one.reasons, ["1080p left out: more than 1 cores can encode"]);
        let odd = plan(&Ladder::Auto, &source(544, 960, 30), false, 4);
        assert_eq!(sizes(&odd)[0], ("544p", 544, 960));
    }

    #[test]
    fn auto_does_not_pay_for_bits_that_were_never_there() {
        let thin = SourceVideo { bitrate: Some(1_000_000), ..source(1280, 720, 30) };
        let plan = plan(&Ladder::Auto, &thin, false, 4);
        assert_eq!(plan.rungs[0].bitrate, 1_000_000);
        assert!(plan.rungs.windows(2).all(|pair| pair[1].bitrate < pair[0].bitrate), "{:?}", plan.rungs);
    }

    #[test]
    fn a_source_that_does_not_fit_is_encoded_under_the_same_name() {
        let ladder = "source,360p".parse().unwrap();
        let hd = source(1280, 720, 30);
        let fits = plan(&ladder, &hd, true, 2);
        assert_eq!(fits.source, Some(VideoCodec::H264));
        let not = replan(&fits, &hd, false);
        assert_eq!(not.source, None);
        assert_eq!(sizes(&not), [("source", 1280, 720), ("360p", 640, 360)]);
    }

    fn published(codec: VideoCodec) -> SourceVideo {
        SourceVideo { codec, ..source(1920, 1080, 30) }
    }

    #[test]
    fn codecs_are_passed_through_where_the_operator_names_them() {
        use VideoCodec::{Av1, H264, Hevc, Vp9};
        for (ladder, passed) in [
            ("source,360p", vec![H264]),
            ("source+hevc,360p", vec![H264, Hevc]),
            ("source+av1+hevc,360p", vec![H264, Hevc, Av1]),
        ] {
            let ladder = ladder.parse().unwrap();
            for codec in VideoCodec::ALL {
                let plan = plan(&ladder, &published(codec), true, 2);
                let expected = Some(codec).filter(|codec| passed.contains(codec));
                assert_eq!(plan.source, expected, "{ladder}");
                let rungs = if expected.is_some() { &["360p"][..] } else { &["source", "360p"] };
                assert_eq!(sizes(&plan).iter().map(|rung| rung.0).collect::<Vec<_>>(), rungs, "{ladder}");
            }
        }
        let vp9 = plan(&"source+hevc+av1,360p".parse().unwrap(), &published(Vp9), true, 2);
        assert_eq!(vp9.reasons, ["rung `source` is encoded: VP9 is published"]);
    }

    #[test]
    fn beside_another_codec_there_is_always_h264() {
        let hevc = published(VideoCodec::Hevc);
        let alone = plan(&"source+hevc".parse().unwrap(), &hevc, true, 2);
        assert_eq!(sizes(&alone), [("720p", 1280, 720)]);
        assert_eq!(alone.reasons, ["720p in H.264 added: not every player decodes HEVC"]);
        let small = SourceVideo { width: 640, height: 360, ..hevc };
        let too_large = plan(&"source+hevc,720p".parse().unwrap(), &small, true, 2);
        assert_eq!(sizes(&too_large), [("360p", 640, 360)]);
        let h264 = plan(&"source+hevc".parse().unwrap(), &published(VideoCodec::H264), true, 2);
        assert_eq!(sizes(&h264), []);
        // The next publisher's H.264 leaves the added rung where it is.
        let next = replan(&alone, &published(VideoCodec::H264), true);
        assert_eq!((next.source, sizes(&next)), (Some(VideoCodec::H264), sizes(&alone)));
    }

    #[test]
    fn the_codec_of_a_source_rung_stays_or_becomes_h264() {
        use VideoCodec::{Av1, H264, Hevc};
        let ladder = "source+hevc+av1,360p".parse().unwrap();
        for (first, next, passed) in [
            (H264, H264, Some(H264)),
            (Hevc, Hevc, Some(Hevc)),
            (Hevc, H264, Some(H264)),
            (H264, Hevc, None),
            (Hevc, Av1, None),
        ] {
            let former = plan(&ladder, &published(first), true, 2);
            let again = replan(&former, &published(next), true);
            assert_eq!(again.source, passed, "{first:?}, {next:?}");
            let encoded = again.rungs.iter().any(|rung| rung.name == "source");
            assert_eq!(encoded, passed.is_none(), "the rung stays");
        }
    }

    #[test]
    fn names_stay_when_the_source_turns_or_shrinks() {
        let first = plan(&"720p,360p".parse().unwrap(), &source(1280, 720, 30), false, 2);
        let turned = replan(&first, &source(720, 1280, 30), false);
        assert_eq!(sizes(&turned), [("720p", 720, 1280), ("360p", 360, 640)]);
        let shrunk = replan(&first, &source(640, 480, 30), false);
        assert_eq!(sizes(&shrunk), [("720p", 640, 480), ("360p", 480, 360)]);
    }
}
