//! What tests of namespaces wait for, with patience.
#![allow(clippy::panic, reason = "what fails here fails the test")]

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether namespaces can be made here. Says so when they cannot, and fails where they must.
pub(crate) fn possible() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    cloakway_testing::skip("namespaces need root");
    false
}

/// Waits until `condition` gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(command: &mut Command) {
    let done = command.status();
    assert!(done.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {done:?}");
}
