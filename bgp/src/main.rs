//! The BGP speaker.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloakway_runtime::role::main::<bgp::role::BgpSpeaker>()
}
