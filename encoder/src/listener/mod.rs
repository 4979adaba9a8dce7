//! What both servers for strangers (publishers: [`crate::ingest`], viewers: [`crate::origin`]) do with a connection
//! before and around its protocol: wait for a file descriptor, learn the client's address from a proxy's header, enter
//! the table that shares the listener out among sources, and close what is evicted. Refusals are counted and logged in
//! `refusals`, the descriptors are shared out in [`descriptors`].
//!
//! What does not belong here: the rules (crate `listen`), the protocols, and what an admitted publisher costs.

pub(crate) mod descriptors;
mod header;
mod refusals;

use header::FirstBytes;
use ipnet::IpNet;
use listen::fairness::{Admitted, Bounds, ConnectionId, FairnessTable, Source};
use metrics::{Gauge, gauge};
use refusals::{Reason, Refusals};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tracing::debug;

/// Connections beyond the bound of the table that may be open at the same time: those that have just been accepted and
/// wait for their proxy's header, and those that have been evicted and are about to close. Further ones wait in the
/// listener's backlog.
pub(crate) const PASSING: usize = 32;

/// Sustained rate at which one source may open connections to a port for viewers, per second. A TLS handshake costs up
/// to a millisecond of processor time, so one source takes a quarter of a core at most.
const VIEWERS_PER_SECOND: f64 = 256.0;
/// Connections to a port for viewers that one source may open at once: all viewers behind a carrier's NAT or a CDN's
/// node return at the same time after an outage.
const VIEWERS_BURST: f64 = 8192.0;
/// As [`VIEWERS_PER_SECOND`], for publishers. While one source evicts its own connections at this rate, each of 256 gets
/// four seconds, and a publisher asks within one. A balancer without PROXY protocol is one source: its health checks,
/// once a second from each of some nodes, and its publishers fit in.
const PUBLISHERS_PER_SECOND: f64 = 64.0;
/// As [`VIEWERS_BURST`], for publishers: all that may wait, and all of them once more.
const PUBLISHERS_BURST: f64 = 512.0;

/// Which listener it is, and whose PROXY headers it reads.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The label of metrics and log lines.
    pub name: &'static str,
    /// The proxies that begin their connections with a PROXY header; `None` without that protocol.
    pub proxies: Option<Arc<[IpNet]>>,
}

/// Admits connections of one listener. Clones share the table.
#[derive(Clone)]
pub(crate) struct Limiter(Arc<Shared>);

struct Shared {
    settings: ListenerSettings,
    state: Mutex<State>,
    descriptors: Arc<Semaphore>,
    refusals: Refusals,
    open_gauge: Gauge,
    held_gauge: Gauge,
}

#[derive(Debug)]
struct State {
    table: FairnessTable,
    /// How each connection of the table is told that it has been evicted.
    signals: HashMap<ConnectionId, (Arc<Notify>, Source)>,
}

/// Room for one file descriptor, until it is dropped.
#[derive(Debug)]
pub(crate) struct Descriptor {
    _permit: OwnedSemaphorePermit,
}

/// A connection in the table, until it is dropped. Drop the socket first.
#[derive(Debug)]
pub(crate) struct TableEntry {
    /// The client's address; behind a trusted proxy that of the proxy's client.
    pub(crate) peer: SocketAddr,
    handle: EntryHandle,
    _descriptor: Descriptor,
}

/// Reports what a connection does. Has no effect once the connection has left the table.
#[derive(Clone, Debug)]
pub(crate) struct EntryHandle {
    limiter: Limiter,
    id: ConnectionId,
    source: Source,
    address: IpAddr,
    evicted: Arc<Notify>,
}

/// A held request, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldRequest {
    limiter: Limiter,
    source: Source,
}

// === impl ListenerSettings ===

impl ListenerSettings {
    /// A listener without proxies.
    pub const fn direct(name: &'static str) -> Self {
        Self { name, proxies: None }
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().flat_map(|proxies| proxies.iter()).any(|network| network.contains(&peer))
    }
}

// === impl Limiter ===

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// Bounds of a port for viewers. Requests are held two for each connection: a player of plain HLS holds one at most, a
/// low-latency player up to four for a part of the time, and a CDN's node one for all its viewers. One source may hold
/// half of them, so a NAT with 2,000 low-latency players fits in. A held request takes some kilobytes: 16,384 take less
/// than 100 MB.
pub(crate) fn viewers(connections: usize) -> Bounds {
    Bounds {
        total: connections,
        per_second: VIEWERS_PER_SECOND,
        burst: VIEWERS_BURST,
        held: 2 * connections,
        held_per_source: connections,
    }
}

/// Bounds of a port for publishers: of the connections that wait for admission.
pub(crate) fn publishers(waiting: usize) -> Bounds {
    let (per_second, burst) = (PUBLISHERS_PER_SECOND, PUBLISHERS_BURST);
    Bounds { total: waiting, per_second, burst, held: 0, held_per_source: 0 }
}

impl Limiter {
    pub(crate) fn new(settings: ListenerSettings, bounds: Bounds) -> Self {
        let state = State { table: FairnessTable::new(bounds), signals: HashMap::new() };
        let limiter = Self(Arc::new(Shared {
            descriptors: Arc::new(Semaphore::new(bounds.total + PASSING)),
            refusals: Refusals::new(settings.name),
            open_gauge: gauge!("encoder_connections_open", "listener" => settings.name),
            held_gauge: gauge!("encoder_held_requests", "listener" => settings.name),
            state: Mutex::new(state),
            settings,
        }));
        limiter.show(&limiter.lock());
        limiter
    }

