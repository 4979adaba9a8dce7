use super::*;
use crate::raw;

/// PQ colours of BT.2020, and what FFmpeg 5.1.9 with zimg 3.0.4 makes of them with the filters
/// `zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:peak=10,format=gbrp16le,
/// zscale=t=bt709:m=bt709:r=tv`; the second format clips light outside of BT.709's gamut, which zimg would mirror. Beside
/// each the red, green and blue light in cd/m².
const PQ: [([u16; 3], [u8; 3]); 20] = [
    ([64, 512, 512], [16, 128, 128]),   // (0, 0, 0)
    ([195, 512, 512], [48, 128, 128]),  // (1, 1, 1)
    ([327, 512, 512], [100, 128, 128]), // (10, 10, 10)
    ([450, 512, 512], [174, 128, 128]), // (50, 50, 50)
    ([509, 512, 512], [201, 128, 128]), // (100, 100, 100)
    ([573, 512, 512], [218, 128, 128]), // (203, 203, 203)
    ([657, 512, 512], [230, 128, 128]), // (500, 500, 500)
    ([723, 512, 512], [235, 128, 128]), // (1000, 1000, 1000)
    ([412, 493, 580], [109, 122, 195]), // (100, 20, 20)
    ([466, 463, 450], [155, 92, 37]),   // (20, 100, 20)
    ([385, 580, 507], [111, 179, 118]), // (20, 20, 100)
    ([551, 494, 527], [189, 113, 149]), // (203, 150, 110)
    ([439, 495, 530], [156, 115, 150]), // (60, 40, 30)
    ([539, 464, 579], [129, 105, 195]), // (400, 100, 50)
    ([519, 541, 492], [170, 155, 99]),  // (80, 120, 200)
    ([681, 418, 526], [226, 114, 133]), // (800, 700, 100)
    ([522, 481, 433], [169, 102, 28]),  // (30, 200, 60)
    ([451, 552, 577], [118, 161, 194]), // (150, 30, 120)
    ([300, 485, 499], [87, 115, 117]),  // (5, 8, 3)
    ([549, 304, 529], [201, 28, 140]),  // (203, 203, 0.5)
];

/// The same light in HLG.
const HLG: [[u16; 3]; 20] = [
    [64, 512, 512],
    [149, 512, 512],
    [287, 512, 512],
    [499, 512, 512],
    [616, 512, 512],
    [721, 512, 512],
    [847, 512, 512],
    [940, 512, 512],
    [423, 469, 665],
    [530, 404, 374],
    [374, 667, 500],
    [685, 476, 541],
    [476, 473, 558],
    [653, 405, 641],
    [630, 569, 469],
    [878, 335, 537],
    [621, 446, 340],
    [490, 605, 658],
    [253, 477, 493],
    [686, 195, 537],
];

fn source(transfer: Transfer) -> HdrSource {
    HdrSource { transfer, gamut: Gamut::Bt2020, matrix: Matrix::Bt2020, peak: USUAL_PEAK }
}

/// A picture of squares of 16 pixels, one for each colour.
fn squares(colours: &[[u16; 3]]) -> frame::Video {
    let mut picture = raw::allocate(format::Pixel::YUV420P10LE, 16 * colours.len() as u32, 16).unwrap();
    for plane in 0..3 {
        let (stride, side) = (picture.stride(plane), if plane == 0 { 16 } else { 8 });
        for row in picture.data_mut(plane).chunks_mut(stride).take(side) {
            for (square, colour) in row.as_chunks_mut::<2>().0.chunks_mut(side).zip(colours) {
                square.fill(colour[plane].to_le_bytes());
            }
        }
    }
    picture
}

fn mapped(mapper: &ToneMapper, picture: &frame::Video) -> frame::Video {
    let mut out = raw::allocate(format::Pixel::YUV420P, picture.width(), picture.height()).unwrap();
    mapper.map(picture, &mut out).unwrap();
    out
}

/// The colour in the middle of each square.
fn colours(picture: &frame::Video) -> Vec<[u8; 3]> {
    let at = |plane: usize, index: usize| {
        let side = if plane == 0 { 16 } else { 8 };
        picture.data(plane)[side / 2 * picture.stride(plane) + index * side + side / 2]
    };
    (0..picture.width() as usize / 16).map(|index| [0, 1, 2].map(|plane| at(plane, index))).collect()
}

fn distance(a: [u8; 3], b: [u8; 3]) -> u8 {
    a.into_iter().zip(b).map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0)
}

