//! The station against bytes of routers, valid and hostile, and the watch against what they say.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bytes;
mod other;
mod properties;
mod watch;
