//! A table of a listener's connections: which newcomer is refused, and which connection is evicted, when there are too
//! many. The unit of fairness is the [`Source`], an address that one party holds.
//!
//! The rules, in the order in which a newcomer meets them:
//!
//! 1. **Rate**: a source opens [`Bounds::burst`] connections without a pause, and after that [`Bounds::per_second`].
//! 2. **Room**: below three quarters of [`Bounds::total`] every newcomer is admitted, whatever its source holds. There
//!    is no bound for each source, because thousands of viewers behind one address (a mobile carrier's NAT) and a CDN's
//!    or reverse proxy's hundreds of connections are honest.
//! 3. **Early drop**: above that, newcomers of a source that holds at least the average are refused at random. The
//!    probability grows with the source's share of the connections and with the fill, up to one half. So an honest
//!    client that shares an address with an attacker needs two attempts on average.
//! 4. **Eviction**: at the bound the longest idle connection of the source with the most connections is evicted; of
//!    several sources with equally many, the longest idle connection of all. So a source below the average is always
//!    admitted, and a source with many connections loses its own first. A busy connection is evicted only when no
//!    connection is idle.
//!
//! Sockets, clocks and random numbers do not belong here, nor what the connections are used for.

use crate::bucket::{Rate, TokenBucket};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

/// Highest probability of an early drop.
const MAX_DROP: f64 = 0.5;

/// A party, as far as addresses tell: an IPv4 address, or the /64 of an IPv6 address, within which one party chooses
/// addresses as it likes. An IPv4-mapped IPv6 address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

/// What a listener has room for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Most connections, at least 1.
    pub total: usize,
    /// Connections a second that one source may open for long.
    pub per_second: f64,
    /// Connections that one source may open at once, at least 1.
    pub burst: f64,
    /// Most held requests.
    pub held: usize,
    /// Most held requests of one source.
    pub held_per_source: usize,
}

/// A connection in the table. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// A newcomer that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The newcomer.
    pub id: ConnectionId,
    /// The connection that has left the table to make room: the caller closes it.
    pub evicted: Option<ConnectionId>,
}

/// Why a newcomer is refused. It may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The source opens connections too fast.
    Rate,
    /// At random, because there is little room and the source holds many connections.
    EarlyDrop,
    /// There is no room, and only sources that hold fewer connections could make some.
    Full,
}

/// The table. Its memory is bounded by [`Bounds::total`], whatever the number of sources.
#[derive(Debug)]
pub struct FairnessTable {
    bounds: Bounds,
    connections: HashMap<ConnectionId, Connection>,
    /// Sources with connections or held requests, and sources whose bucket is not full yet.
    sources: HashMap<Source, SourceState>,
    /// The sources with connections, in the order in which their connections are evicted: the last source first.
    ranks: BTreeSet<Rank>,
    /// The sources without connections and held requests, by the time at which their bucket is full and they are
    /// forgotten. At most [`Bounds::total`]: of more, those whose bucket is full first are forgotten early.
    leaving: BTreeSet<(Instant, Source)>,
    held: usize,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    source: Source,
    busy: bool,
    /// When the connection became busy or idle, or last made progress.
    since: Instant,
}

#[derive(Debug)]
struct SourceState {
    idle: BTreeSet<(Instant, ConnectionId)>,
    busy: BTreeSet<(Instant, ConnectionId)>,
    held: usize,
    /// Connections that may be opened now.
    bucket: TokenBucket,
    /// The key in [`FairnessTable::leaving`].
    full_at: Option<Instant>,
}

/// The position of a source. First come sources with an idle connection, then those with the most connections, then the
/// source whose connection is idle for longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    has_idle: bool,
    connections: usize,
    oldest: Reverse<Instant>,
    source: Source,
}

// === impl Bounds ===

impl Bounds {
    fn rate(&self) -> Rate {
        Rate { burst: self.burst, per_second: self.per_second }
    }
}

// === impl Source ===

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

