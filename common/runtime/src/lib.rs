//! What every server shell shares, so that all roles look the same to an operator: strict
//! configuration, the command line, the admin socket, TLS 1.3, HTTP, logs, metrics and stopping.
//!
//! Shells only: pure crates never name this one.

pub mod admin;
pub mod clock;
pub mod config;
#[cfg(feature = "file")]
pub mod file;
pub mod http;
pub mod log;
pub mod metrics;
pub mod outage;
pub mod reload;
pub mod role;
pub mod stop;
pub mod text;
pub mod tls;

pub use config::{Config, ConfigError, Invalid};
pub use role::{Context, Outcome, Role, Topic};
pub use stop::Stop;
