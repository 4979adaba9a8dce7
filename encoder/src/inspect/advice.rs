//! What a streamer should change, and why. Each rule looks at the finished figures of a report, and at those alone.

use super::report::{Advice, AudioReport, PublishReport, VideoReport};

/// Keyframes further apart than this, in seconds, are worth a change. The encoder's own are 2 s apart at most.
const LONG_GOP: f64 = 2.5;
/// Keyframes nearer than this, in seconds, cost quality for nothing.
const SHORT_GOP: f64 = 0.5;
/// B-frames in a row above this delay the stream by more than they are worth.
const MANY_B_FRAMES: u32 = 2;
/// A second with more than this many times the average bitrate is a burst.
const BURST: f64 = 2.0;
/// Seconds of media before a rule about rates or keyframes applies: the first second has the largest keyframe.
const SETTLED: f64 = 5.0;
/// Drift in milliseconds per minute above which two clocks differ: 12 ms is 200 parts per million, more than crystals do.
const DRIFT: f64 = 12.0;
/// Sound and pictures further apart than this, in milliseconds, are one behind the other for viewers too, or make them
/// wait.
const APART: f64 = 1_000.0;

/// The advice on a report.
pub(super) fn of(report: &PublishReport) -> Vec<Advice> {
    let mut advice = Vec::new();
    for unreadable in &report.unreadable {
        let (kind, reason) = (&unreadable.kind, &unreadable.reason);
        advice.push(make(
            "codec",
            format!(
                "Change the {kind} codec (OBS: Settings > Output): H.264 video and AAC audio always work."
            ),
            format!("The {kind} that comes cannot be read ({reason}): viewers do not get it."),
        ));
    }
    // What comes and cannot be read is not missing.
    let comes = |kind: &str| report.unreadable.iter().any(|unreadable| unreadable.kind == kind);
    let is_missing = |kind: &str| report.seconds >= SETTLED && !comes(kind);
    match &report.video {
        Some(video) => of_video(video, report.seconds >= SETTLED, &mut advice),
        None if is_missing("video") => advice.push(make(
            "video",
            "Send video, unless this is meant to be a stream of sound alone.".into(),
            "No picture came.".into(),
        )),
        None => {}
    }
    match &report.audio {
        Some(audio) => of_audio(audio, &mut advice),
        None if is_missing("audio") => advice.push(make(
            "audio",
            "Send sound, even silence (OBS: an audio track of the output, not muted in every source).".into(),
            "No sound came: the encoder inserts silence, and a microphone that is added later may start late.".into(),
        )),
        None => {}
    }
    of_timing(report, &mut advice);
    if report.other_tracks {
        advice.push(make(
            "tracks",
            "Send one video track (OBS: no multitrack video) and at most four audio tracks.".into(),
            "The bandwidth of further tracks is spent for nothing: they are passed over.".into(),
        ));
    }
    advice
}

fn make(setting: &str, change: String, reason: String) -> Advice {
    Advice { setting: setting.to_owned(), change, reason }
}

fn of_video(video: &VideoReport, settled: bool, advice: &mut Vec<Advice>) {
    let never_came = video.since_keyframe_seconds.filter(|since| video.gop.is_none() && *since > LONG_GOP);
    let (longest, usual) = match video.gop {
        Some(gop) => (Some(gop.most_seconds), Some(gop.median_seconds)),
        None => (never_came, None),
    };
    if let Some(longest) = longest.filter(|longest| *longest > LONG_GOP) {
        advice.push(make(
            "keyframe_interval",
            "Set the keyframe interval to 2 s (OBS: Settings > Output > Keyframe Interval; 0 is automatic).".into(),
            format!(
                "Keyframes are up to {longest:.1} s apart: after a loss the picture stands still until the next one, and \
                 the rung \"source\" cannot be passed through."
            ),
        ));
    } else if let Some(usual) = usual.filter(|usual| *usual < SHORT_GOP && settled) {
        advice.push(make(
            "keyframe_interval",
            "Set the keyframe interval to 2 s (OBS: Settings > Output > Keyframe Interval).".into(),
            format!("Keyframes come every {usual:.2} s: they are the largest pictures, and the others get the worse for it."),
        ));
    }
    if video.most_b_frames_in_a_row > MANY_B_FRAMES {
        let row = video.most_b_frames_in_a_row;
        advice.push(make(
            "b_frames",
            "Set B-frames to 2 at most, or to 0 for the lowest latency (OBS: x264 option bframes=2; NVENC: Max \
             B-frames)."
                .into(),
            format!("Up to {row} B-frames in a row: each delays the stream by the time of a frame."),
        ));
    }
    let (average, peak) = (video.bits_per_second as f64, video.peak_bits_per_second as f64);
    if settled && average > 0.0 && peak > BURST * average {
        advice.push(make(
            "rate_control",
            "Set the rate control to CBR (OBS: Settings > Output > Rate Control).".into(),
            format!(
                "The fullest second has {:.1} times the average bitrate: bursts fill the upload's queue, and what \
                 follows comes late.",
                peak / average
            ),
        ));
    }
    if settled && !video.steady {
        advice.push(make(
            "frame_rate",
            "Set a constant frame rate that the computer keeps up with (OBS: Settings > Video; look at skipped and \
             missed frames under View > Stats)."
                .into(),
            "The time from picture to picture varies: motion judders, and keyframes of the rungs do not meet the \
             publisher's."
                .into(),
        ));
    } else if let (Some(measured), Some(stated)) = (video.frame_rate, video.stated_frame_rate)
        && settled
        && measured < stated * 0.9
    {
        advice.push(make(
            "frame_rate",
            format!("Lower the frame rate or the load of the computer: it states {stated:.2} frames/s."),
            format!("Only {measured:.2} frames/s come."),
        ));
    }
    if let Some(profile) = video.profile.as_deref()
        && ["High 10", "High 4:2:2", "High 4:4:4"].iter().any(|beyond| profile.starts_with(beyond))
    {
        advice.push(make(
            "profile",
            "Set the profile to high, and the color format to NV12 (OBS: Settings > Output > Profile, Settings > \
             Advanced > Color Format)."
                .into(),
            format!("The profile is {profile}: browsers and phones do not play that in the rung \"source\"."),
        ));
    }
    if video.format_changes > 0 {
        advice.push(make(
            "format",
            "Keep size and codec while the stream runs.".into(),
            format!(
                "The video's format changed {} times: viewers get a discontinuity each time.",
                video.format_changes
            ),
        ));
    }
}

