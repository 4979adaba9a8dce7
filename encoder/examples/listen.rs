//! Accepts publishers and logs what they send, without encoding anything: `cargo run --example listen 127.0.0.1:1935`.
//! A publish with the stream key `refuse` is refused; one with `off` is ended by the server after 300 media messages.

use encoder::testing::ingest::{Admission, MediaSink, ServerOptions, serve};
use media::{Media, MediaTime};
use rtmp::ingest::Ingest;
use rtmp::{EndReason, MediaMessage, Metadata, PublishRequest, Refusal};
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

struct Everybody;

#[derive(Default)]
struct Report {
    ingest: Ingest,
    metadata: Option<Metadata>,
    /// Decode time and arrival.
    first_and_last: Option<[(MediaTime, Instant); 2]>,
    keys: u64,
    messages_left: Option<u64>,
}

impl Admission for Everybody {
    type Sink = Report;

    async fn admit(&self, request: PublishRequest) -> Result<Report, Refusal> {
        info!(app = request.app, query = request.query, client = request.client, "asks to publish");
        match request.key.expose() {
            "refuse" => Err(Refusal::BadName("this key is refused".into())),
            "off" => Ok(Report { messages_left: Some(300), ..Report::default() }),
            _ => Ok(Report::default()),
        }
    }
}

impl MediaSink for Report {
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal> {
        if let Some(left) = &mut self.messages_left {
            *left = left.checked_sub(1).ok_or(Refusal::Draining)?;
        }
        let arrived = message.arrived;
        for media in self.ingest.push(message)? {
            match media {
                Media::VideoConfig(config) => info!(config.width, config.height, "video"),
                Media::AudioConfig(config) => {
                    info!(config.core_type, config.sample_rate, config.channels, "audio");
                }
                Media::Video(unit) => {
                    self.keys += u64::from(unit.key);
                    let last = (unit.dts, arrived);
                    let first = self.first_and_last.map_or(last, |[first, _]| first);
                    self.first_and_last = Some([first, last]);
                }
                Media::Audio(_) | Media::TrackConfig(..) | Media::Track(..) => {}
            }
        }
        Ok(true)
    }

    fn most_bits_per_second(&self) -> u64 {
        u64::MAX
    }

    fn metadata(&mut self, metadata: Metadata) {
        if self.metadata.as_ref() != Some(&metadata) {
            info!(
                metadata.width,
                metadata.height,
                metadata.frame_rate,
                metadata.video_kbps,
                metadata.audio_kbps,
                metadata.has_video,
                metadata.has_audio,
                metadata.encoder,
                "metadata"
            );
            self.metadata = Some(metadata);
        }
    }

    async fn sent_off(&mut self) -> Refusal {
        std::future::pending().await
    }

    fn end(self, _: EndReason) {
        if let Some([first, last]) = self.first_and_last {
            let media_seconds = (last.0 - first.0).as_secs_f64();
            let wall_seconds = (last.1 - first.1).as_secs_f64();
            info!(media_seconds, wall_seconds, keys = self.keys, "video ended");
        }
        let kinds = self.ingest.repairs().by_kind().chain(self.ingest.oddities().by_kind());
        for (kind, count) in kinds.filter(|(_, count)| *count > 0) {
            info!(kind, count, "repairs and oddities");
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1935".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    info!(address = %listener.local_addr()?, "listening");
    serve(listener, Arc::new(Everybody), ServerOptions::default(), std::future::pending()).await;
    Ok(())
}
