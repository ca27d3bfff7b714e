//! bgp-speaker: injects private network addresses into the ISP's edge router, never to be exported (A1), and
//! takes them back the moment that the forwarder no longer vouches for them (A2).
//!
//! ```text
//!  forwarder ──health lines──> health ──routes──> peer (one task each) <──TCP──> router
//!                                │                  ^
//!                             Injector           Session <── listener
//! ```
//! Decisions are bgp-core's; this crate owns sockets, timers and signals. Graceful restart is offered for sets
//! that are to be kept alone: private routes go as soon as this process, its host or the session is gone.

mod bfd;
pub mod bmp;
pub mod config;
mod events;
mod flows;
mod health;
pub mod inject;
pub mod kernel;
mod listener;
pub mod mrt;
mod neighbours;
mod peer;
mod refresh;
mod reload;
pub mod rib;
pub mod role;
mod routes;
pub mod rpki;
mod show;
pub mod speaker;
pub mod tcp;
mod telemetry;
mod threads;
mod why;
