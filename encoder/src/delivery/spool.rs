//! A folder on a local disk for bodies that wait for the store: file operations only. Which bodies go there, and when,
//! is decided in [`super::plan`].
//!
//! The folder belongs to one process (a locked file says so) and is emptied at the start: files of an earlier process
//! belong to streams that have ended or were taken over. Nothing is flushed to the medium: no process reads the files
//! after a crash of the machine. Calls run on tokio's blocking pool, off the threads that streams run on.
//!
//! Other users may be able to write to the given folder (`/tmp`, a volume that containers share). So each process keeps
//! its files in a new folder of its own, which other users cannot enter, and reaches them through that folder's
//! descriptor: whatever the others rename or link, no file outside is opened, emptied or removed.

use super::SpoolId;
use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::{info, warn};

/// Name of the lock file that marks the folder as in use.
const LOCK: &str = "encoder-spool.lock";
/// Name prefix of the processes' folders: other entries of the given folder are left alone.
const PREFIX: &str = "spool-";
/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The spool folder of this process.
#[derive(Debug)]
pub struct Spool {
    own: Arc<OwnFolder>,
    bytes: u64,
    streams: AtomicU64,
    /// Locked as long as the process lives.
    _lock: File,
}

/// One stream's folder in the spool; removing the folder removes the stream's files.
#[derive(Debug)]
pub(super) struct StreamSpool {
    own: Arc<OwnFolder>,
    name: String,
}

/// The folder of this process in the given folder. Removed with the last stream's.
#[derive(Debug)]
struct OwnFolder {
    parent: OwnedFd,
    folder: OwnedFd,
    name: String,
    /// For log lines.
    path: PathBuf,
}

// === impl Spool ===

impl Spool {
    /// Takes a folder, creates it if it is missing, and removes what earlier processes of this user left there. `bytes`
    /// is how much each stream may keep there.
    ///
    /// # Errors
    /// The folder cannot be written, another process uses it, or its lock file is a link or another user's.
    pub fn open(folder: impl Into<PathBuf>, bytes: u64) -> io::Result<Arc<Self>> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let parent = openat(CWD, &folder, FOLDER, Mode::empty())?;
        let lock = lock(&parent)?;
        sweep(&parent, &folder)?;
        let own = Arc::new(OwnFolder::create(parent, &folder)?);
        Ok(Arc::new(Self { own, bytes, streams: AtomicU64::new(0), _lock: lock }))
    }

    /// Most bytes that each stream may keep on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn stream(&self) -> StreamSpool {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        StreamSpool { own: self.own.clone(), name: number.to_string() }
    }
}

/// Opens and locks the lock file. It is never written or emptied.
fn lock(parent: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let refused = |why: &str| {
        let remedy = format!("{LOCK} {why}: remove it, or give a folder that only this user can write");
        io::Error::new(ErrorKind::PermissionDenied, remedy)
    };
    let lock = match openat(parent, LOCK, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::LOOP) => return Err(refused("is a symbolic link")),
        opened => File::from(opened?),
    };
    if !is_ours(&fstat(&lock)?, FileType::RegularFile) {
        return Err(refused("is another user's, or no file"));
    }
    lock.try_lock()
        .map_err(|_| io::Error::new(ErrorKind::ResourceBusy, "another encoder uses this folder"))?;
    Ok(lock)
}

/// Removes the folders of earlier processes. Links and folders of other users are left alone.
fn sweep(parent: &OwnedFd, folder: &Path) -> io::Result<()> {
    let (mut swept, mut foreign) = (0, 0);
    for entry in Dir::read_from(parent)? {
        let name = entry?.file_name().to_owned();
        if !name.to_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        if !is_ours(&statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW)?, FileType::Directory) {
            foreign += 1;
            continue;
        }
        // Does not follow links, neither at the name nor below it.
        fs::remove_dir_all(folder.join(name.to_string_lossy().as_ref()))?;
        swept += 1;
    }
    if swept > 0 {
        info!(swept, folder = %folder.display(), "removed what an earlier process left in the spool");
    }
    if foreign > 0 {
        warn!(
            foreign,
            folder = %folder.display(),
            "links or other users' files are in the spool's folder: give --spool a folder that only this user can write"
        );
    }
    Ok(())
}

fn is_ours(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind && stat.st_uid == geteuid().as_raw()
}

// === impl OwnFolder ===

