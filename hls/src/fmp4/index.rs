//! The index of a stored media segment: places and times of its samples, read from its moof boxes alone, so that a
//! recording can be indexed without reading media. Building a recording from the index belongs in [`crate::recording`].
//!
//! Segments are those that [`crate::packager`] writes: `(styp) (moof mdat)+`, one track, offsets from the moof.

use mp4_atom::{Decode, Moof};
use std::ops::Range;

/// A larger moof is corrupt: this size holds hours of samples.
const MAX_MOOF_BYTES: u64 = 4 << 20;
/// Maximum number of fragments per segment: parts of a quarter second in the longest segment are far fewer.
const MAX_FRAGMENTS: usize = 4096;
/// A box header: size and type.
const HEADER_BYTES: u64 = 8;
/// Number of bytes requested where a box is expected: most moofs are smaller, so one read is enough.
const READ_BYTES: u64 = 8 << 10;
/// sample_is_non_sync_sample (ISO 14496-12 8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;

/// Index entry of one access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleIndex {
    /// Ticks of the track's timescale until the next sample is decoded.
    pub duration: u32,
    /// Size in bytes.
    pub size: u32,
    /// Presentation time minus decode time, in the track's timescale.
    pub composition_offset: i32,
    /// Whether decoding can begin here.
    pub key: bool,
}

/// Index of one fragment, whose samples are contiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragmentIndex {
    /// Offset of the first sample's data from the segment's first byte.
    pub data_offset: u64,
    /// Decode time of the first sample, in the track's timescale.
    pub decode_time: u64,
    /// Samples in decode order.
    pub samples: Vec<SampleIndex>,
}

/// Index of a whole segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    /// Fragments in file order.
    pub fragments: Vec<FragmentIndex>,
}

/// The bytes are not a segment of this crate, or are incomplete. Reading them again gives the same error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a media segment: {0}")]
pub struct DamagedSegment(String);

/// Whether a track's samples are keyframes by default, as in the init segment's trex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Only samples whose flags say so are keyframes.
    Video,
    /// All samples are keyframes.
    Audio,
}

impl SegmentIndex {
    /// Builds the index of a whole segment.
    ///
    /// # Errors
    /// See [`DamagedSegment`].
    pub fn of(body: &[u8], kind: MediaKind) -> Result<Self, DamagedSegment> {
        let mut scanner = Scanner::new(body.len() as u64, kind);
        while let Some(wanted) = scanner.wanted() {
            // Both ends are within the body, because the scanner knows the body's length.
            let bytes = body.get(wanted.start as usize..wanted.end as usize).unwrap_or_default();
            scanner.take(bytes)?;
        }
        scanner.finish()
    }

    /// End of the first sample, from the segment's first byte: this many bytes are enough to show the first picture.
    /// `None` where that sample is no keyframe.
    pub fn first_sample_end(&self) -> Option<u64> {
        let fragment = self.fragments.first()?;
        Some(fragment.data_offset + u64::from(fragment.samples.first().filter(|sample| sample.key)?.size))
    }

    /// Shifts all decode times by `ticks` of the track's timescale.
    pub fn shift(&mut self, ticks: i64) {
        for fragment in &mut self.fragments {
            fragment.decode_time = fragment.decode_time.saturating_add_signed(ticks);
        }
    }

    /// The range from the first sample's decode time to the last sample's end, in the track's timescale.
    pub fn span(&self) -> Option<Range<u64>> {
        let (first, last) = (self.fragments.first()?, self.fragments.last()?);
        let length: u64 = last.samples.iter().map(|sample| u64::from(sample.duration)).sum();
        Some(first.decode_time..last.decode_time.saturating_add(length))
    }
}

/// Reads a segment's index in pieces: requests a byte range, takes its bytes, and repeats until the index is complete.
/// The scanner skips media.
#[derive(Debug)]
pub struct Scanner {
    size: u64,
    kind: MediaKind,
    /// Offset of the next box.
    at: u64,
    /// Length of the next box, known from its header after a first read.
    needs: Option<u64>,
    /// The fragment whose mdat comes next.
    open: Option<FragmentIndex>,
    done: SegmentIndex,
}

impl Scanner {
    /// Creates a scanner for an object of `size` bytes.
    pub fn new(size: u64, kind: MediaKind) -> Self {
        Self { size, kind, at: 0, needs: None, open: None, done: SegmentIndex::default() }
    }

