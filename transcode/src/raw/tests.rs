use super::*;

fn grey(width: u32, height: u32, luma: u8) -> frame::Video {
    let mut picture = allocate(format::Pixel::YUV420P, width, height).unwrap();
    for plane in 0..3 {
        picture.data_mut(plane).fill(if plane == 0 { luma } else { 128 });
    }
    picture
}

fn setup(from: (u32, u32), to: (u32, u32), to_rect: Rect) -> ScalerSetup {
    ScalerSetup {
        from: format::Pixel::YUV420P,
        from_size: from,
        one_field: false,
        from_full_range: false,
        to: format::Pixel::YUV420P,
        to_size: to,
        to_rect,
        to_full_range: false,
        flags: ffi::SWS_BICUBIC,
    }
}

#[test]
fn parameters_own_a_padded_copy() {
    let record = vec![1, 2, 3];
    let parameters = parameters(ffmpeg_next::media::Type::Video, codec::Id::H264, &record, None).unwrap();
    drop(record);
    let context = Context::from_parameters(parameters).unwrap();
    assert_eq!(extradata(&context), [1, 2, 3]);
    assert!(extradata(&Context::new()).is_empty());
}

#[test]
fn unknown_options_are_named() {
    let codec = ffmpeg_next::encoder::find(codec::Id::AAC).unwrap();
    let mut context = Context::new_with_codec(codec).encoder().audio().unwrap();
    context.set_rate(48_000);
    context.set_format(format::Sample::F32(format::sample::Type::Planar));
    context.set_channel_layout(ffmpeg_next::ChannelLayout::STEREO);
    let options = Dictionary::from_iter([("aac_coder", "fast"), ("aac_codr", "fast")]);
    assert_eq!(open(&mut context, &codec, options).unwrap(), ["aac_codr"]);
}

#[test]
fn shared_pictures_keep_their_pixels_and_block_writing() {
    let mut picture = grey(64, 64, 77);
    assert!(is_unshared(&mut picture));
    let shared = share(&picture).unwrap();
    assert_eq!(shared.data(0).as_ptr(), picture.data(0).as_ptr());
    assert!(!is_unshared(&mut picture));
    let luma = std::thread::spawn(move || shared.data(0)[0]).join().unwrap();
    assert_eq!(luma, 77);
    assert!(is_unshared(&mut picture));
}

#[test]
fn a_share_outlives_its_original() {
    let picture = grey(64, 64, 5);
    let mut shared = share(&picture).unwrap();
    drop(picture);
    assert_eq!(shared.data(0)[63], 5);
    assert!(is_unshared(&mut shared));
}

#[test]
fn scaling_stays_inside_its_rectangle() {
    let rect = Rect { x: 16, y: 8, width: 32, height: 16 };
    let mut scaler = Scaler::new(setup((64, 32), (64, 32), rect)).unwrap();
    let mut target = grey(64, 32, 16);
    scaler.run(&grey(64, 32, 200), &mut target).unwrap();
    let stride = target.stride(0);
    for y in 0..32 {
        for x in 0..64 {
            let inside = (16..48).contains(&x) && (8..24).contains(&y);
            assert_eq!(target.data(0)[y * stride + x], if inside { 200 } else { 16 }, "{x},{y}");
        }
    }
}

#[test]
fn rectangles_outside_or_odd_are_refused() {
    for rect in [
        Rect { x: 34, y: 0, width: 32, height: 32 },
        Rect { x: 0, y: 2, width: 64, height: 32 },
        Rect { x: 1, y: 0, width: 32, height: 32 },
        Rect { x: u32::MAX - 1, y: 0, width: 32, height: 32 },
    ] {
        assert!(Scaler::new(setup((64, 32), (64, 32), rect)).is_err(), "{rect:?}");
    }
}

#[test]
fn other_pictures_than_agreed_are_refused() {
    let rect = Rect { x: 0, y: 0, width: 64, height: 32 };
    let mut scaler = Scaler::new(setup((128, 64), (64, 32), rect)).unwrap();
    assert!(scaler.run(&grey(64, 64, 1), &mut grey(64, 32, 1)).is_err());
    assert!(scaler.run(&grey(128, 64, 1), &mut grey(32, 32, 1)).is_err());
    let mut target = grey(64, 32, 1);
    let reader = share(&target).unwrap();
    assert!(scaler.run(&grey(128, 64, 9), &mut target).is_err(), "somebody reads it");
    assert_eq!(reader.data(0)[0], 1);
}

#[test]
fn one_field_reads_every_second_line() {
    let mut combed = grey(64, 32, 0);
    let stride = combed.stride(0);
    for y in (0..32).step_by(2) {
        combed.data_mut(0)[y * stride..(y + 1) * stride].fill(180);
    }
    let rect = Rect { x: 0, y: 0, width: 64, height: 32 };
    let mut scaler = Scaler::new(ScalerSetup { one_field: true, ..setup((64, 32), (64, 32), rect) }).unwrap();
    let mut target = grey(64, 32, 1);
    scaler.run(&combed, &mut target).unwrap();
    let stride = target.stride(0);
    for y in 0..32 {
        let row = &target.data(0)[y * stride..y * stride + 64];
        assert!(row.iter().all(|v| v.abs_diff(180) <= 1), "line {y}: {row:?}");
    }
}

#[test]
fn audio_for_another_shape_is_refused() {
    use ffmpeg_next::ChannelLayout;
    let planar = format::Sample::F32(format::sample::Type::Planar);
    let mut converter = software::resampling::Context::get(
        planar,
        ChannelLayout::STEREO,
        48_000,
        planar,
        ChannelLayout::MONO,
        48_000,
    )
    .unwrap();
    let mut two = vec![Vec::new(); 2];
    assert!(convert(&mut converter, None, &mut two).is_err(), "two vectors for one channel");
    let mut frame = frame::Audio::new(planar, 100, ChannelLayout::STEREO);
    frame.set_rate(44_100);
    let mut one = vec![Vec::new()];
    assert!(convert(&mut converter, Some(&frame), &mut one).is_err(), "another rate");
    frame.set_rate(48_000);
    for plane in 0..2 {
        frame.plane_mut::<f32>(plane).fill(0.25);
    }
    convert(&mut converter, Some(&frame), &mut one).unwrap();
    assert_eq!(one[0].len(), 100);
    // Each side contributes at -3 dB, libswresample's default.
    let expected = 0.25 * std::f32::consts::SQRT_2;
    assert!(one[0].iter().all(|s| (s - expected).abs() < 0.001), "{:?}", &one[0][..4]);
}
