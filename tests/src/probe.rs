//! FFmpeg as a validator: reads media files and reports what FFmpeg finds in them.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// One stream in ffprobe's report.
#[derive(Clone, Debug, Deserialize)]
pub struct Stream {
    /// `video` or `audio`.
    pub codec_type: String,
    /// `h264`, `aac`, …
    pub codec_name: String,
    /// Profile name.
    pub profile: Option<String>,
    /// Width in pixels.
    pub width: Option<u32>,
    /// Height in pixels.
    pub height: Option<u32>,
    /// Sample aspect ratio, such as `1:1`.
    pub sample_aspect_ratio: Option<String>,
    /// Frame rate as a fraction.
    pub r_frame_rate: Option<String>,
    /// Audio channels.
    pub channels: Option<u32>,
    /// Sample rate in Hz, as text.
    pub sample_rate: Option<String>,
    /// First timestamp in seconds, as text.
    pub start_time: Option<String>,
    /// Largest number of consecutive B-frames.
    pub has_b_frames: Option<u32>,
}

#[derive(Deserialize)]
struct Report {
    streams: Vec<Stream>,
}

fn run(command: &mut Command) -> anyhow::Result<(String, String)> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{command:?} ended with {}:\n{err}", done.status);
    Ok((out.into_owned(), err.into_owned()))
}

/// Streams of a file or URL; any warning is an error.
pub fn streams(input: &str) -> anyhow::Result<Vec<Stream>> {
    let (out, err) =
        run(Command::new("ffprobe").args(["-v", "warning", "-show_streams", "-of", "json"]).arg(input))?;
    ensure!(err.trim().is_empty(), "ffprobe {input} says:\n{err}");
    Ok(serde_json::from_str::<Report>(&out)?.streams)
}

/// Decodes the whole file; any warning is an error.
pub fn decodes_clean(input: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-v", "warning", "-xerror", "-i"]).arg(input);
    let (_, err) = run(command.args(["-f", "null", "-"]))?;
    ensure!(err.trim().is_empty(), "decoding {} gives warnings:\n{err}", input.display());
    Ok(())
}

/// A file's duration in seconds; any warning is an error.
pub fn duration(input: &str) -> anyhow::Result<f64> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "warning", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(input);
    let (out, err) = run(&mut command)?;
    ensure!(err.trim().is_empty(), "ffprobe {input} says:\n{err}");
    Ok(out.trim().parse()?)
}

/// Time in seconds of the first frame shown after seeking to `seconds`; any warning is an error.
pub fn seek(input: &str, seconds: f64) -> anyhow::Result<f64> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-v", "warning", "-copyts", "-ss"]).arg(seconds.to_string());
    // Use the file's own time base: by default FFmpeg rounds times to whole frames.
    command.args(["-i", input, "-frames:v", "1", "-an", "-enc_time_base", "-1", "-f", "framecrc", "-"]);
    let (out, err) = run(&mut command)?;
    ensure!(err.trim().is_empty(), "ffmpeg -ss {seconds} -i {input} says:\n{err}");
    // Format: `#tb 0: 1/90000`, then lines of `stream, dts, pts, …`.
    let timebase = out.lines().find_map(|line| line.strip_prefix("#tb 0: 1/")).context("a time base")?;
    let frame = out.lines().find(|line| line.starts_with("0,")).context("a frame")?;
    let pts: f64 = frame.split(',').nth(2).context("a time")?.trim().parse()?;
    Ok(pts / timebase.parse::<f64>()?)
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// Presentation time in seconds.
    pub pts: f64,
    /// Decode time in seconds.
    pub dts: f64,
    /// Whether decoding can start at this packet.
    pub key: bool,
    /// Size in bytes.
    pub size: u64,
}

/// Packets of the first stream, in file order.
pub fn packets(input: &Path) -> anyhow::Result<Vec<Packet>> {
    packets_of(input, "0")
}

/// Packets of one stream (`v`, `a`, or its number), in file order.
pub fn packets_of(input: &Path, stream: &str) -> anyhow::Result<Vec<Packet>> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", stream, "-show_entries"]);
    command.arg("packet=pts_time,dts_time,size,flags");
    let (out, _) = run(command.args(["-of", "csv=p=0"]).arg(input))?;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let [pts, dts, size, flags, ..] = fields[..] else { bail!("a packet without times: {line}") };
        Ok(Packet { pts: pts.parse()?, dts: dts.parse()?, size: size.parse()?, key: flags.starts_with('K') })
    };
    out.lines().filter(|l| !l.is_empty()).map(line).collect()
}

/// Values of `key` that a filter prints per frame, as (time in seconds, value).
fn per_frame(input: &Path, filter_option: &str, filter: &str, key: &str) -> anyhow::Result<Vec<(f64, f64)>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-copyts", "-i"]).arg(input).args([filter_option, filter]);
    let (out, _) = run(command.args(["-f", "null", "-"]))?;
    let (mut found, mut time) = (Vec::new(), None);
    for line in out.lines() {
        if let Some((_, at)) = line.split_once("pts_time:") {
            time = at.split_whitespace().next().and_then(|t| t.parse::<f64>().ok());
        } else if let (Some(at), Some(value)) =
            (time, line.strip_prefix(key).and_then(|v| v.strip_prefix('=')))
        {
            found.push((at, value.parse().unwrap_or(f64::NEG_INFINITY)));
        }
    }
    ensure!(!found.is_empty(), "{} has no frames", input.display());
    Ok(found)
}