#[test]
fn pq_comes_out_as_ffmpegs_filters_make_it() {
    let picture = squares(&PQ.map(|(colour, _)| colour));
    let made = colours(&mapped(&ToneMapper::new(source(Transfer::Pq), 1), &picture));
    for ((from, expected), made) in PQ.into_iter().zip(made) {
        let is_grey = from[1] == 512 && from[2] == 512;
        let limit = if is_grey { 1 } else { 3 };
        assert!(distance(made, expected) <= limit, "{from:?}: {made:?}, expected {expected:?}");
    }
}

/// FFmpeg's zscale applies the system gamma of HLG to each colour by itself, BT.2100 to the luminance. So the reference is
/// the same light in PQ.
#[test]
fn hlg_comes_out_like_the_same_light_in_pq() {
    let made = colours(&mapped(&ToneMapper::new(source(Transfer::Hlg), 1), &squares(&HLG)));
    for ((from, made), (_, expected)) in HLG.into_iter().zip(made).zip(PQ) {
        let is_grey = from[1] == 512 && from[2] == 512;
        let limit = if is_grey { 1 } else { 3 };
        assert!(distance(made, expected) <= limit, "{from:?}: {made:?}, expected {expected:?}");
    }
}

#[test]
fn grey_stays_grey_and_grows_with_the_light() {
    for transfer in [Transfer::Pq, Transfer::Hlg] {
        let mapper = ToneMapper::new(source(transfer), 1);
        let ramp: Vec<[u16; 3]> = (0..1024).map(|luma| [luma, 512, 512]).collect();
        let made: Vec<[u8; 3]> =
            ramp.chunks(256).flat_map(|part| colours(&mapped(&mapper, &squares(part)))).collect();
        assert!(made.iter().all(|colour| colour[1..] == [128, 128]), "{transfer:?}");
        assert!(made.windows(2).all(|pair| pair[0][0] <= pair[1][0]), "{transfer:?}");
        assert_eq!((made[0][0], made[64][0], made[1023][0]), (16, 16, 235), "{transfer:?}");
    }
}

/// Odd sizes, sizes that threads share, and values outside of the limited range.
#[test]
fn every_pixel_of_every_size_is_written() {
    let mappers = [1, 4].map(|threads| ToneMapper::new(source(Transfer::Pq), threads));
    for (width, height) in [(1, 1), (3, 5), (64, 2), (34, 700)] {
        let mut picture = raw::allocate(format::Pixel::YUV420P10LE, width, height).unwrap();
        for plane in 0..3 {
            for (at, value) in picture.data_mut(plane).as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *value = (at as u16).wrapping_mul(40_503).to_le_bytes();
            }
        }
        let [one, four] = mappers.each_ref().map(|mapper| mapped(mapper, &picture));
        for plane in 0..3 {
            let (across, down) =
                if plane == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) };
            for y in 0..down as usize {
                let row = |picture: &frame::Video| {
                    picture.data(plane)[y * picture.stride(plane)..][..across as usize].to_vec()
                };
                assert_eq!(row(&one), row(&four), "{width}x{height}, plane {plane}, row {y}");
            }
        }
    }
    let mut small = raw::allocate(format::Pixel::YUV420P, 2, 2).unwrap();
    assert!(mappers[0].map(&squares(&[[64, 512, 512]]), &mut small).is_err(), "another size");
}

#[test]
fn the_grid_covers_every_chroma_value() {
    let (nodes, places) = (nodes(), places());
    assert_eq!((nodes.len(), nodes.last(), places.len()), (NODES, Some(&1024), 1024));
    for (value, (node, share)) in places.into_iter().enumerate() {
        let [below, above] = [nodes[usize::from(node)], nodes[usize::from(node) + 1]].map(usize::from);
        assert_eq!((value - below) << SHARE_BITS, usize::from(share) * (above - below), "{value}");
    }
}

#[test]
fn what_is_signalled_decides_and_a_peak_is_not_changed_midway() {
    let mut picture = squares(&[[64, 512, 512]]);
    assert_eq!(HdrSource::of(&picture), None);
    picture.set_color_transfer_characteristic(TransferCharacteristic::BT2020_10);
    assert_eq!(HdrSource::of(&picture), None, "wide gamut alone is not HDR");
    picture.set_color_transfer_characteristic(TransferCharacteristic::SMPTE2084);
    let unknown = HdrSource::of(&picture).unwrap();
    assert_eq!(unknown, source(Transfer::Pq));
    picture.set_color_primaries(Primaries::SMPTE432);
    assert_eq!(HdrSource::of(&picture).unwrap().gamut, Gamut::DisplayP3);
    let brighter = HdrSource { peak: 4000, ..unknown };
    assert_eq!(brighter.like(Some(unknown)), unknown);
    assert_eq!(brighter.like(None), brighter);
    let hlg = source(Transfer::Hlg);
    assert_eq!(brighter.like(Some(hlg)), brighter);
}
