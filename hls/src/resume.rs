//! Reads stored playlists back, so that another writer can continue them.
//!
//! What belongs here: parsing text into [`Past`], and checking that the result is complete enough to continue. What
//! does not: the source of the text, its maximum age, and the playlists that follow ([`crate::Presentation::resume`]).
//!
//! Only playlists that [`crate::Presentation`] writes for a store are accepted. Every name must be one that this crate
//! makes, because the listed objects will be listed again and later deleted. Anything else is an error and leads to a
//! new stream. Text from outside never panics; [`MAX_TEXT`] bounds the work.
//!
//! m3u8-rs parses the playlists. This module adds what m3u8-rs lacks: EXT-X-MAP applies until the next EXT-X-MAP, and
//! EXT-X-GAP is among the unknown tags.

use crate::names::{self, RungName, SessionId};
use crate::segment::SegmentInfo;
use m3u8_rs::{MasterPlaylist, MediaPlaylist, MediaSegment};
use media::captions::CaptionServices;
use media::{MediaSpan, MediaTime, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// Longest accepted text in bytes; a window of a minute is some 10 KiB.
pub const MAX_TEXT: usize = 1 << 20;

/// Sequence numbers above this are corrupt: those of this crate begin at seconds since 1970 and grow by one per
/// segment.
const MAX_NUMBER: u64 = 1 << 53;

/// Longest accepted target duration, in seconds.
const MAX_TARGET: u64 = 60;

/// Why stored playlists cannot be continued. A retry does not help: the playlists are from other software or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Not a playlist, truncated, or longer than [`MAX_TEXT`].
    #[error("not a whole playlist")]
    NotWhole,
    /// This crate does not write such a playlist.
    #[error("not one of our playlists: {0}")]
    Foreign(&'static str),
    /// The renditions' playlists contradict each other.
    #[error("renditions disagree: {0}")]
    Disagree(&'static str),
    /// No rendition lists a segment.
    #[error("nothing is listed")]
    Empty,
}

/// The stored playlist of one rendition.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPlaylist {
    target_duration: u32,
    discontinuity_sequence: u64,
    ended: bool,
    /// Not empty; numbers are contiguous.
    segments: Vec<SegmentInfo>,
}

/// The combined content of all renditions' stored playlists.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    target_duration: u32,
    ended: bool,
    /// By rendition; all end at the same number, with gaps for segments that a shorter playlist lacks.
    segments: BTreeMap<RungName, Vec<SegmentInfo>>,
    /// Number of discontinuities before the lowest listed number.
    gone_discontinuities: u64,
    /// Sequence numbers with a discontinuity before them.
    discontinuities: BTreeSet<u64>,
    /// Wall-clock end of the last segment.
    ended_at: WallTime,
    next_sequence: u64,
    captions: CaptionServices,
}

/// The renditions listed in a multivariant playlist.
///
/// # Errors
/// See [`ResumeError`].
pub fn renditions(text: &str) -> Result<Vec<RungName>, ResumeError> {
    let text = whole(text)?;
    if !text.contains("#EXT-X-STREAM-INF:") {
        return Err(ResumeError::Foreign("no variants"));
    }
    let MasterPlaylist { variants, alternatives, .. } =
        m3u8_rs::parse_master_playlist_res(text.as_bytes()).map_err(|_| ResumeError::NotWhole)?;
    let uris = variants.into_iter().map(|variant| variant.uri);
    let uris = uris.chain(alternatives.into_iter().filter_map(|alternative| alternative.uri));
    let mut rungs = BTreeSet::new();
    for uri in uris {
        let rung = uri.strip_suffix("/index.m3u8").and_then(|rung| RungName::new(rung).ok());
        rungs.insert(rung.ok_or(ResumeError::Foreign("name of a rendition"))?);
    }
    Ok(rungs.into_iter().collect())
}

/// The caption services that a multivariant playlist announces; none where the playlist cannot be read.
pub fn captions(text: &str) -> CaptionServices {
    let Some(playlist) =
        whole(text).ok().and_then(|text| m3u8_rs::parse_master_playlist_res(text.as_bytes()).ok())
    else {
        return CaptionServices::NONE;
    };
    let names = playlist.alternatives.iter().filter_map(|one| Some(one.instream_id.as_ref()?.to_string()));
    let names: Vec<String> = names.collect();
    CaptionServices::named(names.iter().map(String::as_str))
}

