//! `encoder archive seal`: finishes a stream's archives, prints their state, and tells the receiver of events.

use crate::archive::announce::announce;
use crate::archive::load::archives;
use crate::archive::seal::{Sealed, seal};
use crate::config::SealConfig;
use crate::events::Events;
use crate::fault::Fault;
use std::io::{self, Write};
use std::time::Duration;

/// Longest time to deliver the events about complete archives.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// Seals all archives of the stream `{app}/{name}`. Returns true if there is an archive, all are complete, and the
/// receiver of events, if there is one, was told of each: also of those that were complete before, because their event
/// may have been lost with the process that completed them.
pub(super) async fn run(config: &SealConfig) -> Result<bool, Fault> {
    let SealConfig { output, stream, events } = config;
    // Opening a store creates a missing directory: a mistyped path must not create one.
    if let Some(path) = output.as_directory()
        && !path.is_dir()
    {
        return Err(Fault::Store {
            what: "keep segments in",
            place: output.to_string(),
            why: "there is no such directory".to_owned(),
        });
    }
    let store = output.open().await.map_err(|error| Fault::store("--output", output, &error))?;
    let failed = |why: String| Fault::Machine { what: "cannot seal", why };
    let print = |line: String| -> Result<(), Fault> {
        writeln!(io::stdout(), "{line}")
            .map_err(|error| Fault::Machine { what: "cannot print", why: error.to_string() })
    };
    let stream = &stream.to_string();
    let events = events.as_ref().map(Events::start).transpose()?.unwrap_or_default();
    let places = archives(&store, stream).await.map_err(|error| failed(error.to_string()))?;
    if places.is_empty() {
        print(format!("{}/{stream}: there is no archive", store.location()))?;
        return Ok(false);
    }
    let mut complete = true;
    for place in places {
        match seal(&store, &place).await {
            Ok(sealed) => {
                let location = store.location_of(&place.folder());
                announce(&events, None, &location, &place, &sealed);
                let Sealed { already, duration, segments, gaps, recordings, compositions, .. } = sealed;
                let state = if already { "was complete" } else { "is complete" };
                print(format!(
                    "{} {state}: {:.1} s, {segments} segments, {gaps} missing, {compositions} compositions",
                    place.folder(),
                    duration.as_secs_f64()
                ))?;
                let recordings = recordings.iter().map(|recording| &recording.object);
                for object in [place.multivariant()].iter().chain(recordings) {
                    print(format!("  {location}/{object}"))?;
                }
            }
            Err(error) => {
                complete = false;
                print(format!("{} is not complete: {error}", place.folder()))?;
            }
        }
    }
    events.finish(DELIVERED_WITHIN).await;
    Ok(complete && events.leave() == 0)
}
