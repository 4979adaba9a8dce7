//! The readiness of thousands of encoders, simulated: each has a loopback address of its own and answers `/readyz?follow`
//! as an encoder's admin port does. One listener serves all of them.

use crate::bench::raise_open_files;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Addresses for each value of the third byte.
const IN_A_BLOCK: usize = 250;

/// The encoders; dropping this value ends them.
pub struct ManyEncoders {
    shared: Arc<Shared>,
    port: u16,
    _runtime: Runtime,
}

struct Shared {
    encoders: Vec<watch::Sender<State>>,
    asked: AtomicU64,
    /// Whether they answer as encoders did before they could be followed.
    older: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    ready: bool,
    /// Counts the times that its connections were cut.
    cuts: u32,
}

impl ManyEncoders {
    /// So many encoders, none of them ready.
    pub fn start(count: usize) -> Self {
        Self::of(count, false)
    }

    /// Encoders that answer a question and nothing more.
    pub fn start_older(count: usize) -> Self {
        Self::of(count, true)
    }

    fn of(count: usize, older: bool) -> Self {
        raise_open_files(2 * count + 200).expect("room for a connection to each encoder");
        let encoders = (0..count).map(|_| watch::Sender::new(State { ready: false, cuts: 0 })).collect();
        let shared = Arc::new(Shared { encoders, asked: AtomicU64::new(0), older });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a port");
        let port = listener.local_addr().expect("a bound socket").port();
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, serving.clone()));
            }
        });
        Self { shared, port, _runtime: runtime }
    }

    /// `HOST:PORT,…` for `--encoders`.
    pub fn names(&self) -> String {
        let address = |number| SocketAddr::from((address(number), self.port)).to_string();
        (0..self.shared.encoders.len()).map(address).collect::<Vec<_>>().join(",")
    }

    /// Changes the readiness of an encoder.
    pub fn set(&self, number: usize, ready: bool) {
        self.shared.encoders[number].send_modify(|state| state.ready = ready);
    }

    /// Cuts the connections of an encoder, which goes on answering new ones.
    pub fn cut(&self, number: usize) {
        self.shared.encoders[number].send_modify(|state| state.cuts += 1);
    }

    /// Connections that have asked so far.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

fn address(number: usize) -> Ipv4Addr {
    let [block, within] =
        [number / IN_A_BLOCK, number % IN_A_BLOCK + 1].map(|n| u8::try_from(n).expect("few"));
    Ipv4Addr::new(127, 1, block, within)
}

/// Answers one connection; an error is the lobby's hanging up.
async fn answer(mut socket: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let SocketAddr::V4(own) = socket.local_addr().ok()? else { return None };
    let [_, _, block, within] = own.ip().octets();
    let number = usize::from(block) * IN_A_BLOCK + usize::from(within) - 1;
    let mut state = shared.encoders.get(number)?.subscribe();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    shared.asked.fetch_add(1, Ordering::Relaxed);
    let mut told = *state.borrow_and_update();
    let status = if told.ready { "200 OK" } else { "503 Service Unavailable" };
    if shared.older || !request.starts_with(b"GET /readyz?follow ") {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
        return socket.write_all(answer.as_bytes()).await.ok();
    }
    let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
    socket.write_all(head.as_bytes()).await.ok()?;
    let mut comments = interval(Duration::from_secs(15));
    comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    comments.tick().await;
    loop {
        let event = tokio::select! {
            _ = comments.tick() => ":\n\n".to_owned(),
            changed = state.changed() => {
                changed.ok()?;
                let now = *state.borrow_and_update();
                if now.cuts != told.cuts {
                    return None;
                }
                if now.ready == told.ready {
                    continue;
                }
                told = now;
                format!("data: {}\n\n", if now.ready { "ready" } else { "unready" })
            }
        };
        socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.ok()?;
    }
}
