//! The way of one peer's task to the table: what its session hears goes in, and what others told comes out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_core::{Heard, Session, Teller};
use bgp_rib::{Again, Batch, Export, Import, PeerId, Rib, Walk};
use bgp_wire::{Asn, Families, Family};
use cloakway_runtime::clock;

use super::{Known, PULL, SLICE, Table, Up, peer_settings, seconds};
use crate::config::Peer;

/// The way of one peer's task to the table.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(super) table: Arc<Table>,
    pub(super) name: String,
    pub(super) id: PeerId,
    /// The peer's, by its last OPEN.
    pub(super) asn: Asn,
    /// Taken from the session, and not in the table yet.
    pub(super) heard: Vec<Heard>,
    /// Families whose routes stay while the peer is gone, or until it has told them again.
    pub(super) stale: BTreeSet<Family>,
}

impl Intake {
    fn known<T>(&self, change: impl FnOnce(&mut Rib, &mut Known) -> T) -> Option<T> {
        let mut guard = self.table.lock();
        let inner = &mut *guard;
        let known = inner.peers.get_mut(&self.name).filter(|known| known.id == self.id)?;
        Some(change(&mut inner.rib, known))
    }

    /// The session is Established.
    pub(crate) fn up(&mut self, peer: &Peer, up: Up) {
        self.asn = up.asn;
        let settings = peer_settings(peer, up.asn, &self.table.payloads);
        let now = clock::now();
        self.known(|rib, known| {
            known.imports = !matches!(settings.import, Import::Nothing);
            (known.up, known.ended) = (Some(now), Families::NONE);
            rib.set_peer(known.id, settings);
            rib.peer_up(known.id, up.router_id, up.local);
        });
    }

    /// The operator says otherwise of the peer now, and its session goes on: what it told is judged again, or goes.
    pub(crate) fn configure(&mut self, peer: &Peer) {
        self.settle();
        let settings = peer_settings(peer, self.asn, &self.table.payloads);
        let imports = !matches!(settings.import, Import::Nothing);
        let now = clock::now();
        self.known(|rib, known| {
            rib.set_peer(known.id, settings);
            if imports && !known.imports && known.up.is_some() {
                // All of its routes are to come.
                (known.up, known.ended) = (Some(now), Families::NONE);
            }
            known.imports = imports;
            if !imports {
                Family::ALL.into_iter().for_each(|family| rib.outdate(known.id, family));
            }
        });
        if imports {
            tokio::spawn(self.table.clone().rejudge(Again::Peer(self.id)));
        } else {
            self.stale.clear();
            tokio::spawn(sweep(self.table.clone(), self.id, BTreeSet::new(), None));
        }
    }

    /// What the session heard goes into the table with [`Intake::settle`].
    pub(crate) fn hear(&mut self, heard: Heard) {
        self.heard.push(heard);
    }

    /// Puts what was heard into the table.
    pub(crate) fn settle(&mut self) {
        if self.heard.is_empty() {
            return;
        }
        let heard = std::mem::take(&mut self.heard);
        let mut stale = std::mem::take(&mut self.stale);
        self.known(|rib, known| {
            rib.set_time(seconds());
            for heard in heard {
                match heard {
                    Heard::Stale(family) => {
                        rib.peer_stale(known.id, family);
                        stale.insert(family);
                    }
                    Heard::LongLived(family) => {
                        let mut walk = Walk::default();
                        while rib.llgr_stale(known.id, family, &mut walk, u32::MAX).is_continue() {}
                    }
                    Heard::Sweep(family) => {
                        rib.sweep_all(known.id, family);
                        stale.remove(&family);
                    }
                    Heard::Update(update) => rib.apply(known.id, *update),
                    Heard::EndOfRib(family) => {
                        known.ended.insert(family);
                        rib.sweep_all(known.id, family);
                    }
                    Heard::Settled(family) => known.ended.insert(family),
                    Heard::RefreshBegins(family) => rib.refresh_begins(known.id, family),
                    Heard::RefreshEnds(family) => {
                        known.ended.insert(family);
                        rib.sweep_all(known.id, family);
                    }
                    Heard::Wants(family) => {
                        if let Some(reader) = known.reader {
                            rib.tell_again(reader, family);
                        }
                    }
                }
            }
        });
        self.stale = stale;
        self.wake();
    }

