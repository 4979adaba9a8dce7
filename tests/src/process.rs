//! Child processes: collects their output line by line, signals them by process ID, measures them through /proc.

use crate::patience;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running program; dropping it kills the process.
pub struct Program {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts a program with standard input closed and both outputs collected.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e} ({command:?})"));
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| collect(pipe, output.clone())));
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, output.clone())));
        Self { name: name.to_owned(), child, output, readers }
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output and error so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Exit status if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Waits for the process to end and reads all output; `None` if `wait` (stretched by patience) is over first.
    pub fn wait(&mut self, wait: Duration) -> Option<ExitStatus> {
        let status = patience::poll(wait, || self.exited())?;
        for reader in self.readers.drain(..) {
            // A grandchild may hold the pipe open; do not wait for its output.
            if patience::poll(Duration::from_secs(2), || reader.is_finished().then_some(())).is_some() {
                let _ = reader.join();
            }
        }
        Some(status)
    }

    /// Waits for the process to end successfully and returns its output; panics otherwise.
    #[track_caller]
    pub fn succeed(&mut self, wait: Duration) -> String {
        let status = self.wait(wait);
        let output = self.output();
        assert!(status.is_some_and(|s| s.success()), "{} ended with {status:?}:\n{output}", self.name);
        output
    }

    /// Sends SIGTERM, then SIGKILL after `grace`. Returns whether SIGTERM was enough.
    pub fn stop(&mut self, grace: Duration) -> bool {
        if self.exited().is_some() {
            return true;
        }
        self.signal(Signal::TERM);
        if self.wait(grace).is_some() {
            return true;
        }
        let _ = self.child.kill();
        self.wait(Duration::from_secs(5));
        false
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let (mut pipe, mut line) = (BufReader::new(pipe), Vec::new());
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// Sends a signal to a process by its ID; the process may have ended already.
pub fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// /proc statistics of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcStat {
    /// Process ID.
    pub pid: u32,
    /// User and system time of the process and of the children it has waited for, in seconds.
    pub cpu_seconds: f64,
    /// Resident set size in KiB.
    pub rss_kib: u64,
    /// Peak resident set size in KiB.
    pub peak_rss_kib: u64,
    /// Proportional set size in KiB: shared pages count by the process's share.
    pub pss_kib: u64,
    /// Number of open files.
    pub open_files: usize,
    /// Number of threads.
    pub threads: u64,
}

/// Clock ticks per second of utime and stime in /proc/PID/stat: 100 on every Linux that Debian builds.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads /proc; `None` if the process has ended.
pub fn stat(pid: u32) -> Option<ProcStat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program name is in parentheses and may contain any character; fields are counted from the closing
    // parenthesis.
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|f| f.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = |text: &str, key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(ProcStat {
        pid,
        cpu_seconds: ticks / TICKS_PER_SECOND,
        rss_kib: kib(&status, "VmRSS").unwrap_or(0),
        peak_rss_kib: kib(&status, "VmHWM").unwrap_or(0),
        pss_kib: kib(&rollup, "Pss").unwrap_or(0),
        open_files: std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0),
        threads: kib(&status, "Threads").unwrap_or(0),
    })
}

/// Process IDs of the children of `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parent_of = |candidate: u32| {
        let line = std::fs::read_to_string(format!("/proc/{candidate}/stat")).ok()?;
        line.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(|candidate| parent_of(*candidate) == Some(pid))
        .collect()
}

/// `pid` and all its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let more = children(found[at]);
        found.extend(more);
        at += 1;
    }
    found
}

/// Whether a process listens on this port. Does not connect: FFmpeg takes the first connection for its publisher.
pub fn listens(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|l| l.ends_with(&wanted)) && state == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_numbers_are_plausible() {
        let own = stat(std::process::id()).unwrap();
        assert!(
            own.rss_kib > 100
                && own.peak_rss_kib >= own.rss_kib / 2
                && own.threads >= 1
                && own.open_files >= 3
        );
    }

    #[test]
    fn output_and_children_are_seen_and_the_end_is_awaited() {
        let mut program =
            Program::spawn("sh", Command::new("sh").args(["-c", "sleep 60 & echo out; echo err >&2; wait"]));
        patience::eventually("both lines", Duration::from_secs(5), || {
            let output = program.output();
            (output.contains("out\n") && output.contains("err\n")).then_some(())
        });
        let sleeper =
            patience::eventually("the child", Duration::from_secs(5), || children(program.pid()).pop());
        assert_eq!(tree(program.pid()), [program.pid(), sleeper]);
        signal_pid(sleeper, Signal::KILL);
        assert!(program.stop(Duration::from_secs(5)));
    }
}
