//! Bans in the store: until a time, no encoder claims the stream. A ban is a field of the stream's owner record, so the
//! read that precedes every claim finds it, and a claim at the same time loses its conditional write or comes first.

use super::owner::{OwnerRecord, lease_name};
use super::{LeaseClient, owner_object};
use crate::retry::{Attempts, Backoff, retry};
use hls::timing::Latency;
use media::WallTime;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::{Expected, Store, StoreError};

/// Attempts at one read or write: about ten seconds. A bucket refuses a second write of an object within a second.
const ATTEMPTS: Attempts = Attempts {
    most: 10,
    timeout: Duration::from_secs(2),
    backoff: Backoff { first: Duration::from_millis(250), most: Duration::from_secs(1) },
};
/// Most writes of other encoders that one ban waits for: each of them writes once when a stream starts or ends.
const CONFLICTS: usize = 10;

impl LeaseClient {
    /// Records below `prefix` (`{app}/{name}`) that nobody may publish the stream before `until`; `None` lifts a ban.
    /// The lease of a running stream stays as it is. `latency` is what a new stream would be run with.
    ///
    /// # Errors
    /// The store does not answer or refuses: nothing may be recorded.
    pub(crate) async fn ban(
        &self,
        store: &Arc<dyn Store>,
        prefix: &str,
        latency: Latency,
        until: Option<WallTime>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        let name = lease_name(prefix);
        let banned_until_ms = until.map(|until| until.unix_micros() / 1000);
        for _ in 0..CONFLICTS {
            let stored = retry(ATTEMPTS, || store.read(&name)).await?;
            let record = stored.as_ref().and_then(|stored| OwnerRecord::parse(&stored.body));
            if record.as_ref().and_then(|record| record.banned_until_ms) == banned_until_ms {
                return Ok(());
            }
            let record = record.unwrap_or_else(|| self.nobodys(latency, now));
            let object = owner_object(&OwnerRecord { banned_until_ms, ..record });
            let expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
            match retry(ATTEMPTS, || store.replace_if(&name, object.clone(), expected)).await {
                // Also when an attempt succeeded whose answer was lost: the next read finds the ban.
                Err(StoreError::Changed) => {}
                result => return result.map(|_| ()),
            }
        }
        Err(StoreError::Unavailable("others keep writing the owner's record".into()))
    }

    /// The record of a stream without an owner.
    fn nobodys(&self, latency: Latency, now: WallTime) -> OwnerRecord {
        OwnerRecord {
            encoder: self.encoder.clone(),
            claim: self.claims.fetch_add(1, Ordering::Relaxed),
            since_ms: now.unix_micros() / 1000,
            latency_ms: latency.as_millis(),
            released: true,
            published: false,
            banned_until_ms: None,
            at: None,
        }
    }
}
