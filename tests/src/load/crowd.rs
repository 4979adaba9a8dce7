//! A crowd of low-latency viewers on one thread, for servers between the encoder and viewers. Each viewer has one
//! HTTP/1.1 connection, follows one media playlist with blocking reloads and may fetch every listed part.
//!
//! Reference clients, each on a thread of its own, hold the same reloads at the encoder itself. The delays count from
//! the moment at which the first client of all, usually a reference client, has a version of a playlist. The crowd reads
//! thousands of responses on processors that the server needs too, so the delays are an upper bound for the server's.
//!
//! What does not belong here: which servers there are, and their CPU time and memory.

use super::follow::{Edge, parts};
use super::response::{Reader, Response};
use super::{Receipt, births, text};
use crate::http::join;
use crate::local_address;
use anyhow::{Context, ensure};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

/// What the viewers fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// Playlists alone.
    Playlists,
    /// Playlists, and every part that they list after the first one.
    Parts,
}

/// Settings of a run.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Ports of 127.0.0.1; the viewers are spread over them.
    pub ports: Vec<u16>,
    /// Paths of media playlists; the viewers are spread over them.
    pub playlists: Vec<String>,
    /// Number of viewers.
    pub viewers: usize,
    /// What they fetch.
    pub fetch: Fetch,
    /// Measuring time, once all viewers are connected.
    pub time: Duration,
}

/// Results of a run.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Versions of playlists that appeared during the measuring time.
    pub versions: usize,
    /// Seconds from the first receipt of a version by any client until a viewer has it, for each version and viewer.
    pub playlist_delays: Vec<f64>,
    /// Seconds from the same moment until the viewer has the version's new part; empty without [`Fetch::Parts`].
    pub part_delays: Vec<f64>,
    /// Versions that viewers never had, or whose part they never had, summed over viewers.
    pub missed: usize,
    /// Answers of the server during the measuring time.
    pub answers: u64,
    /// Answers with a status other than 200.
    pub refused: u64,
    /// Answers to blocking reloads with a playlist that is no newer than the one that the viewer had.
    pub stale: u64,
    /// Connections that broke or could not be made.
    pub broken: u64,
    /// Total size of their bodies in bytes.
    pub bytes: u64,
}

/// Viewers that connect per second: the server's backlog is not measured.
const CONNECTS_PER_SECOND: f64 = 1000.0;
/// Source addresses of the viewers: servers share their connections out among sources, and an address has only 28,000
/// ports for outgoing connections.
const SOURCES: usize = 100;
/// Time from an answer to the next reload: a viewer's round trip. It also keeps the crowd's own requests away from the
/// moment at which the server answers everyone.
const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Pause after an answer that brought nothing new, and after a connection broke.
const RETRY: Duration = Duration::from_secs(1);
/// Time-out of an answer, longer than any blocking reload is held.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time after the last viewer's first playlist, until all hold a reload.
const SETTLE: Duration = Duration::from_secs(3);
/// How long viewers go on after the measuring time.
const TAIL: Duration = Duration::from_secs(3);
/// Versions of a playlist that are kept parsed: a server may answer with a few different ones at a time.
const KEPT_VERSIONS: usize = 8;
/// Bytes read at a time, into one buffer for all viewers.
const READ_BYTES: usize = 64 * 1024;

/// A version of a playlist, parsed once for all viewers.
struct Version {
    /// The body as received.
    body: Vec<u8>,
    /// Media sequence number of the first incomplete segment, and number of its parts.
    at: (u64, u64),
    /// The request for the next version.
    next: Vec<u8>,
    /// Listed parts: place in the playlist, and the request for the part.
    parts: Vec<((u64, u64), Vec<u8>)>,
}

/// What all viewers share.
struct Shared {
    host: String,
    playlists: Vec<String>,
    fetch: Fetch,
    buffer: RefCell<Vec<u8>>,
    notes: RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    /// Per playlist: the last versions.
    versions: Vec<VecDeque<Rc<Version>>>,
    viewers: Vec<Log>,
    /// Viewers that have their first playlist.
    ready: usize,
    /// Answers so far, and the bytes of their bodies.
    answers: (u64, u64),
    seen: Seen,
}

/// What a viewer received when.
#[derive(Default)]
struct Log {
    playlist: usize,
    versions: Vec<Receipt>,
    /// Versions whose new parts have been received.
    parts: Vec<Receipt>,
}

