//! One publisher, for commands that end with its stream: `transcode` and `inspect` with a URL. The publisher's media
//! goes to an [`Inspector`], and to a stream's core where it is encoded.
//!
//! What belongs here: who is admitted, what becomes of its media, and how the command learns of beginning and end. What
//! does not: sockets (`server`), and many streams ([`crate::stream::registry`]).

use super::{Admission, MediaSink};
use crate::config::input::AwaitedPublisher;
use crate::inspect::{Arrival, Inspector};
use crate::logging::counts;
use crate::stream::StreamCore;
use crate::stream::driver::SharedCore;
use rtmp::ingest::{Ingest, WARN_AFTER};
use rtmp::{EndReason, MediaMessage, Metadata, PublishRequest, Refusal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tracing::{info, warn};

/// Most bits per second that the publisher may send, over ten seconds: a guard for the link, not a setting. Memory is
/// bounded elsewhere.
const MOST_BITS_PER_SECOND: u64 = 200_000_000;

/// How far the one publish is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SingleStage {
    /// The publisher has not come.
    Awaited,
    /// The publisher is there.
    Published,
    /// The publisher has left, or was sent off with this reason; no other one is admitted.
    Over(Option<String>),
}

/// Admits one publisher, once.
pub(crate) struct SinglePublisher {
    awaited: AwaitedPublisher,
    max_pixels: u64,
    core: Option<Arc<SharedCore>>,
    inspector: Mutex<Inspector>,
    stage: watch::Sender<SingleStage>,
    send_off: watch::Sender<Option<Refusal>>,
}

/// What receives the publisher's media.
pub(crate) struct SingleSink {
    single: Arc<SinglePublisher>,
    ingest: Ingest,
    sent_off: watch::Receiver<Option<Refusal>>,
    /// What the publisher was told, if it was sent off.
    told: Option<String>,
}

/// The publisher as a server's admission.
pub(crate) struct SingleAdmission(pub(crate) Arc<SinglePublisher>);

impl SinglePublisher {
    /// Awaits a publisher. Its pictures have at most `max_pixels`; its media goes to `core`.
    pub(crate) fn new(
        awaited: AwaitedPublisher,
        max_pixels: u64,
        core: Option<Arc<SharedCore>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            awaited,
            max_pixels,
            core,
            inspector: Mutex::new(Inspector::new(Arrival::Live)),
            stage: watch::Sender::new(SingleStage::Awaited),
            send_off: watch::Sender::new(None),
        })
    }

    /// How far the publish is.
    pub(crate) fn stage(&self) -> watch::Receiver<SingleStage> {
        self.stage.subscribe()
    }

    /// What the publisher has sent.
    pub(crate) fn inspector(&self) -> MutexGuard<'_, Inspector> {
        // The figures are consistent enough for a report even after a panic.
        self.inspector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the publish, or the wait for a publisher.
    pub(crate) fn end(&self, refusal: Refusal) {
        self.send_off.send_replace(Some(refusal));
        self.stage.send_if_modified(|stage| {
            let waits = *stage == SingleStage::Awaited;
            if waits {
                *stage = SingleStage::Over(None);
            }
            waits
        });
    }

    fn admit_one(self: &Arc<Self>, request: &PublishRequest) -> Result<SingleSink, Refusal> {
        let key = request.full_key();
        let awaited = self.awaited.key.expose();
        let is_key = key.expose() == awaited || admission::decoded(key.expose()).as_deref() == Some(awaited);
        if request.app != self.awaited.app || !is_key {
            return Err(Refusal::Forbidden(
                "another application or stream key is awaited here: see the command's URL".into(),
            ));
        }
        let mut refusal = None;
        self.stage.send_if_modified(|stage| match stage {
            SingleStage::Awaited => {
                // Before the stage: the command starts the core's driver then, which ends a stream without a publisher.
                let came = self.core.as_ref().map(|core| core.with(StreamCore::publisher_came));
                let failed = came.is_some_and(|came| came.is_err());
                refusal = failed.then_some(Refusal::Internal);
                *stage = if failed { SingleStage::Over(None) } else { SingleStage::Published };
                true
            }
            SingleStage::Published => {
                refusal = Some(Refusal::AlreadyPublishing);
                false
            }
            SingleStage::Over(_) => {
                refusal = Some(Refusal::Draining);
                false
            }
        });
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(SingleSink {
                single: self.clone(),
                ingest: Ingest::new().with_max_pixels(self.max_pixels),
                sent_off: self.send_off.subscribe(),
                told: None,
            }),
        }
    }
}

