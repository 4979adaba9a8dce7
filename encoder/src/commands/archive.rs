//! `encoder archive seal`: finishes a stream's archives and prints their state.

use crate::archive::load::archives;
use crate::archive::seal::{Sealed, seal};
use crate::fault::Fault;
use std::io::{self, Write};
use store::Location;

/// Seals all archives of the stream `{app}/{name}`. Returns true if there is an archive and all are complete.
pub(super) async fn run(output: &Location, stream: &str) -> Result<bool, Fault> {
    // Opening a store creates a missing directory: a mistyped path must not create one.
    if let Some(path) = output.as_directory()
        && !path.is_dir()
    {
        return Err(Fault::Store { place: output.to_string(), why: "there is no such directory".to_owned() });
    }
    let store = output.open().await.map_err(|error| Fault::store("--output", output, &error))?;
    let failed = |why: String| Fault::Machine { what: "cannot seal", why };
    let print = |line: String| -> Result<(), Fault> {
        writeln!(io::stdout(), "{line}")
            .map_err(|error| Fault::Machine { what: "cannot print", why: error.to_string() })
    };
    let places = archives(&store, stream).await.map_err(|error| failed(error.to_string()))?;
    if places.is_empty() {
        print(format!("{}/{stream}: there is no archive", store.location()))?;
        return Ok(false);
    }
    let mut complete = true;
    for place in places {
        match seal(&store, &place).await {
            Ok(Sealed { already, duration, segments, gaps, recordings, compositions }) => {
                let state = if already { "was complete" } else { "is complete" };
                print(format!(
                    "{} {state}: {:.1} s, {segments} segments, {gaps} missing, {compositions} compositions",
                    place.folder(),
                    duration.as_secs_f64()
                ))?;
                for object in [place.multivariant()].iter().chain(&recordings) {
                    print(format!("  {}/{object}", store.location()))?;
                }
            }
            Err(error) => {
                complete = false;
                print(format!("{} is not complete: {error}", place.folder()))?;
            }
        }
    }
    Ok(complete)
}
