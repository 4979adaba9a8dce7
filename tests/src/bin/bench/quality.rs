//! How a rung looks beside what was published.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::encoder_process::workspace;
use tests::{boxes, probe};

/// Both scores of one rung.
pub(crate) struct Scores {
    pub(crate) ssim: f64,
    pub(crate) vmaf: Option<f64>,
}

/// Seconds between keyframes, and of a segment (which begins with every keyframe or with every nth: the smallest GOP
/// that both contenders can do is the distance of keyframes).
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

/// Counts moof boxes at the top level: segments, as long as each holds one.
fn segment_count(body: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(head) = body.get(at..at + 8) {
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        count += usize::from(&head[4..8] == b"moof");
        at += size.max(8);
    }
    count.max(1)
}

/// Frames in a segment; its init segment lies beside it.
pub(crate) fn frames_of(any_segment: &Path, segment: &Path) -> anyhow::Result<usize> {
    let folder = any_segment.parent().context("a folder")?;
    let mut inits = std::fs::read_dir(folder)?.filter_map(|e| Some(e.ok()?.path()));
    let init = inits.find(|p| p.to_string_lossy().contains("init")).context("init")?;
    let init = boxes::init(&std::fs::read(init)?.into())?;
    Ok(boxes::fragment(&init, &std::fs::read(segment)?.into())?.samples.len())
}

/// How many frames of `reference` come before the first of `distorted`: where their brightness fits best.
pub(crate) fn offset_frames(distorted: &Path, reference: &Path) -> anyhow::Result<usize> {
    const SEARCH: usize = 150;
    let (a, b) = (probe::brightness(distorted, 120)?, probe::brightness(reference, 120 + SEARCH)?);
    let distance = |offset: usize| {
        let pairs = a.iter().zip(b.get(offset..).unwrap_or_default());
        let (count, sum) = pairs.fold((0, 0.0), |(n, sum), (x, y)| (n + 1, sum + (x - y).abs()));
        if count < 30 { f64::INFINITY } else { sum / f64::from(count) }
    };
    (0..SEARCH).min_by(|x, y| distance(*x).total_cmp(&distance(*y))).context("no frames")
}

/// Scores against the published clip at the clip's size.
pub(crate) fn scores(distorted: &Path, reference: &Path, seconds: f64, vmaf: bool) -> anyhow::Result<Scores> {
    let offset = offset_frames(distorted, reference)?;
    let graph = |last: &str| {
        format!(
            "[0:v]setpts=N/30/TB,scale=1280:720:flags=bicubic,format=yuv420p[a];\
             [1:v]trim=start_frame={offset},setpts=N/30/TB,format=yuv420p[b];[a][b]{last}"
        )
    };
    let run = |program: &Path, graph: String| -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-i"]).arg(distorted).arg("-i").arg(reference);
        command.args(["-lavfi", &graph, "-an", "-t", &seconds.to_string(), "-f", "null", "-"]);
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

/// An FFmpeg with libvmaf: Debian's has none, PyPI's imageio-ffmpeg carries one.
fn vmaf_program() -> Option<PathBuf> {
    let done = Command::new(workspace().join("fixtures/vmaf.sh")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(done.stdout).ok()?.trim());
    (done.status.success() && path.exists()).then_some(path)
}
