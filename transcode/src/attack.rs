//! Attacks from inside the worker, for the tests of its confinement: an access unit that contains [`MAGIC`] and the name
//! of an attack makes the worker try a forbidden thing, as code injected through a fault of libav would. Compiled for
//! tests only.
//!
//! An attack that the worker survives is told on stderr: what the kernel answered.

use crate::log;
use crate::raw::any_call;
use libc::c_long;
use media::Unit;
use std::ffi::CStr;
use std::io;

/// Stands before an attack's name in an access unit. The name ends at the first byte that is no lower-case letter,
/// digit, or hyphen.
const MAGIC: &[u8] = b"attack-from-inside:";

/// An H.264 NAL unit that names an attack, behind its length in four bytes: an SEI message of unregistered user data
/// (type 5), which decoders pass over.
///
/// # Panics
/// When the name has more than 200 characters.
pub fn attack_message(name: &str) -> Vec<u8> {
    let text = [MAGIC, name.as_bytes(), b"."].concat();
    let size = u8::try_from(16 + text.len()).expect("a short name");
    // Type, size, 16 bytes that identify the data, the text, and the end of the NAL unit.
    let nal = [&[6, 5, size][..], &[7; 16], &text, &[0x80]].concat();
    [&u32::try_from(nal.len()).expect("a short name").to_be_bytes()[..], &nal].concat()
}

/// Carries out the attack that an access unit names, if the unit names one.
pub(super) fn obey(unit: &Unit) {
    let Some(at) = unit.data.windows(MAGIC.len()).position(|window| window == MAGIC) else { return };
    let name: String = unit.data[at + MAGIC.len()..]
        .iter()
        .map(|byte| char::from(*byte))
        .take_while(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-')
        .collect();
    match attack(&name) {
        Ok(result) => log(format_args!("attack {name}: done: {result}")),
        Err(error) => log(format_args!("attack {name}: refused: {}", error.raw_os_error().unwrap_or(0))),
    }
}

fn text(text: &'static CStr) -> usize {
    text.as_ptr() as usize
}

fn call(number: c_long, arguments: &[usize]) -> io::Result<c_long> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    any_call(number, all)
}

