//! A running `encoder lobby`.

use crate::encoder_process::{binary, free_port};
use crate::http::Client;
use crate::patience::eventually;
use crate::process::Program;
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

/// A running `encoder lobby`; dropping it kills the process.
pub struct Lobby {
    program: Program,
    /// Port for publishers.
    pub rtmp: u16,
    /// Admin port.
    pub admin: u16,
    client: Client,
}

impl Lobby {
    /// Starts a lobby for the encoders at these admin ports, and waits until it lives.
    pub fn start(encoders: &str) -> Self {
        let (rtmp, admin) = (free_port(), free_port());
        let mut command = Command::new(binary());
        command.args(["lobby", "--encoders", encoders]);
        command.args(["--rtmp-listen", &format!("127.0.0.1:{rtmp}")]);
        command.args(["--admin-listen", &format!("127.0.0.1:{admin}")]);
        let lobby =
            Self { program: Program::spawn("lobby", &mut command), rtmp, admin, client: Client::default() };
        eventually("the lobby", Duration::from_secs(10), || lobby.get("livez"));
        lobby
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Sends a GET to the admin port; returns status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.client.get(&format!("http://127.0.0.1:{}/{path}", self.admin)).ok()?;
        Some((answer.status, answer.text().ok()?))
    }

    /// Waits until the lobby is ready, or is not.
    pub fn wait_ready(&self, ready: bool) {
        let wanted = if ready { 200 } else { 503 };
        self.wait_until(&format!("with status {wanted}"), |status, _| status == wanted);
    }

    /// Waits until status and body of `/readyz` are as wanted.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(u16, &str) -> bool) {
        eventually(&format!("the lobby's readyz to say {what}"), Duration::from_secs(60), || {
            self.get("readyz").filter(|(status, body)| wanted(*status, body))
        });
    }

    /// Ends the lobby, which must end in order.
    pub fn leave(mut self) {
        self.program.signal(Signal::TERM);
        let status = self.program.wait(Duration::from_secs(10));
        assert!(status.is_some_and(|s| s.success()), "{status:?}\n{}", self.program.output());
    }
}
