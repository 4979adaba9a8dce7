//! Runs hls-parser, hls.js and shaka-player through Node; the scripts are in `tests/js`.

use crate::encoder_process::workspace;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn folder() -> PathBuf {
    workspace().join("tests/js")
}

pub(crate) fn node(script: &str, input: &str) -> anyhow::Result<String> {
    ensure!(
        folder().join("node_modules").is_dir(),
        "tests/js/node_modules is missing: run `npm ci` in tests/js"
    );
    let mut child = Command::new("node")
        .arg(folder().join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("node does not start")?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    let done = child.wait_with_output()?;
    let err = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{script} ended with {}:\n{err}", done.status);
    Ok(String::from_utf8(done.stdout)?)
}

/// Parses playlists (name, text) with hls-parser in strict mode; returns the parser's complaints.
pub fn strict(playlists: &[(String, String)]) -> anyhow::Result<Vec<String>> {
    Ok(serde_json::from_str(&node("strict.mjs", &serde_json::to_string(playlists)?)?)?)
}

/// What the browser plays, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Play {
    /// URL of the page.
    pub page: String,
    /// Playing time in seconds, counted from the first frame shown.
    pub seconds: f64,
    /// Levels to switch to while playing: (seconds after the first frame, level; -1 is automatic). 0 is the lowest.
    pub switches: Vec<(f64, i32)>,
    /// How long to wait for the first frame, in seconds.
    pub patience: f64,
}

impl Play {
    /// Plays the page and switches levels down, up, down and up, spread over the playing time.
    pub fn with_switches(page: String, seconds: f64) -> Self {
        let part = seconds / 4.0;
        let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
        Self {
            page,
            seconds,
            switches: vec![(0.5, 0), (part, 2), (2.0 * part, 0), (3.0 * part, 1)],
            patience,
        }
    }
}

/// What the browser observed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Played {
    /// Seconds from opening the page to the first frame.
    pub first_frame: f64,
    /// Playing time by the wall clock, in seconds.
    pub watched: f64,
    /// How far the video's clock advanced in that time, in seconds.
    pub advanced: f64,
    /// Longest stretch without progress, in seconds.
    pub longest_freeze: f64,
    /// How often the video waited for data after playback had begun.
    pub stalls: u32,
    /// hls.js errors: (details, fatal).
    pub errors: Vec<(String, bool)>,
    /// Levels played, in order, with the height of each.
    pub levels: Vec<(u32, u32)>,
    /// Picture heights that the video element reported, in order of change.
    pub heights: Vec<u32>,
    /// Frames decoded, and frames dropped.
    pub frames: (u64, u64),
    /// hls.js's estimate of the latency to live at the end, in seconds.
    pub latency: Option<f64>,
    /// Whether the browser decoded audio.
    pub audio: bool,
    /// Requested URLs, each with its protocol (`h2`, `http/1.1`); the first 250.
    pub requests: Vec<(String, String)>,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// What a viewer with shaka-player observed.
#[derive(Clone, Debug, Deserialize)]
pub struct ShakaPlayed {
    /// Playing time by the wall clock, in seconds.
    pub watched: f64,
    /// How far the video's clock advanced in that time, in seconds.
    pub advanced: f64,
    /// How often the video waited for data.
    pub stalls: u32,
    /// The player's errors.
    pub errors: Vec<String>,
    /// Frames decoded, and frames dropped.
    pub frames: (u64, u64),
    /// Wall clock minus the PROGRAM-DATE-TIME of the frame on screen, in seconds.
    pub latency: f64,
    /// Requested URLs; the first 250.
    pub requests: Vec<String>,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// Plays with shaka-player for `seconds`. The player keeps its defaults, except for the settings in its page
/// (`shaka.html`).
pub fn play_with_shaka(page: &str, seconds: f64) -> anyhow::Result<ShakaPlayed> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
    let job = serde_json::json!({ "page": page, "seconds": seconds, "patience": patience });
    Ok(serde_json::from_str(&node("shaka.mjs", &job.to_string())?)?)
}

/// The player that switches between audio renditions.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchingPlayer {
    /// hls.js, in `player.html`.
    Hls,
    /// shaka-player, in `shaka.html`.
    Shaka,
}

