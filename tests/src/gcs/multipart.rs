//! multipart/related bodies of uploads: metadata, media and, from google-cloud-storage, checksums computed while the
//! media was sent.

use bytes::Bytes;
use memchr::memmem;

/// The bodies of the parts, each with its Content-Type if it has one.
pub(super) fn parts(content_type: &str, body: &Bytes) -> Option<Vec<(Option<String>, Bytes)>> {
    let boundary = content_type.split("boundary=").nth(1)?.split(';').next()?.trim().trim_matches('"');
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut at = memmem::find(body, delimiter.as_bytes())? + delimiter.len();
    let delimiter = format!("\r\n{delimiter}");
    while !body[at..].starts_with(b"--") {
        let head = at + memmem::find(&body[at..], b"\r\n\r\n")?;
        let start = head + 4;
        let end = start + memmem::find(&body[start..], delimiter.as_bytes())?;
        let headers = std::str::from_utf8(&body[at..head]).ok()?;
        let content_type = headers.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
        });
        parts.push((content_type, body.slice(start..end)));
        at = end + delimiter.len();
    }
    Some(parts)
}
