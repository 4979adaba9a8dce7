//! Tests of the command line from a user's point of view.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::encoder_process::{binary, free_port, subcommand};
use tests::http::Client;
use tests::patience::eventually;
use tests::process::Program;

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

/// Starts `serve` or `lobby` with its RTMP port on all addresses of `family` (`0.0.0.0` or `[::]`), and waits until the
/// program is alive. Returns the program and the port.
fn start(name: &str, family: &str, more: &[&str], folder: &Path) -> (Program, u16) {
    let (rtmp, admin) = (free_port(), free_port());
    let mut command = subcommand(name);
    command.arg(format!("--rtmp-listen={family}:{rtmp}")).arg(format!("--admin-listen=127.0.0.1:{admin}"));
    if name == "serve" {
        command.arg("--http-listen=127.0.0.1:0").arg("--output").arg(folder.join("media"));
        command.arg("--spool").arg(folder.join("spool"));
    }
    let mut program = Program::spawn(name, command.args(more));
    let client = Client::default();
    eventually(&format!("{name} on {family}"), Duration::from_secs(10), || {
        assert!(program.exited().is_none(), "{name} has ended:\n{}", program.output());
        client.get(&format!("http://127.0.0.1:{admin}/livez")).is_ok_and(|r| r.status == 200).then_some(())
    });
    eventually("the RTMP port", Duration::from_secs(10), || (!listens_on(rtmp).is_empty()).then_some(()));
    (program, rtmp)
}

/// The addresses on which this machine listens on a port, as the kernel writes them: hexadecimal, each group of four
/// bytes in the machine's order.
fn listens_on(port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let table = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}"));
    let tables = [table("tcp").unwrap(), table("tcp6").unwrap_or_default()];
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1));
    let listening = sockets.filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, its_port) = local.split_once(':')?;
        (state == LISTEN && u16::from_str_radix(its_port, 16) == Ok(port)).then(|| address.to_owned())
    });
    listening.collect()
}

fn stop(mut program: Program) -> String {
    assert!(program.stop(Duration::from_secs(10)), "SIGTERM was not enough:\n{}", program.output());
    program.output()
}

#[test]
fn without_a_source_of_identity_only_this_machine_reaches_the_rtmp_port() {
    const EVERYWHERE: [&str; 2] = ["00000000", "00000000000000000000000000000000"];
    let loopback = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
    let loopback_v6 = format!("{}{:08X}", "0".repeat(24), u32::from_ne_bytes([0, 0, 0, 1]));
    let mut families = vec![("0.0.0.0", loopback)];
    // A machine without IPv6 has no such addresses.
    if std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| addresses.contains(" lo")) {
        families.push(("[::]", loopback_v6));
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["serve", "lobby"] {
        for (family, loopback) in &families {
            let (program, port) = start(name, family, &[], folder.path());
            assert_eq!(listens_on(port), [loopback.as_str()], "{name} on {family}");
            let log = stop(program);
            let told = log.lines().filter(|line| line.contains("from this machine only")).count();
            assert_eq!(told, 1, "one warning:\n{log}");
            let (program, port) = start(name, family, &["--publish-anyone"], folder.path());
            let [address] = &listens_on(port)[..] else { panic!("one listener for publishers") };
            assert!(EVERYWHERE.contains(&address.as_str()), "{name} on {family}: {address}");
            let log = stop(program);
            let told = log.lines().filter(|line| line.contains("anybody who reaches this port")).count();
            assert_eq!(told, 1, "one warning:\n{log}");
        }
        let refused = subcommand(name).args(["--rtmp-listen", "192.0.2.1:1935"]).output().unwrap();
        let said = [refused.stdout, refused.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(refused.status.code(), Some(64), "{said}");
        assert!(said.contains("--publish-anyone"), "{said}");
    }
}

#[test]
fn folders_of_the_store_and_the_spool_are_closed_to_other_users() {
    let folder = tempfile::tempdir().unwrap();
    let (program, _) = start("serve", "127.0.0.1", &[], folder.path());
    let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode();
    for path in ["media", "spool"] {
        assert_eq!(mode(path) & 0o027, 0, "{path}: {:o}", mode(path));
    }
    assert_eq!(mode("spool/encoder-spool.lock") & 0o777, 0o600);
    stop(program);
    let left: Vec<_> =
        std::fs::read_dir(folder.path().join("spool")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["encoder-spool.lock"], "the folder of the process went with the process");
}
