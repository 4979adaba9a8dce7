//! Media playlists, written here because m3u8-rs leaves out a DISCONTINUITY-SEQUENCE of 0 (Apple 8.17 wants it always)
//! and has no place for SERVER-CONTROL and the tags of low latency.

use super::VERSION;
use crate::presentation::SegmentInfo;
use crate::time::WallTime;
use crate::timing::Timing;
use chrono::{DateTime, SecondsFormat};
use std::fmt::Write;

/// What a media playlist says.
pub(crate) struct MediaPlaylist<'a, I> {
    pub(crate) timing: &'a Timing,
    pub(crate) media_sequence: u64,
    pub(crate) discontinuity_sequence: u64,
    /// In order of their sequence, without holes.
    pub(crate) segments: I,
    pub(crate) ended: bool,
    /// Whether the server holds requests for what is not listed yet.
    pub(crate) blocking_reload: bool,
}

impl<'a, I: Iterator<Item = &'a SegmentInfo>> MediaPlaylist<'a, I> {
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
        // Three target durations are what players keep to unasked (rfc8216bis 6.3.3); and hls-parser's strict mode
        // refuses the tag without CAN-BLOCK-RELOAD, though 4.4.3.8 has that optional.
        let hold_back_s = self.timing.hold_back.as_secs_f64();
        if self.blocking_reload {
            writeln!(out, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,HOLD-BACK={hold_back_s:.3}")?;
        } else if hold_back_s > f64::from(3 * self.timing.target_duration) {
            writeln!(out, "#EXT-X-SERVER-CONTROL:HOLD-BACK={hold_back_s:.3}")?;
        }
        writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{}", self.media_sequence)?;
        writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence)?;
        writeln!(out, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        let mut map = None;
        for segment in self.segments {
            if segment.discontinuity {
                writeln!(out, "#EXT-X-DISCONTINUITY")?;
            }
            // A gap needs no init segment, and that of its epoch may not exist.
            if segment.bytes.is_some() && map != Some(&segment.init) {
                writeln!(out, "#EXT-X-MAP:URI=\"{}\"", segment.init)?;
                map = Some(&segment.init);
            }
            writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", date_time(segment.wall))?;
            if segment.bytes.is_none() {
                writeln!(out, "#EXT-X-GAP")?;
            }
            writeln!(out, "#EXTINF:{:.5},", segment.duration.as_secs_f64())?;
            writeln!(out, "{}", segment.name)?;
        }
        if self.ended {
            writeln!(out, "#EXT-X-ENDLIST")?;
        }
        Ok(())
    }
}

/// ISO 8601 in UTC to the millisecond, rounded down: never in the future.
fn date_time(wall: WallTime) -> String {
    let time = DateTime::from_timestamp_micros(wall.unix_micros()).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
