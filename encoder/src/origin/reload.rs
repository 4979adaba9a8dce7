//! Blocking playlist reload (rfc8216bis 6.2.5.2): what a request for a media playlist waits for. Pure: the waiting is in
//! [`super::http`], what is waited on in [`super::library`].
//!
//! Playlists list whole segments only. A request for a part of a segment is answered when the segment is listed, which
//! is when its parts exist for viewers.

use hls::presentation::Edge;

/// A segment further ahead than this is not waited for: the client knows less about the stream than it thinks.
const MAX_AHEAD: u64 = 2;

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// Answered with what is there.
    Now,
    /// Held until this media sequence number is listed, or nothing follows.
    Until(u64),
}

/// Directives that are refused; the client's fault, and no retry helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadDirectives {
    /// 4.4.3.8 and 6.2.5: a decimal integer.
    #[error("_HLS_msn and _HLS_part are decimal integers below 2^64")]
    NotANumber,
    /// Which of both would count is not said anywhere.
    #[error("_HLS_msn and _HLS_part may be given once each")]
    Repeated,
    /// A part of which segment?
    #[error("_HLS_part needs _HLS_msn")]
    PartWithoutSegment,
    /// More than [`MAX_AHEAD`] beyond the last segment.
    #[error("_HLS_msn is more than 2 beyond the last segment")]
    TooFarAhead,
}

/// Decides from a request's query, without its question mark. Names are compared as they stand, as everywhere in the
/// origin: no player percent-encodes them. All other parameters, `_HLS_` or not, are ignored, and everything is once
/// the stream has ended.
pub(super) fn decide(query: Option<&str>, edge: Edge) -> Result<Reload, BadDirectives> {
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
        (Some(segment), _) if is_answered(segment, edge) => Ok(Reload::Now),
        (Some(segment), _) => Ok(Reload::Until(segment)),
    }
}

/// Whether a playlist that ends there is what a request for the segment waits for.
pub(super) fn is_answered(segment: u64, edge: Edge) -> bool {
    edge.ended || segment <= edge.last_sequence
}

/// rfc8216bis 4.2: digits alone, where `parse` would take a sign as well.
fn decimal_integer(text: &str) -> Result<u64, BadDirectives> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(BadDirectives::NotANumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: Edge = Edge { last_sequence: 7, ended: false };

    #[test]
    fn each_rule_by_its_query() {
        use BadDirectives::*;
        let cases = [
            ("", Ok(Reload::Now)),
            ("a=b&_HLS_skip=YES&_HLS_future=x&&=&token", Ok(Reload::Now)),
            ("_HLS_msn=0", Ok(Reload::Now)),
            ("_HLS_msn=7", Ok(Reload::Now)),
            ("_HLS_msn=8", Ok(Reload::Until(8))),
            ("_HLS_msn=9", Ok(Reload::Until(9))),
            ("_HLS_msn=10", Err(TooFarAhead)),
            ("_HLS_msn=18446744073709551615", Err(TooFarAhead)),
            ("_HLS_msn=18446744073709551616", Err(NotANumber)),
            ("x=1&_HLS_part=3&_HLS_msn=8&y", Ok(Reload::Until(8))),
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
            assert_eq!(decide(Some(query), LIVE), expected, "{query}");
            let ended = Edge { ended: true, ..LIVE };
            assert_eq!(decide(Some(query), ended), Ok(Reload::Now), "{query} after the end");
        }
        assert_eq!(decide(None, LIVE), Ok(Reload::Now));
    }

    #[test]
    fn the_end_of_the_numbers_is_no_special_case() {
        let edge = Edge { last_sequence: u64::MAX - 1, ended: false };
        assert_eq!(decide(Some("_HLS_msn=18446744073709551615"), edge), Ok(Reload::Until(u64::MAX)));
    }
}
