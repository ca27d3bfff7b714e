//! Prefixes as the protocol writes them: a length in bits, then as few octets as hold it (RFC 4271 §4.3).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::reader::Reader;

/// A prefix of one family.
pub(crate) trait Prefix: Sized + Into<IpNet> {
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
    fn write(&self, out: &mut Vec<u8>);
}

/// Octets that a prefix of `bits` takes, its length octet included.
pub(crate) fn encoded_length(bits: u8) -> usize {
    1 + usize::from(bits).div_ceil(8)
}

fn read_address<const N: usize>(reader: &mut Reader<'_>) -> Option<(u8, [u8; N])> {
    let bits = reader.u8()?;
    let significant = reader.take(encoded_length(bits) - 1)?;
    let mut address = [0; N];
    address.get_mut(..significant.len())?.copy_from_slice(significant);
    Some((bits, address))
}

fn write_address<const N: usize>(bits: u8, address: [u8; N], out: &mut Vec<u8>) {
    out.push(bits);
    out.extend(address.iter().take(encoded_length(bits) - 1));
}

impl Prefix for Ipv4Net {
    /// Bits behind the length are of no consequence (RFC 4271 §4.3) and are cleared.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (bits, address) = read_address::<4>(reader)?;
        Some(Self::new(address.into(), bits).ok()?.trunc())
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_address(self.prefix_len(), self.network().octets(), out);
    }
}

impl Prefix for Ipv6Net {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (bits, address) = read_address::<16>(reader)?;
        Some(Self::new(address.into(), bits).ok()?.trunc())
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_address(self.prefix_len(), self.network().octets(), out);
    }
}

/// All prefixes of `bytes`; `None` when one is too long or cut off.
pub(crate) fn read_all<P: Prefix>(bytes: &[u8]) -> Option<Vec<P>> {
    let mut reader = Reader::new(bytes);
    let mut prefixes = Vec::new();
    while !reader.is_empty() {
        prefixes.push(P::read(&mut reader)?);
    }
    Some(prefixes)
}

pub(crate) fn write_all<P: Prefix>(prefixes: &[P], out: &mut Vec<u8>) {
    for prefix in prefixes {
        prefix.write(out);
    }
}
