//! The memory of a worker: what takes more than the limit ends the worker at the limit, by the kernel's own measure. Each
//! test has a process of its own, so that the kernel's peak is that of one worker.

use crate::sandbox::{Ending, NOBODY, attack, encoded, run};
use crate::support::{SECOND, Source, job, rung};
use bytes::Bytes;
use media::{MediaTime, Unit, VideoCodec};
use transcode::wire::{Request, WireUnit};

const LIMIT: i64 = 256 << 20;

/// Runs a worker with that limit of memory in bytes, and returns the largest resident size that it had (`ru_maxrss`,
/// which is VmHWM), in bytes.
fn run_with(limit: i64, input: &[u8]) -> (Ending, i64) {
    let ending = run(NOBODY, &[&format!("--memory={limit}")], input);
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    (ending, usage.max_rss() * 1024)
}

#[test]
fn a_leak_ends_the_worker_at_its_limit() {
    let input = attack("leak");
    let (ending, peak) = run_with(LIMIT, &input);
    assert_eq!(ending.signal, Some(libc::SIGABRT), "{ending:?}");
    assert!(ending.stderr.contains("memory allocation of 1048576 bytes failed"), "{ending:?}");
    // The source's ffmpeg is a child of this process too, and needs less than four fifths of the limit.
    assert!((LIMIT * 8 / 10..LIMIT + LIMIT / 20).contains(&peak), "{peak} bytes at a limit of {LIMIT}");
}

#[test]
fn pictures_that_need_more_than_the_limit_end_the_worker() {
    // Each picture of 4096x2304 takes 14 MB; decoder, scaler and encoder hold many pictures.
    let mut requests = vec![Request::Start(job(vec![rung(1280, 720, 25, 2_000_000)]))];
    requests.extend(Source::video("4096x2304", "25", 1, "").requests);
    requests.push(Request::Finish);
    let ending = run(NOBODY, &["--memory=67108864"], &encoded(&requests));
    assert_eq!(ending.code, Some(i32::from(transcode::OUT_OF_MEMORY)), "{ending:?}");
}

/// A picture of 12288x12288 takes 226 MB, one byte of the publisher's for each 16x16 samples. The job has no limit of
/// pixels: what holds is the limit of memory alone.
#[test]
fn a_picture_of_twelve_thousand_squared_ends_the_worker_at_its_limit() {
    // One picture fits in 512 MiB, and the next does not, although memory for anything smaller is left.
    for limit in [LIMIT, 2 * LIMIT] {
        let (ending, peak) = run_with(limit, &encoded(&gray_pictures(12_288, 5)));
        assert_eq!(ending.code, Some(i32::from(transcode::OUT_OF_MEMORY)), "{ending:?}");
        assert!(peak < limit + limit / 20, "{peak} bytes at a limit of {limit}");
    }
}

/// What the test above sends is a picture: a smaller one of the same making is decoded within the same limit.
#[test]
fn a_large_picture_within_the_limit_is_decoded() {
    let (ending, peak) = run_with(LIMIT, &encoded(&gray_pictures(1024, 5)));
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    assert!(peak < LIMIT && ending.stdout.len() > 100, "{peak} bytes, {ending:?}");
}

/// A job over that many gray pictures, written bit by bit, because an encoder would need gigabytes for them: each is an
/// IDR picture of one slice (ITU-T H.264 7.3), whose macroblocks are predicted from their neighbours' mean without any
/// residual, eight bits each. Width and height are `size` samples, a multiple of 16.
fn gray_pictures(size: u32, count: u32) -> Vec<Request> {
    let in_macroblocks = size / 16;
    let mut sps = Bits::default();
    // Identifier, frame numbers, order of pictures as decoded, one reference frame, no gaps.
    sps.unsigned(0).unsigned(0).unsigned(2).unsigned(1).fixed(1, 0);
    // Size; frames only, direct inference, no cropping, no VUI.
    sps.unsigned(in_macroblocks - 1).unsigned(in_macroblocks - 1).fixed(4, 0b1100);
    let sps = sps.unit(&[0x67, 66, 0xc0, 62]);
    let mut pps = Bits::default();
    // Identifiers, CAVLC, one slice group, references, weights, quantisers, and control of the deblocking filter.
    pps.unsigned(0).unsigned(0).fixed(2, 0).unsigned(0).unsigned(0).unsigned(0).fixed(3, 0);
    pps.unsigned(0).unsigned(0).unsigned(0).fixed(3, 0b100);
    let pps = pps.unit(&[0x68]);
    let mut record = vec![1, 66, 0xc0, 62, 0xff, 0xe1];
    for (set, count) in [(&sps, None), (&pps, Some(1))] {
        record.extend(count);
        record.extend(u16::try_from(set.len()).unwrap().to_be_bytes());
        record.extend(set);
    }

    let mut requests = vec![
        Request::Start(job(vec![rung(160, 160, 25, 200_000)])),
        Request::VideoConfig { codec: VideoCodec::H264, record: Bytes::from(record) },
    ];
    for index in 0..count {
        let mut slice = Bits::default();
        // First macroblock, an I slice, the picture's parameter set, frame number, identifier of the IDR picture, marking,
        // quantiser, no deblocking.
        slice
            .unsigned(0)
            .unsigned(7)
            .unsigned(0)
            .fixed(4, 0)
            .unsigned(index % 2)
            .fixed(2, 0)
            .unsigned(0)
            .unsigned(1);
        for _ in 0..in_macroblocks * in_macroblocks {
            // I_16x16 by the mean, chroma by the mean, same quantiser, no coefficients.
            slice.fixed(8, 0b0010_0111);
        }
        let slice = slice.unit(&[0x65]);
        let time = MediaTime::from_ticks_90k(i64::from(index) * SECOND / 25);
        let data = [&u32::try_from(slice.len()).unwrap().to_be_bytes()[..], &slice].concat();
        let unit = Unit { pts: time, dts: time, key: true, data: Bytes::from(data) };
        requests.push(Request::Unit(WireUnit { track: 0, unit }));
    }
    requests.push(Request::Finish);
    requests
}

/// Writes the bits of a NAL unit.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits written.
    length: usize,
}

impl Bits {
    /// The `count` lowest bits of `value`, the highest first.
    fn fixed(&mut self, count: u32, value: u32) -> &mut Self {
        for shift in (0..count).rev() {
            if self.length.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let bit = (value >> shift & 1) as u8;
            *self.bytes.last_mut().unwrap() |= bit << (7 - self.length % 8);
            self.length += 1;
        }
        self
    }

    /// An Exp-Golomb code (ITU-T H.264 9.1). For signed values that are 0 it is the same.
    fn unsigned(&mut self, value: u32) -> &mut Self {
        let digits = (value + 1).ilog2();
        self.fixed(digits, 0).fixed(digits + 1, value + 1)
    }

    /// The unit behind that header, with its stop bit and with bytes that keep start codes out (7.3.1, 7.3.2.11).
    fn unit(&mut self, header: &[u8]) -> Vec<u8> {
        self.fixed(1, 1);
        let mut unit = header.to_vec();
        let mut zeros = 0;
        for byte in std::mem::take(&mut self.bytes) {
            if zeros == 2 && byte <= 3 {
                unit.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            unit.push(byte);
        }
        unit
    }
}