/// Times in seconds at which the picture turns white: the flashes of the fixtures.
pub fn flashes(video: &Path) -> anyhow::Result<Vec<f64>> {
    let key = "lavfi.signalstats.YAVG";
    let filter = format!("scale=64:-2,signalstats,metadata=print:key={key}:file=-");
    Ok(rising(&per_frame(video, "-vf", &filter, key)?, 225.0))
}

/// Times in seconds at which the tone begins: the beeps of the fixtures, accurate to 2.5 ms.
pub fn beeps(audio: &Path) -> anyhow::Result<Vec<f64>> {
    let key = "lavfi.astats.Overall.RMS_level";
    let filter = format!(
        "aresample=48000,asetnsamples=n=120:p=0,astats=metadata=1:reset=1,ametadata=print:key={key}:file=-"
    );
    Ok(rising(&per_frame(audio, "-af", &filter, key)?, -30.0))
}

/// Length of the fixtures' flashes and beeps in seconds.
pub const FLASH: f64 = 0.1;

/// Times at which the value rises above the threshold. The very first frame does not count, because the rise itself was
/// not seen.
fn rising(values: &[(f64, f64)], threshold: f64) -> Vec<f64> {
    values.windows(2).filter(|w| w[0].1 < threshold && w[1].1 >= threshold).map(|w| w[1].0).collect()
}

/// Distance of each flash to the nearest beep in seconds, positive if audio is late. Flashes at either end are left
/// out, because their beep may lie outside.
pub fn sync_errors(flashes: &[f64], beeps: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (beeps.first(), beeps.last()) else { return Vec::new() };
    flashes
        .iter()
        .filter(|f| (first - 0.5..=last + 0.5).contains(*f))
        .filter_map(|flash| beeps.iter().map(|beep| beep - flash).min_by(|a, b| a.abs().total_cmp(&b.abs())))
        .collect()
}

/// Mean brightness of the first `frames` frames.
pub fn brightness(video: &Path, frames: usize) -> anyhow::Result<Vec<f64>> {
    let key = "lavfi.signalstats.YAVG";
    let filter = format!("trim=end_frame={frames},scale=64:36,signalstats,metadata=print:key={key}:file=-");
    Ok(per_frame(video, "-vf", &filter, key)?.into_iter().map(|(_, value)| value).collect())
}

/// How many frames of a file's video have closed captions (ATSC A/53) beside their pixels, and how many frames there are.
pub fn captioned_frames(input: &Path) -> anyhow::Result<(usize, usize)> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v", "-show_frames", "-of", "compact"]).arg(input);
    let (out, _) = run(&mut command)?;
    let frames = out.lines().filter(|line| line.starts_with("frame|"));
    let captioned = frames.clone().filter(|line| line.contains("ATSC A53 Part 4 Closed Captions"));
    Ok((captioned.count(), frames.count()))
}

/// The lines of text that FFmpeg's CEA-608 decoder reads in a file's video, in order.
pub fn caption_texts(input: &Path) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-v", "error", "-f", "lavfi", "-i"]);
    command.arg(format!("movie={}[out0+subcc]", input.display()));
    let (out, _) = run(command.args(["-map", "0:s", "-c:s", "webvtt", "-f", "webvtt", "-"]))?;
    let mut texts = Vec::new();
    let mut lines = out.lines();
    while lines.any(|line| line.contains(" --> ")) {
        texts.extend(lines.by_ref().take_while(|line| !line.is_empty()).map(str::to_owned));
    }
    Ok(texts)
}

/// Pixel format, range, matrix, transfer function and primaries of a file's video, as ffprobe names them.
pub fn colours(input: &Path) -> anyhow::Result<Vec<String>> {
    const FIELDS: [&str; 5] = ["pix_fmt", "color_range", "color_space", "color_transfer", "color_primaries"];
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "v", "-of", "json", "-show_entries"]);
    let (out, _) = run(command.arg(format!("stream={}", FIELDS.join(","))).arg(input))?;
    let report: serde_json::Value = serde_json::from_str(&out)?;
    let stream = report["streams"].get(0).context("no video")?;
    Ok(FIELDS.map(|field| stream[field].as_str().unwrap_or("unknown").to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_matched_with_their_nearest_partner() {
        let errors = sync_errors(&[1.0, 3.0, 5.0, 7.0], &[1.02, 3.01, 4.98]);
        assert_eq!(errors.len(), 3);
        assert!((errors[0] - 0.02).abs() < 1e-9 && (errors[2] + 0.02).abs() < 1e-9);
        assert!(sync_errors(&[1.0], &[]).is_empty());
    }

    #[test]
    fn marks_of_a_fixture_are_in_step() {
        let clip = crate::fixtures::clip("short");
        let (flashes, beeps) = (flashes(&clip).unwrap(), beeps(&clip).unwrap());
        assert_eq!((flashes.len(), beeps.len()), (1, 1), "{flashes:?} {beeps:?}");
        let errors = sync_errors(&flashes, &beeps);
        assert!(errors[0].abs() < 0.03, "{errors:?}");
    }
}
