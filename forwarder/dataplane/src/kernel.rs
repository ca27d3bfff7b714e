//! The policy applied to the kernel, and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_core::fast::Host;
use forwarder_core::meter::Use;
use forwarder_core::ruleset::{self, Table};
use forwarder_core::{
    Applied, LinkState, MadeLink, Policy, PrivatePrefix, Resting, Route, Target, blackhole_waits, rank_of_going, user,
};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::sync::Mutex;

use crate::meter::{self, KernelMeter};
use crate::netlink::{self, Effective, OwnRoute};
use crate::nft::{self, Counters};
use crate::user::UserPlane;
use crate::{DataplaneError, made, sysctl};

/// One interface as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index, 0 when there is none of that name.
    pub index: u32,
    /// Its state.
    pub state: LinkState,
}

/// What of the guard is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardState {
    /// The private prefixes of our blackholes.
    pub blackholes: Vec<IpNet>,
    /// The text of the nftables table, when it is there.
    pub table: Option<String>,
    /// The text of the meter's table, when it is there.
    pub meter: Option<String>,
}

/// The kernel of this network namespace.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    /// The table that was loaded, and what `nft` listed right after it: another release may print it in other words.
    loaded: Mutex<Option<(Table, Table)>>,
    rounded: Mutex<sysctl::Rounded>,
    meter: KernelMeter,
    /// Whether this process has found the guard whole: what is missing after that was taken away by somebody.
    stood: AtomicBool,
}

