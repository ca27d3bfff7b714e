//! What a CGNAT exports (RFC 7011), and what of it is about translations (RFC 8158).
//!
//! [`Session`] is one exporter over one transport: its templates, and which records it has counted. [`Dialect`] says
//! what its numbers of NAT events mean: the draft's and the RFC's contradict each other, so an operator says which.

mod fields;
mod message;
mod nat;

pub use message::{Record, Session, SessionError, Told};
pub use nat::{Dialect, Event, EventError, Happening, Which};

#[cfg(test)]
mod tests;
