//! Signed tokens as stream keys: JSON Web Tokens (RFC 7519) and the JSON Web Key Set (RFC 7517) that verifies them.
//!
//! The algorithms are ES256, EdDSA (Ed25519) and RS256. Secrets shared with the signer (HMAC) and unsigned tokens never
//! count here; viewers' passes ([`crate::pass`]) are signed with a shared secret. The crate `jsonwebtoken` verifies, with the cryptography of `ring`.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod samples;
pub(crate) mod verify;

use crate::Terms;
use crate::grant::{Grant, TermsError};
use crate::keys::DEFAULT_APP;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// Largest key set in bytes.
pub const MAX_SET_BYTES: usize = 256 << 10;
/// Most keys of a set.
pub const MAX_SET_KEYS: usize = 100;
/// Longest token in bytes; a longer key is no token.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// How far the clocks of signer and verifier may differ, in seconds.
pub const LEEWAY: i64 = 30;
/// The audience under which tokens may be made out to this program. A token that names other audiences only is for
/// another service (RFC 7519, 4.1.3).
pub const AUDIENCE: &str = "encoder";

/// Public keys that verify tokens. `Debug` shows their number only.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

#[derive(Clone)]
struct VerifyingKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Why a key set cannot be used. The back end that publishes the set has to correct it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeySet {
    /// The set is too long.
    #[error("is longer than 256 KiB")]
    TooLong,
    /// The set is not JSON, or has no list of keys.
    #[error("is not a JSON Web Key Set")]
    NotASet,
    /// The set has too many keys.
    #[error("has more than {MAX_SET_KEYS} keys")]
    TooMany,
    /// None of the keys verifies one of the algorithms.
    #[error("has no public key for ES256, EdDSA or RS256")]
    NoKey,
}

/// What a stream key is, seen as a token.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// No token at all.
    NotAToken,
    /// A token signed with a key that is not in the set. A newer set may have the key.
    UnknownKey,
    /// A token that does not count. Holds the reason.
    Invalid(&'static str),
    /// A token with a good signature that has expired.
    Expired,
    /// A token with a good signature that the back end should not have made like this.
    Unusable(BadToken),
    /// A token that counts.
    Valid(Box<Grant>),
}

/// What is wrong with a token of a good signature. Contains no part of the token but the names of terms and their
/// values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Neither `name` nor `sub` is a valid name.
    #[error("the claim name (or sub, without name) must be 1 to 64 of A-Z a-z 0-9 _ -")]
    Name,
    /// `exp` is missing or not a number.
    #[error("the claim exp must be there, as a number of seconds")]
    Expiry,
    /// `nbf` is not a number.
    #[error("the claim nbf must be a number of seconds")]
    NotBefore,
    /// The terms cannot be used.
    #[error("{0}")]
    Terms(#[from] TermsError),
}

