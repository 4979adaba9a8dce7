//! Contents of an archive: its pages merged, and what is derived from them: playlists, and the parts of a recording.
//! Nothing is read or written here.

use super::names::ArchivePlace;
use super::page::{ArchivedEpoch, Page, PageEntry};
use bytes::Bytes;
use hls::recording::{Recording, RecordingError, TrackNumber};
use hls::{ArchivePlaylist, RungName, SegmentInfo, SessionId, Track, archive_multivariant};
use media::captions::CaptionServices;
use media::{MediaSpan, MediaTime, WallTime};
use std::collections::{BTreeMap, BTreeSet};
use store::ObjectName;

/// Everything that is known about an archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contents {
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: u32,
    /// Rungs that get an MP4, the most important first.
    pub recordings: Vec<RungName>,
    /// Caption services of the broadcast; the epochs' tracks have them too, whenever they were seen.
    pub captions: CaptionServices,
    /// Epochs in their order.
    pub epochs: Vec<ArchivedEpoch>,
    /// Segments by rendition, in the order of their sequence numbers.
    pub lanes: BTreeMap<RungName, Vec<PageEntry>>,
    /// Number of the first page that is not included.
    pub next_page: u64,
    /// Position, from 1, of the newest epoch that has a segment here; 0 before the first segment.
    newest: usize,
}

/// The time span of one sequence number, taken from any rendition.
#[derive(Clone, Debug)]
pub(super) struct ListedSlot {
    session: SessionId,
    discontinuity: bool,
    start: MediaTime,
    duration: MediaSpan,
    wall: WallTime,
}

/// Slots by sequence number.
pub(super) type Slots = BTreeMap<u64, ListedSlot>;

/// The parts that a recording is composed of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordingParts {
    /// `ftyp`, `moov` and the beginning of `mdat`.
    pub header: Bytes,
    /// Segments in their order, with their sizes in bytes.
    pub segments: Vec<(ObjectName, u64)>,
    /// Bytes of all segments.
    pub segments_bytes: u64,
}

impl Contents {
    /// Adds the next page.
    pub(crate) fn take(&mut self, page: Page) {
        self.target_duration = self.target_duration.max(page.target_duration);
        for rung in page.recordings {
            if !self.recordings.contains(&rung) {
                self.recordings.push(rung);
            }
        }
        for epoch in page.epochs {
            if !self.has_session(&epoch.session) {
                self.epochs.push(epoch);
            }
        }
        self.captions = self.captions.union(page.captions);
        for track in self.epochs.iter_mut().flat_map(|epoch| &mut epoch.tracks) {
            track.add_captions(self.captions);
        }
        page.entries.into_iter().for_each(|entry| self.push(entry));
        self.next_page += 1;
    }

    /// Adds a segment after those that its rendition has; older segments are known already. The first segment of a
    /// newer session removes segments of earlier sessions with its sequence number or a higher one: the encoder that
    /// took the stream over had not seen them listed, and has reused their sequence numbers.
    pub(crate) fn push(&mut self, entry: PageEntry) {
        let epoch = self.epoch_of(&entry);
        if epoch > self.newest {
            self.newest = epoch;
            self.cut(entry.info.sequence);
        }
        let lane = self.lanes.entry(entry.info.rung.clone()).or_default();
        if lane.last().is_none_or(|last| last.info.sequence < entry.info.sequence) {
            lane.push(entry);
        }
    }

    /// Removes segments with this sequence number or a higher one.
    pub(crate) fn cut(&mut self, sequence: u64) {
        for lane in self.lanes.values_mut() {
            lane.truncate(lane.partition_point(|entry| entry.info.sequence < sequence));
        }
    }

    /// Position of the segment's session among the epochs, from 1; 0 if it is none of the archive's.
    fn epoch_of(&self, entry: &PageEntry) -> usize {
        let position = self.epochs.iter().position(|epoch| epoch.session == entry.info.session);
        position.map_or(0, |position| position + 1)
    }

    /// Whether segments of this session belong to the archive.
    pub(crate) fn has_session(&self, session: &SessionId) -> bool {
        self.epochs.iter().any(|epoch| epoch.session == *session)
    }

