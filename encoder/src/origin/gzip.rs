//! Compresses playlists once per version, however many waiting requests the version answers (Apple's authoring
//! specification, rule 10.1, requires gzip).

use super::cache::CachedObject;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// Returns the compressed body. The first request compresses, which takes some tens of microseconds for a playlist;
/// concurrent requests wait for the result.
pub(super) fn of(stored: &CachedObject) -> Bytes {
    let compress = || -> std::io::Result<Bytes> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&stored.object.body)?;
        Ok(encoder.finish()?.into())
    };
    stored.gzip.get_or_init(|| compress().expect("a Vec takes every write")).clone()
}

/// Whether the client accepts gzip (RFC 9110 12.5.3). The identity coding is always allowed, so no request is refused
/// because of its Accept-Encoding.
pub(super) fn is_accepted(request: &HeaderMap) -> bool {
    let codings = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let (mut gzip, mut any) = (None, None);
    for coding in codings.flat_map(|value| value.split(',')) {
        let mut parameters = coding.split(';').map(str::trim);
        let name = parameters.next().unwrap_or_default();
        let weight = parameters
            .find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
            .map_or(1.0, |weight| weight.trim().parse::<f32>().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            gzip = Some(weight);
        } else if name == "*" {
            any = Some(weight);
        }
    }
    gzip.or(any).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn who_takes_gzip() {
        let cases = [
            (&["gzip"][..], true),
            (&["gzip, deflate, br"], true),
            (&["deflate", "x-gzip;q=0.5"], true),
            (&["GZIP ; Q=1"], true),
            (&["*"], true),
            (&["identity, *;q=0"], false),
            (&["*;q=0, gzip;q=0.1"], true),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, *"], false),
            (&["gzip;q=much"], false),
            (&["br"], false),
            (&["gzipped"], false),
            (&[""], false),
            (&[], false),
        ];
        for (values, expected) in cases {
            let mut request = HeaderMap::new();
            for value in values {
                request.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(is_accepted(&request), expected, "{values:?}");
        }
    }
}
