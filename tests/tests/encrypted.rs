//! TLS and HTTP/2 with FFmpeg, curl and Chromium as clients.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::process::Command;
use std::time::Duration;
use tests::browser::{self, Play};
use tests::certificate::Certificate;
use tests::encoder_process::{Encoder, Options, STREAM, free_port};
use tests::patience::eventually;
use tests::{fixtures, playlist, publisher, turn};

/// HTTP version, status code and body that curl reports.
fn curl(arguments: &[&str], url: &str) -> (String, String, String) {
    let format = "\n%{http_version} %{http_code}";
    let done = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", format])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    assert!(done.status.success(), "curl {url}: {}", String::from_utf8_lossy(&done.stderr));
    let out = String::from_utf8(done.stdout).unwrap();
    let (body, report) = out.rsplit_once('\n').unwrap();
    let (version, code) = report.split_once(' ').unwrap();
    (version.to_owned(), code.to_owned(), body.to_owned())
}

#[test]
fn published_with_rtmps_and_played_over_http_2() {
    let clip = fixtures::clip("footage-720p30-gop1s");
    let _turn = turn::Turn::take();
    let certificate = Certificate::new();
    let (rtmps, https) = (free_port(), free_port());
    let encoder = Encoder::start(
        Options::default()
            .set("--latency", "4")
            .set("--ladder", "480p@1000k,240p@300k")
            .set("--rtmps-listen", &format!("127.0.0.1:{rtmps}"))
            .set("--https-listen", &format!("127.0.0.1:{https}"))
            .set("--tls-cert", certificate.file().to_str().unwrap())
            .set("--tls-key", certificate.key_file().to_str().unwrap())
            // The files are read while one of them is new and the other one is not.
            .allowing(&["encoder_certificate_changes_total"]),
    );
    // FFmpeg does not verify certificates by default.
    let publish_to = format!("rtmps://127.0.0.1:{rtmps}/live/{STREAM}");
    let mut publisher = publisher::ffmpeg_looped(&clip, &publish_to);
    let plain = encoder.wait_for_stream(STREAM);
    let secure = format!("https://localhost:{https}/live/{STREAM}/index.m3u8");

    for (arguments, url, expected) in [
        (&["--http2-prior-knowledge"][..], &plain, "2"),
        (&["--http1.1"], &plain, "1.1"),
        // The server offers no upgrade to h2: RFC 9113 has removed the mechanism.
        (&["--http2"], &plain, "1.1"),
        (&["--http2", "--insecure"], &secure, "2"),
        (&["--http1.1", "--insecure"], &secure, "1.1"),
        (&["--http2", "--cacert", certificate.file().to_str().unwrap()], &secure, "2"),
    ] {
        let (version, code, body) = curl(arguments, url);
        assert_eq!((&*version, &*code), (expected, "200"), "{arguments:?} {url}");
        assert!(body.starts_with("#EXTM3U"), "{body}");
    }

    // A blocking reload over HTTP/2.
    let (_, _, top) = curl(&["--http2-prior-knowledge"], &plain);
    let rung = playlist::multivariant(&top).unwrap().playlists()[0].clone();
    let rung = tests::http::join(&plain, &rung);
    let (_, _, now) = curl(&["--http2-prior-knowledge"], &rung);
    let after = |text: &str| {
        let list = playlist::media(text).unwrap();
        list.media_sequence.unwrap() + list.segments.len() as u64
    };
    let next = after(&now);
    let (version, code, then) = curl(&["--http2-prior-knowledge"], &format!("{rung}?_HLS_msn={next}"));
    assert_eq!((&*version, &*code), ("2", "200"));
    assert!(after(&then) > next, "{then}");

    let play = Play {
        page: format!("https://localhost:{https}/?stream=live/{STREAM}"),
        seconds: 12.0,
        switches: vec![],
        patience: 60.0,
    };
    let played = browser::play(&play).unwrap();
    // Other tests check smooth playback; here only the protocol matters.
    assert!(played.errors.is_empty() && played.console.is_empty(), "{played:?}");
    assert!(played.advanced > 8.0, "{played:?}");
    let media: Vec<_> = played.requests.iter().filter(|(url, _)| url.contains("/live/")).collect();
    assert!(media.iter().all(|(_, protocol)| protocol == "h2"), "{media:?}");
    let blocked = media.iter().filter(|(url, _)| url.contains("_HLS_msn=")).count();
    assert!(blocked >= 5, "{blocked} blocked reloads among {media:?}");

    // A renewed certificate is used without a restart.
    certificate.renew();
    eventually("the new certificate", Duration::from_secs(30), || {
        let done = Command::new("curl")
            .args(["-sS", "--cacert"])
            .arg(certificate.file())
            .arg(&secure)
            .output()
            .unwrap();
        done.status.success().then_some(())
    });
    assert!(publisher.exited().is_none(), "the publisher was lost:\n{}", publisher.output());
    publisher.stop(Duration::from_secs(5));
    encoder.stop();
}
