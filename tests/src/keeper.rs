//! Keeps media files for later measurements although their writer deletes them in the meantime.

use crate::patience::pause;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Media files of one rung.
pub struct RungFiles {
    /// Rung name.
    pub name: String,
    /// Init segment.
    pub init: PathBuf,
    /// Media segments in order.
    pub segments: Vec<PathBuf>,
}

/// Preserves media files by hard links, so that the measured process does no extra work.
pub struct Keeper {
    kept: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Watches the subfolders of `stream`.
    pub fn start(stream: PathBuf) -> Self {
        let kept = tempfile::tempdir().expect("a temporary folder");
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped) = (kept.path().to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                link_all(&stream, &into);
                pause(Duration::from_millis(500));
            }
            link_all(&stream, &into);
        });
        Self { kept, stop, thread: Some(thread) }
    }

    /// Folder with the preserved files, one subfolder per rung.
    pub fn folder(&self) -> &Path {
        self.kept.path()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hard-links the media files of every subfolder of `from` into a subfolder of the same name in `into`.
fn link_all(from: &Path, into: &Path) {
    let entries =
        |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    for rung in entries(from).filter(|p| p.is_dir()) {
        let Some(folder) = rung.file_name().map(|name| into.join(name)) else { continue };
        let _ = std::fs::create_dir_all(&folder);
        let media = |p: &PathBuf| p.extension().is_some_and(|e| e == "m4s" || e == "mp4");
        for file in entries(&rung).filter(media) {
            if let Some(name) = file.file_name() {
                // The link may exist already, or the file may be deleted again.
                let _ = std::fs::hard_link(&file, folder.join(name));
            }
        }
    }
}

/// Init segment and media segments in a rung's folder; those of the first session if there are several.
pub fn files(name: &str, folder: &Path) -> anyhow::Result<RungFiles> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    let init = names.iter().find(|n| n.contains("init") && n.ends_with(".mp4"));
    let init = init.with_context(|| format!("no init segment in {}", folder.display()))?;
    // The encoder writes {session}-init.mp4 and {session}-{seq}.m4s; FFmpeg writes init_{n}.mp4 and seg-{seq}.m4s.
    let prefix = init.strip_suffix("init.mp4").filter(|p| !p.is_empty()).unwrap_or("seg-");
    let number = |n: &String| n.strip_prefix(prefix)?.strip_suffix(".m4s")?.parse::<u64>().ok();
    let mut numbered: Vec<(u64, &String)> = names.iter().filter_map(|n| Some((number(n)?, n))).collect();
    numbered.sort_unstable();
    let segments = numbered.into_iter().map(|(_, n)| folder.join(n)).collect();
    Ok(RungFiles { name: name.to_owned(), init: folder.join(init), segments })
}
