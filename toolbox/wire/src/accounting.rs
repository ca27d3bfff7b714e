//! What an Accounting-Request states: which session, whose, at which addresses, when (RFC 2866).
//!
//! Reading needs a [`Verified`] packet: nothing is learnt from a stranger.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cloakway_types::{IdError, SubscriberId, Timestamp};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::radius::extended::{self, Allocation};
use crate::radius::{Attribute, Verified};
pub use crate::record::{Address, AddressKind, Basis, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

/// Attribute types that are read here.
pub mod kind {
    /// RFC 2865 §5.1.
    pub const USER_NAME: u8 = 1;
    /// RFC 2865 §5.4.
    pub const NAS_IP_ADDRESS: u8 = 4;
    /// RFC 2865 §5.8.
    pub const FRAMED_IP_ADDRESS: u8 = 8;
    /// RFC 2865 §5.32.
    pub const NAS_IDENTIFIER: u8 = 32;
    /// RFC 2866 §5.1.
    pub const ACCT_STATUS_TYPE: u8 = 40;
    /// RFC 2866 §5.2.
    pub const ACCT_DELAY_TIME: u8 = 41;
    /// RFC 2866 §5.5.
    pub const ACCT_SESSION_ID: u8 = 44;
    /// RFC 2869 §5.3.
    pub const EVENT_TIMESTAMP: u8 = 55;
    /// RFC 4372 §2.2.
    pub const CHARGEABLE_USER_IDENTITY: u8 = 89;
    /// RFC 3162 §2.1.
    pub const NAS_IPV6_ADDRESS: u8 = 95;
    /// RFC 3162 §2.3.
    pub const FRAMED_IPV6_PREFIX: u8 = 97;
    /// RFC 4818 §3.
    pub const DELEGATED_IPV6_PREFIX: u8 = 123;
    /// RFC 6911 §3.1.
    pub const FRAMED_IPV6_ADDRESS: u8 = 168;
}

/// Why a genuine Accounting-Request cannot be recorded. It is not answered: an answer says "recorded".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The packet is a Status-Server.
    #[error("a Status-Server holds no record")]
    NoRecord,
    /// An attribute that the record needs is not there.
    #[error("attribute {0} is missing (RFC 2866 §5.13)")]
    Missing(u8),
    /// An attribute that may come once comes again.
    #[error("attribute {kind} comes a second time at byte {at}: at most one is allowed (RFC 2866 §5.13)")]
    Repeated {
        /// The attribute type.
        kind: u8,
        /// Offset of the second one.
        at: usize,
    },
    /// A value has the wrong length for its type.
    #[error("attribute {kind} at byte {at} has {length} bytes, which its type does not allow")]
    Length {
        /// The attribute type.
        kind: u8,
        /// Its offset.
        at: usize,
        /// Bytes in the value.
        length: usize,
    },
    /// A text that is not UTF-8, or is empty.
    #[error("attribute {kind} at byte {at} is not a text of UTF-8")]
    Text {
        /// The attribute type.
        kind: u8,
        /// Its offset.
        at: usize,
    },
    /// A port block that cannot be read.
    #[error(transparent)]
    Block(#[from] extended::PortsError),
    /// An IPv6 prefix length above 128.
    #[error("attribute {kind} at byte {at} has prefix length {length}: at most 128 is possible")]
    PrefixLength {
        /// The attribute type.
        kind: u8,
        /// Its offset.
        at: usize,
        /// The prefix length.
        length: u8,
    },
}

#[derive(Default)]
struct Fields {
    status: Option<u32>,
    session: Option<String>,
    user: Option<User>,
    chargeable: Option<User>,
    nas: Nas,
    addresses: Vec<Address>,
    stated: Option<u32>,
    delay: Option<u32>,
}

/// Which attribute says who the subscriber is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Naming {
    /// User-Name.
    #[default]
    UserName,
    /// Chargeable-User-Identity (RFC 4372), where User-Name is a pseudonym.
    ChargeableUserIdentity,
}

/// Reads the record of a packet that arrived at `arrival`, whose subscriber is its User-Name.
///
/// # Errors
/// [`RecordError`] names the attribute and its place; nothing may be learnt from such a packet.
pub fn read(packet: &Verified<'_>, arrival: Timestamp) -> Result<Record, RecordError> {
    read_as(packet, arrival, Naming::UserName)
}

