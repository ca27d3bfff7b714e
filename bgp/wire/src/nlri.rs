//! Prefixes as the protocol writes them: a length in bits, then as few octets as hold it (RFC 4271 §4.3).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::reader::Reader;
use crate::types::Family;

/// A prefix of one family.
pub(crate) trait Prefix: Copy + Into<IpNet> {
    const FAMILY: Family;
    /// Octets that the usual prefix of a full table takes.
    const USUAL_LENGTH: usize;
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
    /// Whether it lies within the range of multicast groups.
    fn is_multicast(&self) -> bool;
    fn write(&self, out: &mut Vec<u8>);
}

/// Octets that a prefix of `bits` takes, its length octet included.
pub(crate) fn encoded_length(bits: u8) -> usize {
    1 + usize::from(bits).div_ceil(8)
}

fn read_address<const N: usize>(reader: &mut Reader<'_>) -> Option<(u8, [u8; N])> {
    let bits = reader.u8()?;
    let length = encoded_length(bits) - 1;
    // A copy of fixed size is the faster one; what it takes of the next prefix is behind `bits` and cut off there.
    if let Some(address) = reader.peek::<N>().filter(|_| length <= N) {
        reader.take(length)?;
        return Some((bits, address));
    }
    let significant = reader.take(length)?;
    let mut address = [0; N];
    address.get_mut(..significant.len())?.copy_from_slice(significant);
    Some((bits, address))
}

fn write_address<const N: usize>(bits: u8, address: [u8; N], out: &mut Vec<u8>) {
    out.push(bits);
    out.extend(address.iter().take(encoded_length(bits) - 1));
}

impl Prefix for Ipv4Net {
    const FAMILY: Family = Family::Ipv4;
    const USUAL_LENGTH: usize = 4;

    /// Bits behind the length are of no consequence (RFC 4271 §4.3) and are cleared.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (bits, address) = read_address::<4>(reader)?;
        Some(Self::new(address.into(), bits).ok()?.trunc())
    }

    fn is_multicast(&self) -> bool {
        self.prefix_len() >= 4 && self.addr().is_multicast()
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_address(self.prefix_len(), self.network().octets(), out);
    }
}

impl Prefix for Ipv6Net {
    const FAMILY: Family = Family::Ipv6;
    const USUAL_LENGTH: usize = 7;

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (bits, address) = read_address::<16>(reader)?;
        Some(Self::new(address.into(), bits).ok()?.trunc())
    }

    fn is_multicast(&self) -> bool {
        self.prefix_len() >= 8 && self.addr().is_multicast()
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_address(self.prefix_len(), self.network().octets(), out);
    }
}

/// The path identifier of a route that is the only one of its prefix (RFC 7911 §3: any number serves).
const ONLY_PATH: u32 = 1;

/// Octets of a path identifier.
pub(crate) const PATH_ID_LENGTH: usize = 4;

/// All prefixes of `bytes`, and their path identifiers where the session has them; `None` when one is too long or cut
/// off.
pub(crate) fn read_all<P: Prefix>(bytes: &[u8], with_ids: bool) -> Option<(Vec<P>, Vec<u32>)> {
    let mut reader = Reader::new(bytes);
    let count = bytes.len().div_ceil(P::USUAL_LENGTH + if with_ids { PATH_ID_LENGTH } else { 0 });
    let (mut prefixes, mut ids) = (Vec::with_capacity(count), Vec::with_capacity(if with_ids { count } else { 0 }));
    while !reader.is_empty() {
        if with_ids {
            ids.push(reader.u32()?);
        }
        prefixes.push(P::read(&mut reader)?);
    }
    Some((prefixes, ids))
}

/// Moves what is multicast from `prefixes`, and its path identifiers from `ids`, to `left_out`.
pub(crate) fn leave_out_multicast<P: Prefix>(prefixes: &mut Vec<P>, ids: &mut Vec<u32>, left_out: &mut Vec<IpNet>) {
    if !prefixes.iter().any(P::is_multicast) {
        return;
    }
    let mut stays = prefixes.iter().map(|prefix| !prefix.is_multicast()).collect::<Vec<_>>().into_iter();
    ids.retain(|_| stays.next().unwrap_or(true));
    left_out.extend(prefixes.extract_if(.., |prefix| prefix.is_multicast()).map(Into::into));
}

/// Writes `prefixes`, with their path identifiers where the session has them; one that has none is its prefix's only.
pub(crate) fn write_all<P: Prefix>(prefixes: &[P], ids: &[u32], with_ids: bool, out: &mut Vec<u8>) {
    let mut ids = ids.iter().copied();
    for prefix in prefixes {
        if with_ids {
            out.extend_from_slice(&ids.next().unwrap_or(ONLY_PATH).to_be_bytes());
        }
        prefix.write(out);
    }
}
