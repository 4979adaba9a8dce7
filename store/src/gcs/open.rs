//! How a bucket is opened: get credentials, then prove every permission that a broadcast needs by using it once. The
//! bucket's own settings are judged in [`super::check`].

use super::error::{ErrorKind, kind, text};
use super::{BucketLocation, GcsStore};
use futures_util::future::try_join_all;
use google_cloud_auth::credentials::{Builder, Credentials, anonymous};
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::Error;
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::read_resume_policy::NeverResume;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Time-out of opening. A pod's metadata server, which issues the token, may not answer during the pod's first
/// seconds.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Time-out of one call while opening.
const ATTEMPT: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The crate splits uploads above this size; here no upload is ever split.
const NEVER_SPLIT: usize = usize::MAX;

/// Why a bucket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// There are no usable credentials: a retry does not help.
    #[error(
        "no Google Cloud credentials: {0}; on GKE give the pod's service account Workload Identity, elsewhere run \
         `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
    )]
    Credentials(String),
    /// The bucket does not exist: a retry does not help.
    #[error(
        "there is no bucket {0}, or this account may not know of it: `gcloud storage buckets create gs://{0}`"
    )]
    NoBucket(String),
    /// The account lacks a permission that a broadcast needs: a retry does not help.
    #[error(
        "this account lacks {permissions} on gs://{bucket}: `gcloud storage buckets add-iam-policy-binding gs://{bucket} \
         --member=MEMBER --role={role}` ({said})"
    )]
    Forbidden {
        /// The bucket's name.
        bucket: String,
        /// The names of the missing permissions.
        permissions: String,
        /// A role that includes them.
        role: &'static str,
        /// The server's message about the first missing permission.
        said: String,
    },
    /// Refused for any other reason: a retry does not help.
    #[error("Cloud Storage refuses: {0}")]
    Refused(String),
    /// The endpoint is not a valid URL: a retry does not help.
    #[error("cannot make a client: {0}")]
    Client(String),
    /// No answer, or only passing faults, for half a minute: a retry may help.
    #[error("Cloud Storage cannot be reached: {0}")]
    Unreachable(String),
}

impl BucketError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Credentials(_)
            | Self::NoBucket(_)
            | Self::Forbidden { .. }
            | Self::Refused(_)
            | Self::Client(_) => false,
        }
    }
}

impl GcsStore {
    /// Opens a location in a bucket: gets a token, then writes, reads, lists and removes a small object below the
    /// prefix. With `endpoint` (the URL of an emulator) the calls are anonymous. Takes at most half a minute.
    pub async fn open(location: BucketLocation, endpoint: Option<&str>) -> Result<Self, BucketError> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let store = Self::connect(location, endpoint, deadline).await?;
        store.prove(deadline).await?;
        Ok(store)
    }

    /// Opens a location for reading alone: gets a token, then reads and lists. Writes would be refused where the account
    /// has no more permissions than that. Takes at most half a minute.
    pub async fn open_to_read(location: BucketLocation, endpoint: Option<&str>) -> Result<Self, BucketError> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let store = Self::connect(location, endpoint, deadline).await?;
        store.prove_to_read(deadline).await?;
        Ok(store)
    }

    /// Opens further locations as [`GcsStore::open`] does, all at the same time, with this store's account and
    /// connections. Takes at most half a minute.
    pub async fn open_more(&self, locations: &[BucketLocation]) -> Result<Vec<Self>, BucketError> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let stores = self.at(locations);
        try_join_all(stores.iter().map(|store| store.prove(deadline))).await?;
        Ok(stores)
    }

    /// Opens further locations as [`GcsStore::open_to_read`] does; see [`GcsStore::open_more`].
    pub async fn open_more_to_read(&self, locations: &[BucketLocation]) -> Result<Vec<Self>, BucketError> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let stores = self.at(locations);
        try_join_all(stores.iter().map(|store| store.prove_to_read(deadline))).await?;
        Ok(stores)
    }

    fn at(&self, locations: &[BucketLocation]) -> Vec<Self> {
        let place = |location: &BucketLocation| Self {
            resource: location.resource(),
            location: location.clone(),
            ..self.clone()
        };
        locations.iter().map(place).collect()
    }

    /// Makes clients with a token. Sends no request to the bucket yet.
    pub(super) async fn connect(
        location: BucketLocation,
        endpoint: Option<&str>,
        deadline: Instant,
    ) -> Result<Self, BucketError> {
        install_cryptography();
        let credentials = match endpoint {
            Some(_) => anonymous::Builder::new().build(),
            None => {
                Builder::default().build().map_err(|error| BucketError::Credentials(error.to_string()))?
            }
        };
        token(&credentials, deadline).await?;
        let mut storage = Storage::builder()
            .with_credentials(credentials.clone())
            .with_retry_policy(NeverRetry)
            .with_resumable_upload_threshold(NEVER_SPLIT)
            // Only used by a kind of read that this module does not use.
            .with_grpc_subchannel_count(1);
        let mut control =
            StorageControl::builder().with_credentials(credentials).with_retry_policy(NeverRetry);
        if let Some(endpoint) = endpoint {
            storage = storage.with_endpoint(endpoint);
            control = control.with_endpoint(endpoint);
        }
        let client = |error: &dyn std::fmt::Display| BucketError::Client(error.to_string());
        Ok(Self {
            resource: location.resource(),
            location,
            storage: storage.build().await.map_err(|error| client(&error))?,
            control: control.build().await.map_err(|error| client(&error))?,
        })
    }

    /// Does once everything that a broadcast does. Asking for permissions (testIamPermissions) is no substitute: that
    /// call ignores grants limited to a prefix.
    async fn prove(&self, deadline: Instant) -> Result<(), BucketError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = self.location.object(&format!(".encoder/{}-{now}", std::process::id()));
        let create = async || {
            let upload = self
                .storage
                .write_object(&self.resource, &name, "an encoder started here")
                .set_content_type("text/plain")
                .set_cache_control("no-store")
                .with_idempotency(true)
                .with_retry_policy(NeverRetry);
            // Boxed: the future is a state machine of 30 kB.
            Box::pin(upload.send_unbuffered()).await.map(drop)
        };
        let remove = async || {
            let remove = self.control.delete_object().set_bucket(&self.resource).set_object(&name);
            remove.with_retry_policy(NeverRetry).send().await
        };
        let mut proof = Proof::default();
        match patiently(deadline, create).await {
            Err(error) if kind(&error) == ErrorKind::Missing => {
                return Err(BucketError::NoBucket(self.location.bucket().to_owned()));
            }
            created => proof.of("storage.objects.create", created)?,
        }
        self.prove_reading(&name, deadline, &mut proof).await?;
        proof.of("storage.objects.delete", patiently(deadline, remove).await)?;
        proof.judged(&self.location, "roles/storage.objectUser")
    }

    /// Does once everything that reading a broadcast needs.
    async fn prove_to_read(&self, deadline: Instant) -> Result<(), BucketError> {
        let name = self.location.object(".encoder/reader");
        let mut proof = Proof::default();
        self.prove_reading(&name, deadline, &mut proof).await?;
        proof.judged(&self.location, "roles/storage.objectViewer")
    }

    /// Reads and lists an object, which may be missing.
    async fn prove_reading(
        &self,
        name: &str,
        deadline: Instant,
        proof: &mut Proof,
    ) -> Result<(), BucketError> {
        let read = async || {
            let read = self
                .storage
                .read_object(&self.resource, name)
                .with_retry_policy(NeverRetry)
                .with_read_resume_policy(NeverResume);
            read.send().await.map(drop)
        };
        let list = async || {
            let list =
                self.control.list_objects().set_parent(&self.resource).set_prefix(name).set_page_size(1);
            list.with_retry_policy(NeverRetry).send().await.map(drop)
        };
        let (read, list) = tokio::join!(patiently(deadline, read), patiently(deadline, list));
        proof.of("storage.objects.get", read)?;
        if list.as_ref().is_err_and(|error| kind(error) == ErrorKind::Missing) {
            return Err(BucketError::NoBucket(self.location.bucket().to_owned()));
        }
        proof.of("storage.objects.list", list)
    }
}

