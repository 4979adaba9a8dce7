//! A viewer in headless Chromium that reads each frame's age off the picture: `tests/js/latency.mjs`. Evaluating the
//! data is left to the callers.

use crate::browser::node;
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A viewing: what to watch, and for how long.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// URL of the page; the page offers `window.__encoder = {hls, video}`.
    pub page: String,
    /// Seconds of warm-up after the first frame, reported separately.
    pub warmup: f64,
    /// Seconds of measurement after the warm-up.
    pub seconds: f64,
    /// How long to wait for the first frame, in seconds.
    pub patience: f64,
}

/// One frame on screen.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Shown {
    /// When the frame was shown, in milliseconds of Unix time.
    pub at_ms: f64,
    /// Clock burnt into the frame, in milliseconds of Unix time; 0 if unreadable.
    pub code_ms: u64,
    /// The frame's media time in seconds.
    pub media: f64,
    /// Frames presented by the browser so far; a step above 1 means that the reader missed frames.
    pub presented: u64,
    /// Latency that the page displayed at that moment in seconds, if any.
    pub readout: Option<f64>,
}

/// State of hls.js at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Estimate {
    /// hls.js's estimate of its distance to the playlist's end, in seconds.
    pub latency: f64,
    /// The distance that hls.js aims at, in seconds.
    pub target: Option<f64>,
    /// Playback rate.
    pub rate: f64,
    /// Buffer ahead of the playback position, in seconds.
    pub ahead: f64,
    /// Current level; -1 for none.
    pub level: i32,
}

/// Observations over one period.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seen {
    /// Frames in display order.
    pub frames: Vec<Shown>,
    /// Number of `waiting` events: playback stopped for lack of data.
    pub waits: u32,
    /// Longest time without progress of the video's clock, in seconds; resolution 50 ms.
    pub freeze: f64,
    /// Changes of the playback rate: milliseconds since the period began, and the new rate.
    pub rates: Vec<(f64, f64)>,
    /// Errors of hls.js.
    pub errors: Vec<String>,
    /// State of hls.js every 50 ms.
    pub hls: Vec<Estimate>,
    /// Length of the period by the wall clock, in seconds.
    pub watched: f64,
    /// Progress of the video's clock, in seconds.
    pub advanced: f64,
    /// Number of decoded frames.
    pub decoded: u64,
    /// Number of decoded frames that the browser did not show.
    pub dropped: u64,
}

/// What the viewer observed.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Viewed {
    /// Seconds from opening the page to the first frame.
    pub first_frame: f64,
    /// The warm-up period.
    pub warmup: Seen,
    /// The measured period.
    pub measured: Seen,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// Runs a viewing.
pub fn watch(view: &View) -> anyhow::Result<Viewed> {
    let out = node("latency.mjs", &serde_json::to_string(view)?)?;
    serde_json::from_str(&out).with_context(|| out.chars().take(500).collect::<String>())
}
