//! Closed captions on their way through a rung: the captions of pictures that a rung leaves out go into the pictures
//! after them, in presentation order. No captions are read here except for padding, and no pixels belong here.

use ffmpeg_next::frame;
use ffmpeg_next::frame::side_data::Type as SideData;
use media::captions::{Triplet, is_padding};
use std::collections::VecDeque;

/// The most triplets that one picture carries: their count has five bits (ATSC A/53 part 4, 6.2.3).
const MAX_IN_PICTURE: usize = 31;
/// The most triplets that are carried over to later pictures; the oldest are dropped. CEA-708 fills 10 in each of 60
/// pictures a second at most, so this is several seconds of captions.
const MAX_CARRIED: usize = 4096;

/// The captions that the decoder found in a picture's user data.
pub(super) fn captions_of(picture: &frame::Video) -> Vec<Triplet> {
    let data = picture.side_data(SideData::A53CC);
    data.map_or_else(Vec::new, |data| data.data().as_chunks().0.to_vec())
}

/// The captions that one rung still has to show.
#[derive(Debug, Default)]
pub(super) struct CaptionCarry {
    waiting: VecDeque<Triplet>,
}

impl CaptionCarry {
    /// Takes the captions of the next picture in presentation order. Padding is kept only if nothing waits: it fills the
    /// constant rate of cc_data and says nothing.
    fn add(&mut self, picture: &[Triplet]) {
        self.waiting.extend(picture.iter().filter(|triplet| !is_padding(**triplet)));
        let surplus = self.waiting.len().saturating_sub(MAX_CARRIED);
        self.waiting.drain(..surplus);
    }

    /// The rung leaves the picture out, whose captions are `picture`.
    pub(super) fn leave_out(&mut self, picture: &[Triplet]) {
        self.add(picture);
    }

    /// The rung encodes the picture, whose own captions are `picture`. Returns the captions that the picture gets: its
    /// own bytes as they are, or, where captions of earlier pictures wait, those first and without padding. What has no
    /// room waits for the next picture.
    pub(super) fn encode(&mut self, picture: &[Triplet]) -> Vec<Triplet> {
        if self.waiting.is_empty() && picture.len() <= MAX_IN_PICTURE {
            return picture.to_vec();
        }
        self.add(picture);
        let room = self.waiting.len().min(MAX_IN_PICTURE);
        self.waiting.drain(..room).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NULLS: Triplet = [0xfc, 0x80, 0x80];
    const INVALID: Triplet = [0xf9, 0, 0];

    /// A pair of field 1 that differs for each number.
    fn pair(number: usize) -> Triplet {
        [0xfc, 0x20 + (number / 0x60) as u8, 0x20 + (number % 0x60) as u8]
    }

    #[test]
    fn captions_of_a_picture_that_is_encoded_stay_as_they_are() {
        let mut carry = CaptionCarry::default();
        for picture in [vec![], vec![NULLS, INVALID], vec![pair(1), INVALID, pair(2)]] {
            assert_eq!(carry.encode(&picture), picture);
        }
    }

    /// 60 pictures a second, of which the rung encodes every second one, and a second of which nothing is encoded.
    #[test]
    fn what_pictures_that_are_left_out_said_comes_in_order_and_without_padding() {
        let mut carry = CaptionCarry::default();
        let (mut said, mut shown) = (Vec::new(), Vec::new());
        for number in 0..240 {
            let picture = [pair(2 * number), NULLS, pair(2 * number + 1), INVALID];
            said.extend([picture[0], picture[2]]);
            if number % 2 == 0 || (60..120).contains(&number) {
                carry.leave_out(&picture);
            } else {
                let got = carry.encode(&picture);
                assert!(got.len() <= MAX_IN_PICTURE);
                assert!(got.iter().all(|triplet| !is_padding(*triplet)));
                shown.extend(got);
            }
        }
        assert_eq!(shown, said);
        assert_eq!(carry.encode(&[NULLS]), [NULLS], "nothing waits any more");
    }

    #[test]
    fn more_than_a_picture_can_carry_goes_to_the_next_picture() {
        let mut carry = CaptionCarry::default();
        let all: Vec<Triplet> = (0..70).map(pair).collect();
        assert_eq!(carry.encode(&all), all[..31]);
        assert_eq!(carry.encode(&[]), all[31..62]);
        assert_eq!(carry.encode(&[INVALID]), all[62..]);
        assert!(carry.encode(&[]).is_empty());
    }

    #[test]
    fn a_rung_that_encodes_nothing_keeps_the_newest_captions_within_the_bound() {
        let mut carry = CaptionCarry::default();
        (0..MAX_CARRIED + 100).for_each(|number| carry.leave_out(&[pair(number)]));
        assert_eq!(carry.waiting.len(), MAX_CARRIED);
        assert_eq!(carry.encode(&[])[0], pair(100));
    }
}