// === impl SourceState ===

impl SourceState {
    fn new(bounds: &Bounds, now: Instant) -> Self {
        Self {
            idle: BTreeSet::new(),
            busy: BTreeSet::new(),
            held: 0,
            bucket: TokenBucket::full(bounds.rate(), now),
            full_at: None,
        }
    }

    fn connections(&self) -> usize {
        self.idle.len() + self.busy.len()
    }

    /// The connection that is evicted first.
    fn oldest(&self) -> Option<(Instant, ConnectionId)> {
        self.idle.first().or_else(|| self.busy.first()).copied()
    }

    fn rank(&self, source: Source) -> Option<Rank> {
        let (oldest, _) = self.oldest()?;
        let (has_idle, connections) = (!self.idle.is_empty(), self.connections());
        Some(Rank { has_idle, connections, oldest: Reverse(oldest), source })
    }

    fn of_kind(&mut self, busy: bool) -> &mut BTreeSet<(Instant, ConnectionId)> {
        if busy { &mut self.busy } else { &mut self.idle }
    }
}

// === impl FairnessTable ===

impl FairnessTable {
    /// An empty table.
    ///
    /// # Panics
    /// `bounds.total` is 0, or `bounds.burst` is below 1.
    pub fn new(bounds: Bounds) -> Self {
        assert!(bounds.total > 0 && bounds.burst >= 1.0, "no listener has room for less than one connection");
        Self {
            bounds,
            connections: HashMap::new(),
            sources: HashMap::new(),
            ranks: BTreeSet::new(),
            leaving: BTreeSet::new(),
            held: 0,
            next: 0,
        }
    }

    /// Number of connections; never above [`Bounds::total`].
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Number of held requests; never above [`Bounds::held`].
    pub fn held(&self) -> usize {
        self.held
    }

    /// Number of sources that the table remembers.
    #[cfg(test)]
    fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Decides about a new connection, which is idle at first. `chance` is a random number in 0.0..1.0.
    ///
    /// # Errors
    /// The connection is refused.
    pub fn enter(&mut self, source: Source, now: Instant, chance: f64) -> Result<Admitted, Refused> {
        self.forget(now);
        let held = self.sources.get(&source).map_or(0, SourceState::connections);
        self.take_token(source, now)?;
        let verdict = self.judge(held, chance);
        let evicted = match verdict {
            Ok(evicted) => evicted,
            Err(refused) => {
                self.settle(source);
                return Err(refused);
            }
        };
        if let Some(evicted) = evicted {
            self.leave(evicted, now);
        }
        let id = ConnectionId(self.next);
        self.next += 1;
        self.connections.insert(id, Connection { source, busy: false, since: now });
        self.change(source, now, |state| {
            state.idle.insert((now, id));
        });
        Ok(Admitted { id, evicted })
    }

    /// A newcomer takes a token even if it is refused afterwards, so that refusals do not make attempts free.
    fn take_token(&mut self, source: Source, now: Instant) -> Result<(), Refused> {
        let bounds = self.bounds;
        let state = self.sources.entry(source).or_insert_with(|| SourceState::new(&bounds, now));
        if let Some(full_at) = state.full_at.take() {
            self.leaving.remove(&(full_at, source));
        }
        let taken = state.bucket.take(bounds.rate(), now);
        if !taken {
            self.settle(source);
        }
        taken.then_some(()).ok_or(Refused::Rate)
    }

    /// Decides about a newcomer whose source has `held` connections: the connection to evict, if there is no room.
    fn judge(&self, held: usize, chance: f64) -> Result<Option<ConnectionId>, Refused> {
        let (open, total) = (self.connections.len(), self.bounds.total);
        let soft = total - total / 4;
        if open < soft {
            return Ok(None);
        }
        // The average is `open / ranks.len()`.
        let is_below_average = held * self.ranks.len() < open;
        if !is_below_average && chance < self.drop_probability(held, soft) {
            return Err(Refused::EarlyDrop);
        }
        if open < total {
            return Ok(None);
        }
        let first = self.ranks.last().filter(|rank| is_below_average || rank.connections >= held);
        let state = first.and_then(|rank| self.sources.get(&rank.source));
        let (_, evicted) = state.and_then(SourceState::oldest).ok_or(Refused::Full)?;
        Ok(Some(evicted))
    }

