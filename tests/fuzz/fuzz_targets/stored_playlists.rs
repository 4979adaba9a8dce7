//! See `encoder::testing::fuzzing::stored_playlists`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::stored_playlists(input));
