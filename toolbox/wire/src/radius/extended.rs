//! Attributes beyond the first 255 types (RFC 6929), as far as port blocks need them (RFC 8045).
//!
//! Allocates nothing: everything is read in place.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Attribute, Packet};

/// Extended-Type-1 (RFC 6929 §2.1).
const EXTENDED_1: u8 = 241;
/// IP-Port-Range (RFC 8045 §3.1.2).
const IP_PORT_RANGE: u8 = 6;

/// TLVs of RFC 8045 §3.2.
mod tlv {
    pub(super) const TYPE: u8 = 1;
    pub(super) const EXT_V4: u8 = 3;
    pub(super) const INT_V4: u8 = 4;
    pub(super) const INT_V6: u8 = 5;
    pub(super) const ALLOC: u8 = 8;
    pub(super) const START: u8 = 9;
    pub(super) const END: u8 = 10;
    pub(super) const LOCAL_ID: u8 = 11;
}

/// Why a port block cannot be read. Nothing may be learnt from the packet then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// The attribute ends inside its own parts, or one of them has the wrong length.
    #[error("the port block at byte {at} is cut, or TLV {tlv} in it has the wrong length")]
    Form {
        /// Offset of the attribute.
        at: usize,
        /// The TLV; 0 when there is none yet.
        tlv: u8,
    },
    /// A TLV comes twice, or one that is needed does not come.
    #[error("the port block at byte {at} needs TLV {tlv} exactly once (RFC 8045 §3.1.2)")]
    Count {
        /// Offset of the attribute.
        at: usize,
        /// The TLV.
        tlv: u8,
    },
    /// A number is outside what it may be.
    #[error("the port block at byte {at} says {value} in TLV {tlv}: that is not allowed (RFC 8045 §3.2)")]
    Value {
        /// Offset of the attribute.
        at: usize,
        /// The TLV.
        tlv: u8,
        /// What it says.
        value: u32,
    },
}

/// Whether ports were given or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// IP-Port-Alloc 1.
    Given,
    /// IP-Port-Alloc 2.
    Taken,
}

/// Ports of an outside address that a subscriber behind a translator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortBlock<'a> {
    /// Given or taken away.
    pub allocation: Allocation,
    /// The outside address.
    pub external: Option<Ipv4Addr>,
    /// The subscriber's IPv4 address behind the translator.
    pub internal_v4: Option<Ipv4Addr>,
    /// The subscriber's IPv6 address behind the translator.
    pub internal_v6: Option<Ipv6Addr>,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// IP-Port-Type: which protocols; none stands for all.
    pub protocols: Option<u32>,
    /// What the translator calls the subscriber.
    pub local_id: Option<&'a [u8]>,
}

/// The port blocks that a packet states (IP-Port-Range, RFC 8045 §3.1.2), in order.
pub fn port_blocks<'a>(packet: Packet<'a>) -> impl Iterator<Item = Result<PortBlock<'a>, PortsError>> {
    packet.attributes().filter_map(|attribute| match attribute.value {
        [IP_PORT_RANGE, ..] if attribute.kind == EXTENDED_1 => Some(port_block(attribute)),
        _ => None,
    })
}

