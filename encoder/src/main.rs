//! The `encoder` command. Everything is in the library, so that tests of other crates can use parts of the program.

use std::process::ExitCode;

fn main() -> ExitCode {
    encoder::main()
}
