//! How long a shared cache (a CDN) may keep an answer: the values of Cache-Control, by the advice of rfc8216bis,
//! appendix B.1. Pure; the answers themselves are made in [`super::http`].
//!
//! | answer | may be kept for |
//! |---|---|
//! | segment, part, init segment | ever: their names are never reused |
//! | media playlist, to a request with `_HLS_msn` | 6 target durations: the answer to that URL is always a right one |
//! | media playlist, to any other request | half a target duration, at least one second |
//! | multivariant playlist, picture, 404 to a playlist | one second |
//! | 404 to media, 503, 403 | not at all |
//!
//! A second is the least that Cache-Control can say. A target duration of one second would make it half a second; a
//! player of such a playlist is three target durations from the end, and a low-latency player continues with
//! `_HLS_msn` at once. Media that is missing now may exist a moment later, under a name that anybody can guess: a cache
//! that kept the 404 would keep the media from its viewers.

use super::cache::CachedObject;
use axum::http::{HeaderName, HeaderValue, header};
use std::time::Duration;
use store::Caching;

/// Not to be kept at all.
pub(super) const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// To be kept for a moment, so that a shared cache asks once for all its viewers.
pub(super) const BRIEFLY: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=1"));

/// Target durations for which the answer to a blocking request may be kept.
const BLOCKING_TARGET_DURATIONS: u64 = 6;

/// The kind of request that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// For an object, or for the newest version of a playlist.
    Plainly,
    /// For a version of a playlist that lists a segment or part (`_HLS_msn`).
    ForVersion,
}

/// The value of Cache-Control for an object.
pub(super) fn cache_control(stored: &CachedObject, asked: Asked) -> HeaderValue {
    match (stored.object.caching, &stored.reload) {
        (Caching::Immutable, _) => HeaderValue::from_static(Caching::Immutable.cache_control()),
        (Caching::None, None) => BRIEFLY.1,
        (Caching::None, Some(reload)) => {
            let seconds = match asked {
                // After the end, directives are ignored, and the name may be that of another stream soon.
                Asked::ForVersion if !reload.edge.ended => {
                    BLOCKING_TARGET_DURATIONS * whole_seconds(reload.target_duration)
                }
                Asked::ForVersion | Asked::Plainly => whole_seconds(reload.target_duration / 2),
            };
            HeaderValue::try_from(format!("public, max-age={seconds}")).unwrap_or(NO_STORE.1)
        }
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Reloadable;
    use hls::presentation::Edge;
    use store::{Object, content_type};

    fn playlist(reload: Option<(u64, bool)>) -> CachedObject {
        let reload = reload.map(|(target_duration, ended)| Reloadable {
            edge: Edge { last_sequence: 7, last_parts: 0, open_parts: 0, ended },
            target_duration: Duration::from_secs(target_duration),
            part_target: None,
            hint: None,
        });
        let object =
            Object { body: "#EXTM3U\n".into(), content_type: content_type::PLAYLIST, caching: Caching::None };
        CachedObject::new(object, reload)
    }

    #[test]
    fn each_answer_may_be_kept_as_long_as_it_is_right() {
        let cases = [
            (None, Asked::Plainly, "public, max-age=1"),
            (Some((1, false)), Asked::Plainly, "public, max-age=1"),
            (Some((2, false)), Asked::Plainly, "public, max-age=1"),
            (Some((3, false)), Asked::Plainly, "public, max-age=1"),
            (Some((4, false)), Asked::Plainly, "public, max-age=2"),
            (Some((1, false)), Asked::ForVersion, "public, max-age=6"),
            (Some((3, false)), Asked::ForVersion, "public, max-age=18"),
            (Some((3, true)), Asked::ForVersion, "public, max-age=1"),
        ];
        for (reload, asked, expected) in cases {
            assert_eq!(cache_control(&playlist(reload), asked), expected, "{reload:?} {asked:?}");
        }
    }
}