impl Admission for SingleAdmission {
    type Sink = SingleSink;

    async fn admit(&self, request: PublishRequest) -> Result<SingleSink, Refusal> {
        self.0.admit_one(&request)
    }
}

impl MediaSink for SingleSink {
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal> {
        let arrived = message.arrived;
        let media = self.ingest.push(message).inspect_err(|error| self.told = Some(error.to_string()))?;
        let mut readable = false;
        let mut inspector = self.single.inspector();
        for media in media {
            readable = true;
            inspector.media(&media);
            if let Some(core) = &self.single.core {
                core.with(|core, now| core.media(media, arrived, now));
            }
        }
        inspector.counted(self.ingest.repairs(), self.ingest.oddities(), self.ingest.standing_notices());
        drop(inspector);
        if let Some(notice) = self.ingest.take_notice() {
            warn!(
                kind = notice.kind.as_str(),
                reason = notice.reason,
                seconds = WARN_AFTER.as_secs(),
                "the publisher sends media that cannot be read: change the codec in the publisher"
            );
        }
        Ok(readable)
    }

    fn most_bits_per_second(&self) -> u64 {
        MOST_BITS_PER_SECOND
    }

    fn metadata(&mut self, metadata: Metadata) {
        self.ingest.metadata(&metadata);
        self.single.inspector().metadata(&metadata);
        if let Some(core) = &self.single.core {
            core.with(|core, _| core.metadata(metadata));
        }
    }

    async fn sent_off(&mut self) -> Refusal {
        match self.sent_off.wait_for(Option::is_some).await.map(|refusal| refusal.clone()) {
            Ok(Some(refusal)) => refusal,
            // The sender lives as long as this sink.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn end(self, reason: EndReason) {
        let repairs = counts(self.ingest.repairs().by_kind());
        let oddities = counts(self.ingest.oddities().by_kind());
        info!(reason = reason.as_str(), repairs, oddities, "publisher is gone");
    }
}

/// The stream ends with its publisher, however the connection ended, a panic included.
impl Drop for SingleSink {
    fn drop(&mut self) {
        if let Some(core) = &self.single.core {
            core.with(StreamCore::close);
        }
        self.single.stage.send_replace(SingleStage::Over(self.told.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmp::StreamKey;

    fn single() -> Arc<SinglePublisher> {
        let awaited = AwaitedPublisher {
            address: "127.0.0.1:1935".parse().unwrap(),
            app: "live".into(),
            key: StreamKey::new("show/1".into()),
            is_local: true,
        };
        SinglePublisher::new(awaited, u64::MAX, None)
    }

    fn request(app: &str, key: &str) -> PublishRequest {
        PublishRequest {
            app: app.into(),
            path: StreamKey::new(String::new()),
            key: StreamKey::new(key.into()),
            query: String::new(),
            peer: "127.0.0.1:9".parse().unwrap(),
            client: String::new(),
            details: Default::default(),
        }
    }

    #[test]
    fn one_publisher_with_that_key_is_admitted_once() {
        let single = single();
        let refused = |app, key| single.admit_one(&request(app, key)).err();
        assert!(matches!(refused("live", "show"), Some(Refusal::Forbidden(_))));
        assert!(matches!(refused("other", "show/1"), Some(Refusal::Forbidden(_))));
        assert_eq!(*single.stage().borrow(), SingleStage::Awaited);
        let sink = single.admit_one(&request("live", "show%2F1")).unwrap();
        assert_eq!(*single.stage().borrow(), SingleStage::Published);
        assert_eq!(refused("live", "show/1"), Some(Refusal::AlreadyPublishing));
        sink.end(EndReason::Closed);
        assert_eq!(*single.stage().borrow(), SingleStage::Over(None));
        assert_eq!(refused("live", "show/1"), Some(Refusal::Draining));
    }

    #[tokio::test]
    async fn a_publisher_hears_why_its_publish_ends() {
        let single = single();
        let mut sink = single.admit_one(&request("live", "show/1")).unwrap();
        single.end(Refusal::OverLimit("enough".into()));
        assert_eq!(sink.sent_off().await, Refusal::OverLimit("enough".into()));
        let waiting = self::single();
        waiting.end(Refusal::Draining);
        assert_eq!(*waiting.stage().borrow(), SingleStage::Over(None));
        assert!(waiting.admit_one(&request("live", "show/1")).is_err());
    }
}
