//! The fuzz target of this crate, for the feature `testing`: everything that is read from outside.

use crate::cmcd::Cmcd;
use crate::report::{EdgeId, MAX_VALUE_BYTES, Report};

/// The input as a query, as headers, as a report and as an edge's ID.
pub fn audience(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    check_cmcd(&Cmcd::read(Some(&text), []));
    check_cmcd(&Cmcd::read(None, input.split(|byte| *byte == b'\n')));
    if let Ok(report) = Report::parse(input) {
        let value = report.to_string();
        assert!(value.len() <= MAX_VALUE_BYTES, "{} bytes", value.len());
        assert_eq!(Report::parse(value.as_bytes()), Ok(report), "is read as it was written");
    }
    if let Ok(id) = text.parse::<EdgeId>() {
        assert_eq!(id.to_string(), text);
    }
}

/// What holds for every request.
pub(crate) fn check_cmcd(cmcd: &Cmcd) {
    assert!(cmcd.bitrate_kbps.is_none_or(|kbps| (1..=1_000_000_000).contains(&kbps)));
    assert!(cmcd.throughput_kbps.is_none_or(|kbps| (1..=1_000_000_000).contains(&kbps)));
    assert!(cmcd.buffer_ms.is_none_or(|ms| ms <= 86_400_000));
    assert!(cmcd.latency_ms.is_none_or(|ms| ms <= 86_400_000));
    assert!(cmcd.rate.is_none_or(|rate| (0.0..=100.0).contains(&rate)));
    if let Some(sid) = &cmcd.sid {
        assert!((1..=64).contains(&sid.as_str().len()) && sid.as_str().is_ascii());
    }
}
