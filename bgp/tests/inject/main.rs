//! Injected routes, through the real binary: what was accepted is what the peer has, come kill -9 or not.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod checks;
mod counted;
mod crash;
mod requests;
mod scripts;
#[path = "../support/mod.rs"]
mod shared;
mod support;
mod truth;
