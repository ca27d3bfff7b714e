//! `facilitation-server`: see the library.

use std::process::ExitCode;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    // Passwords of open pages are in memory: nobody is to find them in a core dump, nor to look into the process.
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0).or_else(|error| match getrlimit(Resource::RLIMIT_CORE) {
        // systemd has set it (LimitCORE) and lets nobody set it again.
        Ok((0, 0)) => Ok(()),
        _ => Err(error),
    });
    let denied = limited.and_then(|()| set_dumpable(false));
    if let Err(error) = denied {
        eprintln!("facilitation-server: core dumps are not off: {error}");
        return ExitCode::FAILURE;
    }
    cloakway_runtime::role::main::<facilitation::Facilitation>()
}
