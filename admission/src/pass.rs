//! Viewers' passes: who may watch. A pass is a JSON Web Token (RFC 7519) that a back end signs with a secret which it
//! shares with the edges (HS256), or a token of any form that a back end is asked about ([`question`]).
//!
//! What belongs here: the format of passes, of the question and of its answers. What does not: where a request carries
//! its pass, how long answers are kept, and sockets.
//!
//! A pass lets anybody watch who has it. No error, log line or `Debug` of this module contains one.

pub mod question;

use crate::secret::{self, BadSecret};
use crate::token::{LEEWAY, is_for_us, signature_alone, verify};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Longest pass in bytes.
pub const MAX_PASS_BYTES: usize = 1024;

/// A secret that signs passes: one line, or during a change several, each of which verifies. `Debug` shows nothing of
/// the secret.
#[derive(Clone)]
pub struct PassSecret(Arc<[DecodingKey]>);

/// Why a pass does not count. The texts are for viewers: a player's developer reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPass {
    /// The pass is not a token that HS256 has signed.
    #[error("it is not a JSON Web Token with HS256")]
    Malformed,
    /// No line of the secret has signed the pass.
    #[error("its signature is wrong")]
    Signature,
    /// A required claim is missing, or a claim has the wrong type.
    #[error("it needs the claims exp (seconds) and path (app/name or app/*)")]
    Claims,
    /// The pass is for another stream, or for another service.
    #[error("it is for something else")]
    OtherStream,
    /// The pass does not count yet.
    #[error("it is not valid yet")]
    NotYet,
    /// The pass has expired.
    #[error("it has expired")]
    Expired,
}

/// The claims of a pass.
#[derive(Deserialize)]
struct Claims {
    /// When the pass expires, in seconds of Unix time.
    exp: f64,
    /// When the pass begins to count, in seconds of Unix time.
    nbf: Option<f64>,
    /// The streams that may be watched: `app/name`, or `app/*` for all of an application.
    path: String,
    /// The services that the pass is for.
    aud: Option<Value>,
}

impl PassSecret {
    /// Reads a secret as it stands in a file.
    ///
    /// # Errors
    /// See [`BadSecret`].
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        verify::install();
        // An error means that the line is empty.
        let keys: Result<_, _> =
            secret::lines(text)?.into_iter().map(|line| DecodingKey::from_secret(line.as_bytes())).collect();
        keys.map(Self).map_err(|_| BadSecret::Empty)
    }

    /// Judges a pass to the stream `app`/`name` at `now` (Unix time in seconds). Clocks may differ by [`LEEWAY`].
    ///
    /// # Errors
    /// See [`BadPass`].
    pub fn judge(&self, pass: &str, app: &str, name: &str, now: i64) -> Result<(), BadPass> {
        let claims = self.verified(pass)?;
        let claims: Claims = serde_json::from_value(Value::Object(claims)).map_err(|_| BadPass::Claims)?;
        let (now, leeway) = (now as f64, LEEWAY as f64);
        let covered = claims.path.split_once('/');
        let covers = covered.is_some_and(|(in_app, named)| in_app == app && (named == name || named == "*"));
        if !covers || !is_for_us(claims.aud.as_ref()) {
            return Err(BadPass::OtherStream);
        }
        if now >= claims.exp + leeway {
            return Err(BadPass::Expired);
        }
        if claims.nbf.is_some_and(|begins| now < begins - leeway) {
            return Err(BadPass::NotYet);
        }
        Ok(())
    }

    /// The claims of a pass, if one of the lines has signed it.
    fn verified(&self, pass: &str) -> Result<Map<String, Value>, BadPass> {
        if pass.len() > MAX_PASS_BYTES {
            return Err(BadPass::Malformed);
        }
        for key in self.0.iter() {
            match jsonwebtoken::decode(pass, key, &signature_alone(Algorithm::HS256)) {
                Ok(token) => return Ok(token.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => return Err(BadPass::Malformed),
            }
        }
        Err(BadPass::Signature)
    }
}

impl fmt::Debug for PassSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassSecret(..)")
    }
}

