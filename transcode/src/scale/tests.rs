use super::*;

fn rung(width: u16, height: u16) -> VideoRung {
    VideoRung { name: format!("{height}p"), width, height, frame_rate: (30, 1), bitrate: 1 }
}

fn plain(pixels: format::Pixel, width: u32, height: u32, luma: u8) -> frame::Video {
    let mut picture = raw::allocate(pixels, width, height).unwrap();
    for plane in 0..picture.planes() {
        picture.data_mut(plane).fill(if plane == 0 { luma } else { 128 });
    }
    picture
}

fn luma(picture: &frame::Video, x: usize, y: usize) -> u8 {
    picture.data(0)[y * picture.stride(0) + x]
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect { x, y, width, height }
}

#[test]
fn rounding_makes_no_bars_and_other_shapes_do() {
    assert_eq!(fit((1280, 720), (854, 480)), rect(0, 0, 854, 480));
    assert_eq!(fit((1280, 720), (426, 240)), rect(0, 0, 426, 240));
    assert_eq!(fit((4, 3), (1280, 720)), rect(160, 0, 960, 720));
    assert_eq!(fit((720, 1280), (1280, 720)), rect(438, 0, 404, 720));
    assert_eq!(fit((1280, 720), (720, 1280)), rect(0, 438, 720, 404));
    assert_eq!(fit((1, 10_000), (64, 64)), rect(30, 0, 2, 64));
}

#[test]
fn a_rung_of_the_sources_kind_shares_its_pixels() {
    let source = plain(format::Pixel::YUV420P, 640, 360, 90);
    let mut cascade = Cascade::new(&[rung(640, 360), rung(320, 180)], 2);
    let made = cascade.scale(&source, &[true, true]).unwrap();
    assert_eq!(made[0].as_ref().unwrap().data(0).as_ptr(), source.data(0).as_ptr());
    let small = made[1].as_ref().unwrap();
    assert_eq!((small.width(), small.height(), luma(small, 100, 100)), (320, 180, 90));
}

#[test]
fn every_kind_of_pixel_becomes_limited_420() {
    use format::Pixel::*;
    for pixels in [YUVJ420P, YUV422P, YUVJ422P, YUV444P, NV12, YUV420P10LE, GBRP] {
        let source = plain(pixels, 64, 48, 128);
        let made = Cascade::new(&[rung(64, 48)], 2).scale(&source, &[true]).unwrap();
        let made = made[0].as_ref().unwrap();
        assert_eq!(made.format(), YUV420P, "{pixels:?}");
        assert_eq!(made.color_range(), color::Range::MPEG, "{pixels:?}");
    }
    // Full range: white at 255 becomes 235.
    let made = Cascade::new(&[rung(64, 48)], 2).scale(&plain(YUVJ420P, 64, 48, 255), &[true]).unwrap();
    assert_eq!(luma(made[0].as_ref().unwrap(), 5, 5), 235);
}

#[test]
fn another_shape_is_fitted_between_black_bars_in_every_rung() {
    let source = plain(format::Pixel::YUV420P, 400, 300, 200);
    let made = Cascade::new(&[rung(640, 360), rung(320, 180)], 2).scale(&source, &[true, true]).unwrap();
    for (picture, scale) in [(made[0].as_ref().unwrap(), 2), (made[1].as_ref().unwrap(), 1)] {
        assert_eq!(luma(picture, 10 * scale, 90 * scale), 16);
        assert_eq!(luma(picture, 310 * scale, 90 * scale), 16);
        assert_eq!(luma(picture, 160 * scale, 90 * scale), 200);
    }
}

#[test]
fn a_picture_left_out_above_is_made_from_the_source() {
    let source = plain(format::Pixel::YUV420P, 640, 360, 90);
    let mut cascade = Cascade::new(&[rung(480, 270), rung(320, 180)], 2);
    for wanted in [[true, true], [false, true], [true, true]] {
        let made = cascade.scale(&source, &wanted).unwrap();
        assert_eq!(made[0].is_some(), wanted[0]);
        assert_eq!(luma(made[1].as_ref().unwrap(), 50, 50), 90);
    }
}

