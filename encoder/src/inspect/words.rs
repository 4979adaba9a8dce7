//! A report in words, for terminals and log lines.

use super::report::{AudioReport, PublishReport, TimingReport, VideoReport};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Characters of a line before it is broken.
const WIDTH: usize = 96;
/// Where the text of a line begins.
const INDENT: usize = 13;

/// The whole report as lines of text.
pub(crate) fn screen(report: &PublishReport) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        for (at, part) in wrapped(text).into_iter().enumerate() {
            let name = if at == 0 { name } else { "" };
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name:<INDENT$}{part}");
        }
    };
    let program = report.program.as_ref().map(|program| format!(", sent by {program}")).unwrap_or_default();
    line("seen", &format!("{:.1} s of media{program}", report.seconds));
    match &report.video {
        Some(video) => {
            line("video", &video_format(video));
            line("frames/s", &frame_rate(video));
            line("keyframes", &keyframes(video));
            line("bitrate", &bitrate(video.bits_per_second, video.peak_bits_per_second));
        }
        None => line("video", "none"),
    }
    match &report.audio {
        Some(audio) => {
            line("audio", &audio_format(audio));
            line("bitrate", &bitrate(audio.bits_per_second, audio.peak_bits_per_second));
        }
        None => line("audio", "none"),
    }
    line("timestamps", &timing(&report.timing));
    if !report.timing.repairs.is_empty() {
        line("repaired", &kinds(&report.timing.repairs));
    }
    if !report.passed_over.is_empty() {
        line("passed over", &kinds(&report.passed_over));
    }
    for unreadable in &report.unreadable {
        line("unreadable", &format!("{}: {}", unreadable.kind, unreadable.reason));
    }
    if report.advice.is_empty() {
        line("advice", "nothing to change");
    }
    for advice in &report.advice {
        line("advice", &advice.change);
        line("", &format!("Why: {}", advice.reason));
    }
    out
}

/// The report in one line.
pub(crate) fn brief(report: &PublishReport) -> String {
    let mut parts = Vec::new();
    if let Some(video) = &report.video {
        let rate = video.frame_rate.map(|rate| format!(" at {rate:.2}")).unwrap_or_default();
        parts.push(format!(
            "{} {}x{}{rate}, {} kbit/s",
            codec(&video.codec),
            video.width,
            video.height,
            kbits(video.bits_per_second)
        ));
        if let Some(gop) = video.gop {
            parts.push(format!("keyframes every {:.1} s", gop.median_seconds));
        }
    }
    if let Some(audio) = &report.audio {
        parts.push(format!(
            "{} {} Hz, {} kbit/s",
            codec(&audio.codec),
            audio.sample_rate,
            kbits(audio.bits_per_second)
        ));
    }
    let repairs: u64 = report.timing.repairs.values().sum();
    if repairs > 0 {
        parts.push(format!("{repairs} repairs"));
    }
    for unreadable in &report.unreadable {
        parts.push(format!("{} cannot be read ({})", unreadable.kind, unreadable.reason));
    }
    if parts.is_empty() { "nothing yet".to_owned() } else { parts.join("; ") }
}

fn codec(name: &str) -> &str {
    if name.is_empty() { "unknown codec" } else { name }
}

fn video_format(video: &VideoReport) -> String {
    let mut text = codec(&video.codec).to_owned();
    if let Some(profile) = &video.profile {
        let _ = write!(text, " ({profile})");
    }
    let _ = write!(text, ", {}x{}", video.width, video.height);
    if video.format_changes > 0 {
        let _ = write!(text, ", changed {} times", video.format_changes);
    }
    if video.captions {
        text.push_str(", with captions");
    }
    text
}

fn audio_format(audio: &AudioReport) -> String {
    let mut text = codec(&audio.codec).to_owned();
    if let Some(profile) = &audio.profile {
        let _ = write!(text, " ({profile})");
    }
    let channels = match audio.channels {
        0 => "channels unknown".to_owned(),
        1 => "mono".to_owned(),
        2 => "stereo".to_owned(),
        more => format!("{more} channels"),
    };
    let _ = write!(text, ", {} Hz, {channels}", audio.sample_rate);
    if audio.format_changes > 0 {
        let _ = write!(text, ", changed {} times", audio.format_changes);
    }
    text
}

fn frame_rate(video: &VideoReport) -> String {
    let Some(rate) = video.frame_rate else {
        return format!("{} pictures, not measured yet", video.pictures);
    };
    let mut text = format!("{rate:.2} measured");
    if let Some(stated) = video.stated_frame_rate {
        let _ = write!(text, ", {stated:.2} stated");
    }
    text.push_str(if video.steady { ", steady" } else { ", varying" });
    if let Some(step) = video.step_ms {
        let _ = write!(text, " ({:.0} to {:.0} ms from picture to picture)", step.least, step.most);
    }
    text
}

fn keyframes(video: &VideoReport) -> String {
    let mut text = match (video.gop, video.since_keyframe_seconds) {
        (Some(gop), _) => format!(
            "every {:.2} s (from {:.2} to {:.2} s)",
            gop.median_seconds, gop.least_seconds, gop.most_seconds
        ),
        (None, Some(since)) => format!("one, {since:.2} s ago"),
        (None, None) => "none".to_owned(),
    };
    match video.most_b_frames_in_a_row {
        0 => text.push_str(", no B-frames"),
        1 => text.push_str(", single B-frames"),
        row => {
            let _ = write!(text, ", up to {row} B-frames in a row");
        }
    }
    text
}

fn bitrate(average: u64, peak: u64) -> String {
    format!("{} kbit/s on average, {} in the fullest second", kbits(average), kbits(peak))
}

fn kbits(bits: u64) -> u64 {
    bits.saturating_add(500) / 1_000
}

fn timing(timing: &TimingReport) -> String {
    let mut parts = Vec::new();
    match timing.gaps {
        0 => parts.push("no gaps".to_owned()),
        1 => parts.push(format!("one gap of {:.1} s", timing.longest_gap_seconds)),
        gaps => parts.push(format!("{gaps} gaps, the longest of {:.1} s", timing.longest_gap_seconds)),
    }
    if timing.backward_steps > 0 {
        parts.push(format!("{} steps back", timing.backward_steps));
    }
    if let Some(ahead) = timing.sound_ahead_ms {
        let side = if ahead < 0.0 { "behind" } else { "ahead of" };
        parts.push(format!("sound {:.0} ms {side} the picture", ahead.abs()));
    }
    if let Some(drift) = timing.drift_ms_per_minute {
        parts.push(format!("drift {drift:.1} ms a minute"));
    }
    parts.join(", ")
}

/// Kinds and counts; the kinds are names in code, whose words are separated by underscores.
fn kinds(counts: &BTreeMap<String, u64>) -> String {
    let named = |(kind, count): (&String, &u64)| format!("{count} {}", kind.replace('_', " "));
    counts.iter().map(named).collect::<Vec<_>>().join(", ")
}

/// Breaks a text into lines at spaces.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits =
            lines.last().is_some_and(|line| line.is_empty() || line.len() + 1 + word.len() <= WIDTH - INDENT);
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
