//! Routes of peers on loopback: kept, looked up and passed on, between scripted routers.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod dumps;
mod look_ups;
mod passed_on;
mod prefixes;
#[path = "../support/mod.rs"]
mod shared;
mod stale;
mod support;
