//! Publishers in common use: FFmpeg, and GStreamer's two RTMP sinks.

use crate::process::Program;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The path of an FFmpeg that speaks Enhanced RTMP, which Debian's does not (`fixtures/recent-ffmpeg.sh`).
///
/// # Panics
/// When it cannot be fetched.
#[track_caller]
pub fn recent_ffmpeg() -> PathBuf {
    let script = crate::encoder_process::workspace().join("fixtures/recent-ffmpeg.sh");
    let made = Command::new(script).output().expect("the script runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("a path in UTF-8").trim().into()
}

/// FFmpeg publishes the file in real time, in an endless loop.
pub fn ffmpeg_looped(clip: &Path, url: &str) -> Program {
    ffmpeg(clip, url, &["-stream_loop", "-1"])
}

/// FFmpeg publishes the file once, in real time.
pub fn ffmpeg_once(clip: &Path, url: &str) -> Program {
    ffmpeg(clip, url, &[])
}

/// FFmpeg publishes the file in real time, with extra input options.
pub fn ffmpeg(clip: &Path, url: &str, input: &[&str]) -> Program {
    ffmpeg_at(Path::new("ffmpeg"), clip, url, input)
}

/// The same with the FFmpeg at `program`.
pub fn ffmpeg_at(program: &Path, clip: &Path, url: &str, input: &[&str]) -> Program {
    let mut command = Command::new(program);
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-re"]).args(input);
    command.arg("-i").arg(clip).args(["-c", "copy", "-f", "flv", url]);
    Program::spawn("ffmpeg (publisher)", &mut command)
}

/// The recent FFmpeg publishes all tracks of a clip in real time, in an endless loop: further sound tracks by Enhanced
/// RTMP's multitrack.
pub fn ffmpeg_all_tracks(clip: &Path, url: &str) -> Program {
    let mut command = Command::new(recent_ffmpeg());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-stream_loop", "-1", "-re"]);
    // By default the first half second is sent at once, and the dates of later segments then fall back.
    command.args(["-readrate_initial_burst", "0.001", "-i"]);
    command.arg(clip).args(["-map", "0", "-c", "copy", "-f", "flv", url]);
    Program::spawn("ffmpeg (publisher)", &mut command)
}

/// Which GStreamer sink publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GstSink {
    /// GStreamer's own implementation.
    Rtmp2Sink,
    /// The sink based on librtmp.
    RtmpSink,
}

/// GStreamer publishes the file in real time (its sinks wait for each buffer's time).
pub fn gstreamer(clip: &Path, url: &str, sink: GstSink) -> Program {
    let element = match sink {
        GstSink::Rtmp2Sink => "rtmp2sink",
        GstSink::RtmpSink => "rtmpsink",
    };
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "-e", "filesrc"]).arg(format!("location={}", clip.display()));
    command.args("! flvdemux name=d flvmux name=m streamable=true".split(' '));
    command.args("d.video ! queue ! h264parse ! video/x-h264,stream-format=avc ! m.".split(' '));
    command.args("d.audio ! queue ! aacparse ! audio/mpeg,stream-format=raw ! m.".split(' '));
    command.args(["m.", "!", element, "sync=true"]).arg(format!("location={url}"));
    Program::spawn(element, &mut command)
}

/// Time-out long enough for any publisher to notice that it was refused.
pub const REFUSAL: Duration = Duration::from_secs(15);
