//! The question that a back end is asked about a publisher, and what its answers mean.
//!
//! The question is JSON with MediaMTX's names, or the form of nginx-rtmp's `on_publish`. An answer is a status, and for
//! "yes" optionally the stream's name and terms.

mod answer;

pub use answer::{Answer, BadAnswer, MAX_ANSWER_BYTES, Response};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use std::fmt;
use std::net::SocketAddr;

/// The fields of nginx-rtmp's form. A publisher's arguments may not have these names: a back end might take the
/// argument for the field.
const FORM_FIELDS: [&str; 10] =
    ["app", "flashver", "swfurl", "tcurl", "pageurl", "addr", "clientid", "call", "name", "type"];
/// The characters of a form that are escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a back end is told about a publisher that wants to publish. `Debug` shows no field: a question holds
/// the stream key.
#[derive(Clone)]
pub struct Question {
    /// Application.
    pub app: String,
    /// The stream key as sent.
    pub key: String,
    /// The arguments after the key, without the question mark.
    pub query: String,
    /// The arguments after the application, without the question mark.
    pub app_query: String,
    /// Address of the publisher.
    pub peer: SocketAddr,
    /// The client's name.
    pub client: String,
    /// `tcUrl`, `swfUrl`, `pageUrl` of `connect`.
    pub tc_url: String,
    /// See `tc_url`.
    pub swf_url: String,
    /// See `tc_url`.
    pub page_url: String,
    /// The type of the publish.
    pub publish_type: String,
    /// Host name of the server.
    pub server: String,
    /// A name of this question that no other question has.
    pub id: String,
    /// A number of this question, from 1.
    pub number: u64,
}

impl Question {
    /// The question as JSON: MediaMTX's names, and `app`, `key`, `port`, `server` and `client`.
    pub fn json(&self) -> Vec<u8> {
        let arguments = self.arguments();
        let argument = |names: [&str; 2]| {
            let of = |name: &str| arguments.iter().find(|(found, _)| found == name).map(|(_, value)| value);
            names.into_iter().find_map(of).map_or("", String::as_str)
        };
        let query: Vec<_> =
            [&*self.query, &self.app_query].into_iter().filter(|text| !text.is_empty()).collect();
        let body = json!({
            "user": argument(["user", "username"]),
            "password": argument(["pass", "password"]),
            "token": argument(["token", "jwt"]),
            "ip": self.peer.ip().to_canonical().to_string(),
            "port": self.peer.port(),
            "action": "publish",
            "path": format!("{}/{}", self.app, self.key),
            "protocol": "rtmp",
            "id": self.id,
            "query": query.join("&"),
            "userAgent": self.client,
            "app": self.app,
            "key": self.key,
            "client": self.client,
            "server": self.server,
        });
        body.to_string().into_bytes()
    }

    /// The question as nginx-rtmp's form. The publisher's arguments follow as they are, but for those that a back end
    /// could take for a field of the form.
    pub fn form(&self) -> Vec<u8> {
        let number = self.number.to_string();
        let address = self.peer.ip().to_canonical().to_string();
        let fields = [
            ("app", self.app.as_str()),
            ("flashver", &self.client),
            ("swfurl", &self.swf_url),
            ("tcurl", &self.tc_url),
            ("pageurl", &self.page_url),
            ("addr", &address),
            ("clientid", &number),
            ("call", "publish"),
            ("name", &self.key),
            ("type", &self.publish_type),
        ];
        let fields = fields.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)));
        let queries = [&self.query, &self.app_query];
        let arguments =
            queries.iter().flat_map(|query| query.split('&')).filter(|argument| is_harmless(argument));
        let all: Vec<_> = fields.iter().map(String::as_str).chain(arguments).collect();
        all.join("&").into_bytes()
    }

    /// Identifies the question among those of all encoders.
    pub fn digest(&self) -> [u8; 32] {
        let parts = [&self.app, &self.key, &self.query, &self.app_query];
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        crate::sha256(&bytes)
    }

    /// The decoded arguments of the key and then those of the application.
    fn arguments(&self) -> Vec<(String, String)> {
        let queries = [&self.query, &self.app_query];
        let arguments = queries.into_iter().flat_map(|query| query.split('&'));
        arguments
            .filter(|argument| !argument.is_empty())
            .map(|argument| {
                let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
                (decode_argument(name), decode_argument(value))
            })
            .collect()
    }

    /// Every text of the question that is secret or may be, the longest first.
    fn secrets(&self) -> Vec<String> {
        /// Shorter arguments are words such as `5` or `true`.
        const SECRET_ARGUMENT: usize = 6;
        let raw = [&self.query, &self.app_query].into_iter().flat_map(|query| query.split('&'));
        let raw = raw.filter_map(|argument| Some(argument.split_once('=')?.1.to_owned()));
        let decoded = self.arguments().into_iter().map(|(_, value)| value);
        let mut secrets: Vec<String> =
            raw.chain(decoded).filter(|value| value.len() >= SECRET_ARGUMENT).collect();
        secrets.extend(crate::decoded(&self.key));
        secrets.extend([&self.key, &self.query, &self.app_query].into_iter().cloned());
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question(..)")
    }
}

/// A name or value of a query.
fn decode_argument(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Whether an argument can be sent as it is: it has no character that ends a form's line, and a plain name that is not
/// a field's. PHP, for one, makes `name` out of ` name`, `name[` and `name%00x`, and takes the last of two.
fn is_harmless(argument: &str) -> bool {
    let (name, _) = argument.split_once('=').unwrap_or((argument, ""));
    let name = decode_argument(name);
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let whole = argument.bytes().all(|byte| byte.is_ascii_graphic());
    !name.is_empty() && plain && whole && !FORM_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
}

#[cfg(test)]
pub(crate) mod tests;
