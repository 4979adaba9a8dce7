//! Tests of the command line from a user's point of view.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::process::Command;
use std::time::Instant;
use tests::encoder_process::binary;

#[test]
fn every_bad_setting_is_reported_at_once_with_exit_code_64() {
    let started = Instant::now();
    let done = Command::new(binary())
        .args([
            "serve",
            "--latency",
            "99",
            "--ladder",
            "720p@fast",
            "--rtmp-listen",
            "nowhere",
            "--preset",
            "warp",
        ])
        .env("ENCODER_HTTP_LISTEN", "127.0.0.1:notaport")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(64), "{said}");
    for bad in ["99", "720p@fast", "nowhere", "notaport", "warp"] {
        assert!(said.contains(bad), "{bad} is not mentioned in:\n{said}");
    }
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn unknown_flags_are_bad_settings_too_and_help_is_not() {
    let unknown = Command::new(binary()).args(["serve", "--no-such-flag"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(64));
    for args in [&["--help"][..], &["serve", "--help"], &["publish", "--help"], &["transcode", "--help"]] {
        let help = Command::new(binary()).args(args).output().unwrap();
        assert!(help.status.success(), "{args:?}");
        let text = String::from_utf8_lossy(&help.stdout);
        assert!(!text.contains("transcode-worker"), "the hidden command shows in:\n{text}");
    }
    let serve = Command::new(binary()).args(["serve", "--help"]).output().unwrap();
    let text = String::from_utf8_lossy(&serve.stdout);
    for flag in [
        "--rtmp-listen",
        "--http-listen",
        "--admin-listen",
        "--output",
        "--latency",
        "--ladder",
        "--capacity",
    ] {
        assert!(text.contains(flag), "{flag} is not in:\n{text}");
        let variable = format!("ENCODER_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        assert!(text.contains(&variable), "{variable} is not in:\n{text}");
    }
}
