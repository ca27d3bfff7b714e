//! The policy applied to the kernel, and read back: its routes, behind the [`crate::guard`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_core::fast::Host;
use forwarder_core::{
    Applied, LinkState, MAIN_TABLE, MadeLink, Policy, PrivatePrefix, Resting, Route, Target, rank_of_going, user,
};
use futures_util::{StreamExt as _, stream};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::sync::{Mutex, mpsc};

use crate::attendance::Attendance;
use crate::guard::Guard;
use crate::netlink::{self, Effective, OwnRoute, Standing};
use crate::{DataplaneError, LinkProblem, made, rules, sysctl, wireguard};

/// How many questions about routes are asked at a time.
const AT_A_TIME: usize = 64;

/// One interface as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index, 0 when there is none of that name.
    pub index: u32,
    /// Its state.
    pub state: LinkState,
}

/// The kernel of this network namespace.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) handle: Handle,
    pub(crate) guard: Guard,
    pub(crate) attendance: Attendance,
    pub(crate) rounded: Mutex<sysctl::Rounded>,
    /// Whether this process has found the guard whole: what is missing after that was taken away by somebody.
    stood: AtomicBool,
    /// What of it is missing, as soon as that is known.
    broken: mpsc::UnboundedSender<String>,
    breaks: Mutex<mpsc::UnboundedReceiver<String>>,
}

