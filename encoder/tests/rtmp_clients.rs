//! Real publishers against the RTMP server: ffmpeg, GStreamer's rtmp2sink, and rtmpsink (librtmp). Tests the behaviour
//! seen by clients: which are admitted, what a refused client prints, and that it exits.

#![allow(clippy::unwrap_used)] // A test helper's unwrap is the test's failure.

mod support;

use rtmp::{EndReason, Refusal};
use std::process::{Output, Stdio};
use support::{PATIENCE, end, server, server_with_tls};
use tokio::process::Command;
use tokio::time::timeout;

fn ffmpeg(url: &str, seconds: u32) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "info", "-re"]);
    command.args(["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"]);
    command.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
    command.args(["-t", &seconds.to_string(), "-c:v", "libx264", "-preset", "ultrafast", "-g", "30"]);
    command.args(["-pix_fmt", "yuv420p", "-c:a", "aac", "-f", "flv", url]);
    command
}

fn gstreamer(sink: &str, url: &str, buffers: u32) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "videotestsrc", "is-live=true", &format!("num-buffers={buffers}"), "!"]);
    command.args(["video/x-raw,width=320,height=180,framerate=30/1", "!", "x264enc", "tune=zerolatency"]);
    command.args([
        "speed-preset=ultrafast",
        "key-int-max=30",
        "!",
        "h264parse",
        "!",
        "flvmux",
        "streamable=true",
    ]);
    command.args(["name=mux", "!", sink, &format!("location={url}")]);
    if url.starts_with("rtmps:") {
        command.arg("tls-validation-flags=0");
    }
    let audio = buffers * 48_000 / 30 / 1024;
    command.args([
        "audiotestsrc",
        "is-live=true",
        &format!("num-buffers={audio}"),
        "samplesperbuffer=1024",
        "!",
    ]);
    command.args([
        "audio/x-raw,rate=48000,channels=2",
        "!",
        "audioconvert",
        "!",
        "avenc_aac",
        "!",
        "aacparse",
        "!",
        "mux.",
    ]);
    command
}

async fn run(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    timeout(PATIENCE, command.output()).await.expect("the client ends").expect("the client is installed")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn ffmpeg_publishes() {
    let mut server = server(Ok(()), None).await;
    let url = format!("rtmp://{}/live/secret?latency=5", server.address);
    let output = run(ffmpeg(&url, 2)).await;
    assert!(output.status.success(), "{}", said(&output));
    let (reason, heard) = end(&mut server).await;
    assert_eq!(reason, EndReason::Unpublished);
    // Two seconds at 30 frames per second, plus the sequence header before and the end of sequence after them.
    assert_eq!(heard.video.len(), 62, "{} video messages", heard.video.len());
    assert!((90..=100).contains(&heard.audio.len()), "{} audio messages", heard.audio.len());
    assert_eq!(heard.metadata[0].width, Some(320.0));
    let requests = server.stage.requests.lock().unwrap();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((request.app.as_str(), request.key.expose()), ("live", "secret"));
    assert_eq!(request.query, "latency=5");
    assert!(request.client.contains("Lavf"), "{}", request.client);
}

#[tokio::test]
async fn ffmpeg_and_rtmp2sink_publish_with_tls() {
    let mut server = server_with_tls(Ok(()), None).await;
    let url = format!("rtmps://{}/live/secret?latency=5", server.address);
    // By default FFmpeg does not verify the certificate.
    let output = run(ffmpeg(&url, 2)).await;
    assert!(output.status.success(), "{}", said(&output));
    let (reason, heard) = end(&mut server).await;
    assert_eq!((reason, heard.video.len()), (EndReason::Unpublished, 62));

    let url = format!("rtmps://{}/live/secret", server.address);
    let output = run(gstreamer("rtmp2sink", &url, 45)).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!((45..=48).contains(&end(&mut server).await.1.video.len()));
    let requests = server.stage.requests.lock().unwrap();
    assert!(requests.iter().all(|request| (&*request.app, request.key.expose()) == ("live", "secret")));
}

#[tokio::test]
async fn with_tls_too_ffmpeg_shows_why_it_was_refused_or_sent_off() {
    let reason = "no such key here";
    let refusing = server_with_tls(Err(Refusal::BadName(reason.into())), None).await;
    let output = run(ffmpeg(&format!("rtmps://{}/live/x", refusing.address), 20)).await;
    assert!(!output.status.success());
    assert!(said(&output).contains(reason), "{}", said(&output));

    let mut server = server_with_tls(Ok(()), Some(10)).await;
    let output = run(ffmpeg(&format!("rtmps://{}/live/x", server.address), 20)).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("shutting down"), "{}", said(&output));
    assert_eq!(end(&mut server).await.0, EndReason::SentOff);
}

