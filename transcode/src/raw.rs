//! The only file of the project with `unsafe` in it. It bridges the gap between libav and ffmpeg-next's safe interface,
//! and installs the worker's one signal handler. Each function here does one thing that safe interfaces lack, and says
//! why it is sound. No policy belongs here: the choice of encoder, filter or size is made elsewhere, and so is the
//! choice of system calls.
#![allow(unsafe_code)]

use bytes::Bytes;
use ffmpeg_next::codec::{Context, Parameters};
use ffmpeg_next::{Codec, Dictionary, Error, codec, ffi, format, frame, software};
use std::ffi::{c_int, c_void};
use std::{io, ptr};

/// Parameters for a decoder that gets its configuration `record` out of band instead of from a demuxer; an empty record
/// for a codec without one. `sound` is the sample rate in Hz and the number of channels (1 to 8), for audio codecs whose
/// frames do not tell.
pub(super) fn parameters(
    medium: ffmpeg_next::media::Type,
    id: codec::Id,
    record: &[u8],
    sound: Option<(u32, u8)>,
) -> Result<Parameters, Error> {
    let mut parameters = Parameters::new();
    parameters.set_medium(medium);
    parameters.set_id(id);
    if let Some((rate, channels)) = sound {
        let rate = c_int::try_from(rate).map_err(|_| Error::InvalidData)?;
        // SAFETY: `parameters` is a live, exclusively owned AVCodecParameters. Its channel layout is the empty one after
        // allocation, which owns no memory, and av_channel_layout_default overwrites it with one that owns none either.
        unsafe {
            let raw = parameters.as_mut_ptr();
            (*raw).sample_rate = rate;
            ffi::av_channel_layout_default(&mut (*raw).ch_layout, channels.into());
        }
    }
    if record.is_empty() {
        return Ok(parameters);
    }
    let size = c_int::try_from(record.len()).map_err(|_| Error::InvalidData)?;
    let padded = record.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
    // SAFETY: `parameters` is a live, exclusively owned AVCodecParameters (`new` fails only out of memory, and then
    // `set_medium` above has crashed on its null). Its extradata is null after allocation, so nothing leaks. The new
    // block is `record.len()` plus the zeroed padding that libavcodec/codec_par.h asks for, from av_malloc's family
    // as its release needs; the copy stays within both blocks, which cannot overlap.
    unsafe {
        let raw = parameters.as_mut_ptr();
        let block = ffi::av_mallocz(padded).cast::<u8>();
        if block.is_null() {
            return Err(Error::Other { errno: 12 });
        }
        ptr::copy_nonoverlapping(record.as_ptr(), block, record.len());
        (*raw).extradata = block;
        (*raw).extradata_size = size;
    }
    Ok(parameters)
}

/// A copy of the configuration that a demuxer found for a stream; empty when the stream has none.
pub(super) fn stream_extradata(parameters: &Parameters) -> Bytes {
    // SAFETY: `as_ptr` is valid for as long as `parameters` is borrowed, and the parameters do not change meanwhile:
    // every method that changes them takes them mutably. libav keeps `extradata` either null or pointing to
    // `extradata_size` readable bytes.
    unsafe {
        let raw = parameters.as_ptr();
        match ((*raw).extradata, usize::try_from((*raw).extradata_size)) {
            (data, Ok(size)) if !data.is_null() => {
                Bytes::copy_from_slice(std::slice::from_raw_parts(data, size))
            }
            _ => Bytes::new(),
        }
    }
}

/// The configuration that an opened encoder produced; empty when it produces none.
pub(super) fn extradata(context: &Context) -> &[u8] {
    // SAFETY: the context is alive as long as the borrow. libavcodec keeps `extradata` pointing at `extradata_size`
    // readable bytes, or null with size 0 (avcodec.h), and an encoder does not change `extradata` once it is open.
    unsafe {
        let raw = context.as_ptr();
        match ((*raw).extradata, usize::try_from((*raw).extradata_size)) {
            (data, Ok(size)) if !data.is_null() => std::slice::from_raw_parts(data, size),
            _ => &[],
        }
    }
}

