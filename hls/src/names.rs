//! Names that appear in URLs, object names and playlists, validated on construction.

use media::{MAX_NAME_LEN, is_valid_name};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// A name was empty, too long, or had a character outside `A-Za-z0-9_-`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to {MAX_NAME_LEN} characters of A-Z a-z 0-9 _ -")]
pub struct InvalidName;

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates the name.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                if is_valid_name(name) { Ok(Self(name.into())) } else { Err(InvalidName) }
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name! {
    /// The folder of one rendition: `720p`, `480p`, `source`, `audio`, `audio_2`.
    RungName
}

checked_name! {
    /// Distinguishes the objects written between two discontinuities from all earlier and later ones, so that no object
    /// name is ever used twice. Every epoch has its own; see [`SessionId::from_start`].
    SessionId
}

impl SessionId {
    /// From the epoch's start in microseconds since 1970 and the epoch's number within the process. Base 36 keeps names
    /// short; names sort by age for the next decades.
    pub fn from_start(unix_micros: i64, epoch: u32) -> Self {
        let mut n = u64::try_from(unix_micros / 1000).unwrap_or(0);
        let mut digits = Vec::new();
        loop {
            digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize]);
            n /= 36;
            if n == 0 {
                break;
            }
        }
        digits.reverse();
        let stamp: String = digits.into_iter().map(char::from).collect();
        Self(format!("{stamp}-{epoch}").into())
    }
}

impl RungName {
    /// The rung of the main audio rendition.
    pub fn audio() -> Self {
        Self("audio".into())
    }

    /// The rung of another audio rendition, by its position among the publisher's sound tracks, 2 or higher.
    pub fn audio_track(position: u16) -> Self {
        Self(format!("audio_{position}").into())
    }

    /// The rung that passes the published video through.
    pub fn source() -> Self {
        Self("source".into())
    }
}

/// Position of an audio rendition among the publisher's sound tracks, by its rung's name: 1 for [`RungName::audio`];
/// `None` for other renditions. See [`RungName::audio_track`].
pub fn audio_position(rung: &str) -> Option<u16> {
    match rung.strip_prefix("audio")? {
        "" => Some(1),
        rest => {
            let number = rest.strip_prefix('_')?;
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
        }
    }
}

/// Whether a rung's name is that of an audio rendition.
pub fn is_audio(rung: &str) -> bool {
    audio_position(rung).is_some()
}

/// `{session}-init.mp4`
pub fn init_name(session: &SessionId) -> String {
    format!("{session}-init.mp4")
}

/// `{session}-{seq}.m4s`
pub fn segment_name(session: &SessionId, sequence: u64) -> String {
    format!("{session}-{sequence}.m4s")
}

/// `{session}-{seq}.{part}.m4s`
pub fn part_name(session: &SessionId, sequence: u64, part: u32) -> String {
    format!("{session}-{sequence}.{part}.m4s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_climb_or_hide_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a.b", "a\0b", &"x".repeat(65)] {
            assert_eq!(RungName::new(bad), Err(InvalidName), "{bad:?}");
        }
        assert!(RungName::new("720p").is_ok());
        assert!(RungName::new(&"x".repeat(64)).is_ok());
    }

    #[test]
    fn audio_renditions_are_known_by_their_names() {
        for rung in [RungName::audio(), RungName::audio_track(2), RungName::audio_track(256)] {
            assert!(is_valid_name(rung.as_str()) && is_audio(rung.as_str()), "{rung}");
        }
        assert_eq!((audio_position("audio"), audio_position("audio_256")), (Some(1), Some(256)));
        for other in ["", "720p", "source", "audio_", "audio2", "audio_x", "audio_2p", "audio_70000", "Audio"]
        {
            assert!(!is_audio(other), "{other}");
        }
    }

    #[test]
    fn sessions_sort_by_age_and_are_valid_names() {
        let a = SessionId::from_start(1_800_000_000_000_000, 0);
        let b = SessionId::from_start(1_800_000_100_000_000, 0);
        assert!(a < b);
        assert!(is_valid_name(a.as_str()));
    }
}
