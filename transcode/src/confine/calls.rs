//! The system calls that a worker may make: one table, and the filter made from it.
//!
//! Any call that is not in the table ends the process before the call is made. The kernel delivers SIGSYS, whose
//! handler (in [`crate::raw`]) names the call on stderr and then lets the signal kill the process; a blocked or
//! replaced handler changes nothing but that the name is missing. A few calls are refused instead, because libraries
//! make them in the ordinary course and go on without them; see [`REFUSED`].
//!
//! docs/security.md has the same table, beside the calls that workers made under strace.

use super::WorkerTask;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// Which arguments a call may have.
#[derive(Clone, Copy)]
enum Arguments {
    /// Any.
    Any,
    /// The bits of the mask in this argument have this value.
    Bits { argument: u8, mask: u64, value: u64 },
    /// This argument has one of these values.
    OneOf { argument: u8, values: &'static [u64] },
    /// The first argument is the process's own number.
    Itself,
}

/// An allowed call: its number, its arguments, and the reason.
struct Allowed(c_long, Arguments, &'static str);

/// glibc's flags for a new thread of the same process, on every architecture.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
const EXEC: u64 = libc::PROT_EXEC as u64;
const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
/// glibc's signal for setuid in all threads, whose handler it installs with the first thread.
const SIGSETXID: u64 = 33;

/// The signals whose handling may change after the start.
const HANDLED: &[u64] = &[libc::SIGSEGV as u64, libc::SIGBUS as u64, SIGSETXID];

/// What a worker with software encoders may call.
const ALLOWED: &[Allowed] = &[
    Allowed(libc::SYS_read, Arguments::Any, "requests"),
    Allowed(libc::SYS_write, Arguments::Any, "responses and log lines"),
    Allowed(libc::SYS_brk, Arguments::Any, "malloc"),
    Allowed(libc::SYS_munmap, Arguments::Any, "malloc, stacks of threads"),
    Allowed(libc::SYS_mremap, Arguments::Any, "realloc"),
    Allowed(libc::SYS_madvise, Arguments::Any, "malloc, x264's huge pages"),
    Allowed(libc::SYS_futex, Arguments::Any, "locks and queues"),
    Allowed(libc::SYS_set_robust_list, Arguments::Any, "start of a thread"),
    Allowed(libc::SYS_rseq, Arguments::Any, "start of a thread"),
    Allowed(libc::SYS_sigaltstack, Arguments::Any, "start and end of a thread"),
    Allowed(libc::SYS_rt_sigprocmask, Arguments::Any, "start of a thread, abort"),
    Allowed(libc::SYS_rt_sigreturn, Arguments::Any, "return from a signal's handler"),
    Allowed(libc::SYS_sched_getaffinity, Arguments::Any, "number of processors, stack of a thread"),
    Allowed(libc::SYS_sched_yield, Arguments::Any, "libraries that wait for another thread"),
    Allowed(libc::SYS_gettid, Arguments::Any, "start of a thread, abort"),
    Allowed(libc::SYS_getpid, Arguments::Any, "abort"),
    Allowed(libc::SYS_getppid, Arguments::Any, "whether the supervisor lives"),
    Allowed(libc::SYS_getrandom, Arguments::Any, "hash tables"),
    Allowed(libc::SYS_clock_gettime, Arguments::Any, "time, where the kernel gives none without a call"),
    Allowed(libc::SYS_gettimeofday, Arguments::Any, "time, where the kernel gives none without a call"),
    Allowed(libc::SYS_restart_syscall, Arguments::Any, "a wait goes on after SIGSTOP and SIGCONT"),
    Allowed(libc::SYS_exit, Arguments::Any, "end of a thread"),
    Allowed(libc::SYS_exit_group, Arguments::Any, "end of the process"),
    Allowed(libc::SYS_tgkill, Arguments::Itself, "abort"),
    Allowed(libc::SYS_clone, Arguments::Bits { argument: 0, mask: u64::MAX, value: THREAD }, "threads"),
    Allowed(
        libc::SYS_prctl,
        Arguments::OneOf { argument: 0, values: &[libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64] },
        "names of threads and of memory",
    ),
    Allowed(
        libc::SYS_rt_sigaction,
        Arguments::OneOf { argument: 0, values: HANDLED },
        "first thread; end by a crash",
    ),
    Allowed(libc::SYS_mprotect, Arguments::Bits { argument: 2, mask: EXEC, value: 0 }, "malloc, stacks"),
];

/// What a process that demuxes a file may call besides [`ALLOWED`]. No call of this list takes a path: the file is open
/// already, for reading alone.
const ALLOWED_FOR_FILES: &[Allowed] =
    &[Allowed(libc::SYS_lseek, Arguments::Any, "position in the file, and its size")];

/// glibc maps memory, never files, after the start: both conditions hold at once.
const MAPPED: [(u8, u64, u64); 2] = [(2, EXEC, 0), (3, ANONYMOUS, ANONYMOUS)];

/// Calls that fail with an error, and do not end the process: malloc looks whether it may shrink a heap by opening a
/// file of /proc, pthread_create tries `clone3`, whose flags a filter cannot see, before `clone`, and libav asks whether
/// stderr is a terminal before it writes its first line.
const REFUSED: &[(c_long, Arguments, i32)] = &[
    (libc::SYS_openat, Arguments::Any, libc::EACCES),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Arguments::Any, libc::EACCES),
    (libc::SYS_clone3, Arguments::Any, libc::ENOSYS),
    (libc::SYS_ioctl, Arguments::OneOf { argument: 1, values: &[libc::TCGETS] }, libc::ENOTTY),
];

/// What not even a worker with device files may call. Everything else is allowed for such a worker: which calls its
/// drivers make is known to their makers alone.
const NEVER: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_mount,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_memfd_create,
];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type FilterResult<T> = Result<T, seccompiler::BackendError>;

