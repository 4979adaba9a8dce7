//! One stream's handle: the parts of a stream tell it what happens, and it knows what that means for the stream.

use super::Events;
use super::event::{ArchiveReady, EndCause, Happening, Subject, TakeoverRole};
use super::health::{Health, HealthSigns};
use crate::origin::StreamPath;
use crate::stream::driver::StreamEnding;
use hls::SessionId;
use rtmp::{EndReason, Refusal};
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::task::JoinError;

/// What happens to one stream becomes events. Clones share the stream. No call waits.
#[derive(Clone, Debug)]
pub(crate) struct StreamEvents(Arc<StreamReporter>);

#[derive(Debug)]
struct StreamReporter {
    events: Events,
    path: StreamPath,
    /// What the back end wants to find again.
    metadata: Map<String, Value>,
    started: Instant,
    received_bytes: AtomicU64,
    /// Held while an event is added to the queue, so that events are in the order of what they tell.
    story: Mutex<Story>,
}

/// What is known of a stream so far.
#[derive(Debug, Default)]
struct Story {
    session: Option<SessionId>,
    /// Since when the publisher is gone.
    interrupted: Option<Instant>,
    /// How the last publisher left.
    left: Option<EndReason>,
    /// What the encoder ends the stream for.
    ending: Option<Refusal>,
    health: Health,
}

impl StreamEvents {
    pub(super) fn new(events: Events, path: StreamPath, metadata: Map<String, Value>) -> Self {
        Self(Arc::new(StreamReporter {
            events,
            path,
            metadata,
            started: Instant::now(),
            received_bytes: AtomicU64::new(0),
            story: Mutex::default(),
        }))
    }

    /// What the back end wants to find again.
    pub(crate) fn metadata(&self) -> &Map<String, Value> {
        &self.0.metadata
    }

    /// The stream begins at this encoder: as a new one, or as another encoder's that goes on here.
    pub(crate) fn began(&self, is_taken_over: bool, latency_seconds: f64) {
        let happening = match is_taken_over {
            true => Happening::TakenOver { role: TakeoverRole::Successor },
            false => Happening::Started { latency_seconds },
        };
        self.tell(&self.story(), &happening);
    }

    /// The session that names the stream's archive is known.
    pub(crate) fn has_session(&self, session: &SessionId) {
        self.story().session.get_or_insert_with(|| session.clone());
    }

    /// A publisher has the stream's place.
    pub(crate) fn publisher_came(&self) {
        let mut story = self.story();
        story.left = None;
        if let Some(since) = story.interrupted.take() {
            let interrupted_seconds = since.elapsed().as_secs_f64();
            self.tell(&story, &Happening::Resumed { interrupted_seconds });
        }
    }

    /// The publisher that has the stream's place ends for this reason; [`Self::publisher_gone`] follows.
    pub(crate) fn publisher_ends(&self, reason: EndReason) {
        self.story().left = Some(reason);
    }

    /// The publisher is gone. `is_awaited`: the stream waits for it to come back.
    pub(crate) fn publisher_gone(&self, is_awaited: bool) {
        let mut story = self.story();
        if !is_awaited {
            return;
        }
        story.interrupted = Some(Instant::now());
        let reason = match story.left {
            Some(EndReason::Unpublished) => "unpublished",
            Some(EndReason::Closed) | None => "closed",
            Some(EndReason::TimedOut) => "timed_out",
            Some(EndReason::Violation) => "violation",
            Some(EndReason::SentOff) => "sent_off",
        };
        self.tell(&story, &Happening::Interrupted { reason });
    }

