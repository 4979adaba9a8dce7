//! A directory as the store. Only file work is here; content types and caching belong to whoever serves the files.
//!
//! **Atomicity.** An object is written to a temporary file in the folder where it will live and then renamed over its
//! name (`replace`) or hard-linked to it (`create`: link(2) fails when the name exists, where rename(2) overwrites).
//! Readers see all of an object or nothing.
//!
//! **Order.** A call that its caller gave up on goes on in its thread. So that a playlist's old version never lands on
//! a newer one, calls on a name are numbered, and one that comes late leaves the newer version alone.
//!
//! **Durability.** A live segment is watched within seconds or never, so a stream that runs waits for no disk flush:
//! the kernel writes back within some 30 s, and after a power cut the last seconds of a broadcast that ended anyway
//! may be missing or empty. Two kinds of object are flushed (fdatasync, then the folder), because much hangs on
//! a few bytes: init segments, without which everything after them is unreadable, and a playlist's last version (the
//! one with EXT-X-ENDLIST), which nobody will ever write again.
//!
//! **Threads.** File work runs on tokio's blocking pool, [`WORKERS`] calls at a time; the others wait in line, first
//! come first served. Whoever calls bounds how many wait ([`crate::publish`] does, in bytes).

use super::{Object, ObjectName, Store, StoreError, StoreFuture};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// File operations at a time: enough to keep a disk's queue busy, few enough that a hung network file system leaves
/// the blocking pool's other threads free.
pub const WORKERS: usize = 4;

/// What temporary files end in. No object's name ends so, and none begins with a dot.
const TEMPORARY: &str = ".tmp";

/// How deep folders are looked through for leftovers; the deepest objects are
/// `{app}/{name}/archive/{session}/{rung}/{file}`.
const MAX_DEPTH: u32 = 6;

/// A directory as the store. Clones share it.
#[derive(Clone, Debug)]
pub struct DirStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Makes temporary names unique within the process.
    counter: AtomicU64,
    workers: Arc<Semaphore>,
    /// Names that are being replaced.
    replacing: Mutex<HashMap<ObjectName, Replacing>>,
}

#[derive(Debug, Default)]
struct Replacing {
    /// Calls under way; the entry goes with the last.
    calls: u32,
    /// Number of the newest version that has the name.
    newest: u64,
}

/// One call of `replace`, numbered when it was made.
#[derive(Debug)]
struct Turn {
    inner: Arc<Inner>,
    name: ObjectName,
    number: u64,
}

/// What happens when the name is taken.
#[derive(Clone, Copy, Debug)]
enum Taken<'a> {
    Refuse,
    Replace(&'a Turn),
}

// === impl DirStore ===

impl DirStore {
    /// Opens a directory, made if it is not there, proves that it can be written, and removes what an earlier process
    /// left half-written. Should another process be writing to the same directory, a file of its may go with that:
    /// its write fails as retryable.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let store = Self {
            inner: Arc::new(Inner {
                root,
                counter: AtomicU64::new(0),
                workers: Arc::new(Semaphore::new(WORKERS)),
                replacing: Mutex::default(),
            }),
        };
        store
            .blocking(|inner| {
                fs::create_dir_all(&inner.root)?;
                let swept = sweep(&inner.root, MAX_DEPTH)?;
                if swept > 0 {
                    info!(swept, root = %inner.root.display(), "removed half-written files of an earlier process");
                }
                let (probe, file) = inner.temporary(&inner.root, "probe")?;
                drop(file);
                fs::remove_file(probe)
            })
            .await?;
        Ok(store)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    async fn blocking<F>(&self, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Inner) -> io::Result<()> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let Ok(permit) = Arc::clone(&self.inner.workers).acquire_owned().await else {
            return Err(StoreError::Unavailable("store is closed".into()));
        };
        let work = move || {
            // Held by the thread, not by the caller: who gives up waiting does not free a thread that still works.
            let _permit = permit;
            work(&inner)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(classify),
            Err(error) => Err(StoreError::Unavailable(format!("file work was cut off: {error}"))),
        }
    }
}

