//! What the RPKI says of the routes that peers send, without I/O or a clock.
//!
//! [`Client`] speaks the RPKI to router protocol with one cache (RFC 8210, and RFC 6810 with a cache that knows no
//! more). What it has learnt whole is a [`Vrps`], which never changes once it is made; [`Selection`] says whose counts
//! where there are several caches. [`Vrps::validate`] is RFC 6811.
//!
//! Left out: router keys (BGPsec), which are read and counted and not kept. Sockets are the shell's.

mod client;
mod pdu;
mod selection;
mod table;

pub use client::{Client, Event, Input, Output, Settings, State, Status};
pub use pdu::{ErrorKind, Framer, MAX_PDU, Pdu, PduError, Timing, Version};
pub use selection::Selection;
pub use table::{Validity, Vrp, Vrps, origin};
