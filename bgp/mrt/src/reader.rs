//! A cursor over bytes from a stranger: every read may fail, none can panic.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A prefix as BGP writes it: its bits, and as few octets as hold them. Bits behind are cleared.
    pub(crate) fn prefix(&mut self, ipv6: bool) -> Option<IpNet> {
        let bits = self.u8()?;
        let octets = self.take(usize::from(bits).div_ceil(8))?;
        if ipv6 {
            let mut address = [0; 16];
            address.get_mut(..octets.len())?.copy_from_slice(octets);
            Some(IpNet::V6(Ipv6Net::new(address.into(), bits).ok()?.trunc()))
        } else {
            let mut address = [0; 4];
            address.get_mut(..octets.len())?.copy_from_slice(octets);
            Some(IpNet::V4(Ipv4Net::new(address.into(), bits).ok()?.trunc()))
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }
}
