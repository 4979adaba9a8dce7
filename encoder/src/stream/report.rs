//! Brings the process's metrics up to a stream's counters. The state machines count without I/O; the metrics recorder
//! is told here.

use super::core::StreamCounters;
use metrics::counter;

/// What was already added to the process's metrics for one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MetricsReport {
    stream: StreamCounters,
    packager: hls::packager::PackagerCounters,
}

impl MetricsReport {
    /// Whether the metrics show these counters already: the driver asks at each wake, and most wakes count nothing.
    pub(crate) fn is_current(
        &self,
        stream: &StreamCounters,
        packager: &hls::packager::PackagerCounters,
    ) -> bool {
        self.stream == *stream && self.packager == *packager
    }

    /// Adds what was counted since the last call. The first call of a process makes every series appear, also those
    /// that are zero.
    pub(crate) fn bring_up(&mut self, stream: StreamCounters, packager: hls::packager::PackagerCounters) {
        let (old, was) = (self.stream, self.packager);
        counter!("encoder_misaligned_cuts_total").increment(packager.misaligned - was.misaligned);
        counter!("encoder_forced_cuts_total").increment(packager.forced_cuts - was.forced_cuts);
        counter!("encoder_packager_gaps_total").increment(packager.gaps - was.gaps);
        counter!("encoder_audio_resyncs_total").increment(packager.audio_resyncs - was.audio_resyncs);
        counter!("encoder_silent_frames_total").increment(stream.silent_frames - old.silent_frames);
        counter!("encoder_decode_errors_total").increment(stream.decode_errors - old.decode_errors);
        counter!("encoder_passed_over_tracks_total")
            .increment(stream.passed_over_tracks - old.passed_over_tracks);
        let late = |stream: &StreamCounters, packager: &hls::packager::PackagerCounters| {
            stream.late_audio_frames + packager.late_samples
        };
        dropped("late", late(&stream, &packager) - late(&old, &was));
        dropped("undecodable", packager.undecodable_samples - was.undecodable_samples);
        dropped("surplus", packager.surplus_samples - was.surplus_samples);
        dropped("refused", stream.refused_samples - old.refused_samples);
        *self = Self { stream, packager };
    }
}

fn dropped(reason: &'static str, count: u64) {
    counter!("encoder_dropped_units_total", "reason" => reason).increment(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PackagerStatus;
    use crate::stream::core_tests::Stage;

    #[test]
    fn a_misaligned_cut_reaches_the_metrics_and_the_status() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let mut stage = Stage::new("720p,360p");
        stage.come();
        stage.configs();
        stage.publish(0, 10_000, true, true);
        let mut report = MetricsReport::default();
        let mut bring_up = |stage: &Stage| {
            metrics::with_local_recorder(&recorder, || {
                report.bring_up(stage.core.counters(), stage.core.packager_counters());
            });
        };
        bring_up(&stage);
        assert!(handle.render().contains("encoder_misaligned_cuts_total 0"));
        stage.workers.values_mut().for_each(|worker| worker.keyless = Some(1));
        stage.publish(10_000, 13_000, true, true);
        stage.workers.values_mut().for_each(|worker| worker.keyless = None);
        stage.publish(13_000, 20_000, true, true);
        bring_up(&stage);
        let counted = PackagerStatus::from(stage.core.packager_counters()).misaligned_cuts;
        assert!(counted > 0);
        assert!(handle.render().contains(&format!("encoder_misaligned_cuts_total {counted}")));
        bring_up(&stage);
        assert!(handle.render().contains(&format!("encoder_misaligned_cuts_total {counted}")), "not twice");
    }
}
