//! An admitted publisher: it feeds its stream until it leaves or another publisher takes its place.

use super::admit::BroadcastEnd;
use super::control::PublisherFacts;
use super::{MOVES_WITHIN, Registry, StreamEntry};
use crate::config::PublishLimits;
use crate::ingest::{MediaSink, ReconnectRequest};
use crate::logging::counts;
use crate::origin::StreamPath;
use crate::stream::core::StreamCore;
use crate::stream::driver::now;
use rtmp::ingest::{Ingest, Notice, Oddities, WARN_AFTER};
use rtmp::timeline::Repairs;
use rtmp::{EndReason, MediaMessage, Metadata, Refusal};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::watch;
use tokio::time::Sleep;
use tracing::{info, warn};

/// An admitted publisher.
pub(crate) struct Publisher {
    pub(super) entry: Arc<StreamEntry>,
    pub(super) number: u64,
    pub(super) ingest: Ingest,
    /// What the publisher may cost.
    pub(super) limits: PublishLimits,
    /// When the broadcast ends at the latest.
    pub(super) ends: BroadcastEnd,
    /// Resolves at that time. Kept, because `sent_off` is awaited anew for each message.
    pub(super) over: Pin<Box<Sleep>>,
    /// Repairs and odd messages that are already counted in the metrics.
    pub(super) counted: (Repairs, Oddities),
    /// Whether the publisher has said goodbye: its stream ends unless the publisher comes back at once.
    pub(super) has_said_goodbye: bool,
    pub(super) sent_off: watch::Receiver<Option<Refusal>>,
    pub(super) path: StreamPath,
    pub(super) registry: Weak<Registry>,
}

impl MediaSink for Publisher {
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal> {
        {
            let mut present = self.entry.present();
            if present.number != self.number {
                return Err(Refusal::AlreadyPublishing);
            }
            present.last_message_at = message.arrived;
            if let Some(facts) = &mut present.facts {
                facts.received(message.payload.len(), message.arrived);
            }
        }
        self.entry.events.received(message.payload.len());
        let arrived = message.arrived;
        let media = self.ingest.push(message)?;
        let mut media = media.peekable();
        let readable = media.peek().is_some();
        self.count();
        if let Some(notice) = self.ingest.take_notice() {
            warn_of(&self.path, notice);
        }
        for media in media {
            let mut present = self.entry.present();
            if present.number != self.number {
                return Err(Refusal::AlreadyPublishing);
            }
            present.inspector.media(&media);
            self.entry.core.with(|core, now| core.media(media, arrived, now));
        }
        let mut present = self.entry.present();
        if present.number == self.number {
            let (repairs, oddities) = (self.ingest.repairs(), self.ingest.oddities());
            present.inspector.counted(repairs, oddities, self.ingest.standing_notices());
        }
        drop(present);
        Ok(readable)
    }

    fn most_bits_per_second(&self) -> u64 {
        self.limits.bits_per_second
    }

    fn metadata(&mut self, metadata: Metadata) {
        self.ingest.metadata(&metadata);
        {
            let mut present = self.entry.present();
            if present.number == self.number {
                present.inspector.metadata(&metadata);
            }
        }
        self.entry.core.with(|core, _| core.metadata(metadata));
    }

    async fn sent_off(&mut self) -> Refusal {
        loop {
            if let Some(refusal) = self.sent_off.borrow_and_update().clone() {
                return refusal;
            }
            tokio::select! {
                changed = self.sent_off.changed() => {
                    if changed.is_err() {
                        return Refusal::AlreadyPublishing;
                    }
                }
                () = self.over.as_mut() => {
                    // No publisher is awaited any more: the broadcast is over.
                    self.entry.core.with(|core, now| core.close(now));
                    return self.ends.refusal();
                }
            }
        }
    }

    fn reconnect(&self) -> Option<watch::Receiver<Option<ReconnectRequest>>> {
        let present = self.entry.present();
        present.reconnect.as_ref().filter(|_| present.number == self.number).map(watch::Sender::subscribe)
    }

    fn said_goodbye(&mut self) {
        self.has_said_goodbye = true;
        {
            let present = self.entry.present();
            if present.number == self.number {
                self.entry.core.with(StreamCore::publisher_gone);
                self.entry.published.send_replace(false);
            }
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.review_gate();
        }
    }

    fn end(self, reason: EndReason) {
        if self.entry.present().number == self.number {
            self.entry.events.publisher_ends(reason);
        }
        let repairs = counts(self.ingest.repairs().by_kind());
        let oddities = counts(self.ingest.oddities().by_kind());
        info!(stream = %self.path, reason = reason.as_str(), repairs, oddities, "publisher is gone");
    }
}

impl Publisher {
    /// Says who publishes, for operators.
    pub(super) fn introduce(&self, client: String, peer: SocketAddr, can_reconnect: bool) {
        let mut present = self.entry.present();
        if present.number == self.number {
            present.facts = Some(PublisherFacts::new(client, peer, now().wall, Instant::now()));
            present.reconnect = can_reconnect.then(|| watch::Sender::new(None));
        }
    }

    /// Brings the metrics up to what the ingest has counted.
    fn count(&mut self) {
        let now = (self.ingest.repairs(), self.ingest.oddities());
        let before = std::mem::replace(&mut self.counted, now);
        if now == before {
            return;
        }
        for (kind, count) in now.0.since(&before.0).by_kind().filter(|(_, count)| *count > 0) {
            metrics::counter!("encoder_timestamp_repairs_total", "kind" => kind).increment(count);
        }
        for ((kind, count), (_, counted)) in now.1.by_kind().zip(before.1.by_kind()) {
            if count > counted {
                metrics::counter!("encoder_odd_messages_total", "kind" => kind).increment(count - counted);
            }
        }
    }
}

/// Says that a publisher sends media of a kind of which nothing can be read.
fn warn_of(path: &StreamPath, Notice { kind, reason }: Notice) {
    let seconds = WARN_AFTER.as_secs();
    metrics::counter!("encoder_unreadable_media_total", "kind" => kind.as_str(), "reason" => reason)
        .increment(1);
    warn!(
        stream = %path,
        kind = kind.as_str(),
        reason,
        seconds,
        "the publisher sends media that cannot be read: viewers do not get it; change the codec in the publisher"
    );
}

/// Frees the place however the connection ended, a panic included. A publisher that has said goodbye is not awaited: its
/// stream ends at once.
impl Drop for Publisher {
    fn drop(&mut self) {
        {
            let mut present = self.entry.present();
            if present.number == self.number {
                present.inspector.publisher_left();
                let asked = present.asked_at.map(|asked| asked.elapsed());
                match asked {
                    // Another encoder goes on with the stream.
                    Some(ago) if ago < MOVES_WITHIN => self.entry.core.with(StreamCore::publisher_gone),
                    // It finished in peace at an encoder that drains.
                    Some(_) => self.entry.core.with(|core, now| core.close(now)),
                    None if self.has_said_goodbye => self.entry.core.with(|core, now| core.close(now)),
                    None => self.entry.core.with(StreamCore::publisher_gone),
                }
                self.entry.published.send_replace(false);
                self.entry.events.publisher_gone(self.entry.core.look(StreamCore::is_waiting));
            }
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.review_gate();
        }
    }
}
