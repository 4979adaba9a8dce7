//! How a stream begins in the store: as a new stream, or as the continuation of a stream that another encoder (or an
//! earlier process) left.
//!
//! A busy encoder has left the load balancer, so a publisher that lost its connection reaches another encoder. Before a
//! publisher is admitted, [`LeaseClient::claim`] reads what the store holds under the stream's name:
//!
//! 1. `owner.json`, the stream's lease, is replaced with the version that was read as the precondition: of several
//!    simultaneous claims exactly one wins, and the other encoders refuse their publishers. An encoder that finds a
//!    lease which is only a few seconds old refuses its publisher as well, and one whose publisher has not proved who it
//!    is leaves a stream alone whose own publisher is alive.
//! 2. Playlists without EXT-X-ENDLIST whose last segment ended within the reconnect window are continued. Each is
//!    written once more, unchanged but for an added comment, with the version that was read as the precondition. This
//!    fences the former lease holder: its writes fail from then on, and it stops (`publish`). So the playlists that
//!    were read are final, and media sequence numbers continue from there.
//! 3. Anything else becomes a new stream. Its media sequence numbers are above those that were found, and its playlists
//!    replace the stored ones.
//!
//! **Bounds.** The look-up takes [`LOOK_UP_WITHIN`] at most; after that time-out the stream begins as a new one,
//! without a lease if the lease was not written by then. Two encoders that begin this way at the same time detect each
//! other by their playlist writes: the last writer stays. A bucket refuses a second write of an object within a second,
//! so an encoder that writes a playlist every second leaves little time for another writer: a stream that is taken from
//! a living publisher may therefore begin as a new one. Nothing here is checked again while a stream runs.
//!
//! What belongs here: reading, judging and fencing. What does not: parsing playlists (`hls::resume`), and the writes
//! that follow ([`crate::delivery`]).

mod ban;
mod owner;

use crate::delivery::Inherited;
use crate::edge::Advertised;
use crate::retry::{Attempts, Backoff, retry};
use bytes::Bytes;
use hls::RungName;
use hls::resume::{Past, ResumeError, StoredPlaylist, captions, renditions};
use hls::timing::Latency;
use media::WallTime;
use media::captions::CaptionServices;
use metrics::counter;
use owner::OwnerRecord;
pub(crate) use owner::{Claim, Whereabouts, lease_name};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Caching, Expected, Object, ObjectName, Store, StoreError, Stored, Version, content_type};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// Maximum time that a publisher waits for the store.
pub(crate) const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);
/// Attempts at one read or write, as many as fit into the look-up: a second attempt is worth more than waiting longer.
/// An object that was written within the last second refuses writes until that second is over.
const ATTEMPTS: Attempts = Attempts {
    most: u32::MAX,
    timeout: Duration::from_millis(700),
    backoff: Backoff { first: PAUSE, most: PAUSE },
};
/// Longest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Time-out for releasing the lease at a stream's end. A lease that is not released keeps other encoders out for a few
/// seconds at most.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);
/// Least time between two writes of the lease: Cloud Storage accepts one write of an object per second.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// Prefix of the playlist comment that names the encoder that took the playlist over.
const NOTE: &str = "# taken over by ";

/// This process as a lease holder, towards other encoders that use the same store.
#[derive(Debug)]
pub(crate) struct LeaseClient {
    encoder: String,
    claims: AtomicU64,
    advertised: Option<Advertised>,
}

/// Why a stream begins as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshReason {
    /// The store holds nothing under that name.
    New,
    /// The stored stream has ended.
    Ended,
    /// The stored stream is older than the reconnect window.
    WindowOver,
    /// The stored playlists are incomplete, or were not written by this program.
    Unreadable,
    /// The stored target duration is not the one that this encoder would use, and the stored stream's latency is not
    /// known.
    TargetDuration,
    /// The store did not answer in time, or refused.
    StoreSilent,
}

/// How a stream begins.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamStart {
    /// As a new stream.
    Fresh {
        /// Lowest media sequence number that the first segment may have.
        above: u64,
        /// Number of discontinuities in earlier streams of this name.
        discontinuities: u64,
        /// Why the stream is not continued.
        why: FreshReason,
    },
    /// As the continuation of a stream that another encoder left.
    TakenOver(Box<Inheritance>),
}

