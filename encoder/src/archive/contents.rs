//! What is in an archive: its pages put together, and what follows from them: playlists, and what a recording is made
//! of. Nothing is read or written here.

use super::names::Place;
use super::page::{Entry, Epoch, Page};
use crate::store::ObjectName;
use bytes::Bytes;
use hls::recording::{Recording, RecordingError, TrackNumber};
use hls::{
    ArchivePlaylist, MediaSpan, MediaTime, RungName, SegmentInfo, SessionId, Track, WallTime,
    archive_multivariant,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is known of an archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// EXT-X-TARGETDURATION.
    pub target_duration: u32,
    /// Rungs of which there is to be an MP4, the most important first.
    pub recordings: Vec<RungName>,
    /// In their order.
    pub epochs: Vec<Epoch>,
    /// Segments by rendition, in the order of their numbers.
    pub lanes: BTreeMap<RungName, Vec<Entry>>,
    /// Number of the first page that is not in it.
    pub next_page: u64,
    /// Epochs up to the newest one that has a segment in it.
    newest: usize,
}

/// One stretch of time, as any rendition knows it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    session: SessionId,
    discontinuity: bool,
    start: MediaTime,
    duration: MediaSpan,
    wall: WallTime,
}

/// By sequence number.
pub(super) type Slots = BTreeMap<u64, Slot>;

/// What a recording is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingParts {
    /// `ftyp`, `moov` and the beginning of `mdat`.
    pub header: Bytes,
    /// Segments in their order, with their sizes.
    pub segments: Vec<(ObjectName, u64)>,
    /// Bytes of all segments.
    pub segments_bytes: u64,
}

impl Contents {
    /// The next page.
    pub fn take(&mut self, page: Page) {
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
        page.entries.into_iter().for_each(|entry| self.push(entry));
        self.next_page += 1;
    }