fn port_block(attribute: Attribute<'_>) -> Result<PortBlock<'_>, PortsError> {
    let at = attribute.at;
    let (mut kind, mut external, mut int_v4, mut int_v6) = (None, None, None, None);
    let (mut allocation, mut first, mut last, mut local_id) = (None, None, None, None);
    let mut rest = attribute.value.get(1..).unwrap_or_default();
    while let [kind_of, length, ..] = *rest {
        let form = PortsError::Form { at, tlv: kind_of };
        let value = rest.get(2..usize::from(length)).ok_or(form)?;
        rest = rest.get(usize::from(length)..).unwrap_or_default();
        let number = || <[u8; 4]>::try_from(value).map(u32::from_be_bytes).map_err(|_| form);
        let once = |known: bool| if known { Err(PortsError::Count { at, tlv: kind_of }) } else { Ok(()) };
        match kind_of {
            tlv::TYPE => once(kind.replace(number()?).is_some())?,
            tlv::EXT_V4 => once(external.replace(Ipv4Addr::from(number()?)).is_some())?,
            tlv::INT_V4 => once(int_v4.replace(Ipv4Addr::from(number()?)).is_some())?,
            tlv::INT_V6 => {
                let octets: [u8; 16] = value.try_into().map_err(|_| form)?;
                once(int_v6.replace(Ipv6Addr::from(octets)).is_some())?;
            }
            tlv::ALLOC => once(allocation.replace(number()?).is_some())?,
            tlv::START => once(first.replace(number()?).is_some())?,
            tlv::END => once(last.replace(number()?).is_some())?,
            tlv::LOCAL_ID => once(local_id.replace(value).is_some())?,
            // What the RFC leaves to later ones says nothing about which ports.
            _ => {}
        }
    }
    if !rest.is_empty() {
        return Err(PortsError::Form { at, tlv: 0 });
    }
    let allocation = match allocation {
        Some(1) => Allocation::Given,
        Some(2) => Allocation::Taken,
        Some(value) => return Err(PortsError::Value { at, tlv: tlv::ALLOC, value }),
        None => return Err(PortsError::Count { at, tlv: tlv::ALLOC }),
    };
    let port = |tlv, value: u32| u16::try_from(value).map_err(|_| PortsError::Value { at, tlv, value });
    let (first, last) = match (first, last) {
        // Without a range it is every port of the address.
        (None, None) => (0, u16::MAX),
        (Some(first), Some(last)) if first <= last => (port(tlv::START, first)?, port(tlv::END, last)?),
        (Some(value), Some(_)) => return Err(PortsError::Value { at, tlv: tlv::START, value }),
        (Some(_), None) => return Err(PortsError::Count { at, tlv: tlv::END }),
        (None, Some(_)) => return Err(PortsError::Count { at, tlv: tlv::START }),
    };
    Ok(PortBlock {
        allocation,
        external,
        internal_v4: int_v4,
        internal_v6: int_v6,
        first,
        last,
        protocols: kind,
        local_id,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Request, build_request};
    use super::*;
    use proptest::prelude::*;

    fn read(value: &[u8]) -> Result<PortBlock<'static>, PortsError> {
        let built = build_request(Request::Accounting, 1, &[(EXTENDED_1, value)], b"s", [0; 16], false).unwrap();
        let built: &'static [u8] = built.leak();
        port_blocks(Packet::parse(built).unwrap()).next().unwrap()
    }

    fn with(tlvs: &[(u8, &[u8])]) -> Result<PortBlock<'static>, PortsError> {
        let mut value = vec![IP_PORT_RANGE];
        for (kind, of) in tlvs {
            value.extend([*kind, u8::try_from(of.len() + 2).unwrap()]);
            value.extend_from_slice(of);
        }
        read(&value)
    }

    const GIVEN: (u8, &[u8]) = (tlv::ALLOC, &[0, 0, 0, 1]);

    #[test]
    fn a_block_says_who_has_which_ports_of_which_address() {
        let block = with(&[
            (tlv::TYPE, &[0, 0, 0, 1]),
            GIVEN,
            (tlv::EXT_V4, &[203, 0, 113, 1]),
            (tlv::INT_V4, &[100, 64, 0, 9]),
            (tlv::START, &[0, 0, 8, 0]),
            (tlv::END, &[0, 0, 9, 255]),
            (tlv::LOCAL_ID, b"vlan 12"),
            (200, b"later"),
        ]);
        assert_eq!(
            block,
            Ok(PortBlock {
                allocation: Allocation::Given,
                external: Some([203, 0, 113, 1].into()),
                internal_v4: Some([100, 64, 0, 9].into()),
                internal_v6: None,
                first: 2048,
                last: 2559,
                protocols: Some(1),
                local_id: Some(b"vlan 12"),
            })
        );
    }

    #[test]
    fn without_a_range_it_is_the_whole_address() {
        let block = with(&[(tlv::ALLOC, &[0, 0, 0, 2]), (tlv::INT_V6, &[9; 16])]).unwrap();
        assert_eq!((block.allocation, block.first, block.last), (Allocation::Taken, 0, u16::MAX));
    }

    #[test]
    fn what_is_missing_doubled_or_out_of_range_is_refused_with_its_place() {
        let count = |tlv| Err(PortsError::Count { at: 20, tlv });
        assert_eq!(with(&[]), count(tlv::ALLOC));
        assert_eq!(with(&[GIVEN, GIVEN]), count(tlv::ALLOC));
        assert_eq!(with(&[GIVEN, (tlv::START, &[0, 0, 0, 1])]), count(tlv::END));
        assert_eq!(with(&[GIVEN, (tlv::END, &[0, 0, 0, 1])]), count(tlv::START));
        let value = |tlv, value| Err(PortsError::Value { at: 20, tlv, value });
        assert_eq!(with(&[(tlv::ALLOC, &[0, 0, 0, 3])]), value(tlv::ALLOC, 3));
        let range = |first: &[u8], last: &[u8]| with(&[GIVEN, (tlv::START, first), (tlv::END, last)]);
        assert_eq!(range(&[0, 0, 0, 2], &[0, 0, 0, 1]), value(tlv::START, 2));
        assert_eq!(range(&[0, 0, 0, 2], &[0, 1, 0, 0]), value(tlv::END, 65_536));
        assert_eq!(range(&[0, 0, 0], &[0, 1, 0, 0]), Err(PortsError::Form { at: 20, tlv: tlv::START }));
        assert_eq!(read(&[IP_PORT_RANGE, 8, 6, 0]), Err(PortsError::Form { at: 20, tlv: 8 }));
        assert_eq!(read(&[IP_PORT_RANGE, 8, 0]), Err(PortsError::Form { at: 20, tlv: 8 }));
        assert_eq!(read(&[IP_PORT_RANGE, 8]), Err(PortsError::Form { at: 20, tlv: 0 }));
    }

    proptest! {
        #[test]
        fn no_value_makes_the_reader_panic_or_stand_still(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let value = [vec![IP_PORT_RANGE], value].concat();
            let built = build_request(Request::Accounting, 1, &[(EXTENDED_1, &value)], b"s", [0; 16], false).unwrap();
            for block in port_blocks(Packet::parse(&built).unwrap()).flatten() {
                prop_assert!(block.first <= block.last);
            }
        }
    }
}