impl Kernel {
    /// Opens the netlink sockets for requests, and for what is said of the guard.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open() -> Result<Self, DataplaneError> {
        let (handle, guard) = (netlink::requests()?, Guard::open()?);
        let (broken, breaks) = mpsc::unbounded_channel();
        let (rounded, stood) = (Mutex::default(), AtomicBool::new(false));
        let attendance = Attendance::default();
        Ok(Self { handle, guard, attendance, rounded, stood, broken, breaks: Mutex::new(breaks) })
    }

    /// Waits until something of a guard that stood is found missing. It is being put back then, by [`Kernel::apply`].
    pub async fn guard_broken(&self) -> String {
        match self.breaks.lock().await.recv().await {
            Some(what) => format!("{what} was not as wanted and is put back"),
            // The sender is beside it.
            None => std::future::pending().await,
        }
    }

    /// Puts in place what is missing and reads it back: settings, guard, and only then the real routes, but for those
    /// that are `resting`. What cannot be done is in the answer. A guard that stood and had to be put back counts as
    /// broken in that answer: nobody knows what passed meanwhile.
    pub async fn apply(&self, policy: &Arc<Policy>, resting: &Resting, probe_interval: Duration) -> Applied {
        let stands = self.stood.load(Ordering::Relaxed);
        let missing = |what: &str| {
            if stands {
                // Nobody reads it in a command of its own.
                let _ = self.broken.send(what.to_owned());
            }
        };
        let guard = match self.apply_guard(policy, resting, probe_interval, &missing).await {
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
        policy: &Arc<Policy>,
        resting: &Resting,
        probe_interval: Duration,
    ) -> Applied {
        // First a guard that knows the old links and the new ones, then the routes, then the guard of the new ones alone.
        let expected = |_: &str| {};
        if let Some(bridge) = policy.bridge(before).map(Arc::new) {
            if let Err(error) = self.apply_guard(&bridge, resting, probe_interval, &expected).await {
                return unguarded(policy, error.to_string());
            }
            self.apply_routes(policy, resting).await;
        }
        match self.apply_guard(policy, resting, probe_interval, &expected).await {
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
        let standing = self.standing().await?;
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

    /// Whether the other end of the WireGuard tunnel `link` has proved itself of late, at `wall` on the wall clock.
    ///
    /// # Errors
    /// When the kernel does not answer, or knows no such link.
    pub async fn is_heard(&self, link: &MadeLink, wall: Duration) -> Result<bool, LinkProblem> {
        let Some(tunnel) = link.wireguard() else { return Ok(false) };
        Ok(forwarder_core::wireguard::is_alive(&wireguard::found(&link.interface).await?, &tunnel.peer, wall))
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

    /// Makes the kernel ask the neighbour `address` on interface `index` now. The answer is an event.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn probe(&self, index: u32, address: IpAddr) -> Result<(), DataplaneError> {
        netlink::probe(&self.handle, index, address).await
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
        let standing = match self.standing().await {
            Ok(standing) => standing,
            Err(error) => return failed(error),
        };
        let wanted = routes(policy, resting, &interfaces);
        let refused = self.put_routes(&wanted, &interfaces, &standing).await;
        // They lead to routes that are there, and away from those that go.
        if let Err(error) = self.apply_rules(policy).await {
            return failed(error);
        }
        if let Err(error) = self.remove_unwanted(&wanted, &standing).await {
            return failed(error);
        }
        if let Err(error) = self.remove_stale(policy, &standing).await {
            return failed(error);
        }
        let mut allowed: BTreeMap<IpNet, BTreeSet<u32>> = BTreeMap::new();
        for route in &wanted {
            allowed.entry(route.prefix).or_default().extend(indexes(route, &interfaces));
        }
        let none = BTreeSet::new();
        let asked = policy.prefixes().iter().filter(|entry| !refused.contains_key(&entry.prefix));
        let leading: Vec<_> = asked
            .map(|entry| {
                let allowed = allowed.get(&entry.prefix).unwrap_or(&none);
                let leads = self.leads_there(policy, entry, allowed, &interfaces);
                async move { (entry.prefix, leads.await) }
            })
            .collect();
        let mut routes: BTreeMap<IpNet, _> = stream::iter(leading).buffer_unordered(AT_A_TIME).collect().await;
        routes.extend(refused.into_iter().map(|(prefix, error)| (prefix, Err(error))));
        Applied { guard: Ok(()), routes }
    }

    /// The rules that lead to a table of our own, and no others of ours.
    async fn apply_rules(&self, policy: &Policy) -> Result<(), DataplaneError> {
        let (wanted, standing) = (policy.rules(), rules::own(&self.handle).await?);
        for rule in wanted.iter().filter(|rule| !standing.iter().any(|own| own.rule == Some(**rule))) {
            rules::put(&self.handle, rule).await?;
            tracing::info!(rule = %rules::describe(rule), "rule added");
        }
        for own in standing.iter().filter(|own| !own.rule.is_some_and(|rule| wanted.contains(&rule))) {
            rules::remove(&self.handle, own).await?;
            tracing::info!(rule = ?own.rule, "rule of an older policy removed");
        }
        Ok(())
    }

    /// Our routes that are there.
    pub(crate) async fn standing(&self) -> Result<Standing, DataplaneError> {
        Ok(Standing::new(netlink::own_routes(&self.handle).await?))
    }

    /// Puts what is not there yet; gives what was refused.
    pub(crate) async fn put_routes(
        &self,
        wanted: &[Route],
        interfaces: &BTreeMap<String, Interface>,
        standing: &Standing,
    ) -> BTreeMap<IpNet, String> {
        let mut refused = BTreeMap::new();
        for route in wanted {
            let indexes = indexes(route, interfaces);
            if standing.has(route, &indexes) {
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
    async fn remove_unwanted(&self, wanted: &[Route], standing: &Standing) -> Result<(), DataplaneError> {
        let has_one: BTreeSet<IpNet> = wanted.iter().map(|route| route.prefix).collect();
        let kept: BTreeSet<(IpNet, u32, u32)> =
            wanted.iter().map(|route| (route.prefix, route.metric, route.table)).collect();
        for own in standing.iter().filter(|own| !own.blackhole && has_one.contains(&own.prefix)) {
            if !kept.contains(&(own.prefix, own.metric, own.table)) {
                netlink::remove_route(&self.handle, own).await?;
                tracing::info!(prefix = %own.prefix, metric = own.metric, "route rests");
            }
        }
        Ok(())
    }

    /// Removes what the policy no longer knows; the new guard stands.
    async fn remove_stale(&self, policy: &Policy, standing: &Standing) -> Result<(), DataplaneError> {
        let wanted: BTreeSet<IpNet> = policy.prefixes().iter().map(|entry| entry.prefix).collect();
        let tables = [MAIN_TABLE, policy.table()];
        let is_stale = |own: &&OwnRoute| !wanted.contains(&own.prefix) || !tables.contains(&own.table);
        let mut stale: Vec<&OwnRoute> = standing.iter().filter(is_stale).collect();
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
        allowed: &BTreeSet<u32>,
        interfaces: &BTreeMap<String, Interface>,
    ) -> Result<(), String> {
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
    pub(crate) async fn links(&self, policy: &Policy) -> Result<BTreeMap<String, Interface>, DataplaneError> {
        let mut interfaces = BTreeMap::new();
        for link in policy.links() {
            interfaces.insert(link.interface.clone(), self.interface(&link.interface).await?);
        }
        Ok(interfaces)
    }
}

pub(crate) fn routes(policy: &Policy, resting: &Resting, interfaces: &BTreeMap<String, Interface>) -> Vec<Route> {
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

fn unguarded(policy: &Policy, broken: String) -> Applied {
    let routes = policy.prefixes().iter().map(|entry| (entry.prefix, Err(format!("not without the guard: {broken}"))));
    Applied { routes: routes.collect(), guard: Err(broken) }
}
