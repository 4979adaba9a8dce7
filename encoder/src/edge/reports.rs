//! What edges tell an encoder about the viewers of its streams.

use super::access::EDGE;
use crate::origin::StreamPath;
use audience::report::{HEADER, Report, Reports};
use axum::http::{HeaderMap, HeaderValue};
use metrics::counter;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The viewers of an encoder's streams, as edges report them. Share clones.
#[derive(Clone, Default)]
pub(crate) struct EdgeReports(Arc<Mutex<HashMap<StreamPath, Reports>>>);

impl EdgeReports {
    /// Takes the report that comes with an edge's request for a stream that exists.
    pub(crate) fn record(&self, stream: &StreamPath, request: &HeaderMap) {
        let now = Instant::now();
        let mut streams = self.lock();
        let edge = request.get(&EDGE).and_then(|value| value.to_str().ok()?.parse().ok());
        let report = request.get(HEADER).map(HeaderValue::as_bytes).map(Report::parse);
        if let (Some(edge), Some(Ok(report))) = (edge, report) {
            if !streams.contains_key(stream) {
                // Forget streams that no edge reports any more: /status, which forgets them too, may not be asked for.
                streams.retain(|_, reports| reports.edges(now) > 0);
            }
            if streams.entry(stream.clone()).or_default().record(edge, report, now).is_err() {
                counter!("encoder_edge_reports_refused_total").increment(1);
            }
        }
    }

    /// A stream's viewers at all edges, by rung.
    pub(crate) fn viewers(&self, stream: &StreamPath) -> BTreeMap<String, u64> {
        let now = Instant::now();
        let mut streams = self.lock();
        streams.retain(|_, reports| reports.edges(now) > 0);
        let Some(reports) = streams.get_mut(stream) else { return BTreeMap::new() };
        reports.rungs(now).into_iter().map(|(rung, viewers)| (rung.to_owned(), viewers)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamPath, Reports>> {
        // The crate does not panic, and a wrong count does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for EdgeReports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeReports").finish_non_exhaustive()
    }
}
