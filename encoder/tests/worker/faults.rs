//! Faulty input and faulty workers: damaged media, invalid bytes, killed processes, exhausted memory.

use crate::support::{SECOND, Source, drive, job, options, rung, transcode};
use bytes::Bytes;
use encoder::testing::stream::{ProcessEnding, Worker, WorkerEvent, WorkerExit, WorkerFault};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use transcode::wire::protocol::{MAX_CONTROL, ProtocolError};
use transcode::wire::{Request, Response};

/// Far longer than any test here needs; turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(30);

async fn exit_of(mut worker: Worker) -> WorkerExit {
    let last = async {
        let mut exit = None;
        while let Some(event) = worker.next().await {
            assert!(exit.is_none(), "nothing comes behind the exit");
            if let WorkerEvent::Exited(how) = event {
                exit = Some(how);
            }
        }
        exit.expect("an exit is reported")
    };
    tokio::time::timeout(PATIENCE, last).await.expect("the end is reported in bounded time")
}

#[tokio::test]
async fn damaged_units_are_counted_and_the_rest_comes_out() {
    let mut source = Source::video("320x180", "30", 4, "");
    let count = source.units(0).len();
    for (index, unit) in source.units_mut().enumerate() {
        unit.data = match index {
            // Random bytes, a wrong NAL unit length, an empty unit, a truncated unit.
            20 => Bytes::from(vec![0xa5; 500]),
            21 => Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x65]),
            40 => Bytes::new(),
            60 => unit.data.slice(..unit.data.len() / 2),
            _ => continue,
        };
    }
    let outcome = transcode(job(vec![rung(320, 180, 30, 300_000), rung(160, 90, 30, 100_000)]), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    assert!(outcome.progress.decode_errors >= 3, "{:?}", outcome.progress);
    let times = outcome.only(0).times(false);
    assert!(times.len() >= count - 8, "{} of {count}", times.len());
    assert_eq!(times, outcome.only(1).times(false));
    assert_eq!(outcome.only(0).times(true), outcome.only(1).times(true));
    outcome.only(0).probe();
}

#[tokio::test]
async fn a_stream_that_begins_without_a_keyframe_begins_at_the_first() {
    let mut source = Source::video("320x180", "30", 4, "-bf 0");
    let mut dropped = false;
    source.requests.retain(|request| match request {
        Request::Unit(_) if !dropped => {
            dropped = true;
            false
        }
        _ => true,
    });
    let outcome = transcode(job(vec![rung(320, 180, 30, 300_000)]), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    let times = outcome.only(0).times(false);
    // The source's keyframes are 50 pictures apart.
    assert!(times[0] >= SECOND && !times.is_empty(), "{}", times[0]);
    outcome.only(0).probe();
}

#[tokio::test]
async fn a_useless_configuration_says_whose_fault_it_is() {
    let record = Bytes::from_static(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let codec = media::VideoCodec::H264;
    let requests = vec![
        Request::Start(job(vec![rung(320, 180, 30, 300_000)])),
        Request::VideoConfig { codec, record },
        Request::Finish,
    ];
    assert_eq!(drive(requests).await.exit.ending, ProcessEnding::Code(65));
}

#[tokio::test]
async fn an_unknown_encoder_says_that_a_setting_is_wrong() {
    let mut job = job(vec![rung(320, 180, 30, 300_000)]);
    job.video.encoder = "no-such-encoder".into();
    let outcome = transcode(job, Source::video("320x180", "30", 1, "")).await;
    assert_eq!(outcome.exit.ending, ProcessEnding::Code(64));
    assert!(!outcome.exit.finished);
}

#[tokio::test]
async fn a_killed_worker_is_reported() {
    let worker = Worker::spawn(options()).unwrap();
    let pid = rustix::process::Pid::from_raw(worker.pid().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = exit_of(worker).await;
    assert_eq!(exit.ending, ProcessEnding::Signal(9));
    assert!(exit.fault.is_none() && !exit.finished);
}

#[tokio::test]
async fn requests_fail_once_the_worker_is_gone() {
    let worker = Worker::spawn(options()).unwrap();
    let requests = worker.requests.clone();
    worker.kill();
    let exit = exit_of(worker).await;
    assert!(matches!(exit.fault, Some(WorkerFault::Killed)), "{exit:?}");
    assert_eq!(exit.ending, ProcessEnding::Signal(9));
    assert!(requests.send(Request::Finish).await.is_err());
}

#[tokio::test]
async fn the_end_of_its_input_ends_a_worker() {
    let mut worker = Worker::spawn(options()).unwrap();
    let (closed, _) = tokio::sync::mpsc::channel(1);
    worker.requests = closed;
    let exit = exit_of(worker).await;
    assert_eq!(exit.ending, ProcessEnding::Code(0));
    assert!(!exit.finished, "nobody asked it to finish");
}

#[tokio::test]
async fn too_much_memory_ends_a_worker() {
    let worker =
        Worker::spawn(encoder::testing::stream::WorkerOptions { memory_limit: 4096, ..options() }).unwrap();
    let exit = exit_of(worker).await;
    assert!(matches!(exit.fault, Some(WorkerFault::Memory { limit: 4096, .. })), "{exit:?}");
}

#[tokio::test]
async fn another_program_is_told_by_its_output() {
    let worker = Worker::spawn(encoder::testing::stream::WorkerOptions {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), "echo no worker; exec cat".into()],
        ..options()
    })
    .unwrap();
    let exit = exit_of(worker).await;
    assert!(matches!(exit.fault, Some(WorkerFault::Protocol(_))), "{exit:?}");
    assert_eq!(exit.ending, ProcessEnding::Signal(9));
}

#[tokio::test]
async fn a_request_that_is_too_large_for_the_wire_is_a_fault_of_its_own() {
    let worker = Worker::spawn(options()).unwrap();
    let record = Bytes::from(vec![0; MAX_CONTROL + 1]);
    worker.requests.send(Request::VideoConfig { codec: media::VideoCodec::H264, record }).await.unwrap();
    let exit = exit_of(worker).await;
    assert!(matches!(exit.fault, Some(WorkerFault::Request(ProtocolError::TooLong { .. }))), "{exit:?}");
}

#[tokio::test]
async fn a_worker_that_closes_its_input_and_stays_is_killed() {
    let worker = Worker::spawn(encoder::testing::stream::WorkerOptions {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), "exec sleep 600 <&-".into()],
        ..options()
    })
    .unwrap();
    while worker.requests.send(Request::Finish).await.is_ok() {}
    let exit = exit_of(worker).await;
    assert!(matches!(exit.fault, Some(WorkerFault::Input(_))), "{exit:?}");
    assert_eq!(exit.ending, ProcessEnding::Signal(9));
}

