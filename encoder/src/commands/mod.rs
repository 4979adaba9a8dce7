//! The command line's way into the program, and what each subcommand does: it puts the other modules together and
//! reports the result. The meaning of the settings is in [`crate::config`].

mod archive;
mod bucket;
mod edge;
mod inspect;
mod live_input;
mod lobby;
mod progress;
mod serve;
mod transcode;

use crate::config::cli::{ArchiveCommand, BucketCommand, Cli, Command};
use crate::config::{self, LogFormat};
use crate::fault::{EXIT_USAGE, Fault};
use crate::logging;
use clap::error::ErrorKind;
use rustix::fs::Mode;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;
use tracing::error;

/// Time for writes in progress after everything else is done.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// The `encoder` command: reads the command line, runs the command, and turns the result into an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // If even this cannot be printed, nothing is left to do.
            let _ = error.print();
            let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if help { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(fault) => {
            error!("{fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Fault> {
    // No process of the same user reads this one's memory, environment or files through /proc, and no core file holds
    // keys. A kernel that refuses has no such files.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    match command {
        Command::Serve(args) => {
            narrow_new_files();
            let recent = logging::start(logging_as(&args.log_format));
            let config = config::serve(&args).map_err(Fault::Settings)?;
            on_runtime(serve::serve(config, recent))?;
        }
        Command::Lobby(args) => {
            logging::start(logging_as(&args.log_format));
            let config = config::lobby(&args).map_err(Fault::Settings)?;
            on_runtime(lobby::run(config))?;
        }
        Command::Edge(args) => {
            logging::start(logging_as(&args.log_format));
            let config = config::edge::edge(&args).map_err(Fault::Settings)?;
            on_runtime(edge::run(config))?;
        }
        #[cfg(feature = "publish")]
        Command::Publish(args) => {
            logging::start(LogFormat::Text);
            on_runtime(async { Ok(publisher::run(args).await?) })?;
        }
        Command::Transcode(args) => {
            narrow_new_files();
            logging::start(LogFormat::Text);
            let config = config::transcode(&args).map_err(Fault::Settings)?;
            on_runtime(transcode::transcode(config))?;
        }
        Command::Inspect(args) => {
            logging::start(LogFormat::Text);
            let config = config::inspect(&args).map_err(Fault::Settings)?;
            on_runtime(inspect::inspect(config))?;
        }
        Command::Bucket(BucketCommand::Check(args)) => {
            logging::start(LogFormat::Text);
            let location = config::bucket(&args).map_err(Fault::Settings)?;
            let mut good = false;
            on_runtime(async {
                good = bucket::check(location).await?;
                Ok(())
            })?;
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Archive(ArchiveCommand::Seal(args)) => {
            narrow_new_files();
            logging::start(LogFormat::Text);
            let config = config::archived(&args).map_err(Fault::Settings)?;
            let mut complete = false;
            on_runtime(async {
                complete = archive::run(&config).await?;
                Ok(())
            })?;
            return Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        // No logging and no runtime: the worker's output is its protocol, and it starts its own threads.
        Command::TranscodeWorker(args) => return Ok(::transcode::worker_main(&args.options(), args.report)),
        Command::DemuxWorker(args) => {
            let (confine, job) = args.options();
            return Ok(::transcode::demux::demux_worker_main(&confine, &job));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes writing from the group and everything from others in the modes of new files (0640) and folders (0750). What
/// the operator's umask takes away already stays away. Called before the first thread starts.
fn narrow_new_files() {
    use rustix::process::umask;
    let taken = Mode::WGRP | Mode::RWXO;
    let given = umask(taken);
    umask(given | taken);
}

/// The log format, needed before the settings are validated because mistakes in the settings are logged as well.
fn logging_as(format: &str) -> LogFormat {
    if format == "json" { LogFormat::Json } else { LogFormat::Text }
}

fn on_runtime(work: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::Machine { what: "cannot start threads", why: error.to_string() })?;
    let outcome = runtime.block_on(work);
    // Tasks that still wait for a hung disk are abandoned.
    runtime.shutdown_timeout(LAST_WRITES);
    outcome
}
