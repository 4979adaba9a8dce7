//! The file with stream keys: TOML, one `[[key]]` for each key that may publish.

use crate::grant::{Grant, TermsError};
use crate::{Terms, sha256};
use media::is_valid_name;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt;
use toml::Table;

/// Largest file in bytes.
pub const MAX_KEYS_BYTES: usize = 8 << 20;
/// Most entries of a file.
pub const MAX_KEYS: usize = 100_000;
/// Shortest key in characters: shorter ones can be guessed.
pub const MIN_KEY_LEN: usize = 8;
/// The application of an entry that names none.
pub(crate) const DEFAULT_APP: &str = "live";

/// The keys that may publish. `Debug` shows their number only.
#[derive(Clone, Default, PartialEq)]
pub struct KeyTable {
    /// By SHA-256 digest of the key, so that the time of a look-up says nothing about keys that are in the table.
    entries: HashMap<([u8; 32], String), Entry>,
    /// Number of keys; one with percent-escapes has two entries.
    keys: usize,
}

#[derive(Clone, PartialEq)]
struct Entry {
    name: String,
    terms: Terms,
}

/// Why a file of keys is refused as a whole. Contains no key. The operator has to correct the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// The file is too long.
    #[error("is longer than 8 MiB")]
    TooLong,
    /// The file holds nothing, as while another program writes it.
    #[error("is empty: a file without keys says so with: key = []")]
    Empty,
    /// The file is not TOML. Holds the number of the line, counted from one.
    #[error("is not TOML in line {0}")]
    NotToml(usize),
    /// The file has a value that is not one of the tables `[[key]]`.
    #[error("may hold nothing but [[key]] entries")]
    Unknown,
    /// The file has too many entries.
    #[error("has more than {MAX_KEYS} keys")]
    TooMany,
    /// An entry cannot be used. Holds the number of the entry, counted from one.
    #[error("has a mistake in [[key]] number {0}: {1}")]
    Entry(usize, BadEntry),
}

