//! A directory as the store. Only file operations belong here; content types and caching are up to the server that
//! serves the files.
//!
//! **Atomicity.** An object is written to a temporary file in the folder where it will live and then renamed over its
//! name (`replace`) or hard-linked to it (`create`: link(2) fails when the name exists, where rename(2) overwrites).
//! Readers see all of an object or nothing.
//!
//! **Order.** A call that its caller gave up keeps running in its thread. Calls on one name are numbered so that an
//! old version of a playlist never overwrites a newer one: a late call leaves the newer version alone.
//!
//! **Versions.** An object's version is its file's modification time in nanoseconds. This module sets the time with
//! each write, always later than that of the version it replaces. A conditional write compares and renames while
//! holding a lock on the root folder (flock(2)), so the precondition also holds between processes on one machine.
//! File systems with coarser times or without locks weaken this guarantee accordingly.
//!
//! **Durability.** A live segment is watched within seconds or never, so a running stream does not wait for disk
//! flushes: the kernel writes back within about 30 s, and after a power cut, which ends the broadcast anyway, its
//! last seconds may be missing or empty. Three kinds of object are flushed (fdatasync on the file, then on the
//! folder) because their loss costs more: init segments, without which no later segment is readable; the last version
//! of a playlist (with EXT-X-ENDLIST); and a finished recording. The last two are never written again.
//!
//! **Threads.** File operations run on tokio's blocking pool, [`WORKERS`] at a time; further calls queue in order of
//! arrival. The caller bounds the queue.

use super::{
    Caching, Expected, Listed, MAX_LISTED, MAX_SOURCES, Object, ObjectName, Store, StoreError, StoreFuture,
    Stored, Version,
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Concurrent file operations: enough to keep a disk's queue busy, few enough that a hung network file system leaves
/// the other threads of the blocking pool free.
pub const WORKERS: usize = 4;

/// The suffix of temporary files, whose names also begin with a dot. Names of objects have neither.
const TEMPORARY: &str = ".tmp";

/// The folder depth that is swept for leftover temporary files; the deepest objects are
/// `{app}/{name}/archive/{session}/{rung}/{file}`.
const MAX_DEPTH: u32 = 6;

/// A directory as the store. Clones share the same state.
#[derive(Clone, Debug)]
pub struct DirStore {
    inner: Arc<DirInner>,
}

#[derive(Debug)]
struct DirInner {
    root: PathBuf,
    /// Makes temporary names unique within the process.
    counter: AtomicU64,
    workers: Arc<Semaphore>,
    /// Names with running calls that replace their object.
    replacing: Mutex<HashMap<ObjectName, Replacing>>,
}

#[derive(Debug, Default)]
struct Replacing {
    /// Running calls; the last one removes the entry.
    calls: u32,
    /// The number of the newest call that has renamed its file to the name.
    newest: u64,
}

/// One call that replaces the object of a name, numbered when the call was made.
#[derive(Debug)]
struct Turn {
    inner: Arc<DirInner>,
    name: ObjectName,
    number: u64,
}

/// What to do when the name already exists.
#[derive(Clone, Copy, Debug)]
enum Taken<'a> {
    Refuse,
    Replace(&'a Turn),
    Expect(Expected),
}

// === impl DirStore ===

impl DirStore {
    /// Opens a directory, creating it if necessary, proves that the directory is writable, and removes temporary
    /// files left by an earlier process. If another process is writing to the same directory, one of its temporary
    /// files may be removed too: that write then fails with a retryable error.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::at(root.into());
        store
            .blocking(|inner| {
                fs::create_dir_all(&inner.root)?;
                let swept = sweep(&inner.root, MAX_DEPTH)?;
                if swept > 0 {
                    info!(swept, root = %inner.root.display(), "removed half-written files of an earlier process");
                }
                let (probe, file) = inner.temporary(&inner.root, "probe")?;
                drop(file);
                Ok(fs::remove_file(probe)?)
            })
            .await?;
        Ok(store)
    }

    /// Opens an existing directory for reading alone: nothing is created or removed.
    ///
    /// # Errors
    /// The directory does not exist or cannot be read.
    pub async fn open_to_read(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self::at(root.into());
        store.blocking(|inner| Ok(fs::read_dir(&inner.root).map(drop)?)).await?;
        Ok(store)
    }

    fn at(root: PathBuf) -> Self {
        let inner = DirInner {
            root,
            counter: AtomicU64::new(0),
            workers: Arc::new(Semaphore::new(WORKERS)),
            replacing: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&DirInner) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let Ok(permit) = Arc::clone(&self.inner.workers).acquire_owned().await else {
            return Err(StoreError::Unavailable("store is closed".into()));
        };
        let work = move || {
            // The thread holds the permit, not the caller: a caller that gives up does not free a thread that is
            // still working.
            let _permit = permit;
            work(&inner)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Unavailable(format!("file work was cut off: {error}"))),
        }
    }
}

