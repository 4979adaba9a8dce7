//! The verdict "yes": which stream a publisher may publish, and on which terms.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// A publisher may publish the stream `{app}/{name}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Application: a valid name.
    pub app: String,
    /// The stream's public name: a valid name.
    pub name: String,
    /// Whether the publisher has proved with a credential that the name is its own. Only then may the publisher take
    /// the place of a publisher that is still connected, here or at another encoder.
    pub proven: bool,
    /// What the source of the grant said beyond "yes".
    pub terms: Terms,
}

/// Bounds and settings of one key's streams. What is `None` is as configured for all streams. The same names are used
/// in the keys file, in a token's claims and in a webhook's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Glass-to-glass latency in seconds, 2 to 15, as `--latency`.
    pub latency: Option<f64>,
    /// Renditions, as `--ladder`.
    pub ladder: Option<String>,
    /// What is kept of a broadcast, as `--archive`.
    pub archive: Option<String>,
    /// Rungs to record, as `--archive-rung`: names separated by commas.
    pub archive_rungs: Option<String>,
    /// Most megabits per second over ten seconds, as `--max-bitrate`.
    pub max_bitrate: Option<f64>,
    /// Longest broadcast in seconds, as `--max-duration`.
    pub max_duration: Option<f64>,
    /// Pixels of the largest picture, as `--max-pixels`.
    pub max_pixels: Option<u64>,
    /// Unix time in seconds at which the stream ends at the latest.
    pub until: Option<i64>,
    /// What the back end wants to find again in events and in `/streams`; nothing here reads it.
    pub metadata: Map<String, Value>,
}

/// Why terms cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// A term has the wrong type. Holds the term's name.
    #[error("{0} has the wrong type")]
    Type(String),
    /// A term's value is not allowed. Holds the reason.
    #[error("{0}")]
    Unusable(String),
}

impl Terms {
    /// The names of all terms.
    pub fn names() -> &'static [String] {
        static NAMES: OnceLock<Vec<String>> = OnceLock::new();
        NAMES.get_or_init(|| match serde_json::to_value(Self::default()) {
            Ok(Value::Object(fields)) => fields.into_iter().map(|(name, _)| name).collect(),
            Ok(_) | Err(_) => Vec::new(),
        })
    }

    /// Reads the terms among `fields`; other fields are passed over, and `null` counts as not given.
    ///
    /// # Errors
    /// A term has the wrong type.
    pub fn from_fields(fields: &Map<String, Value>) -> Result<Self, TermsError> {
        let named =
            |name: &String| Some((name.clone(), fields.get(name).filter(|value| !value.is_null())?.clone()));
        let found: Map<String, Value> = Self::names().iter().filter_map(named).collect();
        Self::deserialize(&found).map_err(|_| {
            // The deserializer's own text quotes the value.
            let alone = |(name, value): (&String, &Value)| Map::from_iter([(name.clone(), value.clone())]);
            let bad = found.iter().find(|field| Self::deserialize(&alone(*field)).is_err());
            TermsError::Type(bad.map_or_else(|| "a term".to_owned(), |(name, _)| name.clone()))
        })
    }
}
