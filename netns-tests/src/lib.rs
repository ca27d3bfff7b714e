//! The lab: network namespaces, real peers and the stories that are told in them.
//!
//! A topology file (`configs/lab/NAME/topology.toml`) says which hosts there are, how they are cabled and what runs on
//! them; [`lab::Lab`] brings it up and removes it; a story in [`stories`] uses it and checks from outside the programs
//! what happened. The programs `lab` and `verify` are the two commands of the README.

pub mod bgp_capture;
pub mod browser;
pub mod capture;
pub mod command;
pub mod evidence;
pub mod frames;
pub mod health;
pub mod host;
pub mod lab;
pub mod netns;
pub mod picture;
pub mod pki;
pub mod stories;
pub mod tally;
pub mod template;
pub mod topology;

use std::io::Write;

/// Writes a line to standard output; a reader that has gone away is no error.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// For tests: whether they may make namespaces. Without privilege a test says aloud that it is skipped, and where
/// `NETNS_TESTS=required` is set it fails.
#[must_use]
pub fn may_make_namespaces(test: &str) -> bool {
    if host::is_root() && host::missing().is_empty() {
        return true;
    }
    let why = if host::is_root() { format!("missing: {}", host::missing().join(" ")) } else { "not root".to_owned() };
    cloakway_testing::skip(format_args!("{test} cannot run: {why}"));
    false
}
