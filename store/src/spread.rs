//! Several stores as one, because a bucket takes only so many writes a second. Each stream's objects are in one of the
//! stores. This module chooses the store by the stream's name, and lists folders that several stores share. The work of
//! a store with an object belongs to the store's own module.
//!
//! The choice is rendezvous hashing: of the SHA-256 of each store's location, a line feed, and the first two parts of the
//! object's name (`{app}/{name}`), the greatest names the store. So every process chooses alike from the same locations,
//! in any order; a back end can compute the choice; and another store takes over an equal share of each store's names,
//! while all other names stay where they are.

use crate::{
    Caching, Expected, Listed, MAX_LISTED, Object, ObjectName, Store, StoreError, StoreFuture, Stored,
    Version,
};
use bytes::Bytes;
use ring::digest;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Several stores as one; see the module's documentation.
pub(crate) struct Spread {
    first: Place,
    others: Vec<Place>,
}

/// One of the stores.
struct Place {
    location: String,
    store: Arc<dyn Store>,
}

impl Place {
    fn new(store: Arc<dyn Store>) -> Self {
        Self { location: store.location(), store }
    }

    /// The place's claim to a stream: the greatest of all has the stream.
    fn claim(&self, stream: &str) -> Vec<u8> {
        let text = format!("{}\n{stream}", self.location);
        digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
    }
}

impl Spread {
    pub(crate) fn over(first: Arc<dyn Store>, others: impl IntoIterator<Item = Arc<dyn Store>>) -> Self {
        Self { first: Place::new(first), others: others.into_iter().map(Place::new).collect() }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The place that has the objects of a stream.
    fn place(&self, stream: &str) -> &Place {
        self.places().max_by_key(|place| place.claim(stream)).unwrap_or(&self.first)
    }

    /// The place that has an object.
    fn place_of(&self, name: &ObjectName) -> &Place {
        self.place(stream_of(name.as_str()).unwrap_or(name.as_str()))
    }

    fn of(&self, name: &ObjectName) -> &dyn Store {
        &*self.place_of(name).store
    }

    /// Lists a folder that several stores may have objects of.
    async fn list_all(
        &self,
        folder: &ObjectName,
        after: Option<&ObjectName>,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut all = Vec::new();
        for place in self.places() {
            all.extend(place.store.list(folder, after).await?);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        // Each store has said the first of its names, so nothing between these is missing.
        all.truncate(MAX_LISTED);
        Ok(all)
    }
}

/// `{app}/{name}`: the first two parts of a path. `None` for a shorter path.
fn stream_of(path: &str) -> Option<&str> {
    let app = path.find('/')?;
    let name = path[app + 1..].find('/').map_or(path.len(), |end| app + 1 + end);
    Some(&path[..name])
}

impl Store for Spread {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        self.of(name).create(name, object)
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        self.of(name).replace(name, object)
    }

    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version> {
        self.of(name).replace_if(name, object, expected)
    }

    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>> {
        self.of(name).read(name)
    }

    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        self.of(name).read_range(name, range)
    }

    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>> {
        match stream_of(folder.as_str()) {
            Some(stream) => self.place(stream).store.list(folder, after),
            None => Box::pin(self.list_all(folder, after)),
        }
    }

    /// The sources are objects of the target's stream.
    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()> {
        self.of(target).compose(target, sources, content_type, caching)
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        self.of(name).remove(name)
    }

    fn rewrite_interval(&self) -> Duration {
        self.places().map(|place| place.store.rewrite_interval()).max().unwrap_or_default()
    }

    fn location(&self) -> String {
        let locations: Vec<_> = self.places().map(|place| place.location.as_str()).collect();
        locations.join(",")
    }

    fn location_of(&self, name: &ObjectName) -> String {
        self.place_of(name).location.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::DirStore;
    use crate::memory::MemoryStore;
    use crate::{content_type, contract};
    use tempfile::TempDir;

    async fn directories(count: usize) -> (Vec<TempDir>, Spread) {
        let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for folder in &folders {
            stores.push(Arc::new(DirStore::open(folder.path()).await.unwrap()));
        }
        (folders, Spread::over(stores.remove(0), stores))
    }

    fn named(locations: &[&str]) -> Spread {
        let place = |location: &&str| Place {
            location: (*location).to_owned(),
            store: Arc::new(MemoryStore::default()),
        };
        Spread { first: place(&locations[0]), others: locations[1..].iter().map(place).collect() }
    }

    #[tokio::test]
    async fn several_stores_keep_the_contract_of_one() {
        let (_folders, spread) = directories(3).await;
        contract::check(&spread).await;
    }

    #[tokio::test]
    async fn a_stream_is_in_one_store_and_a_folder_of_streams_is_listed_from_all() {
        let (folders, spread) = directories(3).await;
        let mut names: Vec<_> = (0..40).map(|n| ObjectName::new(format!("live/{n}/audio/s-1.m4s"))).collect();
        for name in &names {
            let body = Bytes::from_static(b"x");
            let object = Object { body, content_type: content_type::AUDIO, caching: Caching::Immutable };
            spread.create(name, object).await.unwrap();
        }
        for folder in &folders {
            let streams = std::fs::read_dir(folder.path().join("live")).unwrap().count();
            assert!((4..=26).contains(&streams), "{streams} of 40 streams in one of three stores");
        }
        names.sort();
        let listed = spread.list(&ObjectName::new("live"), None).await.unwrap();
        assert_eq!(listed.into_iter().map(|object| object.name).collect::<Vec<_>>(), names);
        let one = spread.list(&ObjectName::new("live/7"), None).await.unwrap();
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn another_store_moves_its_own_share_of_the_names_alone() {
        let before = named(&["gs://a", "gs://b", "gs://c"]);
        let after = named(&["gs://d", "gs://c", "gs://b", "gs://a"]);
        let streams: Vec<String> = (0..1000).map(|n| format!("live/{n}")).collect();
        let mut moved = 0;
        for stream in &streams {
            if after.place(stream).location != before.place(stream).location {
                assert_eq!(after.place(stream).location, "gs://d");
                moved += 1;
            }
        }
        assert!((200..300).contains(&moved), "{moved} of 1000 to one of four stores");
    }

    /// Other programs compute the choice too: it must never change.
    #[test]
    fn the_choice_is_the_documented_one() {
        let spread = named(&["gs://live-0/tv", "gs://live-1/tv"]);
        // printf 'gs://live-0/tv\nlive/demo' | sha256sum: compare with gs://live-1/tv
        assert_eq!(
            ["live/demo", "tv/one", "tv/two"].map(|stream| &*spread.place(stream).location),
            ["gs://live-0/tv", "gs://live-0/tv", "gs://live-1/tv"]
        );
    }

    #[test]
    fn the_stream_of_a_name_is_its_first_two_parts() {
        assert_eq!(stream_of("live/demo/720p/s-1.m4s"), Some("live/demo"));
        assert_eq!(stream_of("live/demo"), Some("live/demo"));
        assert_eq!(stream_of("live"), None);
    }
}
