//! A running `encoder edge`, as [`crate::encoder_process`] runs the encoder.

use crate::encoder_process::{free_port, metric, subcommand};
use crate::http::{Client, Response};
use crate::patience::eventually;
use crate::process::Program;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;

/// The secret that encoders and edges share in tests.
pub const EDGE_SECRET: &str = "a secret of encoders and edges";

/// A file with [`EDGE_SECRET`].
pub fn secret_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), format!("{EDGE_SECRET}\n")).expect("the file takes a line");
    file
}

/// A running edge.
pub struct Edge {
    program: Program,
    /// The port for viewers.
    pub http: u16,
    /// The port for operators.
    pub admin: u16,
    client: Client,
    checked: bool,
}

impl Edge {
    /// Starts an edge with these arguments and waits until it is ready.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let (http, admin) = (free_port(), free_port());
        let mut command = subcommand("edge");
        command.arg("--http-listen").arg(format!("127.0.0.1:{http}"));
        command.arg("--admin-listen").arg(format!("127.0.0.1:{admin}"));
        let mut program = Program::spawn("edge", command.args(args));
        let client = Client::default();
        eventually("the edge to be ready", Duration::from_secs(10), || {
            if let Some(status) = program.exited() {
                panic!("the edge ended with {status}:\n{}", program.output());
            }
            client.get(&format!("http://127.0.0.1:{admin}/readyz")).ok().filter(|answer| answer.status == 200)
        });
        Self { program, http, admin, client, checked: false }
    }

    /// The address for viewers.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http))
    }

    /// URL on the port for viewers.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address(), path.trim_start_matches('/'))
    }

    /// URL of the multivariant playlist of `live/{name}`.
    pub fn playlist_url(&self, name: &str) -> String {
        self.url(&format!("live/{name}/index.m3u8"))
    }

    /// Sends a GET to the port for viewers.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.client.get(&self.url(path)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Sends a GET to the port for operators.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        let url = format!("http://127.0.0.1:{}/{path}", self.admin);
        self.client.get(&url).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// A metric's value: the sum over all label sets whose line contains every string in `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.admin("metrics"), name, labels)
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.program.output()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Waits for the edge to exit with code 0, and checks its log.
    #[track_caller]
    pub fn wait(&mut self, wait: Duration) {
        let status = self.program.wait(wait);
        let log = self.check_log();
        assert!(status.is_some_and(|status| status.success()), "{status:?}:\n{log}");
    }

    /// Kills the edge without notice.
    pub fn kill(mut self) {
        self.program.signal(Signal::KILL);
        self.program.wait(Duration::from_secs(5));
        self.check_log();
    }

    /// Stops the edge as a platform would, and returns its log, which has been checked.
    #[track_caller]
    pub fn stop(mut self) -> String {
        let asked = self.program.stop(Duration::from_secs(45));
        let log = self.check_log();
        assert!(asked, "SIGTERM was not enough:\n{log}");
        log
    }

    #[track_caller]
    fn check_log(&mut self) -> String {
        self.checked = true;
        let log = self.program.output();
        assert!(!log.contains("panicked"), "a panic:\n{log}");
        assert!(!log.contains(EDGE_SECRET), "a secret is in the log:\n{log}");
        log
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if self.checked {
            return;
        }
        // SIGINT ends the wait for balancers.
        self.program.signal(Signal::TERM);
        self.program.signal(Signal::INT);
        self.program.stop(Duration::from_secs(10));
        if !std::thread::panicking() {
            self.check_log();
        }
    }
}
