//! What a source says about who is where: the one form in which RADIUS, DHCP, CGNAT, neighbour tables and
//! files tell the binding table.
//!
//! **The contract of a source.** It turns what it hears into [`Record`]s and hands them on in the order in
//! which it heard them. It guesses nothing: what it was not told it leaves out.
//!
//! - *A session* is what starts, goes on and stops together, named by [`SessionRecord::session`] at its
//!   [`Nas`]. A RADIUS session has the name of Acct-Session-Id; a lease is a session that is named by the leased
//!   address; a translation is one that is named by its external address and ports. A later Start under
//!   the same name replaces what was, so that a lost Stop of what can be held once harms nobody.
//! - *Addresses* are replaced by kind: a later record that has addresses of a [`AddressKind`] says all that
//!   the session has of this kind; a kind that it has not is left as it was. Blocks of ports that are allotted
//!   and given back one by one are therefore sessions of their own.
//! - *Ports*: an address that one session has alone comes with [`Ports::ALL`].
//! - *A translation* (CGNAT) is a session whose [`User`] is [`User::Behind`] an internal address: who is there
//!   is who answers for the external address and ports. It ends by Stop, and says nothing when the internal
//!   address is nobody's.
//! - *Time* is [`EventTime`], made by one of its constructors. [`EventTime::ordered`] is for sources that
//!   see each change themselves and in order (a file that is followed, netlink): each record's time has to be
//!   later than that of the record before it of the same session, by a millisecond at least. [`EventTime::reported`] is for
//!   those that are told in order of what happened a while ago.
//! - *How long* a record holds without another one is the table's configured age, unless the record says so
//!   itself: [`SessionRecord::until`], the end of a lease. What is in force until somebody changes it says
//!   [`FOREVER`].
//! - *A reset* ([`Record::NasReset`]) ends every session of a device, or, with a nameless [`Nas`], of the whole
//!   client. When each of them ended stays open: a source that knows says Stop. What it says afterwards has to be later in the order of its clock.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// [`SessionRecord::until`] of what holds until another record says otherwise.
pub const FOREVER: Timestamp = Timestamp::from_millis(u64::MAX);

/// Where the time of an event comes from. Times of different bases are not comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The source's own clock, in seconds (Event-Timestamp).
    Stated,
    /// Arrival here less the delay that the record states: late by as long as the network held the packet.
    Derived,
    /// Our own clock, at a source whose records cannot overtake each other.
    Ordered,
}

/// When something happened, as its source tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventTime {
    /// For ordering events of one device.
    pub at: Timestamp,
    /// What `at` is based on.
    pub basis: Basis,
    /// The latest moment on our clock for which the event is evidence: never after `sent`.
    pub proof: Timestamp,
    /// When the record was sent at the latest, on our clock: its arrival less the delay that it states.
    #[serde(default = "unknown_time")]
    pub sent: Timestamp,
}

fn unknown_time() -> Timestamp {
    Timestamp::from_millis(0)
}

impl EventTime {
    /// `at` by the clock of the source, which counts seconds, in a record that was sent by `sent`.
    #[must_use]
    pub fn stated(at: Timestamp, sent: Timestamp) -> Self {
        Self { at, basis: Basis::Stated, proof: at.min(sent), sent }
    }

    /// Not stated; the record was sent by `sent`.
    #[must_use]
    pub const fn derived(sent: Timestamp) -> Self {
        Self { at: sent, basis: Basis::Derived, proof: sent, sent }
    }

    /// When it can have happened at the earliest, if the network holds no record longer than `max_delay` and the
    /// source's clock is not ahead of ours; at the latest it was when the record was sent.
    #[must_use]
    pub fn earliest(&self, max_delay: Duration) -> Timestamp {
        match self.basis {
            Basis::Stated | Basis::Derived => self.at.min(self.sent - max_delay),
            Basis::Ordered => self.at.min(self.proof),
        }
    }

    /// Seen here at `at`, in order.
    #[must_use]
    pub const fn ordered(at: Timestamp) -> Self {
        Self { at, basis: Basis::Ordered, proof: at, sent: at }
    }

    /// Told here in order, at `at`, of what happened before: not before `earliest`, and by `latest`.
    #[must_use]
    pub fn reported(at: Timestamp, earliest: Timestamp, latest: Timestamp) -> Self {
        let sent = latest.min(at);
        Self { at, basis: Basis::Ordered, proof: earliest.min(sent), sent }
    }
}