    /// The byte range to read next; not empty. `None` at the end.
    pub fn wanted(&self) -> Option<Range<u64>> {
        let end = self.at.saturating_add(self.needs.unwrap_or(READ_BYTES)).min(self.size);
        (self.at < end).then_some(self.at..end)
    }

    /// Takes the bytes of the range from [`Scanner::wanted`].
    ///
    /// # Errors
    /// Where the bytes are not what a segment has there, or fewer than requested.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), DamagedSegment> {
        let asked = self.wanted().map_or(0, |wanted| wanted.end - wanted.start);
        if bytes.len() as u64 != asked {
            return Err(damaged(format_args!("{} of {asked} bytes at {}", bytes.len(), self.at)));
        }
        self.needs = None;
        let (start, mut rest) = (self.at, bytes);
        while !rest.is_empty() {
            let offset = self.at - start;
            rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            let Some(header) = rest.first_chunk::<{ HEADER_BYTES as usize }>() else {
                if !rest.is_empty() && self.size - self.at < HEADER_BYTES {
                    return Err(damaged(format_args!("half a box at {}", self.at)));
                }
                break;
            };
            let [a, b, c, d, kind @ ..] = *header;
            let length = u64::from(u32::from_be_bytes([a, b, c, d]));
            if length < HEADER_BYTES || self.at.checked_add(length).is_none_or(|end| end > self.size) {
                return Err(damaged(format_args!("a box of {length} bytes at {}", self.at)));
            }
            match &kind {
                b"moof" => {
                    if length > MAX_MOOF_BYTES {
                        return Err(damaged(format_args!("a moof of {length} bytes")));
                    }
                    let Some(moof) = rest.get(..length as usize) else {
                        self.needs = Some(length);
                        break;
                    };
                    self.moof(moof)?;
                }
                b"mdat" => self.mdat(length)?,
                _ => {}
            }
            self.at += length;
        }
        Ok(())
    }

    /// The index, once [`Scanner::wanted`] is `None`.
    ///
    /// # Errors
    /// Where the segment is incomplete.
    pub fn finish(self) -> Result<SegmentIndex, DamagedSegment> {
        if self.at < self.size || self.open.is_some() || self.done.fragments.is_empty() {
            return Err(damaged(format_args!("{} of {} bytes make a segment", self.at, self.size)));
        }
        Ok(self.done)
    }

    fn moof(&mut self, bytes: &[u8]) -> Result<(), DamagedSegment> {
        let moof = Moof::decode(&mut &*bytes).map_err(|error| damaged(format_args!("{error}")))?;
        let [traf] = moof.traf.as_slice() else {
            return Err(damaged(format_args!("{} tracks", moof.traf.len())));
        };
        let [trun] = traf.trun.as_slice() else {
            return Err(damaged(format_args!("{} runs", traf.trun.len())));
        };
        if self.open.is_some() || self.done.fragments.len() >= MAX_FRAGMENTS {
            return Err(damaged(format_args!("a moof too many at {}", self.at)));
        }
        let offset = trun.data_offset.and_then(|offset| u64::try_from(offset).ok());
        let data_offset = offset.and_then(|offset| self.at.checked_add(offset));
        let decode_time = traf.tfdt.as_ref().map(|tfdt| tfdt.base_media_decode_time);
        let (Some(data_offset), Some(decode_time)) = (data_offset, decode_time) else {
            return Err(damaged(format_args!("a fragment without offset or time")));
        };
        let tfhd = &traf.tfhd;
        // A trun without per-sample fields states its sample count in four bytes: a forged count must not cause an
        // allocation.
        if trun.samples.len() > bytes.len() {
            return Err(damaged(format_args!("{} samples", trun.samples.len())));
        }
        let sample = |entry: mp4_atom::TrunEntry| {
            let flags = entry.flags.or(tfhd.default_sample_flags);
            Some(SampleIndex {
                duration: entry.duration.or(tfhd.default_sample_duration)?,
                size: entry.size.or(tfhd.default_sample_size)?,
                composition_offset: i32::try_from(entry.cts.unwrap_or(0)).ok()?,
                key: flags.map_or(self.kind == MediaKind::Audio, |flags| flags & NON_SYNC == 0),
            })
        };
        let samples: Option<Vec<_>> = trun.samples.iter().map(sample).collect();
        let samples = samples.ok_or_else(|| damaged(format_args!("a sample without size or duration")))?;
        self.open = Some(FragmentIndex { data_offset, decode_time, samples });
        Ok(())
    }

    /// Checks that the samples lie in the mdat after their moof and fill it.
    fn mdat(&mut self, length: u64) -> Result<(), DamagedSegment> {
        let Some(fragment) = self.open.take() else {
            return Err(damaged(format_args!("media without a moof at {}", self.at)));
        };
        let bytes: u64 = fragment.samples.iter().map(|sample| u64::from(sample.size)).sum();
        if fragment.data_offset != self.at + HEADER_BYTES || bytes != length - HEADER_BYTES {
            return Err(damaged(format_args!("a fragment whose samples are elsewhere")));
        }
        self.done.fragments.push(fragment);
        Ok(())
    }
}

