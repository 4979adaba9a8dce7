//! The `encoder` binary. For now only the worker's entry.

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() == Some("transcode-worker") {
        return encoder::transcode::worker_main();
    }
    std::process::ExitCode::SUCCESS
}
