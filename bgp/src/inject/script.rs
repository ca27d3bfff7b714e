//! What a script has asked for, as changes to sets: one set for what all peers are told, more where it told peers
//! apart, and one for each watchdog.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_core::{Group, Others, Prefixes, RouteAttributes, SetChange};
use ipnet::IpNet;

use super::text::{Announcement, Neighbour, Selector};

/// The sets of one script.
#[derive(Debug)]
pub(super) struct Script {
    set: String,
    peers: Vec<Neighbour>,
    /// What is told to some peers and not to all in the same way.
    apart: BTreeMap<IpNet, BTreeMap<IpAddr, RouteAttributes>>,
    /// Sets in use: the plain one, and one more for each way in which peers are told of one prefix.
    layers: usize,
    watchdogs: BTreeSet<String>,
    /// By set, what has changed and was not taken yet; `None` goes.
    changes: BTreeMap<String, BTreeMap<IpNet, Option<RouteAttributes>>>,
}

impl Script {
    /// Nothing asked for yet. The names of its sets are `set`, or begin with it and a slash.
    pub(super) fn new(set: String) -> Self {
        let (apart, watchdogs, changes) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { set, peers: Vec::new(), apart, layers: 1, watchdogs, changes }
    }

    /// The peers that there are: a line for some of them is for those among them that fit it now.
    pub(super) fn meet(&mut self, peers: Vec<Neighbour>) {
        self.peers = peers;
    }

    /// The addresses of the peers that there are.
    pub(super) fn peers(&self) -> impl Iterator<Item = IpAddr> {
        self.peers.iter().map(|peer| peer.address)
    }

    /// The set whose routes come and go with a watchdog.
    pub(super) fn watchdog(&self, name: &str) -> String {
        format!("{}/watchdog {name}", self.set)
    }

    fn layer(&self, number: usize) -> String {
        if number == 0 { self.set.clone() } else { format!("{}/{}", self.set, number + 1) }
    }

    fn change(&mut self, set: String, prefix: IpNet, route: Option<RouteAttributes>) {
        self.changes.entry(set).or_default().insert(prefix, route);
    }

    /// Routes are to be told; `told` says what a set of ours holds.
    ///
    /// # Errors
    /// No peer fits the line.
    pub(super) fn announce(
        &mut self,
        announcement: &Announcement,
        told: impl Fn(&str, IpNet) -> Option<RouteAttributes>,
    ) -> Result<(), String> {
        let Announcement { to, route, prefixes, watchdog, .. } = announcement;
        let peers = self.fitting(to)?;
        for prefix in prefixes {
            match watchdog {
                Some(name) => {
                    self.watchdogs.insert(name.clone());
                    let audience = peers.clone().unwrap_or_default();
                    self.change(self.watchdog(name), *prefix, Some(RouteAttributes { audience, ..route.clone() }));
                }
                None => self.edit(*prefix, peers.as_deref(), Some(route), &told),
            }
        }
        Ok(())
    }

    /// Routes are to be taken back.
    ///
    /// # Errors
    /// No peer fits the line.
    pub(super) fn withdraw(
        &mut self,
        to: &Selector,
        prefixes: &[IpNet],
        told: impl Fn(&str, IpNet) -> Option<RouteAttributes>,
    ) -> Result<(), String> {
        let peers = self.fitting(to)?;
        for prefix in prefixes {
            if peers.is_none() {
                for name in self.watchdogs.clone() {
                    self.change(self.watchdog(&name), *prefix, None);
                }
            }
            self.edit(*prefix, peers.as_deref(), None, &told);
        }
        Ok(())
    }

    /// The peers that a line is for; `None`, when it is for all.
    pub(super) fn fitting(&self, to: &Selector) -> Result<Option<Vec<IpAddr>>, String> {
        if to.is_all() {
            return Ok(None);
        }
        let peers: Vec<IpAddr> = self.peers.iter().filter(|peer| to.takes(peer)).map(|peer| peer.address).collect();
        if peers.is_empty() { Err("no peer fits the neighbor of this line".to_owned()) } else { Ok(Some(peers)) }
    }

