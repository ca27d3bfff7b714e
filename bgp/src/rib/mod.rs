//! Routes of peers: one table for all of them, filled by their tasks, asked by `show` and by other roles (A7).

pub(crate) mod cli;
mod dump;
mod intake;
mod look_up;
pub(crate) mod metrics;
mod prefixes;
pub(crate) mod settings;
mod shown;
pub(crate) mod table_dump;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::FlowHeard;
use bgp_rib::{Again, FlowClaim, Import, Infeasible, Judge, PeerId, PeerSettings, ReaderId, Rejected, Rib, Walk};
use bgp_rpki::{Validity, Vrps};
use bgp_wire::{Asn, Families, Family, FlowRule, Role, RouterId};
use cloakway_runtime::{Stop, clock};
use cloakway_types::Instant;
use ipnet::IpNet;
use look_up_wire::Verdict;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use dump::Dump;
pub(crate) use intake::Intake;
pub use look_up::Listen;
pub(crate) use look_up::{serve, serve_tcp};
pub use settings::{Exchange, Settings};
pub(crate) use shown::Received;
use table_dump::Writer;

use crate::config::Peer;

/// Prefixes that are looked at while the table is held, when a peer is lost.
const SLICE: u32 = 4096;
/// Octets of UPDATEs that are made while the table is held.
const PULL: usize = 64 * 1024;
/// A peer that marks no end of its routes is believed to have told them all after so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The payloads of the RPKI that count; empty without any.
pub(crate) type Payloads = watch::Receiver<Arc<Vrps>>;

/// The table, and what its peers have told.
#[derive(Debug)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    payloads: Payloads,
    /// What decides where no peer has told.
    dump: Option<Dump>,
    writer: Writer,
}

#[derive(Debug)]
struct Inner {
    rib: Rib,
    peers: BTreeMap<String, Known>,
    /// Of peers that are no more.
    free: Vec<PeerId>,
    readers: usize,
    /// The kernel has to hear of changes.
    followed: bool,
    private: Vec<IpNet>,
}

impl Inner {
    fn is_watched(&self) -> bool {
        self.followed || self.readers > 0
    }
}

/// A peer of the table.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: PeerId,
    imports: bool,
    /// Since when it is Established.
    up: Option<Instant>,
    /// Families that it told the end of.
    ended: Families,
    /// Whom to tell, if it is told anything.
    reader: Option<ReaderId>,
}

/// The peer's prefix list, and the RPKI where it counts, as the table asks them.
#[derive(Debug)]
struct Conditions {
    list: bgp_core::Filter,
    payloads: Option<Payloads>,
}

impl Judge for Conditions {
    fn judge(&self, prefix: &IpNet, origin: Option<Asn>) -> Result<(), Rejected> {
        if !self.list.takes(prefix) {
            return Err(Rejected::NotListed);
        }
        let validity = self.payloads.as_ref().map(|payloads| payloads.borrow().validate(*prefix, origin));
        if validity == Some(Validity::Invalid) { Err(Rejected::OriginInvalid) } else { Ok(()) }
    }
}

/// What a session that has come up is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Up {
    pub(crate) router_id: RouterId,
    pub(crate) asn: Asn,
    /// Our address in it.
    pub(crate) local: Option<IpAddr>,
}

