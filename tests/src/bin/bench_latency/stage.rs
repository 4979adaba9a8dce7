//! The watched streams: the encoder at one setting, and a common setup without it.

use anyhow::{Context, ensure};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::edge_process::Edge;
use tests::encoder_process::{Encoder, Options, free_port, workspace};
use tests::footage::{Camera, Exposed, Footage};
use tests::keeper::{self, Keeper};
use tests::patience::{eventually, pause};
use tests::process::{Program, listens};
use tests::reference::{Reference, Rung};
use tests::static_server::StaticServer;
use tests::varnish::{Freshness, Varnish};
use transcode::pattern::read_clock;

/// Picture size of the published stream in pixels.
pub(crate) const SIZE: (usize, usize) = (960, 540);
/// Rungs small enough for two processors to run publisher, encoder and browser at half load: otherwise the benchmark
/// would measure the browser.
pub(crate) const RUNGS: [Rung; 2] = [
    Rung { name: "540p", height: 540, bitrate: Some(1_500_000) },
    Rung { name: "360p", height: 360, bitrate: Some(700_000) },
];
/// x264 preset of all contenders.
pub(crate) const PRESET: &str = "superfast";
/// Stream name and key.
const STREAM: &str = "bench";
/// Publishing time before a viewer starts, in addition to the latency setting: playlists then have the length that
/// every viewer but the first finds.
const LEAD: Duration = Duration::from_secs(5);

/// What plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Player {
    /// The encoder's player page.
    Page,
    /// hls.js with its defaults.
    HlsJs,
    /// hls.js with low-latency mode off.
    Plain,
}

/// Who answers the player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The encoder.
    Origin,
    /// An edge in front of the encoder.
    Edge,
    /// Varnish, in the place of a CDN, in front of that edge.
    Varnish,
    /// A plain web server with the files of the directory store. It has no page.
    Store,
}

/// A viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Viewer {
    pub(crate) player: Player,
    pub(crate) server: Server,
}

impl Viewer {
    /// Viewers of one encoder without edges.
    pub(crate) const ALONE: [Self; 3] = [
        Self::new(Player::Page, Server::Origin),
        Self::new(Player::Plain, Server::Origin),
        Self::new(Player::Plain, Server::Store),
    ];
    /// Viewers through edges, each after the same player at the origin.
    pub(crate) const THROUGH_EDGES: [Self; 6] = [
        Self::new(Player::Page, Server::Origin),
        Self::new(Player::Page, Server::Edge),
        Self::new(Player::Page, Server::Varnish),
        Self::new(Player::HlsJs, Server::Origin),
        Self::new(Player::HlsJs, Server::Edge),
        Self::new(Player::HlsJs, Server::Varnish),
    ];

    const fn new(player: Player, server: Server) -> Self {
        Self { player, server }
    }

    /// Name in tables; of viewers without edges also in `BENCH_ONLY`.
    pub(crate) fn name(self) -> String {
        let player = match self.player {
            Player::Page => "page",
            Player::HlsJs => "hls.js",
            Player::Plain => "plain",
        };
        match self.server {
            Server::Origin => player.to_owned(),
            Server::Edge => format!("{player}, edge"),
            Server::Varnish => format!("{player}, Varnish and edge"),
            Server::Store => "store".to_owned(),
        }
    }

    /// Whether an edge is between this viewer and the encoder.
    pub(crate) fn is_through_edge(self) -> bool {
        match self.server {
            Server::Edge | Server::Varnish => true,
            Server::Origin | Server::Store => false,
        }
    }
}

/// The encoder at one setting, with a camera publishing to it.
pub(crate) struct Stage {
    camera: Camera,
    encoder: Encoder,
    keeper: Keeper,
    store: StaticServer,
    edges: Option<Edges>,
}

/// An edge in front of the encoder, and Varnish in front of the edge.
struct Edges {
    varnish: Varnish,
    edge: Edge,
}

impl Edges {
    fn start(encoder: &Encoder) -> Self {
        let edge = Edge::start(&["--encoders", &format!("127.0.0.1:{}", encoder.ports.http)]);
        let varnish = Varnish::start(edge.address(), Freshness::Server);
        Self { varnish, edge }
    }

    fn stop(self) {
        drop(self.varnish);
        self.edge.stop();
    }
}

impl Stage {
    /// Starts encoder and camera, and waits until the stream has run for a while.
    pub(crate) fn start(knob: f64, footage: &Footage, clip: &Path) -> anyhow::Result<Self> {
        let kbps = |rung: &Rung| rung.bitrate.unwrap_or(0) / 1000;
        let ladder = RUNGS.each_ref().map(|rung| format!("{}@{}k", rung.name, kbps(rung)));
        let options = Options::default()
            .set("--latency", &knob.to_string())
            .set("--ladder", &ladder.join(","))
            .set("--preset", PRESET);
        let encoder = Encoder::start(options.unjudged());
        let keeper = Keeper::start(encoder.output.path().join("live").join(STREAM));
        let store = serve(encoder.output.path())?;
        let camera = Camera::start(footage.clone(), clip, &encoder.rtmp_url(STREAM))?;
        encoder.wait_for_stream(STREAM);
        pause(Duration::from_secs_f64(knob) + LEAD);
        Ok(Self { camera, encoder, keeper, store, edges: None })
    }

