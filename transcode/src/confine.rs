//! The worker confines itself before its first thread and before the first byte from outside: afterwards a fault in
//! libav that runs a stranger's code can compute, read stdin, and write to stdout and stderr, and nothing else. A
//! process that demuxes a file ([`crate::demux`]) is confined in the same way: its stdin is the file, and it may seek.
//!
//! What belongs here: the walls, their order, and the report of which walls stand. Which system calls are allowed is in
//! `calls`. What the supervisor does about a worker that touched a wall is the caller's.
//!
//! The order: descriptors are closed, limits set, privileges given up for good, namespaces and Landlock entered, and
//! the filter of system calls comes last, because it refuses everything that the other walls need. The filter is the
//! one wall that [`SandboxMode::Strict`] insists on; Landlock and namespaces are taken where the kernel or the cluster
//! allows them, and the report says what is missing.
//!
//! There is no process namespace of its own: `unshare` gives it to children only, and a worker in one would be the
//! child of a process that must be watched, stopped and killed with it. The filter refuses every call by which a
//! process reaches another one.

mod calls;

pub use calls::allowed;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};
use nix::sched::CloneFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

/// The newest version of Landlock whose restrictions are asked for; an older kernel enforces what it knows.
const LANDLOCK: ABI = ABI::V7;
/// First descriptor after the standard streams.
const FIRST_OTHER: i32 = 3;
/// Where `/proc` does not list the descriptors, all numbers below this one are closed.
const MOST_DESCRIPTORS: i32 = 65_536;

/// How much confinement a worker insists on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// A worker that cannot filter its system calls, or cannot give up privileges or descriptors, does not start.
    #[default]
    Strict,
    /// The worker takes the walls that there are.
    BestEffort,
    /// Limits alone; for debugging.
    Off,
}

/// There is no mode of this name; the setting is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be strict, best-effort or off")]
pub struct UnknownMode;

impl FromStr for SandboxMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        let all = [Self::Strict, Self::BestEffort, Self::Off];
        all.into_iter().find(|mode| mode.name() == name).ok_or(UnknownMode)
    }
}

impl SandboxMode {
    /// The mode's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }
}

/// What a confined process does, which decides the calls that it may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerTask {
    /// It reads requests from a pipe and encodes.
    #[default]
    Transcode,
    /// It demuxes the file that is its stdin, and seeks in that file.
    Demux,
}

/// One wall around the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// No descriptors but the standard streams.
    Descriptors,
    /// No core files, no files written, no further descriptors, and the memory limit where one is set.
    Limits,
    /// No capabilities, and no program can give any.
    Privileges,
    /// User, network, mount, IPC, host name and cgroup namespaces of its own.
    Namespaces,
    /// Landlock: no paths, no network, no signals to others.
    Landlock,
    /// The filter of system calls.
    SystemCalls,
}

impl Wall {
    /// All walls, in the order in which they are put up.
    const ALL: [Self; 6] = [
        Self::Descriptors,
        Self::Namespaces,
        Self::Landlock,
        Self::Limits,
        Self::Privileges,
        Self::SystemCalls,
    ];

    /// The wall of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wall| wall.to_string() == name)
    }

    fn put_up(self, options: &ConfineOptions) -> Result<(), String> {
        #[cfg(feature = "testing")]
        if options.without.contains(&self) {
            return Err("left out".to_owned());
        }
        match self {
            Self::Descriptors => close_descriptors(),
            Self::Limits => set_limits(options),
            Self::Privileges => drop_privileges(),
            Self::Namespaces => enter_namespaces(),
            Self::Landlock => forbid_paths(options.devices),
            Self::SystemCalls => calls::filter(options.task, options.devices),
        }
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptors => "descriptors",
            Self::Limits => "limits",
            Self::Privileges => "privileges",
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::SystemCalls => "system-calls",
        })
    }
}

impl fmt::Display for MissingWall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.wall, self.why)
    }
}

/// A wall that does not stand, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingWall {
    /// The wall.
    pub wall: Wall,
    /// The system's reason.
    pub why: String,
}

/// What confines a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The mode that was asked for.
    pub mode: SandboxMode,
    /// Walls that were asked for and do not stand, or not wholly.
    pub missing: Vec<MissingWall>,
}

/// How a worker is to be confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfineOptions {
    /// How much is insisted on.
    pub mode: SandboxMode,
    /// What the process does.
    pub task: WorkerTask,
    /// Bytes of private writable memory (RLIMIT_DATA): an allocation beyond them fails. `None`: no limit.
    pub memory: Option<u64>,
    /// The encoder needs device files: the filter of system calls is the wide one, and of paths Landlock forbids
    /// execution alone.
    pub devices: bool,
    /// Walls that cannot be put up, as on a system that lacks them; for tests.
    #[cfg(feature = "testing")]
    pub without: Vec<Wall>,
}

impl ConfineOptions {
    fn wants(&self, wall: Wall) -> bool {
        self.mode != SandboxMode::Off || wall == Wall::Limits
    }
}

