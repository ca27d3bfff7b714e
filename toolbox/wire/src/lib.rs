//! What the toolbox says on the wire: RADIUS accounting packets and the bodies of its HTTP interface.
//!
//! - [`radius`]: packets, their authenticators and the signed answer (RFC 2865, 2866, 2869, 5997).
//! - [`accounting`]: what an Accounting-Request states about a session, with the IPv6 attributes of
//!   RFC 3162, 4818 and 6911.
//! - [`record`]: what any source says about sessions, addresses and ports; what the binding table is told.
//! - [`http`]: `POST /v1/verify` and the error body (F2, F9).
//!
//! Pure: no socket, no clock. Not here: Access-* packets, CoA (RFC 5176) and RadSec (RFC 6614).

pub mod accounting;
pub mod http;
pub mod radius;
pub mod record;
