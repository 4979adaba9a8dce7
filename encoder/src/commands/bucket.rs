//! `encoder bucket check`: prints what [`Location::check`] finds.

use crate::fault::Fault;
use std::io::{self, Write};
use store::{Location, StoreFinding};

/// Checks a bucket's settings and the account's permissions there. Returns whether nothing is wrong.
pub(super) async fn check(location: Location) -> Result<bool, Fault> {
    let findings = location.check().await.map_err(|error| Fault::store("bucket", &location, &error))?;
    print(&location, &findings)
        .map_err(|error| Fault::Machine { what: "cannot print", why: error.to_string() })?;
    Ok(!findings.iter().any(|finding| finding.wrong))
}

fn print(location: &Location, findings: &[StoreFinding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for StoreFinding { wrong, what, commands } in findings {
        writeln!(out, "{}: {what}", if *wrong { "wrong" } else { "advice" })?;
        for command in commands {
            writeln!(out, "{command}")?;
        }
        writeln!(out)?;
    }
    if !findings.iter().any(|finding| finding.wrong) {
        writeln!(out, "{location} is fit for live streams")?;
    }
    Ok(())
}