/// Sets the size of the rate-control buffer, in bits. Call it before the encoder is opened.
pub(super) fn set_rate_buffer(context: &mut Context, bits: i32) {
    // SAFETY: writes a plain integer field of a live context that is borrowed exclusively.
    unsafe { (*context.as_mut_ptr()).rc_buffer_size = bits }
}

/// Opens an encoder and returns the names of the options that it did not recognise (the safe interface drops them).
pub(super) fn open(context: &mut Context, codec: &Codec, options: Dictionary) -> Result<Vec<String>, Error> {
    // SAFETY: context and codec are live. avcodec_open2 takes the dictionary by reference, frees the entries that it
    // used and leaves the rest to the caller in `raw`; `Dictionary::own` takes ownership of `raw` again on success and
    // on error alike.
    let (result, rest) = unsafe {
        let mut raw = options.disown();
        let result = ffi::avcodec_open2(context.as_mut_ptr(), codec.as_ptr(), &mut raw);
        (result, Dictionary::own(raw))
    };
    if result < 0 {
        Err(Error::from(result))
    } else {
        Ok(rest.iter().map(|(name, _)| name.to_owned()).collect())
    }
}

/// Another reference to the same picture, without copying pixels. The new frame has its own time and picture type; the
/// pixels are shared and must not be written through either frame: see [`is_unshared`].
pub(super) fn share(picture: &frame::Video) -> Result<frame::Video, Error> {
    let mut shared = frame::Video::empty();
    // SAFETY: both frames are live, and `shared` is blank as av_frame_ref requires. References are counted atomically
    // (libavutil/buffer.c), so the two frames may live in different threads.
    let result = unsafe { ffi::av_frame_ref(shared.as_mut_ptr(), picture.as_ptr()) };
    if result < 0 { Err(Error::from(result)) } else { Ok(shared) }
}

/// Gives a frame these closed captions (cc_data of ATSC A/53 part 4) in place of those that it has; none if empty. Frames
/// that share its pixels keep theirs.
pub(super) fn set_captions(picture: &mut frame::Video, captions: &[u8]) -> Result<(), Error> {
    picture.remove_side_data(frame::side_data::Type::A53CC);
    if captions.is_empty() {
        return Ok(());
    }
    let kind = ffi::AVFrameSideDataType::AV_FRAME_DATA_A53_CC;
    // SAFETY: the frame is live and borrowed exclusively. av_frame_new_side_data returns null, or side data with a new
    // buffer of `captions.len()` bytes that nothing else refers to; the copy fills exactly this buffer.
    unsafe {
        let data = ffi::av_frame_new_side_data(picture.as_mut_ptr(), kind, captions.len());
        if data.is_null() {
            return Err(Error::Other { errno: 12 });
        }
        ptr::copy_nonoverlapping(captions.as_ptr(), (*data).data, captions.len());
    }
    Ok(())
}

/// Whether this frame holds the only reference to the picture's pixels, so that the pixels may be written.
pub(super) fn is_unshared(picture: &mut frame::Video) -> bool {
    // SAFETY: only reads the reference counts of a live frame, atomically. A count of one cannot grow concurrently:
    // taking another reference requires this frame, which is borrowed exclusively.
    unsafe { ffi::av_frame_is_writable(picture.as_mut_ptr()) == 1 }
}

/// A new picture with its own pixel buffers; the content is unspecified.
pub(super) fn allocate(pixels: format::Pixel, width: u32, height: u32) -> Result<frame::Video, Error> {
    let picture = frame::Video::new(pixels, width, height);
    // SAFETY: reads a pointer of a live frame. `new` ignores a failed allocation, which leaves the pointer null.
    let missing = unsafe { picture.is_empty() };
    if missing { Err(Error::Other { errno: 12 }) } else { Ok(picture) }
}