impl Store for DirStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.write(&name, &object.body, Taken::Refuse)))
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        let turn = Turn::take(&self.inner, name);
        Box::pin(self.blocking(move |inner| inner.write(&turn.name, &object.body, Taken::Replace(&turn))))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.remove(&name)))
    }

    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }
}

// === impl Inner ===

impl Inner {
    fn replacing(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectName, Replacing>> {
        // Nothing under the lock panics; were it to, the map is whole.
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &ObjectName, body: &Bytes, taken: Taken<'_>) -> io::Result<()> {
        let path = self.root.join(name.as_str());
        let folder = path.parent().unwrap_or(&self.root);
        let (temporary, file) = self.temporary(folder, &file_name(&path))?;
        let result = self.fill_and_name(&temporary, file, &path, body, taken);
        // Gone after a rename, left after anything else. What cannot go now is swept at the next start.
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, file = %temporary.display(), "cannot remove a temporary file");
        }
        result?;
        if must_last(name, body) { File::open(folder)?.sync_data() } else { Ok(()) }
    }

    fn fill_and_name(
        &self,
        temporary: &Path,
        mut file: File,
        path: &Path,
        body: &Bytes,
        taken: Taken<'_>,
    ) -> io::Result<()> {
        file.write_all(body)?;
        if must_last_path(path, body) {
            file.sync_data()?;
        }
        drop(file);
        match taken {
            Taken::Refuse => fs::hard_link(temporary, path),
            Taken::Replace(turn) => turn.rename(temporary, path),
        }
    }

    /// A new file beside the one that is to be written. Makes the folder, again if a removal of the folder's last
    /// object took it away in between.
    fn temporary(&self, folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
        let mut attempts = 0;
        loop {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".{name}.{}-{number}{TEMPORARY}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::NotFound && attempts < 3 => {
                    attempts += 1;
                    fs::create_dir_all(folder)?;
                }
                // Another process with our process id, in another container.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < 3 => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn remove(&self, name: &ObjectName) -> io::Result<()> {
        let path = self.root.join(name.as_str());
        match fs::remove_file(&path) {
            Ok(()) => {}
            // A folder on the way is missing, or a file: then so is the object.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // A folder that is not empty, or that somebody else removed, ends the climb; neither is an error.
        path.ancestors()
            .skip(1)
            .take_while(|folder| *folder != self.root)
            .try_for_each(|folder| fs::remove_dir(folder).ok());
        Ok(())
    }
}

// === impl Turn ===

impl Turn {
    fn take(inner: &Arc<Inner>, name: &ObjectName) -> Self {
        let number = inner.counter.fetch_add(1, Ordering::Relaxed) + 1;
        inner.replacing().entry(name.clone()).or_default().calls += 1;
        Self { inner: Arc::clone(inner), name: name.clone(), number }
    }