/// Runs the crowd in front of servers of an encoder at `encoder`. Calls `once_ready` when all viewers hold a reload, and
/// `at_end` before they disconnect.
///
/// # Errors
/// Some viewers cannot connect or get no playlist in time, or the encoder does not answer the reference clients.
pub fn run(
    crowd: &Crowd,
    encoder: SocketAddr,
    once_ready: impl FnOnce(),
    at_end: impl FnOnce(),
) -> anyhow::Result<Seen> {
    let references = References::start(encoder, &crowd.playlists);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Rc::new(Shared {
        host: encoder.to_string(),
        playlists: crowd.playlists.clone(),
        fetch: crowd.fetch,
        buffer: RefCell::new(vec![0; READ_BYTES]),
        notes: RefCell::default(),
    });
    shared.notes.borrow_mut().versions = crowd.playlists.iter().map(|_| VecDeque::new()).collect();
    let local = LocalSet::new();
    let begin = local.block_on(&runtime, async {
        let viewers = gather(crowd, &shared);
        wait_until_ready(crowd, &shared).await?;
        tokio::time::sleep(SETTLE).await;
        once_ready();
        let (begin, before) = (Instant::now(), shared.notes.borrow().answers);
        tokio::time::sleep(crowd.time).await;
        at_end();
        let after = shared.notes.borrow().answers;
        tokio::time::sleep(TAIL).await;
        drop(viewers);
        let seen = &mut shared.notes.borrow_mut().seen;
        (seen.answers, seen.bytes) = (after.0 - before.0, after.1 - before.1);
        anyhow::Ok(begin)
    });
    drop(local);
    let references = references.stop();
    let begin = begin?;
    let notes = Rc::into_inner(shared).context("a viewer is left")?.notes.into_inner();
    Ok(delays(notes, &references?, begin, crowd))
}

fn gather(crowd: &Crowd, shared: &Rc<Shared>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for number in 0..crowd.viewers {
        let playlist = number % crowd.playlists.len();
        shared.notes.borrow_mut().viewers.push(Log { playlist, ..Log::default() });
        let viewer = Viewer {
            number,
            playlist,
            source: Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8),
            port: crowd.ports[number / crowd.playlists.len() % crowd.ports.len()],
            shared: Rc::clone(shared),
        };
        let starts_after = Duration::from_secs_f64(number as f64 / CONNECTS_PER_SECOND);
        tasks.spawn_local(async move {
            tokio::time::sleep(starts_after).await;
            viewer.run().await;
        });
    }
    tasks
}