/// What a viewer heard who switched between audio renditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SoundsHeard {
    /// Names of the audio renditions, in the player's order.
    pub names: Vec<String>,
    /// Language tags of the audio renditions.
    pub languages: Vec<String>,
    /// Name of the rendition that the player began with.
    pub first: String,
    /// After each choice: the name of the rendition, and the tone in Hz that was heard at the end of two seconds.
    pub heard: Vec<(String, u32)>,
    /// How often the video waited for data after playback had begun.
    pub stalls: u32,
    /// Longest stretch without progress, in seconds.
    pub longest_freeze: f64,
    /// Playing time by the wall clock, in seconds.
    pub watched: f64,
    /// How far the video's clock advanced in that time, in seconds.
    pub advanced: f64,
    /// The player's errors.
    pub errors: Vec<String>,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// Plays a page, chooses the audio renditions with these names one after another, and listens for the tones (in Hz).
pub fn switch_sounds(
    player: SwitchingPlayer,
    page: &str,
    choices: &[&str],
    tones: &[u32],
) -> anyhow::Result<SoundsHeard> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
    let job = serde_json::json!({
        "player": player, "page": page, "choices": choices, "tones": tones, "patience": patience,
    });
    let out = node("tracks.mjs", &job.to_string())?;
    serde_json::from_str(&out).with_context(|| out)
}

impl Played {
    /// Everything that went wrong: errors, stalls, a clock that did not advance, level switches that did not happen.
    pub fn complaints(&self, play: &Play) -> Vec<String> {
        let mut wrong = Vec::new();
        wrong
            .extend(self.errors.iter().map(|(details, fatal)| format!("hls.js: {details} (fatal: {fatal})")));
        wrong.extend(self.console.iter().map(|line| format!("console: {line}")));
        if self.stalls > 0 {
            wrong.push(format!("{} stalls", self.stalls));
        }
        if self.longest_freeze > 0.5 {
            wrong.push(format!("frozen for {:.2} s", self.longest_freeze));
        }
        // A player that catches up with live advances faster than the wall clock; a slower one falls back.
        let pace = self.advanced / self.watched;
        if !(0.95..=1.25).contains(&pace) {
            wrong.push(format!("{:.2} s played in {:.2} s", self.advanced, self.watched));
        }
        let played: Vec<u32> = self.levels.iter().map(|(level, _)| *level).collect();
        let wanted: Vec<u32> =
            play.switches.iter().filter_map(|(_, level)| u32::try_from(*level).ok()).collect();
        let mut left = played.iter();
        if !wanted.iter().all(|level| left.any(|l| l == level)) {
            wrong.push(format!("levels {wanted:?} were asked for in this order, played were {played:?}"));
        }
        wrong
    }
}

/// Plays a page in headless Chromium.
pub fn play(play: &Play) -> anyhow::Result<Played> {
    let out = node("play.mjs", &serde_json::to_string(play)?)?;
    serde_json::from_str(&out).with_context(|| out)
}

/// Contents of the operator's page.
#[derive(Clone, Debug, Deserialize)]
pub struct OperatorPage {
    /// The encoder's state, one word.
    pub state: String,
    /// Explanation shown next to the state.
    pub why: String,
    /// Heading of the first stream.
    pub stream: String,
    /// The first stream's facts, by name.
    pub facts: std::collections::BTreeMap<String, String>,
    /// The first stream's renditions: table rows of cells.
    pub rows: Vec<Vec<String>>,
    /// Size of the stream's thumbnail in pixels.
    pub picture: (u32, u32),
    /// The last warnings, newest first.
    pub warnings: Vec<String>,
    /// The first stream's warning about media that cannot be read; empty without one.
    pub unreadable: String,
    /// What the first stream's publisher should change.
    pub advice: Vec<String>,
    /// Whether the page reports that it lost the process.
    pub lost: bool,
    /// The status document that the page shows.
    pub status: serde_json::Value,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
    /// Requests to any other host.
    pub foreign: Vec<String>,
}

/// Opens the operator's page during a stream and follows it for two seconds. `TEST_SCREENSHOT` names a file for a
/// screenshot.
pub fn operator_page(page: &str) -> anyhow::Result<OperatorPage> {
    read_operator_page(page, false)
}