/// The device that a session is at (a NAS, a DHCP server, a NAT), by every name it gives itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nas {
    /// NAS-Identifier, or another name.
    pub identifier: Option<String>,
    /// NAS-IP-Address.
    pub v4: Option<Ipv4Addr>,
    /// NAS-IPv6-Address.
    pub v6: Option<Ipv6Addr>,
}

impl Nas {
    /// Whether the two may be one device: they share a name, or one of them gives none.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.is_some() && a == b
        }
        let nameless = |nas: &Self| *nas == Self::default();
        same(self.identifier.as_ref(), other.identifier.as_ref())
            || same(self.v4.as_ref(), other.v4.as_ref())
            || same(self.v6.as_ref(), other.v6.as_ref())
            || nameless(self)
            || nameless(other)
    }
}

/// Who the session belongs to, as far as one record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum User {
    /// Nobody is named.
    Unstated,
    /// A name that is not a subscriber id.
    Unusable,
    /// The subscriber.
    Named(SubscriberId),
    /// Whoever is at this internal address: a translation.
    Behind(IpAddr),
}

/// What gave an address. A newer record replaces the addresses of the kinds that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressKind {
    /// Framed-IP-Address (RFC 2865 §5.8).
    FramedV4,
    /// Framed-IPv6-Prefix (RFC 3162 §2.3).
    FramedPrefixV6,
    /// Delegated-IPv6-Prefix (RFC 4818 §3).
    DelegatedPrefixV6,
    /// Framed-IPv6-Address (RFC 6911 §3.1).
    FramedV6,
    /// A leased address (DHCPv4, IA_NA).
    Lease,
    /// A leased prefix (IA_PD).
    LeasedPrefix,
    /// Ports of a shared address (RFC 8045, RFC 8158).
    PortBlock,
    /// An entry of a neighbour table.
    Neighbour,
    /// A line of a file.
    Static,
}

/// A range of ports of an address, of one protocol or of any.
///
/// As text `1024-2047`, with a protocol number `1024-2047/17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    first: u16,
    last: u16,
    protocol: Option<u8>,
}

impl Default for Ports {
    fn default() -> Self {
        Self::ALL
    }
}

impl Ports {
    /// The whole address.
    pub const ALL: Self = Self { first: 0, last: u16::MAX, protocol: None };

    /// The ports from `first` to `last`, both included; none when they are the wrong way round.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last, protocol: None }) } else { None }
    }

    /// These ports of one protocol only, by its number in the IP header; of ICMP the identifiers.
    #[must_use]
    pub const fn of(self, protocol: u8) -> Self {
        Self { protocol: Some(protocol), ..self }
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The one protocol; none stands for all.
    #[must_use]
    pub const fn protocol(self) -> Option<u8> {
        self.protocol
    }

    /// Whether this is the whole address.
    #[must_use]
    pub fn is_all(self) -> bool {
        self == Self::ALL
    }

    /// Whether `port` may be one of them; where no protocol is asked about, of any protocol.
    #[must_use]
    pub fn holds(self, port: u16, protocol: Option<u8>) -> bool {
        (self.first..=self.last).contains(&port) && self.fits(protocol)
    }

    /// Whether the two have a port in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last && self.fits(other.protocol)
    }

    fn fits(self, protocol: Option<u8>) -> bool {
        match (self.protocol, protocol) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)?;
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

/// A text that is no range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a range of ports: 1024-2047 would be one, with a protocol number 1024-2047/17")]
pub struct PortsError;

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let (range, protocol) = match text.split_once('/') {
            Some((range, protocol)) => (range, Some(protocol.parse().map_err(|_| PortsError)?)),
            None => (text, None),
        };
        let (first, last) = range.split_once('-').ok_or(PortsError)?;
        let port = |text: &str| text.parse::<u16>().map_err(|_| PortsError);
        let ports = Self::new(port(first)?, port(last)?).ok_or(PortsError)?;
        Ok(Self { protocol, ..ports })
    }
}

impl TryFrom<String> for Ports {
    type Error = PortsError;

    fn try_from(text: String) -> Result<Self, PortsError> {
        text.parse()
    }
}