impl Table {
    /// No peers, no routes.
    pub(crate) fn new(settings: Settings, payloads: Payloads) -> Arc<Self> {
        let rib = Rib::new(bgp_rib::Settings {
            local_as: settings.local_as,
            router_id: settings.router_id,
            private: settings.private.clone(),
            own: settings.own,
            always_compare_med: settings.always_compare_med,
        });
        let inner = Inner {
            rib,
            peers: BTreeMap::new(),
            free: Vec::new(),
            readers: 0,
            followed: false,
            private: settings.private,
        };
        let dump = settings.mrt.as_deref().map(Dump::new);
        let writer = Writer::new(settings.router_id);
        Arc::new(Self { inner: Mutex::new(inner), changed: watch::Sender::new(0), payloads, dump, writer })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Told whenever there may be something new to tell.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is ours alone now, and what is injected here.
    pub(crate) fn configure(self: &Arc<Self>, private: Vec<IpNet>, own: Vec<IpNet>) {
        let mut inner = self.lock();
        let others = inner.private != private;
        inner.private.clone_from(&private);
        inner.rib.set_own(private, own);
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
        if others {
            tokio::spawn(self.clone().rejudge(Again::Conditions));
        }
    }

    /// Judges what was told again, a slice at a time.
    async fn rejudge(self: Arc<Self>, again: Again) {
        for family in Family::ALL {
            let mut walk = Walk::default();
            while self.lock().rib.rejudge(again, family, &mut walk, SLICE).is_continue() {
                tokio::task::yield_now().await;
            }
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// A way to the table for the task of `peer`.
    pub(crate) fn intake(self: &Arc<Self>, peer: &Peer) -> Intake {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let settings = peer_settings(peer, peer.settings.remote_as, &self.payloads);
        let imports = !matches!(settings.import, Import::Nothing);
        let id = match inner.free.pop() {
            Some(id) => {
                inner.rib.set_peer(id, settings);
                id
            }
            None => inner.rib.add_peer(settings),
        };
        let known = Known { id, imports, up: None, ended: Families::NONE, reader: None };
        let before = inner.peers.insert(peer.name.clone(), known);
        // One of the same name that is about to end: it no longer finds its way.
        if let Some(reader) = before.and_then(|before| before.reader) {
            inner.rib.detach(reader);
        }
        let asn = peer.settings.remote_as;
        Intake { table: self.clone(), name: peer.name.clone(), id, asn, heard: Vec::new(), stale: BTreeSet::new() }
    }

    /// Somebody wants to hear of every change, as [`Table::changes`] tells it.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.lock().followed = true;
        self.changes()
    }

    /// Shows the best routes of `family` in `count` places from `from` on, with the next hops of up to `most` that are as
    /// good, and says whether there are more behind; those that touch a private prefix only with `private`.
    pub(crate) fn best(
        &self,
        family: Family,
        (from, count): (u32, u32),
        (private, most): (bool, usize),
        mut see: impl FnMut(IpNet, &[IpAddr]),
    ) -> bool {
        let inner = self.lock();
        let mut pass = |prefix: IpNet, next_hops: &[IpAddr]| {
            let touches = |ours: &IpNet| ours.contains(&prefix) || prefix.contains(ours);
            if private || !inner.private.iter().any(touches) {
                see(prefix, next_hops);
            }
        };
        if most == 1 {
            inner.rib.best(family, from, count).for_each(|(prefix, next_hop)| pass(prefix, &[next_hop]));
        } else {
            let places = from..from.saturating_add(count).min(inner.rib.places(family));
            let equals = places.filter_map(|at| inner.rib.equals(family, at, most));
            equals.for_each(|(prefix, next_hops)| pass(prefix, &next_hops));
        }
        from.saturating_add(count) < inner.rib.places(family)
    }

    /// Why a look-up in the table would not say all that peers know.
    pub(crate) fn readiness(&self) -> Result<(), &'static str> {
        self.readiness_of(|_| true)
    }

    /// The same, of the peers alone that `wanted` takes by name.
    fn readiness_of(&self, wanted: impl Fn(&str) -> bool) -> Result<(), &'static str> {
        let inner = self.lock();
        let peers = inner.peers.iter().filter(|(name, _)| wanted(name)).map(|(_, known)| known);
        let mut importing = peers.filter(|known| known.imports).peekable();
        if importing.peek().is_none() {
            return Err("no peer's routes are imported");
        }
        let mut up = importing.filter(|known| known.up.is_some()).peekable();
        if up.peek().is_none() {
            return Err("no peer that routes are imported from is up");
        }
        let now = clock::now();
        let told =
            |known: &Known| known.ended != Families::NONE || known.up.is_some_and(|since| now.since(since) >= PATIENCE);
        if up.any(told) { Ok(()) } else { Err("no peer has told all of its routes yet") }
    }

