//! The EVENT playlists of an archive: what they list, and which one is written next.

use super::super::contents::Contents;
use super::super::names::ArchivePlace;
use super::super::page::PageEntry;
use super::lane::RecordingLane;
use hls::ledger::Settled;
use hls::{ArchivePlaylist, RungName, Track, archive_multivariant};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// Playlists are rewritten one second later for each 20,000 bytes of their text: so playlists add a tenth of a
/// broadcast's bytes at most, and far less after hours.
const BYTES_A_SECOND: u64 = 20_000;

/// The playlists of an archive while its broadcast runs.
#[derive(Debug)]
pub(super) struct EventPlaylists {
    /// EXT-X-TARGETDURATION in seconds.
    target_duration: u32,
    /// Interval between two versions of a playlist while the playlist is short.
    every: Duration,
    lanes: BTreeMap<RungName, RecordingLane>,
    due: Duration,
    /// Playlists still to be written in this round.
    round: VecDeque<RungName>,
    /// The multivariant playlist that the store has.
    multivariant: Option<String>,
    /// Whether the multivariant playlist may have changed in this round.
    multivariant_due: bool,
}

/// A playlist to be written, with its text.
#[derive(Debug)]
pub(super) enum EventPlaylist {
    Media(RungName, String),
    Multivariant(String),
}

impl EventPlaylists {
    pub(super) fn new(target_duration: u32, every: Duration) -> Self {
        Self {
            target_duration,
            every,
            lanes: BTreeMap::new(),
            due: Duration::ZERO,
            round: VecDeque::new(),
            multivariant: None,
            multivariant_due: false,
        }
    }

    /// Continues the playlists of an archive that another process began.
    pub(super) fn resume(archive: Contents, target_duration: u32, every: Duration) -> Self {
        let mut all = Self::new(target_duration, every);
        let mut playlists = archive.playlists();
        for (rung, entries) in archive.lanes {
            let Some(playlist) = playlists.remove(&rung) else { continue };
            let last = entries.last().map(|entry| entry.info.clone());
            let lane =
                RecordingLane { waiting: VecDeque::new(), playlist, last, changed: true, written: false };
            all.lanes.insert(rung, lane);
        }
        all
    }

    fn lane(&mut self, rung: &RungName) -> &mut RecordingLane {
        let target_duration = self.target_duration;
        self.lanes.entry(rung.clone()).or_insert_with(|| RecordingLane {
            waiting: VecDeque::new(),
            playlist: ArchivePlaylist::new(ArchivePlace::way_to_media(rung), target_duration),
            last: None,
            changed: false,
            written: false,
        })
    }

    /// Adds a segment whose final fate is not known yet.
    pub(super) fn add(&mut self, entry: PageEntry) {
        self.lane(&entry.info.rung.clone()).waiting.push_back(entry);
    }

    /// Lists a segment, readable or as a gap, and those before it as gaps. Returns their entries for the index.
    pub(super) fn settled(&mut self, settled: &Settled, discontinuities: &HashSet<u64>) -> Vec<PageEntry> {
        let Settled { rung, sequence, stored } = settled;
        let Some(lane) = self.lanes.get_mut(rung) else { return Vec::new() };
        let mut entries = Vec::new();
        while lane.waiting.front().is_some_and(|entry| entry.info.sequence <= *sequence) {
            let Some(entry) = lane.waiting.pop_front() else { break };
            let stored = *stored && entry.info.sequence == *sequence;
            entries.extend(lane.list(entry, stored, discontinuities));
        }
        entries
    }

    /// Lists everything that is not settled as gaps. Returns the entries for the index.
    pub(super) fn end(&mut self, discontinuities: &HashSet<u64>) -> Vec<PageEntry> {
        let mut entries = Vec::new();
        for lane in self.lanes.values_mut() {
            for entry in std::mem::take(&mut lane.waiting) {
                entries.extend(lane.list(entry, false, discontinuities));
            }
        }
        entries
    }

    /// The next playlist to write, if one is due: media playlists one after the other, then the multivariant playlist
    /// that names them. `tracks` are all renditions of the archive.
    pub(super) fn start(&mut self, tracks: &[Track], now: Duration) -> Option<EventPlaylist> {
        if self.round.is_empty() && now >= self.due {
            self.round =
                self.lanes.iter().filter(|(_, lane)| lane.changed).map(|(rung, _)| rung.clone()).collect();
            self.due = now + self.every;
            self.multivariant_due |= !self.round.is_empty();
        }
        while let Some(rung) = self.round.pop_front() {
            let Some(lane) = self.lanes.get_mut(&rung) else { continue };
            let Some(text) = lane.playlist.render(false).filter(|_| lane.changed) else { continue };
            lane.changed = false;
            self.due += Duration::from_secs(text.len() as u64 / BYTES_A_SECOND);
            return Some(EventPlaylist::Media(rung, text));
        }
        // The multivariant playlist names no rendition whose playlist the store lacks.
        let ready = |lane: &RecordingLane| lane.written || lane.playlist.next_sequence().is_none();
        if !self.multivariant_due || !self.lanes.values().all(ready) {
            return None;
        }
        self.multivariant_due = false;
        let tracks = tracks.iter();
        let listed: Vec<_> =
            tracks.filter_map(|track| Some((track, &self.lanes.get(&track.rung)?.playlist))).collect();
        let text = archive_multivariant(&listed, None)?;
        (self.multivariant.as_ref() != Some(&text)).then_some(EventPlaylist::Multivariant(text))
    }

    /// The store has a version of a rendition's playlist.
    pub(super) fn media_stored(&mut self, rung: &RungName) {
        self.lane(rung).written = true;
    }

    /// A rendition's playlist could not be written: it is written again in the next round.
    pub(super) fn media_failed(&mut self, rung: &RungName) {
        self.lane(rung).changed = true;
    }

    /// The store has this multivariant playlist.
    pub(super) fn multivariant_stored(&mut self, text: String) {
        self.multivariant = Some(text);
    }

    /// The multivariant playlist could not be written.
    pub(super) fn multivariant_failed(&mut self) {
        self.multivariant_due = true;
    }

    /// Whether a playlist has changes that are not written.
    pub(super) fn is_changed(&self) -> bool {
        self.lanes.values().any(|lane| lane.changed)
    }

    /// When the next round begins.
    pub(super) const fn due(&self) -> Duration {
        self.due
    }
}