    /// Waits for room for one more descriptor; evicted connections are about to close when there is none.
    pub(crate) async fn descriptor(&self) -> Descriptor {
        let permit = Arc::clone(&self.0.descriptors).acquire_owned().await;
        Descriptor { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Decides about an accepted connection. Waits for a trusted proxy's header, and reads no byte beyond the header.
    /// `None`: the connection is to be closed; refusals are counted.
    pub(crate) async fn enter(
        &self,
        socket: &mut TcpStream,
        peer: SocketAddr,
        descriptor: Descriptor,
    ) -> Option<TableEntry> {
        let Shared { settings, refusals, .. } = &*self.0;
        if settings.proxies.is_none() {
            return self.insert(peer, descriptor);
        }
        if !settings.is_proxy(peer.ip()) {
            let entry = self.insert(peer, descriptor)?;
            return tokio::select! {
                () = entry.evicted() => None,
                begins = header::begins_header(socket) => match begins {
                    false => Some(entry),
                    true => {
                        debug!(%peer, "a PROXY header from an address that is not in --trusted-proxies");
                        refusals.record(Reason::ProxyHeader, peer.ip().into());
                        None
                    }
                },
            };
        }
        match header::read(socket).await {
            FirstBytes::Client(client) => self.insert(client, descriptor),
            FirstBytes::Proxy => self.insert(peer, descriptor),
            FirstBytes::Silence => {
                debug!(%peer, "a proxy connected and said nothing");
                None
            }
            FirstBytes::Bad(error) => {
                debug!(%peer, %error, "a trusted proxy did not send a PROXY header");
                refusals.record(Reason::ProxyHeader, peer.ip().into());
                None
            }
        }
    }

    fn insert(&self, peer: SocketAddr, descriptor: Descriptor) -> Option<TableEntry> {
        let (source, evicted) = (Source::from(peer.ip()), Arc::new(Notify::new()));
        let mut state = self.lock();
        let Admitted { id, evicted: victim } =
            match state.table.enter(source, Instant::now(), fastrand::f64()) {
                Ok(admitted) => admitted,
                Err(refused) => {
                    drop(state);
                    self.0.refusals.record(refused.into(), source);
                    debug!(%peer, reason = Reason::from(refused).as_str(), "connection refused");
                    return None;
                }
            };
        state.signals.insert(id, (Arc::clone(&evicted), source));
        let victim = victim.and_then(|victim| state.signals.remove(&victim));
        self.show(&state);
        drop(state);
        if let Some((signal, source)) = victim {
            signal.notify_one();
            self.0.refusals.record(Reason::Evicted, source);
        }
        let handle = EntryHandle { limiter: self.clone(), id, source, address: peer.ip(), evicted };
        Some(TableEntry { peer, handle, _descriptor: descriptor })
    }

    /// Logs what was refused, one line a minute at most. Never resolves.
    pub(crate) async fn report(&self) {
        self.0.refusals.report().await;
    }

    fn show(&self, state: &State) {
        self.0.open_gauge.set(state.table.len() as f64);
        self.0.held_gauge.set(state.table.held() as f64);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The table panics nowhere; a panic elsewhere cannot leave it half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl TableEntry ===

impl TableEntry {
    /// Resolves when the connection has been evicted: close it. Pending once the entry is dropped.
    pub(crate) fn evicted(&self) -> impl Future<Output = ()> + Send + use<> {
        let evicted = Arc::clone(&self.handle.evicted);
        async move { evicted.notified().await }
    }

    /// Reports what the connection does.
    pub(crate) fn handle(&self) -> &EntryHandle {
        &self.handle
    }
}

impl Drop for TableEntry {
    fn drop(&mut self) {
        let EntryHandle { limiter, id, .. } = &self.handle;
        let mut state = limiter.lock();
        state.table.leave(*id, Instant::now());
        state.signals.remove(id);
        limiter.show(&state);
    }
}

// === impl EntryHandle, HeldRequest ===

impl EntryHandle {
    /// The client's address; behind a trusted proxy that of the proxy's client.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Bytes have come that count as progress.
    pub(crate) fn progress(&self) {
        self.limiter.lock().table.progress(self.id, Instant::now());
    }

    /// Something is in progress: the connection is evicted only when none is idle.
    pub(crate) fn busy(&self) {
        self.limiter.lock().table.busy(self.id, Instant::now());
    }

    /// Nothing is in progress any more.
    pub(crate) fn idle(&self) {
        self.limiter.lock().table.idle(self.id, Instant::now());
    }

    /// Counts a request that is held. `None` if there are too many, which is counted.
    pub(crate) fn hold(&self) -> Option<HeldRequest> {
        let mut state = self.limiter.lock();
        if state.table.hold(self.source, Instant::now()) {
            self.limiter.show(&state);
            return Some(HeldRequest { limiter: self.limiter.clone(), source: self.source });
        }
        drop(state);
        self.limiter.0.refusals.record(Reason::HeldRequest, self.source);
        None
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        state.table.release(self.source, Instant::now());
        self.limiter.show(&state);
    }
}

#[cfg(test)]
mod tests;
