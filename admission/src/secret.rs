//! Secrets that two programs share, as they stand in files: one line, or during a change several. What a secret is for
//! belongs to the modules that read it.

/// Least length of a line, in bytes: shorter ones can be guessed.
const SHORTEST: usize = 16;
/// Most lines of a secret.
const MOST_LINES: usize = 8;

/// Why a text cannot be used as a secret. Contains no part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// There is no line.
    #[error("contains no secret")]
    Empty,
    /// A line is too short.
    #[error("has a line of fewer than {SHORTEST} characters")]
    Short,
    /// There are too many lines.
    #[error("has more than {MOST_LINES} lines")]
    Long,
}

/// The lines of a secret, without the space around them: at least one.
///
/// # Errors
/// See [`BadSecret`].
pub fn lines(text: &str) -> Result<Vec<&str>, BadSecret> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(BadSecret::Empty);
    }
    if lines.len() > MOST_LINES {
        return Err(BadSecret::Long);
    }
    if lines.iter().any(|line| line.len() < SHORTEST) {
        return Err(BadSecret::Short);
    }
    Ok(lines)
}