/// Checks that the text ends with a line end: a text truncated within a line does not. Texts truncated between lines
/// are detected by what they lack.
fn whole(text: &str) -> Result<&str, ResumeError> {
    let is_whole = text.starts_with("#EXTM3U\n") && text.ends_with('\n') && text.len() <= MAX_TEXT;
    if is_whole { Ok(text) } else { Err(ResumeError::NotWhole) }
}

// === impl StoredPlaylist ===

impl StoredPlaylist {
    /// Parses a rendition's playlist.
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub fn parse(rung: &RungName, text: &str) -> Result<Self, ResumeError> {
        let text = whole(text)?;
        // m3u8-rs reads missing tags as 0.
        for tag in ["#EXT-X-TARGETDURATION:", "#EXT-X-MEDIA-SEQUENCE:", "#EXT-X-DISCONTINUITY-SEQUENCE:"] {
            if text.lines().filter(|line| line.starts_with(tag)).count() != 1 {
                return Err(ResumeError::Foreign("header"));
            }
        }
        let MediaPlaylist {
            target_duration, media_sequence, discontinuity_sequence, end_list, segments, ..
        } = m3u8_rs::parse_media_playlist_res(text.as_bytes()).map_err(|_| ResumeError::NotWhole)?;
        if !(1..=MAX_TARGET).contains(&target_duration) {
            return Err(ResumeError::Foreign("EXT-X-TARGETDURATION"));
        }
        if media_sequence > MAX_NUMBER || discontinuity_sequence > MAX_NUMBER {
            return Err(ResumeError::Foreign("a number beyond any stream's"));
        }
        if segments.is_empty() {
            return Err(ResumeError::Empty);
        }
        // m3u8-rs stops without an error at text that it cannot parse.
        if segments.len() != text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count() {
            return Err(ResumeError::NotWhole);
        }
        let mut map = None;
        let segments = (media_sequence..)
            .zip(segments)
            .map(|(sequence, segment)| {
                if let Some(new) = &segment.map {
                    map = Some(new.uri.clone());
                }
                segment_info(rung, sequence, segment, map.as_deref(), target_duration)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            target_duration: u32::try_from(target_duration).unwrap_or(u32::MAX),
            discontinuity_sequence,
            ended: end_list,
            segments,
        })
    }

    fn first(&self) -> u64 {
        self.segments.first().map_or(0, |segment| segment.sequence)
    }

    fn next(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.sequence + 1)
    }
}

fn segment_info(
    rung: &RungName,
    sequence: u64,
    segment: MediaSegment,
    map: Option<&str>,
    target_duration: u64,
) -> Result<SegmentInfo, ResumeError> {
    let gap = segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP");
    let session = segment
        .uri
        .strip_suffix(".m4s")
        .and_then(|name| name.rsplit_once('-'))
        .and_then(|(session, _)| SessionId::new(session).ok())
        .filter(|session| names::segment_name(session, sequence) == segment.uri)
        .ok_or(ResumeError::Foreign("name of a segment"))?;
    let init = match map {
        None if gap => String::new(),
        None => return Err(ResumeError::Foreign("a segment without EXT-X-MAP")),
        Some(map) => map
            .strip_suffix("-init.mp4")
            .is_some_and(media::is_valid_name)
            .then(|| map.to_owned())
            .ok_or(ResumeError::Foreign("name of an init segment"))?,
    };
    let seconds = f64::from(segment.duration);
    if !seconds.is_finite() || seconds <= 0.0 || seconds.round() > target_duration as f64 {
        return Err(ResumeError::Foreign("EXTINF"));
    }
    let wall = segment
        .program_date_time
        .ok_or(ResumeError::Foreign("a segment without its date"))?
        .timestamp_micros();
    if !(0..=i64::MAX / 4).contains(&wall) {
        return Err(ResumeError::Foreign("a date before 1970 or far from now"));
    }
    Ok(SegmentInfo {
        rung: rung.clone(),
        sequence,
        session,
        discontinuity: segment.discontinuity,
        start: MediaTime::ZERO,
        duration: MediaSpan::from_secs_f64(seconds),
        wall: WallTime::from_unix_micros(wall),
        name: segment.uri,
        init,
        // Playlists do not state sizes, and the size is not needed any more.
        bytes: (!gap).then_some(0),
    })
}

// === impl Past ===

