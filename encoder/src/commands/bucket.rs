//! `encoder bucket check`: prints the findings of [`store::gcs::check`].

use crate::fault::Fault;
use std::io::{self, Write};
use store::gcs::check::{Weight, judge, look};
use store::gcs::{GcsStore, Location, OpenError};

/// Checks a bucket's settings and the account's permissions there. Returns whether nothing is wrong.
pub async fn check(location: Location, endpoint: Option<String>) -> Result<bool, Fault> {
    let endpoint = endpoint.as_deref();
    let may = match GcsStore::open(location.clone(), endpoint).await {
        Ok(_) => None,
        Err(error @ OpenError::Forbidden { .. }) => Some(error),
        Err(error) => return Err(Fault::bucket("bucket", &location, &error)),
    };
    let facts =
        look(location.clone(), endpoint).await.map_err(|error| Fault::bucket("bucket", &location, &error))?;
    let findings = judge(&facts, location.bucket());
    let wrong = findings.iter().filter(|finding| finding.weight == Weight::Wrong).count();
    let mut out = io::stdout().lock();
    let mut print = || -> io::Result<()> {
        if let Some(error) = &may {
            writeln!(out, "wrong: {error}\n")?;
        }
        for finding in &findings {
            let weight = match finding.weight {
                Weight::Wrong => "wrong",
                Weight::Advice => "advice",
            };
            writeln!(out, "{weight}: {}", finding.what)?;
            for command in &finding.commands {
                writeln!(out, "{command}")?;
            }
            writeln!(out)?;
        }
        if may.is_none() && wrong == 0 {
            writeln!(out, "{location} is fit for live streams")?;
        }
        Ok(())
    };
    print().map_err(|error| Fault::Machine { what: "cannot print", why: error.to_string() })?;
    Ok(may.is_none() && wrong == 0)
}
