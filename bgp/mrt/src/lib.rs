//! MRT (RFC 6396, with path identifiers by RFC 8050): what routing dumps are written in.
//!
//! [`Framer`] cuts a stream into records, [`Record::decode`] reads one. [`Origins`] takes in whole dumps and keeps whose
//! each address is (A7), without unpacking what that does not need. Every byte may be a stranger's.
//!
//! TABLE_DUMP, TABLE_DUMP_V2 of IPv4 and IPv6 unicast, and the messages of BGP4MP and BGP4MP_ET; other records pass
//! through unread. [`writer`] writes TABLE_DUMP_V2 and BGP4MP_ET. Files and their compression are the shell's.

mod origins;
mod record;
pub mod writer;

pub use bgp_wire::Asn;
pub use origins::{Kept, Origins, OriginsError, Summary, Whose};
pub use record::{Framer, Message, MrtError, PeerEntry, Record, RibEntry, RibRecord};