    /// Under the lock, so that two versions cannot pass each other between the look and the rename.
    fn rename(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        let mut replacing = self.inner.replacing();
        let entry = replacing.entry(self.name.clone()).or_default();
        if entry.newest < self.number {
            fs::rename(temporary, path)?;
            entry.newest = self.number;
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut replacing = self.inner.replacing();
        if let Some(entry) = replacing.get_mut(&self.name) {
            entry.calls -= 1;
            if entry.calls == 0 {
                replacing.remove(&self.name);
            }
        }
    }
}

/// Whether so much hangs on the object that it must be on the disk before the write counts as done.
fn must_last(name: &ObjectName, body: &[u8]) -> bool {
    must_last_path(Path::new(name.as_str()), body)
}

fn must_last_path(path: &Path, body: &[u8]) -> bool {
    let file = file_name(path);
    if file.ends_with(".m3u8") {
        let end = b"#EXT-X-ENDLIST";
        return body.windows(end.len()).any(|window| window == end);
    }
    file.ends_with("-init.mp4")
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn sweep(folder: &Path, depth: u32) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Symbolic links are neither followed nor removed: they lead to what is not ours.
        if kind.is_dir() && depth > 0 {
            swept += sweep(&entry.path(), depth - 1)?;
        } else if kind.is_file() && name.starts_with('.') && name.ends_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn classify(error: io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::AlreadyExists => StoreError::Exists,
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::Unsupported => StoreError::Refused(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Caching, content_type, contract};

    fn object(body: &'static [u8]) -> Object {
        Object { body: body.into(), content_type: content_type::VIDEO_SEGMENT, caching: Caching::Immutable }
    }

    async fn temporary_store() -> (tempfile::TempDir, DirStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = DirStore::open(folder.path().join("media")).await.unwrap();
        (folder, store)
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn keeps_the_contract_of_every_store() {
        let (_folder, store) = temporary_store().await;
        let root = store.root().to_owned();
        contract::check(&store, |name| fs::read(root.join(name.as_str())).ok().map(Bytes::from)).await;
    }

    #[tokio::test]
    async fn nothing_but_the_objects_remains() {
        let (_folder, store) = temporary_store().await;
        let name = ObjectName::new("live/demo/720p/s-1.m4s");
        store.create(&name, object(b"a")).await.unwrap();
        let _ = store.create(&name, object(b"b")).await.unwrap_err();
        store.replace(&name, object(b"c")).await.unwrap();
        assert_eq!(files(&store.root().join("live/demo/720p")), ["s-1.m4s"]);
        store.remove(&name).await.unwrap();
        assert_eq!(files(store.root()), [""; 0], "empty folders go with the last object, the root stays");
        assert!(store.root().exists());
    }

    #[tokio::test]
    async fn an_old_version_that_comes_late_leaves_the_new_one_alone() {
        let (_folder, store) = temporary_store().await;
        let name = ObjectName::new("live/demo/index.m3u8");
        let old = Turn::take(&store.inner, &name);
        store.replace(&name, object(b"new")).await.unwrap();
        store.inner.write(&name, &Bytes::from_static(b"old"), Taken::Replace(&old)).unwrap();
        drop(old);
        assert_eq!(fs::read(store.root().join(name.as_str())).unwrap(), b"new");
        assert_eq!(files(&store.root().join("live/demo")), ["index.m3u8"]);
        assert!(store.inner.replacing().is_empty(), "nothing is remembered of calls that are over");
    }

    #[tokio::test]
    async fn leftovers_of_a_crash_are_swept_and_nothing_else() {
        let (_folder, store) = temporary_store().await;
        store.create(&ObjectName::new("live/demo/a.m4s"), object(b"a")).await.unwrap();
        let folder = store.root().join("live/demo");
        fs::write(folder.join(".b.m4s.77-3.tmp"), b"half").unwrap();
        fs::write(folder.join("notes.tmp"), b"somebody's").unwrap();
        DirStore::open(store.root()).await.unwrap();
        assert_eq!(files(&folder), ["a.m4s", "notes.tmp"]);
    }

    #[tokio::test]
    async fn a_full_disk_refuses() {
        // Every write to /dev/full fails with ENOSPC, as on a disk without room.
        let error = OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let error = classify(error);
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
        assert!(!error.is_retryable());
    }

    #[tokio::test]
    async fn a_root_that_cannot_be_written_is_refused_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"not a folder").unwrap();
        let error = DirStore::open(file.join("media")).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    }

    #[test]
    fn what_must_last_is_flushed() {
        assert!(must_last(&ObjectName::new("a/b/720p/s-init.mp4"), b""));
        assert!(must_last(&ObjectName::new("a/b/720p/index.m3u8"), b"#EXTM3U\n#EXT-X-ENDLIST\n"));
        assert!(!must_last(&ObjectName::new("a/b/720p/index.m3u8"), b"#EXTM3U\n"));
        assert!(!must_last(&ObjectName::new("a/b/720p/s-1.m4s"), b""));
    }
}