/// As [`read`], with the subscriber named by that attribute.
///
/// # Errors
/// As [`read`].
pub fn read_as(packet: &Verified<'_>, arrival: Timestamp, naming: Naming) -> Result<Record, RecordError> {
    if packet.request() != crate::radius::Request::Accounting {
        return Err(RecordError::NoRecord);
    }
    let mut fields = Fields::default();
    for attribute in packet.packet().attributes() {
        fields.take(&attribute)?;
    }
    if naming == Naming::ChargeableUserIdentity {
        fields.user = fields.chargeable.take();
    }
    fields.record(arrival)
}

impl Fields {
    fn take(&mut self, attribute: &Attribute<'_>) -> Result<(), RecordError> {
        let a = attribute;
        match a.kind {
            kind::ACCT_STATUS_TYPE => once(&mut self.status, number(a)?, a),
            kind::ACCT_SESSION_ID => once(&mut self.session, text(a)?, a),
            kind::USER_NAME => once(&mut self.user, user(a), a),
            kind::CHARGEABLE_USER_IDENTITY => once(&mut self.chargeable, chargeable(a), a),
            kind::EVENT_TIMESTAMP => once(&mut self.stated, number(a)?, a),
            kind::ACCT_DELAY_TIME => once(&mut self.delay, number(a)?, a),
            kind::FRAMED_IP_ADDRESS => {
                let address = number(a)?;
                // RFC 2865 §5.8: ...FF leaves the choice to the user, ...FE to the NAS; 0 is what NASes
                // send before the address is known.
                if !matches!(address, 0 | 0xffff_fffe | 0xffff_ffff) {
                    let net = Ipv4Net::from(Ipv4Addr::from(address)).into();
                    self.addresses.push(Address::whole(AddressKind::FramedV4, net));
                }
                Ok(())
            }
            kind::FRAMED_IPV6_ADDRESS => {
                let address = Ipv6Addr::from(sized::<16>(a)?);
                self.named_v6(AddressKind::FramedV6, Ipv6Net::from(address));
                Ok(())
            }
            kind::FRAMED_IPV6_PREFIX => {
                let prefix = prefix(a)?;
                self.named_v6(AddressKind::FramedPrefixV6, prefix);
                Ok(())
            }
            kind::DELEGATED_IPV6_PREFIX => {
                let prefix = prefix(a)?;
                self.named_v6(AddressKind::DelegatedPrefixV6, prefix);
                Ok(())
            }
            _ => name_nas(&mut self.nas, a),
        }
    }

    /// The unspecified address, with any length, is "not known yet" and not everyone's.
    fn named_v6(&mut self, kind: AddressKind, prefix: Ipv6Net) {
        if !prefix.addr().is_unspecified() {
            self.addresses.push(Address::whole(kind, prefix.into()));
        }
    }

    fn record(self, arrival: Timestamp) -> Result<Record, RecordError> {
        let delay = Duration::from_secs(u64::from(self.delay.unwrap_or(0)));
        let sent =
            Timestamp::from_millis(arrival.since(Timestamp::from_millis(0)).saturating_sub(delay).as_millis() as u64);
        let time = match self.stated.map(|seconds| Timestamp::from_secs(u64::from(seconds))) {
            Some(at) => EventTime::stated(at, sent),
            None => EventTime::derived(sent),
        };
        let change = match self.status.ok_or(RecordError::Missing(kind::ACCT_STATUS_TYPE))? {
            1 => Change::Start,
            2 => Change::Stop,
            3 => Change::Interim,
            7 | 8 => return Ok(Record::NasReset { nas: self.nas, time }),
            status => return Ok(Record::Other { status }),
        };
        Ok(Record::Session(SessionRecord {
            change,
            session: self.session.ok_or(RecordError::Missing(kind::ACCT_SESSION_ID))?,
            user: self.user.unwrap_or(User::Unstated),
            nas: self.nas,
            addresses: self.addresses,
            time,
            until: None,
        }))
    }
}

/// Takes what names the NAS.
pub(crate) fn name_nas(nas: &mut Nas, a: &Attribute<'_>) -> Result<(), RecordError> {
    match a.kind {
        kind::NAS_IDENTIFIER => once(&mut nas.identifier, text(a)?, a),
        kind::NAS_IP_ADDRESS => once(&mut nas.v4, Ipv4Addr::from(sized::<4>(a)?), a),
        kind::NAS_IPV6_ADDRESS => once(&mut nas.v6, Ipv6Addr::from(sized::<16>(a)?), a),
        _ => Ok(()),
    }
}

