//! Where sessions are kept: by key, and by the addresses that they claim or claimed at their end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toolbox_wire::record::Nas;

use crate::session::{Session, SessionKey};

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_key: BTreeMap<SessionKey, Session>,
    by_net: BTreeMap<IpNet, BTreeSet<SessionKey>>,
    /// How many indexed prefixes have each length: a look-up tries these only.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Sessions {
    pub(crate) fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SessionKey, &Session)> {
        self.by_key.iter()
    }

    /// Those behind a key, in the order of keys; none: all.
    pub(crate) fn after(&self, key: Option<&SessionKey>) -> impl Iterator<Item = (&SessionKey, &Session)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_key.range::<SessionKey, _>((from, Bound::Unbounded))
    }

    /// Sessions of the same name at what may be the same device.
    pub(crate) fn related<'t>(&'t self, key: &'t SessionKey) -> impl Iterator<Item = (&'t SessionKey, &'t Session)> {
        let first = SessionKey { nas: Nas::default(), ..key.clone() };
        self.by_key
            .range(first..)
            .take_while(|(of, _)| of.source == key.source && of.client == key.client && of.session == key.session)
            .filter(|(of, _)| of.nas.may_be(&key.nas))
    }

    /// Sessions by each prefix that they claim, in the order of prefixes.
    pub(crate) fn by_net(&self) -> impl Iterator<Item = (IpNet, &SessionKey, &Session)> {
        self.by_net.iter().flat_map(|(net, keys)| self.those(*net, keys))
    }

    /// Sessions with a prefix that holds `address`.
    pub(crate) fn around(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &SessionKey, &Session)> {
        self.prefixes_around(address)
            .filter_map(|net| self.by_net.get_key_value(&net))
            .flat_map(|(net, keys)| self.those(*net, keys))
    }

    /// Sessions with a prefix that overlaps `net`.
    pub(crate) fn touching(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &SessionKey, &Session)> {
        let inside = self.by_net.range(lowest(net)..=highest(net)).filter(move |(of, _)| net.contains(*of));
        let around = self
            .prefixes_around(net.addr())
            .filter(move |of| *of != net && of.contains(&net))
            .filter_map(|of| self.by_net.get_key_value(&of));
        inside.chain(around).flat_map(|(net, keys)| self.those(*net, keys))
    }

    fn those<'t>(
        &'t self,
        net: IpNet,
        keys: &'t BTreeSet<SessionKey>,
    ) -> impl Iterator<Item = (IpNet, &'t SessionKey, &'t Session)> {
        keys.iter().filter_map(move |key| Some((net, key, self.by_key.get(key)?)))
    }

    fn prefixes_around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> + '_ {
        let (from, to) = ((address.is_ipv6(), 0), (address.is_ipv6(), u8::MAX));
        self.lengths
            .range(from..=to)
            .filter_map(move |((_, length), _)| IpNet::new(address, *length).ok())
            .map(|n| n.trunc())
    }

    /// Keeps `session`, to be found by `nets`.
    pub(crate) fn put(&mut self, key: SessionKey, session: Session, nets: impl IntoIterator<Item = IpNet>) {
        self.remove(&key);
        for net in nets {
            let keys = self.by_net.entry(net).or_default();
            if keys.is_empty() {
                *self.lengths.entry((net.addr().is_ipv6(), net.prefix_len())).or_default() += 1;
            }
            keys.insert(key.clone());
        }
        self.by_key.insert(key, session);
    }

    pub(crate) fn remove(&mut self, key: &SessionKey) {
        let Some(session) = self.by_key.remove(key) else { return };
        for net in session.nets() {
            let Some(keys) = self.by_net.get_mut(&net) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.by_net.remove(&net);
                let length = (net.addr().is_ipv6(), net.prefix_len());
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
        }
    }
}

/// Ends of the range that holds `net` and all inside it in the order of the index.
fn lowest(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(net) => Ipv4Net::new(net.network(), 0).unwrap_or_default().into(),
        IpNet::V6(net) => Ipv6Net::new(net.network(), 0).unwrap_or_default().into(),
    }
}

fn highest(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(net) => Ipv4Net::from(net.broadcast()).into(),
        IpNet::V6(net) => Ipv6Net::from(net.broadcast()).into(),
    }
}
