//! The size of pictures in the sequence parameter sets of H.264 and HEVC, which crop their pictures in the same way.
//!
//! What belongs here: that size. What does not: where it stands in a parameter set.

use crate::bits::Bits;

/// A picture's width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PictureSize {
    /// As coded, in whole blocks.
    pub(crate) coded: (u32, u32),
    /// After cropping.
    pub(crate) shown: (u32, u32),
}

impl PictureSize {
    /// Reads the flag that says whether pictures are cropped, and the four offsets behind the flag (ITU-T H.264, 7.3.2.1.1;
    /// H.265, 7.3.2.2.1). The offsets count in units of the chroma format, and vertically in units `fields` times as large:
    /// two in H.264's interlaced pictures.
    pub(crate) fn read_cropping(
        bits: &mut Bits<'_>,
        coded: (u32, u32),
        chroma_format: u32,
        fields: u32,
    ) -> Option<Self> {
        if !bits.flag()? {
            return Some(Self { coded, shown: coded });
        }
        let (left, right, top, bottom) = (bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?);
        let (unit_x, unit_y) = match chroma_format {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let cropped =
            |size: u32, a: u32, b: u32, unit| size.checked_sub(a.checked_add(b)?.checked_mul(unit)?);
        let shown = (cropped(coded.0, left, right, unit_x)?, cropped(coded.1, top, bottom, unit_y * fields)?);
        Some(Self { coded, shown })
    }

    /// Pixels of the coded picture: a decoder allocates these.
    pub(crate) fn coded_pixels(self) -> u64 {
        u64::from(self.coded.0).saturating_mul(self.coded.1.into())
    }
}
