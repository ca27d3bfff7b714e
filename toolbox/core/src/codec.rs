//! Values as octets, compact, for disk and memory. Numbers are LEB128; times are told apart from one that is near.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cloakway_types::Timestamp;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Basis, Change, Nas, Ports, User};

use crate::session::SessionKey;

/// Octets that are not what was written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not read back at octet {at}")]
pub struct DecodeError {
    /// What was to be read.
    pub what: &'static str,
    /// How far reading came.
    pub at: usize,
}

/// Values of a small enumeration, by their number.
pub(crate) trait Numbered: Copy + PartialEq + 'static {
    const WHAT: &'static str;
    const ALL: &'static [Self];
}

macro_rules! numbered {
    ($type:ident, $what:literal, [$($value:ident),+]) => {
        impl Numbered for $type {
            const WHAT: &'static str = $what;
            const ALL: &'static [Self] = &[$($type::$value),+];
        }
    };
}

// The numbers are on disk: new values go to the end.
numbered!(Source, "a source", [Radius, RadiusTap, Dhcp, DhcpTap, Cgnat, Neighbour, Static]);
numbered!(Basis, "a basis", [Stated, Derived, Ordered]);
numbered!(Change, "a change", [Start, Interim, Stop]);
numbered!(
    AddressKind,
    "a kind of address",
    [FramedV4, FramedPrefixV6, DelegatedPrefixV6, FramedV6, Lease, LeasedPrefix, PortBlock, Neighbour, Static]
);

#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn octet(&mut self, octet: u8) {
        self.0.push(octet);
    }

    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// `time` by its distance from `near`.
    pub(crate) fn time(&mut self, time: Timestamp, near: Timestamp) {
        let distance = time.as_millis().wrapping_sub(near.as_millis()) as i64;
        self.number((distance << 1 ^ distance >> 63) as u64);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn one<T: Numbered>(&mut self, value: T) {
        let number = T::ALL.iter().position(|of| *of == value).unwrap_or(0);
        self.octet(number as u8);
    }

    pub(crate) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.octet(4);
                self.0.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.octet(6);
                self.0.extend_from_slice(&address.octets());
            }
        }
    }

    /// Of a prefix only the octets that its length covers.
    pub(crate) fn net(&mut self, net: IpNet) {
        let length = net.prefix_len();
        let covered = usize::from(length).div_ceil(8);
        match net {
            IpNet::V4(net) => {
                self.octet(length);
                self.0.extend(net.addr().octets().iter().take(covered));
            }
            IpNet::V6(net) => {
                self.octet(64 + length);
                self.0.extend(net.addr().octets().iter().take(covered));
            }
        }
    }

    pub(crate) fn ports(&mut self, ports: Ports) {
        match (ports.is_all(), ports.protocol()) {
            (true, _) => return self.octet(0),
            (false, None) => self.octet(1),
            (false, Some(protocol)) => {
                self.octet(2);
                self.octet(protocol);
            }
        }
        self.0.extend_from_slice(&ports.first().to_be_bytes());
        self.0.extend_from_slice(&ports.last().to_be_bytes());
    }

    pub(crate) fn user(&mut self, user: &User) {
        match user {
            User::Unstated => self.octet(0),
            User::Unusable => self.octet(1),
            User::Named(name) => {
                self.octet(2);
                self.text(name.as_str());
            }
            User::Behind(address) => {
                self.octet(3);
                self.address(*address);
            }
        }
    }

    pub(crate) fn nas(&mut self, nas: &Nas) {
        let Nas { identifier, v4, v6 } = nas;
        let has = u8::from(identifier.is_some()) | u8::from(v4.is_some()) << 1 | u8::from(v6.is_some()) << 2;
        self.octet(has);
        identifier.iter().for_each(|name| self.text(name));
        v4.iter().for_each(|address| self.0.extend_from_slice(&address.octets()));
        v6.iter().for_each(|address| self.0.extend_from_slice(&address.octets()));
    }

    pub(crate) fn key(&mut self, key: &SessionKey) {
        self.one(key.source);
        self.text(&key.client);
        self.text(&key.session);
        self.nas(&key.nas);
    }

    pub(crate) fn place(&mut self, address: &Address) {
        self.one(address.kind);
        self.net(address.net);
        self.ports(address.ports);
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'b> {
    left: &'b [u8],
    length: usize,
}

