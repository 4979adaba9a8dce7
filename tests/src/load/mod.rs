//! Thousands of viewers that only reload playlists, on one thread. Measures what blocking reloads or polling cost a
//! server, and how late the last viewer gets a new version. Media is not fetched: bytes load the network, not the
//! server's logic. [`crowd`] compares servers with one another: it is cheaper for each client and fetches parts too.
//!
//! The generator itself needs time to read thousands of responses, on processors that the server needs too. The delays
//! include that time: they are an upper bound for the server's own.

pub mod crowd;
mod follow;
pub mod response;

pub use follow::Edge;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// How clients learn of a new playlist version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Blocking reload with `_HLS_msn`, and `_HLS_part` if the playlist has parts.
    Blocking,
    /// Reload after a target duration, or after half of that if nothing changed (rfc8216bis 6.3.4).
    Polling,
}

/// Settings of a load run.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server's address.
    pub address: SocketAddr,
    /// Paths of media playlists; the clients are spread over them.
    pub playlists: Vec<String>,
    /// Number of clients.
    pub clients: usize,
    /// How the clients reload.
    pub reload: Reload,
    /// Measuring time, once all clients are connected.
    pub time: Duration,
}

/// Results of a load run.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Delays in seconds. For each playlist version that appeared during the measurement, and for each client: time
    /// from the first receipt of the version by any client until this client had that version or a later one.
    pub delays: Vec<f64>,
    /// Number of versions that the delays cover.
    pub versions: usize,
    /// Number of responses.
    pub answers: u64,
    /// Number of responses with a status other than 200.
    pub refused: u64,
    /// Number of connections that broke.
    pub broken: u64,
    /// Total size of the response bodies in bytes.
    pub bytes: u64,
}

/// Time over which the clients' starts are spread: the server's accept backlog is not measured.
const RAMP: Duration = Duration::from_secs(3);
/// Blocking clients per playlist that only record when a version appears: polling clients would notice too late. They
/// are not counted in the delays.
const WITNESSES: usize = 1;
/// How long clients go on receiving after the measuring time.
const TAIL: Duration = Duration::from_secs(3);
/// Time-out of a response, longer than any blocking reload.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Notes of all clients; the clients share one thread.
#[derive(Default)]
struct Notes {
    /// Per client: its playlist, whether it is a witness, and which version it received when.
    clients: Vec<(usize, bool, Vec<Receipt>)>,
    /// Last body of each playlist and its parsed edge: thousands of clients receive the same bytes.
    read: HashMap<usize, (Bytes, Option<Edge>)>,
    loaded: Loaded,
    /// Number of clients that have their first playlist.
    ready: usize,
}

/// A version (media sequence number and part count), and when a client received it.
type Receipt = ((u64, u64), Instant);

/// Runs the clients. Calls `once_ready` when all clients have a playlist, and `at_end` before they disconnect.
///
/// # Errors
/// Some clients cannot connect or get no playlist in time.
pub fn run(load: &Load, once_ready: impl FnOnce(), at_end: impl FnOnce()) -> anyhow::Result<Loaded> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let notes = Rc::new(RefCell::new(Notes::default()));
    let result = local.block_on(&runtime, async {
        let witnesses = load.playlists.len() * WITNESSES;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..witnesses + load.clients {
            let (witness, playlist) = (n < witnesses, n % load.playlists.len());
            notes.borrow_mut().clients.push((playlist, witness, Vec::new()));
            let client = Client {
                address: load.address,
                playlist,
                path: load.playlists[playlist].clone(),
                reload: if witness { Reload::Blocking } else { load.reload },
                number: n,
                notes: Rc::clone(&notes),
            };
            let starts_after = RAMP.mul_f64(n as f64 / (witnesses + load.clients) as f64);
            tasks.spawn_local(async move {
                tokio::time::sleep(starts_after).await;
                client.run().await
            });
        }
        let all = witnesses + load.clients;
        let limit = Instant::now() + RAMP + ANSWER_TIME;
        while notes.borrow().ready < all {
            ensure!(Instant::now() < limit, "{} of {all} clients have a playlist", notes.borrow().ready);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        once_ready();
        let begin = Instant::now();
        tokio::time::sleep(load.time).await;
        at_end();
        tokio::time::sleep(TAIL).await;
        Ok(begin)
    });
    drop(local);
    let begin = result?;
    let notes = Rc::into_inner(notes).context("a client is left")?.into_inner();
    let mut loaded = notes.loaded;
    for playlist in 0..load.playlists.len() {
        let clients: Vec<_> = notes.clients.iter().filter(|(of, ..)| *of == playlist).collect();
        let logs: Vec<&[Receipt]> = clients.iter().map(|(.., log)| log.as_slice()).collect();
        let counted: Vec<&[Receipt]> =
            clients.iter().filter(|(_, witness, _)| !witness).map(|(.., log)| log.as_slice()).collect();
        for (version, born) in births(&logs) {
            // Versions received at the start may have existed before; versions received at the end may not have reached
            // every client.
            if born >= begin && born < begin + load.time {
                loaded.versions += 1;
                loaded.delays.extend(delays(&counted, version, born));
            }
        }
    }
    Ok(loaded)
}