fn damaged(what: std::fmt::Arguments<'_>) -> DamagedSegment {
    DamagedSegment(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fmp4::{FragmentKind, FragmentSample, fragment};
    use bytes::Bytes;

    fn samples(count: usize) -> Vec<FragmentSample> {
        let sample = |n: usize| FragmentSample {
            duration: 3_000 + n as u32 % 2,
            composition_offset: [0, 3_000, -3_000][n % 3],
            key: n == 0,
            data: Bytes::from(vec![n as u8; 5_000 + n]),
        };
        (0..count).map(sample).collect()
    }

    fn segment() -> Vec<u8> {
        let all = samples(90);
        let first = fragment(true, FragmentKind::Video, 1, 900_000, &all[..60]);
        let second = fragment(false, FragmentKind::Video, 2, 1_080_030, &all[60..]);
        [first, second].concat()
    }

    #[test]
    fn every_sample_is_found_where_its_bytes_are() {
        let body = segment();
        let index = SegmentIndex::of(&body, MediaKind::Video).unwrap();
        assert_eq!(index.fragments.len(), 2);
        let mut number = 0;
        for fragment in &index.fragments {
            let mut at = fragment.data_offset as usize;
            for sample in &fragment.samples {
                assert_eq!(sample.size as usize, 5_000 + number);
                let bytes = &body[at..at + sample.size as usize];
                assert!(bytes.iter().all(|byte| *byte == number as u8), "sample {number}");
                assert_eq!((sample.duration, sample.key), (3_000 + number as u32 % 2, number == 0));
                assert_eq!(sample.composition_offset, [0, 3_000, -3_000][number % 3]);
                (at, number) = (at + sample.size as usize, number + 1);
            }
        }
        assert_eq!((number, index.span()), (90, Some(900_000..900_000 + 90 * 3_000 + 45)));
    }

    /// Reading in pieces skips media: some kilobytes of a segment of half a megabyte are read.
    #[test]
    fn only_boxes_are_read() {
        let body = segment();
        let mut scanner = Scanner::new(body.len() as u64, MediaKind::Video);
        let mut read = 0;
        while let Some(wanted) = scanner.wanted() {
            read += wanted.end - wanted.start;
            scanner.take(&body[wanted.start as usize..wanted.end as usize]).unwrap();
        }
        assert_eq!(scanner.finish().unwrap(), SegmentIndex::of(&body, MediaKind::Video).unwrap());
        assert!(read <= 2 * READ_BYTES, "{read} of {}", body.len());
    }

    #[test]
    fn audio_is_all_keys() {
        let mut all = samples(3);
        all.iter_mut().for_each(|sample| sample.composition_offset = 0);
        let body = fragment(true, FragmentKind::Audio, 1, 0, &all);
        let index = SegmentIndex::of(&body, MediaKind::Audio).unwrap();
        assert!(index.fragments[0].samples.iter().all(|sample| sample.key));
    }

    #[test]
    fn what_is_cut_off_or_spoilt_is_refused() {
        let body = segment();
        for length in (0..body.len()).step_by(997).chain([1, 7, 8, 30]) {
            assert!(SegmentIndex::of(&body[..length], MediaKind::Video).is_err(), "{length}");
        }
        for at in 0..1_500 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut spoilt = body.clone();
                spoilt[at] = value;
                // The only requirement is that parsing terminates: many corrupted bytes are as valid as the original
                // ones.
                let _ = SegmentIndex::of(&spoilt, MediaKind::Video);
            }
        }
    }
}
