//! placeholder
fn main() {
    use std::io::Write;
    let _ = std::io::stdout().write_all(capacity::report::tables().as_bytes());
}
