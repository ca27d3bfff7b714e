//! The cloaked network stack: frames in, frames out, silence to everybody else (A4, A12).
//!
//! The transaction server's private interface has no kernel address. Whatever arrives there goes,
//! frame by frame, through [`Cloak`], which answers three things only: ARP requests and neighbour
//! solicitations for its own addresses, and TCP to its own port from the prefixes of member ISPs.
//!
//! ```text
//! frame -> classify (drop + count) -> admit (bounds) -> one smoltcp socket -> egress filter -> frame
//!               |                                                                 ^
//!               └-> ARP / neighbour discovery, answered here ─────────────────────┘
//! ```
//!
//! What holds, whatever arrives:
//! - No RST leaves, no ICMP error, no echo reply. A scan of another port, a stray segment or a SYN
//!   over the bounds looks like an address where nobody lives.
//! - A source outside the member prefixes is dropped before any state exists for it.
//! - IPv4 options, IPv6 extension headers and SYNs with data are dropped and counted: nothing that a payer's machine sends
//!   to a TCP port needs them. Fragments of a member's TCP are put together, within bounds, and meet the same door then;
//!   what overlaps is dropped.
//! - Memory is bounded by [`Limits`]: connections, half-open ones, connections per source (per /64
//!   for IPv6, a subscriber's smallest delegation), buffers, frames waiting to be sent; and of fragments, by 256 datagrams.
//!
//! A flood of SYNs from made-up sources fills the half-open ones and nothing else: a SYN that finds no room there is
//! answered without memory (SYN cookies), and who acknowledges that is let in.
//!
//! Every connection has a smoltcp interface of its own, with one socket, made when its SYN is
//! admitted and seeded from the caller's randomness. So one connection's traffic cannot touch
//! another's state, initial sequence numbers are unpredictable, and nothing ever listens.
//!
//! The caller moves frames and time: no socket, no thread and no clock here. It calls
//! [`Cloak::handle_frame`] for each frame, [`Cloak::poll`] after a batch of calls and when
//! [`Cloak::poll_timeout`] is due, and then sends what [`Cloak::poll_transmit`] gives.

mod cloak;
mod config;
mod connection;
mod cookies;
mod counters;
mod fragments;
mod frame;
mod neighbour;

pub use cloak::{Cloak, ConnectionId, Gone, Peer, Read};
pub use config::{CloakConfig, ConfigError, Limits};
pub use counters::{Count, Counters};
pub use frame::Checksum;