    /// All renditions of the archive, each as the last epoch with this rendition describes it: video from largest to
    /// smallest, then audio.
    pub(crate) fn tracks(&self) -> Vec<&Track> {
        let mut seen = BTreeSet::new();
        let newest_first = self.epochs.iter().rev().flat_map(|epoch| &epoch.tracks);
        let mut tracks: Vec<_> = newest_first.filter(|track| seen.insert(&track.rung)).collect();
        tracks.sort_by_key(|track| track.is_audio());
        tracks
    }

    /// Whether a rendition is audio.
    pub(crate) fn is_audio(&self, rung: &RungName) -> bool {
        self.tracks().iter().any(|track| track.rung == *rung && track.is_audio())
    }

    /// Whether the archive has no readable segment.
    pub(crate) fn is_empty(&self) -> bool {
        !self.lanes.values().flatten().any(|entry| entry.info.bytes.is_some())
    }

    /// Media time from the first segment's start to the last one's end.
    pub(crate) fn duration(&self) -> MediaSpan {
        let entries = || self.lanes.values().flatten().map(|entry| &entry.info);
        let start = entries().map(|info| info.start).min();
        let end = entries().map(|info| info.end()).max();
        start.zip(end).map_or(MediaSpan::ZERO, |(start, end)| end - start)
    }

    /// Adds a gap for each missing sequence number within a rendition, with the times that the other renditions have
    /// there.
    pub(crate) fn fill_gaps(&mut self) {
        let slots = self.slots();
        for lane in self.lanes.values_mut() {
            let mut filled: Vec<PageEntry> = Vec::with_capacity(lane.len());
            for entry in std::mem::take(lane) {
                while let Some(last) = filled.last()
                    && last.info.sequence + 1 < entry.info.sequence
                {
                    filled.push(gap_between(&last.info, &entry.info, &slots));
                }
                filled.push(entry);
            }
            *lane = filled;
        }
    }

    fn slots(&self) -> Slots {
        let mut slots = BTreeMap::new();
        // Video first: slots are cut at video segment boundaries.
        let (audio, video): (Vec<_>, Vec<_>) = self.lanes.iter().partition(|(rung, _)| self.is_audio(rung));
        for info in video.into_iter().chain(audio).flat_map(|(_, lane)| lane).map(|entry| &entry.info) {
            slots.entry(info.sequence).or_insert_with(|| ListedSlot {
                session: info.session.clone(),
                discontinuity: info.discontinuity,
                start: info.start,
                duration: info.duration,
                wall: info.wall,
            });
        }
        slots
    }

    /// Every rendition's playlist so far. Sequence numbers must be contiguous: see [`Contents::fill_gaps`].
    pub(crate) fn playlists(&self) -> BTreeMap<RungName, ArchivePlaylist> {
        let discontinuities: BTreeSet<u64> = self
            .slots()
            .into_iter()
            .skip(1)
            .filter(|(_, slot)| slot.discontinuity)
            .map(|(sequence, _)| sequence)
            .collect();
        let lanes = self.lanes.iter().filter_map(|(rung, lane)| {
            let first = lane.first()?;
            let mut playlist = ArchivePlaylist::new(ArchivePlace::way_to_media(rung), self.target_duration);
            playlist.begin_behind(discontinuities.range(..=first.info.sequence).count() as u64);
            lane.iter().for_each(|entry| playlist.push(&entry.info));
            Some((rung.clone(), playlist))
        });
        lanes.collect()
    }

    /// The I-frame playlist for seek bars, with its rung: the smallest rung that has first pictures noted.
    pub(crate) fn pictures(&self) -> Option<(RungName, ArchivePlaylist)> {
        let tracks = self.tracks();
        let videos = tracks.iter().filter(|track| !track.is_audio());
        let mut lanes = videos.rev().filter_map(|track| Some((&track.rung, self.lanes.get(&track.rung)?)));
        let (rung, lane) = lanes.find(|(_, lane)| lane.iter().any(|entry| entry.picture.is_some()))?;
        let mut playlist =
            ArchivePlaylist::of_pictures(ArchivePlace::way_to_media(rung), self.target_duration);
        lane.iter().for_each(|entry| playlist.push_picture(&entry.info, entry.picture));
        Some((rung.clone(), playlist))
    }

