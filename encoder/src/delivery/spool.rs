//! A folder on a local disk for bodies that wait for the store: file operations only. Which bodies go there, and when,
//! is decided in [`super::plan`].
//!
//! The folder belongs to one process (a locked file says so) and is emptied at the start: files of an earlier process
//! belong to streams that have ended or were taken over. Nothing is flushed to the medium: no process reads the files
//! after a crash of the machine. Calls run on tokio's blocking pool, off the threads that streams run on.

use super::SpoolId;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::{info, warn};

/// Name of the lock file that marks the folder as in use.
const LOCK: &str = "encoder-spool.lock";
/// Name prefix of the streams' folders: other entries of the folder are left alone.
const PREFIX: &str = "spool-";

/// The spool folder of this process.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    bytes: u64,
    streams: AtomicU64,
    /// Locked as long as the process lives.
    _lock: File,
}

/// One stream's folder in the spool; removing the folder removes the stream's files.
#[derive(Debug)]
pub(super) struct StreamSpool {
    folder: PathBuf,
}

// === impl Spool ===

impl Spool {
    /// Takes a folder, creates it if it is missing, and empties it. `bytes` is how much each stream may keep there.
    ///
    /// # Errors
    /// The folder cannot be written, or another process uses it.
    pub fn open(folder: impl Into<PathBuf>, bytes: u64) -> io::Result<Arc<Self>> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock()
            .map_err(|_| io::Error::new(ErrorKind::ResourceBusy, "another encoder uses this folder"))?;
        let mut swept = 0;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                fs::remove_dir_all(entry.path())?;
                swept += 1;
            }
        }
        if swept > 0 {
            info!(swept, folder = %folder.display(), "removed what an earlier process left in the spool");
        }
        Ok(Arc::new(Self { folder, bytes, streams: AtomicU64::new(0), _lock: lock }))
    }

    /// Most bytes that each stream may keep on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn stream(&self) -> StreamSpool {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        StreamSpool { folder: self.folder.join(format!("{PREFIX}{number}")) }
    }
}

// === impl StreamSpool ===

impl StreamSpool {
    fn path(&self, id: SpoolId) -> PathBuf {
        self.folder.join(id.0.to_string())
    }

    /// Writes a body. The remains of a failed write are removed.
    pub(super) fn write(&self, id: SpoolId, body: &Bytes) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(id);
        let written = File::create(&path).and_then(|mut file| file.write_all(body));
        if written.is_err() {
            remove_file(&path);
        }
        written
    }

    pub(super) fn read(&self, id: SpoolId) -> io::Result<Bytes> {
        fs::read(self.path(id)).map(Bytes::from)
    }

    pub(super) fn discard(&self, id: SpoolId) {
        remove_file(&self.path(id));
    }

    /// Removes all files of the stream.
    pub(super) fn clear(&self) {
        match fs::remove_dir_all(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn!(folder = %self.folder.display(), %error, "spooled files stay"),
        }
    }
}

fn remove_file(path: &Path) {
    // If this fails, the file is removed later with the folder.
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_process_s_and_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("spool-7")).unwrap();
        fs::write(folder.path().join("spool-7/0"), b"old").unwrap();
        fs::write(folder.path().join("mine"), b"not yours").unwrap();
        let spool = Spool::open(folder.path(), 100).unwrap();
        assert!(!folder.path().join("spool-7").exists());
        assert!(folder.path().join("mine").exists());
        assert_eq!(Spool::open(folder.path(), 100).unwrap_err().kind(), ErrorKind::ResourceBusy);
        let stream = spool.stream();
        stream.write(SpoolId(1), &Bytes::from_static(b"body")).unwrap();
        assert_eq!(stream.read(SpoolId(1)).unwrap(), "body");
        stream.discard(SpoolId(1));
        assert!(stream.read(SpoolId(1)).is_err());
        stream.write(SpoolId(2), &Bytes::from_static(b"body")).unwrap();
        stream.clear();
        assert!(fs::read_dir(folder.path()).unwrap().flatten().all(|e| e.file_name() != "spool-0"));
        drop(spool);
        Spool::open(folder.path(), 100).unwrap();
    }
}
