//! Varnish as a CDN in front of an HTTP server: one copy of each object, requests for the same object at the same time
//! fetched once, nothing served beyond its lifetime (grace 0). Varnish sees no more of the server than any cache sees.

use crate::encoder_process::free_port;
use crate::patience::eventually;
use crate::process::{Program, listens};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Who says how long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The server, with Cache-Control.
    Server,
    /// This configuration: answers with status 200 to blocking reloads (`_HLS_msn` in the query) are kept for so long,
    /// even if the server forbids that. All other answers are kept as the server says.
    BlockingReloads(Duration),
}

/// How long Varnish waits for an answer's first byte and between two bytes: longer than any blocking reload is held
/// (three target durations).
pub const ANSWER_SECONDS: u64 = 60;
/// Memory for objects. It is for a benchmark's or a test's one stream.
const STORAGE: &str = "malloc,256m";

/// A running Varnish; it ends when dropped.
pub struct Varnish {
    program: Program,
    folder: tempfile::TempDir,
    port: u16,
}

impl Varnish {
    /// Starts Varnish on a free port of 127.0.0.1, in front of the HTTP server at `backend`.
    #[track_caller]
    pub fn start(backend: SocketAddr, freshness: Freshness) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let configuration = folder.path().join("cache.vcl");
        std::fs::write(&configuration, vcl(backend, freshness)).expect("the folder takes a file");
        let port = free_port();
        let mut program = Program::spawn("varnishd", &mut command(port, &configuration, folder.path()));
        // A C compiler translates the configuration first.
        eventually("Varnish's port", Duration::from_secs(30), || {
            if let Some(status) = program.exited() {
                panic!("varnishd ended with {status}:\n{}", program.output());
            }
            listens(port).then_some(())
        });
        Self { program, folder, port }
    }

    /// The port that serves viewers.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of a path at this cache.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.port, path.trim_start_matches('/'))
    }

    /// Process ID of the manager; its child process serves.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// The value of one of Varnish's counters: `backend_req` are requests to the server, `cache_hit` requests that were
    /// answered from the cache.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let work = self.folder.path().join("work");
        let asked =
            Command::new("varnishstat").args(["-1", "-f", &format!("MAIN.{name}"), "-n"]).arg(work).output();
        let text =
            String::from_utf8(asked.expect("varnishstat runs").stdout).expect("varnishstat prints text");
        let value = text.split_whitespace().nth(1).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("varnishstat has no counter '{name}': {text}"))
    }
}

impl Drop for Varnish {
    fn drop(&mut self) {
        // The manager ends its child and then itself.
        self.program.stop(Duration::from_secs(5));
    }
}

fn command(port: u16, configuration: &Path, folder: &Path) -> Command {
    let mut command = Command::new("varnishd");
    // In the foreground, without change of user and without a port for operators.
    command.args(["-F", "-j", "none", "-T", "none", "-a"]).arg(format!("127.0.0.1:{port}"));
    command.arg("-f").arg(configuration).arg("-n").arg(folder.join("work")).args(["-s", STORAGE]);
    // The log in shared memory would otherwise take 80 MiB of resident memory.
    command.args(["-p", "vsl_space=1m"]);
    command
}

/// The configuration. Varnish's built-in rules follow each subroutine that does not return: they fetch requests for the
/// same URL, query included, at the same time once, and do not keep what the server forbids to keep.
fn vcl(backend: SocketAddr, freshness: Freshness) -> String {
    let mut text = format!(
        r#"vcl 4.1;
backend server {{
    .host = "{}";
    .port = "{}";
    .connect_timeout = 2s;
    .first_byte_timeout = {ANSWER_SECONDS}s;
    .between_bytes_timeout = {ANSWER_SECONDS}s;
}}
sub vcl_recv {{
    # Nothing that is served depends on cookies; the built-in rules would pass requests with one to the server.
    unset req.http.Cookie;
}}
sub vcl_backend_response {{
    set beresp.grace = 0s;
    set beresp.keep = 0s;
"#,
        backend.ip(),
        backend.port()
    );
    if let Freshness::BlockingReloads(time) = freshness {
        let seconds = time.as_secs_f64();
        write!(
            text,
            "    if (beresp.status == 200 && bereq.url ~ \"[?&]_HLS_msn=\") {{\n        \
             set beresp.ttl = {seconds:.3}s;\n        return (deliver);\n    }}\n"
        )
        .expect("a String takes it");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Barrier;

    /// Answers every request with its path after a pause, with this Cache-Control. Ends with the test's process.
    fn slow_server(cache_control: &'static str, pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, cache_control, pause));
            }
        });
        address
    }

    fn answer(mut stream: TcpStream, cache_control: &str, pause: Duration) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(request) = lines.next().transpose()? {
            while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            crate::patience::pause(pause);
            let path = request.split(' ').nth(1).unwrap_or_default();
            let length = path.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nCache-Control: {cache_control}\r\nContent-Length: {length}\r\n\r\n{path}"
            )?;
        }
        Ok(())
    }

    /// Sends so many requests for one URL at the same time; returns how many reached the server.
    fn fetched(varnish: &Varnish, path: &str, requests: usize) -> u64 {
        let before = varnish.counter("backend_req");
        let barrier = Barrier::new(requests);
        std::thread::scope(|scope| {
            for _ in 0..requests {
                scope.spawn(|| {
                    barrier.wait();
                    let answer = Client::default().get(&varnish.url(path)).unwrap();
                    assert_eq!((answer.status, answer.text().unwrap()), (200, format!("/{path}")));
                });
            }
        });
        varnish.counter("backend_req") - before
    }

    #[test]
    fn requests_for_one_object_are_fetched_once() {
        let pause = Duration::from_millis(300);
        let varnish = Varnish::start(slow_server("public, max-age=60", pause), Freshness::Server);
        assert_eq!(fetched(&varnish, "a?_HLS_msn=7&_HLS_part=1", 20), 1);
        assert_eq!(fetched(&varnish, "a?_HLS_msn=7&_HLS_part=1", 1), 0);
        // The query is part of the key.
        assert_eq!(fetched(&varnish, "a?_HLS_msn=7&_HLS_part=2", 1), 1);
    }

    #[test]
    fn what_may_not_be_kept_is_fetched_for_each_unless_the_configuration_says_otherwise() {
        let (path, pause) = ("a?_HLS_msn=7&_HLS_part=1", Duration::from_millis(100));
        let obedient = Varnish::start(slow_server("no-store", pause), Freshness::Server);
        assert_eq!(fetched(&obedient, path, 5), 5);
        let own = Freshness::BlockingReloads(Duration::from_secs(6));
        let disobedient = Varnish::start(slow_server("no-store", pause), own);
        assert_eq!(fetched(&disobedient, path, 5), 1);
        assert_eq!(fetched(&disobedient, "a", 2) + fetched(&disobedient, "a", 2), 4);
    }
}
