//! The process's metrics recorder and the metrics of this crate. Other crates describe their own counters.

use metrics::{Unit, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::Mutex;

/// Upper bounds in seconds of every histogram whose name ends in `_seconds`: from a memory copy to a stuck upload.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0];

static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Installs the Prometheus recorder for the whole process; later calls return the handle of the first. Call this before
/// the first metric is recorded: earlier values are lost.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    // A panic while holding the lock leaves a valid value, because the value is only replaced as a whole.
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .install_recorder()?;
    describe();
    *installed = Some(handle.clone());
    Ok(handle)
}

/// `encoder_build_info{version, revision}`, always 1.
pub fn build_info(version: &'static str, revision: &'static str) {
    gauge!("encoder_build_info", "version" => version, "revision" => revision).set(1.0);
}

fn describe() {
    describe_gauge!("encoder_available", Unit::Count, "1 while a stream would be taken");
    describe_gauge!("encoder_busy", Unit::Count, "1 while all places are taken");
    describe_gauge!("encoder_draining", Unit::Count, "1 once no further stream will ever be taken");
    describe_gauge!("encoder_streams", Unit::Count, "Streams that run");
    describe_gauge!("encoder_build_info", Unit::Count, "Always 1; the labels say what runs");
}

pub(crate) fn busy_gauges(available: bool, busy: bool, draining: bool, streams: u32) {
    gauge!("encoder_available").set(f64::from(u8::from(available)));
    gauge!("encoder_busy").set(f64::from(u8::from(busy)));
    gauge!("encoder_draining").set(f64::from(u8::from(draining)));
    gauge!("encoder_streams").set(f64::from(streams));
}
