//! Whose the ports of a shared address are (F1).
//!
//! - [`Deterministic`]: by arithmetic, as in RFC 7422 and in the vendors' forms of it.
//! - [`MapE`]: by the mapping rule of MAP-E (RFC 7597).
//! - [`ipfix`]: what a CGNAT exports (RFC 7011 with the events of RFC 8158, or of the draft that Junos kept to).
//! - [`conntrack`]: what Linux says of its connection tracking.
//! - [`Flows`]: which translations stand while flows come and go.
//!
//! The first two hold nothing per subscriber. Pure: no socket, no clock.

pub mod conntrack;
mod deterministic;
mod flows;
pub mod ipfix;
mod map_e;
mod range;

pub use deterministic::{Deterministic, Order, RuleError, Share};
pub use flows::{Flow, Flows, Mapping, Turn};
pub use map_e::{MapE, MapError};
pub use range::{Range, RangeError, Ranges};

/// What a rule says of an external address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// The address is none of the rule's.
    Elsewhere,
    /// The address is shared: which port?
    PortNeeded,
    /// The port is given to nobody.
    Nobody,
    /// Whoever has this internal address.
    At(std::net::IpAddr),
}