/// The same once the page warns of media that cannot be read.
pub fn operator_page_with_warning(page: &str) -> anyhow::Result<OperatorPage> {
    read_operator_page(page, true)
}

fn read_operator_page(page: &str, unreadable: bool) -> anyhow::Result<OperatorPage> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
    let screenshot = std::env::var("TEST_SCREENSHOT").ok();
    let job = serde_json::json!({
        "page": page, "patience": patience, "unreadable": unreadable, "screenshot": screenshot,
    });
    let out = node("operator.mjs", &job.to_string())?;
    serde_json::from_str(&out).with_context(|| out)
}

/// What an operator does on the operator's page.
#[derive(Clone, Debug, Serialize)]
pub struct OperatorWork {
    /// URL of the page.
    pub page: String,
    /// The reason for ending the stream.
    pub reason: String,
    /// The ban, one of the page's choices in seconds; empty for none.
    pub ban: String,
    /// The latency to set for the next start, in seconds.
    pub latency: f64,
    /// The token, if the page has to ask for one.
    pub token: Option<String>,
    /// A folder for screenshots.
    pub screenshots: Option<PathBuf>,
}

/// What the operator saw.
#[derive(Clone, Debug, Deserialize)]
pub struct OperatorWorked {
    /// Heading of the stream.
    pub title: String,
    /// Heading of the question before the stream is ended.
    pub asks: String,
    /// After the Escape key: the class of the focused element, and the number of changes that were sent.
    pub escaped: EscapedDialog,
    /// What the page said about the latency.
    pub latency: String,
    /// What the page showed of a refusal.
    pub problem: String,
    /// What the page said about the end.
    pub ended: String,
    /// The changes that were sent: method, URL, and the header Authorization.
    pub requests: Vec<(String, String, String)>,
    /// The page's address and everything that it stored, in one text.
    pub places: String,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// The page after the Escape key has closed a dialog.
#[derive(Clone, Debug, Deserialize)]
pub struct EscapedDialog {
    /// The class of the focused element.
    pub focus: String,
    /// Number of changes that were sent.
    pub requests: usize,
}

/// Works the operator's page while one stream runs: sets a latency, is refused once, ends the stream.
pub fn work_operator_page(work: &OperatorWork) -> anyhow::Result<OperatorWorked> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
    let mut job = serde_json::to_value(work)?;
    job["patience"] = patience.into();
    let out = node("control.mjs", &job.to_string())?;
    serde_json::from_str(&out).with_context(|| out)
}

/// What a viewer of an MP4 file observed.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedFile {
    /// Duration in seconds, as the video element reports it.
    pub duration: f64,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Per seek: start time, time reached by playing (both in seconds), and number of frames shown.
    pub played: Vec<(f64, f64, u64)>,
    /// Whether the browser decoded audio.
    pub audio: bool,
    /// Status codes of the responses for the file.
    pub responses: Vec<u16>,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// Opens an MP4 in headless Chromium, seeks to each of these times (seconds) and plays one second from each, then plays
/// the end.
pub fn watch_file(src: &str, seeks: &[f64]) -> anyhow::Result<WatchedFile> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(20)).as_secs_f64();
    let out = node(
        "recording.mjs",
        &serde_json::json!({"src": src, "seeks": seeks, "patience": patience}).to_string(),
    )?;
    serde_json::from_str(&out).with_context(|| out)
}

/// The captions that a viewer with hls.js got to read.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadCaptions {
    /// Texts in the order in which they were shown.
    pub shown: Vec<String>,
    /// Heights in pixels of the levels that were played.
    pub heights: Vec<u32>,
    /// Kind and label of each text track.
    pub tracks: Vec<(String, String)>,
    /// hls.js's fatal errors.
    pub errors: Vec<String>,
    /// Console errors and exceptions of the page.
    pub console: Vec<String>,
}

/// Plays a page at one level, 0 being the lowest, until `count` captions were shown. The page loads nothing by itself.
pub fn read_captions(page: &str, level: usize, count: usize) -> anyhow::Result<ReadCaptions> {
    let patience = crate::patience::patience(std::time::Duration::from_secs(30)).as_secs_f64();
    let job = serde_json::json!({ "page": page, "level": level, "count": count, "patience": patience });
    let out = node("captions.mjs", &job.to_string())?;
    serde_json::from_str(&out).with_context(|| out)
}
