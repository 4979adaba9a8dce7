//! A viewer in headless Chromium who reads the age of every frame off the picture: `tests/js/latency.mjs`. What is to be
//! concluded from it is decided elsewhere.

use crate::browser::node;
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What to watch.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The page; it offers `window.__encoder = {hls, video}`.
    pub page: String,
    /// Seconds from the first frame on that are reported apart.
    pub warmup: f64,
    /// Seconds that are measured, after those.
    pub seconds: f64,
    /// How long to wait for the first frame, in seconds.
    pub patience: f64,
}

/// One frame on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Shown {
    /// When it was shown, milliseconds of Unix time.
    pub at_ms: f64,
    /// The clock that was burnt into it, milliseconds of Unix time; 0 when it could not be read.
    pub code_ms: u64,
    /// Its time on the video's axis, in seconds.
    pub media: f64,
    /// Frames that the browser has presented so far; a step above 1 is one that this reader was too late for.
    pub presented: u64,
    /// Seconds behind live that the page showed at that moment, where it shows any.
    pub readout: Option<f64>,
}

/// hls.js at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Estimate {
    /// Its own estimate of the distance to the playlist's end, in seconds.
    pub latency: f64,
    /// The distance that it wants.
    pub target: Option<f64>,
    /// Playback rate.
    pub rate: f64,
    /// Seconds buffered ahead.
    pub ahead: f64,
    /// Level shown, -1 for none.
    pub level: i32,
}

/// A stretch of watching.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seen {
    /// Frames in the order shown.
    pub frames: Vec<Shown>,
    /// `waiting` events: playback stopped for want of data.
    pub waits: u32,
    /// Longest time without progress of the video's clock, in seconds; resolution 50 ms.
    pub freeze: f64,
    /// Changes of the playback rate: milliseconds since the stretch began, and the new rate.
    pub rates: Vec<(f64, f64)>,
    /// Errors of hls.js.
    pub errors: Vec<String>,
    /// Every 50 ms.
    pub hls: Vec<Estimate>,
    /// Seconds of the wall clock.
    pub watched: f64,
    /// Seconds of the video's clock.
    pub advanced: f64,
    /// Frames decoded, and those of them that the browser did not show.
    pub decoded: u64,
    /// See `decoded`.
    pub dropped: u64,
}

/// What the viewer saw.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Viewed {
    /// From opening the page to the first frame, in seconds.
    pub first_frame: f64,
    /// The beginning.
    pub warmup: Seen,
    /// What is measured.
    pub measured: Seen,
    /// What the page wrote to its console as error or threw.
    pub console: Vec<String>,
}

/// Watches.
pub fn watch(view: &View) -> anyhow::Result<Viewed> {
    let out = node("latency.mjs", &serde_json::to_string(view)?)?;
    serde_json::from_str(&out).with_context(|| out.chars().take(500).collect::<String>())
}
