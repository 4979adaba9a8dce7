//! Media published since the last keyframe, kept so that a new worker can start immediately instead of at the next
//! keyframe, which may be ten seconds away.

use media::{Media, SoundTrackId, UNIT_OVERHEAD};

/// Maximum coded bytes kept: ten seconds at 12 Mbit/s. A longer GOP is discarded; the next worker then waits for the
/// next keyframe.
const MAX_BYTES: usize = 15 << 20;

/// Media since the last video keyframe, including that keyframe.
#[derive(Debug, Default)]
pub(super) struct Gop {
    media: Vec<Media>,
    bytes: usize,
    overflowed: bool,
}

impl Gop {
    /// Adds published media. A video keyframe replaces everything kept so far.
    pub(super) fn push(&mut self, media: &Media) {
        let size = match media {
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => return,
            Media::Video(unit) => {
                if unit.key {
                    self.clear();
                }
                unit.data.len()
            }
            Media::Audio(unit) | Media::Track(_, unit) => unit.data.len(),
        };
        let starts = matches!(media, Media::Video(unit) if unit.key);
        if self.overflowed || (self.media.is_empty() && !starts) {
            return;
        }
        self.bytes += size + UNIT_OVERHEAD;
        if self.bytes > MAX_BYTES {
            self.clear();
            self.overflowed = true;
            return;
        }
        self.media.push(media.clone());
    }

    /// Discards everything kept; keeping resumes at the next keyframe.
    pub(super) fn clear(&mut self) {
        self.media.clear();
        self.bytes = 0;
        self.overflowed = false;
    }

    /// Discards the kept audio of the main sound (`None`) or another sound track, because its format is no longer in
    /// force.
    pub(super) fn forget_audio(&mut self, track: Option<SoundTrackId>) {
        let bytes = &mut self.bytes;
        self.media.retain(|media| {
            let unit = match media {
                Media::Audio(unit) if track.is_none() => unit,
                Media::Track(id, unit) if track == Some(*id) => unit,
                Media::Audio(_)
                | Media::Track(..)
                | Media::Video(_)
                | Media::VideoConfig(_)
                | Media::AudioConfig(_)
                | Media::TrackConfig(..) => return true,
            };
            *bytes -= unit.data.len() + UNIT_OVERHEAD;
            false
        });
    }

    /// The kept media, starting with the keyframe; empty when no keyframe is kept.
    pub(super) fn since_keyframe(&self) -> &[Media] {
        &self.media
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::unit_at;

    #[test]
    fn only_the_last_group_is_kept() {
        let mut gop = Gop::default();
        for ms in (0..5000).step_by(40) {
            gop.push(&Media::Video(unit_at(ms, ms % 2000 == 0)));
        }
        assert_eq!(gop.since_keyframe().len(), 25);
    }

    #[test]
    fn without_a_keyframe_there_is_nothing_to_start_from() {
        let mut gop = Gop::default();
        gop.push(&Media::Audio(unit_at(0, true)));
        gop.push(&Media::Video(unit_at(0, false)));
        assert!(gop.since_keyframe().is_empty());
    }

    #[test]
    fn only_the_audio_whose_format_is_no_longer_in_force_is_forgotten() {
        let track = |number| SoundTrackId::new(number).unwrap();
        let mut gop = Gop::default();
        gop.push(&Media::Video(unit_at(0, true)));
        gop.push(&Media::Audio(unit_at(0, true)));
        gop.push(&Media::Track(track(1), unit_at(0, true)));
        gop.push(&Media::Track(track(2), unit_at(0, true)));
        gop.forget_audio(Some(track(1)));
        assert!(
            matches!(gop.since_keyframe(), [Media::Video(_), Media::Audio(_), Media::Track(id, _)] if *id == track(2))
        );
        gop.forget_audio(None);
        assert!(matches!(gop.since_keyframe(), [Media::Video(_), Media::Track(..)]));
        gop.forget_audio(Some(track(2)));
        assert_eq!(gop.bytes, unit_at(0, true).data.len() + UNIT_OVERHEAD);
    }

    #[test]
    fn an_endless_group_is_let_go() {
        let mut gop = Gop::default();
        let mut unit = unit_at(0, true);
        unit.data = vec![0; 1 << 20].into();
        gop.push(&Media::Video(unit.clone()));
        unit.key = false;
        for _ in 0..100 {
            gop.push(&Media::Video(unit.clone()));
            assert!(gop.bytes <= MAX_BYTES);
        }
        assert!(gop.since_keyframe().is_empty());
        unit.key = true;
        gop.push(&Media::Video(unit));
        assert_eq!(gop.since_keyframe().len(), 1);
    }
}
