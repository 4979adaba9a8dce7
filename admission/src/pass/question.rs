//! The question that a back end is asked about a viewer's pass, and what its answers mean.

use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest body of an answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 4 << 10;
/// How long a "yes" counts where the answer does not say.
pub const YES_COUNTS: Duration = Duration::from_secs(60);
/// How long a "no" counts where the answer does not say: a pass may be about to become valid.
pub const NO_COUNTS: Duration = Duration::from_secs(10);
/// The seconds for which an answer may count; `max_age` is brought into this range.
const MAX_AGE_SECONDS: RangeInclusive<f64> = 1.0..=3600.0;
/// Characters of the User-Agent that a back end is told.
const MAX_USER_AGENT: usize = 256;

/// What a back end is told about a viewer. `Debug` shows no field: a question holds the pass.
#[derive(Clone)]
pub struct Question {
    /// Application.
    pub app: String,
    /// The stream's name.
    pub name: String,
    /// The pass as the viewer sent it.
    pub token: String,
    /// Address of the first viewer with this pass.
    pub address: Option<IpAddr>,
    /// The User-Agent of that viewer's player.
    pub user_agent: String,
    /// Host name of the edge.
    pub server: String,
    /// A name of this question that no other question has.
    pub id: String,
}

/// What an answer means, and how long it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The pass lets its holder watch the stream.
    Yes(Duration),
    /// It does not.
    No(Duration),
    /// The back end cannot tell now. Holds the status.
    Down(u16),
}

/// The part of an answer's body that is read.
#[derive(Deserialize)]
struct Terms {
    max_age: f64,
}

impl Question {
    /// The question as JSON.
    pub fn json(&self) -> Vec<u8> {
        let user_agent: String = self.user_agent.chars().take(MAX_USER_AGENT).collect();
        let body = json!({
            "action": "read",
            "app": self.app,
            "name": self.name,
            "token": self.token,
            "address": self.address.map_or(Value::Null, |address| address.to_canonical().to_string().into()),
            "user_agent": user_agent,
            "server": self.server,
            "id": self.id,
        });
        body.to_string().into_bytes()
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question(..)")
    }
}

/// Identifies the question whether a pass lets its holder watch the stream `app`/`name`.
pub fn digest(app: &str, name: &str, token: &str) -> [u8; 32] {
    // Neither names nor passes contain a slash.
    crate::sha256(format!("{app}/{name}/{token}").as_bytes())
}

impl Answer {
    /// Reads an answer. `body` is `None` if it is longer than [`MAX_ANSWER_BYTES`], or did not arrive.
    pub fn read(status: u16, body: Option<&[u8]>) -> Self {
        let said = body.and_then(|body| serde_json::from_slice::<Terms>(body).ok());
        let seconds = said.map(|terms| terms.max_age.clamp(*MAX_AGE_SECONDS.start(), *MAX_AGE_SECONDS.end()));
        let or = |default| seconds.map_or(default, Duration::from_secs_f64);
        match status {
            200..300 => Self::Yes(or(YES_COUNTS)),
            408 | 429 | 500.. => Self::Down(status),
            _ => Self::No(or(NO_COUNTS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_who_wants_to_watch_what() {
        let question = Question {
            app: "live".into(),
            name: "demo".into(),
            token: "secret-pass".into(),
            address: Some("::ffff:192.0.2.7".parse().unwrap()),
            user_agent: "ä".repeat(1000),
            server: "edge-1".into(),
            id: "view_1".into(),
        };
        let said: Value = serde_json::from_slice(&question.json()).unwrap();
        assert_eq!(
            said,
            json!({
                "action": "read", "app": "live", "name": "demo", "token": "secret-pass", "address": "192.0.2.7",
                "user_agent": "ä".repeat(256), "server": "edge-1", "id": "view_1",
            })
        );
        assert!(!format!("{question:?}").contains("secret"));
        assert_ne!(digest("live", "demo", "a"), digest("live", "demo", "b"));
        assert_ne!(digest("live", "demo", "a"), digest("live", "other", "a"));
    }

    #[test]
    fn an_answer_counts_as_long_as_it_says_within_bounds() {
        let seconds = Duration::from_secs;
        let read = |status, body: &str| Answer::read(status, Some(body.as_bytes()));
        assert_eq!(read(200, r#"{"max_age": 300}"#), Answer::Yes(seconds(300)));
        assert_eq!(read(204, ""), Answer::Yes(YES_COUNTS));
        assert_eq!(read(200, r#"{"max_age": "x"}"#), Answer::Yes(YES_COUNTS));
        assert_eq!(read(200, "<html>"), Answer::Yes(YES_COUNTS));
        assert_eq!(Answer::read(200, None), Answer::Yes(YES_COUNTS));
        assert_eq!(read(200, r#"{"max_age": 1e300}"#), Answer::Yes(seconds(3600)));
        assert_eq!(read(200, r#"{"max_age": -1}"#), Answer::Yes(seconds(1)));
        assert_eq!(read(403, r#"{"max_age": 120, "reason": "x"}"#), Answer::No(seconds(120)));
        for status in [100, 302, 400, 404] {
            assert_eq!(read(status, ""), Answer::No(NO_COUNTS), "{status}");
        }
        for status in [408, 429, 500, 503, 999] {
            assert_eq!(read(status, r#"{"max_age": 9}"#), Answer::Down(status));
        }
    }
}