    /// How many routes that the peer told are kept.
    pub(crate) fn held(&self) -> [(Family, usize); 2] {
        Family::ALL
            .map(|family| (family, self.known(|rib, known| rib.counts(known.id, family).routes).unwrap_or_default()))
    }

    /// The family is no longer listened to in this session (RFC 7606 §2): what it told is gone.
    pub(crate) fn family_lost(&mut self, family: Family) {
        self.settle();
        self.known(|rib, known| {
            rib.outdate(known.id, family);
            rib.sweep_all(known.id, family);
        });
        self.wake();
    }

    /// Established no more, and nothing is kept but what was said to be outdated.
    pub(crate) fn lost(&mut self) {
        self.settle();
        self.unread();
        let was_up = self.known(|rib, known| {
            rib.peer_down(known.id);
            known.up.take().is_some()
        });
        if was_up == Some(true) {
            tokio::spawn(sweep(self.table.clone(), self.id, self.stale.clone(), None));
        }
    }

    /// UPDATEs with other peers' best routes, and whether there is more; nothing when the peer is not told any.
    pub(crate) fn pull(&mut self, session: &mut Session, locals: &[IpAddr]) -> Option<(bgp_core::LinkId, Batch)> {
        let teller = session.teller()?;
        let link = teller.link;
        let batch = self.known(|rib, known| {
            let export = export(known.id, &teller, locals);
            let reader = match known.reader {
                Some(reader) => {
                    rib.tell_otherwise(reader, export);
                    reader
                }
                None => *known.reader.insert(rib.attach(export)),
            };
            rib.read(reader, PULL)
        });
        let mut batch = batch?;
        let ends = session.passed_on(batch.updates, batch.end);
        match session.teller() {
            Some(_) => self.count_readers(),
            // All of it is taken back.
            None => self.unread(),
        }
        batch.bytes.extend(ends);
        Some((link, batch))
    }

    fn unread(&mut self) {
        self.known(|rib, known| {
            if let Some(reader) = known.reader.take() {
                rib.detach(reader);
            }
        });
        self.count_readers();
    }

    fn count_readers(&self) {
        let mut inner = self.table.lock();
        inner.readers = inner.peers.values().filter(|known| known.reader.is_some()).count();
    }

    fn wake(&self) {
        if self.table.lock().is_watched() {
            self.table.changed.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for Intake {
    /// The peer is no more: its number is another's once its routes are out.
    fn drop(&mut self) {
        self.unread();
        let mut inner = self.table.lock();
        inner.rib.peer_down(self.id);
        if inner.peers.get(&self.name).is_some_and(|known| known.id == self.id) {
            inner.peers.remove(&self.name);
        }
        drop(inner);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(sweep(self.table.clone(), self.id, BTreeSet::new(), Some(())));
        }
    }
}

/// Takes out what `peer` told before it was lost, but for what is `stale` and stays, a slice at a time; with `frees` its number may then be used again.
async fn sweep(table: Arc<Table>, peer: PeerId, stale: BTreeSet<Family>, frees: Option<()>) {
    for family in Family::ALL.into_iter().filter(|family| !stale.contains(family)) {
        let mut walk = Walk::default();
        while table.lock().rib.sweep(peer, family, &mut walk, SLICE).is_continue() {
            tokio::task::yield_now().await;
        }
    }
    let mut inner = table.lock();
    if frees.is_some() {
        inner.free.push(peer);
    }
    let told = inner.is_watched();
    drop(inner);
    if told {
        table.changed.send_modify(|count| *count += 1);
    }
}

fn export(peer: PeerId, teller: &Teller, locals: &[IpAddr]) -> Export {
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    };
    let next_hop_v4: Option<Ipv4Addr> = locals.iter().find_map(v4);
    let next_hop_v6: Option<Ipv6Addr> = locals.iter().find_map(v6);
    Export {
        peer,
        role: teller.role,
        context: teller.context,
        families: teller.families.clone(),
        next_hop_v4,
        next_hop_v6,
        llgr: teller.long_lived,
        stale_inside: teller.stale_inside,
        keeps: teller.keeps,
    }
}
