//! What the toolbox says on the wire: RADIUS accounting packets and the bodies of its HTTP interface.
//!
//! - [`radius`]: packets, their authenticators and the signed answer (RFC 2865, 2866, 2869, 5997), what a proxy does to them, port
//!   blocks (RFC 8045) and questions to a NAS (RFC 5176).
//! - [`accounting`]: what an Accounting-Request states about a session, with the IPv6 attributes of
//!   RFC 3162, 4818 and 6911.
//! - [`access`]: what an Access-Accept grants, and to which session.
//! - [`frame`]: UDP datagrams in Ethernet frames, for listeners on the wire.
//! - [`record`]: what any source says about sessions, addresses and ports; what the binding table is told.
//! - [`probe`]: what equipment says when it is asked.
//! - [`http`]: `POST /v1/verify` and the error body (F2, F9); [`follow`]: the stream of what changes.
//!
//! Pure: no socket, no clock.

pub mod access;
pub mod accounting;
pub mod follow;
pub mod frame;
pub mod http;
pub mod probe;
pub mod radius;
pub mod record;
