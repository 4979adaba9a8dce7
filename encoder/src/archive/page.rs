//! The stored index of an archive: JSON pages, each with what was settled in a minute or so, numbered contiguously and
//! never rewritten. Pages hold everything that sealing needs, except for segments after the last page.
//!
//! When an epoch begins, a page is written immediately: **an archive's sessions are those that its pages name**, and
//! an object with another session in its name belongs to another broadcast.

use bytes::Bytes;
use hls::fmp4::index::{FragmentIndex, SampleIndex, SegmentIndex};
use hls::{RungName, SegmentInfo, SessionId, Track, names};
use media::captions::CaptionServices;
use media::{MediaSpan, MediaTime, WallTime};
use serde::{Deserialize, Serialize};

/// Format version; pages of other versions are refused.
const VERSION: u32 = 1;

/// A segment of an archive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PageEntry {
    /// The segment's playlist entry; without `bytes` it is a gap.
    pub info: SegmentInfo,
    /// Where the samples are; `None` for gaps and for rungs without a recording.
    pub index: Option<SegmentIndex>,
    /// Offset of the first picture's end from the segment's first byte, in bytes; `None` where the segment is not in
    /// the I-frame playlist.
    pub picture: Option<u64>,
}

/// An epoch of an archive, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ArchivedEpoch {
    /// The session in the names of the epoch's segments.
    pub session: SessionId,
    /// Start of the first segment that was packaged; `wall` is its wall clock.
    #[serde(rename = "start_90k")]
    pub start: MediaTime,
    /// Wall clock at `start`.
    #[serde(rename = "wall_us")]
    pub wall: WallTime,
    /// Offset from the times in the epoch's segments to the archive's own time axis, on which interruptions are as
    /// long as the wall clock says.
    #[serde(rename = "shift_90k", default, skip_serializing_if = "is_zero")]
    pub shift: MediaSpan,
    /// The epoch's renditions, in the order of the multivariant playlist.
    pub tracks: Vec<Track>,
}

/// A page of the index.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    /// EXT-X-TARGETDURATION in seconds, the same in all pages.
    pub target_duration: u32,
    /// Rungs that get an MP4.
    pub recordings: Vec<RungName>,
    /// Caption services seen so far, in any epoch.
    pub captions: CaptionServices,
    /// Epochs that began.
    pub epochs: Vec<ArchivedEpoch>,
    /// Segments; each rendition's in the order of their sequence numbers.
    pub entries: Vec<PageEntry>,
    /// The owner that continues the archive from this page on; only on the first page after a takeover.
    pub claimed_by: Option<String>,
}

/// A page cannot be read. A retry does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a page of an archive's index: {0}")]
pub struct BadPage(String);

impl Page {
    /// The stored form.
    pub(crate) fn to_json(&self) -> Bytes {
        let stored = StoredPage {
            version: VERSION,
            target_duration: self.target_duration,
            recordings: self.recordings.clone(),
            captions: self.captions,
            epochs: self.epochs.clone(),
            claimed_by: self.claimed_by.clone(),
            segments: self.entries.iter().map(StoredSegment::from).collect(),
        };
        serde_json::to_vec(&stored).expect("text and numbers can be written").into()
    }

    /// Parses the stored form.
    ///
    /// # Errors
    /// See [`BadPage`].
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, BadPage> {
        let stored: StoredPage = serde_json::from_slice(text).map_err(|error| BadPage(error.to_string()))?;
        if stored.version != VERSION {
            return Err(BadPage(format!("its version is {}, not {VERSION}", stored.version)));
        }
        Ok(Self {
            target_duration: stored.target_duration,
            recordings: stored.recordings,
            captions: stored.captions,
            epochs: stored.epochs,
            entries: stored.segments.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            claimed_by: stored.claimed_by,
        })
    }
}

fn is_zero(span: &MediaSpan) -> bool {
    *span == MediaSpan::ZERO
}