/// Ports of a shared address that the packet says were given to its session's subscriber, or taken away (RFC 8045).
///
/// # Errors
/// [`RecordError`]; nothing may be learnt from such a packet.
pub fn blocks(packet: &Verified<'_>) -> Result<Vec<Block>, RecordError> {
    let mut blocks = Vec::new();
    for block in extended::port_blocks(packet.packet()) {
        let block = block?;
        // Without the outside address the ports are nobody's.
        let Some(address) = block.external.filter(|address| !address.is_unspecified()) else { continue };
        let Some(ports) = Ports::new(block.first, block.last) else { continue };
        // RFC 8045 §3.2.1: TCP, UDP and ICMP; TCP and UDP; and each of them. What is not known says nothing.
        let each: &[Option<u8>] = match block.protocols {
            None | Some(1) => &[None],
            Some(2) => &[Some(6), Some(17)],
            Some(3) => &[Some(6)],
            Some(4) => &[Some(17)],
            Some(5) => &[Some(1)],
            Some(_) => &[],
        };
        for protocol in each {
            let ports = protocol.map_or(ports, |protocol| ports.of(protocol));
            blocks.push(Block { address, ports, given: block.allocation == Allocation::Given });
        }
    }
    Ok(blocks)
}

/// Ports of a shared address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The address.
    pub address: Ipv4Addr,
    /// Which ports of it.
    pub ports: Ports,
    /// Given, or taken away.
    pub given: bool,
}

fn once<T>(slot: &mut Option<T>, value: T, attribute: &Attribute<'_>) -> Result<(), RecordError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(RecordError::Repeated { kind: attribute.kind, at: attribute.at }),
    }
}

fn sized<const N: usize>(attribute: &Attribute<'_>) -> Result<[u8; N], RecordError> {
    attribute.value.try_into().map_err(|_| misfit(attribute))
}

fn number(attribute: &Attribute<'_>) -> Result<u32, RecordError> {
    sized::<4>(attribute).map(u32::from_be_bytes)
}

fn misfit(attribute: &Attribute<'_>) -> RecordError {
    RecordError::Length { kind: attribute.kind, at: attribute.at, length: attribute.value.len() }
}

fn text(attribute: &Attribute<'_>) -> Result<String, RecordError> {
    match std::str::from_utf8(attribute.value) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(RecordError::Text { kind: attribute.kind, at: attribute.at }),
    }
}

/// A name that cannot be a subscriber id is kept as such: the session is still somebody's.
pub(crate) fn user(attribute: &Attribute<'_>) -> User {
    let parsed: Option<Result<SubscriberId, IdError>> = std::str::from_utf8(attribute.value).ok().map(str::parse);
    match parsed {
        Some(Ok(name)) => User::Named(name),
        Some(Err(_)) | None => User::Unusable,
    }
}

/// A single zero octet asks for the identity and states none (RFC 4372 §2.1).
pub(crate) fn chargeable(attribute: &Attribute<'_>) -> User {
    if matches!(attribute.value, [] | [0]) { User::Unstated } else { user(attribute) }
}

