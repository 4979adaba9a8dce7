//! Who is admitted to which stream, and on which terms: from a publisher's request to its place in a stream. Who a
//! publisher is, is decided in [`crate::identity`].

use super::{Publisher, Registry};
use crate::config::PublishLimits;
use crate::identity::StreamTerms;
use crate::ingest::Admission;
use crate::origin::StreamPath;
use crate::refusals;
use crate::stream::Now;
use admission::Grant;
use media::WallTime;
use rtmp::{PublishRequest, Refusal};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::error;

/// A publisher whose identity is known and that wants a place in a stream.
pub(super) struct Candidate {
    /// The stream to publish.
    pub(super) path: StreamPath,
    /// The query after the stream key.
    pub(super) query: String,
    /// Whether the publisher has proved that the name is its own.
    pub(super) proven: bool,
    /// Settings of this publisher's streams.
    pub(super) terms: StreamTerms,
    /// What the source of the grant wants to find again in events and in `/streams`.
    pub(super) metadata: Map<String, Value>,
}

/// When a broadcast ends at the latest, and why.
#[derive(Clone, Copy, Debug)]
pub(super) struct BroadcastEnd {
    pub(super) at: Instant,
    longest: Duration,
    /// Whether the publisher's right to publish ends before the longest duration is over.
    right_ends: bool,
}

impl BroadcastEnd {
    /// The end of a broadcast that began at `started`: after the longest duration, or at the Unix time `until`.
    pub(super) fn new(started: Instant, limits: PublishLimits, until: Option<i64>, now: Now) -> Self {
        let longest = limits.duration;
        let by_duration = started + longest;
        let by_right = until.map(|until| {
            let left = until.saturating_mul(1_000_000).saturating_sub(now.wall.unix_micros());
            now.instant + Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(longest)
        });
        match by_right.filter(|at| *at < by_duration) {
            Some(at) => Self { at, longest, right_ends: true },
            None => Self { at: by_duration, longest, right_ends: false },
        }
    }

    /// The message to the publisher at the end.
    pub(super) fn refusal(&self) -> Refusal {
        if self.right_ends {
            Refusal::Forbidden("the time for which this stream key may publish is over".into())
        } else {
            let seconds = self.longest.as_secs();
            Refusal::OverLimit(format!("a broadcast may last {seconds} seconds here, and this one has"))
        }
    }
}

impl Candidate {
    /// Validates what a grant says.
    ///
    /// # Errors
    /// The grant has expired, or its source said something that cannot be used.
    pub(super) fn new(grant: Grant, query: String, now: WallTime) -> Result<Self, Refusal> {
        let unusable = |why: &str| {
            error!(
                app = grant.app,
                stream = grant.name,
                why,
                "what the source of identity says about this publisher cannot be used: correct it there"
            );
            Refusal::AdmissionDown
        };
        let path = StreamPath::new(&grant.app, &grant.name).map_err(|bad| unusable(&bad.to_string()))?;
        let terms = StreamTerms::new(&grant.terms).map_err(|why| unusable(&why))?;
        if terms.until.is_some_and(|until| until.saturating_mul(1_000_000) <= now.unix_micros()) {
            return Err(Refusal::Forbidden("the time for which this stream key may publish is over".into()));
        }
        Ok(Self { path, query, proven: grant.proven, terms, metadata: grant.terms.metadata })
    }
}

impl Registry {
    /// Finds out who the publisher is, and on which terms it may publish.
    async fn candidate(&self, request: &PublishRequest) -> Result<Candidate, Refusal> {
        let grant = self.identity.decide(request).await?;
        Candidate::new(grant, request.query.clone(), super::now().wall)
    }
}

impl Admission for Registry {
    type Sink = Publisher;

    fn open(&self) -> Option<watch::Receiver<bool>> {
        self.open.as_ref().map(watch::Sender::subscribe)
    }

    async fn admit(&self, request: PublishRequest) -> Result<Publisher, Refusal> {
        let candidate = self.candidate(&request).await;
        let path = candidate.as_ref().ok().map(|candidate| candidate.path.clone());
        let admitted = match candidate {
            Ok(candidate) => self.take_place(candidate).await.inspect(|publisher| {
                publisher.introduce(request.client.clone(), request.peer, request.details.can_reconnect);
            }),
            Err(refusal) => Err(refusal),
        };
        self.review_gate();
        let result = if admitted.is_ok() { "accepted" } else { "refused" };
        metrics::counter!("encoder_publish_total", "result" => result).increment(1);
        if let Err(refusal) = &admitted {
            metrics::counter!("encoder_rejected_total", "reason" => refusals::reason(refusal)).increment(1);
            self.outputs.events.refused(path.as_ref(), &request, refusal);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_ends_at_the_earlier_of_its_two_ends() {
        let now = super::super::now();
        let limits = PublishLimits { bits_per_second: 1, duration: Duration::from_secs(100) };
        let wall = now.wall.unix_micros() / 1_000_000;
        let ends = |until: Option<i64>| BroadcastEnd::new(now.instant, limits, until, now);
        assert_eq!(ends(None).at, now.instant + Duration::from_secs(100));
        assert!(matches!(ends(None).refusal(), Refusal::OverLimit(text) if text.contains("100")));
        assert_eq!(ends(Some(wall + 200)).at, now.instant + Duration::from_secs(100));
        let early = ends(Some(wall + 50));
        assert!(
            early.at <= now.instant + Duration::from_secs(50)
                && early.at > now.instant + Duration::from_secs(48)
        );
        assert!(matches!(early.refusal(), Refusal::Forbidden(_)));
        assert_eq!(ends(Some(wall - 5)).at, now.instant);
        assert_eq!(ends(Some(i64::MIN)).at, now.instant);
        assert_eq!(ends(Some(i64::MAX)).at, now.instant + Duration::from_secs(100));
    }

    #[test]
    fn terms_that_cannot_be_used_are_the_source_s_fault() {
        let grant = |terms| Grant { app: "live".into(), name: "show".into(), proven: true, terms };
        let candidate =
            |terms| Candidate::new(grant(terms), String::new(), WallTime::from_unix_micros(5_000_000));
        let bad = admission::Terms { ladder: Some("720".into()), ..Default::default() };
        assert_eq!(candidate(bad).err(), Some(Refusal::AdmissionDown));
        let over = admission::Terms { until: Some(5), ..Default::default() };
        assert!(matches!(candidate(over).err(), Some(Refusal::Forbidden(_))));
        let good = admission::Terms { until: Some(6), latency: Some(2.5), ..Default::default() };
        assert_eq!(candidate(good).ok().unwrap().path.to_string(), "live/show");
    }
}