impl Store for DirStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| {
            let taken = match inner.write(&name, &object.body, Taken::Refuse) {
                Err(StoreError::Exists) => fs::read(inner.root.join(name.as_str()))?,
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            };
            if taken == object.body { Ok(()) } else { Err(StoreError::Exists) }
        }))
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        let turn = Turn::take(&self.inner, name);
        Box::pin(self.blocking(move |inner| {
            inner.write(&turn.name, &object.body, Taken::Replace(&turn))?;
            Ok(())
        }))
    }

    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.write(&name, &object.body, Taken::Expect(expected))))
    }

    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.read(&name)))
    }

    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| inner.read_range(&name, range)))
    }

    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>> {
        let (folder, after) = (folder.clone(), after.cloned());
        Box::pin(self.blocking(move |inner| {
            let mut found = BTreeMap::new();
            list(&inner.root.join(folder.as_str()), folder.as_str(), after.as_ref(), &mut found)?;
            Ok(found.into_iter().map(|(name, size)| Listed { name, size }).collect())
        }))
    }

    /// Copies the bytes; file systems that share blocks between files (XFS, Btrfs) share them instead.
    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        _content_type: &'static str,
        _caching: Caching,
    ) -> StoreFuture<'a, ()> {
        let turn = Turn::take(&self.inner, target);
        let sources = sources.to_vec();
        Box::pin(self.blocking(move |inner| inner.compose(&turn, &sources)))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        let name = name.clone();
        Box::pin(self.blocking(move |inner| Ok(inner.remove(&name)?)))
    }

    fn rewrite_interval(&self) -> Duration {
        Duration::ZERO
    }

    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }
}

// === impl Inner ===

impl DirInner {
    fn replacing(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectName, Replacing>> {
        // Nothing panics while holding the lock; even after a panic the map would be consistent.
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, name: &ObjectName, body: &Bytes, taken: Taken<'_>) -> Result<Version, StoreError> {
        self.place(name, taken, |file| {
            file.write_all(body)?;
            Ok(must_last(name, body))
        })
    }

    fn compose(&self, turn: &Turn, sources: &[ObjectName]) -> Result<(), StoreError> {
        if !(1..=MAX_SOURCES).contains(&sources.len()) {
            return Err(StoreError::Refused(format!("{} sources", sources.len())));
        }
        let mut files = Vec::new();
        for source in sources {
            files.push(match File::open(self.root.join(source.as_str())) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(StoreError::Missing),
                opened => opened?,
            });
        }
        self.place(&turn.name, Taken::Replace(turn), |target| {
            for source in &mut files {
                io::copy(source, target)?;
            }
            // Flush a recording, but not the intermediate objects it is composed from: once an archive is marked
            // complete, its recording is never made again.
            Ok(turn.name.as_str().ends_with(".mp4"))
        })?;
        Ok(())
    }

    /// Fills a temporary file and moves it to its name. `fill` returns whether the file must be flushed to disk
    /// before the write counts as done.
    fn place(
        &self,
        name: &ObjectName,
        taken: Taken<'_>,
        fill: impl FnOnce(&mut File) -> io::Result<bool>,
    ) -> Result<Version, StoreError> {
        let path = self.root.join(name.as_str());
        let folder = path.parent().unwrap_or(&self.root);
        let (temporary, mut file) = self.temporary(folder, &file_name(&path))?;
        let result = fill(&mut file).map_err(StoreError::from).and_then(|must_last| {
            if must_last {
                file.sync_data()?;
            }
            let version = self.give_name(&temporary, &file, &path, taken)?;
            Ok((version, must_last))
        });
        // The temporary file is gone after a rename and left in all other cases. If it cannot be removed now, the
        // next start sweeps it.
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, file = %temporary.display(), "cannot remove a temporary file: the next start removes it");
        }
        let (version, must_last) = result?;
        if must_last {
            File::open(folder)?.sync_data()?;
        }
        Ok(version)
    }

    fn give_name(
        &self,
        temporary: &Path,
        file: &File,
        path: &Path,
        taken: Taken<'_>,
    ) -> Result<Version, StoreError> {
        match taken {
            Taken::Refuse => {
                let version = stamp(file, None)?;
                fs::hard_link(temporary, path)?;
                Ok(version)
            }
            Taken::Replace(turn) => Ok(turn.rename(temporary, file, path)?),
            Taken::Expect(expected) => {
                let _one_at_a_time = self.replacing();
                let _among_processes = lock(&self.root)?;
                let found = version_at(path)?;
                let wanted = match expected {
                    Expected::Absent => None,
                    Expected::Version(version) => Some(version),
                };
                if found != wanted {
                    return Err(StoreError::Changed);
                }
                let version = stamp(file, found)?;
                fs::rename(temporary, path)?;
                Ok(version)
            }
        }
    }

    fn read(&self, name: &ObjectName) -> Result<Option<Stored>, StoreError> {
        let mut file = match File::open(self.root.join(name.as_str())) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            opened => opened?,
        };
        // Version and body come from the same open file, even if the name is replaced in the meantime.
        let version = version_of(&file.metadata()?)?;
        let mut body = Vec::new();
        file.read_to_end(&mut body)?;
        Ok(Some(Stored { version, body: body.into() }))
    }

    fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let mut file = match File::open(self.root.join(name.as_str())) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            opened => opened?,
        };
        file.seek(SeekFrom::Start(range.start))?;
        let mut body = Vec::new();
        file.take(range.end.saturating_sub(range.start)).read_to_end(&mut body)?;
        Ok(Some(body.into()))
    }

    /// Creates a temporary file in the folder of the final file. Creates the folder too, and again if the removal of
    /// the folder's last object deleted it in between.
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
                // Another process, in another container, has the same process ID.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < 3 => attempts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn remove(&self, name: &ObjectName) -> io::Result<()> {
        let path = self.root.join(name.as_str());
        match fs::remove_file(&path) {
            Ok(()) => {}
            // A parent folder is missing or is a file, so the object does not exist either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // Stop at the first folder that is not empty or was already removed; neither is an error.
        path.ancestors()
            .skip(1)
            .take_while(|folder| *folder != self.root)
            .try_for_each(|folder| fs::remove_dir(folder).ok());
        Ok(())
    }
}

