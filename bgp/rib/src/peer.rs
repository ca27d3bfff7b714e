//! The peers that routes come from.

use std::net::IpAddr;

use bgp_wire::{Asn, Family, Role};

use crate::import::Import;

/// A peer, for as long as the RIB lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u16);

impl PeerId {
    /// No peer has it.
    pub const NOBODY: Self = Self(u16::MAX);
}

/// What the operator settled for a peer.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// For people.
    pub name: String,
    /// Its address: the last word of the decision process.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// Whether it is in our own AS.
    pub internal: bool,
    /// What we are to it (RFC 9234).
    pub role: Option<Role>,
    /// What is kept of what it tells.
    pub import: Import,
    /// Routes marked BLACKHOLE are taken from it (RFC 7999).
    pub accept_blackhole: bool,
    /// An external peer's paths begin with its own AS (RFC 4271 §6.3); those of a route server do not.
    pub enforce_first_as: bool,
}

/// How many routes a peer has told, prefix by path identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Kept, whether they can be used or not: what a limit on prefixes counts.
    pub routes: usize,
    /// Of these, refused.
    pub rejected: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) settings: PeerSettings,
    pub(crate) up: bool,
    /// Its router id, the last known.
    pub(crate) identifier: u32,
    /// Where it reaches us.
    pub(crate) local: Option<IpAddr>,
    epochs: [u8; 2],
    counts: [Counts; 2],
}

const fn at(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl Peer {
    pub(crate) fn new(settings: PeerSettings) -> Self {
        Self { settings, up: false, identifier: 0, local: None, epochs: [0; 2], counts: [Counts::default(); 2] }
    }

    pub(crate) fn epoch(&self, family: Family) -> u8 {
        self.epochs.get(at(family)).copied().unwrap_or_default()
    }

    pub(crate) fn next_epoch(&mut self, family: Family) {
        if let Some(epoch) = self.epochs.get_mut(at(family)) {
            *epoch = epoch.wrapping_add(1);
        }
    }

    pub(crate) fn counts(&self, family: Family) -> Counts {
        self.counts.get(at(family)).copied().unwrap_or_default()
    }

    pub(crate) fn count(&mut self, family: Family, change: impl FnOnce(&mut Counts)) {
        if let Some(counts) = self.counts.get_mut(at(family)) {
            change(counts);
        }
    }
}