/// Whether a text can be a pass: 1 to [`MAX_PASS_BYTES`] characters that a URL's path holds unescaped (RFC 3986, 2.3).
pub fn is_pass(text: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=MAX_PASS_BYTES).contains(&text.len()) && text.bytes().all(unreserved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::hmac;
    use serde_json::json;

    const OLD: &str = "the secret of last year";
    const NEW: &str = "the secret of this year";
    const NOW: i64 = 1_800_000_000;

    fn secret(text: &str) -> PassSecret {
        PassSecret::parse(text).unwrap()
    }

    /// A pass with this header and these claims, signed by `line`.
    fn signed(line: &str, header: &str, claims: &Value) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, line.as_bytes()), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn pass(line: &str, claims: &Value) -> String {
        signed(line, r#"{"alg":"HS256","typ":"JWT"}"#, claims)
    }

    /// Made by `openssl dgst -sha256 -hmac "the secret of this year" -binary`, for `live/demo` until a minute after `NOW`.
    const BY_OPENSSL: &str = "\
        eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAwNjAsInBhdGgiOiJsaXZlL2RlbW8ifQ.\
        rMmix8BTaS1QvTOlN19AEm8YwEsTzaqe2ozyQw-ePWc";

    #[test]
    fn a_pass_counts_for_its_streams_until_it_expires() {
        let secret = secret(NEW);
        let judge =
            |claims: Value, name: &str, now: i64| secret.judge(&pass(NEW, &claims), "live", name, now);
        let one = || json!({ "exp": NOW + 60, "path": "live/demo" });
        assert_eq!(judge(one(), "demo", NOW), Ok(()));
        assert_eq!(judge(one(), "other", NOW), Err(BadPass::OtherStream));
        assert_eq!(judge(one(), "demo", NOW + 60 + LEEWAY - 1), Ok(()), "clocks differ");
        assert_eq!(judge(one(), "demo", NOW + 60 + LEEWAY), Err(BadPass::Expired));
        let all =
            || json!({ "exp": NOW as f64 + 0.5, "path": "live/*", "aud": ["encoder", "x"], "nbf": NOW });
        assert_eq!(judge(all(), "demo", NOW), Ok(()));
        assert_eq!(judge(all(), "demo", NOW - LEEWAY - 1), Err(BadPass::NotYet));
        assert_eq!(secret.judge(&pass(NEW, &all()), "concert", "demo", NOW), Err(BadPass::OtherStream));
        for path in ["live", "*", "*/*", "live/dem*", "live/demo/", "/live/demo", "live/", ""] {
            let claims = json!({ "exp": NOW + 60, "path": path });
            assert_eq!(judge(claims, "demo", NOW), Err(BadPass::OtherStream), "{path}");
        }
        let elsewhere = json!({ "exp": NOW + 60, "path": "live/demo", "aud": "shop" });
        assert_eq!(judge(elsewhere, "demo", NOW), Err(BadPass::OtherStream));
    }

    #[test]
    fn a_pass_without_its_claims_does_not_count() {
        let secret = secret(NEW);
        for claims in [
            json!({ "path": "live/demo" }),
            json!({ "exp": NOW + 60 }),
            json!({ "exp": "1900000000", "path": "live/demo" }),
            json!({ "exp": NOW + 60, "path": 7 }),
            json!({ "exp": NOW + 60, "path": "live/demo", "nbf": "now" }),
        ] {
            let judged = secret.judge(&pass(NEW, &claims), "live", "demo", NOW);
            assert_eq!(judged, Err(BadPass::Claims), "{claims}");
        }
    }

    #[test]
    fn a_pass_needs_a_signature_with_the_secret() {
        let claims = json!({ "exp": NOW + 60, "path": "live/demo" });
        let judge = |secret: &PassSecret, pass: &str| secret.judge(pass, "live", "demo", NOW);
        let (old, new) = (pass(OLD, &claims), pass(NEW, &claims));
        let both = secret(&format!(" {NEW}\n\n{OLD}\r\n"));
        assert_eq!([judge(&both, &old), judge(&both, &new)], [Ok(()), Ok(())], "while the secret changes");
        assert_eq!(judge(&secret(NEW), &old), Err(BadPass::Signature));
        assert_eq!(judge(&secret(NEW), BY_OPENSSL), Ok(()));
        let (message, tag) = new.rsplit_once('.').unwrap();
        let mut cases = vec![
            String::new(),
            "x".into(),
            "..".into(),
            format!("{message}."),
            format!("{message}.{}", &tag[..20]),
            format!("{message}.{tag}.{tag}"),
            message.to_owned(),
            "ä.ä.ä".into(),
            pass(NEW, &json!({ "exp": NOW + 60, "path": "live/demo", "more": "x".repeat(1024) })),
        ];
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS512"}"#, r#"{"alg":"RS256"}"#, "{}", "7"] {
            cases.push(signed(NEW, header, &claims));
        }
        for case in cases {
            let judged = judge(&secret(NEW), &case);
            assert!(matches!(judged, Err(BadPass::Malformed | BadPass::Signature)), "{case}: {judged:?}");
        }
    }

    #[test]
    fn a_secret_is_long_enough_and_shows_nowhere() {
        let refused = |text: &str| PassSecret::parse(text).unwrap_err();
        assert_eq!(refused(" \n"), BadSecret::Empty);
        assert_eq!(refused(&format!("{NEW}\nshort")), BadSecret::Short);
        assert_eq!(refused(&format!("{NEW}\n").repeat(9)), BadSecret::Long);
        assert!(!format!("{:?}", secret(NEW)).contains("year"));
    }

    #[test]
    fn a_pass_is_made_of_characters_that_need_no_escapes() {
        assert!(is_pass("a-Z_0.~") && is_pass(&"x".repeat(MAX_PASS_BYTES)));
        for bad in ["", "a/b", "a%20b", "a=", "ä", "a b", &"x".repeat(MAX_PASS_BYTES + 1)] {
            assert!(!is_pass(bad), "{bad}");
        }
    }
}