    fn drop_probability(&self, held: usize, soft: usize) -> f64 {
        let (open, total) = (self.connections.len(), self.bounds.total);
        let share = held as f64 / open.max(1) as f64;
        let fill = (open - soft + 1) as f64 / (total - soft + 1) as f64;
        MAX_DROP * share * fill
    }

    /// The connection received something that counts as progress: it is idle from now on only. No effect on a busy
    /// connection.
    pub fn progress(&mut self, id: ConnectionId, now: Instant) {
        if self.connections.get(&id).is_some_and(|connection| !connection.busy) {
            self.set(id, false, now);
        }
    }

    /// The connection has something in progress.
    pub fn busy(&mut self, id: ConnectionId, now: Instant) {
        self.set(id, true, now);
    }

    /// The connection has nothing in progress any more.
    pub fn idle(&mut self, id: ConnectionId, now: Instant) {
        self.set(id, false, now);
    }

    fn set(&mut self, id: ConnectionId, busy: bool, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = std::mem::replace(connection, Connection { busy, since: now, ..*connection });
        self.change(before.source, now, |state| {
            state.of_kind(before.busy).remove(&(before.since, id));
            state.of_kind(busy).insert((now, id));
        });
    }

    /// Removes a connection. No effect if it was removed before, as evicted ones are. Returns whether it was there.
    pub fn leave(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(connection) = self.connections.remove(&id) else { return false };
        self.change(connection.source, now, |state| {
            state.of_kind(connection.busy).remove(&(connection.since, id));
        });
        true
    }

    /// Counts a held request, until [`FairnessTable::release`]. `false` if there are too many: nothing is counted.
    pub fn hold(&mut self, source: Source, now: Instant) -> bool {
        let of_source = self.sources.get(&source).map_or(0, |state| state.held);
        let has_room = self.held < self.bounds.held && of_source < self.bounds.held_per_source;
        if has_room {
            self.held += 1;
            self.change(source, now, |state| state.held += 1);
        }
        has_room
    }

    /// Ends a held request that was counted.
    pub fn release(&mut self, source: Source, now: Instant) {
        if self.sources.get(&source).is_some_and(|state| state.held > 0) {
            self.held -= 1;
            self.change(source, now, |state| state.held -= 1);
        }
    }

    /// Changes a source and keeps its rank.
    fn change(&mut self, source: Source, now: Instant, change: impl FnOnce(&mut SourceState)) {
        let bounds = self.bounds;
        let state = self.sources.entry(source).or_insert_with(|| SourceState::new(&bounds, now));
        if let Some(full_at) = state.full_at.take() {
            self.leaving.remove(&(full_at, source));
        }
        let before = state.rank(source);
        change(state);
        let after = state.rank(source);
        if before != after {
            before.map(|rank| self.ranks.remove(&rank));
            after.map(|rank| self.ranks.insert(rank));
        }
        self.settle(source);
    }

    /// Forgets a source that has no connections and no held requests, now or once its bucket is full.
    fn settle(&mut self, source: Source) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        if state.connections() > 0 || state.held > 0 {
            return;
        }
        let Some(full_at) = state.bucket.full_at(self.bounds.rate()) else {
            self.sources.remove(&source);
            return;
        };
        state.full_at = Some(full_at);
        self.leaving.insert((full_at, source));
        if self.leaving.len() > self.bounds.total
            && let Some((_, source)) = self.leaving.pop_first()
        {
            self.sources.remove(&source);
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(full_at, source)) = self.leaving.first()
            && full_at <= now
        {
            self.leaving.pop_first();
            self.sources.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests;
