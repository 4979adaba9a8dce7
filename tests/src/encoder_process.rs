//! The real binary: built once, started on free ports with its own folder. Every log is searched for panics and leaked
//! keys, and every encoder is judged by what it has put right in silence ([`crate::upsets`]).

use crate::http::{Client, Response};
use crate::patience::{self, eventually};
use crate::process::{self, ProcStat, Program};
use crate::upsets::Expectations;
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Stream name of most tests, and the key where encoders know no keys.
pub const STREAM: &str = "test";
/// The key that proves that the name [`STREAM`] is the publisher's own, with [`Options::with_keys`].
pub const KEY: &str = "secret-of-test";

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Path of the binary under test: `ENCODER_BIN`, or a build by cargo in the profile `ENCODER_PROFILE` (default `dev`).
pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| match std::env::var_os("ENCODER_BIN") {
        Some(given) => given.into(),
        None => build(&std::env::var("ENCODER_PROFILE").unwrap_or_else(|_| "dev".into())),
    })
}

/// Makes [`binary`] return this path. Has an effect only before the first use of [`binary`].
pub fn use_binary(path: PathBuf) {
    let _ = BINARY.set(path);
}

/// Builds the encoder with cargo and returns the binary's path.
pub fn build(profile: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // A release build, as users run it, builds the encoder alone. For tests the whole workspace is built with its
    // tests, so that cargo reuses the dependencies the tests were built with.
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
        let is_program = message["target"]["name"] == "encoder" && message["profile"]["test"] == false;
        is_program.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().expect("cargo names the executable it built")
}

/// Root folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Settings for starting an encoder; ports and output folder are added at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Command-line arguments: `--latency`, `--ladder` and so on.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Strings that must not appear in the log.
    pub secrets: Vec<String>,
    /// Whether the admin port listens on all addresses of the machine, and not on 127.0.0.1 alone.
    pub all_admin_addresses: bool,
    /// The hard limit of open files; inherited if not set.
    pub open_files: Option<u32>,
    /// What the test lets go wrong.
    pub expectations: Expectations,
}

impl Default for Options {
    /// Latency 6 s (segments of 2 s or less), three rungs, a reconnect window of 3 s, and a drain time-out of 2 s,
    /// after which the encoder exits even if a publisher stays.
    fn default() -> Self {
        let args = [
            ["--latency", "6"],
            ["--ladder", "720p@2800k,480p@1400k,360p@800k"],
            // Browser, publisher and checkers share two processors with the encoder.
            ["--preset", "superfast"],
            ["--reconnect-window", "3"],
            ["--drain-timeout", "2"],
        ];
        let args = args.concat();
        Self {
            args: args.into_iter().map(str::to_owned).collect(),
            env: Vec::new(),
            secrets: Vec::new(),
            all_admin_addresses: false,
            open_files: None,
            expectations: Expectations::default(),
        }
    }
}

impl Options {
    /// Lets publishers prove who they are with the keys in `tests/keys.toml`.
    pub fn with_keys(mut self) -> Self {
        let file = workspace().join("tests/keys.toml");
        self.secrets.push(KEY.to_owned());
        self.set("--publish-keys", file.to_str().expect("a path in UTF-8"))
    }

