//! See `encoder::testing::fuzzing::worker_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::worker_protocol(input));
