//! One rendition's playlist over everything that remains of a broadcast: EVENT during the broadcast, VOD afterwards.
//! The playlist only grows at its end (rfc8216bis 4.4.3.5), so this module keeps its text instead of its segments.

use super::VERSION;
use super::media::date_time;
use super::multivariant::{self, Bandwidth};
use crate::presentation::rendition::{MIN_MEASURED, bit_rate};
use crate::segment::SegmentInfo;
use crate::track::Track;
use media::{MediaSpan, WallTime};
use std::fmt::Write;

/// Maximum difference in microseconds between a segment's wall-clock time and the time that players extrapolate from
/// the last PROGRAM-DATE-TIME; beyond it the tag is repeated. The wall-clock mapping follows the publisher's drift in
/// small steps.
const DATE_TOLERANCE_US: i64 = 20_000;

/// An archive playlist of one rendition, about sixty bytes per segment; see the module's documentation.
#[derive(Clone, Debug)]
pub struct ArchivePlaylist {
    /// Path prefix of every file name.
    folder: String,
    /// The playlist lists only each segment's first picture.
    pictures: bool,
    target_duration: u32,
    /// Sequence number of the first segment, and the next sequence number.
    span: Option<(u64, u64)>,
    discontinuity_sequence: u64,
    /// Init segment of the last segment.
    map: Option<String>,
    /// The next segment's wall-clock start as extrapolated by players.
    date: Option<WallTime>,
    duration: MediaSpan,
    text: String,
    /// Bits per second of the segment with the highest bit rate.
    peak: u64,
    bits: u64,
}

impl ArchivePlaylist {
    /// An empty playlist. `folder` is the path from the playlist to the rendition's segments: `../../720p/`. No segment
    /// may be longer than `target_duration` seconds, rounded.
    pub fn new(folder: impl Into<String>, target_duration: u32) -> Self {
        Self {
            folder: folder.into(),
            pictures: false,
            target_duration,
            span: None,
            discontinuity_sequence: 0,
            map: None,
            date: None,
            duration: MediaSpan::ZERO,
            text: String::new(),
            peak: 0,
            bits: 0,
        }
    }

    /// An empty playlist of keyframes only, for seek bars (EXT-X-I-FRAMES-ONLY): see [`ArchivePlaylist::push_picture`].
    pub fn of_pictures(folder: impl Into<String>, target_duration: u32) -> Self {
        Self { pictures: true, ..Self::new(folder, target_duration) }
    }

    /// Sets how many discontinuities came before the playlist's first segment, for a rendition that was added after the
    /// start of the stream. Call this before adding the first segment.
    pub fn begin_behind(&mut self, discontinuities: u64) {
        debug_assert!(self.span.is_none());
        self.discontinuity_sequence = discontinuities;
    }

    /// Adds the next segment, whose sequence number must be the last one's plus 1.
    pub fn push(&mut self, segment: &SegmentInfo) {
        debug_assert!(!self.pictures);
        self.list(segment, segment.bytes);
    }

    /// Adds the next segment's first picture: the first `bytes` bytes of the segment, up to the picture's end. `None`
    /// adds a gap.
    pub fn push_picture(&mut self, segment: &SegmentInfo, bytes: Option<u64>) {
        debug_assert!(self.pictures);
        self.list(segment, bytes.filter(|_| segment.bytes.is_some()));
    }

    fn list(&mut self, segment: &SegmentInfo, bytes: Option<u64>) {
        debug_assert!(self.span.is_none_or(|(_, next)| next == segment.sequence));
        self.write(segment, bytes).expect("writing to a string does not fail");
        let first = self.span.map_or(segment.sequence, |(first, _)| first);
        self.span = Some((first, segment.sequence + 1));
        self.duration = self.duration + segment.duration;
        let bits = bytes.unwrap_or(0).saturating_mul(8);
        self.bits = self.bits.saturating_add(bits);
        if segment.duration >= MIN_MEASURED {
            self.peak = self.peak.max(bit_rate(bits, segment.duration));
        }
    }

    fn write(&mut self, segment: &SegmentInfo, bytes: Option<u64>) -> std::fmt::Result {
        let out = &mut self.text;
        let begins = self.span.is_none();
        // EXT-X-DISCONTINUITY-SEQUENCE covers a discontinuity before the first segment.
        if segment.discontinuity && !begins {
            writeln!(out, "#EXT-X-DISCONTINUITY")?;
        }
        if bytes.is_some() && self.map.as_ref() != Some(&segment.init) {
            writeln!(out, "#EXT-X-MAP:URI=\"{}{}\"", self.folder, segment.init)?;
            self.map = Some(segment.init.clone());
        }
        let is_told = self.date.is_some_and(|date| {
            (date.unix_micros() - segment.wall.unix_micros()).abs() <= DATE_TOLERANCE_US
                && !segment.discontinuity
        });
        let date = if is_told { self.date } else { None }.unwrap_or(segment.wall);
        if !is_told {
            writeln!(out, "#EXT-X-PROGRAM-DATE-TIME:{}", date_time(segment.wall))?;
        }
        self.date = Some(date + segment.duration);
        if bytes.is_none() {
            writeln!(out, "#EXT-X-GAP")?;
        }
        writeln!(out, "#EXTINF:{:.5},", segment.duration.as_secs_f64())?;
        if let Some(bytes) = bytes.filter(|_| self.pictures) {
            writeln!(out, "#EXT-X-BYTERANGE:{bytes}@0")?;
        }
        writeln!(out, "{}{}", self.folder, segment.name)
    }

