//! One lease, as a server says it.

use cloakway_types::Timestamp;
use ipnet::IpNet;

use crate::holder::Holder;

/// What a server says of an address or a delegated prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address, or the prefix.
    pub net: IpNet,
    /// To whom.
    pub holder: Holder,
    /// The client's last transaction.
    pub last: Timestamp,
    /// What became of it.
    pub state: State,
}

/// What a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The client's until then; without an end for ever.
    Held {
        /// When it expires unless it is renewed.
        until: Option<Timestamp>,
    },
    /// Nobody's any more.
    Over {
        /// Since when. A server that does not say leaves it between the last transaction and now.
        at: Option<Timestamp>,
    },
    /// Somebody uses it to whom it was not given.
    Declined,
}

/// One record of a lease file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// One address or prefix.
    Lease(Box<Lease>),
    /// All that an identity association has (DHCPv6): what it had and is not here is over.
    Association {
        /// IAID and DUID, and which kind of association.
        key: Vec<u8>,
        /// The client's last transaction.
        last: Timestamp,
        /// What it has.
        leases: Vec<Lease>,
    },
    /// Something that cannot be read.
    Damaged(Damage),
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Damage {
    /// Where it begins, from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
    /// What it may have been about; nothing when that cannot be told: then it may have been about any address.
    pub about: Vec<IpNet>,
}