#[tokio::test]
async fn a_missing_program_is_an_error_at_once() {
    let options = encoder::testing::stream::WorkerOptions { program: "/nowhere".into(), ..options() };
    assert!(Worker::spawn(options).is_err());
}

/// Exit code and stderr of a worker that reads these bytes from its stdin.
fn fed(bytes: &[u8]) -> (Option<i32>, String) {
    let mut child = Command::new(options().program)
        .arg("transcode-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Fails when the worker has closed its stdin already.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn garbage_ends_in_an_error_and_no_panic() {
    let preamble = b"ENCW\x01\x00>\x00";
    let inputs: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 100_000],
        &[preamble, &[0xff; 64][..]].concat(),
        &[preamble, &[3, 0, 0, 0, 1, b'{', b'}'][..]].concat(),
        &[preamble, &[1, 0, 0, 0, 4][..]].concat(),
    ];
    for input in inputs {
        let (code, stderr) = fed(input);
        assert_eq!(code, Some(76), "{stderr}");
        assert!(stderr.starts_with("worker: protocol:") && !stderr.contains("panicked"), "{stderr}");
    }
}

#[tokio::test]
async fn a_slow_reader_slows_the_worker_and_loses_nothing() {
    let source = Source::video("320x180", "30", 6, "");
    let count = source.units(0).len();
    let mut worker = Worker::spawn(options()).unwrap();
    let queue = worker.requests.clone();
    queue.send(Request::Start(job(vec![rung(320, 180, 30, 4_000_000)]))).await.unwrap();
    let sender = tokio::spawn(async move {
        for request in source.requests {
            queue.send(request).await.unwrap();
        }
        queue.send(Request::Finish).await.unwrap();
    });
    let mut units = 0;
    let exit = loop {
        // Like a busy supervisor, let other tasks run first.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        match worker.next().await.unwrap() {
            WorkerEvent::Response(Response::Unit(_)) => units += 1,
            WorkerEvent::Response(_) => {}
            WorkerEvent::Exited(exit) => break exit,
        }
    };
    sender.await.unwrap();
    assert!(exit.is_clean(), "{exit:?}");
    assert_eq!(units, count);
}