impl OwnFolder {
    /// Creates a folder that is new and ours.
    fn create(parent: OwnedFd, given: &Path) -> io::Result<Self> {
        let name = format!("{PREFIX}{}-{:016x}", std::process::id(), fastrand::u64(..));
        mkdirat(&parent, &name, Mode::RWXU)?;
        let folder = openat(&parent, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        if !is_ours(&fstat(&folder)?, FileType::Directory) {
            return Err(io::Error::new(ErrorKind::PermissionDenied, format!("{name} is another user's")));
        }
        Ok(Self { parent, folder, path: given.join(&name), name })
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        // A folder that is not empty is removed at the next start.
        let _ = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

// === impl StreamSpool ===

impl StreamSpool {
    fn path(&self, id: SpoolId) -> String {
        format!("{}/{}", self.name, id.0)
    }

    fn open(&self, id: SpoolId, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.own.folder, self.path(id), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Writes a body. The remains of a failed write are removed.
    pub(super) fn write(&self, id: SpoolId, body: &Bytes) -> io::Result<()> {
        match mkdirat(&self.own.folder, &self.name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut file = self.open(id, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let written = file.write_all(body);
        if written.is_err() {
            self.discard(id);
        }
        written
    }

    pub(super) fn read(&self, id: SpoolId) -> io::Result<Bytes> {
        let mut body = Vec::new();
        self.open(id, OFlags::RDONLY)?.read_to_end(&mut body)?;
        Ok(body.into())
    }

    pub(super) fn discard(&self, id: SpoolId) {
        // If this fails, the file is removed later with the folder.
        let _ = unlinkat(&self.own.folder, self.path(id), AtFlags::empty());
    }

    /// Removes all files of the stream.
    pub(super) fn clear(&self) {
        match self.remove_all() {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let error = io::Error::from(error);
                warn!(folder = %self.own.path.display(), %error, "spooled files stay until the next start");
            }
        }
    }

    fn remove_all(&self) -> rustix::io::Result<()> {
        let folder = openat(&self.own.folder, &self.name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                unlinkat(folder.as_fd(), name, AtFlags::empty())?;
            }
        }
        unlinkat(&self.own.folder, &self.name, AtFlags::REMOVEDIR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    /// The processes' folders in a spool's folder.
    fn folders(given: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(given).unwrap().map(|entry| entry.unwrap());
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
            .map(|entry| entry.path())
            .collect()
    }

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
        let [own] = &folders(folder.path())[..] else { panic!("one folder for the process") };
        assert_eq!(fs::read_dir(own).unwrap().count(), 0, "the stream's files went with the stream");
        drop((spool, stream));
        assert!(folders(folder.path()).is_empty());
        Spool::open(folder.path(), 100).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 100).unwrap();
        let stream = spool.stream();
        stream.write(SpoolId(1), &Bytes::from_static(b"body")).unwrap();
        drop((spool, stream));
        let left = folders(folder.path());
        assert_eq!(left.len(), 1, "with a file in it, as after a crash");
        let _next = Spool::open(folder.path(), 100).unwrap();
        assert!(!left[0].exists());
    }

    #[test]
    fn nobody_else_can_read_what_waits() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 100).unwrap();
        let stream = spool.stream();
        stream.write(SpoolId(1), &Bytes::from_static(b"body")).unwrap();
        let own = &folders(folder.path())[0];
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(own), mode(&own.join("0")), mode(&own.join("0/1"))), (0o700, 0o700, 0o600));
        assert_eq!(mode(&folder.path().join(LOCK)), 0o600);
    }

    #[test]
    fn a_link_as_the_lock_file_leaves_its_target_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("precious");
        fs::write(&target, b"precious").unwrap();
        symlink(&target, folder.path().join(LOCK)).unwrap();
        let error = Spool::open(folder.path(), 100).unwrap_err();
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        fs::remove_file(folder.path().join(LOCK)).unwrap();
        symlink(folder.path().join("missing"), folder.path().join(LOCK)).unwrap();
        Spool::open(folder.path(), 100).unwrap_err();
        assert!(!folder.path().join("missing").exists());
    }

    #[test]
    fn links_among_the_folders_are_neither_followed_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("precious"), b"precious").unwrap();
        let link = folder.path().join("spool-0");
        symlink(elsewhere.path(), &link).unwrap();
        let spool = Spool::open(folder.path(), 100).unwrap();
        let stream = spool.stream();
        stream.write(SpoolId(1), &Bytes::from_static(b"body")).unwrap();
        assert_eq!(fs::read(elsewhere.path().join("precious")).unwrap(), b"precious");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_body_is_written_to_a_new_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 100).unwrap();
        let stream = spool.stream();
        stream.write(SpoolId(1), &Bytes::from_static(b"body")).unwrap();
        let target = folder.path().join("precious");
        fs::write(&target, b"precious").unwrap();
        symlink(&target, folders(folder.path())[0].join("0/2")).unwrap();
        for id in [1, 2] {
            let error = stream.write(SpoolId(id), &Bytes::from_static(b"other")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{id}");
        }
        assert_eq!(stream.read(SpoolId(1)).unwrap(), "body", "the file that was there before stays");
        assert!(stream.read(SpoolId(2)).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }

    #[test]
    fn another_user_s_lock_file_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join(LOCK);
        fs::write(&lock, b"").unwrap();
        // Only root can give files away; everybody else sees that a file of one's own is accepted.
        let other = 12_345;
        let given = std::os::unix::fs::chown(&lock, Some(other), None).is_ok();
        let opened = Spool::open(folder.path(), 100);
        if !given {
            return drop(opened.unwrap());
        }
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::PermissionDenied);
        fs::remove_file(&lock).unwrap();
        let foreign = folder.path().join("spool-1");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(other), None).unwrap();
        let _spool = Spool::open(folder.path(), 100).unwrap();
        assert_eq!(fs::metadata(&foreign).unwrap().uid(), other);
    }
}