impl KeySet {
    /// Reads a set. Keys of other kinds are passed over (RFC 7517, 5).
    ///
    /// # Errors
    /// See [`BadKeySet`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadKeySet> {
        verify::install();
        if bytes.len() > MAX_SET_BYTES {
            return Err(BadKeySet::TooLong);
        }
        let set: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| BadKeySet::NotASet)?;
        let found = set.get("keys").and_then(Value::as_array).ok_or(BadKeySet::NotASet)?;
        if found.len() > MAX_SET_KEYS {
            return Err(BadKeySet::TooMany);
        }
        let keys: Vec<_> = found.iter().filter_map(VerifyingKey::new).collect();
        if keys.is_empty() { Err(BadKeySet::NoKey) } else { Ok(Self { keys }) }
    }

    /// The number of keys that can verify.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can verify: never true for a set that was read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Judges a stream key that was sent to `app` at `now` (Unix time in seconds). `check` says why terms cannot be
    /// used.
    pub fn judge(
        &self,
        token: &str,
        app: &str,
        now: i64,
        check: impl Fn(&Terms) -> Result<(), String>,
    ) -> Verdict {
        let Some(header) = header(token) else { return Verdict::NotAToken };
        let algorithm = match header.get("alg").and_then(Value::as_str) {
            Some("ES256") => Algorithm::ES256,
            Some("EdDSA") => Algorithm::EdDSA,
            Some("RS256") => Algorithm::RS256,
            Some(_) | None => return Verdict::Invalid("its algorithm is not ES256, EdDSA or RS256"),
        };
        match self.verified(token, algorithm, header.get("kid").and_then(Value::as_str)) {
            Ok(claims) => judge_claims(&claims, app, now, check),
            Err(verdict) => verdict,
        }
    }

    /// The claims of a token, if one of the keys has signed it.
    fn verified(
        &self,
        token: &str,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Map<String, Value>, Verdict> {
        // A key without an ID may have signed any token, and a token without an ID may be signed by any key.
        let candidate = |key: &&VerifyingKey| {
            key.algorithm == algorithm && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        };
        for key in self.keys.iter().filter(candidate) {
            match jsonwebtoken::decode(token, &key.key, &signature_alone(algorithm)) {
                Ok(token) => return Ok(token.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(_) => return Err(Verdict::Invalid("it is malformed")),
            }
        }
        if id.is_some() && !self.keys.iter().any(|key| key.id.as_deref() == id) {
            return Err(Verdict::UnknownKey);
        }
        Err(Verdict::Invalid("no key of the set has signed it"))
    }
}

/// Whether a stream key is a token, valid or not.
pub fn is_token(key: &str) -> bool {
    header(key).is_some()
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl VerifyingKey {
    /// `None` for a key that verifies none of the algorithms.
    fn new(value: &Value) -> Option<Self> {
        let key = Jwk::deserialize(value).ok()?;
        let algorithm = match &key.algorithm {
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            // Other curves, shared secrets, and kinds of keys that are newer than the crate.
            _ => return None,
        };
        let common = &key.common;
        let fits = common.key_algorithm.is_none_or(|named| named == algorithm.into());
        let signs = common.public_key_use.as_ref().is_none_or(|named| *named == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref();
        let verifies = verifies.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !(fits && signs && verifies) {
            return None;
        }
        let id = key.common.key_id.clone();
        Some(Self { id, algorithm, key: DecodingKey::from_jwk(&key).ok()? })
    }
}

/// The header of a token: three parts with dots between them, the first of which is an object that names an algorithm.
fn header(token: &str) -> Option<Map<String, Value>> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let (header, Some(_), Some(_), None) = (parts.next()?, parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let header: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    header.get("alg")?.as_str()?;
    Some(header)
}

/// What `jsonwebtoken` is to check: the signature. It would ask the clock about the claims, which is not for this crate.
pub(crate) fn signature_alone(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn judge_claims(
    claims: &Map<String, Value>,
    app: &str,
    now: i64,
    check: impl Fn(&Terms) -> Result<(), String>,
) -> Verdict {
    let now = now as f64;
    let Some(expires) = claims.get("exp").and_then(Value::as_f64) else {
        return Verdict::Unusable(BadToken::Expiry);
    };
    let begins = match claims.get("nbf").map(Value::as_f64) {
        None => f64::NEG_INFINITY,
        Some(Some(begins)) => begins,
        Some(None) => return Verdict::Unusable(BadToken::NotBefore),
    };
    if !is_for_us(claims.get("aud")) {
        return Verdict::Invalid("it is for another service");
    }
    if claims.get("app").map_or(Some(DEFAULT_APP), Value::as_str) != Some(app) {
        return Verdict::Invalid("it is for another application");
    }
    if now >= expires + LEEWAY as f64 {
        return Verdict::Expired;
    }
    if now < begins - LEEWAY as f64 {
        return Verdict::Invalid("it is not valid yet");
    }
    match granted(claims, app, check) {
        Ok(grant) => Verdict::Valid(Box::new(grant)),
        Err(bad) => Verdict::Unusable(bad),
    }
}

fn granted(
    claims: &Map<String, Value>,
    app: &str,
    check: impl Fn(&Terms) -> Result<(), String>,
) -> Result<Grant, BadToken> {
    let name = claims.get("name").or_else(|| claims.get("sub")).and_then(Value::as_str);
    let name = name.filter(|name| media::is_valid_name(name)).ok_or(BadToken::Name)?;
    let terms = Terms::from_fields(claims)?;
    check(&terms).map_err(TermsError::Unusable)?;
    Ok(Grant { app: app.to_owned(), name: name.to_owned(), proven: true, terms })
}

pub(crate) fn is_for_us(audience: Option<&Value>) -> bool {
    match audience {
        None => true,
        Some(Value::String(one)) => one == AUDIENCE,
        Some(Value::Array(several)) => several.iter().any(|one| one == AUDIENCE),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => false,
    }
}

#[cfg(test)]
mod tests;
