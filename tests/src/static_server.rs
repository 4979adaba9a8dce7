//! A small web server for files: the reference streams that FFmpeg writes, and the minimal player page. It sends the
//! headers that the origin should send, so that the checker can be tested with a stream that breaks no rule.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A running file server; it stops when dropped.
pub struct StaticServer {
    address: SocketAddr,
    hidden: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StaticServer {
    /// Serves these folders, searched in this order, on a port that the kernel chooses.
    pub fn start(roots: Vec<PathBuf>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let hidden = Arc::new(Mutex::new(BTreeSet::new()));
        let (roots, stopped, hides) = (Arc::new(roots), stop.clone(), hidden.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), roots, hides) = (stream, roots.clone(), hides.clone()) else { continue };
                std::thread::spawn(move || {
                    let _ = serve(stream, &roots, &hides);
                });
            }
        });
        Ok(Self { address, hidden, stop, thread: Some(thread) })
    }

    /// Answers 404 for this file from now on.
    pub fn hide(&self, path: &str) {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    }

    /// URL of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for StaticServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, roots: &[PathBuf], hidden: &Mutex<BTreeSet<String>>) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(request) = lines.next().transpose()? else { return Ok(()) };
        let (mut gzip, mut range) = (false, None);
        for line in lines.by_ref() {
            let line = line?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            gzip |= line.starts_with("accept-encoding:") && line.contains("gzip");
            range = line.strip_prefix("range: bytes=").map(str::to_owned).or(range);
        }
        let path = request.split_whitespace().nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
        let path = path.trim_start_matches('/');
        let hides =
            hidden.lock().unwrap_or_else(PoisonError::into_inner).contains(path) || path.contains("..");
        let body = roots
            .iter()
            .map(|root| root.join(path))
            .filter(|_| !hides)
            .find_map(|file| std::fs::read(file).ok());
        let Some(mut body) = body else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let kind = content_type(path);
        let playlist = path.ends_with(".m3u8");
        let mut encoding = "";
        if playlist && gzip {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(&body)?;
            body = packed.finish()?;
            encoding = "Content-Encoding: gzip\r\n";
        }
        // A single range with a start, as browsers request media.
        let range = range.as_deref().and_then(|range| range.split_once('-'));
        let range =
            range.and_then(|(from, to)| Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok())));
        let whole = body.len();
        let (status, shown) = match range.filter(|(from, _)| *from < whole && !playlist) {
            Some((from, to)) => {
                let end = to.map_or(whole, |last| whole.min(last + 1));
                body = body.drain(from..end.max(from)).collect();
                ("206 Partial Content", format!("Content-Range: bytes {from}-{}/{whole}\r\n", end - 1))
            }
            None => ("200 OK", String::new()),
        };
        let cache = if playlist { "no-store" } else { "public, max-age=31536000, immutable" };
        write!(
            out,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: {kind}\r\nCache-Control: {cache}\r\n{encoding}\
             {shown}Accept-Ranges: bytes\r\nAccess-Control-Allow-Origin: *\r\n\r\n",
            body.len()
        )?;
        out.write_all(&body)?;
    }
}

fn content_type(path: &str) -> &'static str {
    match Path::new(path).extension().and_then(|e| e.to_str()) {
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("m4s") => "video/iso.segment",
        Some("mp4") => "video/mp4",
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        _ => "application/octet-stream",
    }
}