impl<'b> Reader<'b> {
    pub(crate) fn new(octets: &'b [u8]) -> Self {
        Self { left: octets, length: octets.len() }
    }

    pub(crate) fn wrong<T>(&self, what: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { what, at: self.length - self.left.len() })
    }

    pub(crate) fn rest(self) -> &'b [u8] {
        self.left
    }

    /// That nothing is left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.left.is_empty() { Ok(()) } else { self.wrong("the end") }
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, DecodeError> {
        match self.left.split_first() {
            Some((octet, left)) => {
                self.left = left;
                Ok(*octet)
            }
            None => self.wrong("an octet"),
        }
    }

    #[inline]
    pub(crate) fn octets(&mut self, count: usize) -> Result<&'b [u8], DecodeError> {
        match self.left.split_at_checked(count) {
            Some((octets, left)) => {
                self.left = left;
                Ok(octets)
            }
            None => self.wrong("octets"),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.left.split_first_chunk() {
            Some((octets, left)) => {
                self.left = left;
                Ok(*octets)
            }
            None => self.wrong("octets"),
        }
    }

    #[inline]
    pub(crate) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        let mut shift = 0;
        while shift < 70 {
            let octet = self.octet()?;
            let bits = u64::from(octet & 0x7f);
            if shift == 63 && bits > 1 {
                return self.wrong("a number");
            }
            number |= bits << shift;
            if octet & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
        self.wrong("a number")
    }

    #[inline]
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        // Each of them takes an octet at least: no more is set aside than is there.
        if count > self.left.len() { self.wrong("a count") } else { Ok(count) }
    }

    #[inline]
    pub(crate) fn time(&mut self, near: Timestamp) -> Result<Timestamp, DecodeError> {
        let folded = self.number()?;
        let distance = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        Ok(Timestamp::from_millis(near.as_millis().wrapping_add(distance as u64)))
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, DecodeError> {
        let length = self.count()?;
        let octets = self.octets(length)?;
        std::str::from_utf8(octets).or_else(|_| self.wrong("a text"))
    }

    pub(crate) fn one<T: Numbered>(&mut self) -> Result<T, DecodeError> {
        let number = self.octet()?;
        T::ALL.get(usize::from(number)).copied().map_or_else(|| self.wrong(T::WHAT), Ok)
    }

    pub(crate) fn address(&mut self) -> Result<IpAddr, DecodeError> {
        match self.octet()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => self.wrong("an address"),
        }
    }

    #[inline]
    pub(crate) fn net(&mut self) -> Result<IpNet, DecodeError> {
        let tag = self.octet()?;
        let length = if tag <= 32 { tag } else { tag.saturating_sub(64) };
        let given = self.octets(usize::from(length).div_ceil(8).min(16))?;
        let bits = given.iter().fold(0_u128, |bits, octet| bits << 8 | u128::from(*octet));
        let spare = 8 * given.len() - usize::from(length.min(128));
        if bits & ((1 << spare) - 1) != 0 {
            return self.wrong("a prefix");
        }
        let net = match tag {
            0..=32 => {
                let bits = (bits as u32).checked_shl(32 - 8 * given.len() as u32).unwrap_or(0);
                Ipv4Net::new(bits.into(), length).map(IpNet::from)
            }
            64..=192 => {
                let bits = bits.checked_shl(128 - 8 * given.len() as u32).unwrap_or(0);
                Ipv6Net::new(bits.into(), length).map(IpNet::from)
            }
            _ => return self.wrong("a prefix"),
        };
        net.or_else(|_| self.wrong("a prefix"))
    }

    #[inline]
    pub(crate) fn ports(&mut self) -> Result<Ports, DecodeError> {
        let protocol = match self.octet()? {
            0 => return Ok(Ports::ALL),
            1 => None,
            2 => Some(self.octet()?),
            _ => return self.wrong("ports"),
        };
        let (first, last) = (u16::from_be_bytes(self.array()?), u16::from_be_bytes(self.array()?));
        match Ports::new(first, last) {
            Some(ports) => Ok(protocol.map_or(ports, |protocol| ports.of(protocol))),
            None => self.wrong("ports"),
        }
    }

    pub(crate) fn user(&mut self) -> Result<User, DecodeError> {
        match self.octet()? {
            0 => Ok(User::Unstated),
            1 => Ok(User::Unusable),
            2 => self.text()?.parse().map(User::Named).or_else(|_| self.wrong("a subscriber")),
            3 => self.address().map(User::Behind),
            _ => self.wrong("a user"),
        }
    }

    /// A user that is not looked at.
    pub(crate) fn skip_user(&mut self) -> Result<(), DecodeError> {
        match self.octet()? {
            0 | 1 => Ok(()),
            2 => self.text().map(|_| ()),
            3 => self.address().map(|_| ()),
            _ => self.wrong("a user"),
        }
    }

    /// A device that is not looked at.
    pub(crate) fn skip_nas(&mut self) -> Result<(), DecodeError> {
        let has = self.octet()?;
        if has > 7 {
            return self.wrong("a device");
        }
        if has & 1 != 0 {
            self.text()?;
        }
        let rest = if has & 2 != 0 { 4 } else { 0 } + if has & 4 != 0 { 16 } else { 0 };
        self.octets(rest).map(|_| ())
    }

    pub(crate) fn nas(&mut self) -> Result<Nas, DecodeError> {
        let has = self.octet()?;
        if has > 7 {
            return self.wrong("a device");
        }
        let identifier = if has & 1 != 0 { Some(self.text()?.to_owned()) } else { None };
        let v4 = if has & 2 != 0 { Some(Ipv4Addr::from(self.array::<4>()?)) } else { None };
        let v6 = if has & 4 != 0 { Some(Ipv6Addr::from(self.array::<16>()?)) } else { None };
        Ok(Nas { identifier, v4, v6 })
    }

    pub(crate) fn key(&mut self) -> Result<SessionKey, DecodeError> {
        Ok(SessionKey {
            source: self.one()?,
            client: self.text()?.to_owned(),
            session: self.text()?.to_owned(),
            nas: self.nas()?,
        })
    }

    pub(crate) fn place(&mut self) -> Result<Address, DecodeError> {
        Ok(Address { kind: self.one()?, net: self.net()?, ports: self.ports()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            number: u64, time: u64, near: u64, text: String, v4: u32, v6: u128, length in 0_u8..=128,
            first: u16, last: u16, protocol: Option<u8>, name: Option<String>,
        ) {
            let v4net = Ipv4Net::new(v4.into(), length.min(32)).unwrap().trunc();
            let v6net = Ipv6Net::new(v6.into(), length).unwrap().trunc();
            let ports = Ports::new(first.min(last), first.max(last)).unwrap();
            let ports = protocol.map_or(ports, |protocol| ports.of(protocol));
            let key = SessionKey {
                source: Source::Cgnat,
                client: text.clone(),
                session: text.clone(),
                nas: Nas { identifier: name, v4: Some(v4.into()), v6: protocol.map(|_| v6.into()) },
            };
            let (time, near) = (Timestamp::from_millis(time), Timestamp::from_millis(near));
            let mut writer = Writer::default();
            writer.number(number);
            writer.time(time, near);
            writer.text(&text);
            writer.net(v4net.into());
            writer.net(v6net.into());
            writer.ports(ports);
            writer.key(&key);
            for user in [User::Unstated, User::Unusable, User::Named("a".parse().unwrap()), User::Behind(IpAddr::V6(v6.into()))] {
                writer.user(&user);
            }
            let mut reader = Reader::new(&writer.0);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.time(near), Ok(time));
            prop_assert_eq!(reader.text(), Ok(text.as_str()));
            prop_assert_eq!(reader.net(), Ok(v4net.into()));
            prop_assert_eq!(reader.net(), Ok(v6net.into()));
            prop_assert_eq!(reader.ports(), Ok(ports));
            prop_assert_eq!(reader.key(), Ok(key));
            prop_assert_eq!(reader.user(), Ok(User::Unstated));
            prop_assert_eq!(reader.user(), Ok(User::Unusable));
            prop_assert_eq!(reader.user(), Ok(User::Named("a".parse().unwrap())));
            prop_assert_eq!(reader.user(), Ok(User::Behind(IpAddr::V6(v6.into()))));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets: Vec<u8>) {
            for skip in 0..octets.len().min(4) {
                let mut reader = Reader::new(&octets[skip..]);
                let _ = (reader.key(), reader.user(), reader.place(), reader.time(Timestamp::from_millis(0)));
            }
        }
    }
}
