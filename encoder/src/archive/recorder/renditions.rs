//! The renditions of an archive, and which renditions get an MP4.

use super::ArchiveSettings;
use hls::{RungName, Track};
use media::captions::CaptionServices;

/// The renditions of an archive.
#[derive(Debug, Default)]
pub(super) struct ArchiveRenditions {
    /// Renditions from the next session on.
    current: Vec<Track>,
    /// All renditions of the archive so far: video, then audio.
    all: Vec<Track>,
    /// Rungs that get an MP4.
    recordings: Vec<RungName>,
}

impl ArchiveRenditions {
    /// The renditions of an archive that another process began.
    pub(super) fn resume(tracks: Vec<Track>, recordings: Vec<RungName>) -> Self {
        Self { current: tracks.clone(), all: tracks, recordings }
    }

    /// Sets the renditions from the next epoch on. Caption services of the present epoch are added at once: they may be
    /// seen after its start.
    pub(super) fn set_current(&mut self, tracks: &[Track]) {
        self.current = tracks.to_vec();
        for known in &mut self.all {
            known.add_captions(captions_of(tracks));
        }
    }

    /// All caption services so far.
    pub(super) fn captions(&self) -> CaptionServices {
        captions_of(&self.all)
    }

    /// An epoch begins with the current renditions.
    pub(super) fn begin_epoch(&mut self, settings: &ArchiveSettings) {
        for track in &self.current {
            match self.all.iter_mut().find(|known| known.rung == track.rung) {
                Some(known) => {
                    let captions = known.captions();
                    known.clone_from(track);
                    known.add_captions(captions);
                }
                None => self.all.push(track.clone()),
            }
        }
        self.all.sort_by_key(Track::is_audio);
        if self.recordings.is_empty() && settings.mp4 {
            self.recordings = choose(settings.recordings.as_deref(), &self.current);
        }
    }

    pub(super) fn current(&self) -> &[Track] {
        &self.current
    }

    pub(super) fn all(&self) -> &[Track] {
        &self.all
    }

    pub(super) fn recordings(&self) -> &[RungName] {
        &self.recordings
    }

    pub(super) fn is_audio(&self, rung: &RungName) -> bool {
        self.current.iter().any(|track| track.rung == *rung && track.is_audio())
    }

    pub(super) fn timescale(&self, rung: &RungName) -> u32 {
        let track = self.current.iter().find(|track| track.rung == *rung);
        track.map_or(hls::fmp4::VIDEO_TIMESCALE, Track::timescale)
    }

    /// Audio goes into every recording.
    pub(super) fn is_recorded(&self, rung: &RungName) -> bool {
        self.recordings.contains(rung) || !self.recordings.is_empty() && self.is_audio(rung)
    }

    /// The I-frame playlist for seek bars is made from the smallest video rendition.
    pub(super) fn is_shown(&self, rung: &RungName) -> bool {
        let mut videos = self.current.iter().rev().filter(|track| !track.is_audio());
        videos.next().is_some_and(|track| track.rung == *rung)
    }
}

fn captions_of(tracks: &[Track]) -> CaptionServices {
    tracks.iter().fold(CaptionServices::NONE, |all, track| all.union(track.captions()))
}

/// The rungs to record: of the requested rungs those that exist; without a request the first rung, which is the
/// largest.
fn choose(asked: Option<&[RungName]>, tracks: &[Track]) -> Vec<RungName> {
    let there = |rung: &&RungName| tracks.iter().any(|track| track.rung == **rung);
    match asked {
        Some(asked) => asked.iter().filter(there).cloned().collect(),
        None => tracks.first().map(|track| track.rung.clone()).into_iter().collect(),
    }
}