/// What a continued stream inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct Inheritance {
    /// The latency that the stream is run with.
    pub latency: Latency,
    /// The segments that its playlists list.
    pub past: Past,
    /// The stored playlists with their current versions.
    pub playlists: Vec<Inherited>,
}

/// The lease: the right to write a stream, as recorded in the store.
#[derive(Debug)]
pub(crate) struct Lease {
    name: ObjectName,
    record: OwnerRecord,
    version: Version,
}

/// Why a stream cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimRefused {
    /// Another encoder claimed the stream at the same time and won.
    #[error("another encoder has just taken this stream")]
    AlreadyOwned,
    /// An operator has banned the stream.
    #[error("an operator has banned this stream")]
    Banned {
        /// When the stream may be published again.
        until: WallTime,
    },
}

/// Why a look-up stopped.
enum Stop {
    Taken,
    Banned(WallTime),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A look-up: its parameters, and what it has found so far in case the time-out cuts it short.
struct LookUp<'a> {
    store: &'a Arc<dyn Store>,
    prefix: &'a str,
    claim: Claim,
    record: OwnerRecord,
    owner: Option<Lease>,
    above: u64,
    discontinuities: u64,
}

/// A stored playlist of the former lease holder.
struct FoundPlaylist {
    rung: RungName,
    name: ObjectName,
    version: Version,
    text: String,
    /// Whether `version` was written by this encoder.
    fenced: bool,
}

// === impl Why ===

impl FreshReason {
    /// The reason, for metric labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ended => "after_end",
            Self::WindowOver => "after_window",
            Self::Unreadable => "unreadable",
            Self::TargetDuration => "target_duration",
            Self::StoreSilent => "store_silent",
        }
    }
}

// === impl Beginning ===

impl StreamStart {
    /// Number of discontinuities before this encoder's first segment.
    pub fn discontinuities(&self) -> u64 {
        match self {
            Self::Fresh { discontinuities, .. } => *discontinuities,
            Self::TakenOver(inheritance) => inheritance.past.discontinuities(),
        }
    }
}

// === impl Claimant ===

impl Default for LeaseClient {
    fn default() -> Self {
        Self::new(None)
    }
}

impl LeaseClient {
    /// `advertised` is where edges reach this process.
    pub(crate) fn new(advertised: Option<Advertised>) -> Self {
        Self { encoder: format!("{:016x}", fastrand::u64(..)), claims: AtomicU64::new(0), advertised }
    }

    /// Reads what the store holds below `prefix` (`{app}/{name}`), and claims the stream.
    ///
    /// # Errors
    /// Another encoder has just claimed the stream, its publisher is alive and this one has not proved who it is, or an
    /// operator has banned the stream.
    pub(crate) async fn claim(
        &self,
        store: &Arc<dyn Store>,
        prefix: &str,
        claim: Claim,
    ) -> Result<(StreamStart, Option<Lease>), ClaimRefused> {
        let record = OwnerRecord {
            encoder: self.encoder.clone(),
            claim: self.claims.fetch_add(1, Ordering::Relaxed),
            since_ms: claim.now.unix_micros() / 1000,
            latency_ms: claim.latency.as_millis(),
            released: false,
            published: true,
            banned_until_ms: None,
            at: self.advertised.as_ref().and_then(|advertised| advertised.seal(prefix)),
        };
        let mut look_up = LookUp { store, prefix, claim, record, owner: None, above: 0, discontinuities: 0 };
        let result = match tokio::time::timeout(LOOK_UP_WITHIN, look_up.run()).await {
            Ok(result) => result,
            Err(_) => Err(Stop::Store(StoreError::Unavailable("no answer in time".into()))),
        };
        let beginning = match result {
            Ok(Ok(inheritance)) => {
                info!(
                    stream = prefix,
                    encoder = self.encoder,
                    next_sequence = inheritance.past.next_sequence(),
                    latency_seconds = inheritance.latency.as_secs_f64(),
                    renditions = inheritance.playlists.len(),
                    "takes over the stream where another encoder left it in the store"
                );
                StreamStart::TakenOver(Box::new(inheritance))
            }
            Ok(Err(why)) => look_up.anew(why),
            Err(Stop::Taken) => return Err(ClaimRefused::AlreadyOwned),
            Err(Stop::Banned(until)) => return Err(ClaimRefused::Banned { until }),
            Err(Stop::Store(error)) => {
                warn!(
                    stream = prefix,
                    %error,
                    "the store did not say in time what it holds of this stream: it begins anew, and whoever else \
                     writes it is found out by its playlists"
                );
                look_up.anew(FreshReason::StoreSilent)
            }
        };
        let how = match &beginning {
            StreamStart::Fresh { why, .. } => why.as_str(),
            StreamStart::TakenOver(_) => "taken_over",
        };
        if let StreamStart::Fresh { why: FreshReason::Unreadable | FreshReason::TargetDuration, .. } =
            &beginning
        {
            warn!(
                stream = prefix,
                why = how,
                "the store's playlists cannot be gone on from: the stream begins anew"
            );
        }
        counter!("encoder_stream_starts_total", "how" => how).increment(1);
        Ok((beginning, look_up.owner))
    }
}