    /// Holds what was told against the RPKI again whenever its payloads are others, until the stop.
    pub(crate) async fn follow_rpki(self: Arc<Self>, stop: Stop) {
        let mut payloads = self.payloads.clone();
        loop {
            tokio::select! {
                () = stop.told() => return,
                changed = payloads.changed() => if changed.is_err() { return stop.told().await },
            }
            self.clone().rejudge(Again::Conditions).await;
        }
    }

    /// Keeps the dump as its file is, if there is one, until the stop.
    pub(crate) async fn follow_dump(self: Arc<Self>, stop: Stop) {
        match &self.dump {
            Some(dump) => dump.follow(&stop).await,
            None => stop.told().await,
        }
    }

    /// What received flow rules are worth, each told by the peer of that name (RFC 8955 §6).
    pub(crate) async fn check_flows(&self, heard: &[(String, FlowRule, FlowHeard)]) -> Vec<Result<(), Infeasible>> {
        let mut check = {
            let inner = self.lock();
            let claim = |(peer, rule, heard): &(String, FlowRule, FlowHeard)| FlowClaim {
                peer: inner.peers.get(peer).map_or(PeerId::NOBODY, |known| known.id),
                destination: rule.destination(),
                neighbour: heard.neighbour,
                local: heard.local,
                originator: heard.originator,
            };
            let claims: Vec<FlowClaim> = heard.iter().map(claim).collect();
            inner.rib.check_flows(&claims)
        };
        for family in Family::ALL {
            let mut walk = Walk::default();
            while check.walk(&self.lock().rib, family, &mut walk, SLICE).is_continue() {
                tokio::task::yield_now().await;
            }
        }
        check.verdicts()
    }

    /// Whose `address` is: by the routes of peers, and where they say nothing, by the dump. Says which it was.
    pub(crate) fn whose(&self, readiness: Result<(), &'static str>, address: IpAddr) -> (Verdict, &'static str) {
        let live = readiness.ok().and_then(|()| self.lock().rib.origin(address));
        if let Some(origin) = live {
            let verdict = match origin.asn {
                Some(asn) => Verdict::Origin { prefix: origin.prefix, asn: asn.0 },
                None => Verdict::Disputed { prefix: origin.prefix },
            };
            return (verdict, "live");
        }
        match self.dump.as_ref().and_then(|dump| dump.verdict(address)) {
            Some(verdict) => (verdict, "dump"),
            None if readiness.is_ok() => (Verdict::NoRoute, "live"),
            None => (Verdict::NotReady, "live"),
        }
    }
}

/// The clock by which the table knows when a route came.
fn seconds() -> u32 {
    u32::try_from(clock::now().since_origin().as_secs()).unwrap_or(u32::MAX)
}

fn peer_settings(peer: &Peer, asn: Asn, payloads: &Payloads) -> PeerSettings {
    let exchange = &peer.exchange;
    let role = peer.settings.options.role.map(|setting| setting.role);
    let import = match &exchange.import {
        bgp_core::Filter::Nothing => Import::Nothing,
        bgp_core::Filter::All if !exchange.reject_invalid => Import::All,
        list => {
            let payloads = exchange.reject_invalid.then(|| payloads.clone());
            Import::Judged(Arc::new(Conditions { list: list.clone(), payloads }))
        }
    };
    PeerSettings {
        name: peer.name.clone(),
        address: peer.address.ip(),
        asn,
        internal: peer.is_internal(),
        role,
        import,
        accept_blackhole: exchange.accept_blackhole,
        // A route server passes on what it hears, without its own AS (RFC 7947 §2.2.2).
        enforce_first_as: exchange.enforce_first_as && role != Some(Role::RouteServerClient),
    }
}
