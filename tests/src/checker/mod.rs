//! The cross-reload checker: watches one live stream like a very attentive player and records every rule of RFC 8216bis
//! and of Apple's authoring specification that the server breaks.
//!
//! [`Checker`] is sans-IO: responses and times go in, violations and objects to fetch come out. [`watch`] is the loop
//! that polls a real server. Rules for media playlists, alone and across reloads, are in `live`; the multivariant
//! playlist, headers, segments and comparisons between renditions are in `presentation`.

mod live;
mod low_latency;
mod presentation;
pub mod watch;

#[cfg(test)]
mod tests;

use crate::boxes;
use crate::http::Response;
use crate::playlist::{Attributes, Listed, Multivariant};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// The rule that was broken. Section numbers are those of draft-pantos-hls-rfc8216bis-22; "Apple" is Apple's authoring
/// specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A playlist or object that should exist was not answered with 200.
    Status,
    /// Wrong Content-Type (Apple 10.4).
    ContentType,
    /// Not readable by pages of other origins.
    Cors,
    /// Cache-Control: playlists must not be cached, segments must be immutable.
    CacheControl,
    /// A playlist was sent uncompressed although gzip was accepted (Apple 10.1).
    Gzip,
    /// The playlist cannot be parsed.
    Syntax,
    /// EXT-X-VERSION is missing, too low for EXT-X-MAP (section 8), or differs between playlists.
    Version,
    /// An attribute of the multivariant playlist is missing or wrong (Apple 9.x).
    VariantAttributes,
    /// EXT-X-MEDIA: wrong order, a variant names an undefined group, or a URI is missing.
    RenditionGroup,
    /// INDEPENDENT-SEGMENTS missing (Apple 9.12).
    IndependentSegments,
    /// The set of renditions changed during the stream.
    RenditionsChanged,
    /// TARGETDURATION missing or 0, changed, or different between renditions (4.4.3.1, 6.2.4).
    TargetDuration,
    /// A rounded EXTINF exceeds the target duration (4.4.3.1).
    SegmentTooLong,
    /// MEDIA-SEQUENCE missing.
    MediaSequenceMissing,
    /// MEDIA-SEQUENCE or the end of the list went backwards (6.2.2).
    MediaSequenceBackwards,
    /// Media sequence numbers were never listed: the window moved past them.
    MediaSequenceHole,
    /// A media sequence number names another segment than before (6.3.4).
    SegmentChanged,
    /// Two segments have the same name.
    NameReused,
    /// DISCONTINUITY-SEQUENCE missing (Apple 8.17).
    DiscontinuitySequenceMissing,
    /// DISCONTINUITY-SEQUENCE did not grow by the number of removed EXT-X-DISCONTINUITY tags (6.2.2).
    DiscontinuitySequence,
    /// Renditions disagree on the position of a discontinuity (Apple 8.15).
    DiscontinuityAlignment,
    /// SERVER-CONTROL changed or differs between renditions (4.4.3.8).
    ServerControl,
    /// EXT-X-MAP missing (Apple 8.20).
    MapMissing,
    /// EXT-X-MAP changed without a discontinuity.
    MapChanged,
    /// PLAYLIST-TYPE in a live playlist.
    PlaylistType,
    /// A playlist that removes segments is shorter than three target durations (6.2.2).
    WindowTooShort,
    /// No new segment within 1.5 target durations (6.2.2).
    LateUpdate,
    /// The playlist changed after ENDLIST, or ENDLIST disappeared.
    ChangedAfterEnd,
    /// PROGRAM-DATE-TIME missing on the first segment or on a discontinuity (Apple 8.4).
    DateTimeMissing,
    /// PROGRAM-DATE-TIME does not advance by the durations in between, or a segment's date changed between reloads.
    DateTimeDrift,
    /// PROGRAM-DATE-TIME in the future.
    DateTimeFuture,
    /// Renditions map the same media sequence number to different times.
    DateTimeAlignment,
    /// A removed segment became unavailable before its retention time was over (6.2.2).
    Retention,
    /// The boxes of a segment cannot be parsed, or violate CMAF.
    Boxes,
    /// A segment does not start where the previous one ended (Apple 7.3).
    DecodeTime,
    /// EXTINF differs from the media's duration by more than one frame (Apple 8.1).
    SegmentDuration,
    /// A video segment does not start with a sync sample (Apple 7.4).
    NotIndependent,
    /// PART-TARGET changed, or parts are listed without it (4.4.3.7).
    PartTarget,
    /// A part is longer than PART-TARGET, or a part that does not end its segment is shorter than 85 % of it (4.4.4.9).
    PartDuration,
    /// PART-HOLD-BACK is below three PART-TARGETs (Apple 14.3), or HOLD-BACK below three target durations.
    HoldBack,
    /// A part's name or duration changed, or the part numbering has a hole.
    PartChanged,
    /// The durations of a segment's parts do not add up to the segment's duration.
    PartsOfSegment,
    /// No EXT-X-PRELOAD-HINT for the next part, or a hint after ENDLIST (appendix B.1).
    PreloadHint,
    /// Another part appeared in place of the hinted one.
    HintBroken,
    /// The rendition reports do not cover every other rendition, or a report lacks attributes or is far from the
    /// playlist's own edge.
    RenditionReport,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Time since the checker's start.
    pub at: Duration,
    /// Path of the playlist or object.
    pub place: String,
    /// The broken rule.
    pub rule: Rule,
    /// Details of the violation.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} s  {:?}  {}: {}", self.at.as_secs_f64(), self.rule, self.place, self.detail)
    }
}

