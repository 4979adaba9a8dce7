use super::samples::{NOW, RSA_MODULUS, RSA_TOKEN};
use super::*;
use crate::sha256;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

/// One signer for each algorithm that signs here.
struct Signers {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Signers {
    fn new() -> Self {
        let random = SystemRandom::new();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, p256.as_ref(), &random).unwrap();
        Self { p256, ed25519: Ed25519KeyPair::from_seed_unchecked(&sha256(b"seed")).unwrap() }
    }

    fn set(&self) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "alg": "ES256",
              "x": encoded(&point[1..33]), "y": encoded(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(self.ed25519.public_key().as_ref()) },
            { "kty": "RSA", "kid": "rsa", "n": RSA_MODULUS, "e": "AQAB" },
            { "kty": "oct", "kid": "shared", "k": encoded(b"a shared secret of thirty-two by") },
            { "kty": "AKP", "kid": "newer", "alg": "ML-DSA-44", "pub": "AAAA" },
        ] })
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(self.set().to_string().as_bytes()).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("ES256") => {
                self.p256.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            _ => self.ed25519.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(signature))
    }
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn judged(keys: &KeySet, token: &str) -> Verdict {
    keys.judge(token, "live", NOW, |terms| match terms.latency {
        Some(latency) if latency < 2.0 => Err("latency: too short".into()),
        _ => Ok(()),
    })
}

fn grant(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Valid(grant) => *grant,
        other => panic!("not valid: {other:?}"),
    }
}

#[test]
fn each_algorithm_verifies_its_own_signatures_only() {
    let signers = Signers::new();
    let keys = signers.keys();
    assert_eq!(keys.len(), 3, "shared secrets and unknown kinds do not count");
    let claims = json!({ "name": "camera", "exp": NOW + 60 });
    for (algorithm, id) in [("ES256", "ec"), ("EdDSA", "ed")] {
        for header in [json!({ "alg": algorithm, "kid": id }), json!({ "alg": algorithm })] {
            let token = signers.token(&header, &claims);
            let grant = grant(judged(&keys, &token));
            assert_eq!((&*grant.app, &*grant.name, grant.proven), ("live", "camera", true), "{header}");
            // Another's claims under the same signature.
            let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
            parts[1] = encoded(json!({ "name": "another", "exp": NOW + 60 }).to_string());
            assert!(matches!(judged(&keys, &parts.join(".")), Verdict::Invalid(_)), "{header}");
        }
        let wrong_key = json!({ "alg": algorithm, "kid": if id == "ec" { "ed" } else { "ec" } });
        let verdict = judged(&keys, &signers.token(&wrong_key, &claims));
        assert!(matches!(verdict, Verdict::Invalid(_)), "{verdict:?}");
        let unknown = json!({ "alg": algorithm, "kid": "next" });
        assert_eq!(judged(&keys, &signers.token(&unknown, &claims)), Verdict::UnknownKey);
    }
    assert_eq!(grant(judged(&keys, RSA_TOKEN)).name, "camera");
    let forged = format!("{}AAAA", &RSA_TOKEN[..RSA_TOKEN.len() - 4]);
    assert!(matches!(judged(&keys, &forged), Verdict::Invalid(_)));
}

#[test]
fn unsigned_tokens_and_shared_secrets_never_count() {
    let signers = Signers::new();
    let keys = signers.keys();
    let claims = encoded(json!({ "name": "camera", "exp": NOW + 60 }).to_string());
    for algorithm in ["none", "None", "HS256", "HS512", "ES384", "PS256", ""] {
        for id in ["ec", "shared"] {
            let header = encoded(json!({ "alg": algorithm, "kid": id }).to_string());
            let message = format!("{header}.{claims}");
            let point = signers.p256.public_key().as_ref();
            for secret in [point, b"a shared secret of thirty-two by"] {
                let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                let signature = encoded(ring::hmac::sign(&secret, message.as_bytes()));
                for token in [format!("{message}."), format!("{message}.{signature}")] {
                    let verdict = judged(&keys, &token);
                    assert!(matches!(verdict, Verdict::Invalid(_)), "{algorithm}: {verdict:?}");
                }
            }
        }
    }
    // Headers that a verifier must understand (RFC 7515, 4.1.11).
    let critical = json!({ "alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": false });
    let token = signers.token(&critical, &json!({ "name": "camera", "exp": NOW + 60 }));
    assert!(matches!(judged(&keys, &token), Verdict::Invalid(_)));
}

