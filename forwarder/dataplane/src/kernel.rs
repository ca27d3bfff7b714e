//! The policy applied to the kernel, and read back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forwarder_core::fast::Host;
use forwarder_core::{Applied, LinkState, Policy, Route, Target, ruleset, user};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::sync::Mutex;

use crate::netlink::{self, Effective, OwnRoute};
use crate::nft::{self, Counters};
use crate::user::UserPlane;
use crate::{DataplaneError, sysctl};

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
}

/// The kernel of this network namespace.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    /// What `nft` listed right after it loaded our table: another release may print it in other words than we do.
    loaded: Mutex<Option<String>>,
    rounded: Mutex<sysctl::Rounded>,
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
        Ok(Self { handle, loaded: Mutex::new(None), rounded: Mutex::default(), stood: AtomicBool::new(false) })
    }

    /// Puts in place what is missing and reads it back: settings, guard, and only then the real routes.
    /// What cannot be done is in the answer. A guard that stood and had to be put back counts as broken
    /// in that answer: nobody knows what passed meanwhile.
    pub async fn apply(&self, policy: &Policy, probe_interval: Duration) -> Applied {
        let guard = match self.apply_guard(policy, probe_interval).await {
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
        if let Err(broken) = &guard {
            let routes =
                policy.prefixes().iter().map(|entry| (entry.prefix, Err(format!("not without the guard: {broken}"))));
            return Applied { routes: routes.collect(), guard };
        }
        let mut routes = BTreeMap::new();
        match netlink::own_routes(&self.handle).await {
            Ok(found) => {
                for route in policy.routes() {
                    let done = self.apply_route(&route, policy, &found).await;
                    routes.insert(route.prefix, done);
                }
            }
            Err(error) => {
                routes = policy.prefixes().iter().map(|entry| (entry.prefix, Err(error.to_string()))).collect();
            }
        }
        Applied { guard, routes }
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

    /// The guard's counters; none when there is no guard.
    ///
    /// # Errors
    /// When `nft` fails.
    pub async fn counters(&self) -> Result<Counters, DataplaneError> {
        Ok(nft::list().await?.map(|listing| listing.counters).unwrap_or_default())
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
        Ok(GuardState { blackholes, table: nft::list().await?.map(|listing| listing.text) })
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
        nft::remove().await
    }

    /// Gives what was missing.
    async fn apply_guard(&self, policy: &Policy, probe_interval: Duration) -> Result<Vec<String>, DataplaneError> {
        let mut repaired = Vec::new();
        let wanted = policy.blackholes();
        let found = netlink::own_routes(&self.handle).await?;
        let missing = |found: &[OwnRoute], route: &Route| !found.iter().any(|own| own.is(route, None));
        for route in wanted.iter().filter(|route| missing(&found, route)) {
            netlink::put_route(&self.handle, route, None).await?;
            tracing::info!(route = %netlink::describe(route), "blackhole added");
            repaired.push(netlink::describe(route));
        }
        if self.apply_table(policy).await? {
            repaired.push(format!("table {} {}", ruleset::FAMILY, ruleset::TABLE));
        }
        sysctl::apply(&policy.settings(probe_interval), &mut *self.rounded.lock().await)?;

        let found = netlink::own_routes(&self.handle).await?;
        if let Some(route) = wanted.iter().find(|route| missing(&found, route)) {
            let what = netlink::describe(route);
            return Err(DataplaneError::Netlink { what, why: "not there when read back".into() });
        }
        // The policy no longer knows these; the new guard stands.
        let stale = |own: &&OwnRoute| !policy.prefixes().iter().any(|entry| entry.prefix == own.prefix);
        for route in found.iter().filter(stale) {
            netlink::remove_route(&self.handle, route).await?;
            tracing::info!(prefix = %route.prefix, "route of an older policy removed");
        }
        Ok(repaired)
    }

    /// Says whether the table had to be loaded.
    async fn apply_table(&self, policy: &Policy) -> Result<bool, DataplaneError> {
        let mut loaded = self.loaded.lock().await;
        let found = nft::list().await?;
        if found
            .as_ref()
            .is_some_and(|listing| ruleset::is_wanted(&listing.text, policy) || loaded.as_ref() == Some(&listing.text))
        {
            return Ok(false);
        }
        nft::load(&ruleset::load_text(policy)).await?;
        let Some(now) = nft::list().await? else {
            return Err(DataplaneError::Nft("the table is not there when read back".into()));
        };
        tracing::info!(replaced = found.is_some(), "guard loaded");
        if let Some(missing) = ruleset::counters().find(|counter| !now.counters.contains_key(*counter)) {
            return Err(DataplaneError::Nft(format!("counter {missing} is not there when read back")));
        }
        *loaded = Some(now.text);
        Ok(true)
    }

    async fn apply_route(&self, route: &Route, policy: &Policy, found: &[OwnRoute]) -> Result<(), String> {
        let Target::Link { interface: name, .. } = &route.target else { return Ok(()) };
        let interface = self.interface(name).await.map_err(|error| error.to_string())?;
        match interface.state {
            LinkState::Missing => return Err(format!("there is no interface {name}")),
            LinkState::Down => return Err(format!("{name} is down")),
            LinkState::Up => {}
        }
        if !found.iter().any(|own| own.is(route, Some(interface.index))) {
            netlink::put_route(&self.handle, route, Some(interface.index)).await.map_err(|error| error.to_string())?;
            tracing::info!(route = %netlink::describe(route), "route added");
        }
        let probe = policy.prefixes().iter().find(|entry| entry.prefix == route.prefix && entry.next_hop.is_none());
        let address = probe.map_or(route.prefix.addr(), |entry| entry.probe);
        match netlink::effective(&self.handle, address).await {
            Ok(Effective::Out(index)) if index == interface.index => Ok(()),
            Ok(Effective::Out(index)) => Err(format!("the kernel sends {address} out by interface {index}")),
            Ok(Effective::Nowhere) => Err(format!("the kernel drops {address}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