    /// A segment behind those that its rendition has; older ones are known. Those that another session had under its
    /// number and behind it go: whoever took the stream over had not seen them listed, and gave their numbers again.
    pub fn push(&mut self, entry: Entry) {
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

    /// Takes out what has this number or a higher one.
    pub fn cut(&mut self, sequence: u64) {
        for lane in self.lanes.values_mut() {
            lane.truncate(lane.partition_point(|entry| entry.info.sequence < sequence));
        }
    }

    /// The position of its session among the epochs, from 1.
    fn epoch_of(&self, entry: &Entry) -> usize {
        let position = self.epochs.iter().position(|epoch| epoch.session == entry.info.session);
        position.map_or(0, |position| position + 1)
    }

    /// Whether segments of this session belong to it.
    pub fn has_session(&self, session: &SessionId) -> bool {
        self.epochs.iter().any(|epoch| epoch.session == *session)
    }

    /// All renditions there ever were, as the last epoch describes each: pictures from largest to smallest, then sound.
    pub fn tracks(&self) -> Vec<&Track> {
        let mut seen = BTreeSet::new();
        let newest_first = self.epochs.iter().rev().flat_map(|epoch| &epoch.tracks);
        let mut tracks: Vec<_> = newest_first.filter(|track| seen.insert(&track.rung)).collect();
        tracks.sort_by_key(|track| track.is_audio());
        tracks
    }

    /// Whether a rendition is sound.
    pub fn is_audio(&self, rung: &RungName) -> bool {
        self.tracks().iter().any(|track| track.rung == *rung && track.is_audio())
    }

    /// Whether there is media in it.
    pub fn is_empty(&self) -> bool {
        !self.lanes.values().flatten().any(|entry| entry.info.bytes.is_some())
    }

    /// Media time from the first segment's start to the last one's end.
    pub fn duration(&self) -> MediaSpan {
        let entries = || self.lanes.values().flatten().map(|entry| &entry.info);
        let start = entries().map(|info| info.start).min();
        let end = entries().map(|info| info.start + info.duration).max();
        start.zip(end).map_or(MediaSpan::ZERO, |(start, end)| end - start)
    }

    /// Puts a gap where a number is missing between two of a rendition, with the times that the others have there.
    pub fn fill_gaps(&mut self) {
        let slots = self.slots();
        for lane in self.lanes.values_mut() {
            let mut filled: Vec<Entry> = Vec::with_capacity(lane.len());
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
        // Pictures first: they are cut where the slots are.
        let (audio, video): (Vec<_>, Vec<_>) = self.lanes.iter().partition(|(rung, _)| self.is_audio(rung));
        for info in video.into_iter().chain(audio).flat_map(|(_, lane)| lane).map(|entry| &entry.info) {
            slots.entry(info.sequence).or_insert_with(|| Slot {
                session: info.session.clone(),
                discontinuity: info.discontinuity,
                start: info.start,
                duration: info.duration,
                wall: info.wall,
            });
        }
        slots
    }

    /// Every rendition's playlist so far. Numbers must be without holes: see [`Contents::fill_gaps`].
    pub fn playlists(&self) -> BTreeMap<RungName, ArchivePlaylist> {
        let discontinuities: BTreeSet<u64> = self
            .slots()
            .into_iter()
            .skip(1)
            .filter(|(_, slot)| slot.discontinuity)
            .map(|(sequence, _)| sequence)
            .collect();
        let lanes = self.lanes.iter().filter_map(|(rung, lane)| {
            let first = lane.first()?;
            let mut playlist = ArchivePlaylist::new(Place::way_to_media(rung), self.target_duration);
            playlist.begin_behind(discontinuities.range(..=first.info.sequence).count() as u64);
            lane.iter().for_each(|entry| playlist.push(&entry.info));
            Some((rung.clone(), playlist))
        });
        lanes.collect()
    }

    /// The playlist of pictures for seek bars, of the smallest rung that has pictures noted, and which that is.
    pub fn pictures(&self) -> Option<(RungName, ArchivePlaylist)> {
        let tracks = self.tracks();
        let videos = tracks.iter().filter(|track| !track.is_audio());
        let mut lanes = videos.rev().filter_map(|track| Some((&track.rung, self.lanes.get(&track.rung)?)));
        let (rung, lane) = lanes.find(|(_, lane)| lane.iter().any(|entry| entry.picture.is_some()))?;
        let mut playlist = ArchivePlaylist::of_pictures(Place::way_to_media(rung), self.target_duration);
        lane.iter().for_each(|entry| playlist.push_picture(&entry.info, entry.picture));
        Some((rung.clone(), playlist))
    }

    /// Init segments that a recording of a rung needs.
    pub fn recording_inits(&self, rung: &RungName) -> BTreeSet<(RungName, String)> {
        self.recorded(rung)
            .into_iter()
            .map(|(entry, _)| (entry.info.rung.clone(), entry.info.init.clone()))
            .collect()
    }

    /// A rung's segments and those of the sound, in their order in the file.
    fn recorded(&self, rung: &RungName) -> Vec<(&Entry, bool)> {
        let of = |wanted: &RungName, audio: bool| {
            let lane = self.lanes.get(wanted).map(Vec::as_slice).unwrap_or_default();
            let stored = lane.iter().filter(|entry| entry.info.bytes.is_some() && entry.index.is_some());
            stored.map(move |entry| (entry, audio)).collect::<Vec<_>>()
        };
        let mut all = of(rung, self.is_audio(rung));
        let audio = self.lanes.keys().find(|other| *other != rung && self.is_audio(other));
        all.extend(audio.into_iter().flat_map(|audio| of(audio, true)));
        all.sort_by_key(|(entry, audio)| (entry.info.sequence, *audio));
        all
    }

    /// What a rung's recording is put together from. `init` gives the init segments that
    /// [`Contents::recording_inits`] names; segments whose init is not there are left out.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn recording(
        &self,
        place: &Place,
        rung: &RungName,
        init: impl Fn(&RungName, &str) -> Option<Bytes>,
    ) -> Result<RecordingParts, RecordingError> {
        let mut recording = Recording::new();
        let mut tracks: BTreeMap<&RungName, (TrackNumber, &str)> = BTreeMap::new();
        let mut segments = Vec::new();
        let recorded = self.recorded(rung);
        // Pictures are the first track even where sound is there before them.
        let firsts =
            [false, true].into_iter().filter_map(|audio| recorded.iter().find(|(_, is)| *is == audio));
        for (Entry { info, .. }, _) in firsts {
            if let Some(body) = init(&info.rung, &info.init) {
                tracks.insert(&info.rung, (recording.add_track(&body)?, info.init.as_str()));
            }
        }
        for (Entry { info, index, .. }, _) in &recorded {
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

    /// Changes with every segment, and with what is to be made of them.
    pub fn fingerprint(&self) -> String {
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

/// The multivariant playlist over some renditions' playlists, and one of pictures.
pub fn multivariant(
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

/// A gap behind `last`, before `next`.
pub(super) fn gap_between(last: &SegmentInfo, next: &SegmentInfo, slots: &Slots) -> Entry {
    let sequence = last.sequence + 1;
    let start = last.start + last.duration;
    let missing = i64::try_from(next.sequence - sequence).unwrap_or(i64::MAX).max(1);
    let share = (next.start - start).ticks_90k() / missing;
    let slot = slots.get(&sequence).cloned().unwrap_or(Slot {
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
    Entry { info, index: None, picture: None }
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

    /// What comes late into the broadcast counts the discontinuities that it was not there for.
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
        let place = Place::new("live/demo", SessionId::new("a-0").unwrap());
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
