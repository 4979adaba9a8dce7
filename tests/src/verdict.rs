//! Checks of downloaded media with FFmpeg: streams without warnings, aligned keyframes, audio in sync.

use crate::checker::{Checker, Piece};
use crate::{boxes, probe};
use anyhow::Context;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Largest allowed distance between audio and video, in seconds.
pub const SYNC_LIMIT: f64 = 0.040;

/// Media of one rendition between two discontinuities, as a file.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Playlist of the rendition, as the multivariant playlist names it.
    pub rendition: String,
    /// Whether the rendition is video.
    pub video: bool,
    /// The stream as ffprobe reports it.
    pub stream: probe::Stream,
    /// Path of the file.
    pub file: PathBuf,
    /// How many seconds later FFmpeg shows everything than the boxes say: its demuxer shifts a track with negative
    /// composition offsets by the largest of these offsets, but does not shift the other tracks with it.
    pub shown_late: f64,
}

/// Writes the downloaded media between two discontinuities (numbered by `piece`) to files, only segments that all
/// renditions have. ffprobe must read and FFmpeg decode each file without a warning. Adds complaints to `wrong`.
pub fn recordings(checker: &Checker, piece: usize, folder: &Path, wrong: &mut Vec<String>) -> Vec<Recorded> {
    let Some(multivariant) = checker.multivariant_seen() else {
        wrong.push("no multivariant playlist was ever seen".into());
        return Vec::new();
    };
    let pieces: Vec<(String, Piece)> = multivariant
        .playlists()
        .into_iter()
        .filter_map(|name| checker.pieces(&name).get(piece).map(|p| (name.clone(), p.clone())))
        .collect();
    let numbers = |piece: &Piece| piece.segments.iter().map(|(msn, _)| *msn).collect::<BTreeSet<u64>>();
    let common = pieces.iter().map(|(_, p)| numbers(p)).reduce(|a, b| &a & &b).unwrap_or_default();
    if pieces.len() != multivariant.playlists().len() || common.len() < 2 {
        wrong.push(format!(
            "piece {piece}: {} renditions have {} segments in common",
            pieces.len(),
            common.len()
        ));
    }
    let mut recorded = Vec::new();
    for (rendition, mut piece_of) in pieces {
        piece_of.segments.retain(|(msn, _)| common.contains(msn));
        let file = folder.join(format!("{piece}-{}.mp4", rendition.replace('/', "_")));
        let streams = std::fs::write(&file, piece_of.concatenated())
            .map_err(anyhow::Error::from)
            .and_then(|()| probe::decodes_clean(&file))
            .and_then(|()| probe::streams(&file.to_string_lossy()));
        match streams.as_deref() {
            Ok([stream]) => recorded.push(Recorded {
                video: stream.codec_type == "video",
                stream: stream.clone(),
                shown_late: shown_late(&piece_of, &file).unwrap_or_else(|error| {
                    wrong.push(format!("{rendition}: {error:#}"));
                    0.0
                }),
                rendition,
                file,
            }),
            Ok(streams) => wrong.push(format!("{rendition}: {} streams instead of one", streams.len())),
            Err(error) => wrong.push(format!("{rendition}: {error:#}")),
        }
    }
    recorded
}

/// Checks that keyframes are at the same times in all rungs.
pub fn keyframes_aligned(recorded: &[Recorded], wrong: &mut Vec<String>) {
    let times: Vec<(&str, Vec<i64>)> = recorded
        .iter()
        .filter(|r| r.video)
        .filter_map(|r| {
            let packets =
                probe::packets(&r.file).map_err(|e| wrong.push(format!("{}: {e:#}", r.rendition))).ok()?;
            let keys = packets.iter().filter(|p| p.key);
            Some((
                r.rendition.as_str(),
                keys.map(|p| ((p.pts - r.shown_late) * 1000.0).round() as i64).collect(),
            ))
        })
        .collect();
    let Some((first, reference)) = times.first() else { return };
    if reference.len() < 2 {
        wrong.push(format!("{first}: only {} keyframes", reference.len()));
    }
    for (name, keys) in &times[1..] {
        let same =
            keys.len() == reference.len() && keys.iter().zip(reference).all(|(a, b)| (a - b).abs() <= 1);
        if !same {
            wrong.push(format!("keyframes at (ms) {reference:?} in {first}, {keys:?} in {name}"));
        }
    }
}

/// Difference in seconds between the first packet's presentation time in FFmpeg and the one in its segment.
fn shown_late(piece: &Piece, file: &Path) -> anyhow::Result<f64> {
    let init = boxes::init(&piece.init)?;
    let (_, body) = piece.segments.first().context("no segment")?;
    let fragment = boxes::fragment(&init, body)?;
    let first = fragment.samples.first().context("no sample")?;
    let timescale = f64::from(init.tracks.get(&fragment.track).context("no track")?.timescale);
    let shown = probe::packets(file)?.first().context("no packet")?.pts;
    Ok(shown - first.pts as f64 / timescale)
}

/// Checks that the flashes and beeps of the fixtures coincide in every rung and every audio rendition; returns the
/// largest distance in seconds.
pub fn sound_in_step(recorded: &[Recorded], wrong: &mut Vec<String>) -> f64 {
    let mut worst: f64 = 0.0;
    if recorded.iter().all(|r| r.video) {
        wrong.push("no audio rendition".into());
    }
    for audio in recorded.iter().filter(|r| !r.video) {
        match probe::beeps(&audio.file) {
            Ok(beeps) => worst = worst.max(in_step_with(audio, &beeps, recorded, wrong)),
            Err(error) => wrong.push(format!("{}: {error:#}", audio.rendition)),
        }
    }
    worst
}

fn in_step_with(audio: &Recorded, beeps: &[f64], recorded: &[Recorded], wrong: &mut Vec<String>) -> f64 {
    let mut worst: f64 = 0.0;
    for video in recorded.iter().filter(|r| r.video) {
        match probe::flashes(&video.file) {
            Ok(mut flashes) => {
                flashes.iter_mut().for_each(|flash| *flash -= video.shown_late - audio.shown_late);
                let errors = probe::sync_errors(&flashes, beeps);
                let largest = errors.iter().fold(0.0_f64, |a, e| a.max(e.abs()));
                worst = worst.max(largest);
                if errors.is_empty() || largest > SYNC_LIMIT {
                    wrong.push(format!("{}: {} is off by {errors:.3?} s", video.rendition, audio.rendition));
                }
            }
            Err(error) => wrong.push(format!("{}: {error:#}", video.rendition)),
        }
    }
    worst
}
