//! One seekable MP4 over stored segments, with its index in front. This module makes only `ftyp`, `moov` and the header
//! of one `mdat`; the concatenated, unchanged segments are the content of that mdat. So a recording is composed by
//! concatenating objects, and no media is read.
//!
//! What belongs here: sample tables, chunk offsets, edit lists. What does not: the choice of segments and their
//! concatenation.
//!
//! - The segments' own boxes lie between the samples: opaque bytes that no chunk offset points to.
//! - Decode times stay those of the segments. Where a segment is missing, the sample before it lasts until the next
//!   existing one, so that all later samples keep their times. Where two segments overlap (audio, by less than a frame,
//!   between two epochs), the later samples follow at the shortest distance until the times agree again.
//! - A track has one sample entry for each codec configuration among its init segments; every chunk names its own.
//! - Composition offsets may be negative in segments. Here they are raised so that the lowest becomes zero, and the
//!   edit list subtracts the same amount: older players support only unsigned offsets (ISO 14496-12 8.6.1.3, version
//!   0).
//! - The edit list also aligns the tracks: a track that begins later gets an empty edit; audio that begins at most
//!   [`MAX_TRIM`] before video is skipped up to the start of video.

use crate::fmp4::index::SegmentIndex;
use bytes::Bytes;
use media::MediaSpan;
use media::time::{TICKS_PER_SECOND, rescale};
use mp4_atom::{
    Any, Atom, Co64, Codec, Ctts, CttsEntry, DecodeMaybe, Edts, Elst, ElstEntry, Encode, FixedPoint, FourCC,
    Ftyp, Moov, Mvhd, Stbl, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples, Stts, SttsEntry, Trak,
};

/// Maximum lead of audio over the first picture that is cut off, so that both begin together: an epoch's audio begins
/// with the frame that is audible at its start.
pub const MAX_TRIM: MediaSpan = MediaSpan::from_millis(100);

/// Ticks per second of the movie.
const MOVIE_TIMESCALE: u32 = TICKS_PER_SECOND as u32;
/// Length of an `mdat` header with a 64-bit size: 1, the type, the size.
const MDAT_HEADER_BYTES: u64 = 16;

const SOUND: FourCC = FourCC::new(b"soun");
const ISOM: FourCC = FourCC::new(b"isom");
const ISO2: FourCC = FourCC::new(b"iso2");
const AVC1: FourCC = FourCC::new(b"avc1");
const MP41: FourCC = FourCC::new(b"mp41");

/// Why no recording can be made. The same input fails again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// The init segment was not written by this crate.
    #[error("not an init segment: {0}")]
    Init(String),
    /// The timescale differs between init segments of one track.
    #[error("the timescale changes within a track")]
    Timescale,
    /// More samples or chunks than the tables can count.
    #[error("too long for one file")]
    TooLong,
    /// The recording has no media.
    #[error("there is no media")]
    Empty,
    /// The tables cannot be written: a bug.
    #[error("cannot write the index: {0}")]
    Encode(String),
}

/// Identifies a track of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackNumber(usize);

/// Builds a recording. Segments are appended in the order in which they will lie in the file.
#[derive(Debug, Default)]
pub struct Recording {
    tracks: Vec<Table>,
    /// Total bytes of the segments so far.
    payload: u64,
}

/// A track with its tables.
#[derive(Debug)]
struct Table {
    /// The track's box, except the tables.
    trak: Trak,
    entries: Vec<Codec>,
    /// Index into `entries`, from 1: the sample entry of the next samples.
    entry: u32,
    stts: Vec<SttsEntry>,
    /// Composition offsets as in the segments.
    ctts: Vec<CttsEntry>,
    /// Sample numbers of the key samples, from 1.
    keys: Vec<u32>,
    sizes: Vec<u32>,
    stsc: Vec<StscEntry>,
    /// Chunk offsets from the payload's first byte.
    chunks: Vec<u64>,
    times: Option<Times>,
}