    /// These counters of upsets rise in this test.
    #[track_caller]
    pub fn expecting(mut self, counters: &[&'static str]) -> Self {
        self.expectations.expect(counters);
        self
    }

    /// These counters of upsets may rise in this test.
    #[track_caller]
    pub fn allowing(mut self, counters: &[&'static str]) -> Self {
        self.expectations.allow(counters);
        self
    }

    /// Warnings and errors that contain one of these texts may be in the log.
    pub fn logging(mut self, texts: &[&'static str]) -> Self {
        self.expectations.allow_lines(texts);
        self
    }

    /// Upsets are not judged: for benchmarks, which load a machine until it shows.
    pub fn unjudged(mut self) -> Self {
        self.expectations.leave_unjudged();
        self
    }

    /// Sets a flag; replaces its default.
    pub fn set(mut self, flag: &str, value: &str) -> Self {
        match self.args.iter().position(|a| a == flag) {
            Some(at) => self.args[at + 1] = value.to_owned(),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
        self
    }
}

/// The local ports of one encoder.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// RTMP port.
    pub rtmp: u16,
    /// Public HTTP port.
    pub http: u16,
    /// Admin HTTP port.
    pub admin: u16,
}

/// A port that is free, and stays this process's own until the process ends: programs that tests start close and open
/// their ports, and tests run side by side. Ports come from below the kernel's range for outgoing connections.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let spread = (std::process::id() as u16).wrapping_mul(37);
    for _ in 0..RANGE.len() {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.start + spread.wrapping_add(step) % RANGE.len() as u16;
        let Ok(claim) = claim(port) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            lock(&CLAIMS).push(claim);
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

/// Claims a port among all processes of tests. The kernel gives a name of this kind to one process at a time, and frees
/// the name with the process.
fn claim(port: u16) -> std::io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("encoder-tests.port.{port}"))?)
}

/// Waits until the multivariant playlist at this URL exists and every media playlist that it names lists a segment.
#[track_caller]
pub fn wait_until_listed(url: &str) {
    let client = Client::default();
    eventually(&format!("{url} with segments"), Duration::from_secs(30), || {
        let list = crate::playlist::multivariant(&client.get(url).ok()?.text().ok()?).ok()?;
        let listed = list.playlists().iter().all(|p| {
            let media = client.get(&crate::http::join(url, p)).ok().and_then(|r| r.text().ok());
            media.and_then(|t| crate::playlist::media(&t).ok()).is_some_and(|m| !m.segments.is_empty())
        });
        (listed && !list.variants.is_empty()).then_some(())
    });
}

/// A running `encoder serve`.
pub struct Encoder {
    program: Program,
    options: Options,
    /// Ports that the encoder listens on.
    pub ports: Ports,
    /// The folder passed as `--output`, unless the options set another.
    pub output: tempfile::TempDir,
    /// HTTP client for the encoder's endpoints.
    pub client: Client,
    /// Time from spawning the process to the first successful `/readyz`, with a resolution of about a millisecond.
    pub started_in: Duration,
    expectations: Mutex<Expectations>,
    /// The last answer of `/metrics` before the encoder was told to end.
    last_metrics: Mutex<Option<String>>,
    checked: bool,
    is_log_shown: bool,
}

impl Encoder {
    /// Starts an encoder and waits until it is ready.
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
        let mut command =
            command_on(&ports, if options.all_admin_addresses { "0.0.0.0" } else { "127.0.0.1" });
        if !options.args.iter().any(|arg| arg == "--output") {
            command.arg("--output").arg(output.path());
        }
        command.args(&options.args).envs(options.env.iter().cloned());
        if let Some(limit) = options.open_files {
            command = under_limit(&command, limit);
        }
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
        Some(Self {
            program,
            options: options.clone(),
            ports,
            output,
            client,
            started_in,
            expectations: Mutex::new(options.expectations.clone()),
            last_metrics: Mutex::default(),
            checked: false,
            is_log_shown: false,
        })
    }

    /// As [`Options::expecting`], for what becomes known while the encoder runs.
    #[track_caller]
    pub fn expect(&self, counters: &[&'static str]) {
        lock(&self.expectations).expect(counters);
    }

    /// As [`Options::allowing`].
    #[track_caller]
    pub fn allow(&self, counters: &[&'static str]) {
        lock(&self.expectations).allow(counters);
    }

    /// As [`Options::logging`].
    pub fn allow_lines(&self, texts: &[&'static str]) {
        lock(&self.expectations).allow_lines(texts);
    }

    /// URL to publish to.
    pub fn rtmp_url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.ports.rtmp)
    }

    /// URL on the public HTTP port.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.ports.http, path.trim_start_matches('/'))
    }

    /// URL of the multivariant playlist of `live/{name}`.
    pub fn playlist_url(&self, name: &str) -> String {
        self.url(&format!("live/{name}/index.m3u8"))
    }