    /// The sequence number that [`ArchivePlaylist::push`] expects next; `None` before the first segment.
    pub fn next_sequence(&self) -> Option<u64> {
        self.span.map(|(_, next)| next)
    }

    /// The measured bit rates; the encoder's target bit rate where nothing was measured.
    fn bandwidth(&self, track: &Track) -> Bandwidth {
        let average = bit_rate(self.bits, self.duration);
        let or_told = |measured: u64| if measured == 0 { track.nominal_bitrate().into() } else { measured };
        Bandwidth { peak: or_told(self.peak), average: or_told(average) }
    }

    /// Duration of the listed media, gaps included.
    pub fn duration(&self) -> MediaSpan {
        self.duration
    }

    /// Renders the text; `None` while nothing is listed. `ended` makes it a VOD playlist, which must not grow any more.
    pub fn render(&self, ended: bool) -> Option<String> {
        let (first, _) = self.span?;
        let kind = if ended { "VOD" } else { "EVENT" };
        let mut out = format!(
            "#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{}\n#EXT-X-PLAYLIST-TYPE:{kind}\n\
             #EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n#EXT-X-INDEPENDENT-SEGMENTS\n{}{}",
            self.target_duration,
            self.discontinuity_sequence,
            if self.pictures { "#EXT-X-I-FRAMES-ONLY\n" } else { "" },
            self.text
        );
        if ended {
            out.push_str("#EXT-X-ENDLIST\n");
        }
        Some(out)
    }
}

/// The multivariant playlist of renditions whose playlists are next to it as `{rung}.m3u8`, in the order of the track
/// list: video from largest to smallest, then audio. The keyframe playlist is `{rung}-pictures.m3u8`. `None` without
/// any rendition.
pub fn archive_multivariant(
    renditions: &[(&Track, &ArchivePlaylist)],
    pictures: Option<(&Track, &ArchivePlaylist)>,
) -> Option<String> {
    let listed = |(_, playlist): &&(&Track, &ArchivePlaylist)| playlist.span.is_some();
    let measured = |(track, playlist): &(&Track, &ArchivePlaylist)| playlist.bandwidth(track);
    let renditions: Vec<_> = renditions.iter().filter(listed).map(|one| (one.0, measured(one))).collect();
    let pictures = pictures.iter().find(listed).map(|one| (one.0, measured(one)));
    let pictures =
        pictures.map(|(track, bandwidth)| (track, bandwidth, format!("{}-pictures.m3u8", track.rung)));
    (!renditions.is_empty())
        .then(|| multivariant::render(&renditions, &|rung| format!("{rung}.m3u8"), pictures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ms, rung};
    use crate::{SessionId, names};

    fn segment(sequence: u64, session: &str, discontinuity: bool, bytes: Option<u64>) -> SegmentInfo {
        let session = SessionId::new(session).unwrap();
        SegmentInfo {
            rung: rung("720p"),
            sequence,
            discontinuity,
            start: ms(sequence as i64 * 2_000),
            duration: MediaSpan::from_millis(2_000),
            wall: WallTime::from_unix_micros(1_795_348_800_000_000 + sequence as i64 * 2_000_000),
            name: names::segment_name(&session, sequence),
            init: names::init_name(&session),
            session,
            bytes,
        }
    }

    /// The expected text was written by hand from rfc8216bis.
    #[test]
    fn grows_at_its_end_and_becomes_a_recording() {
        let mut playlist = ArchivePlaylist::new("../../720p/", 2);
        assert_eq!(playlist.render(false), None);
        playlist.push(&segment(100, "a", true, Some(1)));
        playlist.push(&segment(101, "a", false, None));
        let early = playlist.render(false).unwrap();
        playlist.push(&segment(102, "b", true, Some(1)));
        let mut late = segment(103, "b", false, Some(1));
        late.wall = late.wall + MediaSpan::from_millis(30);
        playlist.push(&late);
        let expected = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:2\n#EXT-X-PLAYLIST-TYPE:VOD\n\
             #EXT-X-MEDIA-SEQUENCE:100\n#EXT-X-DISCONTINUITY-SEQUENCE:0\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MAP:URI=\"../../720p/a-init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:03:20.000Z\n\
             #EXTINF:2.00000,\n../../720p/a-100.m4s\n#EXT-X-GAP\n#EXTINF:2.00000,\n../../720p/a-101.m4s\n\
             #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"../../720p/b-init.mp4\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:03:24.000Z\n#EXTINF:2.00000,\n../../720p/b-102.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:03:26.030Z\n#EXTINF:2.00000,\n../../720p/b-103.m4s\n\
             #EXT-X-ENDLIST\n";
        assert_eq!(playlist.render(true).unwrap(), expected);
        assert!(playlist.render(false).unwrap().starts_with(&early), "nothing that was said changes");
        assert_eq!(
            (playlist.next_sequence(), playlist.duration()),
            (Some(104), MediaSpan::from_millis(8_000))
        );
    }
}
