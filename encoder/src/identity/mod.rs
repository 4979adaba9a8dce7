//! Who may publish: asks the configured sources about a publisher. The formats of the sources are in the crate
//! [`admission`]; files, key sets and back ends are read and asked here. What a grant leads to belongs in
//! [`crate::stream`].

mod file;
mod hook;
mod jwks;
mod terms;

pub(crate) use file::FollowedFile;
pub(crate) use terms::StreamTerms;

use crate::config::PublisherConfig;
use crate::fault::Fault;
use crate::stream::driver::now;
use admission::keys::KeyTable;
use admission::{Grant, Terms};
use hook::{Hook, HookVerdict};
use jwks::{Pace, TokenKeys, TokenVerdict};
use rtmp::{PublishRequest, Refusal};
use std::sync::Arc;

/// All that a stranger is told.
const STRANGER: &str = "this stream key may not publish here";

/// The sources of identity.
#[derive(Debug)]
pub(crate) struct Identity {
    keys: Option<Arc<FollowedFile<KeyTable>>>,
    tokens: Option<TokenKeys>,
    hook: Option<Hook>,
}

impl Identity {
    /// Opens the configured sources. [`Identity::attend`] keeps them current.
    ///
    /// # Errors
    /// This machine cannot make requests to a source's URL.
    pub(crate) fn open(config: &PublisherConfig) -> Result<Arc<Self>, Fault> {
        let machine =
            |why| Fault::Machine { what: "cannot ask who may publish (--publish-jwks, --publish-hook)", why };
        let tokens = config.jwks.as_ref().map(|location| TokenKeys::open(location, Pace::default()));
        let hook = config.hook.as_ref().map(|hook| Hook::open(hook, None));
        Ok(Arc::new(Self {
            keys: config.keys.clone(),
            tokens: tokens.transpose().map_err(machine)?,
            hook: hook.transpose().map_err(machine)?,
        }))
    }

    /// Follows files and renews the key set as long as the future is polled: spawn it once.
    pub(crate) async fn attend(self: Arc<Self>) {
        let keys = async {
            if let Some(keys) = &self.keys {
                Arc::clone(keys).follow().await;
            }
        };
        let tokens = async {
            if let Some(tokens) = &self.tokens {
                tokens.attend().await;
            }
        };
        tokio::join!(keys, tokens);
    }

    /// Whether publishers can prove who they are: whether there is a source.
    pub(crate) fn proves(&self) -> bool {
        self.keys.is_some() || self.tokens.is_some() || self.hook.is_some()
    }

    /// Decides who the publisher is: the first source that knows the key decides. Without a source the key is the
    /// name, and nobody has proved anything.
    ///
    /// # Errors
    /// The refusal that the publisher is to hear. It contains no secret.
    pub(crate) async fn decide(&self, request: &PublishRequest) -> Result<Grant, Refusal> {
        if !media::is_valid_name(&request.app) {
            return Err(Refusal::BadName("the application's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
        }
        if !self.proves() {
            return unproven(request);
        }
        let key = request.full_key();
        let decoded = admission::decoded(key.expose());
        let readings = readings(key.expose(), decoded.as_deref());
        let readings = || readings.into_iter().flatten();
        if let Some(keys) = &self.keys {
            let table = keys.current();
            if let Some(grant) = readings().find_map(|key| table.find(&request.app, key)) {
                return Ok(grant);
            }
        }
        let token = match &self.tokens {
            Some(tokens) => {
                let verdicts = readings().map(|key| tokens.judge(key, &request.app, unix_now()));
                verdicts.into_iter().find(|verdict| *verdict != TokenVerdict::NotAToken)
            }
            None => None,
        };
        let refusal = match token {
            Some(TokenVerdict::Yes(grant)) => return Ok(*grant),
            Some(TokenVerdict::Expired) => Refusal::Forbidden("this stream key has expired".into()),
            Some(TokenVerdict::Unknown) => Refusal::AdmissionDown,
            None | Some(TokenVerdict::NotAToken | TokenVerdict::No) if request.path.expose().is_empty() => {
                Refusal::Forbidden(STRANGER.into())
            }
            None | Some(TokenVerdict::NotAToken | TokenVerdict::No) => Refusal::too_many_parts(),
        };
        let Some(hook) = &self.hook else { return Err(refusal) };
        match hook.ask(request, &key).await {
            HookVerdict::Yes(grant) => Ok(*grant),
            HookVerdict::Unknown => Err(Refusal::AdmissionDown),
            // The key set may know the token that the back end does not know.
            HookVerdict::No(_) if refusal == Refusal::AdmissionDown => Err(refusal),
            HookVerdict::No(Some(words)) => Err(Refusal::Forbidden(words)),
            HookVerdict::No(None) => Err(refusal),
        }
    }
}

/// What a publisher may mean by its key: the key as it was sent, the key without its percent-escapes, and the end of a
/// whole publishing URL that was entered in place of the key.
fn readings<'a>(key: &'a str, decoded: Option<&'a str>) -> [Option<&'a str>; 3] {
    [Some(key), decoded, key_in_url(decoded.unwrap_or(key))]
}

/// The key of a publishing URL, `rtmp://HOST/APP/KEY`; `None` if the text is no such URL.
fn key_in_url(text: &str) -> Option<&str> {
    let (_scheme, rest) = text.split_once("://")?;
    let (_host, path) = rest.split_once('/')?;
    let (_app, key) = path.split_once('/')?;
    Some(key.split('?').next().unwrap_or(key)).filter(|key| !key.is_empty())
}

/// The grant without a source of identity.
fn unproven(request: &PublishRequest) -> Result<Grant, Refusal> {
    if !request.path.expose().is_empty() {
        return Err(Refusal::too_many_parts());
    }
    let key = request.key.expose();
    let decoded = admission::decoded(key);
    let mut readings = readings(key, decoded.as_deref()).into_iter().flatten();
    let Some(name) = readings.find(|name| media::is_valid_name(name)) else {
        return Err(Refusal::BadName("the stream's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
    };
    let (app, name, terms) = (request.app.clone(), name.to_owned(), Terms::default());
    Ok(Grant { app, name, proven: false, terms })
}

/// The time in seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    now().wall.unix_micros() / 1_000_000
}

#[cfg(test)]
mod tests;
