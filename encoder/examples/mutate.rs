//! Runs the fuzz targets on mutated seeds, on stable Rust: `mutate [TARGET [INPUTS [SEED]]]`. TARGET may be `all`.
//!
//! Every input of `fixtures/corpus` comes first as it is, then INPUTS times one of them with one to eight random changes.
//! Nothing guides the changes (for that, `make fuzz` with nightly Rust runs libFuzzer over the same functions), but
//! millions of inputs take seconds. The same SEED makes the same inputs. An input that breaks a guarantee is written to
//! `target/mutate`, and the exit code is 1.

use encoder::testing::fuzzing::{TARGETS, corpus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Inputs for each target where the command line gives no number.
const INPUTS: u64 = 1_000_000;
/// Longest input in bytes.
const LONGEST: usize = 16 << 10;
/// Values at the edges of fields.
const EDGES: [u8; 12] = [0, 1, 2, 3, 0x0f, 0x10, 0x7f, 0x80, 0xc0, 0xf0, 0xfe, 0xff];
/// Pieces of text that mean something to a parser of playlists or JSON.
const WORDS: [&str; 12] = [
    "#EXT-X-GAP\n",
    "#EXT-X-DISCONTINUITY\n",
    "#EXT-X-ENDLIST\n",
    "#EXTINF:",
    "URI=\"",
    "18446744073709551615",
    "-1",
    "1e309",
    "null",
    "{",
    "]",
    "\"",
];

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "its purpose")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().map_or("all", String::as_str);
    let inputs = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(INPUTS);
    let seed = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut failed = false;
    for (name, target) in TARGETS.into_iter().filter(|(name, _)| wanted == "all" || *name == wanted) {
        let seeds = corpus(name);
        let mut random = fastrand::Rng::with_seed(seed);
        let began = Instant::now();
        let mutations = (0..inputs).map(|_| mutate(&seeds, &mut random));
        for input in seeds.iter().cloned().chain(mutations) {
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                let folder = Path::new("target/mutate");
                let file = folder.join(format!("{name}-{:016x}", hash(&input)));
                let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, &input));
                eprintln!("{name}: {} breaks a guarantee ({written:?})", file.display());
                failed = true;
                break;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{name}: {inputs} inputs from {} seeds in {seconds:.0} s", seeds.len());
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A seed with some changes.
fn mutate(seeds: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..=8) {
        change(&mut input, seeds, random);
    }
    input.truncate(LONGEST);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut fastrand::Rng) {
    if input.is_empty() {
        input.push(random.u8(..));
        return;
    }
    let at = random.usize(..input.len());
    let length = random.usize(1..=16).min(input.len() - at);
    match random.u8(..12) {
        0 => input[at] ^= 1 << random.u8(..8),
        1 => input[at] = random.u8(..),
        2 => input[at] = EDGES[random.usize(..EDGES.len())],
        3 => input[at] = input[at].wrapping_add(random.u8(..)),
        4 => drop(input.drain(at..at + length)),
        5 => input.truncate(at),
        6 => input.insert(at, EDGES[random.usize(..EDGES.len())]),
        // A piece twice.
        7 => {
            let piece = input[at..at + length].to_vec();
            input.splice(at..at, piece);
        }
        // A piece over another place.
        8 => {
            let piece = input[at..at + length].to_vec();
            let to = random.usize(..=input.len() - piece.len());
            input[to..to + piece.len()].copy_from_slice(&piece);
        }
        // The rest of another seed.
        9 => {
            let other = &seeds[random.usize(..seeds.len())];
            let from = random.usize(..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        // A number of two or four bytes.
        10 => {
            let number = [0, u32::MAX, 1 << 31, 0x7fff_ffff, random.u32(..)][random.usize(..5)].to_be_bytes();
            let bytes = if random.bool() { &number[..] } else { &number[2..] };
            for (byte, new) in input[at..].iter_mut().zip(bytes) {
                *byte = *new;
            }
        }
        _ => {
            let word = WORDS[random.usize(..WORDS.len())];
            input.splice(at..at, word.bytes());
        }
    }
}

/// FNV-1a: names files, nothing else.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
