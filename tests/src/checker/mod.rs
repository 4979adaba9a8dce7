//! The cross-reload checker: watches one live stream as a very attentive player would and writes down every rule of
//! RFC 8216bis and of Apple's authoring specification that the server breaks.
//!
//! [`Checker`] is sans-IO: responses and times in, violations and wishes ("fetch this segment") out. [`watch`] is the
//! loop that polls a real server. What single playlists must look like and what may change between two of them is in
//! `live`; the multivariant playlist, headers, segments and renditions against each other in `presentation`.

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

/// What was broken. Sections are those of draft-pantos-hls-rfc8216bis-22; "Apple" is the authoring specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A playlist or object that should be there was not answered with 200.
    Status,
    /// Content type (Apple 10.4).
    ContentType,
    /// Readable from pages of other origins.
    Cors,
    /// Playlists must not be cached, segments are immutable.
    CacheControl,
    /// Playlists are sent compressed when asked (Apple 10.1).
    Gzip,
    /// The playlist cannot be read at all.
    Syntax,
    /// EXT-X-VERSION is missing, too low for EXT-X-MAP (section 8), or differs between playlists.
    Version,
    /// An attribute of the multivariant playlist is missing or wrong (Apple 9.x).
    VariantAttributes,
    /// EXT-X-MEDIA: order, group named by a variant but not defined, missing URI.
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
    /// A number was never listed: the window moved past it.
    MediaSequenceHole,
    /// The same media sequence number names something else than before (6.3.4).
    SegmentChanged,
    /// One name was used for two segments.
    NameReused,
    /// DISCONTINUITY-SEQUENCE missing (Apple 8.17).
    DiscontinuitySequenceMissing,
    /// DISCONTINUITY-SEQUENCE did not grow by the number of tags removed (6.2.2).
    DiscontinuitySequence,
    /// Renditions disagree on where a discontinuity is (Apple 8.15).
    DiscontinuityAlignment,
    /// SERVER-CONTROL changed or differs between renditions (4.4.3.8).
    ServerControl,
    /// EXT-X-MAP missing (Apple 8.20).
    MapMissing,
    /// EXT-X-MAP changed without a discontinuity.
    MapChanged,
    /// PLAYLIST-TYPE in a live playlist.
    PlaylistType,
    /// A playlist that loses segments is shorter than three target durations (6.2.2).
    WindowTooShort,
    /// No new segment within 1.5 target durations (6.2.2).
    LateUpdate,
    /// Something changed behind ENDLIST, or ENDLIST went away.
    ChangedAfterEnd,
    /// PROGRAM-DATE-TIME missing on the first segment or on a discontinuity (Apple 8.4).
    DateTimeMissing,
    /// PROGRAM-DATE-TIME does not grow by the durations in between, or a segment's changed between reloads.
    DateTimeDrift,
    /// PROGRAM-DATE-TIME in the future.
    DateTimeFuture,
    /// Renditions map the same media sequence number to different times.
    DateTimeAlignment,
    /// A removed segment was not served for its retention time (6.2.2).
    Retention,
    /// Boxes of a segment cannot be read, or break CMAF.
    Boxes,
    /// A segment does not begin where the one before ended (Apple 7.3).
    DecodeTime,
    /// EXTINF differs from the media by more than a frame (Apple 8.1).
    SegmentDuration,
    /// A video segment does not begin with a sync sample (Apple 7.4).
    NotIndependent,
    /// PART-TARGET changed, or parts are listed without it (4.4.3.7).
    PartTarget,
    /// A part lasts longer than PART-TARGET, or one in the middle of a segment less than 85 % of it (4.4.4.9).
    PartDuration,
    /// PART-HOLD-BACK is below three PART-TARGETs (Apple 14.3), or HOLD-BACK below three target durations.
    HoldBack,
    /// The same part has another name or duration than before, or there is a hole in the numbering.
    PartChanged,
    /// A segment's parts do not last as long as it.
    PartsOfSegment,
    /// No hint at the next part, or one behind ENDLIST (appendix B.1).
    PreloadHint,
    /// The hinted part did not come although its segment went on.
    HintBroken,
    /// Not one report for every other rendition, or one that went backwards or is far behind.
    RenditionReport,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Since the checker's start.
    pub at: Duration,
    /// Path of the playlist or object.
    pub place: String,
    /// What was broken.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} s  {:?}  {}: {}", self.at.as_secs_f64(), self.rule, self.place, self.detail)
    }
}