/// Differs from [`Page`] by the version, and by the form of the segments.
#[derive(Serialize, Deserialize)]
struct StoredPage {
    version: u32,
    target_duration: u32,
    recordings: Vec<RungName>,
    #[serde(default, skip_serializing_if = "CaptionServices::is_empty")]
    captions: CaptionServices,
    epochs: Vec<ArchivedEpoch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
    segments: Vec<StoredSegment>,
}

/// Differs from [`PageEntry`] by what its own fields imply: the segment's name, and an index without fragments.
#[derive(Serialize, Deserialize)]
struct StoredSegment {
    rung: RungName,
    session: SessionId,
    sequence: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    discontinuity: bool,
    #[serde(rename = "start_90k")]
    start: MediaTime,
    #[serde(rename = "duration_90k")]
    duration: MediaSpan,
    #[serde(rename = "wall_us")]
    wall: WallTime,
    init: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    picture: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fragments: Vec<StoredFragment>,
}

/// A fragment's sample table. Differs from [`FragmentIndex`], which has a structure for each sample: a page holds
/// thousands of samples, and columns of values and of runs (pairs of a count and a value) are far smaller.
#[derive(Serialize, Deserialize)]
struct StoredFragment {
    at: u64,
    time: u64,
    sizes: Vec<u32>,
    durations: Vec<(u32, u32)>,
    /// Composition offsets; empty where all are zero.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    offsets: Vec<(u32, i32)>,
    /// Indices of sync samples; `None` where all samples are sync samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<u32>>,
}

// --- conversions from and to the stored form ---

impl From<&PageEntry> for StoredSegment {
    fn from(PageEntry { info, index, picture }: &PageEntry) -> Self {
        Self {
            rung: info.rung.clone(),
            session: info.session.clone(),
            sequence: info.sequence,
            discontinuity: info.discontinuity,
            start: info.start,
            duration: info.duration,
            wall: info.wall,
            init: info.init.clone(),
            bytes: info.bytes,
            picture: *picture,
            fragments: index.iter().flat_map(|index| &index.fragments).map(StoredFragment::from).collect(),
        }
    }
}

impl TryFrom<StoredSegment> for PageEntry {
    type Error = BadPage;

    fn try_from(stored: StoredSegment) -> Result<Self, BadPage> {
        let fragments: Vec<FragmentIndex> =
            stored.fragments.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        // The name becomes part of an object's name.
        if stored.init.contains('/') || !stored.init.ends_with("-init.mp4") {
            return Err(BadPage(format!("{} is no init segment", stored.init)));
        }
        let info = SegmentInfo {
            rung: stored.rung,
            sequence: stored.sequence,
            discontinuity: stored.discontinuity,
            start: stored.start,
            duration: stored.duration.max(MediaSpan::from_ticks_90k(1)),
            wall: stored.wall,
            name: names::segment_name(&stored.session, stored.sequence),
            init: stored.init,
            session: stored.session,
            bytes: stored.bytes,
        };
        let index = (!fragments.is_empty()).then_some(SegmentIndex { fragments });
        Ok(Self { info, index, picture: stored.picture })
    }
}

fn runs<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<(u32, T)> {
    let mut runs: Vec<(u32, T)> = Vec::new();
    for value in values {
        match runs.last_mut().filter(|(_, last)| *last == value) {
            Some((count, _)) => *count += 1,
            None => runs.push((1, value)),
        }
    }
    runs
}

impl From<&FragmentIndex> for StoredFragment {
    fn from(fragment: &FragmentIndex) -> Self {
        let samples = &fragment.samples;
        let offsets = runs(samples.iter().map(|sample| sample.composition_offset));
        let keys = || (0..).zip(samples).filter(|(_, sample)| sample.key).map(|(index, _)| index);
        Self {
            at: fragment.data_offset,
            time: fragment.decode_time,
            sizes: samples.iter().map(|sample| sample.size).collect(),
            durations: runs(samples.iter().map(|sample| sample.duration)),
            offsets: if offsets.iter().all(|(_, offset)| *offset == 0) { Vec::new() } else { offsets },
            keys: (!samples.iter().all(|sample| sample.key)).then(|| keys().collect()),
        }
    }
}

impl TryFrom<StoredFragment> for FragmentIndex {
    type Error = BadPage;