#[test]
fn pictures_are_used_again_and_never_while_somebody_reads() {
    let mut cascade = Cascade::new(&[rung(320, 180)], 2);
    let held: Vec<_> = (0..4u8)
        .map(|n| {
            cascade
                .scale(&plain(format::Pixel::YUV420P, 640, 360, 50 + n), &[true])
                .unwrap()
                .remove(0)
                .unwrap()
        })
        .collect();
    assert_eq!(cascade.rungs[0].pool.frames.len(), 4);
    for (n, picture) in held.iter().enumerate() {
        assert_eq!(luma(picture, 9, 9), 50 + n as u8);
    }
    drop(held);
    for _ in 0..10 {
        cascade.scale(&plain(format::Pixel::YUV420P, 640, 360, 50), &[true]).unwrap();
    }
    assert_eq!(cascade.rungs[0].pool.frames.len(), 4);
}

#[test]
fn a_change_of_shape_leaves_no_trace_of_the_old_one() {
    let mut cascade = Cascade::new(&[rung(320, 180)], 2);
    cascade.scale(&plain(format::Pixel::YUV420P, 640, 360, 200), &[true]).unwrap();
    let made = cascade.scale(&plain(format::Pixel::YUV420P, 300, 300, 200), &[true]).unwrap();
    assert_eq!(luma(made[0].as_ref().unwrap(), 2, 90), 16);
}

/// An SDR picture is the same bytes as before, between HDR pictures too; HDR pictures become BT.709.
#[test]
fn a_source_that_changes_between_sdr_and_hdr_is_judged_picture_by_picture() {
    let sdr = || {
        let mut picture = plain(format::Pixel::YUV420P, 64, 48, 100);
        picture.set_color_space(color::Space::SMPTE170M);
        picture
    };
    let hdr = || {
        let mut picture = black_hdr((64, 48)).unwrap();
        picture.data_mut(0).as_chunks_mut::<2>().0.fill(509_u16.to_le_bytes());
        picture.set_color_space(color::Space::BT2020NCL);
        picture.set_color_primaries(color::Primaries::BT2020);
        picture.set_color_transfer_characteristic(color::TransferCharacteristic::SMPTE2084);
        picture
    };
    let mut cascade = Cascade::new(&[rung(64, 48), rung(32, 24)], 2);
    for round in 0..2 {
        let source = sdr();
        let made = cascade.scale(&source, &[true, true]).unwrap();
        let [Some(large), Some(small)] = &made[..] else { panic!("both are wanted") };
        assert_eq!(large.data(0).as_ptr(), source.data(0).as_ptr(), "{round}");
        assert_eq!((luma(small, 9, 9), small.color_space()), (100, color::Space::SMPTE170M));
        for wanted in [[true, true], [false, true]] {
            let made = cascade.scale(&hdr(), &wanted).unwrap();
            assert_eq!(made[0].is_some(), wanted[0]);
            for picture in made.iter().flatten() {
                // 100 cd/m2, as the reference in the tests of the tone mapping has it.
                assert_eq!((luma(picture, 9, 9), picture.data(1)[0], picture.data(2)[0]), (201, 128, 128));
                assert_eq!(picture.format(), format::Pixel::YUV420P);
                assert_eq!(picture.color_space(), color::Space::BT709);
                assert_eq!(picture.color_primaries(), color::Primaries::BT709);
                assert_eq!(picture.color_transfer_characteristic(), color::TransferCharacteristic::BT709);
                assert_eq!(picture.color_range(), color::Range::MPEG);
            }
        }
    }
}

#[test]
fn hdr_of_every_format_is_fitted_between_black_bars() {
    use format::Pixel::*;
    for (pixels, grey) in [(YUV420P10LE, 509_u16), (YUV422P10LE, 509), (YUV444P12LE, 2036), (YUV420P, 127)] {
        let mut source = raw::allocate(pixels, 400, 300).unwrap();
        let middle = if grey < 256 { 128 } else { (grey / 509) * 512 };
        for (plane, value) in [grey, middle, middle].into_iter().enumerate() {
            if grey < 256 {
                source.data_mut(plane).fill(value as u8);
            } else {
                source.data_mut(plane).as_chunks_mut::<2>().0.fill(value.to_le_bytes());
            }
        }
        source.set_color_transfer_characteristic(color::TransferCharacteristic::SMPTE2084);
        let made = Cascade::new(&[rung(640, 360), rung(320, 180)], 1).scale(&source, &[true, true]).unwrap();
        for (picture, scale) in [(made[0].as_ref().unwrap(), 2), (made[1].as_ref().unwrap(), 1)] {
            assert_eq!(luma(picture, 10 * scale, 90 * scale), 16, "{pixels:?}");
            let seen = luma(picture, 160 * scale, 90 * scale);
            assert!((200..=202).contains(&seen), "{pixels:?}: {seen}");
        }
    }
}
