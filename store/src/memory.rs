//! Objects in memory, with injected faults: the store for tests. The amount of memory used is unbounded.

use super::{
    Caching, Expected, Listed, MAX_LISTED, MAX_SOURCES, Object, ObjectName, Store, StoreError, StoreFuture,
    Stored, Version,
};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Store::create`]
    Create,
    /// [`Store::replace`], [`Store::replace_if`]
    Replace,
    /// [`Store::read`], [`Store::read_range`]
    Read,
    /// [`Store::list`]
    List,
    /// [`Store::compose`]
    Compose,
    /// [`Store::remove`]
    Remove,
}

/// One call, as given to a fault rule and as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    /// The kind of the call.
    pub operation: Operation,
    /// The object's name.
    pub name: ObjectName,
    /// The time of the call, on tokio's clock.
    pub at: Instant,
}

/// The fault injected into a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// No fault.
    None,
    /// The call takes this long.
    Slow(Duration),
    /// A passing fault; the call was not carried out.
    Unavailable,
    /// A passing fault; the call was carried out, but its answer was lost.
    LostAnswer,
    /// A permanent fault; the call was not carried out.
    Refused,
    /// The call never returns and is not carried out.
    Hang,
}

#[derive(Default)]
struct Kept {
    objects: BTreeMap<ObjectName, (Version, Object)>,
    last_version: i64,
}

type Rule = Box<dyn FnMut(&RecordedCall) -> InjectedFault + Send>;

/// Objects in memory. Clones share the same objects.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<MemoryInner>>,
}

#[derive(Default)]
struct MemoryInner {
    kept: Kept,
    calls: Vec<RecordedCall>,
    rule: Option<Rule>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a fault rule to every call from now on.
    pub fn set_faults(&self, rule: impl FnMut(&RecordedCall) -> InjectedFault + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// Returns an object.
    pub fn get(&self, name: &str) -> Option<Object> {
        self.lock().kept.objects.get(&ObjectName::new(name)).map(|(_, object)| object.clone())
    }

    /// An object's text; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|object| String::from_utf8(object.body.to_vec()).ok())
    }

    /// Names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().kept.objects.keys().map(|name| name.as_str().to_owned()).collect()
    }

    /// All calls so far, in order, including failed ones.
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, MemoryInner> {
        // Only a test's fault rule can panic while holding the lock, and then that test has failed anyway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T>(
        &self,
        operation: Operation,
        name: &ObjectName,
        act: impl FnOnce(&mut Kept) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut inner = self.lock();
            let call = RecordedCall { operation, name: name.clone(), at: Instant::now() };
            inner.calls.push(call.clone());
            inner.rule.as_mut().map_or(InjectedFault::None, |rule| rule(&call))
        };
        match fault {
            InjectedFault::None => act(&mut self.lock().kept),
            InjectedFault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                act(&mut self.lock().kept)
            }
            InjectedFault::Unavailable => Err(StoreError::Unavailable("injected".into())),
            InjectedFault::LostAnswer => {
                act(&mut self.lock().kept)?;
                Err(StoreError::Unavailable("injected: the answer was lost".into()))
            }
            InjectedFault::Refused => Err(StoreError::Refused("injected".into())),
            InjectedFault::Hang => std::future::pending().await,
        }
    }
}
// === impl Kept ===

impl Kept {
    fn put(&mut self, name: &ObjectName, object: Object) -> Version {
        self.last_version += 1;
        let version = Version::from_number(self.last_version);
        self.objects.insert(name.clone(), (version, object));
        version
    }

    fn expect(&self, name: &ObjectName, expected: Expected) -> Result<(), StoreError> {
        let found = self.objects.get(name).map(|(version, _)| *version);
        let wanted = match expected {
            Expected::Absent => None,
            Expected::Version(version) => Some(version),
        };
        if found == wanted { Ok(()) } else { Err(StoreError::Changed) }
    }

    fn object(&self, name: &ObjectName) -> Result<&Object, StoreError> {
        self.objects.get(name).map(|(_, object)| object).ok_or(StoreError::Missing)
    }
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Create, name, move |kept| match kept.object(name) {
            Ok(found) if found.body == object.body => Ok(()),
            Ok(_) => Err(StoreError::Exists),
            Err(_) => {
                kept.put(name, object);
                Ok(())
            }
        }))
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Replace, name, move |kept| {
            kept.put(name, object);
            Ok(())
        }))
    }

    fn replace_if<'a>(
        &'a self,
        name: &'a ObjectName,
        object: Object,
        expected: Expected,
    ) -> StoreFuture<'a, Version> {
        Box::pin(self.call(Operation::Replace, name, move |kept| {
            kept.expect(name, expected)?;
            Ok(kept.put(name, object))
        }))
    }

    fn read<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Stored>> {
        Box::pin(self.call(Operation::Read, name, move |kept| {
            let found = kept.objects.get(name);
            Ok(found.map(|(version, object)| Stored { version: *version, body: object.body.clone() }))
        }))
    }

    fn read_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.call(Operation::Read, name, move |kept| {
            let Some((_, object)) = kept.objects.get(name) else { return Ok(None) };
            let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(object.body.len());
            let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
            Ok(Some(object.body.slice(start..end)))
        }))
    }

    fn list<'a>(
        &'a self,
        folder: &'a ObjectName,
        after: Option<&'a ObjectName>,
    ) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(self.call(Operation::List, folder, move |kept| {
            let below = format!("{folder}/");
            let all = kept.objects.iter().filter(|(name, _)| name.as_str().starts_with(&below));
            let behind = all.filter(|(name, _)| after.is_none_or(|after| *name > after));
            let listed = behind
                .map(|(name, (_, object))| Listed { name: name.clone(), size: object.body.len() as u64 });
            Ok(listed.take(MAX_LISTED).collect())
        }))
    }

    fn compose<'a>(
        &'a self,
        target: &'a ObjectName,
        sources: &'a [ObjectName],
        content_type: &'static str,
        caching: Caching,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Compose, target, move |kept| {
            if !(1..=MAX_SOURCES).contains(&sources.len()) {
                return Err(StoreError::Refused(format!("{} sources", sources.len())));
            }
            let mut body = BytesMut::new();
            for source in sources {
                body.extend_from_slice(&kept.object(source)?.body);
            }
            kept.put(target, Object { body: body.freeze(), content_type, caching });
            Ok(())
        }))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Remove, name, move |kept| {
            kept.objects.remove(name);
            Ok(())
        }))
    }

    fn rewrite_interval(&self) -> Duration {
        Duration::ZERO
    }

    fn location(&self) -> String {
        "memory".into()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.names()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn keeps_the_contract_of_every_store() {
        let store = MemoryStore::new();
        contract::check(&store).await;
    }
}
