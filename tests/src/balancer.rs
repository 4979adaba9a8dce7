//! HAProxy as a fleet's balancer: TCP mode, HTTP health checks. HAProxy sees no more of an encoder than any balancer
//! sees of a pod.

use crate::edge_process::Edge;
use crate::encoder_process::free_port;
use crate::http::Client;
use crate::patience::eventually;
use crate::process::Program;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

/// One backend server of the balancer.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// RTMP port that publishers are sent to.
    pub rtmp: u16,
    /// Admin port that serves `/readyz`.
    pub admin: u16,
    /// Whether the server gets connections only while no other server is up.
    pub backup: bool,
}

/// A running HAProxy.
pub struct Balancer {
    program: Program,
    _folder: tempfile::TempDir,
    port: u16,
    stats: u16,
    client: Client,
}

/// HAProxy's view of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the health checks pass.
    pub up: bool,
    /// Connections to the server that are open now.
    pub connections: usize,
    /// Connections to the server since the start.
    pub total: usize,
}

impl Balancer {
    /// Starts a balancer over these servers, with a health check every `interval`. Round robin: the balancer ignores
    /// load.
    #[track_caller]
    pub fn start(servers: &[Server], interval: Duration) -> Self {
        let (port, stats) = (free_port(), free_port());
        let mut text = format!(
            "defaults\n mode tcp\n timeout connect 2s\n timeout client 1h\n timeout server 1h\n \
             timeout check 1s\n retries 3\n option redispatch 1\n\
             frontend publishers\n bind 127.0.0.1:{port}\n default_backend encoders\n\
             frontend stats\n mode http\n bind 127.0.0.1:{stats}\n stats enable\n stats uri /\n\
             backend encoders\n balance roundrobin\n option httpchk GET /readyz\n http-check expect status 200\n \
             default-server check inter {}ms fall 1 rise 1\n",
            interval.as_millis()
        );
        for (n, Server { rtmp, admin, backup }) in servers.iter().enumerate() {
            let backup = if *backup { " backup" } else { "" };
            writeln!(text, " server s{n} 127.0.0.1:{rtmp} port {admin}{backup}").expect("a String takes it");
        }
        Self::with_config(&text, port, stats)
    }

    #[track_caller]
    fn with_config(text: &str, port: u16, stats: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("haproxy.cfg");
        std::fs::write(&config, text).expect("the folder takes a file");
        let mut program =
            Program::spawn("haproxy", Command::new("haproxy").arg("-db").arg("-f").arg(&config));
        let client = Client::default();
        eventually("HAProxy's statistics", Duration::from_secs(10), || {
            if let Some(status) = program.exited() {
                panic!("haproxy ended with {status}:\n{}", program.output());
            }
            client.get(&format!("http://127.0.0.1:{stats}/;csv")).ok().filter(|r| r.status == 200)
        });
        Self { program, _folder: folder, port, stats, client }
    }

    /// Starts a balancer over edges: HTTP, round robin, with a health check every half second; a request that an edge
    /// did not answer goes to another one.
    #[track_caller]
    pub fn of_edges(edges: &[&Edge]) -> Self {
        let (port, stats) = (free_port(), free_port());
        let mut text = format!(
            "defaults\n mode http\n timeout connect 1s\n timeout client 1h\n timeout server 30s\n \
             timeout check 1s\n retries 3\n option redispatch 1\n retry-on conn-failure empty-response\n\
             frontend viewers\n bind 127.0.0.1:{port}\n default_backend encoders\n\
             frontend stats\n bind 127.0.0.1:{stats}\n stats enable\n stats uri /\n\
             backend encoders\n balance roundrobin\n option httpchk GET /readyz\n http-check expect status 200\n \
             default-server check inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions\n"
        );
        for (n, edge) in edges.iter().enumerate() {
            writeln!(text, " server s{n} 127.0.0.1:{} port {}", edge.http, edge.admin)
                .expect("a String takes it");
        }
        Self::with_config(&text, port, stats)
    }

    /// URL for viewers, of a balancer over edges.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// URL to publish to.
    pub fn rtmp_url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.port)
    }

    /// HAProxy's view of its servers, in their order.
    #[track_caller]
    pub fn servers(&self) -> Vec<Standing> {
        let url = format!("http://127.0.0.1:{}/;csv", self.stats);
        let text = self.client.get(&url).and_then(|r| r.text()).unwrap_or_else(|e| panic!("{e:#}"));
        let mut lines = text.lines();
        let heads: Vec<&str> = lines.next().unwrap_or_default().trim_start_matches("# ").split(',').collect();
        let column = |name: &str| heads.iter().position(|head| *head == name).expect("HAProxy's columns");
        let (proxy, server) = (column("pxname"), column("svname"));
        let (status, now, total) = (column("status"), column("scur"), column("stot"));
        lines
            .map(|line| line.split(',').collect::<Vec<_>>())
            .filter(|row| row.len() > status && row[proxy] == "encoders" && row[server] != "BACKEND")
            .map(|row| Standing {
                up: row[status].starts_with("UP"),
                connections: row[now].parse().unwrap_or(0),
                total: row[total].parse().unwrap_or(0),
            })
            .collect()
    }

    /// Waits until exactly these servers are up.
    #[track_caller]
    pub fn wait_for(&self, up: &[bool]) {
        eventually(
            &format!("servers up: {up:?}, found {:?}", self.servers()),
            Duration::from_secs(15),
            || self.servers().iter().map(|server| server.up).eq(up.iter().copied()).then_some(()),
        );
    }

    /// HAProxy's output so far.
    pub fn log(&self) -> String {
        self.program.output()
    }
}
