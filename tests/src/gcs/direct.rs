//! The fake bucket's objects and faults as an `store::Store`, without sockets: for tests on tokio's paused
//! time, where an hour takes a second.

use super::faults::{Call, Fault, Operation};
use super::objects::{New, Objects, Refusal, Settings};
use super::server::{State, lock};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use store::{
    Caching, Expected, Listed, MAX_LISTED, Object, ObjectName, Store, StoreError, StoreFuture, Stored,
    Version,
};
use tokio::time::Instant;

const BUCKET: &str = "live";

/// A bucket; clones share it. Time is tokio's clock.
#[derive(Clone)]
pub struct DirectStore {
    state: Arc<Mutex<State>>,
    started: Instant,
}

impl Default for DirectStore {
    fn default() -> Self {
        Self::new()
    }
}

impl DirectStore {
    /// An empty bucket without faults.
    pub fn new() -> Self {
        let mut state = State::default();
        state.objects.set_bucket(BUCKET, Settings::live());
        Self { state: Arc::new(Mutex::new(state)), started: Instant::now() }
    }

    /// Locks the state: objects, calls, faults.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The bucket's name in [`State::objects`].
    pub const fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// Applies a fault rule to every call from now on.
    pub fn set_rule(&self, rule: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.state().set_rule(rule);
    }

    async fn call<T>(
        &self,
        operation: Operation,
        name: &ObjectName,
        act: impl FnOnce(&mut Objects, Duration) -> Result<T, Refusal> + Send,
    ) -> Result<T, StoreError> {
        let now = || self.started.elapsed();
        let lost = || Err(StoreError::Unavailable("the connection was cut".into()));
        let act = |state: &Mutex<State>| act(&mut lock(state).objects, now()).map_err(refused);
        let fault = self.state().meet(operation, name.as_str().to_owned(), now());
        match fault {
            Fault::None => act(&self.state),
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                act(&self.state)
            }
            // Maps statuses to errors as the real client does.
            Fault::Status(403) => Err(StoreError::Refused("403 forbidden".into())),
            Fault::Status(status) => Err(StoreError::Unavailable(status.to_string())),
            Fault::Hang => std::future::pending().await,
            Fault::HangAfter => {
                act(&self.state)?;
                std::future::pending().await
            }
            Fault::Cut => lost(),
            Fault::LostAnswer => {
                act(&self.state)?;
                lost()
            }
        }
    }
}

fn refused(error: Refusal) -> StoreError {
    match error {
        Refusal::Precondition => StoreError::Changed,
        Refusal::NotFound(_) => StoreError::Missing,
        Refusal::TooOften(name) => StoreError::Unavailable(format!("429 {name}")),
        Refusal::Bad(why) => StoreError::Refused(why),
        Refusal::Forbidden(permission) => StoreError::Refused(permission.name().into()),
        Refusal::Full => StoreError::Refused("full".into()),
    }
}

fn new(name: &ObjectName, object: Object) -> New {
    New {
        name: name.as_str().to_owned(),
        body: object.body,
        content_type: object.content_type.to_owned(),
        cache_control: object.caching.cache_control().to_owned(),
        ..New::default()
    }
}

impl Store for DirectStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let body = object.body.clone();
            let created = self.call(Operation::Insert, name, |objects, now| {
                objects.insert(BUCKET, new(name, object), Some(0), now).map(drop)
            });
            match created.await {
                Err(StoreError::Changed) => {
                    let same = self.call(Operation::Get, name, |objects, _| {
                        Ok(objects.get(BUCKET, name.as_str(), None)?.body == body)
                    });
                    if same.await? { Ok(()) } else { Err(StoreError::Exists) }
                }
                result => result,
            }
        })
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Insert, name, move |objects, now| {
            objects.insert(BUCKET, new(name, object), None, now).map(drop)
        }))
    }

    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version> {
        let generation = match expected {
            Expected::Absent => 0,
            Expected::Version(version) => version.in_test_store(),
        };
        Box::pin(self.call(Operation::Insert, name, move |objects, now| {
            let written = objects.insert(BUCKET, new(name, object), Some(generation), now)?;
            Ok(Version::of_test_store(written.generation))
        }))
    }

    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(async move {
            let read = self.call(Operation::Read, name, |objects, _| {
                let found = objects.get(BUCKET, name.as_str(), None)?;
                let version = Version::of_test_store(found.generation);
                Ok(Stored { version, body: found.body.clone() })
            });
            match read.await {
                Ok(stored) => Ok(Some(stored)),
                Err(StoreError::Missing) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let read = self.call(Operation::Read, name, |objects, _| {
                let body = &objects.get(BUCKET, name.as_str(), None)?.body;
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
                Ok(body.slice(at(range.start)..at(range.end)))
            });
            match read.await {
                Ok(part) => Ok(Some(part)),
                Err(StoreError::Missing) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(self.call(Operation::List, folder, move |objects, _| {
            let start = after.map_or(String::new(), |after| format!("{after}\0"));
            let (page, _) = objects.list(BUCKET, &format!("{folder}/"), &start, MAX_LISTED)?;
            let listed = page.into_iter().map(|object| Listed {
                name: ObjectName::new(object.name.clone()),
                size: object.body.len() as u64,
            });
            Ok(listed.collect())
        }))
    }

    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Compose, target, move |objects, now| {
            let object = Object { body: Bytes::new(), content_type, caching };
            let sources: Vec<_> = sources.iter().map(|source| source.as_str().to_owned()).collect();
            objects.compose(BUCKET, new(target, object), &sources, None, now).map(drop)
        }))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let removed = self.call(Operation::Delete, name, |objects, now| {
                objects.delete(BUCKET, name.as_str(), None, now)
            });
            match removed.await {
                Err(StoreError::Missing) => Ok(()),
                result => result,
            }
        })
    }

    fn rewrite_interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn location(&self) -> String {
        format!("gs://{BUCKET}")
    }
}