    /// Media of the publisher was received.
    pub(crate) fn received(&self, bytes: usize) {
        self.0.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The encoder ends the stream, and tells its publisher this. The first reason counts, but a drain lets streams go
    /// on, so any other reason replaces it.
    pub(crate) fn ending(&self, refusal: &Refusal) {
        let mut story = self.story();
        if story.ending.as_ref().is_none_or(|ending| *ending == Refusal::Draining) {
            story.ending = Some(refusal.clone());
        }
    }

    /// The stream has ended at this encoder. `told` is what its last publisher was told, if anything.
    pub(crate) fn ended(&self, ending: &Result<StreamEnding, JoinError>, told: Option<&Refusal>) {
        let story = self.story();
        let (reason, message) = match ending {
            Ok(StreamEnding::TakenOver) => {
                self.tell(&story, &Happening::TakenOver { role: TakeoverRole::Predecessor });
                (EndCause::TakenOver, None)
            }
            Ok(StreamEnding::Ended) => end_cause(told.or(story.ending.as_ref()), story.left),
            Err(_) => (EndCause::Failed, None),
        };
        let happening = Happening::Ended {
            reason,
            message,
            duration_seconds: self.0.started.elapsed().as_secs_f64(),
            received_bytes: self.0.received_bytes.load(Ordering::Relaxed),
        };
        self.tell(&story, &happening);
    }

    /// Looks whether the stream has problems; to be called about once a second while it has a publisher.
    pub(crate) fn look(&self, signs: impl FnOnce() -> HealthSigns) {
        if !self.0.events.is_on() {
            return;
        }
        let signs = signs();
        let mut story = self.story();
        if let Some(happening) = story.health.look(signs, Instant::now()) {
            self.tell(&story, &happening);
        }
    }

    /// An archive of the stream is complete. The event's ID depends on the archive and its contents alone, so that the
    /// receiver recognises the event if several processes complete the archive.
    pub(crate) fn archive_ready(&self, session: &SessionId, fingerprint: &str, ready: ArchiveReady) {
        let StreamReporter { events, path, metadata, .. } = &*self.0;
        let id = format!("archive/{path}/{session}/{fingerprint}");
        let session = session.to_string();
        let subject = Subject {
            app: Some(&path.app),
            name: Some(&path.name),
            session: Some(&session),
            metadata: Some(metadata),
        };
        events.emit_as(&id, &subject, &Happening::ArchiveReady(Box::new(ready)));
    }

    fn tell(&self, story: &Story, happening: &Happening) {
        let StreamReporter { events, path, metadata, .. } = &*self.0;
        let session = story.session.as_ref().map(ToString::to_string);
        let subject = Subject {
            app: Some(&path.app),
            name: Some(&path.name),
            session: session.as_deref(),
            metadata: Some(metadata),
        };
        events.emit(&subject, happening);
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        // Each field is consistent by itself.
        self.0.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a stream ended whose playlists are complete, and what its publisher was told.
fn end_cause(told: Option<&Refusal>, left: Option<EndReason>) -> (EndCause, Option<String>) {
    let is_unpublished = left == Some(EndReason::Unpublished);
    let cause = match told {
        Some(Refusal::EndedByOperator(_)) => EndCause::Operator,
        Some(Refusal::OverLimit(_)) => EndCause::Limit,
        Some(Refusal::Unsupported(_)) => EndCause::Unsupported,
        Some(Refusal::TakenOver) => EndCause::TakenOver,
        Some(Refusal::Draining) if !is_unpublished => EndCause::Drain,
        Some(Refusal::Internal) if !is_unpublished => EndCause::Failed,
        Some(
            Refusal::BadName(_)
            | Refusal::AlreadyPublishing
            | Refusal::Busy
            | Refusal::AllBusy
            | Refusal::Forbidden(_)
            | Refusal::AdmissionDown
            | Refusal::Draining
            | Refusal::Silent(_)
            | Refusal::Violation(_)
            | Refusal::Internal,
        )
        | None => {
            let left = if is_unpublished { EndCause::Unpublished } else { EndCause::ReconnectWindowOver };
            return (left, None);
        }
    };
    (cause, told.map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_encoder_ends_for_counts_and_otherwise_how_the_publisher_left() {
        let operator = Refusal::EndedByOperator("off the air".into());
        let unpublished = Some(EndReason::Unpublished);
        let cases = [
            (None, unpublished, EndCause::Unpublished, None),
            (None, Some(EndReason::Closed), EndCause::ReconnectWindowOver, None),
            (None, None, EndCause::ReconnectWindowOver, None),
            (Some(&operator), unpublished, EndCause::Operator, Some("off the air")),
            (Some(&Refusal::Draining), unpublished, EndCause::Unpublished, None),
            (Some(&Refusal::AlreadyPublishing), Some(EndReason::Closed), EndCause::ReconnectWindowOver, None),
        ];
        for (told, left, cause, message) in cases {
            assert_eq!(end_cause(told, left), (cause, message.map(str::to_owned)), "{told:?} {left:?}");
        }
        let (cause, message) = end_cause(Some(&Refusal::Draining), Some(EndReason::SentOff));
        assert_eq!((cause, message.is_some()), (EndCause::Drain, true));
    }
}