/// A rectangle inside a picture, in luma pixels. All four values are even, so that chroma positions are whole in 4:2:0
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// The settings of a [`Scaler`]; another source or target needs another scaler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScalerSetup {
    /// Source pixel format.
    pub(super) from: format::Pixel,
    /// Source size of the whole frame, in pixels.
    pub(super) from_size: (u32, u32),
    /// Whether to read only every second line: one field of an interlaced frame.
    pub(super) one_field: bool,
    /// Whether source samples use the full range 0..=255.
    pub(super) from_full_range: bool,
    /// Target pixel format: planar 4:2:0 of 8 or 10 bits.
    pub(super) to: format::Pixel,
    /// Size of the target frame, in pixels.
    pub(super) to_size: (u32, u32),
    /// Position and size of the picture inside the target frame.
    pub(super) to_rect: Rect,
    /// Whether target samples use the full range 0..=255.
    pub(super) to_full_range: bool,
    /// libswscale's `SWS_*` flags.
    pub(super) flags: i32,
}

/// The pixel format with the same layout whose name does not imply a range: the range is passed separately, and
/// libswscale warns about the `YUVJ` formats.
fn without_range(pixels: format::Pixel) -> format::Pixel {
    match pixels {
        format::Pixel::YUVJ420P => format::Pixel::YUV420P,
        format::Pixel::YUVJ422P => format::Pixel::YUV422P,
        format::Pixel::YUVJ444P => format::Pixel::YUV444P,
        other => other,
    }
}

/// libav's number for a pixel format, after [`without_range`].
fn pixel_format(pixels: format::Pixel) -> i64 {
    let format: ffi::AVPixelFormat = without_range(pixels).into();
    format as i64
}

/// A libswscale context with the features that ffmpeg-next leaves out: colour ranges, fields, and a target rectangle.
pub(super) struct Scaler {
    raw: ptr::NonNull<ffi::SwsContext>,
    setup: ScalerSetup,
}

