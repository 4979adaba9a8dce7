//! Picture quality of a rung compared with the published clip.
//!
//! Both contenders are scored in the same way: over the same pictures of the published clip, at the clip's size. Which
//! picture of a rung corresponds to which picture of the clip is determined from the pictures themselves, at both ends
//! of the scored range: FFmpeg shows the first picture twice when its timestamp is not zero, and a contender that later
//! loses or repeats a picture must not be scored against the wrong ones.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::encoder_process::workspace;
use tests::{boxes, probe};

/// First scored picture of the clip, after the settling of rate control at the start.
const FIRST: usize = 90;
/// Number of scored pictures: 15 s.
const SCORED: usize = 450;
/// Number of pictures compared to find an offset.
const COMPARED: usize = 60;
/// Offsets tried: a rung may start with repeated pictures, or later than the clip.
const OFFSETS: std::ops::RangeInclusive<isize> = -15..=60;
/// Width and height in pixels at which pictures are compared.
const SMALL: (usize, usize) = (64, 36);

/// Both scores of one rung.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores {
    pub(crate) ssim: f64,
    pub(crate) vmaf: Option<f64>,
}

/// Keyframe interval and segment duration in seconds. A segment starts with every keyframe or with every nth; the
/// keyframe interval is the smallest GOP that both contenders support.
pub(crate) fn grid(file: &Path) -> anyhow::Result<(f64, f64)> {
    let packets = probe::packets(file)?;
    let keys: Vec<f64> = packets.iter().filter(|p| p.key).map(|p| p.pts).collect();
    ensure!(keys.len() > 3, "{} keyframes", keys.len());
    let gop = (keys[keys.len() - 2] - keys[1]) / (keys.len() - 3) as f64;
    let gop = (gop * 30.0).round() / 30.0;
    let body = bytes::Bytes::from(std::fs::read(file)?);
    let segments = segment_count(&body);
    let per_segment = (keys.len() as f64 / segments as f64).round().max(1.0);
    Ok((gop, gop * per_segment))
}

/// Counts the styp boxes at the top level: one starts each segment. FFmpeg writes none with fMP4 in HLS, but one
/// fragment per segment.
fn segment_count(body: &[u8]) -> usize {
    let (mut at, mut styp, mut moof) = (0, 0, 0);
    while let Some(head) = body.get(at..at + 8) {
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        styp += usize::from(&head[4..8] == b"styp");
        moof += usize::from(&head[4..8] == b"moof");
        at += size.max(8);
    }
    if styp > 0 { styp } else { moof.max(1) }
}

/// Number of frames in a segment; its init segment is in the same folder as `any_segment`.
pub(crate) fn frames_of(any_segment: &Path, segment: &Path) -> anyhow::Result<usize> {
    let folder = any_segment.parent().context("a folder")?;
    let mut inits = std::fs::read_dir(folder)?.filter_map(|e| Some(e.ok()?.path()));
    let init = inits.find(|p| p.to_string_lossy().contains("init")).context("init")?;
    let init = boxes::init(&std::fs::read(init)?.into())?;
    Ok(boxes::fragment(&init, &std::fs::read(segment)?.into())?.samples.len())
}

/// Small grey pictures: `count`, starting at picture `first`.
fn thumbnails(video: &Path, first: usize, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let (width, height) = SMALL;
    let filter = format!(
        "trim=start_frame={first}:end_frame={},scale={width}:{height}:flags=area,format=gray",
        first + count
    );
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(video);
    command.args(["-vf", &filter, "-an", "-fps_mode", "passthrough", "-f", "rawvideo", "-"]);
    let done = command.output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout.chunks_exact(width * height).map(<[u8]>::to_vec).collect())
}

/// Mean squared difference of two pictures.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(x, y)| u64::from(x.abs_diff(*y)).pow(2)).sum();
    sum as f64 / a.len() as f64
}

/// Offset to add to a picture's number in `distorted` to get its number in `reference`, searched near the reference's
/// picture `around`.
fn offset_at(distorted: &Path, reference: &Path, around: usize) -> anyhow::Result<isize> {
    let margin = OFFSETS.end().unsigned_abs();
    ensure!(around >= margin, "nothing in front of picture {around}");
    let a = thumbnails(distorted, around - margin, COMPARED + margin + OFFSETS.start().unsigned_abs())?;
    let b = thumbnails(reference, around, COMPARED)?;
    ensure!(b.len() == COMPARED, "{} ends at picture {}", reference.display(), around + b.len());
    let distance = |offset: isize| -> f64 {
        let pairs = b.iter().enumerate().map(|(i, picture)| {
            let at = (margin + i).checked_add_signed(-offset).and_then(|at| a.get(at));
            at.map_or(f64::INFINITY, |other| difference(picture, other))
        });
        pairs.sum()
    };
    let best = OFFSETS.min_by(|x, y| distance(*x).total_cmp(&distance(*y))).context("no offset")?;
    let error = distance(best) / COMPARED as f64;
    ensure!(error < 100.0, "{} shows something else (difference {error:.0})", distorted.display());
    Ok(best)
}

/// The offset at the start of the scored pictures.
pub(crate) fn offset_frames(distorted: &Path, reference: &Path) -> anyhow::Result<isize> {
    offset_at(distorted, reference, FIRST)
}

/// Scores of a rung against the published clip, at the clip's size.
pub(crate) fn scores(distorted: &Path, reference: &Path, vmaf: bool) -> anyhow::Result<Scores> {
    let offset = offset_frames(distorted, reference)?;
    let at_end = offset_at(distorted, reference, FIRST + SCORED - COMPARED)?;
    ensure!(offset == at_end, "pictures were lost or repeated: offset {offset}, then {at_end}");
    let first = FIRST.checked_add_signed(-offset).context("the rung begins too late")?;
    let graph = |last: &str| {
        format!(
            "[0:v]trim=start_frame={first}:end_frame={},settb=1/30,setpts=N,scale=1280:720:flags=bicubic,format=yuv420p[a];\
             [1:v]trim=start_frame={FIRST}:end_frame={},settb=1/30,setpts=N,format=yuv420p[b];[a][b]{last}",
            first + SCORED,
            FIRST + SCORED
        )
    };
    let run = |program: &Path, graph: String| -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-i"]).arg(distorted).arg("-i").arg(reference);
        command.args(["-lavfi", &graph, "-an", "-f", "null", "-"]);
        let done = command.output()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "{said}");
        Ok(said)
    };
    let number = |text: &str, label: &str| {
        text.rsplit_once(label).and_then(|(_, v)| v.split_whitespace().next()?.parse::<f64>().ok())
    };
    let ssim = number(&run(Path::new("ffmpeg"), graph("ssim"))?, "All:").context("no SSIM")?;
    let score = |program: PathBuf| {
        number(&run(&program, graph("libvmaf=n_threads=2:n_subsample=3")).ok()?, "VMAF score:")
    };
    Ok(Scores { ssim, vmaf: if vmaf { vmaf_program().and_then(score) } else { None } })
}

/// Path of an FFmpeg with libvmaf: Debian's has none, PyPI's imageio-ffmpeg contains one.
fn vmaf_program() -> Option<PathBuf> {
    let done = Command::new(workspace().join("fixtures/recent-ffmpeg.sh")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(done.stdout).ok()?.trim());
    (done.status.success() && path.exists()).then_some(path)
}