/// When any client first received each version.
fn births(logs: &[&[Receipt]]) -> BTreeMap<(u64, u64), Instant> {
    let mut births = BTreeMap::new();
    for (version, at) in logs.iter().copied().flatten() {
        let born = births.entry(*version).or_insert(*at);
        *born = (*born).min(*at);
    }
    births
}

/// Per client: seconds from the version's first receipt until the client had that version or a later one.
fn delays(logs: &[&[Receipt]], version: (u64, u64), born: Instant) -> impl Iterator<Item = f64> {
    let had = logs.iter().filter_map(move |log| log.iter().find(|(had, _)| *had >= version));
    had.map(move |(_, at)| at.saturating_duration_since(born).as_secs_f64())
}

struct Client {
    address: SocketAddr,
    playlist: usize,
    path: String,
    reload: Reload,
    /// The client's index in the notes.
    number: usize,
    notes: Rc<RefCell<Notes>>,
}

impl Client {
    /// Reloads until the stream ends.
    async fn run(self) {
        let mut had: Option<Edge> = None;
        loop {
            // A connection that broke or could not be made is counted and made again.
            if self.follow(&mut had).await.is_ok() {
                return;
            }
            self.notes.borrow_mut().loaded.broken += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn follow(&self, had: &mut Option<Edge>) -> anyhow::Result<()> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        loop {
            let query = match (self.reload, had.as_ref()) {
                (Reload::Blocking, Some(edge)) => edge.blocking_query(),
                (Reload::Blocking, None) | (Reload::Polling, _) => None,
            };
            let uri = query.as_ref().map_or(self.path.clone(), |query| format!("{}?{query}", self.path));
            let edge = tokio::time::timeout(ANSWER_TIME, self.ask(&mut sender, &uri)).await??;
            let known = *had;
            let is_new =
                edge.is_some_and(|edge| known.is_none_or(|k| (k.msn, k.parts) != (edge.msn, edge.parts)));
            if let Some(edge) = edge {
                if is_new {
                    self.note(edge, known.is_none());
                }
                *had = Some(edge);
                if edge.ended {
                    return Ok(());
                }
            }
            if query.is_none() || edge.is_none() {
                let target = Duration::from_secs(had.map_or(1, |edge| edge.target_duration));
                let first_of_blocking = self.reload == Reload::Blocking && known.is_none() && edge.is_some();
                if !first_of_blocking {
                    tokio::time::sleep(if is_new { target } else { target / 2 }).await;
                }
            }
        }
    }

    /// Sends one request; returns the version received, or `None` for a status other than 200.
    async fn ask(&self, sender: &mut SendRequest<Empty<Bytes>>, uri: &str) -> anyhow::Result<Option<Edge>> {
        sender.ready().await?;
        let request = hyper::Request::get(uri)
            .header("host", self.address.to_string())
            .header("accept-encoding", "gzip")
            .body(Empty::new())?;
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut notes = self.notes.borrow_mut();
        notes.loaded.answers += 1;
        notes.loaded.bytes += body.len() as u64;
        if head.status != 200 {
            notes.loaded.refused += 1;
            return Ok(None);
        }
        match notes.read.get(&self.playlist) {
            Some((same, edge)) if *same == body => Ok(*edge),
            _ => {
                let gzip = head.headers.get("content-encoding").is_some_and(|value| value == "gzip");
                let edge = Edge::of(&text(&body, gzip)?);
                notes.read.insert(self.playlist, (body, edge));
                Ok(edge)
            }
        }
    }

    fn note(&self, edge: Edge, first: bool) {
        let mut notes = self.notes.borrow_mut();
        if first {
            // This version existed before the client connected; when it appeared is unknown.
            notes.ready += 1;
            return;
        }
        notes.clients[self.number].2.push(((edge.msn, edge.parts), Instant::now()));
    }
}

fn text(body: &[u8], gzip: bool) -> anyhow::Result<String> {
    let mut text = String::new();
    if gzip {
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(body), &mut text)?;
    } else {
        text.push_str(std::str::from_utf8(body)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_skipped_a_version_had_it_with_the_next() {
        let origin = Instant::now();
        let ms = |ms| origin + Duration::from_millis(ms);
        let witness = [((7, 0), ms(0)), ((7, 1), ms(500)), ((8, 0), ms(1000))];
        let prompt = [((7, 1), ms(510)), ((8, 0), ms(1010))];
        let late = [((8, 0), ms(1700))];
        let logs: [&[Receipt]; 3] = [&witness, &prompt, &late];
        let births = births(&logs);
        assert_eq!(births.into_iter().collect::<Vec<_>>(), witness);
        let delays: Vec<f64> = delays(&logs[1..], (7, 1), ms(500)).map(|d| (d * 1e3).round()).collect();
        assert_eq!(delays, [10.0, 1200.0]);
    }
}