/// A wall that [`SandboxMode::Strict`] insists on cannot be put up: the system's configuration, or an old kernel.
#[derive(Debug, thiserror::Error)]
#[error(
    "the worker cannot be confined: {wall}: {why}; --worker-sandbox best-effort runs it with the walls that there are"
)]
pub struct ConfineError {
    /// The wall that is missing.
    pub wall: Wall,
    /// The system's reason.
    pub why: String,
}

/// The command that starts a process which confines itself: without the environment, which holds credentials, and in a
/// process group of its own, because Ctrl-C in a terminal must reach only the parent, which ends its processes in order.
pub fn confined_command(program: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        // By default glibc creates growing arenas for each thread, which only wastes memory when a few threads pass
        // pictures along.
        .env("MALLOC_ARENA_MAX", "2")
        .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
        .process_group(0);
    command
}

/// The name of the call if this line of a confined process's stderr names a forbidden one; `unknown` for a number that
/// this program does not know.
pub fn forbidden_call(line: &str) -> Option<&'static str> {
    let number = line.strip_prefix(crate::FORBIDDEN_CALL)?.trim().parse().ok()?;
    Some(calls::call_name(number).unwrap_or("unknown"))
}

/// Confines the calling process. To be called before any thread is started and any input is read.
///
/// # Errors
/// In the mode strict, when one of the walls descriptors, limits, privileges and system calls cannot be put up.
pub fn confine(options: &ConfineOptions) -> Result<Confinement, ConfineError> {
    let mut report = Confinement { mode: options.mode, missing: Vec::new() };
    for wall in Wall::ALL.into_iter().filter(|wall| options.wants(*wall)) {
        if let Err(why) = wall.put_up(options) {
            let insists = !matches!(wall, Wall::Namespaces | Wall::Landlock);
            if options.mode == SandboxMode::Strict && insists {
                return Err(ConfineError { wall, why });
            }
            report.missing.push(MissingWall { wall, why });
        }
    }
    Ok(report)
}

/// Closes what the supervisor's starter left open. The supervisor's own descriptors close themselves on exec.
fn close_descriptors() -> Result<(), String> {
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok());
        names.collect::<Vec<i32>>()
    });
    // The listing's own descriptor is among them and closed already: closing a number that is not open does nothing.
    let numbers = listed.unwrap_or_else(|_| (FIRST_OTHER..MOST_DESCRIPTORS).collect());
    for number in numbers.into_iter().filter(|number| *number >= FIRST_OTHER) {
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

fn set_limits(options: &ConfineOptions) -> Result<(), String> {
    let limit = |resource, value| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(|error| error.to_string())
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    if !options.devices {
        limit(Resource::Nofile, 3)?;
    }
    if let Some(memory) = options.memory {
        limit(Resource::Data, lowered(memory, getrlimit(Resource::Data).maximum))?;
    }
    // x264 asks for huge pages and leaves much of its bitstream buffers untouched; pages of 2 MiB would make the
    // untouched parts resident.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    Ok(())
}

/// The wanted limit, or a lower one that is in force already: the supervisor lowers the limits of running workers when
/// another one starts, and a limit can only be lowered.
fn lowered(wanted: u64, in_force: Option<u64>) -> u64 {
    in_force.map_or(wanted, |in_force| wanted.min(in_force))
}

/// Many clusters forbid user namespaces inside containers; without them the other namespaces need a capability.
fn enter_namespaces() -> Result<(), String> {
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::unshare(all).map_err(|error| error.desc().to_owned())
}

fn forbid_paths(devices: bool) -> Result<(), String> {
    let restrict = || -> Result<RulesetStatus, RulesetError> {
        let ruleset = Ruleset::default()
            .handle_access(if devices { AccessFs::Execute.into() } else { AccessFs::from_all(LANDLOCK) })?
            .handle_access(AccessNet::from_all(LANDLOCK))?
            .scope(Scope::from_all(LANDLOCK))?;
        Ok(ruleset.create()?.restrict_self()?.ruleset)
    };
    match restrict() {
        Ok(RulesetStatus::FullyEnforced) => Ok(()),
        Ok(RulesetStatus::PartiallyEnforced) => {
            Err("this kernel enforces a part of what is asked for".into())
        }
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Gives up privileges: also those that the process has inside a user namespace of its own.
fn drop_privileges() -> Result<(), String> {
    use rustix::process::DumpableBehavior;
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let words = |error: rustix::io::Errno| error.to_string();
    rustix::thread::set_no_new_privs(true).map_err(words)?;
    let empty = CapabilitySet::empty();
    let none = CapabilitySets { effective: empty, permitted: empty, inheritable: empty };
    rustix::thread::set_capabilities(None, none).map_err(words)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(words)
}

#[cfg(test)]
mod tests {
    use super::lowered;

    #[test]
    fn a_limit_that_the_supervisor_has_lowered_is_not_raised() {
        assert_eq!(lowered(900, Some(400)), 400);
        assert_eq!(lowered(900, Some(1000)), 900);
        assert_eq!(lowered(900, None), 900);
    }
}
