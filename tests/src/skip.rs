//! Checks that are left out where a tool is missing. A test that is left out looks like one that passes, so a missing
//! tool is a failure, unless `SKIP_CHECKS` names the tool, as for the scripts (`scripts/missing.sh`). Continuous
//! integration unsets the variable.

/// Panics because `what` is missing, unless `SKIP_CHECKS` has `name` among its words, which commas separate. Then the
/// caller leaves its check out.
#[track_caller]
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
pub fn missing(name: &str, what: &str) {
    let allowed = std::env::var("SKIP_CHECKS").unwrap_or_default();
    assert!(is_named(name, &allowed), "{what}; SKIP_CHECKS={name} leaves this test out");
    eprintln!("left out, because SKIP_CHECKS names {name}: {what}");
}

fn is_named(name: &str, allowed: &str) -> bool {
    allowed.split(',').any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_left_out() {
        for (allowed, is_left_out) in [
            ("", false),
            ("gcs", false),
            ("gcs-emulator", true),
            ("kubectl,gcs-emulator", true),
            ("gcs-emulator2", false),
        ] {
            assert_eq!(is_named("gcs-emulator", allowed), is_left_out, "{allowed}");
        }
    }
}
