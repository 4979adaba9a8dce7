//! Continues an archive that another encoder began: finds the archive through the sessions that the stream's playlists
//! list, reads it from the store, and claims it for this encoder before anything is written to it.

use super::each::{Failure, persist};
use super::load::{LoadError, Loaded, archives, load};
use super::names::ArchivePlace;
use super::page::Page;
use super::recorder::{ArchiveSettings, Recorder};
use hls::resume::Past;
use std::sync::Arc;
use store::{Caching, Object, Store, StoreError, content_type};

/// Attempts to claim an archive: each page that a former owner writes between reading and claiming costs one. The
/// former owner had one page in flight.
const CLAIMS: u32 = 5;

/// Why an archive cannot be continued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveResumeError {
    /// The archive cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The next page cannot be written, or another encoder writes one page after the other.
    #[error(transparent)]
    Store(#[from] Failure),
}

/// Returns the recorder of the archive that a stream's playlists belong to; `None` if there is no such archive.
///
/// # Errors
/// See [`ArchiveResumeError`].
pub(crate) async fn go_on(
    store: &Arc<dyn Store>,
    stream: &str,
    settings: ArchiveSettings,
    past: &Past,
) -> Result<Option<Recorder>, ArchiveResumeError> {
    let Some(place) = archives(store, stream).await.map_err(LoadError::from)?.pop() else {
        return Ok(None);
    };
    for _ in 0..CLAIMS {
        let Loaded { mut pages, mut rest, .. } = load(store, &place).await?;
        if !past.sessions().any(|session| pages.has_session(session)) {
            return Ok(None);
        }
        // The owner's name makes the claim unique: otherwise a page with the same bytes might exist already.
        let claim = Page {
            target_duration: pages.target_duration,
            claimed_by: Some(settings.owner.clone()),
            ..Page::default()
        };
        if !write(store, &place, pages.next_page, &claim).await? {
            continue;
        }
        pages.next_page += 1;
        // The former owner stored these segments but never listed them: their sequence numbers are reused.
        pages.cut(past.next_sequence());
        rest.retain(|entry| entry.info.sequence < past.next_sequence());
        return Ok(Some(Recorder::resume(settings, place, pages, rest)));
    }
    Err(Failure { object: place.page(0).to_string(), error: StoreError::Changed }.into())
}

/// Writes an empty page under the next number: the former owner's next page fails, and the former owner stops. False
/// if the former owner's page came first.
async fn write(
    store: &Arc<dyn Store>,
    place: &ArchivePlace,
    number: u64,
    page: &Page,
) -> Result<bool, Failure> {
    let object = Object { body: page.to_json(), content_type: content_type::JSON, caching: Caching::None };
    let name = place.page(number);
    match persist(&name, || store.create(&name, object.clone())).await {
        Ok(()) => Ok(true),
        Err(Failure { error: StoreError::Exists, .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}
