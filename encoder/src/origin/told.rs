//! What an encoder tells an edge about a media playlist, beside the playlist: a [`Reloadable`] as the value of one
//! header. An edge holds requests by these values and need not understand the playlist.
//!
//! `last=7, parts=3, open=1, ended=0, target=1000, part=375, hint=s-8.1.m4s`: the fields of an [`Edge`], the target
//! duration and the part target in milliseconds, and the file name in the preload hint. `part` and `hint` are absent
//! where there is none.

use super::cache::Reloadable;
use axum::http::{HeaderName, HeaderValue};
use hls::presentation::Edge;
use std::fmt::Write as _;
use std::time::Duration;

/// The header.
pub(crate) const RELOAD: HeaderName = HeaderName::from_static("encoder-reload");

/// Longest file name of a hint: a session, two numbers, and room.
const MAX_HINT: usize = 160;
/// Longest duration that is believed, in milliseconds.
const MAX_MS: u64 = 60_000;

/// Writes the header's value.
pub(crate) fn write(reload: &Reloadable) -> Option<HeaderValue> {
    let Edge { last_sequence, last_parts, open_parts, ended } = reload.edge;
    let mut text = format!(
        "last={last_sequence}, parts={last_parts}, open={open_parts}, ended={}, target={}",
        u8::from(ended),
        reload.target_duration.as_millis()
    );
    if let Some(part) = reload.part_target {
        let _ = write!(text, ", part={}", part.as_millis());
    }
    if let Some(hint) = &reload.hint {
        let _ = write!(text, ", hint={hint}");
    }
    text.try_into().ok()
}

/// Reads the header's value. `None` if it is not one that [`write`] writes.
pub(crate) fn read(value: &HeaderValue) -> Option<Reloadable> {
    let (mut last, mut parts, mut open, mut ended, mut target, mut part, mut hint) = Default::default();
    for field in value.to_str().ok()?.split(", ") {
        let (name, value) = field.split_once('=')?;
        let slot: &mut Option<u64> = match name {
            "last" => &mut last,
            "parts" => &mut parts,
            "open" => &mut open,
            "ended" => &mut ended,
            "target" => &mut target,
            "part" => &mut part,
            "hint" => {
                hint = Some(value);
                continue;
            }
            // A later version may say more.
            _ => continue,
        };
        *slot = Some(value.parse().ok()?);
    }
    let duration = |ms: Option<u64>| ms.filter(|ms| (1..=MAX_MS).contains(ms)).map(Duration::from_millis);
    Some(Reloadable {
        edge: Edge {
            last_sequence: last?,
            last_parts: parts?.try_into().ok()?,
            open_parts: open?.try_into().ok()?,
            ended: ended? != 0,
        },
        target_duration: duration(target)?,
        part_target: duration(part),
        hint: hint.filter(|hint| is_file(hint)).map(Into::into),
    })
}

/// Whether a hint is the name of a file, and neither a path nor a query: an edge asks for the hinted part unseen.
fn is_file(hint: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_HINT).contains(&hint.len()) && !hint.starts_with('.') && hint.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hint_leads_to_no_other_folder_and_a_hold_is_bounded() {
        let read = |hint: &str| {
            let text = format!("last=7, parts=0, open=0, ended=0, target=1000, hint={hint}");
            read(&HeaderValue::try_from(text).unwrap()).unwrap().hint
        };
        assert_eq!(read("kx-0-8.1.m4s").as_deref(), Some("kx-0-8.1.m4s"));
        for hint in
            ["..", "../x", "..\\..\\x.m4s", ".m4s", "x.m4s?a=b", "x.m4s#", "%2e%2e", "", &"x".repeat(161)]
        {
            assert_eq!(read(hint), None, "{hint}");
        }
        let hour = HeaderValue::from_static("last=7, parts=0, open=0, ended=0, target=3600000");
        assert_eq!(super::read(&hour), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            last_sequence: u64, last_parts: u32, open_parts: u32, ended: bool,
            target in 1..60_000_u64,
            part in proptest::option::of(1..5_000_u64),
            hint in proptest::option::of("[a-z0-9-]{1,40}\\.[0-9]\\.m4s"),
        ) {
            let reload = Reloadable {
                edge: Edge { last_sequence, last_parts, open_parts, ended },
                target_duration: Duration::from_millis(target),
                part_target: part.map(Duration::from_millis),
                hint: hint.map(|hint| hint.as_str().into()),
            };
            prop_assert_eq!(write(&reload).as_ref().and_then(read), Some(reload));
        }

        #[test]
        fn nonsense_is_no_playlist(text in "[ -~]{0,80}") {
            let value = HeaderValue::try_from(text).unwrap();
            if let Some(reload) = read(&value) {
                prop_assert!(reload.target_duration > Duration::ZERO);
            }
        }
    }
}
