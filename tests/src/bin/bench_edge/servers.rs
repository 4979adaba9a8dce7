//! The servers that are measured: the encoder itself, and what stands between it and viewers.

use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::encoder_process::{self, Encoder, free_port, subcommand};
use tests::http::Client;
use tests::load::Edge as PlaylistEdge;
use tests::patience::eventually;
use tests::process::{self, Program, listens};
use tests::request_counter::RequestCounter;
use tests::varnish::{ANSWER_SECONDS, Freshness, Varnish};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No server between: viewers are at the encoder.
    Encoder,
    /// `encoder edge`, so many processes.
    Edges(usize),
    /// Varnish.
    Varnish,
    /// nginx with `proxy_cache` and `proxy_cache_lock`.
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Encoder, Self::Edges(1), Self::Edges(2), Self::Varnish, Self::Nginx];

    /// Name in the table and in `BENCH_ONLY`.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Encoder => "encoder".to_owned(),
            Self::Edges(1) => "edge".to_owned(),
            Self::Edges(count) => format!("{count} edges"),
            Self::Varnish => "varnish".to_owned(),
            Self::Nginx => "nginx".to_owned(),
        }
    }

    /// Whether the goals hold for the server: it is ours.
    pub(crate) fn has_goals(self) -> bool {
        match self {
            Self::Encoder | Self::Edges(_) => true,
            Self::Varnish | Self::Nginx => false,
        }
    }

    /// Whether the server fetches for all its viewers once.
    pub(crate) fn collapses(self) -> bool {
        match self {
            Self::Encoder => false,
            Self::Edges(_) | Self::Varnish | Self::Nginx => true,
        }
    }
}

/// A running server. It ends when dropped.
pub(crate) struct Server {
    /// Ports of 127.0.0.1 that serve viewers.
    pub(crate) ports: Vec<u16>,
    /// The encoder's HTTP port.
    pub(crate) encoder: SocketAddr,
    /// Counts requests to the encoder; `None` without a server between.
    counter: Option<RequestCounter>,
    running: Running,
}

enum Running {
    Encoder(u32),
    Edges(Vec<Program>),
    Varnish(Varnish),
    Nginx(Nginx),
}

