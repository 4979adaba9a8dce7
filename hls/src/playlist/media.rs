//! Text of media playlists. Written here because m3u8-rs omits a DISCONTINUITY-SEQUENCE of 0 (Apple 8.17 requires it
//! always) and supports neither SERVER-CONTROL nor the low-latency tags.

use super::VERSION;
use crate::names::RungName;
use crate::segment::{PartInfo, SegmentInfo};
use crate::timing::{Parts, Timing};
use chrono::{DateTime, SecondsFormat};
use media::WallTime;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// The content of a media playlist.
pub(crate) struct MediaPlaylist<'a> {
    pub(crate) timing: &'a Timing,
    pub(crate) media_sequence: u64,
    pub(crate) discontinuity_sequence: u64,
    /// In order of sequence number, contiguous.
    pub(crate) segments: &'a VecDeque<SegmentInfo>,
    pub(crate) ended: bool,
    /// Whether the server holds requests for segments and parts that are not listed yet.
    pub(crate) on_origin: bool,
    pub(crate) low_latency: Option<LowLatency<'a>>,
}

/// The low-latency content of a media playlist.
pub(crate) struct LowLatency<'a> {
    pub(crate) timing: Parts,
    /// Parts by their segment's sequence number.
    pub(crate) parts: &'a BTreeMap<u64, Vec<PartInfo>>,
    /// Parts after the last segment.
    pub(crate) open: &'a [PartInfo],
    /// Name of the next part.
    pub(crate) hint: Option<String>,
    /// The ends of the other renditions' playlists.
    pub(crate) reports: Vec<RenditionReport<'a>>,
}

/// EXT-X-RENDITION-REPORT.
pub(crate) struct RenditionReport<'a> {
    pub(crate) rung: &'a RungName,
    pub(crate) sequence: u64,
    /// `None` where the last segment has no parts.
    pub(crate) last_part: Option<u32>,
}

/// The tags before a segment or before its first part, whichever comes first.
struct Head<'a> {
    discontinuity: bool,
    /// `None` for a gap: a gap needs no init segment, and its epoch's init segment may not exist.
    init: Option<&'a str>,
    wall: WallTime,
}

impl MediaPlaylist<'_> {
    /// Renders the playlist's text.
    pub(crate) fn render(self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        self.write(&mut text).expect("writing to a string does not fail");
        text
    }

    fn write(self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "#EXTM3U")?;
        writeln!(out, "#EXT-X-VERSION:{VERSION}")?;
        writeln!(out, "#EXT-X-TARGETDURATION:{}", self.timing.target_duration)?;
        self.write_server_control(out)?;
        writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{}", self.media_sequence)?;
        writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence)?;
        writeln!(out, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        let mut map = None;
        for segment in self.segments {
            let init = segment.bytes.is_some().then_some(segment.init.as_str());
            let head = Head { discontinuity: segment.discontinuity, init, wall: segment.wall };
            write_head(out, head, &mut map)?;
            let parts = self.low_latency.as_ref().and_then(|low| low.parts.get(&segment.sequence));
            write_parts(out, parts.map(Vec::as_slice).unwrap_or_default())?;
            if segment.bytes.is_none() {
                writeln!(out, "#EXT-X-GAP")?;
            }
            writeln!(out, "#EXTINF:{:.5},", segment.duration.as_secs_f64())?;
            writeln!(out, "{}", segment.name)?;
        }
        if self.ended {
            return writeln!(out, "#EXT-X-ENDLIST");
        }
        let Some(low) = &self.low_latency else { return Ok(()) };
        if let Some(first) = low.open.first() {
            let init = Some(first.init.as_str());
            let head = Head { discontinuity: first.discontinuity, init, wall: first.wall };
            write_head(out, head, &mut map)?;
            write_parts(out, low.open)?;
        }
        if let Some(hint) = &low.hint {
            writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{hint}\"")?;
        }
        for RenditionReport { rung, sequence, last_part } in &low.reports {
            write!(out, "#EXT-X-RENDITION-REPORT:URI=\"../{rung}/index.m3u8\",LAST-MSN={sequence}")?;
            match last_part {
                Some(part) => writeln!(out, ",LAST-PART={part}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    /// Writes EXT-X-SERVER-CONTROL. A store's playlist omits the tag at a hold-back of three target durations, the
    /// players' default (rfc8216bis 6.3.3), because hls-parser's strict mode refuses the tag without CAN-BLOCK-RELOAD,
    /// though 4.4.3.8 makes CAN-BLOCK-RELOAD optional.
    fn write_server_control(&self, out: &mut String) -> std::fmt::Result {
        if !self.on_origin {
            let hold_back_s = self.timing.store_hold_back.as_secs_f64();
            if hold_back_s > f64::from(3 * self.timing.target_duration) {
                writeln!(out, "#EXT-X-SERVER-CONTROL:HOLD-BACK={hold_back_s:.3}")?;
            }
            return Ok(());
        }
        write!(out, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES")?;
        if let Some(low) = &self.low_latency {
            write!(out, ",PART-HOLD-BACK={:.3}", low.timing.hold_back.as_secs_f64())?;
        }
        writeln!(out, ",HOLD-BACK={:.3}", self.timing.hold_back.as_secs_f64())?;
        if let Some(low) = &self.low_latency {
            writeln!(out, "#EXT-X-PART-INF:PART-TARGET={:.5}", low.timing.target.as_secs_f64())?;
        }
        Ok(())
    }
}

fn write_head<'a>(out: &mut String, head: Head<'a>, map: &mut Option<&'a str>) -> std::fmt::Result {
    if head.discontinuity {
        writeln!(out, "#EXT-X-DISCONTINUITY")?;
    }
    if let Some(init) = head.init.filter(|init| *map != Some(init)) {
        writeln!(out, "#EXT-X-MAP:URI=\"{init}\"")?;
        *map = Some(init);
    }
    writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", date_time(head.wall))
}

fn write_parts(out: &mut String, parts: &[PartInfo]) -> std::fmt::Result {
    for part in parts {
        let duration_s = part.duration.as_secs_f64();
        write!(out, "#EXT-X-PART:DURATION={duration_s:.5},URI=\"{}\"", part.name)?;
        if part.gap {
            write!(out, ",GAP=YES")?;
        } else if part.independent {
            write!(out, ",INDEPENDENT=YES")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// ISO 8601 in UTC to the millisecond, rounded down so that the time is never in the future.
pub fn date_time(wall: WallTime) -> String {
    let time = DateTime::from_timestamp_micros(wall.unix_micros()).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