    /// Init segments that a recording of a rung needs.
    pub(crate) fn recording_inits(&self, rung: &RungName) -> BTreeSet<(RungName, String)> {
        self.recorded(rung)
            .into_iter()
            .map(|(entry, _)| (entry.info.rung.clone(), entry.info.init.clone()))
            .collect()
    }

    /// A rung's segments and those of all audio renditions, in their order in the file. The number is the position of
    /// the segment's track in the recording: the rung comes first, then the main audio.
    fn recorded(&self, rung: &RungName) -> Vec<(&PageEntry, usize)> {
        let sounds = self.tracks().into_iter().filter(|track| track.is_audio() && track.rung != *rung);
        let rungs: Vec<&RungName> = std::iter::once(rung).chain(sounds.map(|track| &track.rung)).collect();
        let mut all: Vec<_> = rungs
            .into_iter()
            .filter_map(|rung| self.lanes.get(rung))
            .enumerate()
            .flat_map(|(position, lane)| lane.iter().map(move |entry| (entry, position)))
            .filter(|(entry, _)| entry.info.bytes.is_some() && entry.index.is_some())
            .collect();
        all.sort_by_key(|(entry, position)| (entry.info.sequence, *position));
        all
    }

    /// The parts of a rung's recording. `init` returns the init segments that [`Contents::recording_inits`] names;
    /// segments whose init segment is missing are left out.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub(crate) fn recording(
        &self,
        place: &ArchivePlace,
        rung: &RungName,
        init: impl Fn(&RungName, &str) -> Option<Bytes>,
    ) -> Result<RecordingParts, RecordingError> {
        let mut recording = Recording::new();
        let mut tracks: BTreeMap<&RungName, (TrackNumber, &str)> = BTreeMap::new();
        let mut segments = Vec::new();
        let recorded = self.recorded(rung);
        // Video is the first track even where audio begins before it.
        let mut firsts: BTreeMap<usize, &PageEntry> = BTreeMap::new();
        for (entry, position) in &recorded {
            firsts.entry(*position).or_insert(entry);
        }
        for PageEntry { info, .. } in firsts.into_values() {
            if let Some(body) = init(&info.rung, &info.init) {
                tracks.insert(&info.rung, (recording.add_track(&body)?, info.init.as_str()));
            }
        }
        for (PageEntry { info, index, .. }, _) in &recorded {
            let (Some(bytes), Some(index), Some((track, current))) =
                (info.bytes, index, tracks.get_mut(&info.rung))
            else {
                continue;
            };
            if *current != info.init {
                let Some(body) = init(&info.rung, &info.init) else { continue };
                recording.set_init(*track, &body)?;
                *current = &info.init;
            }
            recording.append(*track, bytes, index)?;
            segments.push((place.media(&info.rung, &info.name), bytes));
        }
        let segments_bytes = recording.payload_bytes();
        Ok(RecordingParts { header: recording.header()?, segments, segments_bytes })
    }

    /// A fingerprint that changes with every segment, and with the set of recordings.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for rung in &self.recordings {
            text.push_str(rung.as_str());
            text.push(';');
        }
        for info in self.lanes.values().flatten().map(|entry| &entry.info) {
            text.push_str(&format!("{}/{}:{:?};", info.rung, info.name, info.bytes));
        }
        format!("{:08x}{:x}", crc32c::crc32c(text.as_bytes()), text.len())
    }
}

/// The multivariant playlist over some renditions' playlists, and optionally an I-frame playlist.
pub(crate) fn multivariant(
    tracks: &[&Track],
    playlists: &BTreeMap<RungName, ArchivePlaylist>,
    pictures: Option<&(RungName, ArchivePlaylist)>,
) -> Option<String> {
    let listed: Vec<_> =
        tracks.iter().filter_map(|track| Some((*track, playlists.get(&track.rung)?))).collect();
    let pictures =
        pictures.and_then(|(rung, list)| Some((*tracks.iter().find(|track| track.rung == *rung)?, list)));
    archive_multivariant(&listed, pictures)
}