/// An address or prefix of a session, or ports of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "StoredAddress")]
pub struct Address {
    /// What gave it.
    pub kind: AddressKind,
    /// The address or prefix, without host bits.
    pub net: IpNet,
    /// Which ports of it.
    pub ports: Ports,
}

/// An address as it is kept; before there were ports it was a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredAddress {
    Pair(AddressKind, IpNet),
    Whole { kind: AddressKind, net: IpNet, ports: Ports },
}

impl From<StoredAddress> for Address {
    fn from(stored: StoredAddress) -> Self {
        match stored {
            StoredAddress::Pair(kind, net) => Self::whole(kind, net),
            StoredAddress::Whole { kind, net, ports } => Self { kind, net, ports },
        }
    }
}

impl Address {
    /// All ports of `net`.
    #[must_use]
    pub const fn whole(kind: AddressKind, net: IpNet) -> Self {
        Self { kind, net, ports: Ports::ALL }
    }

    /// Some ports of `address`.
    #[must_use]
    pub fn ports(kind: AddressKind, address: IpAddr, ports: Ports) -> Self {
        Self { kind, net: address.into(), ports }
    }
}

/// What happened to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It began (Acct-Status-Type Start, a lease, an allotment).
    Start,
    /// It goes on (Interim-Update, RFC 2869 §2.1; a renewal). It may be the first to name an address.
    Interim,
    /// It is over (Stop, release, expiry).
    Stop,
}

/// One record about one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// What happened.
    pub change: Change,
    /// Its name at the device: Acct-Session-Id, the leased address, the external address and ports.
    pub session: String,
    /// Whose.
    pub user: User,
    /// At which device.
    pub nas: Nas,
    /// What it has; "not known yet" values such as 0.0.0.0 are left out.
    pub addresses: Vec<Address>,
    /// When.
    pub time: EventTime,
    /// Until when the record holds without another one; none: for the configured age.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// A session started, goes on, or stopped.
    Session(SessionRecord),
    /// Every session of the device is over: Accounting-On or Accounting-Off (RFC 2866 §5.1), a NAT that restarted.
    NasReset {
        /// The device; a nameless one is all of the client.
        nas: Nas,
        /// When.
        time: EventTime,
    },
    /// A status type that says nothing about addresses (tunnels, RFC 2867; failed). Answered, not kept.
    Other {
        /// Acct-Status-Type.
        status: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_nas_may_be_another_when_they_share_a_name() {
        let named = |identifier: &str| Nas { identifier: Some(identifier.into()), ..Nas::default() };
        let both = Nas { v4: Some([192, 0, 2, 1].into()), ..named("a") };
        assert!(both.may_be(&named("a")));
        assert!(!both.may_be(&named("b")));
        assert!(both.may_be(&Nas::default()));
    }

    #[test]
    fn an_address_that_was_kept_before_there_were_ports_is_a_whole_one() {
        let kept: Address = serde_json::from_str(r#"["framed-v4","198.51.100.70/32"]"#).unwrap();
        assert_eq!(kept, Address::whole(AddressKind::FramedV4, "198.51.100.70/32".parse().unwrap()));
    }

    #[test]
    fn ports_meet_where_they_share_one_of_the_same_protocol() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        assert!(ports("1-5").meets(ports("5-9")));
        assert!(!ports("1-5").meets(ports("6-9")));
        assert!(!ports("1-5/6").meets(ports("5-9/17")));
        assert!(Ports::ALL.meets(ports("5-9/17")));
        assert!(ports("1-5/6").holds(5, None) && !ports("1-5/6").holds(5, Some(17)));
        assert!(!ports("0-65535/6").is_all() && ports("0-65535").is_all());
        for wrong in ["", "5", "5-1", "1-65536", "1-5/256", "1-5/", "a-b"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn ports_are_read_as_they_are_written(first: u16, last: u16, protocol: Option<u8>) {
            if let Some(ports) = Ports::new(first.min(last), first.max(last)) {
                let ports = protocol.map_or(ports, |protocol| ports.of(protocol));
                let text = serde_json::to_string(&ports).unwrap();
                prop_assert_eq!(serde_json::from_str::<Ports>(&text).unwrap(), ports);
                prop_assert!(ports.meets(ports) && ports.meets(Ports::ALL));
                prop_assert!(ports.holds(first, protocol) && ports.holds(last, None));
            }
        }
    }
}
