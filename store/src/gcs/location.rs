//! `gs://bucket/prefix`: the accepted syntax and its meaning. No network access belongs here.

use std::fmt;
use std::str::FromStr;

/// Longest prefix in bytes. Cloud Storage allows names of 1024 bytes in all.
const MAX_PREFIX: usize = 512;

/// A bucket and a prefix within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketLocation {
    bucket: String,
    /// Without leading or trailing slashes; empty means the bucket's root.
    prefix: String,
}

impl BucketLocation {
    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The bucket's resource name in the API.
    pub fn resource(&self) -> String {
        format!("projects/_/buckets/{}", self.bucket)
    }

    /// The full name of an object in the bucket.
    pub fn object(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// The path below the prefix, from the full name of an object; `None` if the object is outside the prefix.
    pub fn path<'a>(&self, object: &'a str) -> Option<&'a str> {
        if self.prefix.is_empty() {
            return Some(object);
        }
        object.strip_prefix(&self.prefix)?.strip_prefix('/')
    }
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "gs://{}{slash}{}", self.bucket, self.prefix)
    }
}

impl FromStr for BucketLocation {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("gs://").ok_or("must begin with gs://")?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        judge_bucket(bucket)?;
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            judge_prefix(prefix)?;
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// Rules: <https://cloud.google.com/storage/docs/buckets#naming>
fn judge_bucket(bucket: &str) -> Result<(), &'static str> {
    if bucket.is_empty() {
        return Err("names no bucket: gs://BUCKET or gs://BUCKET/PREFIX");
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !bucket.chars().all(|c| plain(c) || matches!(c, '-' | '_' | '.'))
        || !bucket.starts_with(plain)
        || !bucket.ends_with(plain)
    {
        return Err(
            "a bucket's name has lower-case letters, digits, - _ . and begins and ends with a letter or digit",
        );
    }
    let longest = if bucket.contains('.') { 222 } else { 63 };
    if !(3..=longest).contains(&bucket.len())
        || bucket.split('.').any(|part| part.is_empty() || part.len() > 63)
    {
        return Err("a bucket's name has 3 to 63 characters, with dots up to 222 and 1 to 63 between them");
    }
    if bucket.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err("a bucket's name is not an IP address");
    }
    Ok(())
}

fn judge_prefix(prefix: &str) -> Result<(), &'static str> {
    if prefix.len() > MAX_PREFIX {
        return Err("the prefix is longer than 512 bytes");
    }
    if prefix.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("the prefix has an empty part, . or ..");
    }
    // Cloud Storage allows these characters; other tools and URLs treat them as wildcards or fragments.
    if prefix.chars().any(|c| c.is_control() || matches!(c, '#' | '[' | ']' | '*' | '?' | '%' | '\\')) {
        return Err("the prefix has a control character or one of # [ ] * ? % \\");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, bucket, object) in [
            ("gs://live", "live", "a/b.m4s"),
            ("gs://live/", "live", "a/b.m4s"),
            ("gs://live/tv/one", "live", "tv/one/a/b.m4s"),
            ("gs://my.site_1-x/tv/", "my.site_1-x", "tv/a/b.m4s"),
        ] {
            let location: BucketLocation = text.parse().unwrap();
            assert_eq!((location.bucket(), &*location.object("a/b.m4s")), (bucket, object), "{text}");
            assert_eq!(location.path(object), Some("a/b.m4s"), "{text}");
            assert_eq!(location.to_string(), text.trim_end_matches('/'));
        }
        let location: BucketLocation = "gs://live/tv".parse().unwrap();
        assert_eq!(location.path("tv2/a"), None);
    }

    #[test]
    fn what_no_bucket_can_be_called_is_refused() {
        let long = format!("gs://{}", "a".repeat(64));
        for text in [
            "s3://live",
            "gs://",
            "gs:///x",
            "gs://ab",
            "gs://Live",
            "gs://-live",
            "gs://live-",
            "gs://li..ve",
            "gs://192.168.1.1",
            "gs://live/a//b",
            "gs://live/../x",
            "gs://live/a#b",
            "gs://live/a\nb",
            &long,
        ] {
            assert!(text.parse::<BucketLocation>().is_err(), "{text}");
        }
    }
}
