//! The forwarder.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakway_runtime::role::main::<forwarder::role::Forwarder>()
}
