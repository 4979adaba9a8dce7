//! Which requests come from the same viewer: the session that the player names (CMCD `sid`), or else its address and
//! user agent together. Addresses, user agents and session IDs go into a keyed hash and are not kept.
//!
//! How long a viewer counts does not belong here.

use crate::cmcd::Sid;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

/// How long a key is used. After that the caller gives a new random key.
pub const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How many bytes of a user agent tell viewers apart; the rest is ignored, so that a long one costs no more time.
const AGENT_BYTES: usize = 512;

/// The secret that hashes depend on. Random, and never stored or sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    halves: [u64; 2],
}

/// What a request says about its viewer.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    /// The session that the player names. With it the address and the user agent do not matter, so a phone that
    /// changes its network stays one viewer.
    pub sid: Option<&'a Sid>,
    /// The client's address. An IPv4-mapped IPv6 address is the IPv4 address.
    pub address: IpAddr,
    /// The header `User-Agent`, empty if there is none.
    pub agent: &'a [u8],
}

/// One viewer of one stream: a hash under the key of the day. A viewer who watches two streams is two sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(u64);

// === impl Key ===

impl Key {
    /// A key from 16 random bytes of the operating system.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let bytes = u128::from_le_bytes(bytes);
        Self { halves: [bytes as u64, (bytes >> 64) as u64] }
    }

    /// The session of this viewer of this stream.
    pub(crate) fn session(self, stream: &str, viewer: &Viewer<'_>) -> Session {
        let mut hasher = keyed_hasher(self.halves);
        hasher.write_usize(stream.len());
        hasher.write(stream.as_bytes());
        match (viewer.sid, viewer.address.to_canonical()) {
            (Some(sid), _) => {
                hasher.write_u8(b's');
                hasher.write(sid.as_str().as_bytes());
            }
            (None, IpAddr::V4(address)) => {
                hasher.write_u8(b'4');
                hasher.write_u32(address.to_bits());
            }
            (None, IpAddr::V6(address)) => {
                hasher.write_u8(b'6');
                hasher.write_u128(address.to_bits());
            }
        }
        if viewer.sid.is_none() {
            hasher.write(&viewer.agent[..viewer.agent.len().min(AGENT_BYTES)]);
        }
        Session(hasher.finish())
    }
}

/// SipHash-2-4. The successor that the standard library names, `DefaultHasher`, takes no key.
#[expect(deprecated, reason = "the standard library's only hasher that takes a key")]
fn keyed_hasher(key: [u64; 2]) -> impl Hasher {
    std::hash::SipHasher::new_with_keys(key[0], key[1])
}

/// Prints nothing of the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

// === impl Viewer ===

/// Prints nothing of the viewer.
impl fmt::Debug for Viewer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Viewer(..)")
    }
}

// === impl Session ===

impl Session {
    /// The hash. All its bits are alike random to those who do not know the key.
    pub(crate) fn hash(self) -> u64 {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn from_hash(hash: u64) -> Self {
        Self(hash)
    }
}

/// Prints nothing of the session: the same hash in two log lines would tell that they are of the same viewer.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { halves: [1, 2] };

    fn viewer(address: &str, agent: &'static str) -> Viewer<'static> {
        Viewer { sid: None, address: address.parse().unwrap(), agent: agent.as_bytes() }
    }

    fn session(viewer: &Viewer<'_>) -> Session {
        KEY.session("live/a", viewer)
    }

    #[test]
    fn without_a_session_id_address_and_agent_are_the_viewer() {
        let first = session(&viewer("192.0.2.1", "Safari"));
        assert_eq!(session(&viewer("::ffff:192.0.2.1", "Safari")), first);
        assert_ne!(session(&viewer("192.0.2.2", "Safari")), first);
        assert_ne!(session(&viewer("192.0.2.1", "Firefox")), first);
        assert_ne!(session(&viewer("2001:db8::1", "Safari")), first);
    }

    #[test]
    fn a_session_id_beats_the_address() {
        let sids = [Sid::new("one").unwrap(), Sid::new("two").unwrap()];
        let at = |sid, address| session(&Viewer { sid: Some(sid), ..viewer(address, "Safari") });
        assert_eq!(at(&sids[0], "192.0.2.1"), at(&sids[0], "198.51.100.7"));
        assert_ne!(at(&sids[0], "192.0.2.1"), at(&sids[1], "192.0.2.1"));
        assert_ne!(at(&sids[0], "192.0.2.1"), session(&viewer("192.0.2.1", "Safari")));
    }

    #[test]
    fn streams_and_keys_have_sessions_of_their_own() {
        let viewer = viewer("192.0.2.1", "Safari");
        assert_ne!(KEY.session("live/a", &viewer), KEY.session("live/b", &viewer));
        assert_ne!(KEY.session("live/a", &viewer), Key { halves: [1, 3] }.session("live/a", &viewer));
    }

    #[test]
    fn the_end_of_a_long_agent_is_ignored() {
        let agent = [b'a'; AGENT_BYTES + 1];
        let of = |length| session(&Viewer { agent: &agent[..length], ..viewer("192.0.2.1", "") });
        assert_eq!(of(AGENT_BYTES + 1), of(AGENT_BYTES));
        assert_ne!(of(AGENT_BYTES), of(AGENT_BYTES - 1));
    }

    #[test]
    fn debug_output_has_nothing_of_a_viewer() {
        let sid = Sid::new("6e2fb550").unwrap();
        let viewer = Viewer { sid: Some(&sid), ..viewer("192.0.2.1", "Safari") };
        let printed = format!("{viewer:?} {sid:?} {:?} {KEY:?}", session(&viewer));
        assert_eq!(printed, "Viewer(..) Sid(..) Session(..) Key(..)");
    }
}
