//! Who is measured, behind one trait.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, free_port};
use tests::patience::{eventually, pause};
use tests::process::Program;
use tests::reference::Reference;
use tests::static_server::StaticServer;

/// A rung's media on the disk.
pub(crate) struct RungFiles {
    /// Rung name.
    pub(crate) name: String,
    /// Init segment.
    pub(crate) init: PathBuf,
    /// Segments in order.
    pub(crate) segments: Vec<PathBuf>,
}

/// A server that takes RTMP and gives HLS.
pub(crate) trait Contender {
    /// In the table.
    fn name(&self) -> String;
    /// Where stream `n` is published.
    fn rtmp_url(&self, n: usize) -> String;
    /// A media playlist of stream `n`: the largest video rung.
    fn playlist(&self, n: usize) -> String;
    /// The process whose tree is measured.
    fn pid(&self) -> u32;
    /// Ends it in an orderly way.
    fn stop(&mut self);
    /// What stream 0 left on the disk, largest rung first; empty when quality is not compared.
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
            .set("--reconnect-window", "1");
        let rungs = ladder.split(',').filter_map(|r| r.split('@').next()).map(str::to_owned).collect();
        let encoder = Encoder::start(options);
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
        self.rungs.iter().map(|rung| files(rung, &self.keeper.kept.path().join(rung))).collect()
    }
}

/// Keeps media that its writer deletes, by hard links: nothing is asked of whoever is measured.
struct Keeper {
    kept: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Watches the folders in `stream`.
    fn start(stream: PathBuf) -> Self {
        let kept = tempfile::tempdir().expect("a temporary folder");
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped) = (kept.path().to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                link_all(&stream, &into);
                pause(Duration::from_millis(500));
            }
            link_all(&stream, &into);
        });
        Self { kept, stop, thread: Some(thread) }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Links media files of every folder in `from` into a folder of the same name in `into`.
fn link_all(from: &Path, into: &Path) {
    let entries =
        |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    for rung in entries(from).filter(|p| p.is_dir()) {
        let Some(folder) = rung.file_name().map(|name| into.join(name)) else { continue };
        let _ = std::fs::create_dir_all(&folder);
        let media = |p: &PathBuf| p.extension().is_some_and(|e| e == "m4s" || e == "mp4");
        for file in entries(&rung).filter(media) {
            if let Some(name) = file.file_name() {
                // It may exist already, or be gone again.
                let _ = std::fs::hard_link(&file, folder.join(name));
            }
        }
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

/// nginx with the RTMP module of Debian, one worker process, as whoever runs the benchmark.
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

/// Whether somebody listens there, without connecting: FFmpeg takes the first connection for its publisher.
fn listens(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        local.is_some_and(|l| l.ends_with(&wanted)) && state == Some("0A")
    })
}

/// Init segment and segments of a rung's folder; of the first session when there are several.
fn files(name: &str, folder: &Path) -> anyhow::Result<RungFiles> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    let init = names.iter().find(|n| n.contains("init") && n.ends_with(".mp4"));
    let init = init.with_context(|| format!("no init segment in {}", folder.display()))?;
    // Ours are {session}-init.mp4 and {session}-{seq}.m4s, FFmpeg's init_{n}.mp4 and seg-{seq}.m4s.
    let prefix = init.strip_suffix("init.mp4").filter(|p| !p.is_empty()).unwrap_or("seg-");
    let number = |n: &String| n.strip_prefix(prefix)?.strip_suffix(".m4s")?.parse::<u64>().ok();
    let mut numbered: Vec<(u64, &String)> = names.iter().filter_map(|n| Some((number(n)?, n))).collect();
    numbered.sort_unstable();
    let segments = numbered.into_iter().map(|(_, n)| folder.join(n)).collect();
    Ok(RungFiles { name: name.to_owned(), init: folder.join(init), segments })
}