/// A track's decode times, in its timescale.
#[derive(Clone, Copy, Debug)]
struct Times {
    first: u64,
    /// Decode time of the last sample, as in the tables.
    last: u64,
    last_duration: u32,
}

// === impl Recording ===

impl Recording {
    /// An empty recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a track, given its first init segment. Video tracks must be added before audio.
    ///
    /// # Errors
    /// See [`RecordingError::Init`].
    pub fn add_track(&mut self, init: &[u8]) -> Result<TrackNumber, RecordingError> {
        let (trak, codec) = read_init(init)?;
        self.tracks.push(Table {
            trak,
            entries: vec![codec],
            entry: 1,
            stts: Vec::new(),
            ctts: Vec::new(),
            keys: Vec::new(),
            sizes: Vec::new(),
            stsc: Vec::new(),
            chunks: Vec::new(),
            times: None,
        });
        Ok(TrackNumber(self.tracks.len() - 1))
    }

    /// Sets the init segment for a track's next segments.
    ///
    /// # Errors
    /// See [`RecordingError::Init`] and [`RecordingError::Timescale`].
    pub fn set_init(&mut self, track: TrackNumber, init: &[u8]) -> Result<(), RecordingError> {
        let (trak, codec) = read_init(init)?;
        let table = &mut self.tracks[track.0];
        if trak.mdia.mdhd.timescale != table.trak.mdia.mdhd.timescale {
            return Err(RecordingError::Timescale);
        }
        // A track has one size: that of its largest pictures.
        let (shown, wider) = (&mut table.trak.tkhd, &trak.tkhd);
        if wider.height.integer() > shown.height.integer() {
            (shown.width, shown.height) = (wider.width, wider.height);
        }
        let known = table.entries.iter().position(|entry| *entry == codec);
        let index = known.unwrap_or_else(|| {
            table.entries.push(codec);
            table.entries.len() - 1
        });
        table.entry = u32::try_from(index + 1).map_err(|_| RecordingError::TooLong)?;
        Ok(())
    }

    /// Appends the next segment of the file: an object of `bytes` bytes, with a track's samples at the places in
    /// `index`.
    ///
    /// # Errors
    /// See [`RecordingError::TooLong`].
    pub fn append(
        &mut self,
        track: TrackNumber,
        bytes: u64,
        index: &SegmentIndex,
    ) -> Result<(), RecordingError> {
        let table = &mut self.tracks[track.0];
        for fragment in index.fragments.iter().filter(|fragment| !fragment.samples.is_empty()) {
            table.chunk(self.payload + fragment.data_offset, fragment.samples.len())?;
            let mut time = fragment.decode_time;
            for sample in &fragment.samples {
                table.sample(time, sample.duration, sample.size, sample.composition_offset, sample.key)?;
                time = time.saturating_add(sample.duration.into());
            }
        }
        self.payload = self.payload.checked_add(bytes).ok_or(RecordingError::TooLong)?;
        Ok(())
    }

    /// Total bytes of all segments; plus the header's, the size of the file.
    pub fn payload_bytes(&self) -> u64 {
        self.payload
    }

