//! The alphabet of names that appear in URLs, object names and playlists.

/// Longest accepted application, stream or rung name.
pub const MAX_NAME_LEN: usize = 64;

/// Whether `name` may appear in a path: 1 to 64 characters of `A-Za-z0-9_-`. Dots and slashes are refused, so a name
/// cannot lead out of its folder.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