/// The address of the stand-in for a metadata server: 127.0.0.1, port 80.
static ADDRESS: [u8; 16] = [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
/// `struct open_how` of zeros.
static HOW: [u8; 24] = [0; 24];
/// More than any call below writes.
static SCRATCH: [u8; 256] = [0; 256];

fn attack(name: &str) -> io::Result<c_long> {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as usize);
    let here = libc::AT_FDCWD as usize;
    let scratch = SCRATCH.as_ptr() as usize;
    let stream = libc::SOCK_STREAM as usize;
    let (page, write, execute) = (4096, libc::PROT_WRITE as usize, libc::PROT_EXEC as usize);
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    match name {
        "open" => call(libc::SYS_openat, &[here, text(c"/etc/passwd"), 0]),
        "openat2" => call(libc::SYS_openat2, &[here, text(c"/etc/passwd"), HOW.as_ptr() as usize, 24]),
        "socket" => call(libc::SYS_socket, &[libc::AF_INET as usize, stream, 0]),
        "close-and-socket" => {
            let _ = call(libc::SYS_close, &[2]);
            call(libc::SYS_socket, &[libc::AF_INET as usize, stream, 0])
        }
        "connect" => call(libc::SYS_connect, &[0, ADDRESS.as_ptr() as usize, 16]),
        "bind" => call(libc::SYS_bind, &[0, ADDRESS.as_ptr() as usize, 16]),
        "execve" => call(libc::SYS_execve, &[text(c"/bin/true"), 0, 0]),
        // A child that came to life would exit at once: it has this function's stack.
        "fork" => born(call(libc::SYS_clone, &[libc::SIGCHLD as usize])),
        "fork-namespace" => born(call(libc::SYS_clone, &[(libc::SIGCHLD | libc::CLONE_NEWUSER) as usize])),
        "clone3" => call(libc::SYS_clone3, &[scratch, 88]),
        "kill" => call(libc::SYS_kill, &[parent, 0]),
        "tgkill" => call(libc::SYS_tgkill, &[parent, parent, 0]),
        "ptrace" => call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, parent, 0, 0]),
        "process-vm-readv" => call(libc::SYS_process_vm_readv, &[parent, scratch, 1, scratch, 1, 0]),
        "process-vm-writev" => call(libc::SYS_process_vm_writev, &[parent, scratch, 1, scratch, 1, 0]),
        "proc" => call(libc::SYS_openat, &[here, text(c"/proc/1/environ"), 0]),
        "unlink" => call(libc::SYS_unlinkat, &[here, text(c"/tmp/no-such-recording"), 0]),
        "rename" => call(libc::SYS_renameat2, &[here, text(c"/tmp/no-a"), here, text(c"/tmp/no-b"), 0]),
        "mmap-exec" => call(libc::SYS_mmap, &[0, page, write | execute, anonymous, usize::MAX, 0]),
        "mmap-file" => call(libc::SYS_mmap, &[0, page, write, libc::MAP_PRIVATE as usize, 0, 0]),
        "mprotect-exec" => call(libc::SYS_mprotect, &[scratch & !(page - 1), page, execute]),
        "pkey-mprotect" => call(libc::SYS_pkey_mprotect, &[scratch & !(page - 1), page, execute, usize::MAX]),
        "io-uring" => call(libc::SYS_io_uring_setup, &[1, scratch]),
        "bpf" => call(libc::SYS_bpf, &[0, scratch, 64]),
        "userfaultfd" => call(libc::SYS_userfaultfd, &[0]),
        "keyctl" => call(libc::SYS_keyctl, &[0, usize::MAX - 2, 0]),
        "mount" => call(libc::SYS_mount, &[text(c"none"), text(c"/tmp"), text(c"tmpfs"), 0, 0]),
        "setns" => call(libc::SYS_setns, &[0, 0]),
        "unshare" => call(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize]),
        "memfd" => call(libc::SYS_memfd_create, &[text(c"x"), 0]),
        "fexecve" => call(libc::SYS_execveat, &[0, text(c""), 0, 0, libc::AT_EMPTY_PATH as usize]),
        "prctl" => call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1]),
        "sigaction" => call(libc::SYS_rt_sigaction, &[libc::SIGSYS as usize, 0, 0, 8]),
        "seccomp" => call(libc::SYS_seccomp, &[0, 0, 0]),
        "setrlimit" => call(libc::SYS_prlimit64, &[0, libc::RLIMIT_DATA as usize, 0, scratch]),
        "setuid" => call(libc::SYS_setuid, &[0]),
        "ioctl" => call(libc::SYS_ioctl, &[0, libc::TIOCSTI as usize, scratch]),
        "terminal" => call(libc::SYS_ioctl, &[2, libc::TCGETS as usize, scratch]),
        "write" => call(libc::SYS_write, &[0, scratch, 1]),
        "pread" => call(libc::SYS_pread64, &[0, scratch, 1, 0]),
        "truncate" => call(libc::SYS_ftruncate, &[0, 0]),
        "stat" => call(libc::SYS_newfstatat, &[here, text(c"/etc/passwd"), scratch, 0]),
        "dup" => call(libc::SYS_dup, &[0]),
        // The number of a 32-bit call with 64-bit registers; and a number that no kernel has.
        "x32" => call(0x4000_0000 | libc::SYS_socket, &[libc::AF_INET as usize, stream, 0]),
        "unknown" => call(4_000, &[]),
        // Touched, so that it is resident; never freed.
        "leak" => loop {
            std::mem::forget(std::hint::black_box(vec![1_u8; 1 << 20]));
        },
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Ends a child at once.
fn born(outcome: io::Result<c_long>) -> io::Result<c_long> {
    if let Ok(0) = outcome {
        std::process::exit(0);
    }
    outcome
}