    fn edit(
        &mut self,
        prefix: IpNet,
        peers: Option<&[IpAddr]>,
        route: Option<&RouteAttributes>,
        told: &impl Fn(&str, IpNet) -> Option<RouteAttributes>,
    ) {
        let apart = self.apart.remove(&prefix);
        let Some(peers) = peers else {
            if apart.is_some() {
                (1..self.layers).for_each(|layer| self.change(self.layer(layer), prefix, None));
            }
            self.change(self.set.clone(), prefix, route.cloned());
            return;
        };
        let mut wanted = apart.unwrap_or_else(|| {
            let pending = self.changes.get(&self.set).and_then(|changes| changes.get(&prefix)).cloned();
            let common = pending.unwrap_or_else(|| told(&self.set, prefix));
            common.map_or_else(BTreeMap::new, |route| {
                self.peers.iter().map(|peer| (peer.address, route.clone())).collect()
            })
        });
        for peer in peers {
            match route {
                Some(route) => drop(wanted.insert(*peer, route.clone())),
                None => drop(wanted.remove(peer)),
            }
        }
        self.place(prefix, wanted);
    }

    /// Lays the different ways in which peers are told of `prefix` into sets of their own.
    fn place(&mut self, prefix: IpNet, wanted: BTreeMap<IpAddr, RouteAttributes>) {
        let mut ways: BTreeMap<&RouteAttributes, Vec<IpAddr>> = BTreeMap::new();
        for (peer, route) in &wanted {
            ways.entry(route).or_default().push(*peer);
        }
        let mut ways: Vec<RouteAttributes> =
            ways.into_iter().map(|(route, audience)| RouteAttributes { audience, ..route.clone() }).collect();
        let all_alike = ways.len() == 1 && wanted.len() == self.peers.len();
        if all_alike {
            ways.iter_mut().for_each(|route| route.audience.clear());
        } else if !wanted.is_empty() {
            self.apart.insert(prefix, wanted);
        }
        self.layers = self.layers.max(ways.len());
        let mut ways = ways.into_iter();
        for layer in 0..self.layers {
            self.change(self.layer(layer), prefix, ways.next());
        }
    }

