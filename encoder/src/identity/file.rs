//! Files that are read again when they change: the keys file and key sets. Their formats are in [`admission`].
//!
//! The content decides whether a file has changed, not its time or inode: Kubernetes replaces mounted files by swapping
//! symbolic links.

use super::StreamTerms;
use admission::keys::{KeyTable, MAX_KEYS_BYTES};
use admission::token::{KeySet, MAX_SET_BYTES};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tracing::{error, info};

/// Interval between checks of a file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a followed file holds.
pub(crate) trait FileContent: Sized + Send + Sync + 'static {
    /// What the file is called in logs.
    const WHAT: &'static str;
    /// The label of the file in metrics.
    const LABEL: &'static str;
    /// Largest file in bytes.
    const MAX_BYTES: usize;

    /// Reads the content. The error says what is wrong, without any secret.
    fn parse(bytes: &[u8]) -> Result<Self, String>;
}

/// A file whose content is in force until the file holds another content that is valid. Share it in an `Arc`.
pub(crate) struct FollowedFile<T> {
    path: PathBuf,
    current: RwLock<Arc<T>>,
    /// The hash of the content from which `current` was first read.
    taken: u64,
}

/// What a check of a file has found.
enum Found<T> {
    /// The content in force.
    Same,
    New {
        content: T,
        hash: u64,
    },
    /// The content cannot be used. Holds the problem.
    Bad(String),
}

/// What the checks of a file have found.
struct Seen {
    /// The hash of the content in force.
    taken: u64,
    /// The problem found by the last check, and whether it has been logged. It is logged when a second check finds it
    /// again: the first check may have happened in the middle of a write.
    complaint: Option<(String, bool)>,
}

impl FileContent for KeyTable {
    const WHAT: &'static str = "keys file";
    const LABEL: &'static str = "keys";
    const MAX_BYTES: usize = MAX_KEYS_BYTES;

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(bytes, StreamTerms::check).map_err(|error| error.to_string())
    }
}

impl FileContent for KeySet {
    const WHAT: &'static str = "key set";
    const LABEL: &'static str = "jwks";
    const MAX_BYTES: usize = MAX_SET_BYTES;

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(bytes).map_err(|error| error.to_string())
    }
}

impl<T: FileContent> FollowedFile<T> {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or its content is not valid. The text does not name the file.
    pub(crate) fn open(path: PathBuf) -> Result<Arc<Self>, String> {
        let bytes = read::<T>(&path)?;
        let (content, taken) = (T::parse(&bytes)?, hash(&bytes));
        Ok(Arc::new(Self { path, current: RwLock::new(Arc::new(content)), taken }))
    }

    /// The content in force.
    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks the file every ten seconds as long as the future is polled. A valid change comes into force; an invalid
    /// one leaves the old content in force and is logged once.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = Seen { taken: self.taken, complaint: None };
        set_stale(T::LABEL, false);
        loop {
            looks.tick().await;
            let (file, taken) = (Arc::clone(&self), seen.taken);
            // Reading may block: the file may be on a network.
            let Ok(found) = tokio::task::spawn_blocking(move || file.look(taken)).await else { return };
            self.consider(found, &mut seen);
        }
    }

    fn look(&self, taken: u64) -> Found<T> {
        let bytes = match read::<T>(&self.path) {
            Ok(bytes) => bytes,
            Err(problem) => return Found::Bad(problem),
        };
        let hash = hash(&bytes);
        if hash == taken {
            return Found::Same;
        }
        T::parse(&bytes).map_or_else(Found::Bad, |content| Found::New { content, hash })
    }

    fn consider(&self, found: Found<T>, seen: &mut Seen) {
        let file = self.path.display();
        match found {
            Found::Same => {
                seen.complaint = None;
                set_stale(T::LABEL, false);
            }
            Found::New { content, hash } => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
                *seen = Seen { taken: hash, complaint: None };
                set_stale(T::LABEL, false);
                info!(%file, "the new content of the {} is in force", T::WHAT);
            }
            Found::Bad(problem) => match &mut seen.complaint {
                Some((text, said)) if *text == problem => {
                    if !*said {
                        *said = true;
                        set_stale(T::LABEL, true);
                        error!(
                            %file,
                            problem,
                            "the {} cannot be used: its old content stays in force until the file is mended",
                            T::WHAT
                        );
                    }
                }
                complaint => *complaint = Some((problem, false)),
            },
        }
    }
}

impl<T> fmt::Debug for FollowedFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Shows whether a source is older than it should be.
pub(super) fn set_stale(label: &'static str, stale: bool) {
    metrics::gauge!("encoder_identity_stale", "source" => label).set(f64::from(u8::from(stale)));
}

fn read<T: FileContent>(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(T::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() > T::MAX_BYTES => Err(format!("is longer than {} bytes", T::MAX_BYTES)),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One check of the file, and whether a problem with it has been logged.
    fn look(file: &FollowedFile<KeyTable>, seen: &mut Seen) -> bool {
        file.consider(file.look(seen.taken), seen);
        seen.complaint.as_ref().is_some_and(|(_, said)| *said)
    }

    fn entry(key: &str) -> String {
        format!("[[key]]\nkey = \"{key}\"\nname = \"camera\"\n")
    }

    #[test]
    fn a_valid_change_counts_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, entry("first-secret")).unwrap();
        let file = FollowedFile::<KeyTable>::open(path.clone()).unwrap();
        let mut seen = Seen { taken: file.taken, complaint: None };
        let knows = |key| file.current().find("live", key).is_some();
        assert!(!look(&file, &mut seen) && knows("first-secret"));

        std::fs::write(&path, entry("first-secret") + "latency = 99").unwrap();
        assert!(!look(&file, &mut seen), "the file may be half written");
        assert!(look(&file, &mut seen), "it stays like that");
        assert!(look(&file, &mut seen) && knows("first-secret"), "the old content stays in force");
        let problem = seen.complaint.clone().unwrap().0;
        assert!(problem.contains("number 1: latency") && !problem.contains("first-secret"), "{problem}");

        std::fs::remove_file(&path).unwrap();
        assert!(!look(&file, &mut seen) && look(&file, &mut seen), "another problem is said anew");
        std::fs::write(&path, entry("second-secret")).unwrap();
        assert!(!look(&file, &mut seen));
        assert!(knows("second-secret") && !knows("first-secret"));
    }

    #[test]
    fn a_swapped_link_is_a_change_and_long_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As Kubernetes mounts a secret: keys.toml -> ..data/keys.toml, ..data -> a folder with a time in its name.
        for (version, key) in [("..1", "first-secret"), ("..2", "second-secret")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("keys.toml"), entry(key)).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/keys.toml", at("keys.toml")).unwrap();
        let file = FollowedFile::<KeyTable>::open(at("keys.toml")).unwrap();
        let mut seen = Seen { taken: file.taken, complaint: None };
        std::os::unix::fs::symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(!look(&file, &mut seen));
        assert!(file.current().find("live", "second-secret").is_some());

        std::fs::write(at("long"), vec![b'#'; MAX_KEYS_BYTES + 1]).unwrap();
        assert!(FollowedFile::<KeyTable>::open(at("long")).unwrap_err().contains("longer"));
        assert!(FollowedFile::<KeySet>::open("/dev/zero".into()).unwrap_err().contains("longer"));
        assert!(FollowedFile::<KeySet>::open(at("none")).unwrap_err().contains("cannot be read"));
        assert!(!format!("{file:?}").contains("secret"));
    }
}
