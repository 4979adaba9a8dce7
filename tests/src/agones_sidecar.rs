//! A sidecar that speaks the HTTP of the Agones SDK (`sdk.proto`): takes calls, remembers them, can be gone for a while.

use crate::patience::eventually;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running sidecar; gone when dropped.
pub struct Sidecar {
    port: u16,
    calls: Arc<Mutex<Vec<(Instant, String)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sidecar {
    /// On a port chosen by the system.
    pub fn start() -> Self {
        Self::at(0)
    }

    /// On that port, as a restarted sidecar would be.
    #[track_caller]
    pub fn at(port: u16) -> Self {
        let listener = eventually("the sidecar's port", Duration::from_secs(5), || {
            TcpListener::bind(("127.0.0.1", port)).ok()
        });
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (calls, stop) = (calls.clone(), stop.clone());
            std::thread::spawn(move || {
                for socket in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    if let Some(call) = socket.ok().and_then(|socket| answer(&socket)) {
                        calls.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), call));
                    }
                }
            })
        };
        Self { port, calls, stop, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every call so far, as `POST /ready`.
    pub fn calls(&self) -> Vec<(Instant, String)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls about the state, in order: all but health.
    pub fn states(&self) -> Vec<String> {
        self.calls().into_iter().map(|(_, call)| call).filter(|call| call != "POST /health").collect()
    }

    /// When it was pinged.
    pub fn pings(&self) -> Vec<Instant> {
        self.calls().into_iter().filter(|(_, call)| call == "POST /health").map(|(at, _)| at).collect()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it from accepting.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Method and path of a request that is good: a body of JSON, as the gateway before the real SDK wants it.
fn answer(mut socket: &TcpStream) -> Option<String> {
    socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut reader = BufReader::new(socket);
    let mut head = String::new();
    reader.read_line(&mut head).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let good = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body.is_object());
    let answer = if good { "200 OK" } else { "400 Bad Request" };
    let answer =
        format!("HTTP/1.1 {answer}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    socket.write_all(answer.as_bytes()).ok()?;
    good.then(|| head.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
