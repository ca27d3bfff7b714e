//! Longest-prefix match over IPv4 and IPv6 together.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Values by prefix, looked up by address, the longest prefix first.
///
/// An IPv4-mapped IPv6 address is looked up as the IPv4 address that it stands for.
#[derive(Debug, Clone)]
pub struct PrefixMap<T> {
    v4: prefix_trie::PrefixMap<Ipv4Net, T>,
    v6: prefix_trie::PrefixMap<Ipv6Net, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self { v4: prefix_trie::PrefixMap::new(), v6: prefix_trie::PrefixMap::new() }
    }
}

impl<T> PrefixMap<T> {
    /// Sets the value of `prefix` (host bits are ignored) and gives back the one that it replaces.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        match prefix.trunc() {
            IpNet::V4(prefix) => self.v4.insert(prefix, value),
            IpNet::V6(prefix) => self.v6.insert(prefix, value),
        }
    }

    /// The value of exactly `prefix`.
    #[must_use]
    pub fn get(&self, prefix: IpNet) -> Option<&T> {
        match prefix.trunc() {
            IpNet::V4(prefix) => self.v4.get(&prefix),
            IpNet::V6(prefix) => self.v6.get(&prefix),
        }
    }

    /// The longest prefix that holds `address`, and its value.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, &T)> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                self.v4.get_lpm(&Ipv4Net::from(address)).map(|(prefix, value)| (IpNet::V4(prefix), value))
            }
            IpAddr::V6(address) => {
                self.v6.get_lpm(&Ipv6Net::from(address)).map(|(prefix, value)| (IpNet::V6(prefix), value))
            }
        }
    }

    /// All prefixes with their values.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().map(|(prefix, value)| (IpNet::V4(prefix), value));
        v4.chain(self.v6.iter().map(|(prefix, value)| (IpNet::V6(prefix), value)))
    }

    /// How many prefixes have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no prefix has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> FromIterator<(IpNet, T)> for PrefixMap<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (prefix, value) in entries {
            map.insert(prefix, value);
        }
        map
    }
}

/// A set of prefixes.
#[derive(Debug, Clone, Default)]
pub struct PrefixSet(PrefixMap<()>);

impl PrefixSet {
    /// Whether some prefix of the set holds `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.lookup(address).is_some()
    }
}

impl FromIterator<IpNet> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        Self(prefixes.into_iter().map(|prefix| (prefix, ())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_wins_and_mapped_addresses_are_ipv4() {
        let map: PrefixMap<u8> = [("192.0.2.0/24", 1), ("192.0.2.128/25", 2), ("2001:db8::/32", 3)]
            .into_iter()
            .map(|(p, v)| (p.parse().unwrap(), v))
            .collect();
        let at = |address: &str| map.lookup(address.parse().unwrap()).map(|(_, v)| *v);
        assert_eq!(at("192.0.2.1"), Some(1));
        assert_eq!(at("192.0.2.129"), Some(2));
        assert_eq!(at("::ffff:192.0.2.129"), Some(2));
        assert_eq!(at("2001:db8::1"), Some(3));
        assert_eq!(at("198.51.100.1"), None);
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_linear_search(
            prefixes in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..40),
            address in any::<u32>(),
        ) {
            let prefixes: Vec<IpNet> = prefixes.into_iter()
                .map(|(bits, length)| IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc())).collect();
            let address = IpAddr::V4(address.into());
            let expected = prefixes.iter().filter(|p| p.contains(&address)).map(IpNet::prefix_len).max();
            let map: PrefixMap<()> = prefixes.iter().map(|p| (*p, ())).collect();
            prop_assert_eq!(map.lookup(address).map(|(p, ())| p.prefix_len()), expected);
        }
    }
}