    /// The bytes of the file before the segments.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn header(mut self) -> Result<Bytes, RecordingError> {
        self.tracks.retain(|table| table.times.is_some());
        if self.tracks.is_empty() {
            return Err(RecordingError::Empty);
        }
        let origin = self.origin();
        let has_avc = |table: &Table| table.entries.iter().any(|entry| matches!(entry, Codec::Avc1(_)));
        let mut compatible_brands = vec![ISOM, ISO2, AVC1, MP41];
        compatible_brands.retain(|brand| *brand != AVC1 || self.tracks.iter().any(has_avc));
        let ftyp = Ftyp { major_brand: ISOM, minor_version: 512, compatible_brands };
        let mut out = Vec::new();
        encode(&ftyp, &mut out)?;
        let begin = out.len();
        let mut moov = self.moov(origin);
        // Offsets count from the file's first byte; the size of the tables does not depend on the offsets' values.
        encode(&moov, &mut out)?;
        let before_payload = out.len() as u64 + MDAT_HEADER_BYTES;
        out.truncate(begin);
        for offset in moov
            .trak
            .iter_mut()
            .filter_map(|trak| trak.mdia.minf.stbl.co64.as_mut())
            .flat_map(|co64| &mut co64.entries)
        {
            *offset += before_payload;
        }
        encode(&moov, &mut out)?;
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(b"mdat");
        out.extend_from_slice(&(MDAT_HEADER_BYTES + self.payload).to_be_bytes());
        Ok(out.into())
    }

    /// Start of the movie's timeline, in 90 kHz ticks on the segments' axis.
    fn origin(&self) -> i64 {
        let starts = || self.tracks.iter().filter_map(Table::start);
        let first = starts().min().unwrap_or(0);
        match starts().next() {
            Some(pictures) if pictures - first <= MAX_TRIM.ticks_90k() => pictures,
            _ => first,
        }
    }

    fn moov(&mut self, origin: i64) -> Moov {
        let mut trak: Vec<_> =
            self.tracks.iter_mut().zip(1..).map(|(table, id)| table.trak(id, origin)).collect();
        // Of several sounds players play one: the first, until the viewer chooses another (ISO 14496-12 8.3.2.3).
        let sounds = trak.iter_mut().filter(|trak| trak.mdia.hdlr.handler == SOUND);
        let sounds: Vec<_> = sounds.collect();
        if sounds.len() > 1 {
            for (index, sound) in sounds.into_iter().enumerate() {
                sound.tkhd.alternate_group = 1;
                sound.tkhd.enabled = index == 0;
            }
        }
        Moov {
            mvhd: Mvhd {
                timescale: MOVIE_TIMESCALE,
                duration: trak.iter().map(|trak| trak.tkhd.duration).max().unwrap_or(0),
                rate: FixedPoint::from(1),
                volume: FixedPoint::from(1),
                next_track_id: trak.len() as u32 + 1,
                ..Mvhd::default()
            },
            trak,
            ..Moov::default()
        }
    }
}

// === impl Table ===

impl Table {
    fn timescale(&self) -> u32 {
        self.trak.mdia.mdhd.timescale
    }

    /// Decode time of the first sample, in 90 kHz ticks.
    fn start(&self) -> Option<i64> {
        let first = i64::try_from(self.times?.first).ok()?;
        Some(rescale(first, self.timescale().into(), MOVIE_TIMESCALE.into()))
    }

    fn chunk(&mut self, offset: u64, samples: usize) -> Result<(), RecordingError> {
        self.chunks.push(offset);
        let first_chunk = u32::try_from(self.chunks.len()).map_err(|_| RecordingError::TooLong)?;
        let samples_per_chunk = u32::try_from(samples).map_err(|_| RecordingError::TooLong)?;
        let like_last = self.stsc.last().is_some_and(|last| {
            (last.samples_per_chunk, last.sample_description_index) == (samples_per_chunk, self.entry)
        });
        if !like_last {
            let sample_description_index = self.entry;
            self.stsc.push(StscEntry { first_chunk, samples_per_chunk, sample_description_index });
        }
        Ok(())
    }

    fn sample(
        &mut self,
        time: u64,
        duration: u32,
        size: u32,
        composition_offset: i32,
        key: bool,
    ) -> Result<(), RecordingError> {
        self.times = Some(match self.times {
            None => Times { first: time, last: time, last_duration: duration },
            Some(times) => {
                let delta = u32::try_from(time.saturating_sub(times.last).max(1)).unwrap_or(u32::MAX);
                self.lasts(delta);
                Times { last: times.last + u64::from(delta), last_duration: duration, ..times }
            }
        });
        self.sizes.push(size);
        let number = u32::try_from(self.sizes.len()).map_err(|_| RecordingError::TooLong)?;
        if key {
            self.keys.push(number);
        }
        let sample_offset = i64::from(composition_offset);
        match self.ctts.last_mut().filter(|last| last.sample_offset == sample_offset) {
            Some(last) => last.sample_count += 1,
            None => self.ctts.push(CttsEntry { sample_count: 1, sample_offset }),
        }
        Ok(())
    }