    /// Sends a GET to the admin port.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        let url = format!("http://127.0.0.1:{}/{}", self.ports.admin, path.trim_start_matches('/'));
        self.client.get(&url).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// A metric's value: the sum over all label sets whose line contains every string in `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.admin("metrics"), name, labels)
    }

    /// The same for a counter that appears with its first rise, because its labels are not known before.
    #[track_caller]
    pub fn metric_if_any(&self, name: &str, labels: &[&str]) -> Option<f64> {
        metric_if_any(&self.admin("metrics"), name, labels)
    }

    /// Waits as [`wait_until_listed`] does; returns the URL of the stream's multivariant playlist.
    #[track_caller]
    pub fn wait_for_stream(&self, name: &str) -> String {
        let url = self.playlist_url(name);
        wait_until_listed(&url);
        url
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.program.output()
    }

    /// Process ID of the supervisor.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Process IDs of the supervisor's workers.
    pub fn workers(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// /proc statistics of the supervisor.
    #[track_caller]
    pub fn stat(&self) -> ProcStat {
        process::stat(self.pid()).expect("the encoder runs")
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, signal: Signal) {
        if [Signal::TERM, Signal::INT, Signal::KILL].contains(&signal) {
            self.read_metrics();
        }
        self.program.signal(signal);
    }

    /// Reads the metrics by which the encoder is judged, if it still answers.
    fn read_metrics(&self) {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports.admin);
        let text = self.client.get(&url).and_then(|answer| answer.text());
        if let Ok(text) = text {
            *lock(&self.last_metrics) = Some(text);
        }
    }

    /// Exit status after the process has ended, with the log checked; `None` after `wait` (stretched by patience).
    #[track_caller]
    pub fn wait(&mut self, wait: Duration) -> Option<std::process::ExitStatus> {
        let status = self.program.wait(wait)?;
        self.check_log();
        Some(status)
    }

    /// Stops the encoder as an operator would and checks the log. A running stream gets up to 20 s to be sealed.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.read_metrics();
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
        let wrong = lock(&self.expectations).complaints(lock(&self.last_metrics).as_deref(), &log);
        if !wrong.is_empty() {
            eprintln_log(&log);
            self.is_log_shown = true;
            panic!("the encoder met upsets that the test does not expect:\n{}", wrong.join("\n"));
        }
        log
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if !self.is_log_shown {
                eprintln_log(&self.program.output());
            }
            self.program.stop(Duration::from_secs(2));
        } else if !self.checked {
            self.read_metrics();
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

/// A metric's value in the answer of `/metrics`: the sum over all label sets whose line contains every string in
/// `labels`. Panics if there is no metric of this name.
#[track_caller]
pub(crate) fn metric(answer: &Response, name: &str, labels: &[&str]) -> f64 {
    metric_if_any(answer, name, labels).unwrap_or_else(|| panic!("there is no metric {name}"))
}

/// The same; `None` if there is no metric of this name.
fn metric_if_any(answer: &Response, name: &str, labels: &[&str]) -> Option<f64> {
    let text = answer.text().expect("metrics are text");
    let is_named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let mut lines = text.lines().filter(is_named).peekable();
    lines.peek()?;
    let chosen = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    Some(chosen.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// The same command with a hard limit of open files.
fn under_limit(command: &Command, limit: u32) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// The command `encoder` with a subcommand, without inherited `ENCODER_` variables.
pub fn subcommand(name: &str) -> Command {
    let mut command = Command::new(binary());
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|n| n.starts_with("ENCODER_")) {
            command.env_remove(variable);
        }
    }
    command.arg(name);
    command
}

/// The command `encoder serve` on these ports, without inherited `ENCODER_` variables.
pub fn command(ports: &Ports) -> Command {
    command_on(ports, "127.0.0.1")
}

/// The same, with the admin port on another address.
fn command_on(ports: &Ports, admin: &str) -> Command {
    let mut command = subcommand("serve");
    let local = "127.0.0.1";
    for (flag, address, port) in [
        ("--rtmp-listen", local, ports.rtmp),
        ("--http-listen", local, ports.http),
        ("--admin-listen", admin, ports.admin),
    ] {
        command.arg(flag).arg(format!("{address}:{port}"));
    }
    command
}
