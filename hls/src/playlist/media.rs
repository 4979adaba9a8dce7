//! Media playlists, written here because m3u8-rs leaves out a DISCONTINUITY-SEQUENCE of 0 (Apple 8.17 wants it always)
//! and has no place for SERVER-CONTROL and the tags of low latency.

use super::VERSION;
use crate::names::RungName;
use crate::presentation::{PartInfo, SegmentInfo};
use crate::time::WallTime;
use crate::timing::{Parts, Timing};
use chrono::{DateTime, SecondsFormat};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// What a media playlist says.
pub(crate) struct MediaPlaylist<'a> {
    pub(crate) timing: &'a Timing,
    pub(crate) media_sequence: u64,
    pub(crate) discontinuity_sequence: u64,
    /// In order of their sequence, without holes.
    pub(crate) segments: &'a VecDeque<SegmentInfo>,
    pub(crate) ended: bool,
    /// Whether the server holds requests for what is not listed yet.
    pub(crate) on_origin: bool,
    pub(crate) low_latency: Option<LowLatency<'a>>,
}

/// What players of parts are told.
pub(crate) struct LowLatency<'a> {
    pub(crate) timing: Parts,
    /// By their segment's sequence number.
    pub(crate) parts: &'a BTreeMap<u64, Vec<PartInfo>>,
    /// Behind the last segment.
    pub(crate) open: &'a [PartInfo],
    /// The next part's name.
    pub(crate) hint: Option<String>,
    /// How far the other renditions are.
    pub(crate) reports: Vec<Report<'a>>,
}

/// EXT-X-RENDITION-REPORT.
pub(crate) struct Report<'a> {
    pub(crate) rung: &'a RungName,
    pub(crate) sequence: u64,
    /// `None` where the segment has no parts.
    pub(crate) last_part: Option<u32>,
}

/// What stands before a segment and before its first part, whichever comes first.
struct Head<'a> {
    discontinuity: bool,
    /// `None` for a gap: it needs no init segment, and that of its epoch may not exist.
    init: Option<&'a str>,
    wall: WallTime,
}

impl MediaPlaylist<'_> {
    /// The playlist's text.
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
        for Report { rung, sequence, last_part } in &low.reports {
            write!(out, "#EXT-X-RENDITION-REPORT:URI=\"../{rung}/index.m3u8\",LAST-MSN={sequence}")?;
            match last_part {
                Some(part) => writeln!(out, ",LAST-PART={part}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    /// Three target durations are what players keep to unasked (rfc8216bis 6.3.3); and hls-parser's strict mode refuses
    /// the tag without CAN-BLOCK-RELOAD, though 4.4.3.8 has that optional.
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

/// ISO 8601 in UTC to the millisecond, rounded down: never in the future.
pub(super) fn date_time(wall: WallTime) -> String {
    let time = DateTime::from_timestamp_micros(wall.unix_micros()).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