impl Kernel {
    /// Opens the netlink socket for requests.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open() -> Result<Self, DataplaneError> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            loaded: Mutex::new(None),
            rounded: Mutex::default(),
            meter: KernelMeter::default(),
            stood: AtomicBool::new(false),
        })
    }

    /// Puts in place what is missing and reads it back: settings, guard, and only then the real routes, but for those
    /// that are `resting`. What cannot be done is in the answer. A guard that stood and had to be put back counts as
    /// broken in that answer: nobody knows what passed meanwhile.
    pub async fn apply(&self, policy: &Policy, resting: &Resting, probe_interval: Duration) -> Applied {
        let guard = match self.apply_guard(policy, resting, probe_interval).await {
            Ok(missing) => {
                let stood = self.stood.swap(true, Ordering::Relaxed);
                let taken_away = stood && !missing.is_empty();
                if taken_away {
                    Err(format!("{} was not as wanted and is put back", missing.join(", ")))
                } else {
                    Ok(())
                }
            }
            Err(error) => Err(error.to_string()),
        };
        match guard {
            Ok(()) => self.apply_routes(policy, resting).await,
            Err(broken) => unguarded(policy, broken),
        }
    }

    /// Goes over from one policy to another without a gap: what both allow passes all the time. An error of the guard in
    /// the answer means that the guard is still that of `before`.
    pub async fn change(
        &self,
        before: &Policy,
        policy: &Policy,
        resting: &Resting,
        probe_interval: Duration,
    ) -> Applied {
        // First a guard that knows the old links and the new ones, then the routes, then the guard of the new ones alone.
        if let Some(bridge) = policy.bridge(before) {
            if let Err(error) = self.apply_guard(&bridge, resting, probe_interval).await {
                return unguarded(policy, error.to_string());
            }
            self.apply_routes(policy, resting).await;
        }
        match self.apply_guard(policy, resting, probe_interval).await {
            Ok(_) => self.apply_routes(policy, resting).await,
            Err(error) => unguarded(policy, error.to_string()),
        }
    }

    /// Brings the routes of prefixes with several links to what they are without those that are `resting`; the rest is
    /// left to [`Kernel::apply`].
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn reroute(&self, policy: &Policy, resting: &Resting) -> Result<(), DataplaneError> {
        let interfaces = self.links(policy).await?;
        let standing = netlink::own_routes(&self.handle).await?;
        let several = |prefix: IpNet| policy.private_prefix(prefix.addr()).is_some_and(|entry| entry.ways.len() > 1);
        let wanted: Vec<Route> =
            routes(policy, resting, &interfaces).into_iter().filter(|route| several(route.prefix)).collect();
        self.put_routes(&wanted, &interfaces, &standing).await;
        self.remove_unwanted(&wanted, &standing).await
    }

    /// Makes the links that are to be made, and keeps them as they should be; gives what is wrong by interface.
    pub async fn make_links(&self, links: &[MadeLink]) -> BTreeMap<String, String> {
        let mut problems = BTreeMap::new();
        for link in links {
            if let Err(problem) = made::make(&self.handle, link).await {
                problems.insert(link.interface.clone(), problem.to_string());
            }
        }
        problems
    }

    /// Removes links that an older configuration had made.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_other_links(&self, links: &[MadeLink]) -> Result<(), DataplaneError> {
        made::remove_others(&self.handle, links).await
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn interface(&self, name: &str) -> Result<Interface, DataplaneError> {
        let found = netlink::interface(&self.handle, name).await?;
        let (index, state) = found.unwrap_or((0, LinkState::Missing));
        Ok(Interface { index, state })
    }

    /// What the fast path has to know of this host.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn host(&self, policy: &Policy) -> Result<Host, DataplaneError> {
        let mut host = Host { addresses: netlink::addresses(&self.handle).await?, ..Host::default() };
        let links = policy.links().iter().map(|link| &link.interface);
        for name in policy.subscriber_interfaces().iter().chain(links) {
            if let Some(found) = netlink::host_interface(&self.handle, name).await? {
                host.interfaces.insert(name.clone(), found);
            }
        }
        Ok(host)
    }

    /// What the user data plane has to know of this host.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn user_host(&self, policy: &Policy) -> Result<user::Host, DataplaneError> {
        let host = self.host(policy).await?;
        let by_interface = netlink::addresses_by_interface(&self.handle).await?;
        let mut ports = BTreeMap::new();
        for (name, found) in host.interfaces {
            let Some(mac) = found.mac else { continue };
            let addresses = by_interface.iter().filter(|(index, _)| *index == found.index);
            let addresses = addresses.map(|(_, address)| *address).collect();
            ports.insert(found.index, user::Port { name, mac, addresses });
        }
        Ok(user::Host::new(ports, &host.addresses))
    }

    /// A user data plane for `policy` in this network namespace; it reads at no interface yet.
    #[must_use]
    pub fn user_plane(&self, policy: Arc<Policy>) -> UserPlane {
        UserPlane::new(policy, self.handle.clone())
    }

    /// Makes the kernel ask the neighbour `address` on interface `index` now. The answer is an event.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn probe(&self, index: u32, address: IpAddr) -> Result<(), DataplaneError> {
        netlink::probe(&self.handle, index, address).await
    }

    /// The counters of guard and meter; none when there is no guard. What the guard lets through and the meter
    /// drops counts as dropped.
    ///
    /// # Errors
    /// When `nft` fails.
    pub async fn counters(&self) -> Result<Counters, DataplaneError> {
        let mut counters = nft::list().await?.map(|listing| listing.counters).unwrap_or_default();
        counters.extend(self.meter.counters().await?);
        Ok(counters)
    }

    /// What each source and private prefix has used, where the kernel counts it.
    ///
    /// # Errors
    /// When `nft` fails.
    pub async fn uses(&self, policy: &Policy) -> Result<Vec<Use>, DataplaneError> {
        self.meter.uses(policy).await
    }

    /// Removes the real routes; guard and blackholes stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_routes(&self) -> Result<(), DataplaneError> {
        for route in netlink::own_routes(&self.handle).await?.iter().filter(|route| !route.blackhole) {
            netlink::remove_route(&self.handle, route).await?;
        }
        Ok(())
    }

    /// What of the guard is in the kernel.
    ///
    /// # Errors
    /// When the kernel or `nft` does not answer.
    pub async fn guard(&self) -> Result<GuardState, DataplaneError> {
        let routes = netlink::own_routes(&self.handle).await?;
        let blackholes = routes.iter().filter(|route| route.blackhole).map(|route| route.prefix).collect();
        let table = nft::list().await?.map(|listing| listing.text);
        Ok(GuardState { blackholes, table, meter: meter::list().await?.map(|listing| listing.text) })
    }

    /// Removes routes, blackholes and table: from now on the private prefixes follow the default route.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses.
    pub async fn remove_guard(&self) -> Result<(), DataplaneError> {
        self.remove_routes().await?;
        for route in netlink::own_routes(&self.handle).await? {
            netlink::remove_route(&self.handle, &route).await?;
        }
        meter::remove().await?;
        nft::remove().await
    }

    /// Gives what was missing.
    async fn apply_guard(
        &self,
        policy: &Policy,
        resting: &Resting,
        probe_interval: Duration,
    ) -> Result<Vec<String>, DataplaneError> {
        let mut repaired = Vec::new();
        let wanted = policy.blackholes();
        let missing = |found: &[OwnRoute], route: &Route| !found.iter().any(|own| own.is(route, &[]));
        let standing = netlink::own_routes(&self.handle).await?;
        let carrying = standing.iter().filter(|own| !own.blackhole).map(|own| own.prefix).collect();
        let (late, early): (Vec<&Route>, Vec<&Route>) = wanted
            .iter()
            .filter(|route| missing(&standing, route))
            .partition(|route| blackhole_waits(route.prefix, &carrying));
        for route in early {
            netlink::put_route(&self.handle, route, &[]).await?;
            tracing::info!(route = %netlink::describe(route), "blackhole added");
            repaired.push(netlink::describe(route));
        }
        // Before the guard, which lets through what is charged behind it.
        if self.meter.apply(policy).await? {
            repaired.push(format!("table {} {}", ruleset::FAMILY, forwarder_core::meter::ruleset::TABLE));
        }
        if self.apply_table(policy).await? {
            repaired.push(format!("table {} {}", ruleset::FAMILY, ruleset::TABLE));
        }
        sysctl::apply(&policy.settings(probe_interval), &mut *self.rounded.lock().await)?;
        if !late.is_empty() {
            let interfaces = self.links(policy).await?;
            let mut routes = routes(policy, resting, &interfaces);
            routes.retain(|route| late.iter().any(|blackhole| blackhole.prefix == route.prefix));
            self.put_routes(&routes, &interfaces, &standing).await;
            for route in late {
                netlink::put_route(&self.handle, route, &[]).await?;
                tracing::info!(route = %netlink::describe(route), "blackhole added");
                repaired.push(netlink::describe(route));
            }
        }
        let found = netlink::own_routes(&self.handle).await?;
        if let Some(route) = wanted.iter().find(|route| missing(&found, route)) {
            let what = netlink::describe(route);
            return Err(DataplaneError::Netlink { what, why: "not there when read back".into() });
        }
        Ok(repaired)
    }

    /// Says whether the table had to be changed.
    async fn apply_table(&self, policy: &Policy) -> Result<bool, DataplaneError> {
        let wanted = ruleset::table(policy);
        let mut loaded = self.loaded.lock().await;
        let found = nft::list().await?.map(|listing| listing.table.unwrap_or_default());
        let in_our_words = match (&found, &*loaded) {
            (Some(found), Some((table, listed))) if found == listed => Some(table.clone()),
            _ => found,
        };
        if in_our_words.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        if let Some(change) = in_our_words.as_ref().and_then(|standing| standing.update(&wanted)) {
            match load_all(&change).await {
                Ok(()) => {
                    let now = nft::list().await?.and_then(|listing| listing.table);
                    if now.as_ref() == Some(&wanted) {
                        tracing::info!("guard changed");
                        *loaded = None;
                        return Ok(true);
                    }
                }
                Err(error) => tracing::warn!(%error, "the guard cannot be changed in place and is loaded anew"),
            }
        }
        nft::load(&ruleset::load_text(policy)).await?;
        let Some(now) = nft::list().await? else {
            return Err(DataplaneError::Nft("the table is not there when read back".into()));
        };
        tracing::info!(replaced = in_our_words.is_some(), "guard loaded");
        if let Some(missing) = ruleset::counters().find(|counter| !now.counters.contains_key(*counter)) {
            return Err(DataplaneError::Nft(format!("counter {missing} is not there when read back")));
        }
        *loaded = now.table.map(|listed| (wanted, listed));
        Ok(true)
    }

    /// The real routes, where the guard stands.
    async fn apply_routes(&self, policy: &Policy, resting: &Resting) -> Applied {
        let failed = |error: DataplaneError| {
            let failed = policy.prefixes().iter().map(|entry| (entry.prefix, Err(error.to_string())));
            Applied { guard: Ok(()), routes: failed.collect() }
        };
        let interfaces = match self.links(policy).await {
            Ok(interfaces) => interfaces,
            Err(error) => return failed(error),
        };
        let standing = match netlink::own_routes(&self.handle).await {
            Ok(standing) => standing,
            Err(error) => return failed(error),
        };
        let wanted = routes(policy, resting, &interfaces);
        let mut refused = self.put_routes(&wanted, &interfaces, &standing).await;
        if let Err(error) = self.remove_unwanted(&wanted, &standing).await {
            return failed(error);
        }
        if let Err(error) = self.remove_stale(policy, &standing).await {
            return failed(error);
        }
        let mut routes = BTreeMap::new();
        for entry in policy.prefixes() {
            let done = match refused.remove(&entry.prefix) {
                Some(error) => Err(error),
                None => self.leads_there(policy, entry, &wanted, &interfaces).await,
            };
            routes.insert(entry.prefix, done);
        }
        Applied { guard: Ok(()), routes }
    }

    /// Puts what is not there yet; gives what was refused.
    async fn put_routes(
        &self,
        wanted: &[Route],
        interfaces: &BTreeMap<String, Interface>,
        standing: &[OwnRoute],
    ) -> BTreeMap<IpNet, String> {
        let mut refused = BTreeMap::new();
        for route in wanted {
            let indexes = indexes(route, interfaces);
            if standing.iter().any(|own| own.is(route, &indexes)) {
                continue;
            }
            match netlink::put_route(&self.handle, route, &indexes).await {
                Ok(()) => tracing::info!(route = %netlink::describe(route), "route added"),
                Err(error) => drop(refused.insert(route.prefix, error.to_string())),
            }
        }
        refused
    }

    /// Removes the other real routes of prefixes that have a wanted one.
    async fn remove_unwanted(&self, wanted: &[Route], standing: &[OwnRoute]) -> Result<(), DataplaneError> {
        let has_one: BTreeSet<IpNet> = wanted.iter().map(|route| route.prefix).collect();
        let kept: BTreeSet<(IpNet, u32)> = wanted.iter().map(|route| (route.prefix, route.metric)).collect();
        for own in standing.iter().filter(|own| !own.blackhole && has_one.contains(&own.prefix)) {
            if !kept.contains(&(own.prefix, own.metric)) {
                netlink::remove_route(&self.handle, own).await?;
                tracing::info!(prefix = %own.prefix, metric = own.metric, "route rests");
            }
        }
        Ok(())
    }

    /// Removes what the policy no longer knows; the new guard stands.
    async fn remove_stale(&self, policy: &Policy, standing: &[OwnRoute]) -> Result<(), DataplaneError> {
        let wanted: BTreeSet<IpNet> = policy.prefixes().iter().map(|entry| entry.prefix).collect();
        let mut stale: Vec<&OwnRoute> = standing.iter().filter(|own| !wanted.contains(&own.prefix)).collect();
        stale.sort_by_key(|own| rank_of_going(own.prefix, own.blackhole, &wanted));
        for own in stale {
            netlink::remove_route(&self.handle, own).await?;
            tracing::info!(prefix = %own.prefix, "route of an older policy removed");
        }
        Ok(())
    }

    /// Whether the kernel sends the packets of a prefix out by one of its links.
    async fn leads_there(
        &self,
        policy: &Policy,
        entry: &PrivatePrefix,
        wanted: &[Route],
        interfaces: &BTreeMap<String, Interface>,
    ) -> Result<(), String> {
        let its = wanted.iter().filter(|route| route.prefix == entry.prefix);
        let allowed: BTreeSet<u32> = its.flat_map(|route| indexes(route, interfaces)).collect();
        let Some(first) = entry.ways.first() else { return Ok(()) };
        if allowed.is_empty() {
            let name = policy.interface(first.link);
            return Err(match interfaces.get(name).map_or(LinkState::Missing, |found| found.state) {
                LinkState::Missing => format!("there is no interface {name}"),
                LinkState::Down | LinkState::Up => format!("{name} is down"),
            });
        }
        let on_link = entry.ways.iter().find(|way| way.next_hop.is_none());
        let address = on_link.map_or(entry.prefix.addr(), |way| way.probe);
        match netlink::effective(&self.handle, address).await {
            Ok(Effective::Out(index)) if allowed.contains(&index) => Ok(()),
            Ok(Effective::Out(index)) => Err(format!("the kernel sends {address} out by interface {index}")),
            Ok(Effective::Nowhere) => Err(format!("the kernel drops {address}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The interfaces of the private links.
    async fn links(&self, policy: &Policy) -> Result<BTreeMap<String, Interface>, DataplaneError> {
        let mut interfaces = BTreeMap::new();
        for link in policy.links() {
            interfaces.insert(link.interface.clone(), self.interface(&link.interface).await?);
        }
        Ok(interfaces)
    }
}

fn routes(policy: &Policy, resting: &Resting, interfaces: &BTreeMap<String, Interface>) -> Vec<Route> {
    policy.routes(resting, |name| interfaces.get(name).is_some_and(|found| found.state == LinkState::Up))
}

/// The indexes of the interfaces of a route's exits.
fn indexes(route: &Route, interfaces: &BTreeMap<String, Interface>) -> Vec<u32> {
    match &route.target {
        Target::Blackhole => Vec::new(),
        Target::Links(exits) => {
            exits.iter().map(|exit| interfaces.get(&exit.interface).map_or(0, |found| found.index)).collect()
        }
    }
}

async fn load_all(transactions: &[String]) -> Result<(), DataplaneError> {
    for transaction in transactions {
        nft::load(transaction).await?;
    }
    Ok(())
}

fn unguarded(policy: &Policy, broken: String) -> Applied {
    let routes = policy.prefixes().iter().map(|entry| (entry.prefix, Err(format!("not without the guard: {broken}"))));
    Applied { routes: routes.collect(), guard: Err(broken) }
}