    /// What is to be submitted for what was asked since the last time.
    pub(super) fn take(&mut self) -> Vec<SetChange> {
        let changes = std::mem::take(&mut self.changes);
        let of_one = |(set, routes): (String, BTreeMap<IpNet, Option<RouteAttributes>>)| {
            let (mut remove, mut groups) = (Prefixes::default(), BTreeMap::<RouteAttributes, Prefixes>::new());
            for (prefix, route) in routes {
                match route {
                    Some(route) => groups.entry(route).or_default().push(prefix),
                    None => remove.push(prefix),
                }
            }
            let add = groups.into_iter().map(|(attributes, prefixes)| Group { attributes, prefixes }).collect();
            SetChange { set, others: Others::Stay, remove, add }
        };
        changes.into_iter().map(of_one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::{Command, parse};
    use super::*;
    use proptest::prelude::*;

    /// What the sets of a script hold.
    #[derive(Default)]
    struct Sets(BTreeMap<(String, IpNet), RouteAttributes>);

    impl Sets {
        fn apply(&mut self, script: &mut Script) {
            for change in script.take() {
                for prefix in change.remove.iter() {
                    self.0.remove(&(change.set.clone(), prefix));
                }
                for group in change.add {
                    for prefix in group.prefixes.iter() {
                        self.0.insert((change.set.clone(), prefix), group.attributes.clone());
                    }
                }
            }
        }

        /// The MED with which `peer` is told of each prefix.
        fn told(&self, peer: IpAddr) -> BTreeMap<IpNet, Option<u32>> {
            let mut told = BTreeMap::new();
            for ((_, prefix), route) in self.0.iter().filter(|(_, route)| route.is_for(peer)) {
                assert_eq!(told.insert(*prefix, route.med), None, "{prefix} twice");
            }
            told
        }
    }

    fn peers() -> Vec<Neighbour> {
        let peer = |last| Neighbour {
            address: [192, 0, 2, last].into(),
            local_address: None,
            local_as: 64500,
            remote_as: 64500,
            router_id: [192, 0, 2, 254].into(),
        };
        (1..=3).map(peer).collect()
    }

    fn script() -> Script {
        let mut script = Script::new("s".to_owned());
        script.meet(peers());
        script
    }

    fn obey(script: &mut Script, sets: &Sets, line: &str) -> Result<(), String> {
        let told = |set: &str, prefix| sets.0.get(&(set.to_owned(), prefix)).cloned();
        match parse(line).unwrap() {
            Command::Announce(announcement) => script.announce(&announcement, told),
            Command::Withdraw(to, prefixes) => script.withdraw(&to, &prefixes, told),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_for_nobody_is_an_error_and_one_for_all_is_one_set() {
        let (mut script, mut sets) = (script(), Sets::default());
        let error = obey(&mut script, &sets, "neighbor 192.0.2.9 announce route 10.0.0.0/24 next-hop 192.0.2.1");
        assert!(error.unwrap_err().contains("no peer fits"));
        for peer in 1..=3 {
            let line = format!("neighbor 192.0.2.{peer} announce route 10.0.0.0/24 next-hop 192.0.2.1 med 1");
            obey(&mut script, &sets, &line).unwrap();
        }
        sets.apply(&mut script);
        let [((set, _), route)] = &sets.0.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", sets.0) };
        assert!(set == "s" && route.audience.is_empty(), "told to each is told to all");
        let dog = "neighbor 192.0.2.1 announce route 10.1.0.0/24 next-hop 192.0.2.1 watchdog d";
        obey(&mut script, &sets, dog).unwrap();
        sets.apply(&mut script);
        assert_eq!(sets.0[&("s/watchdog d".to_owned(), "10.1.0.0/24".parse().unwrap())].audience.len(), 1);
        obey(&mut script, &sets, "withdraw route 10.1.0.0/24").unwrap();
        sets.apply(&mut script);
        assert_eq!(sets.0.len(), 1);
    }

    proptest! {
        #[test]
        fn each_peer_is_told_what_the_lines_say(
            lines in proptest::collection::vec((0..8u8, 0..4u8, proptest::option::of(1..4u32), any::<bool>()), 0..40),
        ) {
            let (mut script, mut sets) = (script(), Sets::default());
            let mut model: BTreeMap<u8, BTreeMap<IpNet, Option<u32>>> = BTreeMap::new();
            for (for_peers, n, med, submit) in lines {
                let names: Vec<u8> = (1..=3).filter(|peer| for_peers & 1 << (peer - 1) != 0).collect();
                let to: Vec<String> = names.iter().map(|peer| format!("neighbor 192.0.2.{peer}")).collect();
                let verb = match med {
                    Some(med) => format!("announce route 10.{n}.0.0/16 next-hop 192.0.2.1 med {med}"),
                    None => format!("withdraw route 10.{n}.0.0/16"),
                };
                obey(&mut script, &sets, &format!("{} {verb}", to.join(", "))).unwrap();
                let prefix: IpNet = format!("10.{n}.0.0/16").parse().unwrap();
                for peer in if names.is_empty() { vec![1, 2, 3] } else { names } {
                    match med {
                        Some(med) => drop(model.entry(peer).or_default().insert(prefix, Some(med))),
                        None => drop(model.entry(peer).or_default().remove(&prefix)),
                    }
                }
                if submit {
                    sets.apply(&mut script);
                }
            }
            sets.apply(&mut script);
            for peer in 1..=3 {
                prop_assert_eq!(sets.told([192, 0, 2, peer].into()), model.remove(&peer).unwrap_or_default());
            }
        }
    }
}