/// A gap for the sequence number after `last`, where `next` is the next segment.
pub(super) fn gap_between(last: &SegmentInfo, next: &SegmentInfo, slots: &Slots) -> PageEntry {
    let sequence = last.sequence + 1;
    let start = last.end();
    let missing = i64::try_from(next.sequence - sequence).unwrap_or(i64::MAX).max(1);
    let share = (next.start - start).ticks_90k() / missing;
    let slot = slots.get(&sequence).cloned().unwrap_or(ListedSlot {
        session: last.session.clone(),
        discontinuity: false,
        start,
        duration: MediaSpan::from_ticks_90k(share.max(1)),
        wall: last.wall + last.duration,
    });
    let info = SegmentInfo {
        rung: last.rung.clone(),
        sequence,
        discontinuity: slot.discontinuity,
        start: slot.start,
        duration: slot.duration,
        wall: slot.wall,
        name: hls::names::segment_name(&slot.session, sequence),
        init: last.init.clone(),
        session: slot.session,
        bytes: None,
    };
    PageEntry { info, index: None, picture: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{contents, entry, init, tracks};

    fn rung(name: &str) -> RungName {
        RungName::new(name).unwrap()
    }

    #[test]
    fn a_number_that_is_missing_is_a_gap_at_the_same_place_in_all() {
        let mut contents = contents(&["720p", "audio"], 10);
        let lane = contents.lanes.get_mut(&rung("720p")).unwrap();
        lane.drain(3..5);
        contents.fill_gaps();
        let texts: BTreeMap<_, _> =
            contents.playlists().into_iter().map(|(rung, list)| (rung, list.render(true).unwrap())).collect();
        let video = &texts[&rung("720p")];
        assert_eq!((video.matches("#EXTINF").count(), video.matches("#EXT-X-GAP").count()), (10, 2));
        assert_eq!(texts[&rung("audio")].matches("#EXT-X-GAP").count(), 0);
        let tracks = contents.tracks();
        let text = multivariant(&tracks, &contents.playlists(), contents.pictures().as_ref()).unwrap();
        assert!(text.contains("URI=\"720p-pictures.m3u8\""), "{text}");
        assert!(text.contains("\n720p.m3u8\n") && text.contains("URI=\"audio.m3u8\""), "{text}");
    }

    /// A rendition that starts late counts the discontinuities before its start.
    #[test]
    fn a_rendition_that_begins_later_has_the_same_discontinuity_numbers() {
        let mut contents = contents(&["720p", "480p"], 10);
        for (rung, lane) in &mut contents.lanes {
            lane[0].info.discontinuity = true;
            lane[4].info.discontinuity = true;
            lane[7].info.discontinuity = true;
            if rung.as_str() == "480p" {
                lane.drain(..4);
            }
        }
        let playlists = contents.playlists();
        let sequence = |name: &str| {
            let text = playlists[&rung(name)].render(false).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:"));
            (line.unwrap().to_owned(), text.matches("#EXT-X-DISCONTINUITY\n").count())
        };
        assert_eq!(sequence("720p"), ("0".into(), 2));
        assert_eq!(sequence("480p"), ("1".into(), 1));
    }

    #[test]
    fn a_recording_has_what_is_stored_and_the_sound_beside_it() {
        let mut contents = contents(&["720p", "480p", "audio"], 4);
        contents.lanes.get_mut(&rung("720p")).unwrap()[2] = entry("720p", "a-0", 102, None);
        let place = ArchivePlace::new("live/demo", SessionId::new("a-0").unwrap());
        let parts = contents.recording(&place, &rung("720p"), |rung, _| Some(init(rung))).unwrap();
        let names: Vec<_> =
            parts.segments.iter().map(|(name, _)| name.as_str().trim_start_matches("live/demo/")).collect();
        assert_eq!(
            names,
            [
                "720p/a-0-100.m4s",
                "audio/a-0-100.m4s",
                "720p/a-0-101.m4s",
                "audio/a-0-101.m4s",
                "audio/a-0-102.m4s",
                "720p/a-0-103.m4s",
                "audio/a-0-103.m4s"
            ]
        );
        assert_eq!(parts.segments_bytes, parts.segments.iter().map(|(_, bytes)| bytes).sum::<u64>());
        let before = contents.fingerprint();
        contents.push(entry("720p", "a-0", 104, Some(1000)));
        assert_ne!(contents.fingerprint(), before);
        assert_eq!(tracks(&["720p"]).len(), 1);
    }
}
