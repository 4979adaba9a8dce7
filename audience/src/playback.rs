//! How well playback goes, as players say it: samples for counters and histograms. Nothing is kept of a viewer but, for
//! a moment, that it has stalled.
//!
//! Each request gives its own samples, so viewers who send more requests weigh more, and players that say nothing are
//! not there at all.
//!
//! Metrics and their buckets do not belong here.

use crate::cmcd::{Cmcd, ObjectType};
use crate::identity::Session;
use std::fmt;
use std::time::{Duration, Instant};

/// Requests of one session that tell of a stall within this time tell of the same stall: players with separate sound
/// say it for each kind of object, and every kind is requested within a few seconds.
pub const STALL_SPACING: Duration = Duration::from_secs(2);
/// Places for sessions that have just stalled. When two stalled sessions share a place, the second takes it, and a
/// stall of the first may count twice.
const STALL_PLACES: usize = 4096;

/// One value for a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// Playback has stalled once more (`bs`).
    Stall,
    /// Media in the player's buffer in seconds (`bl`), of a request for media: 0 to 86,400.
    BufferSeconds(f64),
    /// Bitrate of the requested pictures in kbit/s (`br`): 1 to 1,000,000,000.
    BitrateKbps(f64),
    /// Delay from the live edge to the screen in seconds (`ltc`): 0 to 86,400.
    LatencySeconds(f64),
}

/// Makes samples of requests. The memory of stalls is 128 KiB at most, however many viewers there are.
pub struct Playback {
    /// The session that stalled last in each place, and when. Empty until the first stall.
    stalls: Vec<Option<(Session, Instant)>>,
}

// === impl Playback ===

impl Playback {
    /// No session has stalled yet.
    pub fn new() -> Self {
        Self { stalls: Vec::new() }
    }

    /// The samples of a request.
    pub fn heard(
        &mut self,
        session: Session,
        cmcd: &Cmcd,
        now: Instant,
    ) -> impl Iterator<Item = Sample> + use<> {
        let stall = cmcd.starved && self.is_new_stall(session, now);
        let seconds = |ms: u32| f64::from(ms) / 1e3;
        let buffer_ms = cmcd.buffer_ms.filter(|_| cmcd.object.is_none_or(is_media));
        let bitrate_kbps = cmcd.bitrate_kbps.filter(|_| cmcd.object.is_none_or(has_pictures));
        let samples = [
            stall.then_some(Sample::Stall),
            buffer_ms.map(|ms| Sample::BufferSeconds(seconds(ms))),
            bitrate_kbps.map(|kbps| Sample::BitrateKbps(kbps.into())),
            cmcd.latency_ms.map(|ms| Sample::LatencySeconds(seconds(ms))),
        ];
        samples.into_iter().flatten()
    }

    /// Whether this session has not told of a stall just before.
    fn is_new_stall(&mut self, session: Session, now: Instant) -> bool {
        self.stalls.resize(STALL_PLACES, None);
        let place = &mut self.stalls[session.hash() as usize % STALL_PLACES];
        let same = |(stalled, when): (Session, Instant)| {
            stalled == session && now.saturating_duration_since(when) < STALL_SPACING
        };
        if place.is_some_and(same) {
            return false;
        }
        *place = Some((session, now));
        true
    }
}

impl Default for Playback {
    fn default() -> Self {
        Self::new()
    }
}

/// Prints no session.
impl fmt::Debug for Playback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Playback(..)")
    }
}

/// The buffer that a request for a playlist or a key states is of no defined kind of media.
fn is_media(object: ObjectType) -> bool {
    match object {
        ObjectType::Audio | ObjectType::Video | ObjectType::Muxed => true,
        ObjectType::Playlist | ObjectType::Init | ObjectType::Other => false,
    }
}

fn has_pictures(object: ObjectType) -> bool {
    match object {
        ObjectType::Video | ObjectType::Muxed => true,
        ObjectType::Playlist | ObjectType::Audio | ObjectType::Init | ObjectType::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(playback: &mut Playback, session: u64, members: &str, now: Instant) -> Vec<Sample> {
        let cmcd = Cmcd::read(None, [members.as_bytes()]);
        playback.heard(Session::from_hash(session), &cmcd, now).collect()
    }

    #[test]
    fn a_request_gives_a_sample_of_each_value() {
        let (mut playback, now) = (Playback::new(), Instant::now());
        let all = [
            Sample::Stall,
            Sample::BufferSeconds(2.1),
            Sample::BitrateKbps(3200.0),
            Sample::LatencySeconds(4.25),
        ];
        assert_eq!(samples(&mut playback, 1, "bl=2100,br=3200,bs,ltc=4250,ot=v", now), all);
        assert_eq!(samples(&mut playback, 2, "bl=2100,br=3200,bs,ltc=4250", now), all);
        assert_eq!(samples(&mut playback, 1, "", now), []);
    }

    #[test]
    fn bitrates_are_of_pictures_and_buffers_of_media() {
        let (mut playback, now) = (Playback::new(), Instant::now());
        let mut of = |members| samples(&mut playback, 1, members, now);
        assert_eq!(of("bl=1000,br=128,ot=a"), [Sample::BufferSeconds(1.0)]);
        assert_eq!(of("bl=1000,br=128,ot=i"), []);
        assert_eq!(of("bl=1000,ot=m"), []);
    }

    #[test]
    fn a_stall_counts_once_for_each_session() {
        let (mut playback, now) = (Playback::new(), Instant::now());
        let mut stalls = |session, now| samples(&mut playback, session, "bs", now).len();
        assert_eq!(stalls(1, now), 1);
        assert_eq!(stalls(1, now + Duration::from_secs(1)), 0);
        assert_eq!(stalls(2, now + Duration::from_secs(1)), 1);
        assert_eq!(stalls(1, now + STALL_SPACING), 1);
        assert_eq!(stalls(1 + STALL_PLACES as u64, now + STALL_SPACING), 1, "takes the place");
    }
}
