//! Blocking playlist reload (rfc8216bis 6.2.5.2): decides which version of a media playlist a request waits for.
//! Pure: the waiting is in [`super::http`], the playlist versions are in [`super::cache`].
//!
//! If segments have no parts, a request for a part is answered when its segment is listed, because viewers get the
//! part's media only then.

use super::cache::Reloadable;
use hls::presentation::Edge;
use std::time::Duration;

/// A request for a segment further ahead of the last one is refused: the client's idea of the stream must be wrong.
const MAX_AHEAD: u64 = 2;

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// Answer with the present version.
    Now,
    /// Hold until the playlist lists the wanted segment or part, or ends.
    Until(RequestedVersion),
}

/// The segment or part that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestedVersion {
    /// The media sequence number.
    pub(super) segment: u64,
    /// The part's index in the segment, from 0. An index past the segment's last part means the first part of the
    /// next segment. `None` means the whole segment.
    pub(super) part: Option<u64>,
}

/// Why directives are refused; the client's fault, so a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDirectives {
    /// Not a decimal integer (4.4.3.8 and 6.2.5).
    #[error("_HLS_msn and _HLS_part are decimal integers below 2^64")]
    NotANumber,
    /// A directive occurs twice; no specification says which one counts.
    #[error("_HLS_msn and _HLS_part may be given once each")]
    Repeated,
    /// A part without the media sequence number of its segment.
    #[error("_HLS_part needs _HLS_msn")]
    PartWithoutSegment,
    /// More than [`MAX_AHEAD`] segments after the last one.
    #[error("_HLS_msn is more than 2 beyond the last segment")]
    TooFarAhead,
    /// Beyond the Advance Part Limit.
    #[error("_HLS_part is too far beyond the last part")]
    PartTooFarAhead,
}

/// Whether a query asks for a version of a playlist.
pub(super) fn has_directives(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|parameter| parameter.starts_with("_HLS_msn=")))
}

/// Decides from the query of a request, without its question mark. Parameter names are compared without
/// percent-decoding, as everywhere in the origin: no player encodes them. All other parameters, with or without
/// `_HLS_`, are ignored; once the stream has ended, all parameters are.
pub(super) fn decide(query: Option<&str>, playlist: &Reloadable) -> Result<Reload, BadDirectives> {
    let edge = playlist.edge;
    let Some(query) = query.filter(|_| !edge.ended) else {
        return Ok(Reload::Now);
    };
    let (mut segment, mut part) = (None, None);
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let directive = match name {
            "_HLS_msn" => &mut segment,
            "_HLS_part" => &mut part,
            _ => continue,
        };
        if directive.replace(decimal_integer(value)?).is_some() {
            return Err(BadDirectives::Repeated);
        }
    }
    match (segment, part) {
        (None, None) => Ok(Reload::Now),
        (None, Some(_)) => Err(BadDirectives::PartWithoutSegment),
        (Some(segment), _) if segment > edge.last_sequence.saturating_add(MAX_AHEAD) => {
            Err(BadDirectives::TooFarAhead)
        }
        (Some(segment), part) => {
            let part = part.filter(|_| playlist.part_target.is_some());
            let limit = u64::from(edge.open_parts) + playlist.part_target.map_or(0, advance_part_limit);
            if segment == edge.last_sequence.saturating_add(1) && part.is_some_and(|part| part >= limit) {
                return Err(BadDirectives::PartTooFarAhead);
            }
            let wanted = RequestedVersion { segment, part };
            Ok(if is_answered(wanted, edge) { Reload::Now } else { Reload::Until(wanted) })
        }
    }
}

/// The Advance Part Limit (6.2.5.2): how many parts after the last one a client may ask for.
fn advance_part_limit(part_target: Duration) -> u64 {
    let target_ms = u64::try_from(part_target.as_millis()).unwrap_or(u64::MAX).max(1);
    if target_ms < 1_000 { 3_000 / target_ms } else { 3 }
}

/// Whether a playlist that ends at `edge` satisfies the request.
pub(super) fn is_answered(wanted: RequestedVersion, edge: Edge) -> bool {
    let RequestedVersion { segment, part } = wanted;
    if edge.ended || segment < edge.last_sequence {
        return true;
    }
    if segment == edge.last_sequence {
        // An index past the last part of a complete segment means the first part of the next segment.
        return part.is_none_or(|part| part < edge.last_parts.into() || edge.open_parts > 0);
    }
    segment == edge.last_sequence.saturating_add(1) && part.is_some_and(|part| part < edge.open_parts.into())
}

