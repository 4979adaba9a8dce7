//! Media segments: styp, moof and mdat.

use super::{CMFC, CMFS, FLAGS_KEY, FLAGS_NON_KEY, ISO6, TRACK_ID};
use bytes::Bytes;
use mp4_atom::{Encode, Mfhd, Moof, Styp, Tfdt, Tfhd, Traf, Trun, TrunEntry, TrunSamples};

/// Length of mdat's size and type.
const MDAT_HEADER_LEN: usize = 8;

/// One access unit with its times in the track's timescale.
#[derive(Clone, Debug)]
pub(crate) struct FragmentSample {
    pub(crate) duration: u32,
    /// pts - dts; may be negative.
    pub(crate) composition_offset: i32,
    pub(crate) key: bool,
    pub(crate) data: Bytes,
}

/// The kind of a track's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FragmentKind {
    Video,
    Audio,
}

/// A fragment, preceded by a styp if the fragment `begins` a segment.
///
/// `samples` is not empty and holds less than 2 GiB: the packager's buffer limit is far below that.
pub(crate) fn fragment(
    begins: bool,
    kind: FragmentKind,
    fragment_number: u32,
    base_decode_time: u64,
    samples: &[FragmentSample],
) -> Bytes {
    let body_len: usize = samples.iter().map(|s| s.data.len()).sum();
    let styp = Styp { major_brand: CMFS, minor_version: 0, compatible_brands: vec![CMFS, CMFC, ISO6] };

    let mut moof = Moof {
        mfhd: Mfhd { sequence_number: fragment_number },
        traf: vec![traf(kind, base_decode_time, samples)],
    };
    let mut boxes = Vec::new();
    moof.encode(&mut boxes).expect("fields of a moof encode in any combination that `traf` makes");
    // Offsets count from the moof's first byte (default-base-is-moof); the moof's length does not depend on the
    // offsets.
    moof.traf[0].trun[0].data_offset = Some((boxes.len() + MDAT_HEADER_LEN) as i32);

    let mut out = Vec::with_capacity(64 + boxes.len() + MDAT_HEADER_LEN + body_len);
    if begins {
        styp.encode(&mut out).expect("three brands always encode");
    }
    moof.encode(&mut out).expect("it just did");
    let mdat_len =
        u32::try_from(MDAT_HEADER_LEN + body_len).expect("the packager's buffer is far below 4 GiB");
    out.extend_from_slice(&mdat_len.to_be_bytes());
    out.extend_from_slice(b"mdat");
    for sample in samples {
        out.extend_from_slice(&sample.data);
    }
    out.into()
}

fn traf(kind: FragmentKind, base_decode_time: u64, samples: &[FragmentSample]) -> Traf {
    let first_duration = samples.first().map(|s| s.duration);
    let same_duration = samples.iter().all(|s| Some(s.duration) == first_duration);
    let only_first_is_key = samples.iter().skip(1).all(|s| !s.key);
    let video = kind == FragmentKind::Video;
    let entries = samples.iter().enumerate().map(|(index, sample)| TrunEntry {
        duration: (!same_duration).then_some(sample.duration),
        size: Some(sample.data.len() as u32),
        // trex has the most common flags: a fragment overrides them for its first sample, or else for every sample.
        flags: (video && (index == 0 || !only_first_is_key)).then_some(if sample.key {
            FLAGS_KEY
        } else {
            FLAGS_NON_KEY
        }),
        cts: video.then_some(sample.composition_offset.into()),
    });
    Traf {
        tfhd: Tfhd {
            track_id: TRACK_ID,
            default_sample_duration: first_duration.filter(|_| same_duration),
            default_base_is_moof: true,
            ..Tfhd::default()
        },
        tfdt: Some(Tfdt { base_media_decode_time: base_decode_time }),
        trun: vec![Trun { data_offset: Some(0), samples: TrunSamples::Explicit(entries.collect()) }],
        ..Traf::default()
    }
}