    /// Starts an edge in front of the encoder, and Varnish in front of the edge.
    pub(crate) fn add_edges(&mut self) {
        self.edges = Some(Edges::start(&self.encoder));
    }

    /// URL of the page that a viewer opens.
    ///
    /// # Errors
    /// The viewer's server was not started.
    pub(crate) fn page(&self, viewer: Viewer) -> anyhow::Result<String> {
        let edges = || self.edges.as_ref().context("no edges were started");
        let at = |path: &str| {
            Ok::<_, anyhow::Error>(match viewer.server {
                Server::Origin => self.encoder.url(path),
                Server::Edge => edges()?.edge.url(path),
                Server::Varnish => edges()?.varnish.url(path),
                Server::Store => self.store.url(path),
            })
        };
        let playlist = format!("live/{STREAM}/index.m3u8");
        Ok(match viewer.player {
            Player::Page => at(&format!("?stream=live/{STREAM}"))?,
            Player::HlsJs => bare_page(&self.store, &at(&playlist)?, "{}"),
            Player::Plain => bare_page(&self.store, &at(&playlist)?, r#"{"lowLatencyMode":false}"#),
        })
    }

    /// The frames published so far.
    pub(crate) fn exposed(&mut self) -> anyhow::Result<Exposed> {
        self.camera.check()?;
        Ok(self.camera.exposed())
    }

    /// Ends the stream; returns the clocks of all frames of the largest rung that reached the store.
    pub(crate) fn finish(self) -> anyhow::Result<BTreeSet<u64>> {
        let Self { camera, encoder, keeper, store, edges } = self;
        drop((camera, store));
        if let Some(edges) = edges {
            edges.stop();
        }
        let playlist = encoder.url(&format!("live/{STREAM}/{}/index.m3u8", RUNGS[0].name));
        eventually("the stream's end", Duration::from_secs(30), || {
            encoder.client.get(&playlist).ok()?.text().ok()?.contains("ENDLIST").then_some(())
        });
        encoder.stop();
        clocks(&keeper.folder().join(RUNGS[0].name))
    }
}

/// FFmpeg as RTMP server, encoder and HLS writer, with a plain web server for the files.
pub(crate) struct FfmpegStage {
    camera: Camera,
    _program: Program,
    server: StaticServer,
    _folder: tempfile::TempDir,
}

impl FfmpegStage {
    /// Starts FFmpeg with segments and GOPs of this many seconds.
    pub(crate) fn start(segment_seconds: f64, footage: &Footage, clip: &Path) -> anyhow::Result<Self> {
        let mut reference = Reference::three_rungs();
        reference.rungs = RUNGS.to_vec();
        reference.preset = PRESET;
        (reference.gop_seconds, reference.segment_seconds) = (segment_seconds, segment_seconds);
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let url = format!("rtmp://127.0.0.1:{port}/live/{STREAM}");
        let mut command = reference.command(&["-f", "flv", "-listen", "1", "-i", &url], folder.path());
        let program = Program::spawn("ffmpeg (contender)", &mut command);
        eventually("FFmpeg to listen", Duration::from_secs(10), || listens(port).then_some(()));
        let server = serve(folder.path())?;
        let camera = Camera::start(footage.clone(), clip, &url)?;
        let master = folder.path().join("index.m3u8");
        eventually("FFmpeg's playlist", Duration::from_secs(30), || master.exists().then_some(()));
        pause(Duration::from_secs(5) + LEAD);
        Ok(Self { camera, _program: program, server, _folder: folder })
    }

    /// URL of the page: hls.js with its defaults.
    pub(crate) fn page(&self) -> String {
        bare_page(&self.server, &self.server.url("index.m3u8"), "{}")
    }

    /// The frames published so far.
    pub(crate) fn exposed(&mut self) -> anyhow::Result<Exposed> {
        self.camera.check()?;
        Ok(self.camera.exposed())
    }
}

/// Serves a folder and the minimal player page.
fn serve(folder: &Path) -> std::io::Result<StaticServer> {
    let js = workspace().join("tests/js");
    StaticServer::start(vec![folder.to_owned(), js.join("node_modules"), js])
}

fn bare_page(server: &StaticServer, url: &str, config: &str) -> String {
    // Escape the characters of such a configuration that may not appear in a URL.
    let config = config.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    server.url(&format!("player.html?src={url}&config={config}"))
}

/// The clocks that can be read off all segments of a rung.
fn clocks(folder: &Path) -> anyhow::Result<BTreeSet<u64>> {
    let files = keeper::files("", folder)?;
    let whole = tempfile::NamedTempFile::new()?;
    for part in std::iter::once(&files.init).chain(&files.segments) {
        std::io::copy(&mut std::fs::File::open(part)?, &mut whole.as_file())?;
    }
    let (width, height) = SIZE;
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-i"]).arg(PathBuf::from(whole.path()));
    command.args(["-vsync", "passthrough", "-vf"]).arg(format!("scale={width}:{height},format=gray"));
    command.args(["-f", "rawvideo", "-"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut ffmpeg = command.spawn().context("ffmpeg does not start")?;
    let mut pictures = ffmpeg.stdout.take().context("a pipe was asked for")?;
    let mut picture = vec![0; width * height];
    let mut found = BTreeSet::new();
    while pictures.read_exact(&mut picture).is_ok() {
        found.extend(read_clock(&picture, width, width, height));
    }
    ensure!(ffmpeg.wait()?.success(), "the stored segments cannot be decoded");
    Ok(found)
}