impl Scaler {
    pub(super) fn new(setup: ScalerSetup) -> Result<Self, Error> {
        let rect = setup.to_rect;
        let fits = |at: u32, length: u32, whole: u32| at.checked_add(length).is_some_and(|end| end <= whole);
        let even = [rect.x, rect.y, rect.width, rect.height].iter().all(|v| v % 2 == 0);
        let planar =
            matches!(setup.to, format::Pixel::YUV420P | format::Pixel::YUVJ420P | format::Pixel::YUV420P10LE);
        if !even
            || !planar
            || !fits(rect.x, rect.width, setup.to_size.0)
            || !fits(rect.y, rect.height, setup.to_size.1)
        {
            return Err(Error::InvalidData);
        }
        let from_height = if setup.one_field { setup.from_size.1 / 2 } else { setup.from_size.1 };
        let int = |v: u32| c_int::try_from(v).map_err(|_| Error::InvalidData);
        // Set the ranges before the context is initialised: for equal sizes and formats libswscale decides at that
        // point whether it merely copies.
        let options: [(&std::ffi::CStr, i64); 9] = [
            (c"srcw", int(setup.from_size.0)?.into()),
            (c"srch", int(from_height)?.into()),
            (c"src_format", pixel_format(setup.from)),
            (c"src_range", setup.from_full_range.into()),
            (c"dstw", int(rect.width)?.into()),
            (c"dsth", int(rect.height)?.into()),
            (c"dst_format", pixel_format(setup.to)),
            (c"dst_range", setup.to_full_range.into()),
            (c"sws_flags", setup.flags.into()),
        ];
        // SAFETY: the context is allocated here, and either freed here or owned by the result. av_opt_set_int takes an
        // object that begins with an AVClass, as an SwsContext does, and a name that outlives the call.
        // sws_init_context checks sizes and formats and returns an error when they are not supported. The coefficient
        // tables are libswscale's static data.
        let raw = unsafe {
            let Some(raw) = ptr::NonNull::new(ffi::sws_alloc_context()) else {
                return Err(Error::Other { errno: 12 });
            };
            let set = options
                .iter()
                .all(|(name, value)| ffi::av_opt_set_int(raw.as_ptr().cast(), name.as_ptr(), *value, 0) >= 0);
            if !set || ffi::sws_init_context(raw.as_ptr(), ptr::null_mut(), ptr::null_mut()) < 0 {
                ffi::sws_freeContext(raw.as_ptr());
                return Err(Error::InvalidData);
            }
            let table = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT as c_int);
            ffi::sws_setColorspaceDetails(
                raw.as_ptr(),
                table,
                setup.from_full_range.into(),
                table,
                setup.to_full_range.into(),
                0,
                1 << 16,
                1 << 16,
            );
            raw
        };
        Ok(Self { raw, setup })
    }

    pub(super) fn setup(&self) -> &ScalerSetup {
        &self.setup
    }

    /// Scales `from` into the target rectangle of `to`. Both frames must match the setup, and `to` must be unshared;
    /// otherwise the result is [`Error::InvalidData`].
    pub(super) fn run(&mut self, from: &frame::Video, to: &mut frame::Video) -> Result<(), Error> {
        let setup = &self.setup;
        let as_made = from.format() == setup.from
            && (from.width(), from.height()) == setup.from_size
            && to.format() == setup.to
            && (to.width(), to.height()) == setup.to_size;
        if !as_made || !is_unshared(to) {
            return Err(Error::InvalidData);
        }
        let step = if setup.one_field { 2 } else { 1 };
        let rows = (setup.from_size.1 / step) as c_int;
        let (x, y) = (setup.to_rect.x as usize, setup.to_rect.y as usize);
        let sample = if setup.to == format::Pixel::YUV420P10LE { 2 } else { 1 };
        // SAFETY: `from` has `from_size` pixels of format `from` (checked above), so libswscale reads `rows` of its
        // lines; with doubled strides it reads every second line and ends inside the picture, because `rows` was
        // halved. `to` is planar 4:2:0 of size `to_size` with samples of `sample` bytes, and `new` checked that the
        // rectangle lies inside `to` and is even. Plane offsets of (y * stride + x * sample), with x and y halved for
        // chroma, are therefore the start of the rectangle, and
        // all writes stay inside the rectangle, except for the padding that libswscale may use at the right edge:
        // av_frame_get_buffer aligns and pads lines. Inside a frame, that overwrite lands in the bar on the right,
        // which [`super::scale`] only ever keeps wider than none at all. Nothing else reads `to` meanwhile (unshared
        // and borrowed exclusively).
        let lines = unsafe {
            let (source, target) = (from.as_ptr(), to.as_mut_ptr());
            let mut planes_in = [ptr::null::<u8>(); 4];
            let mut strides_in = [0; 4];
            for i in 0..4 {
                planes_in[i] = (*source).data[i];
                strides_in[i] = (*source).linesize[i] * step as c_int;
            }
            let mut planes_out = [ptr::null_mut::<u8>(); 4];
            let mut strides_out = [0; 4];
            for i in 0..3 {
                let shift = usize::from(i > 0);
                let stride = (*target).linesize[i];
                planes_out[i] = (*target).data[i].add((y >> shift) * stride as usize + (x >> shift) * sample);
                strides_out[i] = stride;
            }
            ffi::sws_scale(
                self.raw.as_ptr(),
                planes_in.as_ptr(),
                strides_in.as_ptr(),
                0,
                rows,
                planes_out.as_ptr(),
                strides_out.as_ptr(),
            )
        };
        if lines < 0 { Err(Error::from(lines)) } else { Ok(()) }
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: the context was made by libswscale in `new`, is owned by this value alone, and is freed once.
        unsafe { ffi::sws_freeContext(self.raw.as_ptr()) }
    }
}

