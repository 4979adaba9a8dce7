//! FFmpeg in the encoder's role: the stream that validates the checker and the browser driver, and the peer that `make
//! bench` measures against.

use crate::patience::eventually;
use crate::process::Program;
use crate::static_server::StaticServer;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One rung of the ladder.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// Rung name.
    pub name: &'static str,
    /// Height in pixels.
    pub height: u32,
    /// Bitrate in bits per second; `None` passes the source through.
    pub bitrate: Option<u32>,
}

/// One FFmpeg process that encodes a ladder to fMP4 HLS.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Rungs, largest first.
    pub rungs: Vec<Rung>,
    /// Keyframe interval in seconds.
    pub gop_seconds: f64,
    /// Segment duration in seconds.
    pub segment_seconds: f64,
    /// x264 preset.
    pub preset: &'static str,
    /// Frame rate of the source in frames per second.
    pub frame_rate: u32,
    /// Number of segments in a playlist; 0 keeps all.
    pub window: u32,
    /// Additional x264 parameters.
    pub x264: &'static str,
}

impl Reference {
    /// Three rungs, 2 s segments, as `make bench` compares them.
    pub fn three_rungs() -> Self {
        Self {
            rungs: vec![
                Rung { name: "720p", height: 720, bitrate: Some(2_800_000) },
                Rung { name: "480p", height: 480, bitrate: Some(1_400_000) },
                Rung { name: "360p", height: 360, bitrate: Some(800_000) },
            ],
            gop_seconds: 2.0,
            segment_seconds: 2.0,
            preset: "veryfast",
            frame_rate: 30,
            window: 8,
            x264: "scenecut=0:open-gop=0",
        }
    }

    /// The command that reads `input` and writes `index.m3u8` and one folder per rung into `folder`.
    pub fn command(&self, input: &[&str], folder: &Path) -> Command {
        let mut command = Command::new("ffmpeg");
        command.current_dir(folder).args(["-nostdin", "-hide_banner", "-loglevel", "warning"]).args(input);
        let encoded: Vec<&Rung> = self.rungs.iter().filter(|r| r.bitrate.is_some()).collect();
        if !encoded.is_empty() {
            let outputs: String = (0..encoded.len()).map(|i| format!("[s{i}]")).collect();
            let scales =
                encoded.iter().enumerate().map(|(i, r)| format!("[s{i}]scale=-2:{}[v{i}]", r.height));
            let graph =
                format!("[0:v]split={}{outputs};{}", encoded.len(), scales.collect::<Vec<_>>().join(";"));
            command.args(["-filter_complex", &graph]);
        }
        let mut next = 0;
        for rung in &self.rungs {
            match rung.bitrate {
                Some(_) => {
                    command.arg("-map").arg(format!("[v{next}]"));
                    next += 1;
                }
                None => {
                    command.args(["-map", "0:v"]);
                }
            }
        }
        command.args(["-map", "0:a", "-c:a", "copy"]);
        let gop = (self.gop_seconds * f64::from(self.frame_rate)).round() as u32;
        for (i, rung) in self.rungs.iter().enumerate() {
            let mut set = |option: &str, value: &str| {
                command.arg(format!("-{option}:v:{i}")).arg(value);
            };
            let Some(bitrate) = rung.bitrate else {
                set("c", "copy");
                continue;
            };
            set("c", "libx264");
            set("preset", self.preset);
            set("b", &bitrate.to_string());
            set("maxrate", &bitrate.to_string());
            set("bufsize", &bitrate.to_string());
            set("g", &gop.to_string());
            set("keyint_min", &gop.to_string());
            set("x264-params", self.x264);
        }
        let variants: Vec<String> = self
            .rungs
            .iter()
            .enumerate()
            .map(|(i, r)| format!("v:{i},agroup:audio,name:{}", r.name))
            .collect();
        let map = format!("{} a:0,agroup:audio,default:yes,name:audio", variants.join(" "));
        command.args(["-f", "hls", "-hls_segment_type", "fmp4", "-hls_flags"]);
        command.arg("independent_segments+program_date_time+temp_file");
        command.arg("-hls_time").arg(self.segment_seconds.to_string());
        command.arg("-hls_list_size").arg(self.window.to_string());
        command.args(["-master_pl_name", "index.m3u8", "-hls_fmp4_init_filename", "init.mp4"]);
        command.args(["-hls_segment_filename", "%v/seg-%d.m4s", "-var_stream_map", &map, "%v/index.m3u8"]);
        command
    }
}

/// A live stream made by FFmpeg, with its own HTTP server.
pub struct Live {
    /// Folder with the playlists.
    pub folder: tempfile::TempDir,
    /// Serves that folder, `tests/js/node_modules` and `tests/js`.
    pub server: StaticServer,
    program: Program,
}

impl Live {
    /// Publishes `clip` in an endless loop, in real time.
    #[track_caller]
    pub fn start(reference: &Reference, clip: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let js = crate::encoder_process::workspace().join("tests/js");
        let roots: Vec<PathBuf> = vec![folder.path().to_owned(), js.join("node_modules"), js];
        let server = StaticServer::start(roots).expect("a port");
        let clip = clip.to_string_lossy();
        let mut command = reference.command(&["-stream_loop", "-1", "-re", "-i", &clip], folder.path());
        let program = Program::spawn("ffmpeg (reference)", &mut command);
        let master = folder.path().join("index.m3u8");
        eventually("the reference stream's playlist", Duration::from_secs(30), || {
            master.exists().then_some(())
        });
        Self { folder, server, program }
    }

    /// URL of the multivariant playlist.
    pub fn url(&self) -> String {
        self.server.url("index.m3u8")
    }

    /// URL of a minimal page with hls.js that plays the stream at `url`.
    pub fn bare_page(&self, url: &str) -> String {
        self.server.url(&format!("player.html?src={url}"))
    }

    /// Stops FFmpeg with SIGSTOP: writing ends without notice, as with a hung server.
    pub fn freeze(&self) {
        self.program.signal(rustix::process::Signal::STOP);
    }

    /// Ends the stream; the playlists get EXT-X-ENDLIST.
    pub fn stop(&mut self) -> String {
        self.program.signal(rustix::process::Signal::INT);
        self.program.wait(Duration::from_secs(10));
        self.program.output()
    }
}
