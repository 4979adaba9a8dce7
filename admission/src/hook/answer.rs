//! What a back end's answer means.

use super::Question;
use crate::grant::{Grant, Terms, TermsError};
use media::is_valid_name;
use serde_json::{Map, Value};

/// Longest body of an answer in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 << 10;
/// Longest reason that a publisher is told, in characters.
const MAX_REASON: usize = 256;

/// A back end's response.
#[derive(Clone, Copy)]
pub struct Response<'a> {
    /// HTTP status.
    pub status: u16,
    /// The header `content-type`.
    pub content_type: Option<&'a str>,
    /// The header `location`.
    pub location: Option<&'a str>,
    /// The body; `None` if it is longer than [`MAX_ANSWER_BYTES`].
    pub body: Option<&'a [u8]>,
}

/// What a response means.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The publisher may publish.
    Yes(Grant),
    /// The publisher may not publish. Holds the back end's words, if it said any: without the key, at most 256
    /// printable characters.
    No(Option<String>),
    /// The back end did not answer the question: status 408, 429 or 5xx. Holds the status.
    Down(u16),
    /// The back end's answer cannot be understood. The back end has to be corrected.
    Garbage(BadAnswer),
}

/// What is wrong with an answer. Contains nothing of the answer but the names of terms and their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// The body is too long.
    #[error("the answer is longer than 16 KiB")]
    TooLong,
    /// The body is not a JSON object, although the content type says so.
    #[error("the answer is not a JSON object")]
    NotJson,
    /// The answer names no stream, and the key is not a valid name.
    #[error(
        "the answer must have a name, 1 to 64 of A-Z a-z 0-9 _ -, because the stream key is not such a name"
    )]
    NoName,
    /// The answer's name is not valid.
    #[error("the answer's name is not 1 to 64 of A-Z a-z 0-9 _ -")]
    Name,
    /// `Location` is not a valid name.
    #[error("the answer redirects, but not to a stream's bare name of 1 to 64 of A-Z a-z 0-9 _ -")]
    Location,
    /// The terms cannot be used.
    #[error("{0}")]
    Terms(#[from] TermsError),
}

impl Answer {
    /// Reads a response to a question. `check` says why terms cannot be used.
    pub fn read(
        question: &Question,
        response: Response<'_>,
        check: impl Fn(&Terms) -> Result<(), String>,
    ) -> Self {
        let granted = match response.status {
            200..=299 => yes(question, response, check),
            300..=399 if response.location.is_some() => {
                renamed(question, response.location.unwrap_or_default())
            }
            408 | 429 | 500..=599 => return Self::Down(response.status),
            _ => return Self::No(reason(question, response)),
        };
        match granted {
            Ok(grant) => Self::Yes(grant),
            Err(bad) => Self::Garbage(bad),
        }
    }
}

fn grant(question: &Question, name: &str, terms: Terms) -> Grant {
    Grant { app: question.app.clone(), name: name.to_owned(), proven: true, terms }
}

fn renamed(question: &Question, location: &str) -> Result<Grant, BadAnswer> {
    let name = Some(location.trim()).filter(|name| is_valid_name(name)).ok_or(BadAnswer::Location)?;
    Ok(grant(question, name, Terms::default()))
}

fn yes(
    question: &Question,
    response: Response<'_>,
    check: impl Fn(&Terms) -> Result<(), String>,
) -> Result<Grant, BadAnswer> {
    let body = response.body.ok_or(BadAnswer::TooLong)?;
    let fields = if is_json(response.content_type) && !body.trim_ascii().is_empty() {
        serde_json::from_slice::<Map<String, Value>>(body).map_err(|_| BadAnswer::NotJson)?
    } else {
        Map::new()
    };
    let terms = Terms::from_fields(&fields)?;
    check(&terms).map_err(TermsError::Unusable)?;
    match fields.get("name").filter(|name| !name.is_null()) {
        Some(name) => {
            let name = name.as_str().filter(|name| is_valid_name(name)).ok_or(BadAnswer::Name)?;
            Ok(grant(question, name, terms))
        }
        None => {
            let decoded = crate::decoded(&question.key);
            let mut readings = [Some(question.key.as_str()), decoded.as_deref()].into_iter().flatten();
            let name = readings.find(|name| is_valid_name(name)).ok_or(BadAnswer::NoName)?;
            Ok(grant(question, name, terms))
        }
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// The words of a "no".
fn reason(question: &Question, response: Response<'_>) -> Option<String> {
    let body = response.body?;
    let content_type = response.content_type.unwrap_or_default().trim_start().to_ascii_lowercase();
    let text = if is_json(response.content_type) {
        let fields = serde_json::from_slice::<Map<String, Value>>(body).ok()?;
        ["reason", "message", "error"].iter().find_map(|name| fields.get(*name)?.as_str())?.to_owned()
    } else if content_type.starts_with("text/plain") {
        String::from_utf8_lossy(body).into_owned()
    } else {
        return None;
    };
    let mut text = printable(&text);
    for secret in question.secrets() {
        text = text.replace(&printable(&secret), "…");
    }
    let text: String = text.trim().chars().take(MAX_REASON).collect();
    Some(text).filter(|text| !text.is_empty())
}

/// White space as blanks, and neither control characters nor those that turn or hide text.
fn printable(text: &str) -> String {
    let blank = |character: char| if character.is_whitespace() { ' ' } else { character };
    let hidden = |character: char| {
        character.is_control()
            || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}')
    };
    text.chars().map(blank).filter(|character| !hidden(*character)).collect()
}
