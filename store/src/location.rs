//! Where a store is, as its operator writes it, and how it is opened. A new kind of store is added here: a variant of
//! [`Location`], its syntax and its opening. What each kind of store does with objects is in its own module.

use crate::dir::DirStore;
use crate::gcs::check::{Weight, judge, look};
use crate::gcs::{self, GcsStore};
use crate::{Store, StoreError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The place of a store: a directory, or `gs://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory(PathBuf),
    Bucket {
        bucket: gcs::BucketLocation,
        /// An emulator's URL; `None` means Google's endpoint.
        endpoint: Option<String>,
    },
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] StoreError),
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] gcs::BucketError),
}

impl OpenError {
    /// Whether the operator named a place that cannot be used until they change it or the setting. Otherwise the
    /// machine or the service failed.
    pub const fn is_setting(&self) -> bool {
        match self {
            Self::Directory(_) => false,
            Self::Bucket(error) => !error.is_retryable(),
        }
    }
}

/// What was found wrong with a store, or could be better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreFinding {
    /// Whether streams suffer from it; otherwise it is advice.
    pub wrong: bool,
    /// What was found.
    pub what: String,
    /// Commands that mend it.
    pub commands: Vec<String>,
}

// === impl Location ===

impl Location {
    /// Reads a location. `endpoint` is an emulator's URL in place of Google's endpoint, for `gs://` alone.
    ///
    /// # Errors
    /// What is wrong with the text, for the operator.
    pub fn parse(text: &str, endpoint: Option<String>) -> Result<Self, &'static str> {
        if text.is_empty() {
            Err("must name a directory or a bucket")
        } else if text.starts_with("gs://") {
            Ok(Self(Kind::Bucket { bucket: text.parse()?, endpoint }))
        } else if text.contains("://") {
            Err("must be a directory or gs://BUCKET/PREFIX")
        } else {
            Ok(Self::directory(text))
        }
    }

    /// A directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Directory(path.into()))
    }

    /// The path of a directory; `None` for any other kind of store.
    pub fn as_directory(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Directory(path) => Some(path),
            Kind::Bucket { .. } => None,
        }
    }

    /// Opens the store. Creates a directory that does not exist.
    ///
    /// # Errors
    /// [`OpenError`]: the directory or the bucket cannot be used.
    pub async fn open(&self) -> Result<Arc<dyn Store>, OpenError> {
        match &self.0 {
            Kind::Directory(path) => Ok(Arc::new(DirStore::open(path).await?)),
            Kind::Bucket { bucket, endpoint } => {
                Ok(Arc::new(GcsStore::open(bucket.clone(), endpoint.as_deref()).await?))
            }
        }
    }

    /// Opens the store for reading alone. A directory must exist, and an account needs no permission to write.
    ///
    /// # Errors
    /// [`OpenError`]: the directory or the bucket cannot be read.
    pub async fn open_to_read(&self) -> Result<Arc<dyn Store>, OpenError> {
        match &self.0 {
            Kind::Directory(path) => Ok(Arc::new(DirStore::open_to_read(path).await?)),
            Kind::Bucket { bucket, endpoint } => {
                Ok(Arc::new(GcsStore::open_to_read(bucket.clone(), endpoint.as_deref()).await?))
            }
        }
    }

    /// What is wrong with the store's own settings and with this account's permissions there, or could be better. A
    /// directory has nothing to be checked.
    ///
    /// # Errors
    /// [`OpenError`]: the store does not answer, or may not be looked at.
    pub async fn check(&self) -> Result<Vec<StoreFinding>, OpenError> {
        let Kind::Bucket { bucket, endpoint } = &self.0 else { return Ok(Vec::new()) };
        let mut findings = Vec::new();
        match GcsStore::open(bucket.clone(), endpoint.as_deref()).await {
            Ok(_) => {}
            Err(error @ gcs::BucketError::Forbidden { .. }) => {
                findings.push(StoreFinding { wrong: true, what: error.to_string(), commands: Vec::new() });
            }
            Err(error) => return Err(error.into()),
        }
        let facts = look(bucket.clone(), endpoint.as_deref()).await?;
        findings.extend(judge(&facts, bucket.bucket()).into_iter().map(|finding| StoreFinding {
            wrong: finding.weight == Weight::Wrong,
            what: finding.what.to_owned(),
            commands: finding.commands,
        }));
        Ok(findings)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Directory(path) => path.display().fmt(f),
            Kind::Bucket { bucket, .. } => bucket.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_directory_or_a_bucket() {
        let parse = |text| Location::parse(text, None);
        assert_eq!(parse("/srv/media"), Ok(Location::directory("/srv/media")));
        assert_eq!(parse("/srv/media").unwrap().as_directory(), Some(Path::new("/srv/media")));
        assert_eq!(parse("gs://live/tv/").unwrap().to_string(), "gs://live/tv");
        assert_eq!(parse("gs://live/tv").unwrap().as_directory(), None);
        for bad in ["", "gs://NO", "s3://x", "gs:///x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_directory_is_made_and_has_nothing_to_be_checked() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::directory(folder.path().join("new"));
        let store = location.open().await.unwrap();
        assert_eq!(store.location(), location.to_string());
        assert!(folder.path().join("new").is_dir());
        assert!(location.check().await.unwrap().is_empty());
    }
}