/// Converts decoded audio to planar floats, appending to one `Vec` per channel. Without `input`, it drains the samples
/// that the converter has buffered.
///
/// `converter`'s output must be planar `f32` with as many channels as `out` has (1 to 8); otherwise the result is
/// [`Error::InvalidData`]. An `input` in another format than the converter was made for gives [`Error::InputChanged`].
pub(super) fn convert(
    converter: &mut software::resampling::Context,
    input: Option<&frame::Audio>,
    out: &mut [Vec<f32>],
) -> Result<(), Error> {
    let target = *converter.output();
    let planar = format::Sample::F32(format::sample::Type::Planar);
    let channels = usize::try_from(target.channel_layout.channels()).unwrap_or(0);
    if target.format != planar || channels != out.len() || channels == 0 || channels > 8 {
        return Err(Error::InvalidData);
    }
    if let Some(frame) = input {
        let made_for = converter.input();
        if frame.format() != made_for.format
            || i32::from(frame.channels()) != made_for.channel_layout.channels()
            || frame.rate() != made_for.rate
        {
            return Err(Error::InputChanged);
        }
    }
    let samples_in = input.map_or(0, |f| f.samples()) as c_int;
    // SAFETY: `capacity` is libswresample's own upper bound for the samples that this call can write, and each of the
    // `channels` vectors reserves that much spare room before its pointer is taken; `set_len` covers only the samples
    // that were written. Input planes hold `samples_in` samples in the layout that the converter was made for (checked
    // above). Without input, null with a count of 0 asks for the buffered samples.
    unsafe {
        let capacity = ffi::swr_get_out_samples(converter.as_mut_ptr(), samples_in);
        let capacity = usize::try_from(capacity).map_err(|_| Error::from(capacity))?;
        let mut planes = [ptr::null_mut::<u8>(); 8];
        for (plane, channel) in planes.iter_mut().zip(out.iter_mut()) {
            channel.reserve(capacity);
            *plane = channel.as_mut_ptr().add(channel.len()).cast();
        }
        let source = input.map_or(ptr::null_mut(), |f| (*f.as_ptr()).extended_data.cast::<*const u8>());
        let written = ffi::swr_convert(
            converter.as_mut_ptr(),
            planes.as_mut_ptr(),
            capacity as c_int,
            source,
            samples_in,
        );
        let written = usize::try_from(written).map_err(|_| Error::from(written))?;
        for channel in out.iter_mut() {
            channel.set_len(channel.len() + written.min(capacity));
        }
    }
    Ok(())
}

/// What the worker writes to stderr before a forbidden system call ends it; the call's number and a line end follow.
pub const FORBIDDEN_CALL: &str = "worker: forbidden call ";

/// From now on, a system call that the process's filter traps is named on stderr, then SIGSYS kills the process.
pub(super) fn name_forbidden_calls() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = name_forbidden_call;
    // SAFETY: an all-zero sigaction is a valid one (no flags, empty mask, default action). The handler has the
    // signature that SA_SIGINFO asks for, and does only what a handler may do (signal-safety(7)): see there.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        // With SA_RESETHAND a second trapped call, in any thread, kills the process at once.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut())
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Offset of `si_syscall` in `siginfo_t` on Linux with 64-bit pointers: three integers and padding, then `si_call_addr`.
const SI_SYSCALL: usize = 24;

extern "C" fn name_forbidden_call(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t of 128 bytes, in which SIGSYS from a filter has the
    // call's number at this offset, aligned for an int (sigaction(2)).
    let number = unsafe { info.cast::<u8>().add(SI_SYSCALL).cast::<c_int>().read() };
    let mut line = [0; FORBIDDEN_CALL.len() + 12];
    line[..FORBIDDEN_CALL.len()].copy_from_slice(FORBIDDEN_CALL.as_bytes());
    let mut end = FORBIDDEN_CALL.len();
    let mut divisor = 1_000_000_000;
    while divisor > 0 {
        let digit = number.unsigned_abs() / divisor % 10;
        if digit > 0 || end > FORBIDDEN_CALL.len() || divisor == 1 {
            line[end] = b'0' + digit as u8;
            end += 1;
        }
        divisor /= 10;
    }
    line[end] = b'\n';
    // SAFETY: `write` reads `end + 1` initialised bytes of a live array. The second call is one that no filter of
    // ours allows: SIGSYS is blocked in its own handler, so the kernel kills the process there.
    unsafe {
        libc::write(2, line.as_ptr().cast(), end + 1);
        libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0);
        libc::_exit(70);
    }
}

/// Makes any system call, for tests that play code injected into libav.
#[cfg(feature = "testing")]
pub(super) fn any_call(number: libc::c_long, arguments: [usize; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: not sound for every call: a call may write to memory that an argument names. The callers are the tests'
    // attacks, in a process that is confined and about to be killed; they pass no pointer to memory of the process
    // that anything else uses.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests;
