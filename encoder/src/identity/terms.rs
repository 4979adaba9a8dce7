//! The terms of a grant as typed settings of a stream.

use crate::archive::ArchiveSettings;
use crate::config::{self, PublishLimits};
use crate::stream::ladder::Ladder;
use admission::Terms;
use hls::timing::Latency;
use std::time::Duration;

/// A grant's terms, validated. What is `None` is as configured for all streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamTerms {
    /// Glass-to-glass latency.
    pub latency: Option<Latency>,
    /// Renditions.
    pub ladder: Option<Ladder>,
    /// What is kept of the broadcast; `Some(None)` is nothing.
    pub archive: Option<Option<ArchiveSettings>>,
    /// Most bits per second over ten seconds.
    pub bits_per_second: Option<u64>,
    /// Longest broadcast.
    pub duration: Option<Duration>,
    /// Pixels of the largest picture.
    pub max_pixels: Option<u64>,
    /// Unix time in seconds at which the stream ends at the latest.
    pub until: Option<i64>,
}

impl StreamTerms {
    /// Validates terms.
    ///
    /// # Errors
    /// The first term that cannot be used, and why.
    pub(crate) fn new(terms: &Terms) -> Result<Self, String> {
        let number = |name: &str, value: Option<f64>, least: f64, most: f64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(format!("{name} {value}: must be a number from {least} to {most}"))
            }
            other => Ok(other),
        };
        let latency = terms.latency.map(Latency::from_secs_f64).transpose();
        let ladder = terms.ladder.as_ref().map(|text| text.parse::<Ladder>()).transpose();
        let archive = match (&terms.archive, &terms.archive_rungs) {
            (None, None) => None,
            (kinds, rungs) => {
                let kinds = kinds.as_deref().unwrap_or(config::DEFAULT_ARCHIVE);
                let settings = config::archive_settings(kinds, rungs.as_deref());
                Some(
                    settings
                        .map_err(|bad| bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?,
                )
            }
        };
        let megabits = number("max_bitrate", terms.max_bitrate, 0.1, 1000.0)?;
        if let Some(pixels) = terms.max_pixels.filter(|pixels| !config::PIXELS.contains(pixels)) {
            let (least, most) = (config::PIXELS.start(), config::PIXELS.end());
            return Err(format!("max_pixels {pixels}: must be a number from {least} to {most}"));
        }
        let seconds = number("max_duration", terms.max_duration, 1.0, 31_536_000.0)?;
        Ok(Self {
            latency: latency.map_err(|error| format!("latency: {error}"))?,
            ladder: ladder.map_err(|error| format!("ladder: {error}"))?,
            archive,
            bits_per_second: megabits.map(|megabits| (megabits * 1e6) as u64),
            duration: seconds.map(Duration::from_secs_f64),
            max_pixels: terms.max_pixels,
            until: terms.until,
        })
    }

    /// Says why terms cannot be used, for the crate that reads them.
    ///
    /// # Errors
    /// As [`StreamTerms::new`].
    pub(crate) fn check(terms: &Terms) -> Result<(), String> {
        Self::new(terms).map(drop)
    }

    /// What one publisher may cost: the terms' bounds, and otherwise the configured ones.
    pub(crate) fn limits(&self, configured: PublishLimits) -> PublishLimits {
        PublishLimits {
            bits_per_second: self.bits_per_second.unwrap_or(configured.bits_per_second),
            duration: self.duration.unwrap_or(configured.duration),
        }
    }
}