/// Installs the filters. The process must have one thread.
pub(super) fn filter(task: WorkerTask, devices: bool) -> Result<(), String> {
    let install =
        |program: BpfProgram| seccompiler::apply_filter(&program).map_err(|error| error.to_string());
    let words = |error: seccompiler::BackendError| error.to_string();
    crate::raw::name_forbidden_calls().map_err(|error| error.to_string())?;
    if devices {
        let rules = NEVER.iter().map(|number| (*number, Vec::new())).collect();
        return install(program(rules, SeccompAction::Allow, SeccompAction::Trap).map_err(words)?);
    }
    // Of several filters the strictest answer wins, and the last filter forbids to install another one.
    for (number, arguments, errno) in REFUSED {
        let rules = Rules::from([(*number, arguments.rules().map_err(words)?)]);
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        install(program(rules, SeccompAction::Allow, refuse).map_err(words)?)?;
    }
    install(allow_list(task).map_err(words)?)
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> FilterResult<BpfProgram> {
    SeccompFilter::new(rules, otherwise, matched, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn allow_list(task: WorkerTask) -> FilterResult<BpfProgram> {
    let more = match task {
        WorkerTask::Transcode => &[],
        WorkerTask::Demux => ALLOWED_FOR_FILES,
    };
    let mut rules = Rules::new();
    for Allowed(number, arguments, _) in ALLOWED.iter().chain(more) {
        rules.insert(*number, arguments.rules()?);
    }
    let mapped = MAPPED.iter().map(|(argument, mask, value)| bits(*argument, *mask, *value));
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(mapped.collect::<FilterResult<_>>()?)?]);
    for (number, arguments, _) in REFUSED {
        rules.insert(*number, arguments.rules()?);
    }
    program(rules, SeccompAction::Trap, SeccompAction::Allow)
}

impl Arguments {
    fn rules(self) -> FilterResult<Vec<SeccompRule>> {
        let one = |condition: FilterResult<SeccompCondition>| SeccompRule::new(vec![condition?]);
        match self {
            Self::Any => Ok(Vec::new()),
            Self::Bits { argument, mask, value } => Ok(vec![one(bits(argument, mask, value))?]),
            Self::OneOf { argument, values } => {
                values.iter().map(|value| one(bits(argument, u64::from(u32::MAX), *value))).collect()
            }
            Self::Itself => {
                let own = u64::from(std::process::id());
                Ok(vec![one(bits(0, u64::from(u32::MAX), own))?])
            }
        }
    }
}

/// The calls of the table by number, with the reason for each: for the page that documents them.
pub fn allowed() -> impl Iterator<Item = (c_long, &'static str)> {
    let mapped = (libc::SYS_mmap, "malloc, stacks of threads");
    ALLOWED.iter().map(|Allowed(number, _, reason)| (*number, *reason)).chain([mapped])
}

/// The kernel's name of a system call.
pub(super) fn call_name(number: u32) -> Option<&'static str> {
    syscalls::Sysno::new(usize::try_from(number).ok()?).map(|call| call.name())
}

fn bits(argument: u8, mask: u64, value: u64) -> FilterResult<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Calls and reasons in the table below this heading of the page.
    fn documented(heading: &str) -> BTreeSet<(String, String)> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
        let text = std::fs::read_to_string(page).unwrap();
        let table = text.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
        let cells =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').collect::<Vec<_>>().into());
        cells
            .map(|cells: Vec<&str>| {
                (cells[0].trim_matches([' ', '`']).to_owned(), cells[2].trim().to_owned())
            })
            .collect()
    }

    fn named(calls: impl Iterator<Item = (c_long, &'static str)>) -> BTreeSet<(String, String)> {
        let name = |number| call_name(u32::try_from(number).unwrap()).unwrap().to_owned();
        calls.map(|(number, why)| (name(number), why.to_owned())).collect()
    }

    /// The page's table and the filter are the same list.
    #[test]
    fn the_documented_calls_are_the_allowed_ones() {
        assert_eq!(documented("## The table of calls"), named(allowed()));
    }

    #[test]
    fn the_documented_calls_for_files_are_the_allowed_ones() {
        let more = ALLOWED_FOR_FILES.iter().map(|Allowed(number, _, why)| (*number, *why));
        assert_eq!(documented("## Files"), named(more));
    }
}
