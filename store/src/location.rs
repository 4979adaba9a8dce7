//! Where a store is, as its operator writes it, and how it is opened. A new kind of store is added here: a variant of
//! [`Location`], its syntax and its opening. What each kind of store does with objects is in its own module.

use crate::dir::DirStore;
use crate::gcs::check::{Weight, judge, look};
use crate::gcs::{self, GcsStore};
use crate::spread::Spread;
use crate::{Store, StoreError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most buckets of one location.
const MAX_BUCKETS: usize = 100;

/// The place of a store: a directory, `gs://bucket/prefix`, or several of these buckets, which share out the streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory(PathBuf),
    Buckets {
        first: gcs::BucketLocation,
        others: Vec<gcs::BucketLocation>,
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
    /// Reads a location: a directory, or `gs://bucket/prefix` up to a hundred times, with commas between. `endpoint` is
    /// an emulator's URL in place of Google's endpoint, for `gs://` alone.
    ///
    /// # Errors
    /// What is wrong with the text, for the operator.
    pub fn parse(text: &str, endpoint: Option<String>) -> Result<Self, &'static str> {
        if text.is_empty() {
            Err("must name a directory or a bucket")
        } else if text.starts_with("gs://") {
            Self::buckets(text, endpoint)
        } else if text.contains("://") {
            Err("must be a directory or gs://BUCKET/PREFIX")
        } else {
            Ok(Self::directory(text))
        }
    }

    fn buckets(text: &str, endpoint: Option<String>) -> Result<Self, &'static str> {
        // A prefix may contain a comma.
        let mut texts = text.split(",gs://");
        let first: gcs::BucketLocation = texts.next().unwrap_or_default().parse()?;
        let mut others: Vec<gcs::BucketLocation> = Vec::new();
        for rest in texts {
            let other = format!("gs://{rest}").parse()?;
            if other == first || others.contains(&other) {
                return Err("names the same bucket and prefix twice");
            }
            others.push(other);
        }
        if others.len() >= MAX_BUCKETS {
            return Err("names more than 100 buckets");
        }
        Ok(Self(Kind::Buckets { first, others, endpoint }))
    }

    /// A directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Directory(path.into()))
    }

    /// The path of a directory; `None` for any other kind of store.
    pub fn as_directory(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Directory(path) => Some(path),
            Kind::Buckets { .. } => None,
        }
    }

    /// Opens the store. Creates a directory that does not exist.
    ///
    /// # Errors
    /// [`OpenError`]: the directory or the bucket cannot be used.
    pub async fn open(&self) -> Result<Arc<dyn Store>, OpenError> {
        match &self.0 {
            Kind::Directory(path) => Ok(Arc::new(DirStore::open(path).await?)),
            Kind::Buckets { first, others, endpoint } => {
                let first = GcsStore::open(first.clone(), endpoint.as_deref()).await?;
                let others = first.open_more(others).await?;
                Ok(shared_out(first, others))
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
            Kind::Buckets { first, others, endpoint } => {
                let first = GcsStore::open_to_read(first.clone(), endpoint.as_deref()).await?;
                let others = first.open_more_to_read(others).await?;
                Ok(shared_out(first, others))
            }
        }
    }

    /// What is wrong with the store's own settings and with this account's permissions there, or could be better. A
    /// directory has nothing to be checked.
    ///
    /// # Errors
    /// [`OpenError`]: the store does not answer, or may not be looked at.
    pub async fn check(&self) -> Result<Vec<StoreFinding>, OpenError> {
        let Kind::Buckets { first, others, endpoint } = &self.0 else { return Ok(Vec::new()) };
        let mut findings = Vec::new();
        for bucket in std::iter::once(first).chain(others) {
            let found = check_bucket(bucket, endpoint.as_deref()).await?;
            findings.extend(found.into_iter().map(|finding| match others.is_empty() {
                true => finding,
                false => {
                    StoreFinding { what: format!("gs://{}: {}", bucket.bucket(), finding.what), ..finding }
                }
            }));
        }
        Ok(findings)
    }
}

/// One bucket as it is; several buckets as one store.
fn shared_out(first: GcsStore, others: Vec<GcsStore>) -> Arc<dyn Store> {
    let first = Arc::new(first);
    if others.is_empty() {
        return first;
    }
    Arc::new(Spread::over(first, others.into_iter().map(|store| Arc::new(store) as Arc<dyn Store>)))
}

async fn check_bucket(
    bucket: &gcs::BucketLocation,
    endpoint: Option<&str>,
) -> Result<Vec<StoreFinding>, OpenError> {
    let mut findings = Vec::new();
    match GcsStore::open(bucket.clone(), endpoint).await {
        Ok(_) => {}
        Err(error @ gcs::BucketError::Forbidden { .. }) => {
            findings.push(StoreFinding { wrong: true, what: error.to_string(), commands: Vec::new() });
        }
        Err(error) => return Err(error.into()),
    }
    let facts = look(bucket.clone(), endpoint).await?;
    findings.extend(judge(&facts, bucket.bucket()).into_iter().map(|finding| StoreFinding {
        wrong: finding.weight == Weight::Wrong,
        what: finding.what.to_owned(),
        commands: finding.commands,
    }));
    Ok(findings)
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Directory(path) => path.display().fmt(f),
            Kind::Buckets { first, others, .. } => {
                first.fmt(f)?;
                others.iter().try_for_each(|other| write!(f, ",{other}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_directory_or_a_bucket() {
        let parse = |text: &str| Location::parse(text, None);
        assert_eq!(parse("/srv/media"), Ok(Location::directory("/srv/media")));
        assert_eq!(parse("/srv/media").unwrap().as_directory(), Some(Path::new("/srv/media")));
        assert_eq!(parse("gs://live/tv/").unwrap().to_string(), "gs://live/tv");
        assert_eq!(parse("gs://live/tv").unwrap().as_directory(), None);
        let several = "gs://live-0/tv,gs://live-1/a,b,gs://live-1";
        assert_eq!(parse(several).unwrap().to_string(), several, "a prefix may contain a comma");
        let many: Vec<_> = (0..=MAX_BUCKETS).map(|n| format!("gs://live-{n}")).collect();
        assert!(parse(&many[1..].join(",")).is_ok() && parse(&many.join(",")).is_err());
        for bad in [
            "",
            "gs://NO",
            "s3://x",
            "gs:///x",
            "gs://live,gs://NO",
            "gs://live,gs://live/",
            "gs://live,media",
        ] {
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
