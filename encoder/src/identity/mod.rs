//! Who may publish: asks the configured sources about a publisher. The formats of the sources are in the crate
//! [`admission`]; files, key sets and back ends are read and asked here. What a grant leads to belongs in
//! [`crate::stream`].

mod terms;

pub(crate) use terms::StreamTerms;

use crate::config::PublisherConfig;
use admission::{Grant, Terms};
use rtmp::{PublishRequest, Refusal};

/// The sources of identity.
#[derive(Debug)]
pub(crate) struct Identity {}

impl Identity {
    /// Opens the configured sources.
    pub(crate) fn open(_config: &PublisherConfig) -> Self {
        Self {}
    }

    /// Decides who the publisher is: the first source that knows the key decides. Without a source the key is the
    /// name, and nobody has proved anything.
    pub(crate) async fn decide(&self, request: &PublishRequest) -> Result<Grant, Refusal> {
        if !media::is_valid_name(&request.app) {
            return Err(Refusal::BadName("the application's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
        }
        let name = request.key.expose();
        if !media::is_valid_name(name) {
            return Err(Refusal::BadName("the stream's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
        }
        let (app, name, terms) = (request.app.clone(), name.to_owned(), Terms::default());
        Ok(Grant { app, name, proven: false, terms })
    }
}