/// Why an entry cannot be used. Contains no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Neither or both of `key` and `sha256` are given.
    #[error("needs one of key and sha256")]
    Key,
    /// The key is too short.
    #[error("the key has fewer than {MIN_KEY_LEN} characters")]
    Short,
    /// `sha256` is not a digest.
    #[error("sha256 must be 64 hexadecimal digits")]
    Digest,
    /// A field of text has another type.
    #[error("{0} must be text in quotes")]
    NotText(&'static str),
    /// The application's name is not valid.
    #[error("app must be 1 to 64 of A-Z a-z 0-9 _ -")]
    App,
    /// The stream's name is missing or not valid.
    #[error("name must be there, and 1 to 64 of A-Z a-z 0-9 _ -")]
    Name,
    /// An earlier entry has the same key and application.
    #[error("has the same key and app as number {0}")]
    Double(usize),
    /// A field is unknown. It is not named: it may be a key in the wrong place.
    #[error("has an unknown field; there are key, sha256, app, name, {0}")]
    Unknown(String),
    /// The terms cannot be used.
    #[error("{0}")]
    Terms(#[from] TermsError),
}

impl KeyTable {
    /// Reads a file. `check` says why terms cannot be used.
    ///
    /// # Errors
    /// The first mistake in the file.
    pub fn parse(bytes: &[u8], check: impl Fn(&Terms) -> Result<(), String>) -> Result<Self, BadKeys> {
        if bytes.len() > MAX_KEYS_BYTES {
            return Err(BadKeys::TooLong);
        }
        let text =
            std::str::from_utf8(bytes).map_err(|error| BadKeys::NotToml(line(bytes, error.valid_up_to())))?;
        if text.trim().is_empty() {
            return Err(BadKeys::Empty);
        }
        // The error's own text quotes the line, which may hold a key.
        let mut file = toml::from_str::<Table>(text)
            .map_err(|error| BadKeys::NotToml(line(bytes, error.span().map_or(0, |span| span.start))))?;
        let Some(toml::Value::Array(found)) = file.remove("key") else { return Err(BadKeys::Unknown) };
        if !file.is_empty() {
            return Err(BadKeys::Unknown);
        }
        if found.len() > MAX_KEYS {
            return Err(BadKeys::TooMany);
        }
        let mut entries = HashMap::with_capacity(found.len());
        let mut numbers = HashMap::with_capacity(found.len());
        let mut escaped = Vec::new();
        for (index, found) in found.into_iter().enumerate() {
            let number = index + 1;
            let toml::Value::Table(found) = found else { return Err(BadKeys::Unknown) };
            let decoded = found.get("key").and_then(toml::Value::as_str).and_then(crate::decoded);
            let (place, entry) = entry(found, &check).map_err(|bad| BadKeys::Entry(number, bad))?;
            if let Some(first) = numbers.insert(place.clone(), number) {
                return Err(BadKeys::Entry(number, BadEntry::Double(first)));
            }
            if let Some(decoded) = decoded {
                escaped.push(((sha256(decoded.as_bytes()), place.1.clone()), entry.clone()));
            }
            entries.insert(place, entry);
        }
        // OBS decodes the percent-escapes of a key before it sends the key. A key that is written so wins.
        for (place, entry) in escaped {
            entries.entry(place).or_insert(entry);
        }
        Ok(Self { entries, keys: numbers.len() })
    }

    /// The grant of a key; `None` if the table has no such key for this application.
    pub fn find(&self, app: &str, key: &str) -> Option<Grant> {
        let Entry { name, terms } = self.entries.get(&(sha256(key.as_bytes()), app.to_owned()))?;
        Some(Grant { app: app.to_owned(), name: name.clone(), proven: true, terms: terms.clone() })
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTable").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The number of the line in which the byte at `at` is, counted from one.
fn line(bytes: &[u8], at: usize) -> usize {
    1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count()
}

fn entry(
    mut found: Table,
    check: impl Fn(&Terms) -> Result<(), String>,
) -> Result<(([u8; 32], String), Entry), BadEntry> {
    let mut text = |name: &'static str| match found.remove(name) {
        Some(toml::Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(BadEntry::NotText(name)),
        None => Ok(None),
    };
    let digest = digest(text("key")?, text("sha256")?)?;
    let app = text("app")?.unwrap_or_else(|| DEFAULT_APP.to_owned());
    if !is_valid_name(&app) {
        return Err(BadEntry::App);
    }
    let name = text("name")?.filter(|name| is_valid_name(name)).ok_or(BadEntry::Name)?;
    let known = Terms::names();
    if found.keys().any(|field| !known.iter().any(|known| known == field)) {
        return Err(BadEntry::Unknown(known.join(", ")));
    }
    let mut fields = Map::new();
    for (name, value) in found {
        // JSON has no such numbers: they would turn into "not given".
        if value.as_float().is_some_and(|number| !number.is_finite()) {
            return Err(TermsError::Type(name).into());
        }
        let value: Value = serde_json::to_value(value).map_err(|_| TermsError::Type(name.clone()))?;
        fields.insert(name, value);
    }
    let terms = Terms::from_fields(&fields)?;
    check(&terms).map_err(TermsError::Unusable)?;
    Ok(((digest, app), Entry { name, terms }))
}

fn digest(key: Option<String>, sha256_hex: Option<String>) -> Result<[u8; 32], BadEntry> {
    match (key, sha256_hex) {
        (Some(key), None) if key.chars().count() < MIN_KEY_LEN => Err(BadEntry::Short),
        (Some(key), None) => Ok(sha256(key.as_bytes())),
        (None, Some(hex)) => from_hex(&hex).ok_or(BadEntry::Digest),
        (None, None) | (Some(_), Some(_)) => Err(BadEntry::Key),
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KeyTable, BadKeys> {
        KeyTable::parse(text.as_bytes(), |terms| match terms.latency {
            Some(latency) if latency < 2.0 => Err("latency: too short".into()),
            _ => Ok(()),
        })
    }

    #[test]
    fn a_key_publishes_its_name_in_its_application_on_its_terms() {
        let table = parse(
            r#"
            [[key]]
            key = "s3cret-of-camera-1"
            name = "camera-1"

            [[key]]
            sha256 = "F6BD15D0B6BF6AEFB4F8C7E7C6A8DA42B5CF28B1B9DA5FEDEEC9AF1DE92B2BBD"
            name = "other"

            [[key]]
            key = "a/b%20.dots&all"
            app = "concert"
            name = "stage"
            latency = 5
            max_bitrate = 8.5
            max_pixels = 921600
            until = 1800000000
            archive = "none"
            metadata = { customer = 7, tags = ["x"] }
            "#,
        )
        .unwrap();
        assert_eq!(table.len(), 3);
        let grant = table.find("live", "s3cret-of-camera-1").unwrap();
        assert_eq!((&*grant.app, &*grant.name, grant.proven), ("live", "camera-1", true));
        assert_eq!(grant.terms, Terms::default());
        let grant = table.find("concert", "a/b%20.dots&all").unwrap();
        assert_eq!((grant.terms.latency, grant.terms.max_bitrate), (Some(5.0), Some(8.5)));
        assert_eq!((grant.terms.max_pixels, grant.terms.until), (Some(921_600), Some(1_800_000_000)));
        assert_eq!(grant.terms.metadata["customer"], 7);
        for (app, key) in [("live", "camera-1"), ("concert", "s3cret-of-camera-1"), ("live", "")] {
            assert_eq!(table.find(app, key), None);
        }
    }

    /// OBS sends a key without its percent-escapes, FFmpeg as it is.
    #[test]
    fn a_key_with_percent_escapes_is_found_in_both_forms() {
        let entry = |key: &str, name: &str| format!("[[key]]\nkey = \"{key}\"\nname = \"{name}\"\n");
        let table = parse(&(entry("obs/key.12%34", "a") + &entry("plain-key", "b"))).unwrap();
        assert_eq!(table.len(), 2);
        for key in ["obs/key.12%34", "obs/key.124"] {
            assert_eq!(table.find("live", key).unwrap().name, "a", "{key}");
        }
        let both = parse(&(entry("obs/key.12%34", "a") + &entry("obs/key.124", "b"))).unwrap();
        assert_eq!(both.find("live", "obs/key.124").unwrap().name, "b", "as it is written");
    }

    #[test]
    fn a_digest_stands_for_its_key() {
        let digest: String = sha256(b"long-secret").iter().map(|byte| format!("{byte:02x}")).collect();
        let table = parse(&format!("[[key]]\nsha256 = \"{digest}\"\nname = \"n\"")).unwrap();
        assert_eq!(table.find("live", "long-secret").unwrap().name, "n");
        assert_eq!(table.find("live", &digest), None, "the digest is no key");
    }

    #[test]
    fn one_mistake_refuses_the_file_and_no_text_shows_a_key() {
        let good = "[[key]]\nkey = \"secretsecret\"\nname = \"a\"\n";
        let hex = "0".repeat(63);
        for (file, expected) in [
            ("".to_owned(), "is empty"),
            ("key = [".to_owned(), "not TOML in line 1"),
            (format!("{good}\nkey = \"secretsecret\n"), "not TOML in line 5"),
            (format!("{good}secretsecret\n"), "not TOML in line 4"),
            ("keys = []".to_owned(), "nothing but"),
            ("key = [1]".to_owned(), "nothing but"),
            (format!("secretsecret = 1\n{good}"), "nothing but"),
            (format!("{good}{good}"), "number 2: has the same key and app as number 1"),
            ("[[key]]\nname = \"a\"".to_owned(), "number 1: needs one of"),
            (format!("{good}sha256 = \"{hex}0\""), "needs one of"),
            (format!("[[key]]\nname = \"a\"\nsha256 = \"{hex}\""), "64 hexadecimal"),
            (format!("[[key]]\nname = \"a\"\nsha256 = \"{hex}é\""), "64 hexadecimal"),
            ("[[key]]\nkey = \"secret7\"\nname = \"a\"".to_owned(), "fewer than 8"),
            ("[[key]]\nkey = 123456789\nname = \"a\"".to_owned(), "key must be text"),
            ("[[key]]\nkey = \"secretsecret\"".to_owned(), "name must"),
            ("[[key]]\nkey = \"secretsecret\"\nname = \"a/b\"".to_owned(), "name must"),
            (format!("{good}app = \"\""), "app must"),
            (format!("{good}secretsecret = 1"), "unknown field"),
            (format!("{good}latency = \"secretsecret\""), "latency has the wrong type"),
            (format!("{good}latency = nan"), "latency has the wrong type"),
            (format!("{good}max_pixels = -1"), "max_pixels has the wrong type"),
            (format!("{good}metadata = 1"), "metadata has the wrong type"),
            (format!("{good}latency = 1.0"), "latency: too short"),
        ] {
            let told = parse(&file).unwrap_err();
            let shown = format!("{told} {told:?}");
            assert!(shown.contains(expected), "{file}: {shown}");
            assert!(!shown.contains("secret"), "{file}: {shown}");
        }
        assert!(parse("key = []").unwrap().is_empty());
        assert_eq!(parse(&" ".repeat(MAX_KEYS_BYTES + 1)), Err(BadKeys::TooLong));
        assert!(!format!("{:?}", parse(good).unwrap()).contains("secret"));
    }

    #[test]
    fn a_hundred_thousand_keys_and_no_more() {
        let entry = |number: usize| format!("[[key]]\nkey = \"key-{number:06}\"\nname = \"n{number}\"\n");
        let mut file: String = (0..MAX_KEYS).map(entry).collect();
        let table = parse(&file).unwrap();
        assert_eq!(table.find("live", "key-099999").unwrap().name, "n99999");
        file.push_str(&entry(MAX_KEYS));
        assert_eq!(parse(&file), Err(BadKeys::TooMany));
    }
}
