//! Describes every metric of the encoder for `/metrics`. The values are set where the events happen; the gauges of
//! the busy state are described in `probes`. Names include the unit. Label values are chosen by us or the operator,
//! never stream names or addresses, so that outsiders cannot increase the number of time series.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// One stream's or one worker's share of a gauge that is the sum over all of them. Setting the gauge itself would let
/// streams overwrite one another. Dropping the share takes it out of the sum.
#[derive(Debug)]
pub(crate) struct GaugeShare {
    name: &'static str,
    value: f64,
}

impl GaugeShare {
    /// A share of zero.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, value: 0.0 }
    }

    /// Replaces the share's value.
    pub(crate) fn set(&mut self, value: f64) {
        if value != self.value {
            gauge!(self.name).increment(value - self.value);
            self.value = value;
        }
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.set(0.0);
    }
}

/// Shows counters from the start, as zero: a rate misses the first rise of a counter that appears with that rise. Call
/// this after the recorder is installed.
pub(crate) fn show(counters: &[&'static str]) {
    for name in counters {
        counter!(*name).increment(0);
    }
}

/// Registers the descriptions. Call this after the recorder is installed.
pub(crate) fn describe() {
    let counters = [
        ("encoder_publish_total", "Publishers that asked for a place, by result: accepted or refused"),
        ("encoder_rejected_total", "Publishers refused, by reason"),
        (
            "encoder_stream_starts_total",
            "Streams that began, by how: anew and why, or taken over from another encoder",
        ),
        (
            "encoder_streams_ended_total",
            "Streams that were ended before their publishers left, by whom: operator",
        ),
        ("encoder_fenced_total", "Streams that this encoder gave up because another one has taken them over"),
        ("encoder_worker_restarts_total", "Worker processes that replaced one which died or hung"),
        ("encoder_worker_hangs_total", "Worker processes that were killed because they hung"),
        (
            "encoder_worker_forbidden_calls_total",
            "Worker processes that ended at a forbidden system call, by call",
        ),
        ("encoder_shed_units_total", "Access units dropped because the encoder was too slow"),
        (
            "encoder_dropped_units_total",
            "Access units that are in no segment, by reason: late, undecodable, surplus (after the end of their epoch), \
             refused",
        ),
        ("encoder_decode_errors_total", "Access units that workers could not decode"),
        (
            "encoder_misaligned_cuts_total",
            "Segments in which a video rendition had no keyframe at the common cut",
        ),
        (
            "encoder_forced_cuts_total",
            "Segments that were cut because no keyframe came within the longest allowed segment",
        ),
        ("encoder_packager_gaps_total", "Gaps that the packager wrote in place of segments"),
        ("encoder_audio_resyncs_total", "Audio timestamps more than half a frame off the count of samples"),
        ("encoder_silent_frames_total", "Silent audio frames that were inserted into holes"),
        (
            "encoder_passed_over_tracks_total",
            "Sound tracks that came after the renditions were chosen and are passed over",
        ),
        ("encoder_timestamp_repairs_total", "Repairs of published timestamps, by kind"),
        (
            "encoder_odd_messages_total",
            "Published messages that were dropped or corrected, by kind: unreadable, other_tracks, false_keys (no decoding \
             can start there), repeated_configs, too_long, unreadable_commands, unreadable_metadata",
        ),
        (
            "encoder_unreadable_media_total",
            "Publishers that sent media of a kind for three seconds of which nothing could be read, by kind and reason",
        ),
        (
            "encoder_connections_refused_total",
            "Connections refused or closed before they published or asked, by listener and reason: rate, early_drop, \
             evicted, full, proxy_header",
        ),
        (
            "encoder_held_requests_refused_total",
            "Requests answered with 503 because too many were held, by listener",
        ),
        (
            "encoder_certificate_changes_total",
            "TLS files that were seen to have changed, by what became of it",
        ),
        (
            "encoder_edge_upstream_requests_total",
            "An edge's requests to encoders, by kind (playlist, object) and result: found, missing, not_yet, failed",
        ),
        (
            "encoder_edge_objects_total",
            "Objects that an edge looked for, by how they came: hit (in memory), joined (fetched already for another \
             request), fetched",
        ),
        (
            "encoder_edge_lookups_total",
            "Look-ups of where a stream is, by result: encoder, store, none, failed, refused (too many unknown names)",
        ),
        ("encoder_edge_moves_total", "Playlists whose stream an edge has followed to another encoder"),
        ("encoder_edge_stored_total", "Objects that an edge has read from the store"),
        ("encoder_edge_reports_refused_total", "Reports about viewers from more edges than are kept"),
        (
            "encoder_viewer_passes_total",
            "Requests that need a pass, by what came of the pass: yes, no (also without a pass), expired, cached (the \
             back end's last yes, while it is down), down, refused (too many unknown passes)",
        ),
        ("encoder_viewer_stalls_total", "Stalls that players tell of (CMCD)"),
        ("encoder_store_segments_total", "Segments that the store has acknowledged"),
        ("encoder_store_playlists_total", "Playlists that the store has acknowledged"),
        ("encoder_store_writes_total", "Attempts to write to or remove from the store, by kind and result"),
        ("encoder_spool_segments_total", "Late segments that waited on disk for the store"),
        (
            "encoder_spool_full_total",
            "Times that the spool's room was used up: the largest rendition is given up first",
        ),
        ("encoder_spool_failures_total", "Failures of the spool's disk"),
        (
            "encoder_events_total",
            "Attempts to deliver events and events given up, by result: delivered, retried (a failed attempt), \
             given_up_full (for lack of memory), given_up_refused, given_up_expired, left (at the end of the process)",
        ),
        ("encoder_archives_total", "Archives that were to be completed, by what became of them"),
        ("encoder_store_gaps_total", "Segments that are not in the store and listed as gaps, by reason"),
        ("encoder_store_late_total", "Segments that came to the store after they had been listed as gaps"),
        ("encoder_store_lost_total", "Segments that never came to the store"),
    ];
    for (name, help) in counters {
        describe_counter!(name, Unit::Count, help);
    }
    describe_counter!(
        "encoder_store_bytes_total",
        Unit::Bytes,
        "Bytes of segments that the store has acknowledged"
    );
    describe_counter!(
        "encoder_edge_upstream_bytes_total",
        Unit::Bytes,
        "Bytes of playlists and media that an edge has fetched from encoders"
    );
    describe_gauge!("encoder_edge_cache_bytes", Unit::Bytes, "Bytes that an edge keeps in memory");
    describe_gauge!("encoder_edge_streams", Unit::Count, "Streams that an edge's viewers ask for");
    describe_gauge!(
        "encoder_edge_playlists",
        Unit::Count,
        "Media playlists that an edge follows at encoders"
    );
    describe_gauge!(
        "encoder_viewers",
        Unit::Count,
        "Distinct viewers at an edge, by rung; each counts for 15 s after the last request"
    );
    describe_histogram!(
        "encoder_viewer_buffer_seconds",
        Unit::Seconds,
        "Media in players' buffers, as players tell (CMCD)"
    );
    describe_histogram!(
        "encoder_viewer_bitrate_bits",
        Unit::Count,
        "Bits per second of what players ask for (CMCD)"
    );
    describe_histogram!(
        "encoder_viewer_latency_seconds",
        Unit::Seconds,
        "Distance from live on players' screens, as players tell (CMCD)"
    );
    describe_histogram!(
        "encoder_viewer_hook_seconds",
        Unit::Seconds,
        "Time of the back end's answers about viewers' passes, by result: yes, no, cached, down"
    );
    describe_gauge!("encoder_store_waiting_bytes", Unit::Bytes, "Bytes of segments that wait for the store");
    describe_gauge!("encoder_spool_bytes", Unit::Bytes, "Bytes of late segments that wait on disk");
    describe_gauge!(
        "encoder_connections_open",
        Unit::Count,
        "Connections of viewers, and connections that wait to publish, by listener"
    );
    describe_gauge!("encoder_held_requests", Unit::Count, "Requests that wait for media, by listener");
    describe_gauge!(
        "encoder_origin_bytes",
        Unit::Bytes,
        "Bytes of all objects that the origin holds in memory"
    );
    describe_gauge!("encoder_worker_memory_bytes", Unit::Bytes, "Resident memory of all worker processes");
    describe_histogram!(
        "encoder_store_seconds",
        Unit::Seconds,
        "What one successful write or removal took, by kind"
    );
    describe_histogram!(
        "encoder_stage_delay_seconds",
        Unit::Seconds,
        "Age of media at a stage, counted from its least delayed arrival, by rendition: arrived, encoded, packaged, \
         readable at the origin, stored and acknowledged"
    );
    describe_gauge!(
        "encoder_lag_seconds",
        Unit::Seconds,
        "Published media that is in no segment yet, of the stream that is nearest to its budget or furthest beyond"
    );
    describe_gauge!(
        "encoder_lag_budget_seconds",
        Unit::Seconds,
        "What encoder_lag_seconds may be while viewers keep that stream's latency"
    );
    describe_histogram!(
        "encoder_publish_hook_seconds",
        Unit::Seconds,
        "What one question to the back end of --publish-hook took, by result: yes, no, down, garbage (its answer cannot \
         be used), cached (it is down and its last answer counts)"
    );
    describe_gauge!(
        "encoder_identity_stale",
        Unit::Count,
        "1 while the keys file (source keys) or the key set of tokens (source jwks) cannot be read again, and the last \
         good one is in force"
    );
    describe_gauge!("encoder_events_waiting", Unit::Count, "Events that are not delivered yet");
    describe_gauge!("encoder_lobby_ready", Unit::Count, "1 while the lobby answers publishers");
    describe_gauge!("encoder_lobby_free_encoders", Unit::Count, "Free encoders that the lobby has found");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gauge's value in a recorder of the test's own.
    fn value(handle: &metrics_exporter_prometheus::PrometheusHandle, name: &str) -> Option<f64> {
        let text = handle.render();
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split(' ').nth(1)?.parse().ok()
    }

    #[test]
    fn shares_of_a_gauge_add_up_and_one_end_leaves_the_others() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let (mut first, mut second) = (GaugeShare::new("sum"), GaugeShare::new("sum"));
            first.set(5.0);
            second.set(7.0);
            assert_eq!(value(&handle, "sum"), Some(12.0));
            first.set(2.0);
            assert_eq!(value(&handle, "sum"), Some(9.0));
            drop(first);
            assert_eq!(value(&handle, "sum"), Some(7.0));
        });
    }
}