// === impl Owner ===

impl Lease {
    /// Keeps the record's `published` as `published` says, until another encoder has the lease or the sender is gone.
    /// Writes are [`RECORD_EVERY`] apart at least; of several changes in between the last one is written.
    pub(crate) async fn follow(&mut self, store: &Arc<dyn Store>, mut published: watch::Receiver<bool>) {
        loop {
            let differs = |connected: &bool| *connected != self.record.published;
            let Ok(connected) = published.wait_for(differs).await.map(|connected| *connected) else { return };
            let record = OwnerRecord { published: connected, ..self.record.clone() };
            let write =
                || store.replace_if(&self.name, owner_object(&record), Expected::Version(self.version));
            match retry(ATTEMPTS, write).await {
                Ok(version) => (self.record, self.version) = (record, version),
                Err(error) => {
                    debug!(%error, "the stream's record in the store stays as it is");
                    return;
                }
            }
            tokio::time::sleep(RECORD_EVERY).await;
        }
    }

    /// Releases the lease after the stream has ended in order, so that the next publisher need not wait. A failed
    /// release does no harm beyond that wait.
    pub(crate) async fn release(self, store: &Arc<dyn Store>) {
        match tokio::time::timeout(RELEASE_WITHIN, self.write_released(store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "owner's record stays"),
            Err(_) => debug!("owner's record stays: no answer in time"),
        }
    }