impl Past {
    /// Combines renditions. Their playlists may have been written at different moments: a shorter one gets gaps up to
    /// the highest number that any playlist lists. A playlist that ends before the newest one begins is left out,
    /// because its rendition is no longer written.
    ///
    /// # Errors
    /// See [`ResumeError`].
    pub fn new(playlists: impl IntoIterator<Item = (RungName, StoredPlaylist)>) -> Result<Self, ResumeError> {
        let mut playlists: BTreeMap<RungName, StoredPlaylist> = playlists.into_iter().collect();
        let newest = playlists.values().max_by_key(|playlist| playlist.next()).ok_or(ResumeError::Empty)?;
        let (begin, next_sequence) = (newest.first(), newest.next());
        let target_duration = newest.target_duration;
        let ended_at = newest.segments.last().map(|s| s.wall + s.duration).ok_or(ResumeError::Empty)?;
        playlists.retain(|_, playlist| playlist.next() >= begin);
        if playlists.values().any(|playlist| playlist.target_duration != target_duration) {
            return Err(ResumeError::Disagree("EXT-X-TARGETDURATION"));
        }

        let mut by_number: BTreeMap<u64, SegmentInfo> = BTreeMap::new();
        for segment in playlists.values().flat_map(|playlist| &playlist.segments) {
            let known = by_number.entry(segment.sequence).or_insert_with(|| segment.clone());
            if known.discontinuity != segment.discontinuity {
                return Err(ResumeError::Disagree("EXT-X-DISCONTINUITY"));
            }
        }
        let discontinuities: BTreeSet<u64> =
            by_number.values().filter(|s| s.discontinuity).map(|s| s.sequence).collect();
        let lowest = playlists.values().min_by_key(|p| p.first()).ok_or(ResumeError::Empty)?;
        let (first, gone_discontinuities) = (lowest.first(), lowest.discontinuity_sequence);
        let agrees = |playlist: &StoredPlaylist| {
            let between = discontinuities.range(first..playlist.first()).count() as u64;
            playlist.discontinuity_sequence == gone_discontinuities + between
        };
        if !playlists.values().all(agrees) {
            return Err(ResumeError::Disagree("EXT-X-DISCONTINUITY-SEQUENCE"));
        }

        // The stream has ended only if each playlist has ENDLIST: its writer may have died between two playlists.
        let ended = playlists.values().all(|playlist| playlist.ended);
        let segments = playlists
            .into_iter()
            .map(|(rung, mut playlist)| {
                let missing = by_number.range(playlist.next()..).map(|(_, segment)| segment);
                let gap = |segment: &SegmentInfo| SegmentInfo {
                    rung: rung.clone(),
                    init: String::new(),
                    bytes: None,
                    ..segment.clone()
                };
                playlist.segments.extend(missing.map(gap).collect::<Vec<_>>());
                (rung, playlist.segments)
            })
            .collect();
        Ok(Self {
            target_duration,
            ended,
            segments,
            gone_discontinuities,
            discontinuities,
            ended_at,
            next_sequence,
            captions: CaptionServices::NONE,
        })
    }

    /// Adds the caption services that the multivariant playlist announced ([`captions`]): they stay announced.
    #[must_use]
    pub fn with_captions(self, captions: CaptionServices) -> Self {
        Self { captions, ..self }
    }

    /// The caption services that were announced.
    pub fn captions(&self) -> CaptionServices {
        self.captions
    }

    /// EXT-X-TARGETDURATION in seconds.
    pub fn target_duration(&self) -> u32 {
        self.target_duration
    }

    /// Whether all playlists have ENDLIST.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Media sequence number of the next segment.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Number of discontinuities so far, listed or not.
    pub fn discontinuities(&self) -> u64 {
        self.gone_discontinuities + self.discontinuities.len() as u64
    }

    /// Wall-clock end of the last segment, by its PROGRAM-DATE-TIME.
    pub fn ended_at(&self) -> WallTime {
        self.ended_at
    }

    /// The renditions.
    pub fn rungs(&self) -> impl Iterator<Item = &RungName> {
        self.segments.keys()
    }

    /// The sessions of the listed segments.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.segments.values().flatten().map(|segment| &segment.session)
    }

    /// The listed segments, by rendition.
    pub(crate) fn segments(&self) -> &BTreeMap<RungName, Vec<SegmentInfo>> {
        &self.segments
    }

    pub(crate) fn gone_discontinuities(&self) -> u64 {
        self.gone_discontinuities
    }

    pub(crate) fn discontinuity_numbers(&self) -> &BTreeSet<u64> {
        &self.discontinuities
    }
}

#[cfg(test)]
mod tests;
