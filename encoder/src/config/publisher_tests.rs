//! Tests of the settings that say who may publish, and what a stranger may cost.

use super::tests::{args, judged};
use super::*;

fn rtmp(more: &[&str]) -> SocketAddr {
    serve(&args(more)).unwrap().rtmp_listen
}

fn flags(more: &[&str]) -> Vec<&'static str> {
    serve(&args(more)).unwrap_err().iter().map(|bad| bad.flag).collect()
}

/// A file with this text.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn without_a_source_only_this_machine_can_publish() {
    assert_eq!(rtmp(&[]).to_string(), "127.0.0.1:1935");
    assert_eq!(rtmp(&["--rtmp-listen=0.0.0.0:5"]).to_string(), "127.0.0.1:5");
    assert_eq!(rtmp(&["--rtmp-listen=[::]:5"]).to_string(), "[::1]:5");
    assert_eq!(rtmp(&["--rtmp-listen=[::1]:5"]).to_string(), "[::1]:5");
    for address in ["192.0.2.1:5", "[2001:db8::1]:5", "[::ffff:192.0.2.1]:5"] {
        let bad = serve(&args(&[&format!("--rtmp-listen={address}")])).unwrap_err();
        assert_eq!((bad.len(), bad[0].flag), (1, "--rtmp-listen"), "{address}");
        for flag in ["--publish-keys", "--publish-jwks", "--publish-hook", "--publish-anyone"] {
            assert!(bad[0].problem.contains(flag), "{flag} is not in {}", bad[0]);
        }
    }
    assert_eq!(judged(&[]).unwrap().rtmp_listen.to_string(), "127.0.0.1:1935");
    assert_eq!(judged(&["--rtmp-listen=192.0.2.1:5"]).unwrap_err()[0].flag, "--rtmp-listen");
}

#[test]
fn the_tls_listener_is_restricted_as_well() {
    let files = tls::tests::Files::new();
    let cert = format!("--tls-cert={}", files.cert.display());
    let key = format!("--tls-key={}", files.key.display());
    let rtmps = |more: &[&str]| {
        let config = serve(&args(&[&[cert.as_str(), key.as_str()], more].concat())).unwrap();
        config.tls.unwrap().rtmps_listen.unwrap().to_string()
    };
    assert_eq!(rtmps(&["--rtmps-listen=0.0.0.0:5"]), "127.0.0.1:5");
    assert_eq!(rtmps(&["--rtmps-listen=0.0.0.0:5", "--publish-anyone"]), "0.0.0.0:5");
    assert_eq!(flags(&["--rtmps-listen=192.0.2.1:5", &cert, &key]), ["--rtmps-listen"]);
}

#[test]
fn a_source_or_a_word_opens_the_listener() {
    let keys = file("key = []");
    let keys = format!("--publish-keys={}", keys.path().display());
    for open in [
        &*keys,
        "--publish-jwks=https://example.org/jwks.json",
        "--publish-hook=http://example.org/publish",
        "--publish-anyone",
    ] {
        assert_eq!(rtmp(&[open]).to_string(), "0.0.0.0:1935", "{open}");
        assert_eq!(rtmp(&[open, "--rtmp-listen=192.0.2.1:5"]).to_string(), "192.0.2.1:5", "{open}");
        assert_eq!(judged(&[open]).unwrap().rtmp_listen.to_string(), "0.0.0.0:1935", "{open}");
    }
    // An empty environment variable arrives as an empty text.
    for closed in ["--publish-keys=", "--publish-jwks=", "--publish-hook="] {
        assert_eq!(rtmp(&[closed]).to_string(), "127.0.0.1:1935", "{closed}");
    }
}

#[test]
fn the_operator_learns_who_can_publish() {
    let reach = |more: &[&str]| {
        let config = serve(&args(more)).unwrap();
        config.publishers.reach(&[config.rtmp_listen])
    };
    assert_eq!(reach(&[]), PublisherReach::ThisMachine);
    assert_eq!(reach(&["--rtmp-listen=127.0.0.1:1935"]), PublisherReach::AsConfigured, "as asked for");
    assert_eq!(reach(&["--publish-anyone"]), PublisherReach::Everybody);
    assert_eq!(reach(&["--publish-anyone", "--rtmp-listen=[::1]:5"]), PublisherReach::AsConfigured);
    let hook = "--publish-hook=http://example.org/publish";
    assert_eq!(reach(&[hook]), PublisherReach::AsConfigured);
    assert_eq!(reach(&["--publish-anyone", hook]), PublisherReach::AsConfigured);
}

#[test]
fn proxies_are_named_with_their_networks() {
    let proxies = |more: &[&str]| serve(&args(more)).map(|config| config.publishers.trusted_proxies);
    assert_eq!(proxies(&[]).unwrap(), None);
    let networks = proxies(&["--proxy-protocol", "--trusted-proxies=10.0.0.0/8, 192.0.2.7,fd00::/8"]);
    let networks: Vec<_> = networks.unwrap().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]);
    let bad = proxies(&["--proxy-protocol", "--trusted-proxies=10.0.0.0/33,proxy.example.org,10.0.0.1"]);
    let values: Vec<_> = bad.unwrap_err().into_iter().map(|bad| bad.value).collect();
    assert_eq!(values, ["10.0.0.0/33", "proxy.example.org"], "each bad one, and no good one");
    assert_eq!(flags(&["--proxy-protocol"]), ["--proxy-protocol"], "it would believe anybody");
    assert_eq!(flags(&["--trusted-proxies=10.0.0.0/8"]), ["--trusted-proxies"], "it would do nothing");
}

#[test]
fn what_strangers_may_cost_is_bounded() {
    let config = serve(&args(&["--max-bitrate=2.5", "--max-duration=90", "--http-idle-timeout=30"])).unwrap();
    let limits = PublishLimits { bits_per_second: 2_500_000, duration: Duration::from_secs(90) };
    assert_eq!(config.publish_limits, limits);
    assert_eq!(config.http_idle_timeout, Duration::from_secs(30));
}

#[test]
fn every_bad_setting_about_strangers_is_told_at_once() {
    let short = file("hunter2");
    let token = format!("--admin-token={}", short.path().display());
    let bad = flags(&[
        "--publish-jwks=ftp://example.org",
        "--publish-hook=example.org",
        "--publish-hook-format=xml",
        "--publish-hook-secret=/none",
        "--publish-hook-cache=ever",
        "--proxy-protocol",
        "--max-bitrate=0",
        "--max-duration=0",
        "--http-idle-timeout=5",
        &token,
        "--events=here",
        "--events-secret=/none",
    ]);
    let mut sorted = bad.clone();
    sorted.sort_unstable();
    let expected = [
        "--admin-token",
        "--events",
        "--events-secret",
        "--http-idle-timeout",
        "--max-bitrate",
        "--max-duration",
        "--proxy-protocol",
        "--publish-hook",
        "--publish-hook-cache",
        "--publish-hook-format",
        "--publish-hook-secret",
        "--publish-jwks",
    ];
    assert_eq!(sorted, expected);
}

#[test]
fn a_secret_for_the_admin_port_is_read_and_never_shown() {
    let secret = file("0123456789abcdef\n");
    let token = format!("--admin-token={}", secret.path().display());
    let access = serve(&args(&[&token, "--admin-hosts=a.example.org, b"])).unwrap().admin_access;
    assert!(access.token.is_some());
    assert_eq!(access.hosts, ["a.example.org", "b"]);
    assert!(!format!("{access:?}").contains("0123"), "{access:?}");
    assert_eq!(flags(&["--admin-token=/none"]), ["--admin-token"]);
}
