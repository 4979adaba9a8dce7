//! The servers that are measured, with a common trait.

use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, free_port};
use tests::keeper::{Keeper, RungFiles, files};
use tests::patience::eventually;
use tests::process::{Program, listens};
use tests::reference::Reference;
use tests::static_server::StaticServer;

/// A server that takes RTMP and produces HLS.
pub(crate) trait Contender {
    /// Name in the table.
    fn name(&self) -> String;
    /// URL to publish stream `n` to.
    fn rtmp_url(&self, n: usize) -> String;
    /// URL of a media playlist of stream `n`: the largest video rung.
    fn playlist(&self, n: usize) -> String;
    /// Root of the measured process tree.
    fn pid(&self) -> u32;
    /// Ends the server in order.
    fn stop(&mut self);
    /// Media files of stream 0 on disk, largest rung first; empty if quality is not compared.
    fn media(&self) -> anyhow::Result<Vec<RungFiles>>;
}

// === impl EncoderRun ===

/// `encoder serve`.
pub(crate) struct EncoderRun {
    encoder: Encoder,
    rungs: Vec<String>,
    keeper: Keeper,
}

impl EncoderRun {
    pub(crate) fn start(ladder: &str, latency: &str, capacity: usize) -> Self {
        let options = Options::default()
            .set("--ladder", ladder)
            .set("--latency", latency)
            .set("--capacity", &capacity.to_string())
            // The tests' default preset is faster.
            .set("--preset", "veryfast")
            .set("--reconnect-window", "1");
        let rungs = ladder.split(',').filter_map(|r| r.split('@').next()).map(str::to_owned).collect();
        let encoder = Encoder::start(options.unjudged());
        let keeper = Keeper::start(encoder.output.path().join("live/bench0"));
        Self { encoder, rungs, keeper }
    }
}

impl Contender for EncoderRun {
    fn name(&self) -> String {
        "encoder".to_owned()
    }

    fn rtmp_url(&self, n: usize) -> String {
        self.encoder.rtmp_url(&format!("bench{n}"))
    }

    fn playlist(&self, n: usize) -> String {
        self.encoder.url(&format!("live/bench{n}/{}/index.m3u8", self.rungs[0]))
    }

    fn pid(&self) -> u32 {
        self.encoder.pid()
    }

    fn stop(&mut self) {
        let url = self.playlist(0);
        eventually("the stream's end", Duration::from_secs(30), || {
            self.encoder.client.get(&url).ok()?.text().ok()?.contains("ENDLIST").then_some(())
        });
    }

    fn media(&self) -> anyhow::Result<Vec<RungFiles>> {
        self.rungs.iter().map(|rung| files(rung, &self.keeper.folder().join(rung))).collect()
    }
}

// === impl FfmpegRun ===

/// One FFmpeg process: RTMP server, ladder, HLS writer.
pub(crate) struct FfmpegRun {
    program: Program,
    folder: tempfile::TempDir,
    server: StaticServer,
    port: u16,
    rungs: Vec<&'static str>,
}

impl FfmpegRun {
    pub(crate) fn start(reference: &Reference) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let url = format!("rtmp://127.0.0.1:{port}/live/bench0");
        let mut command = reference.command(&["-f", "flv", "-listen", "1", "-i", &url], folder.path());
        let program = Program::spawn("ffmpeg (contender)", &mut command);
        let server = StaticServer::start(vec![folder.path().to_owned()])?;
        eventually("FFmpeg to listen", Duration::from_secs(10), || listens(port).then_some(()));
        Ok(Self { program, folder, server, port, rungs: reference.rungs.iter().map(|r| r.name).collect() })
    }
}

impl Contender for FfmpegRun {
    fn name(&self) -> String {
        "ffmpeg".to_owned()
    }

    fn rtmp_url(&self, _: usize) -> String {
        format!("rtmp://127.0.0.1:{}/live/bench0", self.port)
    }

    fn playlist(&self, _: usize) -> String {
        self.server.url(&format!("{}/index.m3u8", self.rungs[0]))
    }

    fn pid(&self) -> u32 {
        self.program.pid()
    }

    fn stop(&mut self) {
        self.program.wait(Duration::from_secs(10));
    }

    fn media(&self) -> anyhow::Result<Vec<RungFiles>> {
        self.rungs.iter().map(|rung| files(rung, &self.folder.path().join(rung))).collect()
    }
}

// === impl NginxRun ===

/// nginx with Debian's RTMP module, one worker process, under the user who runs the benchmark.
pub(crate) struct NginxRun {
    program: Program,
    _folder: tempfile::TempDir,
    server: StaticServer,
    port: u16,
}

impl NginxRun {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let module = Path::new("/usr/lib/nginx/modules/ngx_rtmp_module.so");
        ensure!(module.exists(), "Debian's libnginx-mod-rtmp is not installed");
        let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).exists());
        let nginx = nginx.context("nginx is not installed")?;
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let root = folder.path().display();
        let config = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\nworker_processes 1;\npid {root}/pid;\n\
             error_log {root}/error.log warn;\nevents {{ worker_connections 256; }}\n\
             rtmp {{ access_log off; server {{ listen 127.0.0.1:{port}; chunk_size 4096;\n\
             application live {{ live on; hls on; hls_path {root}/hls; hls_fragment 2s; hls_playlist_length 16s; }}\n}} }}\n",
            module.display()
        );
        std::fs::create_dir(folder.path().join("hls"))?;
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new(nginx);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        let program = Program::spawn("nginx", &mut command);
        eventually("nginx to listen", Duration::from_secs(10), || listens(port).then_some(()));
        let server = StaticServer::start(vec![folder.path().join("hls")])?;
        Ok(Self { program, _folder: folder, server, port })
    }
}

impl Contender for NginxRun {
    fn name(&self) -> String {
        "nginx-rtmp".to_owned()
    }

    fn rtmp_url(&self, n: usize) -> String {
        format!("rtmp://127.0.0.1:{}/live/bench{n}", self.port)
    }

    fn playlist(&self, n: usize) -> String {
        self.server.url(&format!("bench{n}.m3u8"))
    }

    fn pid(&self) -> u32 {
        self.program.pid()
    }

    fn stop(&mut self) {
        self.program.stop(Duration::from_secs(5));
    }

    fn media(&self) -> anyhow::Result<Vec<RungFiles>> {
        Ok(Vec::new())
    }
}
