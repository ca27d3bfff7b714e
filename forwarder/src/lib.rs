//! The forwarder's shell: sockets, timers and the command line around `forwarder-core` and
//! `forwarder-dataplane` (A1, A2, A3).
//!
//! The kernel forwards, this process keeps the kernel's state right and tells the BGP speaker which
//! private prefixes may be announced. Everything that stops a leak stays in the kernel when the process
//! dies; everything that says "healthy" dies with it.

pub mod config;
pub mod data_plane;
mod dropped;
pub mod engine;
pub mod explain;
pub mod guard;
pub mod health_socket;
mod limits;
pub mod live;
mod made;
mod memory;
mod probe;
mod reload;
pub mod role;
mod routing;
pub mod show;
mod sources;
pub mod trace;
