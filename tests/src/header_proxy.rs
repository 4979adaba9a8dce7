//! Proxies that begin their connections to the encoder with a PROXY protocol header: HAProxy, and Envoy.

use crate::encoder_process::{Ports, free_port, workspace};
use crate::patience::eventually;
use crate::process::{Program, listens};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Folder where `make setup-test` installs Envoy.
const ENVOY: &str = ".cache/envoy/envoy/_bin/envoy";

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A running proxy in TCP mode.
pub struct HeaderProxy {
    _program: Program,
    _folder: tempfile::TempDir,
    /// Forwards to the encoder's RTMP port.
    pub rtmp: u16,
    /// Forwards to the encoder's public HTTP port.
    pub http: u16,
}

impl HeaderProxy {
    /// Starts HAProxy in front of an encoder. Ten times a second it connects to both ports for a health check that sends
    /// a header without a client, and for one that says nothing at all.
    #[track_caller]
    pub fn haproxy(encoder: Ports, version: Version) -> Self {
        let (rtmp, http) = (free_port(), free_port());
        let send = match version {
            Version::V1 => "send-proxy",
            Version::V2 => "send-proxy-v2",
        };
        let mut text = String::from(
            "defaults\n mode tcp\n timeout connect 2s\n timeout client 1h\n timeout server 1h\n timeout check 1s\n \
             default-server inter 100ms fall 1000 rise 1\n",
        );
        for (name, from, to) in [("rtmp", rtmp, encoder.rtmp), ("http", http, encoder.http)] {
            text += &format!(
                "listen {name}\n bind 127.0.0.1:{from}\n server spoken 127.0.0.1:{to} {send} check check-send-proxy\n \
                 server silent 127.0.0.1:{to} {send} check port {to} backup\n",
            );
        }
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]);
        Self::start("haproxy", command, "haproxy.cfg", &text, (rtmp, http))
    }

    /// Starts Envoy in front of an encoder. `make setup-test` installs it.
    #[track_caller]
    pub fn envoy(encoder: Ports, version: Version) -> Self {
        let binary = workspace().join(ENVOY);
        assert!(binary.is_file(), "Envoy is not at {ENVOY}; `make setup-test` installs it");
        let (rtmp, http) = (free_port(), free_port());
        let version = match version {
            Version::V1 => "V1",
            Version::V2 => "V2",
        };
        let both = [("rtmp", rtmp, encoder.rtmp), ("http", http, encoder.http)];
        let listeners: String = both.iter().map(|(name, from, _)| envoy_listener(name, *from)).collect();
        let clusters: String = both.iter().map(|(name, _, to)| envoy_cluster(name, *to, version)).collect();
        let text = format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}");
        let mut command = Command::new(binary);
        command.args(["--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id", "-c"]);
        Self::start("envoy", command, "envoy.yaml", &text, (rtmp, http))
    }

    #[track_caller]
    fn start(name: &str, mut command: Command, file: &str, config: &str, (rtmp, http): (u16, u16)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path: &Path = &folder.path().join(file);
        std::fs::write(path, config).expect("the folder takes a file");
        let mut program = Program::spawn(name, command.arg(path));
        eventually(&format!("{name}'s ports"), Duration::from_secs(20), || {
            if let Some(status) = program.exited() {
                panic!("{name} ended with {status}:\n{}", program.output());
            }
            (listens(rtmp) && listens(http)).then_some(())
        });
        Self { _program: program, _folder: folder, rtmp, http }
    }
}

fn envoy_listener(name: &str, port: u16) -> String {
    format!(
        r#"    - name: {name}
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.tcp_proxy
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: {name}
                cluster: {name}
"#
    )
}

fn envoy_cluster(name: &str, port: u16, version: &str) -> String {
    format!(
        r#"    - name: {name}
      type: STATIC
      load_assignment:
        cluster_name: {name}
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}
      transport_socket:
        name: envoy.transport_sockets.upstream_proxy_protocol
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
          config: {{ version: {version} }}
          transport_socket:
            name: envoy.transport_sockets.raw_buffer
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer
"#
    )
}