#[tokio::test]
async fn ffmpeg_shows_why_it_was_refused() {
    let reason = "no such key here";
    let server = server(Err(Refusal::BadName(reason.into())), None).await;
    let output = run(ffmpeg(&format!("rtmp://{}/live/x", server.address), 20)).await;
    assert!(!output.status.success());
    assert!(said(&output).contains(reason), "{}", said(&output));
}

#[tokio::test]
async fn ffmpeg_that_is_sent_off_is_told_and_ends() {
    let mut server = server(Ok(()), Some(10)).await;
    let output = run(ffmpeg(&format!("rtmp://{}/live/x", server.address), 20)).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("shutting down"), "{}", said(&output));
    assert_eq!(end(&mut server).await.0, EndReason::SentOff);
}

#[tokio::test]
async fn ffmpeg_with_the_key_inside_the_application_is_told_what_to_do() {
    let server = server(Ok(()), None).await;
    let output = run(ffmpeg(&format!("rtmp://{}/live/inst/topsecret", server.address), 20)).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("too many parts"), "{}", said(&output));
    assert!(server.stage.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn gstreamer_publishes_through_both_sinks() {
    for sink in ["rtmp2sink", "rtmpsink"] {
        let mut server = server(Ok(()), None).await;
        let output = run(gstreamer(sink, &format!("rtmp://{}/live/x", server.address), 45)).await;
        assert!(output.status.success(), "{sink}: {}", said(&output));
        let (reason, heard) = end(&mut server).await;
        assert!(matches!(reason, EndReason::Unpublished | EndReason::Closed), "{sink}: {reason:?}");
        assert!((45..=48).contains(&heard.video.len()), "{sink}: {} video messages", heard.video.len());
        assert!(heard.audio.len() >= 40, "{sink}: {} audio messages", heard.audio.len());
        let request = server.stage.requests.lock().unwrap()[0].clone();
        assert_eq!((request.app.as_str(), request.key.expose()), ("live", "x"), "{sink}");
    }
}

/// rtmpsink (librtmp) exits without printing the reason that the server sent.
#[tokio::test]
async fn gstreamer_that_is_refused_ends_and_does_not_hang() {
    let refusals = [
        Refusal::BadName("no such key here".into()),
        Refusal::AlreadyPublishing,
        Refusal::Busy,
        Refusal::Unsupported("no such codec".into()),
    ];
    for sink in ["rtmp2sink", "rtmpsink"] {
        for refusal in &refusals {
            let server = server(Err(refusal.clone()), None).await;
            let output = run(gstreamer(sink, &format!("rtmp://{}/live/x", server.address), 900)).await;
            assert!(!output.status.success(), "{sink} {refusal:?}: {}", said(&output));
            let words = said(&output);
            let told = words.contains(&refusal.to_string());
            assert_eq!(told, sink == "rtmp2sink", "{sink}: {words}");
        }
    }
}

#[tokio::test]
async fn gstreamer_that_is_sent_off_ends() {
    for sink in ["rtmp2sink", "rtmpsink"] {
        let mut server = server(Ok(()), Some(10)).await;
        let output = run(gstreamer(sink, &format!("rtmp://{}/live/x", server.address), 900)).await;
        assert!(!output.status.success(), "{sink}: {}", said(&output));
        assert_eq!(end(&mut server).await.0, EndReason::SentOff, "{sink}");
    }
}

/// The server answers a player that it accepts publishers only.
#[tokio::test]
async fn ffprobe_cannot_play() {
    let server = server(Ok(()), None).await;
    let mut command = Command::new("ffprobe");
    command.args(["-v", "info", &format!("rtmp://{}/live/x", server.address)]);
    let output = run(command).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("publishers only"), "{}", said(&output));
}
