//! A bit reader for the headers of codecs.
//!
//! What belongs here: bits, bytes' alignment, and the Exp-Golomb codes of H.264 and HEVC. What does not: fields of one
//! codec.

/// A bit reader, most significant bit first. Each method returns `None` when the bytes end early.
#[derive(Clone, Copy)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    /// A reader at the first bit.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads up to 32 bits.
    pub(crate) fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// Reads one bit.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        Some(self.take(1)? == 1)
    }

    /// Skips bits.
    pub(crate) fn skip(&mut self, count: u32) -> Option<()> {
        self.at = self.at.saturating_add(count as usize);
        (self.at <= 8 * self.bytes.len()).then_some(())
    }

    /// Skips to the next byte, counted from the first bit.
    pub(crate) fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// Reads ue(v), an unsigned Exp-Golomb code (ITU-T H.264, 9.1), which AV1 calls uvlc(); `None` above 32 bits, too.
    pub(crate) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1_u32 << zeros) - 1 + self.take(zeros)?)
    }

    /// Reads se(v), a signed Exp-Golomb code (ITU-T H.264, 9.1.1).
    pub(crate) fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        let half = (code + 1) / 2;
        Some(if code % 2 == 1 { half } else { -half })
    }
}

/// The payload of a NAL unit without its emulation prevention bytes (ITU-T H.264, 7.4.1): `00 00 03` stands for `00 00`.
pub(crate) fn without_emulation_prevention(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// The reverse of [`without_emulation_prevention`].
pub(crate) fn with_emulation_prevention(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 8);
    let mut zeros = 0;
    for &byte in payload {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}
