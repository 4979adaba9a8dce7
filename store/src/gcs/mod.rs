//! A Cloud Storage bucket as the store. Only this folder names google-cloud-storage. Uploads and reads use its HTTP
//! client; everything else uses gRPC, because the crate offers nothing else there.
//!
//! **One attempt per call.** The crate's own retry policies are off: by default the crate retries for five minutes,
//! pauses up to a minute and never times an attempt out (google-cloud-storage 1.21.0 src/retry_policy.rs,
//! perform_upload/unbuffered.rs), which suits backups but not live streams. The caller retries while a retry helps.
//!
//! **One request per upload**, regardless of size: a resumable upload costs one more round trip. The crate sends a
//! CRC32C and checks the one in the answer; the server refuses bytes that do not match.
//!
//! **Preconditions everywhere.** `create` writes only if the object does not exist (ifGenerationMatch=0). On a 412 it
//! checks whether the stored bytes equal its own, which means that an earlier attempt succeeded and its answer was
//! lost.
//!
//! **Credentials** are Application Default Credentials. The crate replaces a token in the background four minutes
//! before its expiry (google-cloud-auth 1.18.0 src/token_cache.rs); no write waits for the replacement.

pub mod check;
mod error;
mod location;
mod open;

pub use location::BucketLocation;
pub use open::BucketError;

use super::{
    Caching, Expected, Listed, MAX_LISTED, MAX_SOURCES, Object, ObjectName, Store, StoreError, StoreFuture,
    Stored, Version, within,
};
use bytes::{Bytes, BytesMut};
use error::{ErrorKind, kind, store_error};
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::model::compose_object_request::SourceObject;
use google_cloud_storage::model_ext::ReadRange;
use google_cloud_storage::read_resume_policy::NeverResume;
use google_cloud_storage::{Error, model};
use std::ops::Range;
use std::time::Duration;

/// Cloud Storage answers 429 when an object is rewritten more often than this
/// (<https://cloud.google.com/storage/quotas>).
const REWRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Largest object in bytes that [`Store::read`] accepts: the playlists of a day are smaller.
const MAX_READ: usize = 16 << 20;
/// Time-out of one call, for callers without a time-out of their own or with a longer one than makes sense.
const LONGEST_CALL: Duration = Duration::from_secs(60);

/// A bucket, or the part of a bucket below a prefix.
#[derive(Clone, Debug)]
pub struct GcsStore {
    location: BucketLocation,
    resource: String,
    storage: Storage,
    control: StorageControl,
}

// === impl GcsStore ===

impl GcsStore {
    async fn write(
        &self,
        name: &ObjectName,
        object: Object,
        generation: Option<i64>,
    ) -> Result<Version, Error> {
        let upload = self
            .storage
            .write_object(&self.resource, self.location.object(name.as_str()), object.body)
            .set_content_type(object.content_type)
            .set_cache_control(object.caching.cache_control());
        let upload = match generation {
            Some(generation) => upload.set_if_generation_match(generation),
            None => upload,
        };
        // Boxed: the future is a state machine of 30 kB.
        let written = limited(Box::pin(upload.send_unbuffered())).await?;
        Ok(Version::from_number(written.generation))
    }

    /// Whether the stored object of this name has these bytes.
    async fn has(&self, name: &ObjectName, body: &Bytes) -> Result<bool, StoreError> {
        let get = self
            .control
            .get_object()
            .set_bucket(&self.resource)
            .set_object(self.location.object(name.as_str()))
            .with_retry_policy(NeverRetry);
        match limited(get.send()).await {
            Ok(found) => {
                let checksum = found.checksums.and_then(|checksums| checksums.crc32c);
                Ok(found.size == body.len() as i64 && checksum == Some(crc32c::crc32c(body)))
            }
            // The object was removed in the meantime: the name is probably free again, so the caller may retry.
            Err(error) if kind(&error) == ErrorKind::Missing => {
                Err(StoreError::Unavailable("the object went away while it was looked at".into()))
            }
            Err(error) => Err(store_error(&error)),
        }
    }

