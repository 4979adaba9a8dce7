//! The worker's counters, shared by its stages, and the progress reports made from them for the supervisor. No code in
//! the worker makes decisions from the counters. The supervisor makes one: a worker whose counters stop is hung.

use super::encode::EncodeWork;
use crate::wire::{RungProgress, WorkerProgress};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counters that all stages share.
#[derive(Debug, Default)]
pub(super) struct WorkerCounters {
    pub(super) decoded: AtomicU64,
    pub(super) decode_errors: AtomicU64,
    pub(super) encoded: AtomicU64,
    rungs: OnceLock<Box<[RungCounters]>>,
}

#[derive(Debug, Default)]
struct RungCounters {
    pictures: AtomicU64,
    quantisers: AtomicU64,
}

impl WorkerCounters {
    /// Sets the number of rungs. Call it once, before the first rung encodes.
    pub(super) fn begin(&self, rungs: usize) {
        self.rungs.get_or_init(|| (0..rungs).map(|_| RungCounters::default()).collect());
    }

    /// Adds a rung's work to its counters.
    pub(super) fn rung(&self, track: u8, EncodeWork { pictures, quantisers }: EncodeWork) {
        if let Some(rung) = self.rungs.get().and_then(|rungs| rungs.get(usize::from(track))) {
            rung.pictures.fetch_add(pictures, Ordering::Relaxed);
            rung.quantisers.fetch_add(quantisers, Ordering::Relaxed);
        }
    }

    /// The current values of the counters, without the rungs.
    pub(super) fn progress(&self) -> WorkerProgress {
        WorkerProgress {
            decoded: self.decoded.load(Ordering::Relaxed),
            decode_errors: self.decode_errors.load(Ordering::Relaxed),
            encoded: self.encoded.load(Ordering::Relaxed),
            rungs: Vec::new(),
        }
    }

    fn rungs(&self) -> impl Iterator<Item = EncodeWork> {
        self.rungs.get().into_iter().flatten().map(|rung| EncodeWork {
            pictures: rung.pictures.load(Ordering::Relaxed),
            quantisers: rung.quantisers.load(Ordering::Relaxed),
        })
    }
}

/// Makes progress reports from the change of the counters since the last report.
#[derive(Debug)]
pub(super) struct Reporter {
    told: WorkerProgress,
    rungs: Vec<EncodeWork>,
    at: Instant,
}

impl Reporter {
    /// Creates a reporter that has not reported anything yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { told: WorkerProgress::default(), rungs: Vec::new(), at: now }
    }

    /// The report to send to the supervisor now; `None` when no counter has changed since the last report.
    pub(super) fn progress(&mut self, counters: &WorkerCounters, now: Instant) -> Option<WorkerProgress> {
        let mut progress = counters.progress();
        if progress == self.told {
            return None;
        }
        self.told = progress.clone();
        let seconds = now.saturating_duration_since(self.at).as_secs_f64().max(1e-3);
        let rungs: Vec<EncodeWork> = counters.rungs().collect();
        self.rungs.resize(rungs.len(), EncodeWork::default());
        let compared = rungs.iter().zip(&self.rungs).map(|(now, before)| {
            let pictures = now.pictures.saturating_sub(before.pictures);
            let quantisers = now.quantisers.saturating_sub(before.quantisers);
            RungProgress {
                frame_rate_tenths: (pictures as f64 * 10.0 / seconds).round() as u32,
                quantiser_tenths: (quantisers as f64 * 10.0 / pictures.max(1) as f64).round() as u32,
            }
        });
        progress.rungs = compared.collect();
        (self.rungs, self.at) = (rungs, now);
        Some(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rungs_are_told_as_they_were_lately_and_nothing_is_told_twice() {
        let start = Instant::now();
        let counters = WorkerCounters::default();
        let mut reporter = Reporter::new(start);
        assert_eq!(reporter.progress(&counters, start), None);
        counters.begin(2);
        let work = |first: u64, second: u64| {
            counters.encoded.fetch_add(first + second, Ordering::Relaxed);
            counters.rung(0, EncodeWork { pictures: first, quantisers: first * 20 });
            counters.rung(1, EncodeWork { pictures: second, quantisers: second * 31 });
        };
        work(60, 30);
        let told = reporter.progress(&counters, start + Duration::from_secs(2)).unwrap();
        let rung = |frame_rate_tenths, quantiser_tenths| RungProgress { frame_rate_tenths, quantiser_tenths };
        assert_eq!((told.encoded, told.rungs), (90, vec![rung(300, 200), rung(150, 310)]));
        assert_eq!(reporter.progress(&counters, start + Duration::from_secs(3)), None);
        work(25, 0);
        let told = reporter.progress(&counters, start + Duration::from_secs(3)).unwrap();
        assert_eq!(told.rungs, [rung(250, 200), rung(0, 0)]);
    }
}
