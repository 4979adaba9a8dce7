//! Init and media segments read back with mp4-atom, as a demuxer would read them.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use mp4_atom::{Any, Decode, Moof, Moov, Trex};
use std::collections::BTreeMap;
use std::ops::Range;

/// `sample_is_non_sync_sample` (ISO 14496-12 8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;

/// What an init segment declares.
#[derive(Clone, Debug)]
pub struct Init {
    /// Major brand and compatible brands.
    pub brands: Vec<String>,
    /// Timescale and trex defaults per track ID.
    pub tracks: BTreeMap<u32, InitTrack>,
}

/// One track of an init segment.
#[derive(Clone, Debug)]
pub struct InitTrack {
    /// Units per second of tfdt and of durations.
    pub timescale: u32,
    /// Handler type: `vide`, `soun`, …
    pub handler: String,
    defaults: Trex,
}

/// One sample of a media segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxSample {
    /// Decode time in the track's timescale.
    pub dts: i64,
    /// Presentation time in the track's timescale.
    pub pts: i64,
    /// Duration in the track's timescale.
    pub duration: u32,
    /// Whether the sample is a sync sample.
    pub sync: bool,
    /// Byte range of the sample in the segment.
    pub bytes: Range<usize>,
}

/// Contents of a media segment.
#[derive(Clone, Debug, Default)]
pub struct Fragment {
    /// ID of the only track.
    pub track: u32,
    /// mfhd sequence numbers.
    pub sequence: Vec<u32>,
    /// Samples of all moofs, in decoding order.
    pub samples: Vec<BoxSample>,
}

impl Fragment {
    /// First decode time.
    pub fn start(&self) -> Option<i64> {
        self.samples.first().map(|s| s.dts)
    }

    /// Decode time at the end of the last sample.
    pub fn end(&self) -> Option<i64> {
        self.samples.last().map(|s| s.dts + i64::from(s.duration))
    }
}

fn boxes(body: &Bytes) -> anyhow::Result<Vec<(usize, Any)>> {
    let (mut rest, mut found) = (body.clone(), Vec::new());
    while !rest.is_empty() {
        let at = body.len() - rest.len();
        found.push((at, Any::decode(&mut rest).with_context(|| format!("box at byte {at}"))?));
    }
    Ok(found)
}

/// Reads an init segment.
pub fn init(body: &Bytes) -> anyhow::Result<Init> {
    let (mut brands, mut moov): (Vec<String>, Option<Moov>) = (Vec::new(), None);
    for (_, found) in boxes(body)? {
        match found {
            Any::Ftyp(ftyp) => {
                brands = std::iter::once(ftyp.major_brand)
                    .chain(ftyp.compatible_brands)
                    .map(|b| b.to_string())
                    .collect();
            }
            Any::Moov(found) => moov = Some(found),
            Any::Free(_) => {}
            other => bail!("{} in an init segment", other.kind()),
        }
    }
    let moov = moov.context("no moov")?;
    let trex = moov.mvex.context("no mvex: not a fragmented file")?.trex;
    let tracks = moov
        .trak
        .iter()
        .map(|trak| {
            let id = trak.tkhd.track_id;
            let defaults =
                trex.iter().find(|t| t.track_id == id).with_context(|| format!("no trex for track {id}"))?;
            Ok((
                id,
                InitTrack {
                    timescale: trak.mdia.mdhd.timescale,
                    handler: trak.mdia.hdlr.handler.to_string(),
                    defaults: defaults.clone(),
                },
            ))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Init { brands, tracks })
}

/// Reads a media segment of one track; every sample's bytes must lie within an mdat.
pub fn fragment(init: &Init, body: &Bytes) -> anyhow::Result<Fragment> {
    let (mut fragment, mut pending): (Fragment, Option<(usize, Moof)>) = (Fragment::default(), None);
    for (at, found) in boxes(body)? {
        match found {
            Any::Moof(moof) => {
                ensure!(pending.is_none(), "moof without mdat");
                pending = Some((at, moof));
            }
            Any::Mdat(mdat) => {
                let (start, moof) = pending.take().context("mdat without moof")?;
                let payload = at + 8..at + 8 + mdat.data.len();
                read_moof(init, &mut fragment, start, &moof, &payload)?;
            }
            Any::Styp(_) | Any::Sidx(_) | Any::Prft(_) | Any::Emsg(_) => {}
            other => bail!("{} in a media segment", other.kind()),
        }
    }
    ensure!(pending.is_none(), "moof without mdat");
    ensure!(!fragment.samples.is_empty(), "no samples");
    Ok(fragment)
}

fn read_moof(
    init: &Init,
    fragment: &mut Fragment,
    moof_at: usize,
    moof: &Moof,
    payload: &Range<usize>,
) -> anyhow::Result<()> {
    fragment.sequence.push(moof.mfhd.sequence_number);
    for traf in &moof.traf {
        let (header, id) = (&traf.tfhd, traf.tfhd.track_id);
        ensure!(fragment.track == 0 || fragment.track == id, "two tracks in one segment");
        ensure!(header.default_base_is_moof, "default-base-is-moof is not set");
        fragment.track = id;
        let trex =
            &init.tracks.get(&id).with_context(|| format!("track {id} is not in the init segment"))?.defaults;
        let mut dts = traf.tfdt.as_ref().context("traf without tfdt")?.base_media_decode_time as i64;
        let mut at = payload.start;
        for trun in &traf.trun {
            if let Some(offset) = trun.data_offset {
                at = moof_at.checked_add_signed(offset as isize).context("data offset before the segment")?;
            }
            for entry in trun.samples.iter() {
                let duration =
                    entry.duration.or(header.default_sample_duration).unwrap_or(trex.default_sample_duration);
                let size =
                    entry.size.or(header.default_sample_size).unwrap_or(trex.default_sample_size) as usize;
                let flags = entry.flags.or(header.default_sample_flags).unwrap_or(trex.default_sample_flags);
                let bytes = at..at + size;
                ensure!(bytes.start >= payload.start && bytes.end <= payload.end, "sample outside its mdat");
                at = bytes.end;
                let pts = dts + entry.cts.unwrap_or(0);
                fragment.samples.push(BoxSample { dts, pts, duration, sync: flags & NON_SYNC == 0, bytes });
                dts += i64::from(duration);
            }
        }
    }
    Ok(())
}