/// How strict the checker is where rules leave room.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Added to every time limit, for the polling interval, transport and an overloaded machine.
    pub slack: Duration,
    /// Allowed difference between renditions' times of one segment, and between PROGRAM-DATE-TIME and the sum of
    /// durations.
    pub time_tolerance: Duration,
    /// Rules that are not reported; meant for servers other than the encoder.
    pub ignore: BTreeSet<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slack: crate::patience::patience(Duration::from_millis(400)),
            time_tolerance: Duration::from_millis(50),
            ignore: BTreeSet::new(),
        }
    }
}

/// A response with its arrival time.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// Time since the checker's start.
    pub at: Duration,
    /// The same moment in UTC.
    pub wall: DateTime<Utc>,
    /// The response.
    pub response: &'a Response,
}

/// An object that a playlist names and that was not requested yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// URI as written in the playlist.
    pub uri: String,
    /// Kind of object.
    pub kind: ObjectKind,
}

/// Kind of object that a URI in a media playlist names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An init segment.
    Init,
    /// The media segment with this media sequence number.
    Segment(u64),
}

/// Downloaded media of one rendition: an init segment and the segments that use it, in order.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Init segment.
    pub init: Bytes,
    /// Media sequence number and body of each segment.
    pub segments: Vec<(u64, Bytes)>,
}

impl Piece {
    /// Init segment and segments concatenated: a file that any demuxer opens.
    pub fn concatenated(&self) -> Vec<u8> {
        let bodies = self.segments.iter().flat_map(|(_, body)| body.iter().copied());
        self.init.iter().copied().chain(bodies).collect()
    }
}

/// A segment that left the playlist and must still be available.
#[derive(Clone, Debug, PartialEq)]
struct Removed {
    uri: String,
    removed_at: Duration,
    until: Duration,
}

/// State of one rendition.
#[derive(Default)]
struct Rendition {
    target_duration: Option<u64>,
    server_control: Option<Option<Attributes>>,
    /// Every segment ever listed, by media sequence number.
    known: BTreeMap<u64, Listed>,
    /// Media sequence numbers in the last playlist: the first, and one past the last.
    window: Option<(u64, u64)>,
    /// First media sequence number of the first playlist seen.
    first_seen: Option<u64>,
    /// Duration of the longest playlist so far, in seconds.
    longest: f64,
    ended: Option<Vec<u64>>,
    part_target: Option<f64>,
    /// Name and duration (seconds) of each part ever listed, by media sequence number and part index.
    parts: BTreeMap<(u64, usize), (String, f64)>,
    /// The last preload hint, and the playlist's edge at that time.
    hint: Option<(String, (u64, usize))>,
    /// Time at which the newest segment was first seen.
    updated_at: Option<Duration>,
    late_reported: bool,
    /// Start of each segment in UTC, as written or derived.
    times: BTreeMap<u64, DateTime<Utc>>,
    removed: Vec<Removed>,
    wished: BTreeSet<String>,
    inits: BTreeMap<String, (Bytes, Option<boxes::Init>)>,
    pieces: Vec<(String, Piece)>,
    /// Init URI, media sequence number, and decode time at the end of the last segment.
    decode_end: Option<(String, u64, i64)>,
    audio_only: bool,
}

/// The checker's state. Pass it every response; read [`Checker::violations`] at the end.
pub struct Checker {
    settings: Settings,
    violations: Vec<Violation>,
    /// Violations by (place, rule). The count limits repetition: a server that breaks a rule in every response should
    /// not fill the report.
    counts: BTreeMap<(String, Rule), usize>,
    multivariant: Option<Multivariant>,
    renditions: BTreeMap<String, Rendition>,
    outage: bool,
}

/// Number of violations written out per rule and place.
const REPEATS: usize = 4;

impl Checker {
    /// A checker that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            violations: Vec::new(),
            counts: BTreeMap::new(),
            multivariant: None,
            renditions: BTreeMap::new(),
            outage: false,
        }
    }

    /// All violations so far, in order of discovery.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Suppresses [`Rule::LateUpdate`] until [`Checker::outage_over`]: the test itself causes the outage (it removes
    /// the publisher or kills a worker).
    pub fn expect_outage(&mut self) {
        self.outage = true;
        for rendition in self.renditions.values_mut() {
            rendition.updated_at = None;
        }
    }

    /// Ends the expected outage: updates are due again, counted from the next one seen.
    pub fn outage_over(&mut self) {
        self.outage = false;
    }

    /// The newest multivariant playlist.
    pub fn multivariant_seen(&self) -> Option<&Multivariant> {
        self.multivariant.as_ref()
    }

    /// All segments ever listed in a rendition, by media sequence number. `rendition` is the playlist's URI in the
    /// multivariant playlist.
    pub fn listed(&self, rendition: &str) -> Vec<&Listed> {
        self.renditions.get(rendition).map(|r| r.known.values().collect()).unwrap_or_default()
    }

    /// Whether every rendition's playlist has EXT-X-ENDLIST.
    pub fn ended(&self) -> bool {
        !self.renditions.is_empty() && self.renditions.values().all(|r| r.ended.is_some())
    }

    /// Downloaded media of a rendition, one piece per init segment.
    pub fn pieces(&self, rendition: &str) -> Vec<Piece> {
        self.renditions
            .get(rendition)
            .map(|r| r.pieces.iter().map(|(_, p)| p.clone()).collect())
            .unwrap_or_default()
    }

    fn report(&mut self, at: Duration, place: &str, rule: Rule, detail: impl Into<String>) {
        if self.settings.ignore.contains(&rule) {
            return;
        }
        let count = self.counts.entry((place.to_owned(), rule)).or_default();
        *count += 1;
        if *count <= REPEATS {
            self.violations.push(Violation { at, place: place.to_owned(), rule, detail: detail.into() });
        }
    }
}