/// One reserved byte, the prefix length, then the prefix; bytes left off its end are zeros (RFC 3162 §2.3).
/// Host bits, which the RFC wants to be zero, are cleared.
pub(crate) fn prefix(attribute: &Attribute<'_>) -> Result<Ipv6Net, RecordError> {
    let (length, given) = match attribute.value {
        [_, length, given @ ..] if given.len() <= 16 => (*length, given),
        _ => return Err(misfit(attribute)),
    };
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip(given) {
        *to = *from;
    }
    Ipv6Net::new(Ipv6Addr::from(octets), length).map(|net| net.trunc()).map_err(|_| RecordError::PrefixLength {
        kind: attribute.kind,
        at: attribute.at,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radius::golden::{INTERIM, SECRET, START, STATUS, bytes};
    use crate::radius::{Packet, Request, build_request};
    use ipnet::IpNet;
    use proptest::prelude::*;

    const ARRIVAL: Timestamp = Timestamp::from_secs(1_700_000_100);

    fn read_bytes(packet: &[u8]) -> Result<Record, RecordError> {
        read(&Packet::parse(packet).unwrap().verify(SECRET, false).unwrap(), ARRIVAL)
    }

    fn read_attributes(attributes: &[(u8, &[u8])]) -> Result<Record, RecordError> {
        read_bytes(&build_request(Request::Accounting, 1, attributes, SECRET, [0; 16], false).unwrap())
    }

    fn session(attributes: &[(u8, &[u8])]) -> Result<SessionRecord, RecordError> {
        let mut all: Vec<(u8, &[u8])> = vec![(40, &[0, 0, 0, 3]), (44, b"s")];
        all.extend_from_slice(attributes);
        read_attributes(&all).map(|record| match record {
            Record::Session(session) => session,
            other => panic!("{other:?}"),
        })
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn whole(kind: AddressKind, text: &str) -> Address {
        Address::whole(kind, net(text))
    }

    #[test]
    fn a_start_from_radclient_states_session_subscriber_nas_addresses_and_time() {
        assert_eq!(
            read_bytes(&bytes(START)),
            Ok(Record::Session(SessionRecord {
                change: Change::Start,
                session: "0000A001".into(),
                user: User::Named("alice@isp.example".parse().unwrap()),
                nas: Nas { identifier: Some("edge".into()), v4: Some([198, 51, 100, 1].into()), v6: None },
                addresses: vec![
                    whole(AddressKind::FramedV4, "198.51.100.70/32"),
                    whole(AddressKind::FramedPrefixV6, "2001:db8:5100:64::/64"),
                ],
                time: EventTime::stated(Timestamp::from_secs(1_700_000_000), ARRIVAL),
                until: None,
            }))
        );
    }

    #[test]
    fn an_interim_without_event_timestamp_is_dated_by_arrival_minus_delay() {
        let Ok(Record::Session(record)) = read_bytes(&bytes(INTERIM)) else { panic!("a session record") };
        let sent = Timestamp::from_secs(1_700_000_093);
        assert_eq!(record.time, EventTime::derived(sent));
        assert_eq!(record.time.proof, sent);
        assert_eq!(record.nas.v6, Some("2001:db8:5100:1::1".parse().unwrap()));
        assert_eq!(
            record.addresses,
            [
                whole(AddressKind::FramedV4, "198.51.100.70/32"),
                whole(AddressKind::DelegatedPrefixV6, "2001:db8:5100:6400::/56"),
                whole(AddressKind::FramedV6, "2001:db8:5100:64::70/128"),
            ]
        );
    }

    #[test]
    fn a_clock_that_runs_ahead_proves_nothing_beyond_arrival_minus_delay() {
        let ahead = 1_700_000_400_u32.to_be_bytes();
        let record = session(&[(55, &ahead), (41, &[0, 0, 0, 30])]).unwrap();
        assert_eq!(record.time.at, Timestamp::from_secs(1_700_000_400));
        assert_eq!(record.time.proof, Timestamp::from_secs(1_700_000_070));
    }

    #[test]
    fn accounting_on_and_off_reset_the_nas_and_need_no_session() {
        for status in [7_u8, 8] {
            let record = read_attributes(&[(40, &[0, 0, 0, status]), (32, b"edge")]).unwrap();
            assert!(matches!(record, Record::NasReset { nas, .. } if nas.identifier.as_deref() == Some("edge")));
        }
        assert_eq!(read_attributes(&[(40, &[0, 0, 0, 9])]), Ok(Record::Other { status: 9 }));
    }

    #[test]
    fn the_chargeable_identity_is_who_pays_where_the_name_is_a_pseudonym() {
        let naming = Naming::ChargeableUserIdentity;
        let user = |attributes: &[(u8, &[u8])]| {
            let mut all: Vec<(u8, &[u8])> = vec![(40, &[0, 0, 0, 3]), (44, b"s"), (1, b"anonymous")];
            all.extend_from_slice(attributes);
            let built = build_request(Request::Accounting, 1, &all, SECRET, [0; 16], false).unwrap();
            let verified = Packet::parse(&built).unwrap().verify(SECRET, false).unwrap();
            read_as(&verified, ARRIVAL, naming).map(|record| match record {
                Record::Session(session) => session.user,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(user(&[(89, b"alice")]), Ok(User::Named("alice".parse().unwrap())));
        assert_eq!(user(&[(89, b"\0")]), Ok(User::Unstated));
        assert_eq!(user(&[(89, b"\xff")]), Ok(User::Unusable));
        assert_eq!(user(&[]), Ok(User::Unstated), "and the pseudonym is nobody");
        assert_eq!(user(&[(89, b"a"), (89, b"b")]), Err(RecordError::Repeated { kind: 89, at: 43 }));
    }

    #[test]
    fn what_the_record_needs_must_be_there_once_and_of_the_right_length() {
        assert_eq!(read_attributes(&[(44, b"s")]), Err(RecordError::Missing(40)));
        assert_eq!(read_attributes(&[(40, &[0, 0, 0, 1])]), Err(RecordError::Missing(44)));
        assert_eq!(session(&[(44, b"t")]), Err(RecordError::Repeated { kind: 44, at: 29 }));
        assert_eq!(session(&[(8, &[1, 2, 3])]), Err(RecordError::Length { kind: 8, at: 29, length: 3 }));
        assert_eq!(session(&[(32, b"\xff")]), Err(RecordError::Text { kind: 32, at: 29 }));
        assert_eq!(session(&[(32, b"")]), Err(RecordError::Text { kind: 32, at: 29 }));
        assert_eq!(session(&[(97, &[0, 129])]), Err(RecordError::PrefixLength { kind: 97, at: 29, length: 129 }));
        assert_eq!(session(&[(97, &[0])]), Err(RecordError::Length { kind: 97, at: 29, length: 1 }));
        assert_eq!(session(&[(97, &[0; 19])]), Err(RecordError::Length { kind: 97, at: 29, length: 19 }));
        assert_eq!(read_bytes(&bytes(STATUS)), Err(RecordError::NoRecord));
    }

    #[test]
    fn addresses_that_are_not_known_yet_are_nobodys() {
        let record = session(&[
            (8, &[0, 0, 0, 0]),
            (8, &[255, 255, 255, 255]),
            (8, &[255, 255, 255, 254]),
            (97, &[0, 0]),
            (97, &[0, 64]),
            (168, &[0; 16]),
        ]);
        assert_eq!(record.unwrap().addresses, []);
    }

    #[test]
    fn a_prefix_may_leave_off_trailing_zeros_and_its_host_bits_are_cleared() {
        let record = session(&[(97, &[0, 32, 0x20, 1, 0x0d, 0xb8]), (123, &[0, 36, 0x20, 1, 0x0d, 0xb8, 0x5f])]);
        assert_eq!(
            record.unwrap().addresses,
            [
                whole(AddressKind::FramedPrefixV6, "2001:db8::/32"),
                whole(AddressKind::DelegatedPrefixV6, "2001:db8:5000::/36")
            ]
        );
    }

    #[test]
    fn a_name_that_is_no_subscriber_id_still_makes_the_session_somebodys() {
        assert_eq!(session(&[(1, b"a b")]).unwrap().user, User::Unusable);
        assert_eq!(session(&[(1, b"\xff")]).unwrap().user, User::Unusable);
        assert_eq!(session(&[]).unwrap().user, User::Unstated);
    }

    proptest! {
        #[test]
        fn no_attributes_make_the_reader_panic(
            attributes in proptest::collection::vec(
                (prop_oneof![
                    Just(1_u8), Just(4), Just(8), Just(32), Just(40), Just(41), Just(44), Just(55), Just(95), Just(97), Just(123), Just(168), 1..80_u8
                ], proptest::collection::vec(any::<u8>(), 0..20)), 0..12),
            arrival: u64,
        ) {
            let borrowed: Vec<(u8, &[u8])> = attributes.iter().filter(|(kind, _)| *kind != 80).map(|(kind, value)| (*kind, value.as_slice())).collect();
            let built = build_request(Request::Accounting, 1, &borrowed, SECRET, [0; 16], false).unwrap();
            let verified = Packet::parse(&built).unwrap().verify(SECRET, false).unwrap();
            if let Ok(Record::Session(record)) = read(&verified, Timestamp::from_millis(arrival)) {
                prop_assert!(record.time.proof <= Timestamp::from_millis(arrival));
                for Address { net, .. } in record.addresses {
                    prop_assert_eq!(net, net.trunc());
                    prop_assert!(!net.addr().is_unspecified());
                }
            }
        }
    }
}
