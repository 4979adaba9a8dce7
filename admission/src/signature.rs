//! Signatures on requests to other services, as Standard Webhooks 1.0 defines them (standardwebhooks.com): HMAC-SHA256
//! over `id.timestamp.body`, in the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use std::fmt;

/// Prefix of a secret that is written in base64.
const PREFIX: &str = "whsec_";
/// Fewest and most bytes of a secret (Standard Webhooks, "Signature scheme").
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// A shared secret that signs requests. Never printed.
#[derive(Clone)]
pub struct WebhookSecret(hmac::Key);

/// Why a secret cannot be used. Does not contain the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// What follows `whsec_` is not base64.
    #[error("what follows whsec_ is not base64")]
    NotBase64,
    /// Too short to be safe, or longer than the standard allows.
    #[error("the secret has {0} bytes: 24 to 64 are allowed, as in whsec_ and 32 random bytes in base64")]
    Length(usize),
}

impl WebhookSecret {
    /// Reads a secret as it stands in a file: `whsec_` and base64, or else its bytes as they are. White space around
    /// the secret is ignored.
    ///
    /// # Errors
    /// See [`BadSecret`].
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let text = text.trim();
        let bytes = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| BadSecret::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if !LENGTH.contains(&bytes.len()) {
            return Err(BadSecret::Length(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The value of the header `webhook-signature` for a request with these values of `webhook-id` and
    /// `webhook-timestamp` (Unix time in seconds).
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks reference libraries.
    #[test]
    fn the_standard_s_own_example() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_long_enough_and_show_nowhere() {
        assert_eq!(WebhookSecret::parse("short").unwrap_err(), BadSecret::Length(5));
        assert_eq!(WebhookSecret::parse("whsec_%%%").unwrap_err(), BadSecret::NotBase64);
        let secret = WebhookSecret::parse("a-secret-of-thirty-two-characters").unwrap();
        assert!(!format!("{secret:?}").contains("thirty"));
    }
}
