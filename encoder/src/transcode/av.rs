//! The only file with unsafe code: what libav offers and ffmpeg-next's safe API does not.
#![allow(unsafe_code)]

use bytes::Bytes;
use ffmpeg_next as ff;

/// A copy of a stream's codec configuration (`AVCodecParameters.extradata`); empty where there is none.
pub(super) fn extradata(parameters: &ff::codec::Parameters) -> Bytes {
    // SAFETY: `as_ptr` is valid for as long as `parameters` is borrowed, and nobody writes to it meanwhile: every
    // way to change it takes the parameters mutably. libav keeps `extradata` either null or pointing to
    // `extradata_size` readable bytes.
    unsafe {
        let raw = parameters.as_ptr();
        let size = usize::try_from((*raw).extradata_size).unwrap_or(0);
        if (*raw).extradata.is_null() || size == 0 {
            return Bytes::new();
        }
        Bytes::copy_from_slice(std::slice::from_raw_parts((*raw).extradata, size))
    }
}