    /// Records the duration of the newest sample, which is known once the next sample arrives.
    fn lasts(&mut self, sample_delta: u32) {
        match self.stts.last_mut().filter(|last| last.sample_delta == sample_delta) {
            Some(last) => last.sample_count += 1,
            None => self.stts.push(SttsEntry { sample_count: 1, sample_delta }),
        }
    }

    /// Moves the tables into their boxes.
    fn trak(&mut self, track_id: u32, origin: i64) -> Trak {
        let start = self.start().unwrap_or(origin);
        let timescale = i64::from(self.timescale());
        let movie = |ticks: i64| rescale(ticks, timescale, MOVIE_TIMESCALE.into());
        if let Some(times) = self.times {
            self.lasts(times.last_duration);
        }
        let length: u64 =
            self.stts.iter().map(|run| u64::from(run.sample_count) * u64::from(run.sample_delta)).sum();
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let mut ctts = std::mem::take(&mut self.ctts);
        let raised = ctts.iter().map(|run| -run.sample_offset).max().unwrap_or(0).max(0);
        ctts.iter_mut().for_each(|run| run.sample_offset += raised);

        let trimmed = rescale((origin - start).max(0), MOVIE_TIMESCALE.into(), timescale).min(length);
        let shown = movie(length - trimmed);
        let waits = (start - origin).max(0);
        let edit = |media_time: Option<i64>, length: i64| ElstEntry {
            segment_duration: length.unsigned_abs(),
            media_time: media_time.map(i64::unsigned_abs),
            media_rate: FixedPoint::from(1),
        };
        let wait = (waits > 0).then(|| edit(None, waits));
        let entries = wait.into_iter().chain([edit(Some(trimmed + raised), shown)]).collect();

        let mut trak = self.trak.clone();
        trak.tkhd.track_id = track_id;
        trak.tkhd.duration = (waits + shown).unsigned_abs();
        trak.edts = Some(Edts { elst: Some(Elst { entries }) });
        trak.mdia.mdhd.duration = length.unsigned_abs();
        let all_keys = self.keys.len() == self.sizes.len();
        let plain = ctts.iter().all(|run| run.sample_offset == 0);
        trak.mdia.minf.stbl = Stbl {
            stsd: Stsd { codecs: std::mem::take(&mut self.entries) },
            stts: Stts { entries: std::mem::take(&mut self.stts) },
            ctts: (!plain).then_some(Ctts { entries: ctts }),
            stss: (!all_keys).then(|| Stss { entries: std::mem::take(&mut self.keys) }),
            stsc: Stsc { entries: std::mem::take(&mut self.stsc) },
            stsz: Stsz { samples: StszSamples::Different { sizes: std::mem::take(&mut self.sizes) } },
            co64: Some(Co64 { entries: std::mem::take(&mut self.chunks) }),
            ..Stbl::default()
        };
        trak
    }
}

fn encode(what: &(impl Encode + Atom), out: &mut Vec<u8>) -> Result<(), RecordingError> {
    what.encode(out).map_err(|error| RecordingError::Encode(error.to_string()))
}

/// The only track of an init segment, and its sample entry.
fn read_init(init: &[u8]) -> Result<(Trak, Codec), RecordingError> {
    let bad = |why: &dyn std::fmt::Display| RecordingError::Init(why.to_string());
    let mut rest = init;
    while let Some(found) = Any::decode_maybe(&mut rest).map_err(|error| bad(&error))? {
        let Any::Moov(moov) = found else { continue };
        let [trak] = moov.trak.as_slice() else {
            return Err(bad(&format_args!("{} tracks", moov.trak.len())));
        };
        let [codec] = trak.mdia.minf.stbl.stsd.codecs.as_slice() else {
            return Err(bad(&"not one sample entry"));
        };
        if trak.mdia.mdhd.timescale == 0 {
            return Err(bad(&"no timescale"));
        }
        return Ok((trak.clone(), codec.clone()));
    }
    Err(bad(&"no moov"))
}

#[cfg(test)]
mod tests;