fn of_audio(audio: &AudioReport, advice: &mut Vec<Advice>) {
    if audio.sample_rate != 0 && ![44_100, 48_000].contains(&audio.sample_rate) {
        advice.push(make(
            "sample_rate",
            "Set the sample rate to 48 kHz (OBS: Settings > Audio > Sample Rate).".into(),
            format!("The sound has {} Hz: it is resampled, and devices play 48 kHz.", audio.sample_rate),
        ));
    }
    if audio.channels > 2 {
        advice.push(make(
            "channels",
            "Set the channels to stereo (OBS: Settings > Audio > Channels).".into(),
            format!("The sound has {} channels: viewers get a stereo mix of them.", audio.channels),
        ));
    }
    if !audio.codec.is_empty() && !audio.codec.eq_ignore_ascii_case("aac") {
        advice.push(make(
            "audio_codec",
            "Set the audio codec to AAC.".into(),
            format!("The sound is {}: it is encoded again, which costs quality.", audio.codec),
        ));
    }
}

fn of_timing(report: &PublishReport, advice: &mut Vec<Advice>) {
    let timing = &report.timing;
    let repaired = |kind: &str| timing.repairs.get(kind).copied().unwrap_or(0);
    let jumps = repaired("jumps_forward") + repaired("jumps_backward") + timing.backward_steps;
    if jumps > 0 {
        advice.push(make(
            "timestamps",
            "Look for a source that restarts or a clock that is set: media sources that loop, captures that reconnect."
                .into(),
            format!("Timestamps jumped {jumps} times: a jump is removed, but viewers may see or hear it."),
        ));
    }
    let gaps = timing.gaps.max(repaired("gaps"));
    if gaps > 0 {
        advice.push(make(
            "network",
            "Lower the bitrate, or look at the network and the computer's load (OBS: dropped frames under View > Stats)."
                .into(),
            format!(
                "{gaps} gaps in the media, the longest of {:.1} s: viewers see a still picture or hear silence.",
                timing.longest_gap_seconds
            ),
        ));
    }
    if let Some(drift) = timing.drift_ms_per_minute.filter(|drift| drift.abs() > DRIFT) {
        let gains = if drift > 0.0 { "gains" } else { "loses" };
        advice.push(make(
            "audio_clock",
            "Use one sample rate everywhere: 48 kHz in OBS, in the operating system and in the interface; in OBS turn \
             on Use Device Timestamps for a capture card."
                .into(),
            format!(
                "The sound {gains} {:.0} ms a minute on the picture: after an hour lips are {:.1} s off.",
                drift.abs(),
                drift.abs() * 0.06
            ),
        ));
    } else if let Some(ahead) = timing.sound_ahead_ms.filter(|ahead| ahead.abs() > APART) {
        let (first, second) = if ahead > 0.0 { ("sound", "picture") } else { ("picture", "sound") };
        advice.push(make(
            "offset",
            "Look at the sync offset of the sources (OBS: Advanced Audio Properties), and at the encoder's load.".into(),
            format!(
                "The {first} comes {:.1} s before the {second} of the same time: the encoder waits for the later one.",
                ahead.abs() / 1_000.0
            ),
        ));
    }
    if report.passed_over.get("false_keys").is_some_and(|count| *count > 0) {
        advice.push(make(
            "open_gop",
            "Turn off open GOPs and intra refresh (x264 options open-gop=0 intra-refresh=0).".into(),
            "Pictures are marked as keyframes at which decoding cannot start: viewers cannot start there."
                .into(),
        ));
    }
    if repaired("presentation_times") + repaired("compositions") > 0 {
        advice.push(make(
            "composition_times",
            "Turn off B-frames, or update the publisher.".into(),
            "The order in which pictures are shown had to be repaired.".into(),
        ));
    }
    if repaired("audio_resyncs") + repaired("audio_frames_dropped") > 0
        && timing.drift_ms_per_minute.is_none_or(|drift| drift.abs() <= DRIFT)
    {
        advice.push(make(
            "audio_clock",
            "Use one sample rate everywhere: 48 kHz in OBS, in the operating system and in the interface."
                .into(),
            "The sound's timestamps and its number of samples do not agree: the sound had to be realigned."
                .into(),
        ));
    }
}
