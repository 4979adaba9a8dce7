//! What code injected into the worker can do: a unit with an attack's name makes the worker try it ([`transcode`]'s
//! `attack`). One test for each attack: as root and as another user, and with walls left out, because kernels and
//! clusters do without them.

use crate::support::{Source, job, rung};
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use transcode::confine::{Confinement, SandboxMode, Wall};
use transcode::wire::Request;
use transcode::wire::protocol::FrameWriter;

/// A user that is not root, as in the container image.
pub(crate) const NOBODY: u32 = 10_001;

/// How a worker ended.
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, signal, stdout, stderr } = self;
        write!(f, "code {code:?}, signal {signal:?}, {} bytes, {stderr:?}", stdout.len())
    }
}

/// Runs a worker of this user and with these arguments on these bytes.
pub(crate) fn run(user: u32, arguments: &[&str], input: &[u8]) -> Ending {
    let mut child = Command::new(env!("CARGO_BIN_EXE_encoder"))
        .arg("transcode-worker")
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .uid(user)
        .gid(user)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Fails when the worker has been killed meanwhile.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Ending {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Requests as the supervisor sends them.
pub(crate) fn encoded(requests: &[Request]) -> Vec<u8> {
    let (mut writer, mut bytes) = (FrameWriter::new(), BytesMut::new());
    for request in requests {
        writer.encode(request, &mut bytes).unwrap();
    }
    bytes.to_vec()
}

/// A short job whose fourth unit carries the attack.
pub(crate) fn attack(name: &str) -> Vec<u8> {
    let mut requests = vec![Request::Start(job(vec![rung(160, 90, 25, 200_000)]))];
    requests.extend(Source::video("160x90", "25", 1, "").requests);
    let units = requests.iter_mut().filter_map(|request| match request {
        Request::Unit(unit) => Some(&mut unit.unit),
        _ => None,
    });
    let unit = units.into_iter().nth(3).unwrap();
    unit.data = Bytes::from([&unit.data[..], &transcode::attack_message(name)].concat());
    requests.push(Request::Finish);
    encoded(&requests)
}

/// The users and the walls left out with which every attack must fail.
fn settings() -> Vec<(u32, Vec<&'static str>)> {
    let walls: [&[&str]; 4] =
        [&[], &["--without=namespaces"], &["--without=landlock"], &["--without=landlock,namespaces"]];
    let own = rustix::process::getuid().as_raw();
    let users = if own == 0 { vec![0, NOBODY] } else { vec![own] };
    users.into_iter().flat_map(|user| walls.map(|walls| (user, walls.to_vec()))).collect()
}

/// The attack ends the worker, by the kernel, at this call.
fn fatal(name: &str, call: i64) {
    let input = attack(name);
    for (user, arguments) in settings() {
        let ending = run(user, &arguments, &input);
        assert_eq!(ending.signal, Some(libc::SIGSYS), "{name} as {user} {arguments:?}: {ending:?}");
        assert_eq!(ending.stderr, format!("{}{call}\n", transcode::FORBIDDEN_CALL), "{user} {arguments:?}");
    }
}

/// The call of the attack fails with this error number, and the worker does its job.
fn refused(name: &str, errno: i32) {
    let input = attack(name);
    for (user, arguments) in settings() {
        let ending = run(user, &arguments, &input);
        assert_eq!(ending.code, Some(0), "{name} as {user} {arguments:?}: {ending:?}");
        assert_eq!(
            ending.stderr,
            format!("worker: attack {name}: refused: {errno}\n"),
            "{user} {arguments:?}"
        );
    }
}

macro_rules! attacks {
    ($($test:ident: $outcome:ident($name:literal, $value:expr);)*) => {
        $(#[test]
        fn $test() {
            $outcome($name, i64::from($value).try_into().unwrap());
        })*
    };
}

attacks! {
    opens_a_file: refused("open", libc::EACCES);
    reads_the_environment_of_another_process: refused("proc", libc::EACCES);
    clones_in_the_new_way: refused("clone3", libc::ENOSYS);
    asks_for_a_terminal: refused("terminal", libc::ENOTTY);
    opens_a_file_in_the_new_way: fatal("openat2", libc::SYS_openat2);
    makes_a_socket: fatal("socket", libc::SYS_socket);
    closes_a_descriptor_for_a_socket: fatal("close-and-socket", libc::SYS_close);
    connects: fatal("connect", libc::SYS_connect);
    binds: fatal("bind", libc::SYS_bind);
    runs_a_program: fatal("execve", libc::SYS_execve);
    runs_a_program_by_its_descriptor: fatal("fexecve", libc::SYS_execveat);
    forks: fatal("fork", libc::SYS_clone);
    forks_into_a_namespace: fatal("fork-namespace", libc::SYS_clone);
    kills_the_supervisor: fatal("kill", libc::SYS_kill);
    kills_a_thread_of_the_supervisor: fatal("tgkill", libc::SYS_tgkill);
    traces_the_supervisor: fatal("ptrace", libc::SYS_ptrace);
    reads_the_supervisors_memory: fatal("process-vm-readv", libc::SYS_process_vm_readv);
    writes_the_supervisors_memory: fatal("process-vm-writev", libc::SYS_process_vm_writev);
    deletes_a_recording: fatal("unlink", libc::SYS_unlinkat);
    renames_a_recording: fatal("rename", libc::SYS_renameat2);
    maps_code: fatal("mmap-exec", libc::SYS_mmap);
    maps_a_file: fatal("mmap-file", libc::SYS_mmap);
    makes_data_code: fatal("mprotect-exec", libc::SYS_mprotect);
    makes_data_code_with_a_key: fatal("pkey-mprotect", libc::SYS_pkey_mprotect);
    sets_up_a_ring: fatal("io-uring", libc::SYS_io_uring_setup);
    loads_a_kernel_program: fatal("bpf", libc::SYS_bpf);
    handles_page_faults: fatal("userfaultfd", libc::SYS_userfaultfd);
    reads_keys: fatal("keyctl", libc::SYS_keyctl);
    mounts: fatal("mount", libc::SYS_mount);
    enters_a_namespace: fatal("setns", libc::SYS_setns);
    makes_a_namespace: fatal("unshare", libc::SYS_unshare);
    makes_a_file_in_memory: fatal("memfd", libc::SYS_memfd_create);
    makes_itself_readable: fatal("prctl", libc::SYS_prctl);
    handles_forbidden_calls: fatal("sigaction", libc::SYS_rt_sigaction);
    changes_the_filter: fatal("seccomp", libc::SYS_seccomp);
    raises_its_limits: fatal("setrlimit", libc::SYS_prlimit64);
    becomes_root: fatal("setuid", libc::SYS_setuid);
    types_into_a_terminal: fatal("ioctl", libc::SYS_ioctl);
    doubles_a_descriptor: fatal("dup", libc::SYS_dup);
    calls_a_number_of_no_kernel: fatal("unknown", 4_000);
    calls_by_another_number: fatal("x32", 0x4000_0000 | libc::SYS_socket);
}

/// The attacks are real: a worker without walls carries them out.
#[test]
fn without_walls_the_attacks_succeed() {
    for name in ["open", "openat2", "socket", "close-and-socket", "fork", "kill", "memfd", "mmap-exec"] {
        let ending =
            run(rustix::process::getuid().as_raw(), &["--sandbox=off", "--without=limits"], &attack(name));
        if name == "close-and-socket" {
            // Its stderr is closed: it cannot tell.
            continue;
        }
        assert!(ending.stderr.starts_with(&format!("worker: attack {name}: done: ")), "{name}: {ending:?}");
    }
}

/// Each of the other walls holds without the filter of system calls.
#[test]
fn the_other_walls_hold_alone() {
    let own = rustix::process::getuid().as_raw();
    let landlock = ["--sandbox=best-effort", "--without=system-calls,namespaces,limits"];
    for (name, errno) in [("open", libc::EACCES), ("proc", libc::EACCES)] {
        let ending = run(own, &landlock, &attack(name));
        assert_eq!(ending.stderr, format!("worker: attack {name}: refused: {errno}\n"));
    }
    let limits = ["--sandbox=best-effort", "--without=system-calls,namespaces,landlock"];
    for (name, errno) in [("open", libc::EMFILE), ("socket", libc::EMFILE), ("memfd", libc::EMFILE)] {
        let ending = run(own, &limits, &attack(name));
        assert_eq!(ending.stderr, format!("worker: attack {name}: refused: {errno}\n"));
    }
}

/// What the worker says about its walls.
fn report(arguments: &[&str]) -> Confinement {
    let ending = run(NOBODY, &[&["--report"], arguments].concat(), &[]);
    assert_eq!((ending.code, ending.stderr.as_str()), (Some(0), ""), "{ending:?}");
    serde_json::from_slice(&ending.stdout).unwrap()
}

#[test]
fn a_worker_reports_the_walls_that_are_missing() {
    // An old kernel has a part of Landlock, and a container may have no namespaces; strict insists on the other walls.
    let strict = report(&[]);
    let optional =
        strict.missing.iter().all(|missing| matches!(missing.wall, Wall::Landlock | Wall::Namespaces));
    assert!(strict.mode == SandboxMode::Strict && optional, "{strict:?}");
    let without = report(&["--sandbox=best-effort", "--without=landlock,namespaces"]);
    let missing: Vec<Wall> = without.missing.iter().map(|missing| missing.wall).collect();
    assert_eq!((without.mode, missing), (SandboxMode::BestEffort, vec![Wall::Namespaces, Wall::Landlock]));
}

#[test]
fn a_strict_worker_that_cannot_be_confined_does_not_start() {
    let ending = run(NOBODY, &["--without=system-calls"], &attack("open"));
    assert_eq!(ending.code, Some(71), "{ending:?}");
    assert!(ending.stderr.contains("cannot be confined: system-calls"), "{ending:?}");
    let ending = run(NOBODY, &["--sandbox=best-effort", "--without=system-calls"], &attack("open"));
    assert_eq!(
        ending.stderr,
        format!("worker: attack open: refused: {}\n", libc::EMFILE),
        "the limits stand"
    );
}