    async fn read_body(&self, name: &ObjectName, range: ReadRange) -> Result<Option<Stored>, StoreError> {
        let read = self
            .storage
            .read_object(&self.resource, self.location.object(name.as_str()))
            .set_read_range(range)
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume);
        let mut answer = match read.send().await {
            Err(error) if kind(&error) == ErrorKind::Missing => return Ok(None),
            answer => answer.map_err(|error| store_error(&error))?,
        };
        let version = Version::from_number(answer.object().generation);
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.next().await {
            let chunk = chunk.map_err(|error| store_error(&error))?;
            if body.len() + chunk.len() > MAX_READ {
                return Err(StoreError::Refused(format!("{name} is larger than {MAX_READ} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(Stored { version, body: body.freeze() }))
    }

    /// One page of a listing, and the token of the next page; the token is empty for the first page and after the last.
    async fn page(
        &self,
        folder: &ObjectName,
        after: Option<&ObjectName>,
        token: String,
    ) -> Result<(Vec<Listed>, String), StoreError> {
        let mut list = self
            .control
            .list_objects()
            .set_parent(&self.resource)
            .set_prefix(format!("{}/", self.location.object(folder.as_str())))
            .set_page_size(MAX_LISTED as i32)
            .set_page_token(token)
            .with_retry_policy(NeverRetry);
        if let Some(after) = after {
            // The start name is included in the answer; it is filtered out below.
            list = list.set_lexicographic_start(self.location.object(after.as_str()));
        }
        let answer = limited(list.send()).await.map_err(|error| store_error(&error))?;
        let named = answer.objects.into_iter().filter_map(|object| {
            let name = self.location.path(&object.name)?;
            // Foreign objects in the bucket may have names that are not valid object names here.
            let plain = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
            plain.then(|| Listed { name: ObjectName::new(name), size: object.size.unsigned_abs() })
        });
        let listed = named.filter(|listed| after != Some(&listed.name)).collect();
        Ok((listed, answer.next_page_token))
    }
}

impl Store for GcsStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let body = object.body.clone();
            match self.write(name, object, Some(0)).await {
                Ok(_) => Ok(()),
                Err(error) if kind(&error) == ErrorKind::Precondition => {
                    if self.has(name, &body).await? {
                        Ok(())
                    } else {
                        Err(StoreError::Exists)
                    }
                }
                Err(error) => Err(store_error(&error)),
            }
        })
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.write(name, object, None).await.map_err(|error| store_error(&error))?;
            Ok(())
        })
    }

    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version> {
        let generation = match expected {
            Expected::Absent => 0,
            Expected::Version(version) => version.number(),
        };
        Box::pin(async move {
            let written = self.write(name, object, Some(generation)).await;
            written.map_err(|error| store_error(&error))
        })
    }

    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(within(LONGEST_CALL, self.read_body(name, ReadRange::all())))
    }

    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let wanted = ReadRange::segment(range.start, range.end.saturating_sub(range.start));
            let stored = Box::pin(within(LONGEST_CALL, self.read_body(name, wanted))).await?;
            Ok(stored.map(|stored| stored.body))
        })
    }

    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(first_with_objects(move |token| self.page(folder, after, token)))
    }

    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if !(1..=MAX_SOURCES).contains(&sources.len()) {
                return Err(StoreError::Refused(format!("{} sources", sources.len())));
            }
            let destination = model::Object::new()
                .set_bucket(&self.resource)
                .set_name(self.location.object(target.as_str()))
                .set_content_type(content_type)
                .set_cache_control(caching.cache_control());
            let sources = sources
                .iter()
                .map(|source| SourceObject::new().set_name(self.location.object(source.as_str())));
            let compose = self
                .control
                .compose_object()
                .set_destination(destination)
                .set_source_objects(sources)
                .with_retry_policy(NeverRetry);
            match limited(compose.send()).await {
                Ok(_) => Ok(()),
                Err(error) if kind(&error) == ErrorKind::Missing => Err(StoreError::Missing),
                Err(error) => Err(store_error(&error)),
            }
        })
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let delete = self
                .control
                .delete_object()
                .set_bucket(&self.resource)
                .set_object(self.location.object(name.as_str()))
                .with_retry_policy(NeverRetry);
            match limited(delete.send()).await {
                Err(error) if kind(&error) == ErrorKind::Missing => Ok(()),
                result => result.map_err(|error| store_error(&error)),
            }
        })
    }

    fn rewrite_interval(&self) -> Duration {
        REWRITE_INTERVAL
    }

    fn location(&self) -> String {
        self.location.to_string()
    }
}

/// Follows a listing's page tokens to the first page that has objects, or to the end. A page without objects is the end
/// only if it has no token (<https://google.aip.dev/158>), and all objects of a page may be foreign ones. `page` gets
/// the token, which is empty for the first page.
async fn first_with_objects<W>(page: impl Fn(String) -> W) -> Result<Vec<Listed>, StoreError>
where
    W: Future<Output = Result<(Vec<Listed>, String), StoreError>>,
{
    let mut token = String::new();
    loop {
        let (listed, next) = page(token).await?;
        if !listed.is_empty() || next.is_empty() {
            return Ok(listed);
        }
        token = next;
    }
}

/// Adds a time-out so that a hung call ends even when its caller sets none.
async fn limited<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(LONGEST_CALL, call).await.unwrap_or_else(|late| Err(Error::timeout(late)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_without_objects_is_the_end_only_without_a_token() {
        let listed = || vec![Listed { name: ObjectName::new("live/demo/a"), size: 1 }];
        let page = |token: String| async move {
            match token.as_str() {
                "" => Ok((Vec::new(), "second".to_owned())),
                "second" => Ok((Vec::new(), "third".to_owned())),
                "third" => Ok((listed(), "fourth".to_owned())),
                _ => panic!("page {token} is not needed"),
            }
        };
        assert_eq!(first_with_objects(page).await, Ok(listed()));
        let last = |_| async { Ok((Vec::new(), String::new())) };
        assert_eq!(first_with_objects(last).await, Ok(Vec::new()));
    }
}