    async fn write_released(self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let Self { name, record, version } = self;
        let released = |record| owner_object(&OwnerRecord { released: true, ..record });
        match store.replace_if(&name, released(record.clone()), Expected::Version(version)).await {
            Err(StoreError::Changed) => {}
            other => return other.map(|_| ()),
        }
        // An operator may have banned the stream meanwhile: the lease is released, and the ban stays.
        let Some(stored) = store.read(&name).await? else { return Ok(()) };
        match OwnerRecord::parse(&stored.body) {
            Some(now) if (&now.encoder, now.claim) == (&record.encoder, record.claim) => {
                let write = store.replace_if(&name, released(now), Expected::Version(stored.version));
                write.await.map(|_| ())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Reads an owner's record and judges it, for fuzzing.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_owner(body: &[u8]) {
    if let Some(record) = OwnerRecord::parse(body) {
        record.keeps_out("another", WallTime::from_unix_micros(0));
        record.banned_until(WallTime::from_unix_micros(0));
        assert_eq!(OwnerRecord::parse(&record.body()), Some(record), "what is written is read back");
    }
}

fn owner_object(record: &OwnerRecord) -> Object {
    Object { body: record.body().into(), content_type: content_type::JSON, caching: Caching::None }
}

// === impl LookUp ===

impl LookUp<'_> {
    fn anew(&self, why: FreshReason) -> StreamStart {
        StreamStart::Fresh { above: self.above, discontinuities: self.discontinuities, why }
    }

    async fn run(&mut self) -> Result<Result<Inheritance, FreshReason>, Stop> {
        let (owner_name, index_name) = (lease_name(self.prefix), self.below("index.m3u8"));
        let (owner, index) = tokio::try_join!(
            read(self.store.clone(), owner_name.clone()),
            read(self.store.clone(), index_name)
        )?;
        let former = owner.as_ref().and_then(|stored| OwnerRecord::parse(&stored.body));
        if let Some(until) = former.as_ref().and_then(|owner| owner.banned_until(self.claim.now)) {
            return Err(Stop::Banned(until));
        }
        if former.as_ref().is_some_and(|owner| owner.keeps_out(&self.record.encoder, self.claim.now)) {
            return Err(Stop::Taken);
        }
        let mut announced = CaptionServices::NONE;
        let mut found = match index {
            None => Vec::new(),
            Some(index) => match text(&index).and_then(|text| Ok((renditions(&text)?, captions(&text)))) {
                Ok((rungs, services)) => {
                    announced = services;
                    self.read_all(rungs).await?
                }
                Err(error) => {
                    info!(stream = self.prefix, %error, "stored multivariant playlist");
                    if self.is_alive_elsewhere(&[], former.as_ref()) {
                        return Err(Stop::Taken);
                    }
                    self.own(owner_name, owner).await?;
                    return Ok(Err(FreshReason::Unreadable));
                }
            },
        };
        let mut judged = self.judge(&found, former.as_ref());
        if self.is_alive_elsewhere(&found, former.as_ref()) {
            return Err(Stop::Taken);
        }
        if let Ok((latency, _)) = &judged {
            self.record.latency_ms = latency.as_millis();
        }
        self.own(owner_name, owner).await?;
        loop {
            let (latency, past) = match judged {
                Ok(judged) => judged,
                Err(why) => return Ok(Err(why)),
            };
            if found.iter().all(|playlist| playlist.fenced) {
                let inherited = |found: FoundPlaylist| Inherited {
                    text: without_note(&found.text),
                    rung: found.rung,
                    version: found.version,
                };
                let playlists = found.into_iter().map(inherited).collect();
                let past = past.with_captions(announced);
                return Ok(Ok(Inheritance { latency, past, playlists }));
            }
            found = self.fence_all(found).await?;
            // The former lease holder may have written between the read and the fencing write.
            judged = self.judge(&found, former.as_ref());
        }
    }

    fn judge(
        &mut self,
        found: &[FoundPlaylist],
        former: Option<&OwnerRecord>,
    ) -> Result<(Latency, Past), FreshReason> {
        if found.is_empty() {
            return Err(FreshReason::New);
        }
        let past = past_of(found).map_err(|error| {
            info!(stream = self.prefix, %error, "stored playlists");
            FreshReason::Unreadable
        })?;
        self.above = past.next_sequence();
        self.discontinuities = past.discontinuities();
        let latency = self.claim.judge(&past, former)?;
        Ok((latency, past))
    }

    /// Whether this claim is refused because the stream's publisher is alive at another encoder.
    fn is_alive_elsewhere(&self, found: &[FoundPlaylist], former: Option<&OwnerRecord>) -> bool {
        let Some(owner) = former.filter(|_| !self.claim.proven) else { return false };
        owner.is_alive_for(&self.record.encoder, past_of(found).ok().as_ref(), self.claim.now)
    }

    /// Writes this encoder's lease, with the version that was read as the precondition.
    async fn own(&mut self, name: ObjectName, former: Option<Stored>) -> Result<(), Stop> {
        let mut expected = former.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        loop {
            let write = || self.store.replace_if(&name, owner_object(&self.record), expected);
            let version = match retry(ATTEMPTS, write).await {
                Ok(version) => version,
                Err(StoreError::Changed) => match read(self.store.clone(), name.clone()).await? {
                    // An earlier attempt succeeded, and its answer was lost.
                    Some(stored) if OwnerRecord::parse(&stored.body).as_ref() == Some(&self.record) => {
                        stored.version
                    }
                    Some(_) => return Err(Stop::Taken),
                    None => {
                        expected = Expected::Absent;
                        continue;
                    }
                },
                Err(error) => return Err(error.into()),
            };
            self.owner = Some(Lease { name, record: self.record.clone(), version });
            return Ok(());
        }
    }

    async fn read_all(&self, rungs: Vec<RungName>) -> Result<Vec<FoundPlaylist>, Stop> {
        let mut reads = JoinSet::new();
        for rung in rungs {
            let (store, name) = (self.store.clone(), self.below(&format!("{rung}/index.m3u8")));
            reads.spawn(async move { Ok::<_, StoreError>((rung, name.clone(), read(store, name).await?)) });
        }
        let mut found = Vec::new();
        while let Some((rung, name, stored)) = next(&mut reads).await? {
            if let Some(stored) = stored {
                let version = stored.version;
                // An object that is not UTF-8 counts as an empty playlist, which the parser refuses later.
                let text = text(&stored).unwrap_or_default();
                found.push(FoundPlaylist { rung, name, version, text, fenced: false });
            }
        }
        found.sort_by(|a, b| a.rung.cmp(&b.rung));
        Ok(found)
    }

    /// Tries once to fence each playlist that is not fenced yet. A playlist that was written meanwhile is read again.
    async fn fence_all(&self, found: Vec<FoundPlaylist>) -> Result<Vec<FoundPlaylist>, Stop> {
        let mut writes = JoinSet::new();
        for playlist in found {
            let (store, note) = (self.store.clone(), format!("{NOTE}{}\n", self.record.encoder));
            writes.spawn(async move {
                if playlist.fenced { Ok(playlist) } else { fence(store, playlist, &note).await }
            });
        }
        let mut found = Vec::new();
        while let Some(playlist) = next(&mut writes).await? {
            found.push(playlist);
        }
        found.sort_by(|a, b| a.rung.cmp(&b.rung));
        Ok(found)
    }

    fn below(&self, path: &str) -> ObjectName {
        ObjectName::new(format!("{}/{path}", self.prefix))
    }
}

async fn fence(
    store: Arc<dyn Store>,
    playlist: FoundPlaylist,
    note: &str,
) -> Result<FoundPlaylist, StoreError> {
    let FoundPlaylist { rung, name, version, text: before, .. } = playlist;
    let noted = without_note(&before) + note;
    let (body, content_type) = (Bytes::from(noted.clone()), content_type::PLAYLIST);
    let object = Object { body, content_type, caching: Caching::None };
    let write = || store.replace_if(&name, object.clone(), Expected::Version(version));
    match retry(ATTEMPTS, write).await {
        Ok(version) => Ok(FoundPlaylist { rung, name, version, text: noted, fenced: true }),
        Err(StoreError::Changed) => {
            let Some(stored) = read(store, name.clone()).await? else {
                return Err(StoreError::Missing);
            };
            let text = text(&stored).unwrap_or_default();
            let fenced = text == noted;
            Ok(FoundPlaylist { rung, name, version: stored.version, text, fenced })
        }
        Err(error) => Err(error),
    }
}

fn past_of(found: &[FoundPlaylist]) -> Result<Past, ResumeError> {
    let parse =
        |found: &FoundPlaylist| Ok((found.rung.clone(), StoredPlaylist::parse(&found.rung, &found.text)?));
    let playlists: Result<Vec<_>, ResumeError> = found.iter().map(parse).collect();
    playlists.and_then(Past::new)
}

/// The playlist without takeover comments.
fn without_note(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with(NOTE)).collect()
}

/// Reads an object, and retries while the store is unavailable: the caller has a deadline.
async fn read(store: Arc<dyn Store>, name: ObjectName) -> Result<Option<Stored>, StoreError> {
    retry(ATTEMPTS, || store.read(&name)).await
}

/// The next result of several tasks; `None` when all are done.
async fn next<T: 'static>(tasks: &mut JoinSet<Result<T, StoreError>>) -> Result<Option<T>, Stop> {
    match tasks.join_next().await {
        None => Ok(None),
        Some(Ok(result)) => Ok(Some(result?)),
        Some(Err(error)) => Err(StoreError::Unavailable(error.to_string()).into()),
    }
}

fn text(stored: &Stored) -> Result<String, ResumeError> {
    String::from_utf8(stored.body.to_vec()).map_err(|_| ResumeError::NotWhole)
}

#[cfg(test)]
mod tests;
