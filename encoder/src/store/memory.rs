//! Objects in memory, with faults on demand: the store of tests. Nothing here bounds what it keeps.

use super::{Object, ObjectName, Store, StoreError, StoreFuture};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Store::create`]
    Create,
    /// [`Store::replace`]
    Replace,
    /// [`Store::remove`]
    Remove,
}

/// One call, as a fault rule sees it and as it is kept on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// Of which object.
    pub name: ObjectName,
    /// When, on tokio's clock.
    pub at: Instant,
}

/// What a call runs into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It takes this long.
    Slow(Duration),
    /// A passing fault; nothing was done.
    Unavailable,
    /// A passing fault; all the same it was done (the answer was lost).
    LostAnswer,
    /// A fault that stays; nothing was done.
    Refused,
    /// No answer ever comes; nothing was done.
    Hang,
}

type Rule = Box<dyn FnMut(&Call) -> Fault + Send>;

/// Objects in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<ObjectName, Object>,
    calls: Vec<Call>,
    rule: Option<Rule>,
}

// === impl MemoryStore ===

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every call meets what the rule says.
    pub fn set_faults(&self, rule: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.lock().rule = Some(Box::new(rule));
    }

    /// An object.
    pub fn get(&self, name: &str) -> Option<Object> {
        self.lock().objects.get(&ObjectName::new(name)).cloned()
    }

    /// An object's text; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|object| String::from_utf8(object.body.to_vec()).ok())
    }

    /// Names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().objects.keys().map(|name| name.as_str().to_owned()).collect()
    }

    /// Every call so far, in order, those that failed included.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Only a test's fault rule can panic while it is held, and that test has failed then.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(
        &self,
        operation: Operation,
        name: &ObjectName,
        act: impl FnOnce(&mut BTreeMap<ObjectName, Object>) -> Result<(), StoreError> + Send,
    ) -> Result<(), StoreError> {
        let fault = {
            let mut inner = self.lock();
            let call = Call { operation, name: name.clone(), at: Instant::now() };
            inner.calls.push(call.clone());
            inner.rule.as_mut().map_or(Fault::None, |rule| rule(&call))
        };
        match fault {
            Fault::None => act(&mut self.lock().objects),
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                act(&mut self.lock().objects)
            }
            Fault::Unavailable => Err(StoreError::Unavailable("injected".into())),
            Fault::LostAnswer => {
                act(&mut self.lock().objects)?;
                Err(StoreError::Unavailable("injected: the answer was lost".into()))
            }
            Fault::Refused => Err(StoreError::Refused("injected".into())),
            Fault::Hang => std::future::pending().await,
        }
    }
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Create, name, move |objects| {
            if objects.contains_key(name) {
                return Err(StoreError::Exists);
            }
            objects.insert(name.clone(), object);
            Ok(())
        }))
    }

    fn replace<'a>(&'a self, name: &'a ObjectName, object: Object) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Replace, name, move |objects| {
            objects.insert(name.clone(), object);
            Ok(())
        }))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(self.call(Operation::Remove, name, move |objects| {
            objects.remove(name);
            Ok(())
        }))
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
    use crate::store::contract;

    #[tokio::test]
    async fn keeps_the_contract_of_every_store() {
        let store = MemoryStore::new();
        contract::check(&store, |name| store.get(name.as_str()).map(|object| object.body)).await;
    }
}