/// Which permissions an account was found to lack.
#[derive(Default)]
struct Proof {
    lacking: Vec<&'static str>,
    /// The server's message about the first permission that is lacking.
    said: String,
}

impl Proof {
    /// Judges the result of a call that needs one permission.
    fn of(&mut self, permission: &'static str, result: Result<(), Error>) -> Result<(), BucketError> {
        let Err(error) = result else { return Ok(()) };
        match kind(&error) {
            ErrorKind::Forbidden => {
                self.lacking.push(permission);
                if self.said.is_empty() {
                    self.said = text(&error);
                }
                Ok(())
            }
            // A missing object is no error: creating it was forbidden, an earlier attempt removed it, or it was never
            // meant to exist.
            ErrorKind::Missing => Ok(()),
            ErrorKind::Unauthenticated => Err(BucketError::Credentials(text(&error))),
            ErrorKind::Passing => Err(BucketError::Unreachable(text(&error))),
            ErrorKind::Precondition | ErrorKind::BadRequest | ErrorKind::Lasting => {
                Err(BucketError::Refused(text(&error)))
            }
        }
    }

    /// # Errors
    /// The account lacks a permission; `role` includes all that are needed.
    fn judged(self, location: &BucketLocation, role: &'static str) -> Result<(), BucketError> {
        if self.lacking.is_empty() {
            return Ok(());
        }
        let bucket = location.bucket().to_owned();
        Err(BucketError::Forbidden { bucket, permissions: self.lacking.join(", "), role, said: self.said })
    }
}

/// Waits for the first token. A failure is only retried if the crate calls it transient.
async fn token(credentials: &Credentials, deadline: Instant) -> Result<(), BucketError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = tokio::time::timeout(ATTEMPT, credentials.headers(Default::default())).await;
        let why = match attempt {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if !error.is_transient() => {
                return Err(BucketError::Credentials(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + pause >= deadline {
            return Err(BucketError::Unreachable(format!("no token: {why}")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Retries passing faults until the deadline.
pub(super) async fn patiently<T>(
    deadline: Instant,
    call: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        let result =
            tokio::time::timeout(ATTEMPT, call()).await.unwrap_or_else(|late| Err(Error::timeout(late)));
        match result {
            Err(error) if kind(&error) == ErrorKind::Passing && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            result => return result,
        }
    }
}

/// The crates leave the choice of TLS cryptography to the program and panic if none is installed.
fn install_cryptography() {
    // An error means that a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