async fn wait_until_ready(crowd: &Crowd, shared: &Shared) -> anyhow::Result<()> {
    let all = crowd.viewers;
    let limit = Instant::now() + Duration::from_secs_f64(all as f64 / CONNECTS_PER_SECOND) + ANSWER_TIME;
    while shared.notes.borrow().ready < all {
        let (ready, broken) = (shared.notes.borrow().ready, shared.notes.borrow().seen.broken);
        ensure!(
            Instant::now() < limit,
            "{ready} of {all} viewers have a playlist, {broken} connections broke"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Compares what the viewers received with the first receipt of each version that appeared during the measuring time.
fn delays(notes: Notes, references: &[Vec<Receipt>], begin: Instant, crowd: &Crowd) -> Seen {
    let mut seen = notes.seen;
    for (playlist, reference) in references.iter().enumerate() {
        let viewers: Vec<&Log> = notes.viewers.iter().filter(|log| log.playlist == playlist).collect();
        let mut logs: Vec<&[Receipt]> = viewers.iter().map(|log| log.versions.as_slice()).collect();
        logs.push(reference);
        for (version, born) in births(&logs) {
            if born < begin || born >= begin + crowd.time {
                continue;
            }
            seen.versions += 1;
            let after = |log: &[Receipt]| {
                let had = log.iter().find(|(had, _)| *had >= version);
                had.map(|(_, at)| at.saturating_duration_since(born).as_secs_f64())
            };
            for viewer in &viewers {
                let playlist = after(&viewer.versions);
                let part = after(&viewer.parts);
                seen.missed +=
                    usize::from(playlist.is_none() || crowd.fetch == Fetch::Parts && part.is_none());
                seen.playlist_delays.extend(playlist);
                seen.part_delays.extend(part);
            }
        }
    }
    seen
}

// === impl Version ===

impl Version {
    /// Parses a playlist; `None` if it is none or cannot be followed with blocking reloads.
    fn of(response: Response, path: &str, host: &str) -> anyhow::Result<Self> {
        let text = text(&response.body, response.gzip)?;
        let edge = Edge::of(&text).with_context(|| format!("{path} is no media playlist"))?;
        let query = edge.blocking_query().with_context(|| format!("{path} cannot be held"))?;
        let request = |part: super::follow::Part| {
            let url = join(&format!("http://{host}{path}"), &part.uri);
            let path = url.strip_prefix(&format!("http://{host}")).context("a part at another server")?;
            Ok(((part.msn, part.number), request(path, host)))
        };
        Ok(Self {
            at: (edge.msn, edge.parts),
            next: request_of_reload(path, &query, host),
            parts: parts(&text).into_iter().map(request).collect::<anyhow::Result<_>>()?,
            body: response.body,
        })
    }
}

fn request_of_reload(path: &str, query: &str, host: &str) -> Vec<u8> {
    request(&format!("{path}?{query}"), host)
}

/// A request as a browser sends it, as far as servers care. All viewers name the same host, as at a CDN.
fn request(target: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip\r\nOrigin: https://player.example\r\n\r\n"
    )
    .into_bytes()
}

// === impl Shared ===

impl Shared {
    /// Parses a playlist, unless this body has been parsed before.
    fn version(&self, playlist: usize, response: Response) -> anyhow::Result<Rc<Version>> {
        let known = &mut self.notes.borrow_mut().versions[playlist];
        if let Some(version) = known.iter().rev().find(|version| version.body == response.body) {
            return Ok(Rc::clone(version));
        }
        let version = Rc::new(Version::of(response, &self.playlists[playlist], &self.host)?);
        if known.len() >= KEPT_VERSIONS {
            known.pop_front();
        }
        known.push_back(Rc::clone(&version));
        Ok(version)
    }

    fn count(&self, response: &Response) {
        let mut notes = self.notes.borrow_mut();
        notes.answers.0 += 1;
        notes.answers.1 += response.body.len() as u64;
        notes.seen.refused += u64::from(response.status != 200);
    }
}

// === impl Viewer ===

struct Viewer {
    /// Index in the notes.
    number: usize,
    playlist: usize,
    source: Ipv4Addr,
    port: u16,
    shared: Rc<Shared>,
}

impl Viewer {
    /// Follows the playlist until the crowd is dispersed.
    async fn run(self) {
        let mut had = None;
        loop {
            let Err(_) = self.follow(&mut had).await;
            self.shared.notes.borrow_mut().seen.broken += 1;
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Follows the playlist on one connection.
    async fn follow(&self, had: &mut Option<Rc<Version>>) -> anyhow::Result<std::convert::Infallible> {
        let stream = local_address::connect(self.source, self.port).await?;
        stream.set_nodelay(true)?;
        let mut reader = Reader::default();
        let first = request(&self.shared.playlists[self.playlist], &self.shared.host);
        loop {
            let request = had.as_ref().map_or(&first, |version| &version.next);
            let response = self.ask(&stream, &mut reader, request).await?;
            if response.status != 200 {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let version = self.shared.version(self.playlist, response)?;
            let known = had.replace(Rc::clone(&version));
            let pause = match known {
                None => {
                    // The version existed before the viewer connected; when it appeared is unknown.
                    self.shared.notes.borrow_mut().ready += 1;
                    ROUND_TRIP
                }
                Some(known) if version.at <= known.at => {
                    self.shared.notes.borrow_mut().seen.stale += 1;
                    *had = Some(known);
                    RETRY
                }
                Some(known) => {
                    self.receive(&stream, &mut reader, &version, known.at).await?;
                    ROUND_TRIP
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes a version and fetches its parts from `had` on.
    async fn receive(
        &self,
        stream: &TcpStream,
        reader: &mut Reader,
        version: &Version,
        had: (u64, u64),
    ) -> anyhow::Result<()> {
        self.shared.notes.borrow_mut().viewers[self.number].versions.push((version.at, Instant::now()));
        if self.shared.fetch == Fetch::Playlists {
            return Ok(());
        }
        for (_, request) in version.parts.iter().filter(|(at, _)| *at >= had) {
            let response = self.ask(stream, reader, request).await?;
            if response.status != 200 {
                return Ok(());
            }
        }
        self.shared.notes.borrow_mut().viewers[self.number].parts.push((version.at, Instant::now()));
        Ok(())
    }

    async fn ask(&self, stream: &TcpStream, reader: &mut Reader, request: &[u8]) -> anyhow::Result<Response> {
        tokio::time::timeout(ANSWER_TIME, self.exchange(stream, reader, request)).await?
    }

    async fn exchange(
        &self,
        stream: &TcpStream,
        reader: &mut Reader,
        mut request: &[u8],
    ) -> anyhow::Result<Response> {
        while !request.is_empty() {
            match stream.try_write(request) {
                Ok(count) => request = &request[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => stream.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            stream.readable().await?;
            let buffer = &mut *self.shared.buffer.borrow_mut();
            let count = match stream.try_read(buffer) {
                Ok(0) => anyhow::bail!("the server closed the connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(response) = reader.read(&buffer[..count])? {
                self.shared.count(&response);
                return Ok(response);
            }
        }
    }
}

// === impl References ===

/// The reference clients: one for each playlist, at the encoder.
struct References {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<Vec<Receipt>>>>,
}

impl References {
    fn start(encoder: SocketAddr, playlists: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |path: &String| {
            let (path, stop) = (path.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                reference(encoder, &path, &stop).with_context(|| format!("reference client: {path}"))
            })
        };
        let threads = playlists.iter().map(thread).collect();
        Self { stop, threads }
    }

    /// Ends the clients; returns which versions they received when.
    fn stop(self) -> anyhow::Result<Vec<Vec<Receipt>>> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<_>| thread.join().ok().context("a reference client panicked")?;
        self.threads.into_iter().map(join).collect()
    }
}

/// Follows a playlist until `stop` is set.
fn reference(encoder: SocketAddr, path: &str, stop: &AtomicBool) -> anyhow::Result<Vec<Receipt>> {
    let mut stream = std::net::TcpStream::connect(encoder)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let host = encoder.to_string();
    let (mut reader, mut buffer) = (Reader::default(), vec![0; READ_BYTES]);
    let mut next = request(path, &host);
    let mut received = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&next)?;
        let response = loop {
            let count = stream.read(&mut buffer)?;
            ensure!(count > 0, "the encoder closed the connection");
            if let Some(response) = reader.read(&buffer[..count])? {
                break response;
            }
        };
        let at = Instant::now();
        ensure!(response.status == 200, "status {}", response.status);
        let version = Version::of(response, path, &host)?;
        received.push((version.at, at));
        next = version.next;
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_count_from_the_first_receipt_and_what_never_came_is_counted() {
        let origin = Instant::now();
        let ms = |ms| origin + Duration::from_millis(ms);
        let references = [vec![((7, 0), ms(0)), ((7, 1), ms(500)), ((8, 0), ms(1000))]];
        let mut notes = Notes::default();
        // One viewer skips a version, the other one misses the last version and a part.
        notes.viewers.push(Log {
            playlist: 0,
            versions: vec![((8, 0), ms(1020))],
            parts: vec![((8, 0), ms(1030))],
        });
        notes.viewers.push(Log { playlist: 0, versions: vec![((7, 1), ms(510))], parts: Vec::new() });
        let crowd = Crowd {
            ports: vec![1],
            playlists: vec!["p".into()],
            viewers: 2,
            fetch: Fetch::Parts,
            time: Duration::from_secs(2),
        };
        let seen = delays(notes, &references, ms(100), &crowd);
        let whole = |delays: &[f64]| delays.iter().map(|delay| (delay * 1e3).round()).collect::<Vec<_>>();
        assert_eq!(whole(&seen.playlist_delays), [520.0, 10.0, 20.0]);
        assert_eq!(whole(&seen.part_delays), [530.0, 30.0]);
        assert_eq!((seen.versions, seen.missed), (2, 2));
    }

    #[test]
    fn a_version_names_the_next_request_and_the_requests_for_its_parts() {
        let body = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n\
            #EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-MEDIA-SEQUENCE:41\n#EXTINF:1,\na.m4s\n\
            #EXT-X-PART:DURATION=0.5,URI=\"b.0.m4s\"\n"
            .to_vec();
        let response = Response { status: 200, gzip: false, cache_control: String::new(), body };
        let version = Version::of(response, "/live/x/360p/index.m3u8", "h:1").unwrap();
        assert_eq!(version.at, (42, 1));
        let starts = |request: &[u8], start: &str| assert!(request.starts_with(start.as_bytes()));
        starts(
            &version.next,
            "GET /live/x/360p/index.m3u8?_HLS_msn=42&_HLS_part=1 HTTP/1.1\r\nHost: h:1\r\n",
        );
        assert_eq!(version.parts[0].0, (42, 0));
        starts(&version.parts[0].1, "GET /live/x/360p/b.0.m4s HTTP/1.1\r\n");
    }
}
