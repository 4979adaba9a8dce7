//! The back end of docs/integration.md, as it stands in the page: who publishes, and what it hears.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, free_port, workspace};
use tests::patience::eventually;
use tests::process::Program;
use tests::{fixtures, publisher, turn};

/// The key that the page's back end knows, and the secret that it shares with the encoder.
const KEY: &str = "sk-7f3a9c51e0";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The blocks of one language in the page.
fn blocks(language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(workspace().join("docs/integration.md")).unwrap();
    let fence = format!("```{language}\n");
    let block = |rest: &str| rest.split_once("\n```").expect("the block ends").0.to_owned() + "\n";
    page.split(&fence).skip(1).map(block).collect()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The page's back end on a port of its own.
struct BackEnd {
    program: Program,
    url: String,
}

impl BackEnd {
    fn start(folder: &Path) -> Self {
        let [code] = blocks("python").try_into().expect("one block of Python");
        let script = file(folder, "back_end.py", &code);
        let port = free_port();
        let mut command = Command::new("python3");
        command.arg(script).arg(port.to_string());
        let program = Program::spawn("back end", &mut command);
        eventually("the back end", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { program, url: format!("http://127.0.0.1:{port}") }
    }

    fn heard(&self, kind: &str, subject: &str) {
        eventually(kind, Duration::from_secs(30), || {
            let heard = |line: &str| line.contains(kind) && line.contains(subject);
            self.program.output().lines().any(heard).then_some(())
        });
    }
}

fn refused(url: &str) -> String {
    let mut publisher = publisher::ffmpeg_looped(&fixtures::clip("small-gop1s"), url);
    assert!(publisher.wait(publisher::REFUSAL).is_some(), "{}", publisher.output());
    publisher.output()
}

#[test]
fn the_back_end_of_the_page_decides_and_hears() {
    let clip = fixtures::clip("small-gop1s");
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let back_end = BackEnd::start(folder.path());
    let secret = file(folder.path(), "secret", SECRET);
    let secret = secret.to_str().unwrap();
    let mut options = Options::default()
        .set("--ladder", "source")
        .set("--reconnect-window", "0")
        .set("--publish-hook", &format!("{}/publish", back_end.url))
        .set("--publish-hook-secret", secret)
        .set("--events", &format!("{}/events", back_end.url))
        .set("--events-secret", secret)
        .expecting(&["encoder_rejected_total"]);
    options.secrets.extend([KEY.to_owned(), SECRET.to_owned()]);
    let encoder = Encoder::start(options);

    let said = refused(&encoder.rtmp_url("alice"));
    assert!(said.contains("unknown key: get one at example.org/keys"), "{said}");
    // Nobody knows which stream it asked for.
    back_end.heard("publish.refused", " - ");
    let stream = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(KEY));
    encoder.wait_for_stream("alice");
    let status = encoder.admin("status").text().unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["streams"][0]["latency"], 3.0, "{status}");
    assert_eq!(status["streams"][0]["latency_from"], "key");
    back_end.heard("stream.started", "live/alice");
    drop(stream);
    back_end.heard("stream.ended", "live/alice");
    back_end.heard("archive.ready", "live/alice");
    let output = back_end.program.output();
    assert!(output.contains(r#""user": 17"#) && !output.contains("Traceback"), "{output}");
    encoder.stop();
}

/// The page's keys file, with a real digest in place of the ellipsis.
#[test]
fn the_keys_file_of_the_page_is_one() {
    let clip = fixtures::clip("small-gop1s");
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let [toml] = blocks("toml").try_into().expect("one block of TOML");
    // printf %s another-key | sha256sum
    let digest = "dfc42b5169264b0614a973f3460a90a255e72d3bf083ced693776b21a3821690";
    let keys = file(folder.path(), "keys.toml", &toml.replace('…', digest));
    let encoder = Encoder::start(
        Options::default()
            .set("--ladder", "source")
            .set("--publish-keys", keys.to_str().unwrap())
            .expecting(&["encoder_rejected_total"]),
    );
    let said = refused(&encoder.rtmp_url("camera-1"));
    assert!(said.contains("this stream key may not publish here"), "{said}");
    let _stream = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url("sk-0b5d2e71c4"));
    encoder.wait_for_stream("camera-1");
}