// === impl Turn ===

impl Turn {
    fn take(inner: &Arc<DirInner>, name: &ObjectName) -> Self {
        let number = inner.counter.fetch_add(1, Ordering::Relaxed) + 1;
        inner.replacing().entry(name.clone()).or_default().calls += 1;
        Self { inner: Arc::clone(inner), name: name.clone(), number }
    }

    /// Holds the lock so that two versions cannot overtake each other between the comparison and the rename.
    fn rename(&self, temporary: &Path, file: &File, path: &Path) -> io::Result<Version> {
        let mut replacing = self.inner.replacing();
        let entry = replacing.entry(self.name.clone()).or_default();
        let version = stamp(file, version_at(path)?)?;
        if entry.newest < self.number {
            fs::rename(temporary, path)?;
            entry.newest = self.number;
        }
        Ok(version)
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

/// Sets a file's version: the current time, but later than the version it replaces.
fn stamp(file: &File, after: Option<Version>) -> io::Result<Version> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let after = after.map_or(0, |version| version.number() + 1);
    let nanos = i64::try_from(now).unwrap_or(i64::MAX).max(after);
    file.set_modified(UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs()))?;
    version_of(&file.metadata()?)
}

fn version_of(metadata: &fs::Metadata) -> io::Result<Version> {
    let nanos = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Ok(Version::from_number(i64::try_from(nanos).unwrap_or(i64::MAX)))
}

fn version_at(path: &Path) -> io::Result<Option<Version>> {
    match fs::metadata(path) {
        Ok(metadata) => version_of(&metadata).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps other processes from conditional writes until the returned file is dropped.
fn lock(root: &Path) -> io::Result<Option<File>> {
    let folder = File::open(root)?;
    match folder.lock() {
        Ok(()) => Ok(Some(folder)),
        // A file system without locks: the comparison of modification times is the only protection between processes.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// Collects the first names below a folder that sort after `after`; `path` is the folder's name in the store.
fn list(
    folder: &Path,
    path: &str,
    after: Option<&ObjectName>,
    found: &mut BTreeMap<ObjectName, u64>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        // Object names are always UTF-8 and never begin with a dot.
        let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned)
        else {
            continue;
        };
        let path = format!("{path}/{name}");
        if kind.is_dir() {
            list(&entry.path(), &path, after, found)?;
        } else if kind.is_file() {
            let name = ObjectName::new(path);
            if after.is_some_and(|after| name <= *after) {
                continue;
            }
            let size = match entry.metadata() {
                Ok(metadata) => metadata.len(),
                // The file was removed in the meantime.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            found.insert(name, size);
            if found.len() > MAX_LISTED {
                found.pop_last();
            }
        }
    }
    Ok(())
}

/// Whether the object must be flushed to disk before the write counts as done, because its loss would cost too much.
fn must_last(name: &ObjectName, body: &[u8]) -> bool {
    let file = file_name(Path::new(name.as_str()));
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
        // Symbolic links are neither followed nor removed: their targets do not belong to the store.
        if kind.is_dir() && depth > 0 {
            swept += sweep(&entry.path(), depth - 1)?;
        } else if kind.is_file() && name.starts_with('.') && name.ends_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists => Self::Exists,
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::Unsupported => Self::Refused(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caching, content_type, contract};

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
        contract::check(&store).await;
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
        // Every write to /dev/full fails with ENOSPC, as on a full disk.
        let error = OpenOptions::new().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        let error = StoreError::from(error);
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
