//! Writes one JSON object per line, with the field names that Google Cloud Logging knows
//! (<https://cloud.google.com/logging/docs/structured-logging>). The fields of the enclosing spans are merged into
//! the event's own fields, so that `jsonPayload.stream="demo"` finds every entry about a stream.
//!
//! If the project is known, all entries about one stream share one trace (`logging.googleapis.com/trace`): they can
//! be shown together, and apart from those of an earlier stream with the same name.

use serde_json::{Map, Value, json};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The name of the span that becomes a trace.
const TRACED: &str = "stream";

/// Formats events as described in the module documentation.
#[derive(Clone, Debug)]
pub(super) struct CloudFormat {
    /// The Google Cloud project of the traces.
    project: Option<String>,
    /// The first half of every trace ID, random so that no two processes share trace IDs.
    process: u64,
}

impl CloudFormat {
    /// Takes the project from `GOOGLE_CLOUD_PROJECT`, like Google's own tools.
    pub(super) fn from_env() -> Self {
        Self::new(std::env::var("GOOGLE_CLOUD_PROJECT").ok().filter(|name| !name.is_empty()))
    }

    fn new(project: Option<String>) -> Self {
        Self { project, process: fastrand::u64(1..) }
    }
}

impl<S> FormatEvent<S, JsonFields> for CloudFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut entry = Map::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
            {
                entry.extend(fields);
            }
            if span.name() == TRACED
                && let Some(project) = &self.project
            {
                let trace =
                    format!("projects/{project}/traces/{:016x}{:016x}", self.process, span.id().into_u64());
                entry.insert("logging.googleapis.com/trace".to_owned(), trace.into());
            }
        }
        event.record(&mut Fields(&mut entry));
        // Inserted last, so that no field of an event can override the fields that Cloud Logging interprets.
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        entry.insert("severity".to_owned(), severity(*metadata.level()).into());
        entry.insert("time".to_owned(), time.into());
        entry.insert("target".to_owned(), metadata.target().into());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            // 64-bit integers are strings in Google's JSON.
            let place = json!({"file": file, "line": line.to_string()});
            entry.insert("logging.googleapis.com/sourceLocation".to_owned(), place);
        }
        let line = serde_json::to_string(&entry).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// The names of Cloud Logging's `LogSeverity`.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Collects an event's fields with their types.
pub(super) struct Fields<'a>(pub(super) &'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{counts, nonzero, rounded};
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::prelude::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs, parsed.
    fn logged(project: Option<&str>, work: impl FnOnce()) -> Vec<Value> {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(CloudFormat::new(project.map(str::to_owned)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_entry_has_what_logging_knows_and_the_streams_identifiers() {
        let lines = logged(Some("demo-project"), || {
            let span = tracing::info_span!("stream", app = "live", stream = "demo");
            let _entered = span.enter();
            tracing::warn!(segments = 3, late = true, seconds = 0.5, "quoted \"text\"\nand a second line");
        });
        let [entry] = lines.as_slice() else { panic!("one line each: {lines:?}") };
        assert_eq!(entry["severity"], "WARNING");
        assert_eq!(entry["message"], "quoted \"text\"\nand a second line");
        assert_eq!((&entry["app"], &entry["stream"]), (&json!("live"), &json!("demo")));
        assert_eq!(
            (&entry["segments"], &entry["late"], &entry["seconds"]),
            (&json!(3), &json!(true), &json!(0.5))
        );
        let trace = entry["logging.googleapis.com/trace"].as_str().unwrap();
        let identifier = trace.strip_prefix("projects/demo-project/traces/").unwrap();
        assert!(
            identifier.len() == 32 && identifier.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{trace}"
        );
        let time = entry["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert!(
            entry["logging.googleapis.com/sourceLocation"]["file"].as_str().unwrap().ends_with("cloud.rs")
        );
    }

    #[test]
    fn numbers_stay_numbers_and_a_field_without_a_value_is_left_out() {
        let lines = logged(None, || {
            let gaps = counts([("deadline", 2), ("refused", 0)].into_iter());
            let (late, lost) = (nonzero(0), nonzero(7));
            tracing::info!(gaps, late, lost, took_seconds = rounded(1.234_56), "stored");
        });
        let [entry] = lines.as_slice() else { panic!("one line each: {lines:?}") };
        assert_eq!((&entry["gaps"], &entry["lost"]), (&json!("deadline=2"), &json!(7)));
        assert_eq!(entry["took_seconds"], json!(1.235));
        assert!(entry.get("late").is_none(), "{entry}");
    }

    #[test]
    fn severities_are_those_of_logging_and_cannot_be_forged() {
        let lines = logged(None, || {
            tracing::error!(severity = "DEBUG", time = "never", "a");
            tracing::info_span!("stream").in_scope(|| tracing::info!("b"));
            tracing::debug!("c");
        });
        let severities: Vec<_> = lines.iter().map(|line| line["severity"].as_str().unwrap()).collect();
        assert_eq!(severities, ["ERROR", "INFO", "DEBUG"]);
        assert_ne!(lines[0]["time"], "never");
        assert!(lines[1].get("logging.googleapis.com/trace").is_none(), "no project, no trace");
    }
}
