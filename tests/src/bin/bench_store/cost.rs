//! Requests and bytes per hour, and Google's prices for them.

use crate::Row;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use tests::gcs::{FakeGcs, Operation};

/// Prices in US dollars: Standard class, one region (us-east1), without the free allowance; from
/// <https://cloud.google.com/storage/pricing-examples>, noted in November 2026. Operations by class:
/// <https://cloud.google.com/storage/pricing#operations-by-class>.
mod price {
    /// Per thousand operations that write, compose, copy or list.
    pub(super) const CLASS_A: f64 = 0.005;
    /// Per thousand operations that read.
    pub(super) const CLASS_B: f64 = 0.0004;
    /// Per gigabyte and month of storage.
    pub(super) const GB_MONTH: f64 = 0.020;
}

/// Purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Segment,
    Playlist,
    Archive,
    Other,
    Read,
    Delete,
}

impl Kind {
    fn of(operation: Operation, object: &str) -> Self {
        match operation {
            Operation::Delete => Self::Delete,
            Operation::Read | Operation::Get | Operation::Bucket | Operation::Public => Self::Read,
            Operation::List | Operation::Compose => Self::Archive,
            Operation::Insert if object.contains("/archive/") => Self::Archive,
            Operation::Insert if object.ends_with(".m4s") => Self::Segment,
            Operation::Insert if object.ends_with(".m3u8") => Self::Playlist,
            Operation::Insert => Self::Other,
        }
    }

    const fn is_class_a(self) -> bool {
        match self {
            Self::Segment | Self::Playlist | Self::Archive | Self::Other => true,
            Self::Read | Self::Delete => false,
        }
    }
}

/// Requests and bytes extrapolated to an hour.
#[derive(Debug, Default)]
pub(crate) struct Hour {
    requests: BTreeMap<Kind, f64>,
    /// Segments written and kept, in GiB.
    gigabytes: f64,
}

// === impl Hour ===

impl Hour {
    /// Extrapolates from the calls below a folder within a window.
    pub(crate) fn of(fake: &FakeGcs, bucket: &str, folder: &str, window: &Range<Duration>) -> Self {
        let state = fake.state();
        let hours = (window.end - window.start).as_secs_f64() / 3600.0;
        let mut hour = Self::default();
        let below = format!("{folder}/");
        let calls = state.calls.iter().filter(|call| window.contains(&call.at));
        for call in calls.filter(|call| call.object.starts_with(&below)) {
            *hour.requests.entry(Kind::of(call.operation, &call.object)).or_default() += 1.0 / hours;
            if call.writes_segment() {
                let bytes = state.objects.peek(bucket, &call.object).map_or(0, |object| object.body.len());
                hour.gigabytes += bytes as f64 / f64::from(1 << 30) / hours;
            }
        }
        hour
    }

    fn dollars(&self) -> f64 {
        let thousands = |class_a: bool| {
            let of = self.requests.iter().filter(|(kind, _)| kind.is_class_a() == class_a);
            of.filter(|(kind, _)| **kind != Kind::Delete).map(|(_, count)| count).sum::<f64>() / 1e3
        };
        thousands(true) * price::CLASS_A + thousands(false) * price::CLASS_B
    }
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "| requests an hour | segments of | segments | playlists | archive | other | reads | deletes | cost | GiB kept | a month of them |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for Row { name, segment_seconds, hour, .. } in rows {
        let count = |kind| format!("{:.0}", hour.requests.get(&kind).copied().unwrap_or(0.0));
        println!(
            "| {name} | {segment_seconds} s | {} | {} | {} | {} | {} | {} | ${:.3} | {:.2} | ${:.3} |",
            count(Kind::Segment),
            count(Kind::Playlist),
            count(Kind::Archive),
            count(Kind::Other),
            count(Kind::Read),
            count(Kind::Delete),
            hour.dollars(),
            hour.gigabytes,
            hour.gigabytes * price::GB_MONTH
        );
    }
    println!(
        "\nGoogle's prices of November 2026 for Standard storage in one region: ${} a thousand writes, ${} a thousand reads, \
         deletes free, ${:.2} a GB and month; viewers' traffic is not in it.",
        price::CLASS_A,
        price::CLASS_B,
        price::GB_MONTH
    );
}
