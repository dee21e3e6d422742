//! The `armdb` binary: a thin shell around [`armdb::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    armdb::cli::main()
}
