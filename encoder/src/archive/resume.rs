//! Goes on with an archive that another encoder began: found by what the stream's playlists list, read from the store,
//! and made this encoder's own, before anything is written behind it.

use super::each::{Failure, persist};
use super::load::{LoadError, Loaded, archives, load};
use super::names::Place;
use super::page::Page;
use super::recorder::{Recorder, Settings};
use crate::store::{Caching, Object, Store, StoreError, content_type};
use hls::resume::Past;
use std::sync::Arc;

/// Pages that a former owner may still have got in between reading and claiming. It had one in flight.
const CLAIMS: u32 = 5;

/// Why an archive cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its next page cannot be written, or somebody else writes one after the other.
    #[error(transparent)]
    Store(#[from] Failure),
}

/// The recorder of the archive that a stream's playlists belong to; `None` where there is no such archive.
///
/// # Errors
/// See [`ResumeError`].
pub async fn go_on(
    store: &Arc<dyn Store>,
    stream: &str,
    settings: Settings,
    past: &Past,
) -> Result<Option<Recorder>, ResumeError> {
    let Some(place) = archives(store, stream).await.map_err(LoadError::from)?.pop() else {
        return Ok(None);
    };
    for _ in 0..CLAIMS {
        let Loaded { mut pages, mut rest, .. } = load(store, &place).await?;
        if !past.sessions().any(|session| pages.has_session(session)) {
            return Ok(None);
        }
        // Only whoever is named on it has it: a page with the same bytes might be there already.
        let claim = Page {
            target_duration: pages.target_duration,
            claimed_by: Some(settings.owner.clone()),
            ..Page::default()
        };
        if !write(store, &place, pages.next_page, &claim).await? {
            continue;
        }
        pages.next_page += 1;
        // The former owner stored these, and nobody saw them listed: their numbers are given again.
        pages.cut(past.next_sequence());
        rest.retain(|entry| entry.info.sequence < past.next_sequence());
        return Ok(Some(Recorder::resume(stream, settings, place, pages, rest)));
    }
    Err(Failure { object: place.page(0).to_string(), error: StoreError::Changed }.into())
}

/// Writes the next page, with nothing in it: the former owner's next one fails, and it stops. False where it was quicker.
async fn write(store: &Arc<dyn Store>, place: &Place, number: u64, page: &Page) -> Result<bool, Failure> {
    let object = Object { body: page.to_json(), content_type: content_type::JSON, caching: Caching::None };
    let name = place.page(number);
    match persist(&name, || store.create(&name, object.clone())).await {
        Ok(()) => Ok(true),
        Err(Failure { error: StoreError::Exists, .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}