#[test]
fn what_is_no_token_is_told_apart() {
    let keys = Signers::new().keys();
    let header = encoded(r#"{"alg":"ES256"}"#);
    let long = format!("{header}.{}.a", "a".repeat(MAX_TOKEN_BYTES));
    for key in ["", "key", "a.b", "a.b.c", "a.b.c.d", "..", &encoded("{}"), &format!("{header}.a"), &long] {
        assert_eq!(judged(&keys, key), Verdict::NotAToken, "{key}");
        assert!(!is_token(key));
    }
    assert!(is_token(&format!("{header}..")));
    assert!(matches!(judged(&keys, &format!("{header}..")), Verdict::Invalid(_)));
}

#[test]
fn claims_bound_time_place_and_terms() {
    let signers = Signers::new();
    let keys = signers.keys();
    let verdict =
        |claims: Value| judged(&keys, &signers.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims));
    let exp = NOW + 60;
    for claims in [
        json!({ "sub": "camera", "exp": NOW - LEEWAY + 1 }),
        json!({ "name": "camera", "sub": "user 7", "exp": exp as f64 + 0.5, "nbf": NOW + LEEWAY }),
        json!({ "name": "camera", "exp": exp, "app": "live", "iss": "back end", "aud": ["x", "encoder"] }),
        json!({ "name": "camera", "exp": exp, "aud": "encoder", "latency": null, "other": {} }),
    ] {
        let grant = grant(verdict(claims.clone()));
        assert_eq!((&*grant.name, &grant.terms), ("camera", &Terms::default()), "{claims}");
    }
    let terms = json!({ "name": "camera", "exp": exp, "latency": 5, "until": exp, "metadata": { "a": [1] } });
    let terms = grant(verdict(terms)).terms;
    assert_eq!((terms.latency, terms.until, &terms.metadata["a"][0]), (Some(5.0), Some(exp), &json!(1)));

    assert_eq!(verdict(json!({ "name": "camera", "exp": NOW - LEEWAY })), Verdict::Expired);
    for claims in [
        json!({ "name": "camera", "exp": exp, "nbf": NOW + LEEWAY + 1 }),
        json!({ "name": "camera", "exp": exp, "app": "concert" }),
        json!({ "name": "camera", "exp": exp, "app": null }),
        json!({ "name": "camera", "exp": NOW - 99, "app": "concert" }),
        json!({ "name": "camera", "exp": exp, "aud": "another" }),
        json!({ "name": "camera", "exp": exp, "aud": [] }),
        json!([1]),
    ] {
        assert!(matches!(verdict(claims.clone()), Verdict::Invalid(_)), "{claims}");
    }
    for (claims, words) in [
        (json!({ "name": "camera" }), "exp"),
        (json!({ "name": "camera", "exp": "soon" }), "exp"),
        (json!({ "name": "camera", "exp": exp, "nbf": "now" }), "nbf"),
        (json!({ "exp": exp }), "name"),
        (json!({ "name": "a/b", "sub": "camera", "exp": exp }), "name"),
        (json!({ "name": "camera", "exp": exp, "latency": "5" }), "latency has the wrong type"),
        (json!({ "name": "camera", "exp": exp, "latency": 1 }), "too short"),
    ] {
        let Verdict::Unusable(bad) = verdict(claims.clone()) else { panic!("{claims}") };
        assert!(bad.to_string().contains(words), "{claims}: {bad}");
    }
}

#[test]
fn key_sets_are_bounded_and_hold_public_keys_for_signatures() {
    let signers = Signers::new();
    let one = signers.set()["keys"][0].clone();
    let set =
        |keys: Vec<Value>| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).map(|set| set.len());
    assert_eq!(set(vec![one.clone(); MAX_SET_KEYS]), Ok(MAX_SET_KEYS));
    assert_eq!(set(vec![one.clone(); MAX_SET_KEYS + 1]), Err(BadKeySet::TooMany));
    assert_eq!(set(vec![]), Err(BadKeySet::NoKey));
    for (field, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("ES384")),
        ("alg", json!("unknown")),
        ("crv", json!("P-384")),
        ("x", json!("!")),
        ("x", json!(1)),
    ] {
        let mut key = one.clone();
        key[field] = value;
        assert_eq!(set(vec![key.clone()]), Err(BadKeySet::NoKey), "{key}");
        assert_eq!(set(vec![json!(1), key, one.clone()]), Ok(1));
    }
    for bytes in [&b""[..], b"[]", b"{}", br#"{"keys":1}"#, b"\xff"] {
        assert_eq!(KeySet::parse(bytes).err(), Some(BadKeySet::NotASet));
    }
    assert_eq!(KeySet::parse(&vec![b' '; MAX_SET_BYTES + 1]).err(), Some(BadKeySet::TooLong));
}