/// How strict to be where rules leave room.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Added to every time limit: polling interval, transport and an overloaded machine.
    pub slack: Duration,
    /// How far apart renditions' times of one segment may be, and PROGRAM-DATE-TIME from the sum of durations.
    pub time_tolerance: Duration,
    /// Rules that are not reported; for servers that are not ours.
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

/// A response and when it came.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<'a> {
    /// Since the checker's start.
    pub at: Duration,
    /// UTC of the same moment.
    pub wall: DateTime<Utc>,
    /// What came.
    pub response: &'a Response,
}

/// An object that a playlist names and that was not fetched yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// URI as written in the playlist.
    pub uri: String,
    /// What it is.
    pub kind: ObjectKind,
}

/// What a URI of a media playlist stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// An init segment.
    Init,
    /// The media segment of that media sequence number.
    Segment(u64),
}

/// One rendition's downloaded media: an init segment and the segments that need it, in order.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Init segment.
    pub init: Bytes,
    /// Sequence number and body.
    pub segments: Vec<(u64, Bytes)>,
}

impl Piece {
    /// A file that any demuxer opens.
    pub fn concatenated(&self) -> Vec<u8> {
        let bodies = self.segments.iter().flat_map(|(_, body)| body.iter().copied());
        self.init.iter().copied().chain(bodies).collect()
    }
}

/// A segment that left the playlist and must still be served.
#[derive(Clone, Debug, PartialEq)]
struct Removed {
    uri: String,
    removed_at: Duration,
    until: Duration,
}

/// What is known of one rendition.
#[derive(Default)]
struct Rendition {
    target_duration: Option<u64>,
    server_control: Option<Option<Attributes>>,
    /// Every segment ever listed, by number.
    known: BTreeMap<u64, Listed>,
    /// Numbers listed last time: first and one past the last.
    window: Option<(u64, u64)>,
    /// The first number of the first playlist seen.
    first_seen: Option<u64>,
    /// Longest playlist so far, in seconds.
    longest: f64,
    ended: Option<Vec<u64>>,
    part_target: Option<f64>,
    /// Name and duration of each part ever listed, by segment and index.
    parts: BTreeMap<(u64, usize), (String, f64)>,
    /// What was hinted at, and where the playlist ended then.
    hint: Option<(String, (u64, usize))>,
    /// When the newest segment was first seen.
    updated_at: Option<Duration>,
    late_reported: bool,
    /// UTC of each segment's start, written or derived.
    times: BTreeMap<u64, DateTime<Utc>>,
    removed: Vec<Removed>,
    wished: BTreeSet<String>,
    inits: BTreeMap<String, (Bytes, Option<boxes::Init>)>,
    pieces: Vec<(String, Piece)>,
    /// Init URI, sequence number and decode time right behind the last segment.
    decode_end: Option<(String, u64, i64)>,
    audio_only: bool,
}

/// The checker's state. Feed it what was fetched; read [`Checker::violations`] at the end.
pub struct Checker {
    settings: Settings,
    violations: Vec<Violation>,
    /// By (place, rule): a server that breaks a rule in every response should not fill the report.
    counts: BTreeMap<(String, Rule), usize>,
    multivariant: Option<Multivariant>,
    renditions: BTreeMap<String, Rendition>,
    outage: bool,
}

/// Of one rule at one place, this many violations are written out.
const REPEATS: usize = 4;

impl Checker {
    /// Knows nothing yet.
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

    /// All that was broken so far, in the order of discovery.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// From here on until the next new segment, late updates are the test's own doing (a publisher taken away, a
    /// worker killed).
    pub fn expect_outage(&mut self) {
        self.outage = true;
        for rendition in self.renditions.values_mut() {
            rendition.updated_at = None;
        }
    }

    /// The outage is over: updates are due again, counted from the next one seen.
    pub fn outage_over(&mut self) {
        self.outage = false;
    }

    /// The newest multivariant playlist.
    pub fn multivariant_seen(&self) -> Option<&Multivariant> {
        self.multivariant.as_ref()
    }

    /// Segments ever listed in a rendition (by its playlist's URI in the multivariant playlist), by number.
    pub fn listed(&self, rendition: &str) -> Vec<&Listed> {
        self.renditions.get(rendition).map(|r| r.known.values().collect()).unwrap_or_default()
    }

    /// Whether every rendition's playlist has ENDLIST.
    pub fn ended(&self) -> bool {
        !self.renditions.is_empty() && self.renditions.values().all(|r| r.ended.is_some())
    }

    /// The media downloaded of a rendition, a piece for every init segment.
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
