//! The usual companion of `ffmpeg -f hls`: a loop that uploads new files from a directory. It is as good as a small one
//! can be: it follows the playlists and uploads none before the segments that it names, keeps its connection, sends
//! content types and Cache-Control, writes a playlist at most once per second and always the newest version, and
//! retries failures.

use anyhow::{Context, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tests::http::Client;
use tests::patience::pause;
use tests::playlist;

/// Interval between two scans of a directory without new files.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Minimum time between two writes of one playlist: Cloud Storage refuses more.
const REWRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Boundary in the body of an upload; does not occur in media by chance.
const BOUNDARY: &str = "qoEaz8XbtTkuwLrrGBKd";

/// Upload destination.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
}

/// Uploads with one thread and one connection per group of renditions.
pub(crate) struct Uploader {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<String>>>,
}

/// State of one upload thread.
struct Loop {
    client: Client,
    target: Target,
    folder: PathBuf,
    done: BTreeSet<String>,
    /// The last uploaded text of each playlist, and when that upload started.
    playlists: BTreeMap<String, (String, Instant)>,
}

// === impl Uploader ===

impl Uploader {
    pub(crate) fn start(target: Target, folder: &Path, groups: Vec<Vec<String>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = groups.into_iter().map(|rungs| {
            let mut work = Loop {
                client: Client::default(),
                target: target.clone(),
                folder: folder.to_owned(),
                done: BTreeSet::new(),
                playlists: BTreeMap::new(),
            };
            let stop = stop.clone();
            std::thread::spawn(move || work.run(&rungs, &stop))
        });
        Self { threads: threads.collect(), stop }
    }

    /// Stops the threads. Returns the last error of a thread that had no success afterwards.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let failed = thread.join().ok().context("an uploader panicked")?;
            ensure!(failed.is_none(), "{}", failed.unwrap_or_default());
        }
        Ok(())
    }
}

// === impl Loop ===

impl Loop {
    fn run(&mut self, rungs: &[String], stop: &AtomicBool) -> Option<String> {
        let mut failed = None;
        while !stop.load(Ordering::Relaxed) {
            let mut idle = true;
            for rung in rungs {
                match self.rendition(rung) {
                    Ok(uploaded) => {
                        idle &= !uploaded;
                        if uploaded {
                            failed = None;
                        }
                    }
                    Err(error) => failed = Some(format!("{error:#}")),
                }
            }
            if idle {
                pause(LOOK_EVERY);
            }
        }
        failed
    }

    /// Uploads new files of a rendition. Returns whether there were any.
    fn rendition(&mut self, rung: &str) -> anyhow::Result<bool> {
        let name = format!("{rung}/index.m3u8");
        // FFmpeg has not written the playlist yet.
        let Ok(text) = std::fs::read_to_string(self.folder.join(&name)) else { return Ok(false) };
        let last = self.playlists.get(&name);
        if last.is_some_and(|(before, at)| *before == text || at.elapsed() < REWRITE_INTERVAL) {
            return Ok(false);
        }
        let media = playlist::media(&text)?;
        let maps = media.segments.iter().filter_map(|segment| segment.map.clone());
        let files = maps.chain(media.segments.iter().map(|segment| segment.uri.clone()));
        for file in files.map(|file| format!("{rung}/{file}")) {
            if !self.done.contains(&file) {
                let body = std::fs::read(self.folder.join(&file)).with_context(|| file.clone())?;
                let kind = if rung == "audio" { "audio/mp4" } else { "video/iso.segment" };
                self.upload(&file, kind, "public, max-age=31536000, immutable", &body)?;
                self.done.insert(file);
            }
        }
        let begun = Instant::now();
        self.upload(&name, "application/vnd.apple.mpegurl", "no-store", text.as_bytes())?;
        self.playlists.insert(name, (text, begun));
        Ok(true)
    }

    fn upload(&self, name: &str, kind: &str, caching: &str, body: &[u8]) -> anyhow::Result<()> {
        let Target { endpoint, bucket, prefix } = &self.target;
        let name = format!("{prefix}/{name}");
        let metadata = serde_json::json!({ "name": name, "contentType": kind, "cacheControl": caching });
        let mut sent = format!(
            "--{BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n--{BOUNDARY}\r\n\
             Content-Type: {kind}\r\n\r\n"
        )
        .into_bytes();
        sent.extend_from_slice(body);
        sent.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let escaped = name.replace('/', "%2F");
        let url = format!("{endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={escaped}");
        let answer = self.client.post(&url, &format!("multipart/related; boundary={BOUNDARY}"), &sent)?;
        ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.text().unwrap_or_default());
        Ok(())
    }
}