impl Server {
    /// Starts a server in front of the encoder.
    ///
    /// # Errors
    /// The encoder's binary has no edge, or the server is not installed.
    pub(crate) fn start(kind: Kind, encoder: &Encoder, freshness: Freshness) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], encoder.ports.http));
        let counter = kind.collapses().then(|| RequestCounter::start(address));
        let upstream = counter.as_ref().map_or(address, RequestCounter::address);
        let (ports, running) = match kind {
            Kind::Encoder => (vec![encoder.ports.http], Running::Encoder(encoder.pid())),
            Kind::Edges(count) => {
                let started = (0..count).map(|_| edge(upstream)).collect::<anyhow::Result<Vec<_>>>()?;
                let (ports, programs) = started.into_iter().unzip();
                (ports, Running::Edges(programs))
            }
            Kind::Varnish => {
                let varnish = Varnish::start(upstream, freshness);
                (vec![varnish.port()], Running::Varnish(varnish))
            }
            Kind::Nginx => {
                let nginx = Nginx::start(upstream, freshness)?;
                (vec![nginx.port], Running::Nginx(nginx))
            }
        };
        Ok(Self { ports, encoder: address, counter, running })
    }

    /// Process IDs that viewers cost CPU time and memory. The encoder's worker is not among them: it encodes regardless
    /// of viewers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Encoder(pid) => vec![*pid],
            Running::Edges(programs) => programs.iter().map(Program::pid).collect(),
            Running::Varnish(varnish) => process::tree(varnish.pid()),
            Running::Nginx(nginx) => process::tree(nginx.program.pid()),
        }
    }

    /// Requests to the encoder so far; `None` without a server between.
    pub(crate) fn upstream_requests(&self) -> Option<u64> {
        self.counter.as_ref().map(RequestCounter::requests)
    }

    /// The end of the server's output, for errors.
    pub(crate) fn output(&self) -> String {
        let text = match &self.running {
            Running::Encoder(_) | Running::Varnish(_) => String::new(),
            Running::Edges(programs) => programs.iter().map(Program::output).collect(),
            Running::Nginx(nginx) => nginx.program.output(),
        };
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Who says how long caches keep answers to blocking reloads: the encoder, unless it forbids to keep them.
pub(crate) fn freshness(encoder: &Encoder, playlist: &str) -> anyhow::Result<Freshness> {
    let url = encoder.url(playlist);
    let edge = PlaylistEdge::of(&encoder.client.get(&url)?.text()?).context("no media playlist")?;
    let query = edge.blocking_query().context("the encoder holds no reloads")?;
    let answer = encoder.client.get(&format!("{url}?{query}"))?;
    let cache_control = answer.header("cache-control").unwrap_or_default();
    if cache_control.contains("no-store") {
        // Six target durations (rfc8216bis, appendix B.1).
        Ok(Freshness::BlockingReloads(Duration::from_secs(6 * edge.target_duration)))
    } else {
        Ok(Freshness::Server)
    }
}

/// Whether the binary has the command `edge`.
pub(crate) fn has_edge() -> bool {
    let mut command = Command::new(encoder_process::binary());
    command.args(["edge", "--help"]).output().is_ok_and(|output| output.status.success())
}

/// Starts an edge of the encoder at `upstream`; returns its port for viewers.
fn edge(upstream: SocketAddr) -> anyhow::Result<(u16, Program)> {
    let (http, admin) = (free_port(), free_port());
    let mut command = subcommand("edge");
    command.arg("--http-listen").arg(format!("127.0.0.1:{http}"));
    command.arg("--admin-listen").arg(format!("127.0.0.1:{admin}"));
    command.arg("--encoders").arg(upstream.to_string());
    let mut program = Program::spawn("encoder edge", &mut command);
    let (client, ready) = (Client::default(), format!("http://127.0.0.1:{admin}/readyz"));
    eventually("the edge to be ready", Duration::from_secs(10), || {
        if let Some(status) = program.exited() {
            panic!("the edge ended with {status}:\n{}", program.output());
        }
        client.get(&ready).is_ok_and(|answer| answer.status == 200).then_some(())
    });
    Ok((http, program))
}

// === impl Nginx ===

/// nginx under the user who runs the benchmark, with a worker process for each processor.
struct Nginx {
    program: Program,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start(upstream: SocketAddr, freshness: Freshness) -> anyhow::Result<Self> {
        let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let nginx = nginx.context("nginx is not installed")?;
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, nginx_configuration(folder.path(), port, upstream, freshness))?;
        let mut command = Command::new(nginx);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        let mut program = Program::spawn("nginx", &mut command);
        eventually("nginx to listen", Duration::from_secs(10), || {
            (listens(port) || program.exited().is_some()).then_some(())
        });
        ensure!(program.exited().is_none(), "nginx ended:\n{}", program.output());
        Ok(Self { program, _folder: folder, port })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master process ends its workers; they would outlive it if it were killed.
        self.program.stop(Duration::from_secs(5));
    }
}

fn nginx_configuration(folder: &Path, port: u16, upstream: SocketAddr, freshness: Freshness) -> String {
    let root = folder.display();
    // Started by root, nginx would change to a user who cannot read the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let keep = match freshness {
        Freshness::Server => String::new(),
        Freshness::BlockingReloads(time) => format!(
            "proxy_ignore_headers Cache-Control;\nproxy_cache_valid 200 {}s;\n\
             proxy_no_cache $plain_playlist;\nproxy_cache_bypass $plain_playlist;\n",
            time.as_secs()
        ),
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {root}/{kind};\n"))
        .concat();
    format!(
        r#"{user}daemon off;
worker_processes auto;
pid {root}/pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
http {{
access_log off;
{temporary}
keepalive_timeout 650s;
keepalive_requests 1000000;
map "$uri|$arg__HLS_msn" $plain_playlist {{ "~\.m3u8\|$" 1; default 0; }}
upstream encoder {{ server {upstream}; keepalive 64; }}
proxy_cache_path {root}/cache levels=1:2 keys_zone=hls:10m max_size=512m use_temp_path=off;
server {{
listen 127.0.0.1:{port} backlog=4096;
location / {{
proxy_pass http://encoder;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_read_timeout {ANSWER_SECONDS}s;
proxy_cache hls;
proxy_cache_key $uri$is_args$args;
proxy_cache_lock on;
proxy_cache_lock_timeout {ANSWER_SECONDS}s;
proxy_cache_lock_age {ANSWER_SECONDS}s;
{keep}}}
}}
}}
"#
    )
}
