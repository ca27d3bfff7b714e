//! The toolbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakway_runtime::role::main::<toolbox::role::Toolbox>()
}
