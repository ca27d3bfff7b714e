//! What the operator settled of the watch, and what it finds.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bgp_wire::Asn;
use cloakway_types::Instant;
use ipnet::IpNet;

use crate::peer::{PeerKey, View};

/// What to do about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Say so.
    Alarm,
    /// Say so, and announce the private prefix to nobody.
    Withdraw,
}

/// Which routes touch a private prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The prefix itself, and what is inside it.
    Inside,
    /// Also what covers it, less the default route.
    Any,
}

/// What ends the withholding of a private prefix whose leak is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Time.
    HoldDown,
    /// The operator's word alone.
    Acknowledge,
}

/// What the operator settled.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our AS: also a router's that has not said its own.
    pub local_as: Asn,
    /// The ISP's AS numbers; a session between two of them is no way out.
    pub internal: BTreeSet<Asn>,
    /// Which routes count.
    pub overlap: Overlap,
    /// A router of the ISP has it for an external peer.
    pub on_leak: Action,
    /// An external peer has it for a router, or a router elsewhere has chosen it.
    pub on_heard: Action,
    /// A router that should tell does not.
    pub on_blind: Action,
    /// How long a router may be away before the watch counts as blind.
    pub blind_after: Duration,
    /// How long a leak must have been over.
    pub hold_down: Duration,
    /// What ends the withholding.
    pub release: Release,
    /// Routers that should be connected.
    pub expected: Vec<String>,
    /// The private prefixes.
    pub private: Vec<IpNet>,
}

/// Where a private prefix was found that must not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// A router has it for an external peer: it leaves, or is about to.
    ToExternal,
    /// A router has it from an external peer: it has left, or somebody else announces it.
    FromExternal,
    /// A router of another AS has it in its own tables.
    Outside,
    /// A router of the ISP has it without its guard community: the next hop out is open.
    Unguarded,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToExternal => "to-external",
            Self::FromExternal => "from-external",
            Self::Outside => "outside",
            Self::Unguarded => "unguarded",
        })
    }
}

/// How far a leak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeakState {
    /// There, as far as is known: a router that is away cannot take back what it said.
    Present,
    /// Over since then; the hold-down runs, or the operator's word is waited for.
    Over(Instant),
    /// Done with.
    Cleared,
}

/// One leak: a private prefix, and the place where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The private prefix.
    pub private: IpNet,
    /// What is wrong.
    pub finding: Finding,
    /// The router that said so.
    pub router: String,
    /// Of which of its peers.
    pub peer: PeerKey,
    /// The peer's AS.
    pub peer_as: Asn,
    /// In which table it was first.
    pub view: View,
    /// The route that was first.
    pub route: IpNet,
    /// Its AS_PATH.
    pub as_path: String,
    /// When it was first seen.
    pub first: Instant,
    /// How far it is.
    pub state: LeakState,
    /// How often it has come.
    pub times: u32,
    /// Routes that are there now.
    pub routes: usize,
    /// Whether the private prefix is withheld for it.
    pub withholds: bool,
}

/// Something that an operator wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A leak has come, or is back.
    Raised(Box<Leak>),
    /// A leak is over.
    Ended(Box<Leak>),
    /// A router that should tell has been away for too long.
    Blind {
        /// Which.
        router: String,
        /// Why its connection ended, as far as is known.
        why: String,
    },
    /// It tells again.
    Sighted {
        /// Which.
        router: String,
    },
    /// The private prefix is announced to nobody from now on.
    Withheld {
        /// Which.
        private: IpNet,
        /// Why.
        reason: String,
    },
    /// The watch no longer keeps the private prefix back.
    Released {
        /// Which.
        private: IpNet,
    },
}
