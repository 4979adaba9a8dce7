//! Keeps the last warnings and errors for the operator's page. The log contains them as well.

use super::cloud::Fields;
use crate::status::LoggedWarning;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The number of entries kept; a new entry replaces the oldest.
const KEPT: usize = 20;
/// The number of characters kept per entry: some entries contain text from outside.
const MAX_CHARS: usize = 400;

/// The last warnings and errors of the process; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<LoggedWarning>>>);

impl Recent {
    /// Returns the entries, newest first.
    pub(crate) fn list(&self) -> Vec<LoggedWarning> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LoggedWarning>> {
        // Entries are added whole, so a panic elsewhere leaves the list consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        let mut text = match fields.remove("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!(" {name}={value}"));
        }
        let text: String = text.chars().take(MAX_CHARS).collect();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(LoggedWarning { at, level: level.as_str().to_lowercase(), text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::prelude::*;

    #[test]
    fn the_newest_warnings_are_kept_and_nothing_else() {
        let recent = Recent::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(recent.clone()), || {
            tracing::info!("not this");
            for number in 0..30 {
                tracing::warn!(number, "late");
            }
            tracing::error!(text = "x".repeat(1000), "long");
        });
        let list = recent.list();
        assert_eq!(list.len(), KEPT);
        assert!(list[0].text.len() <= MAX_CHARS);
        assert_eq!((list[1].text.as_str(), list[1].level.as_str()), ("late number=29", "warn"));
    }
}