/// A decimal integer (rfc8216bis 4.2): digits only, whereas `parse` would accept a sign.
fn decimal_integer(text: &str) -> Result<u64, BadDirectives> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(BadDirectives::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: Edge = Edge { last_sequence: 7, last_parts: 0, open_parts: 0, ended: false };

    /// A playlist whose segments have no parts.
    fn whole(edge: Edge) -> Reloadable {
        Reloadable { edge, target_duration: Duration::from_secs(1), part_target: None, hint: None }
    }

    /// A playlist with three parts in segment 7 and one part of segment 8.
    fn divided() -> Reloadable {
        let edge = Edge { last_parts: 3, open_parts: 1, ..EDGE };
        Reloadable { part_target: Some(Duration::from_millis(375)), ..whole(edge) }
    }

    fn until(segment: u64, part: Option<u64>) -> Result<Reload, BadDirectives> {
        Ok(Reload::Until(RequestedVersion { segment, part }))
    }

    #[test]
    fn each_rule_by_its_query() {
        use BadDirectives::*;
        let cases = [
            ("", Ok(Reload::Now)),
            ("a=b&_HLS_skip=YES&_HLS_future=x&&=&token", Ok(Reload::Now)),
            ("_HLS_msn=0", Ok(Reload::Now)),
            ("_HLS_msn=7", Ok(Reload::Now)),
            ("_HLS_msn=8", until(8, None)),
            ("_HLS_msn=9", until(9, None)),
            ("_HLS_msn=10", Err(TooFarAhead)),
            ("_HLS_msn=18446744073709551615", Err(TooFarAhead)),
            ("_HLS_msn=18446744073709551616", Err(NotANumber)),
            ("x=1&_HLS_part=3&_HLS_msn=8&y", until(8, None)),
            ("_HLS_msn=7&_HLS_part=0", Ok(Reload::Now)),
            ("_HLS_part=0", Err(PartWithoutSegment)),
            ("_HLS_msn", Err(NotANumber)),
            ("_HLS_msn=", Err(NotANumber)),
            ("_HLS_msn=%38", Err(NotANumber)),
            ("_HLS_msn=+8", Err(NotANumber)),
            ("_HLS_msn=-1", Err(NotANumber)),
            ("_HLS_msn=8.0", Err(NotANumber)),
            ("_HLS_msn=8&_HLS_part=x", Err(NotANumber)),
            ("_HLS_msn=8&_HLS_msn=8", Err(Repeated)),
        ];
        for (query, expected) in cases {
            assert_eq!(decide(Some(query), &whole(EDGE)), expected, "{query}");
            let ended = Edge { ended: true, ..EDGE };
            assert_eq!(decide(Some(query), &whole(ended)), Ok(Reload::Now), "{query} after the end");
        }
        assert_eq!(decide(None, &whole(EDGE)), Ok(Reload::Now));
    }

    #[test]
    fn each_rule_of_parts_by_its_query() {
        use BadDirectives::*;
        let cases = [
            ("_HLS_msn=7", Ok(Reload::Now)),
            ("_HLS_msn=7&_HLS_part=2", Ok(Reload::Now)),
            // Segment 7 has no fourth part: the first part of segment 8 is meant, which is listed.
            ("_HLS_msn=7&_HLS_part=3", Ok(Reload::Now)),
            ("_HLS_msn=0&_HLS_part=99", Ok(Reload::Now)),
            ("_HLS_msn=8", until(8, None)),
            ("_HLS_msn=8&_HLS_part=0", Ok(Reload::Now)),
            ("_HLS_msn=8&_HLS_part=1", until(8, Some(1))),
            // The limit of 3 s is 8 parts of 375 ms.
            ("_HLS_msn=8&_HLS_part=8", until(8, Some(8))),
            ("_HLS_msn=8&_HLS_part=9", Err(PartTooFarAhead)),
            ("_HLS_msn=9&_HLS_part=0", until(9, Some(0))),
            ("_HLS_msn=10&_HLS_part=0", Err(TooFarAhead)),
            ("_HLS_part=1", Err(PartWithoutSegment)),
        ];
        for (query, expected) in cases {
            assert_eq!(decide(Some(query), &divided()), expected, "{query}");
        }
        let fresh = Reloadable { edge: Edge { open_parts: 0, ..divided().edge }, ..divided() };
        assert_eq!(decide(Some("_HLS_msn=7&_HLS_part=3"), &fresh), until(7, Some(3)), "until 8 has a part");
    }

    #[test]
    fn a_part_that_a_shorter_segment_does_not_have_is_answered_by_the_next_segments_first() {
        let wanted = RequestedVersion { segment: 8, part: Some(2) };
        let at = |last_sequence, last_parts, open_parts| Edge {
            last_sequence,
            last_parts,
            open_parts,
            ended: false,
        };
        assert!(!is_answered(wanted, at(7, 3, 2)));
        assert!(!is_answered(wanted, at(8, 2, 0)), "segment 8 ended with two parts");
        assert!(is_answered(wanted, at(8, 2, 1)));
        assert!(is_answered(wanted, at(8, 3, 0)));
    }

    #[test]
    fn the_end_of_the_numbers_is_no_special_case() {
        let edge = Edge { last_sequence: u64::MAX - 1, ..EDGE };
        assert_eq!(decide(Some("_HLS_msn=18446744073709551615"), &whole(edge)), until(u64::MAX, None));
    }
}
