//! The real binary: built once, started on free ports with a folder of its own, watched for panics and leaked keys.

use crate::http::{Client, Response};
use crate::patience::{self, eventually};
use crate::process::{self, ProcStat, Program};
use rustix::process::Signal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Name and key of the stream in most tests.
pub const STREAM: &str = "test";

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The binary under test: `ENCODER_BIN`, else built with cargo, in the profile `ENCODER_PROFILE` (default `dev`).
pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| match std::env::var_os("ENCODER_BIN") {
        Some(given) => given.into(),
        None => build(&std::env::var("ENCODER_PROFILE").unwrap_or_else(|_| "dev".into())),
    })
}

/// Makes [`binary`] answer this path; only before its first use.
pub fn use_binary(path: PathBuf) {
    let _ = BINARY.set(path);
}

/// Builds the encoder with cargo and answers where it is.
pub fn build(profile: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What users run is built for itself. For tests it is the whole workspace with its tests: then dependencies are
    // those that the tests were built with already.
    let selected: &[_] =
        if profile == "release" { &["--package", "encoder"] } else { &["--workspace", "--tests"] };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "encoder", "--profile", profile])
        .args(selected)
        .args(["--message-format", "json"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(
        built.status.success(),
        "the encoder does not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let artifacts = String::from_utf8_lossy(&built.stdout);
    let mut executables = artifacts.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "encoder").then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().expect("cargo names the executable it built")
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// How to start an encoder; ports and output folder are added.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--latency`, `--ladder` and the like.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Secrets that must not be logged.
    pub secrets: Vec<String>,
}

impl Default for Options {
    /// Latency 6 s (2 s segments or less), three rungs, back within 3 s or ended; told to leave, gone after 2 s even
    /// when a publisher stays.
    fn default() -> Self {
        let args = [
            ["--latency", "6"],
            ["--ladder", "720p@2800k,480p@1400k,360p@800k"],
            // The browser, the publisher and the judges share two processors with it.
            ["--preset", "superfast"],
            ["--reconnect-window", "3"],
            ["--drain-timeout", "2"],
        ];
        let args = args.concat();
        Self { args: args.into_iter().map(str::to_owned).collect(), env: Vec::new(), secrets: Vec::new() }
    }
}

impl Options {
    /// Sets a flag, replacing its default.
    pub fn set(mut self, flag: &str, value: &str) -> Self {
        match self.args.iter().position(|a| a == flag) {
            Some(at) => self.args[at + 1] = value.to_owned(),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }
}

/// Local ports of one encoder.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// RTMP.
    pub rtmp: u16,
    /// Public HTTP.
    pub http: u16,
    /// Internal HTTP.
    pub admin: u16,
}

/// A port that was free a moment ago. Below the kernel's range for outgoing connections, so that only another test
/// could take it in between; callers try again when one did.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() as u16).wrapping_mul(37);
    for _ in 0..RANGE.len() {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.start + spread.wrapping_add(step) % RANGE.len() as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

/// A running `encoder serve`.
pub struct Encoder {
    program: Program,
    options: Options,
    /// Where it listens.
    pub ports: Ports,
    /// Its `--output`, unless another was set.
    pub output: tempfile::TempDir,
    /// HTTP client for its endpoints.
    pub client: Client,
    /// From spawning the process to the first answer of `/readyz`, with a resolution of about a millisecond.
    pub started_in: Duration,
    checked: bool,
}

impl Encoder {
    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        for _ in 0..5 {
            if let Some(encoder) = Self::try_start(&options) {
                return encoder;
            }
        }
        panic!("five times in a row the chosen ports were taken");
    }

    #[track_caller]
    fn try_start(options: &Options) -> Option<Self> {
        let output = tempfile::tempdir().expect("a temporary folder");
        let ports = Ports { rtmp: free_port(), http: free_port(), admin: free_port() };
        let mut command = command(&ports);
        if !options.args.iter().any(|arg| arg == "--output") {
            command.arg("--output").arg(output.path());
        }
        command.args(&options.args).envs(options.env.iter().cloned());
        let spawned = Instant::now();
        let mut program = Program::spawn("encoder", &mut command);
        let client = Client::default();
        let ready = format!("http://127.0.0.1:{}/readyz", ports.admin);
        let limit = patience::patience(Duration::from_secs(10));
        loop {
            if client.get(&ready).is_ok_and(|r| r.status == 200) {
                break;
            }
            if let Some(status) = program.exited() {
                program.wait(Duration::from_secs(1));
                let log = program.output();
                if log.to_lowercase().contains("in use") {
                    return None;
                }
                panic!("the encoder ended with {status}:\n{log}");
            }
            assert!(spawned.elapsed() < limit, "not ready after {limit:?}:\n{}", program.output());
            patience::pause(Duration::from_millis(1));
        }
        let started_in = spawned.elapsed();
        Some(Self { program, options: options.clone(), ports, output, client, started_in, checked: false })
    }

    /// Where to publish.
    pub fn rtmp_url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.ports.rtmp)
    }

    /// A public URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.ports.http, path.trim_start_matches('/'))
    }

    /// The multivariant playlist of `live/{name}`.
    pub fn playlist_url(&self, name: &str) -> String {
        self.url(&format!("live/{name}/index.m3u8"))
    }

    /// GET on the internal port.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        let url = format!("http://127.0.0.1:{}/{}", self.ports.admin, path.trim_start_matches('/'));
        self.client.get(&url).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// A metric's value: the sum over all its label sets whose line contains every one of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("metrics").text().expect("metrics are text");
        text.lines()
            .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|l| labels.iter().all(|label| l.contains(label)))
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until the stream's multivariant playlist is there and every media playlist lists a segment.
    #[track_caller]
    pub fn wait_for_stream(&self, name: &str) -> String {
        let url = self.playlist_url(name);
        eventually(&format!("{url} with segments"), Duration::from_secs(30), || {
            let list = crate::playlist::multivariant(&self.client.get(&url).ok()?.text().ok()?).ok()?;
            let listed = list.playlists().iter().all(|p| {
                let media = self.client.get(&crate::http::join(&url, p)).ok().and_then(|r| r.text().ok());
                media.and_then(|t| crate::playlist::media(&t).ok()).is_some_and(|m| !m.segments.is_empty())
            });
            (listed && !list.variants.is_empty()).then_some(())
        });
        url
    }

    /// Log so far.
    pub fn log(&self) -> String {
        self.program.output()
    }

    /// Process ID of the supervisor.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Process IDs of its workers.
    pub fn workers(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// What /proc says of the supervisor.
    #[track_caller]
    pub fn stat(&self) -> ProcStat {
        process::stat(self.pid()).expect("the encoder runs")
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    /// Its exit status once it has ended, log checked; `None` after `wait` (stretched by patience).
    #[track_caller]
    pub fn wait(&mut self, wait: Duration) -> Option<std::process::ExitStatus> {
        let status = self.program.wait(wait)?;
        self.check_log();
        Some(status)
    }

    /// Ends it as an operator would and checks the log. A stream that still runs is given time to be sealed.
    #[track_caller]
    pub fn stop(mut self) -> String {
        let asked = self.program.stop(Duration::from_secs(20));
        let log = self.check_log();
        assert!(asked, "SIGTERM was not enough:\n{log}");
        log
    }

    #[track_caller]
    fn check_log(&mut self) -> String {
        self.checked = true;
        let log = self.program.output();
        assert!(!log.contains("panicked"), "a panic:\n{log}");
        for secret in &self.options.secrets {
            assert!(!log.contains(secret.as_str()), "a secret is in the log:\n{log}");
        }
        log
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln_log(&self.program.output());
            self.program.stop(Duration::from_secs(2));
        } else if !self.checked {
            self.program.stop(Duration::from_secs(10));
            self.check_log();
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows the encoder's log")]
fn eprintln_log(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    eprintln!(
        "--- the encoder's log, last 80 lines ---\n{}",
        lines[lines.len().saturating_sub(80)..].join("\n")
    );
}

/// `encoder serve` on these ports, nothing inherited that would change it.
pub fn command(ports: &Ports) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("ENCODER_")) {
            command.env_remove(name);
        }
    }
    command.arg("serve");
    for (flag, port) in
        [("--rtmp-listen", ports.rtmp), ("--http-listen", ports.http), ("--admin-listen", ports.admin)]
    {
        command.arg(flag).arg(format!("127.0.0.1:{port}"));
    }
    command
}
