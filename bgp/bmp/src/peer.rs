//! The per-peer header: whose table a message is about (RFC 7854 §4.2, RFC 8671 §4, RFC 9069 §4).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_wire::{Asn, Reader};

/// Octets of the per-peer header.
pub const PEER_HEADER_LENGTH: usize = 42;

/// What kind of table instance a peer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    /// 0: the global instance.
    Global,
    /// 1: a VPN's, by its route distinguisher.
    Distinguished,
    /// 2: one that means something to the router alone.
    Local,
    /// 3: no peer, but what the router itself has chosen (RFC 9069).
    LocRib,
}

/// Which table of a router is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// What the peer sent, before the router's policy.
    AdjRibInPre,
    /// What of it the router's policy took.
    AdjRibInPost,
    /// What the router has for the peer, before its policy (RFC 8671).
    AdjRibOutPre,
    /// What the router sends to the peer (RFC 8671).
    AdjRibOutPost,
    /// What the router has chosen (RFC 9069).
    LocRib,
}

impl View {
    /// Whether it is what goes to a peer.
    #[must_use]
    pub const fn is_out(self) -> bool {
        matches!(self, Self::AdjRibOutPre | Self::AdjRibOutPost)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdjRibInPre => "adj-rib-in-pre",
            Self::AdjRibInPost => "adj-rib-in-post",
            Self::AdjRibOutPre => "adj-rib-out-pre",
            Self::AdjRibOutPost => "adj-rib-out-post",
            Self::LocRib => "loc-rib",
        })
    }
}

/// What names a peer of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The kind of its instance.
    pub kind: PeerKind,
    /// Which instance, where there are several.
    pub distinguisher: [u8; 8],
    /// Where it is; unspecified for Loc-RIB.
    pub address: IpAddr,
}

/// The per-peer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHeader {
    /// Which peer.
    pub key: PeerKey,
    /// Which of its tables.
    pub view: View,
    /// AS numbers in the messages that follow have two octets.
    pub two_octet_as: bool,
    /// The peer's AS; the router's own for Loc-RIB.
    pub asn: Asn,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// When the route was received, by the router's clock: seconds and microseconds; zero where it does not say.
    pub time: (u32, u32),
}

mod flag {
    pub(super) const IPV6: u8 = 0x80;
    pub(super) const POST_POLICY: u8 = 0x40;
    pub(super) const TWO_OCTET_AS: u8 = 0x20;
    /// RFC 8671 §4.
    pub(super) const ADJ_RIB_OUT: u8 = 0x10;
}

impl PeerHeader {
    /// `None` when it is cut off; the inner error is a peer type that nobody knows.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Result<Self, u8>> {
        let (kind, flags) = (reader.u8()?, reader.u8()?);
        let distinguisher = reader.array::<8>()?;
        let address = reader.array::<16>()?;
        let asn = Asn(reader.u32()?);
        let router_id = Ipv4Addr::from(reader.u32()?);
        let time = (reader.u32()?, reader.u32()?);
        let kind = match kind {
            0 => PeerKind::Global,
            1 => PeerKind::Distinguished,
            2 => PeerKind::Local,
            3 => PeerKind::LocRib,
            other => return Some(Err(other)),
        };
        // The flags of Loc-RIB are others (RFC 9069 §4.2): AS numbers always have four octets, and there is no address.
        let loc_rib = kind == PeerKind::LocRib;
        let has = |bit: u8| !loc_rib && flags & bit != 0;
        let address = match (has(flag::IPV6), address) {
            _ if loc_rib => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (true, octets) => IpAddr::V6(Ipv6Addr::from(octets)),
            // In the last four octets (RFC 7854 §4.2).
            (false, [.., a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        };
        let view = match (has(flag::ADJ_RIB_OUT), has(flag::POST_POLICY)) {
            _ if loc_rib => View::LocRib,
            (false, false) => View::AdjRibInPre,
            (false, true) => View::AdjRibInPost,
            (true, false) => View::AdjRibOutPre,
            (true, true) => View::AdjRibOutPost,
        };
        let key = PeerKey { kind, distinguisher, address };
        Some(Ok(Self { key, view, two_octet_as: has(flag::TWO_OCTET_AS), asn, router_id, time }))
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.key.kind {
            PeerKind::Global => 0,
            PeerKind::Distinguished => 1,
            PeerKind::Local => 2,
            PeerKind::LocRib => 3,
        };
        let mut flags = match self.view {
            View::AdjRibInPre | View::LocRib => 0,
            View::AdjRibInPost => flag::POST_POLICY,
            View::AdjRibOutPre => flag::ADJ_RIB_OUT,
            View::AdjRibOutPost => flag::ADJ_RIB_OUT | flag::POST_POLICY,
        };
        if self.two_octet_as {
            flags |= flag::TWO_OCTET_AS;
        }
        let address = match self.key.address {
            IpAddr::V6(address) => {
                flags |= flag::IPV6;
                address.octets()
            }
            IpAddr::V4(address) => u128::from(u32::from(address)).to_be_bytes(),
        };
        let mut out = vec![kind, flags];
        out.extend_from_slice(&self.key.distinguisher);
        out.extend_from_slice(&address);
        out.extend_from_slice(&self.asn.0.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.extend_from_slice(&self.time.1.to_be_bytes());
        out
    }
}
