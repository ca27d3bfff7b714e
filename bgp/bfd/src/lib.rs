//! Bidirectional forwarding detection without I/O or a clock: one hop, asynchronous mode (RFC 5880, RFC 5881).
//!
//! Left out: demand mode, echo, authentication. Whoever owns the socket sends with a TTL of 255 and hands in nothing
//! that came with less (RFC 5881 §5).

mod packet;
mod session;

pub use packet::{Diagnostic, LENGTH, Packet, PacketError, State};
pub use session::{Input, Output, Session, Settings};