    fn try_from(stored: StoredFragment) -> Result<Self, BadPage> {
        let count = stored.sizes.len();
        let all_keys = stored.keys.is_none();
        let mut samples: Vec<_> = stored
            .sizes
            .iter()
            .map(|&size| SampleIndex { size, duration: 0, composition_offset: 0, key: all_keys })
            .collect();
        let total = |runs: &mut dyn Iterator<Item = u32>| runs.map(u64::from).sum::<u64>() == count as u64;
        if !total(&mut stored.durations.iter().map(|run| run.0))
            || !stored.offsets.is_empty() && !total(&mut stored.offsets.iter().map(|run| run.0))
        {
            return Err(BadPage("runs and sizes differ in number".into()));
        }
        let mut next = samples.iter_mut();
        for (run, duration) in stored.durations {
            next.by_ref().take(run as usize).for_each(|sample| sample.duration = duration);
        }
        let mut next = samples.iter_mut();
        for (run, offset) in stored.offsets {
            next.by_ref().take(run as usize).for_each(|sample| sample.composition_offset = offset);
        }
        for key in stored.keys.into_iter().flatten() {
            let sample = samples.get_mut(key as usize);
            sample.ok_or_else(|| BadPage("a key that is no sample".into()))?.key = true;
        }
        Ok(Self { data_offset: stored.at, decode_time: stored.time, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{entry, tracks};
    use hls::TrackKind;

    #[test]
    fn what_was_written_is_read() {
        let mut gap = entry("720p", "b-0", 12, None);
        gap.info.discontinuity = true;
        let page = Page {
            target_duration: 2,
            recordings: vec![RungName::new("720p").unwrap()],
            captions: CaptionServices::named(["CC1", "SERVICE2"]),
            epochs: vec![ArchivedEpoch {
                session: SessionId::new("b-0").unwrap(),
                start: MediaTime::from_ticks_90k(7),
                wall: WallTime::from_unix_micros(9),
                shift: MediaSpan::from_ticks_90k(-11),
                tracks: tracks(&["720p", "audio"]),
            }],
            entries: vec![entry("720p", "a-0", 11, Some(1000)), gap, entry("audio", "a-0", 11, Some(70))],
            claimed_by: Some("pod/7".to_owned()),
        };
        let text = page.to_json();
        assert_eq!(Page::from_json(&text).unwrap(), page);
        // Names in what is stored: archives of earlier versions stay readable.
        let tracks = String::from_utf8_lossy(&text);
        let captions = r#""captions":["CC1","SERVICE2"],"#;
        for codec in [r#""codec":"h264","width":"#, r#""codec":"aac","sample_rate":"#, captions] {
            assert!(tracks.contains(codec), "{codec} in {tracks}");
        }
        assert!(text.len() < 3_000, "{}", String::from_utf8_lossy(&text));
    }

    /// Archives last for years: a change of this text makes the pages of earlier versions unreadable.
    const STORED: &str = concat!(
        r#"{"version":1,"target_duration":2,"recordings":["720p"],"epochs":["#,
        r#"{"session":"a-0","start_90k":7,"wall_us":9,"tracks":[]},"#,
        r#"{"session":"b-0","start_90k":8,"wall_us":10,"shift_90k":-11,"tracks":["#,
        r#"{"rung":"720p","config":"0164ff","nominal_bitrate":800000,"codec":"h264","#,
        r#""width":640,"height":360,"sample_aspect":[4,3],"frame_rate":29.97},"#,
        r#"{"rung":"audio","config":"1190","nominal_bitrate":96000,"codec":"aac","#,
        r#""sample_rate":48000,"channels":2,"frame_samples":1024}]}],"#,
        r#""claimed_by":"pod/7","segments":["#,
        r#"{"rung":"720p","session":"a-0","sequence":11,"start_90k":990000,"duration_90k":90000,"#,
        r#""wall_us":1795348811000000,"init":"a-0-init.mp4","bytes":1000,"picture":110,"fragments":["#,
        r#"{"at":100,"time":990000,"sizes":[5,6,7],"durations":[[2,3000],[1,3001]],"#,
        r#""offsets":[[1,0],[2,-3000]],"keys":[0]}]},"#,
        r#"{"rung":"720p","session":"b-0","sequence":12,"discontinuity":true,"start_90k":1080000,"#,
        r#""duration_90k":90000,"wall_us":1795348812000000,"init":"b-0-init.mp4"},"#,
        r#"{"rung":"audio","session":"a-0","sequence":11,"start_90k":990000,"duration_90k":90000,"#,
        r#""wall_us":1795348811000000,"init":"a-0-init.mp4","bytes":70,"fragments":["#,
        r#"{"at":7,"time":528000,"sizes":[8,9],"durations":[[2,1024]]}]}]}"#,
    );

    fn stored_page() -> Page {
        let sample =
            |size, duration, composition_offset, key| SampleIndex { size, duration, composition_offset, key };
        let with_samples = |rung, bytes, samples| {
            let mut entry = entry(rung, "a-0", 11, Some(bytes));
            entry.index.as_mut().unwrap().fragments[0].samples = samples;
            entry
        };
        let picture = |size, duration, offset| sample(size, duration, offset, false);
        let video = vec![sample(5, 3000, 0, true), picture(6, 3000, -3000), picture(7, 3001, -3000)];
        let audio = vec![sample(8, 1024, 0, true), sample(9, 1024, 0, true)];
        let mut gap = entry("720p", "b-0", 12, None);
        gap.info.discontinuity = true;
        let mut tracks = tracks(&["720p", "audio"]);
        if let TrackKind::Video(video) = &mut tracks[0].kind {
            video.config = Bytes::from_static(&[1, 0x64, 0xff]);
            (video.sample_aspect, video.frame_rate) = ((4, 3), 29.97);
        }
        let epoch = |session, start, wall, shift, tracks| ArchivedEpoch {
            session: SessionId::new(session).unwrap(),
            start: MediaTime::from_ticks_90k(start),
            wall: WallTime::from_unix_micros(wall),
            shift: MediaSpan::from_ticks_90k(shift),
            tracks,
        };
        Page {
            target_duration: 2,
            recordings: vec![RungName::new("720p").unwrap()],
            captions: CaptionServices::NONE,
            epochs: vec![epoch("a-0", 7, 9, 0, Vec::new()), epoch("b-0", 8, 10, -11, tracks)],
            entries: vec![with_samples("720p", 1000, video), gap, with_samples("audio", 70, audio)],
            claimed_by: Some("pod/7".to_owned()),
        }
    }

    #[test]
    fn a_page_is_stored_as_this_text() {
        assert_eq!(String::from_utf8_lossy(&stored_page().to_json()), STORED);
        assert_eq!(Page::from_json(STORED.as_bytes()).unwrap(), stored_page());
        let empty = r#"{"version":1,"target_duration":0,"recordings":[],"epochs":[],"segments":[]}"#;
        assert_eq!(String::from_utf8_lossy(&Page::default().to_json()), empty);
    }

    #[test]
    fn a_track_that_is_not_whole_is_refused() {
        for (from, to) in [
            ("\"0164ff\"", "\"0164f\""),
            ("\"0164ff\"", "\"0164fg\""),
            ("\"h264\"", "\"h266\""),
            ("\"aac\"", "\"h264\""),
            ("\"width\":640,", ""),
            ("\"rung\":\"audio\",\"config\"", "\"rung\":\"../x\",\"config\""),
        ] {
            assert!(STORED.contains(from), "{from}");
            assert!(Page::from_json(STORED.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn other_text_is_refused() {
        let good = Page { entries: vec![entry("720p", "a-0", 11, Some(1000))], ..Page::default() };
        let good = String::from_utf8(good.to_json().to_vec()).unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"rung\":\"720p\"", "\"rung\":\"../x\""),
            ("a-0-init.mp4", "../a-0-init.mp4"),
            ("\"durations\":[[", "\"durations\":[[4294967295,1],["),
            ("\"keys\":[0", "\"keys\":[4000000000"),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            assert!(Page::from_json(good.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert!(Page::from_json(b"").is_err());
    }
}
