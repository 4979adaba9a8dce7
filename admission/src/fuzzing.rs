//! The fuzz target of this crate, for the feature `testing`: everything that is read from outside.

use crate::hook::{Answer, MAX_ANSWER_BYTES, Question, Response};
use crate::keys::{BadEntry, BadKeys, KeyTable};
use crate::pass::{self, PassSecret, is_pass};
use crate::token::samples;
use crate::token::{KeySet, MAX_TOKEN_BYTES, Verdict, is_token};
use crate::{Grant, Terms};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use std::sync::OnceLock;

/// A key that appears in no reason.
const KEY: &str = "se/cr%65t-key";

/// The signer of the fuzzer's tokens, and a set with its key and an RSA key.
struct Fixed {
    signer: Ed25519KeyPair,
    set: KeySet,
}

fn fixed() -> &'static Fixed {
    static FIXED: OnceLock<Fixed> = OnceLock::new();
    #[allow(clippy::expect_used, reason = "the values are constants")]
    FIXED.get_or_init(|| {
        let signer = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed");
        let point = URL_SAFE_NO_PAD.encode(signer.public_key().as_ref());
        let set = json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": point },
            { "kty": "RSA", "kid": "rsa", "n": samples::RSA_MODULUS, "e": "AQAB" },
        ] });
        let set = KeySet::parse(set.to_string().as_bytes()).expect("a key set");
        Fixed { signer, set }
    })
}

/// Reads the input as a token, as the claims of a signed token, as a key set, as a keys file, as a viewer's pass and as
/// answers of a back end. `check` says why terms cannot be used.
pub fn tokens(input: &[u8], check: impl Fn(&Terms) -> Result<(), String> + Copy) {
    let text = String::from_utf8_lossy(input);
    judge(&text, check);
    if serde_json::from_slice::<Value>(input).is_ok() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"ed"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(input));
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(fixed().signer.sign(message.as_bytes())));
        judge(&token, check);
    }
    if let Ok(set) = KeySet::parse(input) {
        assert!(!set.is_empty());
        set.judge(samples::RSA_TOKEN, "live", samples::NOW, check);
    }
    match KeyTable::parse(input, check) {
        Ok(table) => {
            if let Some(grant) = table.find("live", "secret-of-a-camera") {
                assert_granted(&grant, check);
            }
        }
        // Terms that cannot be used are quoted.
        Err(BadKeys::Entry(_, BadEntry::Terms(_))) => {}
        Err(bad) => assert!(!bad.to_string().contains("secret-of-")),
    }
    answers(input, &text, check);
    passes(input, &text);
}

/// Reads the input as a pass, as the claims of a signed pass, as a secret, and as an answer about a pass.
fn passes(input: &[u8], text: &str) {
    const SECRET: &str = "the secret of passes";
    let Ok(secret) = PassSecret::parse(SECRET) else { unreachable!("the secret is long enough") };
    assert!(secret.judge(text, "live", "demo", samples::NOW).is_err(), "no one has signed it");
    let message = [&br#"{"alg":"HS256"}"#[..], input].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    let signed = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    if secret.judge(&signed, "live", "demo", samples::NOW).is_ok() {
        assert!(is_pass(&signed));
        assert_eq!(secret.judge(&signed, "concert", "demo", samples::NOW), Err(pass::BadPass::OtherStream));
    }
    if let Ok(secret) = PassSecret::parse(text) {
        assert!(secret.judge(&signed, "live", "demo", samples::NOW).is_err());
    }
    for status in [200, 403, 503] {
        match pass::question::Answer::read(status, Some(input)) {
            pass::question::Answer::Yes(counts) | pass::question::Answer::No(counts) => {
                assert!((1..=3600).contains(&counts.as_secs()));
            }
            pass::question::Answer::Down(said) => assert_eq!(said, 503),
        }
    }
}

fn judge(token: &str, check: impl Fn(&Terms) -> Result<(), String> + Copy) {
    match fixed().set.judge(token, "live", samples::NOW, check) {
        Verdict::Valid(grant) => assert_granted(&grant, check),
        Verdict::NotAToken => assert!(!is_token(token)),
        Verdict::UnknownKey | Verdict::Invalid(_) | Verdict::Expired | Verdict::Unusable(_) => {
            assert!(token.len() <= MAX_TOKEN_BYTES && is_token(token));
        }
    }
}

fn answers(input: &[u8], text: &str, check: impl Fn(&Terms) -> Result<(), String> + Copy) {
    let question = Question {
        app: "live".into(),
        key: KEY.into(),
        query: text.into(),
        app_query: String::new(),
        peer: ([127, 0, 0, 1], 1).into(),
        client: String::new(),
        tc_url: text.into(),
        swf_url: String::new(),
        page_url: String::new(),
        publish_type: String::new(),
        server: String::new(),
        id: String::new(),
        number: 1,
    };
    assert!(serde_json::from_slice::<Value>(&question.json()).is_ok());
    assert!(question.form().iter().all(u8::is_ascii_graphic), "one line of printable characters");
    let question = Question { query: String::new(), ..question };
    let body = (input.len() <= MAX_ANSWER_BYTES).then_some(input);
    for (status, content_type, location) in [
        (200, "application/json", None),
        (302, "", Some(text)),
        (403, "application/json", None),
        (403, "text/plain", None),
    ] {
        let response = Response { status, content_type: Some(content_type), location, body };
        match Answer::read(&question, response, check) {
            Answer::Yes(grant) => assert_granted(&grant, check),
            Answer::No(words) => {
                let words = words.unwrap_or_default();
                assert!(words.chars().count() <= 256 && !words.chars().any(char::is_control));
                assert!(!words.contains(KEY) && !words.contains("se/cret-key"));
            }
            Answer::Down(_) => unreachable!("none of these statuses says so"),
            Answer::Garbage(bad) => assert!(!bad.to_string().is_empty()),
        }
    }
}

fn assert_granted(grant: &Grant, check: impl Fn(&Terms) -> Result<(), String>) {
    assert!(grant.proven && grant.app == "live" && media::is_valid_name(&grant.name));
    assert_eq!(check(&grant.terms), Ok(()));
}
