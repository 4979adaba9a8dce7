//! Places a file's times on the media axis: the start of the file, and dts values that the container does not store.

use ff::{Rational, format};
use ffmpeg_next as ff;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{MediaSpan, MediaTime, Unit};

/// Start of a file's media axis, in 1/90000 s (10 s). It is not zero, so that pictures with a dts before the start
/// have a place on the axis.
const ORIGIN_90K: i64 = 10 * TICKS_PER_SECOND;

/// A stream's start time in 1/90000 s, where the container states it.
pub(super) fn start_of(stream: &format::stream::Stream<'_>) -> Option<i64> {
    let start = stream.start_time();
    (start != ff::ffi::AV_NOPTS_VALUE).then(|| ticks_90k(start, stream.time_base()))
}

fn ticks_90k(count: i64, time_base: Rational) -> i64 {
    let (num, den) = (i64::from(time_base.numerator()), i64::from(time_base.denominator()));
    // A time base is positive in every demuxer; a broken one counts as 90 kHz.
    if num <= 0 || den <= 0 { count } else { rescale(count.saturating_mul(num), den, TICKS_PER_SECOND) }
}

/// Sets the dts of `undated` pictures, counted back in steps of `step` from the first known dts. Matroska stores no
/// dts, and libav knows the reordering depth only after the first few pictures.
pub(super) fn dated(
    undated: &mut Vec<Unit>,
    known: MediaTime,
    step: MediaSpan,
) -> impl Iterator<Item = Unit> {
    let count = undated.len() as i64;
    undated.drain(..).zip(0..).map(move |(mut unit, at)| {
        let back = MediaSpan::from_ticks_90k(step.ticks_90k() * (count - at));
        unit.dts = (known + -back).min(unit.pts);
        unit
    })
}

/// (pts, dts) of a packet on the media axis; `None` for a packet without times. If the file does not state its start,
/// the first packet's dts becomes the start.
pub(super) fn times(
    packet: &ff::Packet,
    time_base: Rational,
    start: &mut Option<i64>,
) -> Option<(MediaTime, MediaTime)> {
    let dts = ticks_90k(packet.dts().or(packet.pts())?, time_base);
    let pts = packet.pts().map_or(dts, |pts| ticks_90k(pts, time_base));
    let start = *start.get_or_insert(dts);
    let place = |ticks: i64| MediaTime::from_ticks_90k(ticks - start + ORIGIN_90K);
    Some((place(pts).max(place(dts)), place(dts)))
}
