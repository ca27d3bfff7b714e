//! What routers tell of their tables, and whether a private prefix is where it must not be (A3), without I/O or a clock.
//!
//! ```text
//!  bytes ──> Framer ──> Message ──> Router (one connection) ──Report──> Watch (all routers) ──> alarms, what to withhold
//! ```
//! [`Router`] reads the BGP monitoring protocol (RFC 7854, with Adj-RIB-Out of RFC 8671 and Loc-RIB of RFC 9069) and
//! keeps nothing but who its peers are: of routes it reports those that touch a private prefix. [`Watch`] holds these
//! against the operator's policy.
//!
//! Left out: routes of other families than IPv4 and IPv6 unicast. Sockets are the shell's.

mod framer;
mod message;
mod peer;
mod reading;
mod router;
mod statistics;
mod watch;

pub use framer::{Framer, HEADER_LENGTH, MAX_MESSAGE};
pub use message::{BmpError, Down, Message, PeerUp};
pub use peer::{PEER_HEADER_LENGTH, PeerHeader, PeerKey, PeerKind, View};
pub use router::{Limits, Notice, PeerInfo, Private, Report, Router, RouterCounters, Sight, SightKey};
pub use statistics::{Counted, Statistic};
pub use watch::{Action, Finding, Leak, LeakState, Overlap, Release, Settings, Watch, WatchEvent};
