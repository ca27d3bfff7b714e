//! What outlives the process: blackholes, the guard's table, and the meter's. Applied, and read back.
//!
//! To list and compare a large table takes its time, and health waits for every read-back. So the tables are listed whole once,
//! and again when something of them was changed or may have been: the generation of nftables says that nothing was.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use forwarder_core::meter::Use;
use forwarder_core::ruleset::{self, Table};
use forwarder_core::{Policy, Resting, Route, Rule, blackhole_waits};
use ipnet::IpNet;
use tokio::sync::Mutex;

use crate::kernel::{Kernel, routes};
use crate::meter::{self, KernelMeter};
use crate::netlink;
use crate::nft::{self, Counters};
use crate::nftables::Nftables;
use crate::{DataplaneError, rules, sysctl};

/// What of the guard is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardState {
    /// The tables and private prefixes of our blackholes.
    pub blackholes: Vec<(u32, IpNet)>,
    /// The rules that lead to a table of our own.
    pub rules: Vec<Rule>,
    /// The text of the nftables table, when it is there.
    pub table: Option<String>,
    /// The text of the meter's table, when it is there.
    pub meter: Option<String>,
}

/// The tables of this network namespace.
#[derive(Debug)]
pub(crate) struct Guard {
    nftables: Nftables,
    meter: KernelMeter,
    /// The table that was loaded, and what `nft` listed right after it: another release may print it in other words.
    loaded: Mutex<Option<(Table, Table)>>,
    whole: StdMutex<Option<Whole>>,
}

/// Is told of what is not as it should be.
pub(crate) type Missing<'a> = &'a (dyn Fn(&str) + Sync);

/// Guard and meter were found to be those of `policy`.
#[derive(Debug)]
struct Whole {
    policy: Arc<Policy>,
    generation: u32,
}

impl Guard {
    pub(crate) fn open() -> Result<Self, DataplaneError> {
        let nftables = Nftables::open()?;
        Ok(Self { nftables, meter: KernelMeter::default(), loaded: Mutex::default(), whole: StdMutex::default() })
    }

    fn whole(&self) -> MutexGuard<'_, Option<Whole>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tables were found whole, as those of `policy` or of whatever policy, and nobody has changed them since.
    async fn is_whole(&self, policy: Option<&Arc<Policy>>) -> Result<bool, DataplaneError> {
        let now = self.nftables.generation().await?;
        let mut whole = self.whole();
        let of_it = |found: &&mut Whole| policy.is_none_or(|policy| Arc::ptr_eq(&found.policy, policy));
        let Some(found) = whole.as_mut().filter(of_it) else { return Ok(false) };
        let is_whole = self.nftables.is_untouched(found.generation, now);
        if is_whole {
            found.generation = now;
        }
        Ok(is_whole)
    }

    /// Gives what was missing. `missing` is told before it is put back, which takes its time with a large policy.
    async fn apply(&self, policy: &Arc<Policy>, missing: Missing<'_>) -> Result<Vec<String>, DataplaneError> {
        if self.is_whole(Some(policy)).await? {
            return Ok(Vec::new());
        }
        let before = self.nftables.generation().await?;
        let mut repaired = Vec::new();
        // Before the guard, which lets through what is charged behind it.
        let [meter, guard] = [forwarder_core::meter::ruleset::TABLE, ruleset::TABLE];
        let [meter, guard] = [meter, guard].map(|table| format!("table {} {table}", ruleset::FAMILY));
        if self.meter.apply(policy, &self.nftables, &|| missing(&meter)).await? {
            repaired.push(meter.clone());
        }
        let (changed, listed_at) = self.apply_table(policy, &|| missing(&guard)).await?;
        if changed {
            repaired.push(guard.clone());
        }
        // Both were listed in a time in which nobody changed them.
        let since = if repaired.is_empty() { before } else { listed_at };
        let is_listed = repaired.is_empty() || self.meter.is_listed(policy).await?;
        let now = self.nftables.generation().await?;
        let is_whole = is_listed && self.nftables.is_untouched(since, now);
        *self.whole() = is_whole.then(|| Whole { policy: policy.clone(), generation: now });
        Ok(repaired)
    }

    /// Says whether the table had to be changed, and what the generation was before the listing that showed it right.
    async fn apply_table(
        &self,
        policy: &Arc<Policy>,
        missing: &(dyn Fn() + Sync),
    ) -> Result<(bool, u32), DataplaneError> {
        let mut loaded = self.loaded.lock().await;
        let generation = self.nftables.generation().await?;
        let standing = table(&loaded).await?;
        let policy = policy.clone();
        let (wanted, change, text) = aside(move || {
            let wanted = ruleset::table(&policy);
            let is_wanted = standing.as_ref() == Some(&wanted);
            let change = standing.as_ref().filter(|_| !is_wanted).and_then(|standing| standing.update(&wanted));
            let text = (!is_wanted).then(|| (ruleset::load_text(&policy), standing.is_some()));
            (wanted, change, text)
        })
        .await?;
        let Some((text, was_there)) = text else { return Ok((false, generation)) };
        missing();
        if let Some(change) = change {
            match load_all(&change).await {
                Ok(()) => {
                    let generation = self.nftables.generation().await?;
                    let now = nft::list().await?.and_then(|listing| listing.table);
                    if now.as_ref() == Some(&wanted) {
                        tracing::info!("guard changed");
                        *loaded = None;
                        return Ok((true, generation));
                    }
                }
                Err(error) => tracing::warn!(%error, "the guard cannot be changed in place and is loaded anew"),
            }
        }
        nft::load(&text).await?;
        let generation = self.nftables.generation().await?;
        let Some(now) = nft::list().await? else {
            return Err(DataplaneError::Nft("the table is not there when read back".into()));
        };
        tracing::info!(replaced = was_there, "guard loaded");
        if let Some(missing) = ruleset::counters().find(|counter| !now.counters.contains_key(*counter)) {
            return Err(DataplaneError::Nft(format!("counter {missing} is not there when read back")));
        }
        *loaded = now.table.map(|listed| (wanted, listed));
        Ok((true, generation))
    }

    /// Whether both tables are those of `policy` when they are listed whole.
    async fn is_listed(&self, policy: &Arc<Policy>) -> Result<bool, DataplaneError> {
        if !self.meter.is_listed(policy).await? {
            return Ok(false);
        }
        let standing = table(&*self.loaded.lock().await).await?;
        let policy = policy.clone();
        aside(move || standing == Some(ruleset::table(&policy))).await
    }
}

/// The table that is there, in our words; an empty one where it cannot be read.
async fn table(loaded: &Option<(Table, Table)>) -> Result<Option<Table>, DataplaneError> {
    let found = nft::list().await?.map(|listing| listing.table.unwrap_or_default());
    Ok(match (&found, loaded) {
        (Some(found), Some((table, listed))) if found == listed => Some(table.clone()),
        _ => found,
    })
}

/// Does what takes its time with a large policy where nobody waits for the thread.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DataplaneError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| DataplaneError::Nft(error.to_string()))
}

async fn load_all(transactions: &[String]) -> Result<(), DataplaneError> {
    for transaction in transactions {
        nft::load(transaction).await?;
    }
    Ok(())
}

impl Kernel {
    /// Waits until guard or meter were changed by somebody, maybe by us, or may have been.
    pub async fn guard_touched(&self) {
        self.guard.nftables.touched().await;
    }

    /// Lists guard and meter whole, although nothing is known to have been changed. What is not as it should be is put right
    /// by the next [`Kernel::apply`].
    pub async fn look_again(&self, policy: &Arc<Policy>) {
        match self.guard.is_listed(policy).await {
            Ok(true) => {}
            Ok(false) => *self.guard.whole() = None,
            Err(error) => {
                tracing::warn!(%error, "guard and meter cannot be listed");
                *self.guard.whole() = None;
            }
        }
    }

    /// Whether the guard that was found whole last still stands, and all blackholes of `policy`: asked while something else
    /// takes its time.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn still_stands(&self, policy: &Policy) -> Result<bool, DataplaneError> {
        let standing = self.standing().await?;
        Ok(policy.blackholes().iter().all(|route| standing.has(route, &[])) && self.guard.is_whole(None).await?)
    }

    /// The counters of guard and meter; none when there is no guard. What the guard lets through and the meter
    /// drops counts as dropped.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn counters(&self) -> Result<Counters, DataplaneError> {
        let mut counters = self.guard.nftables.counters(ruleset::TABLE).await?;
        counters.extend(self.guard.meter.counters(&self.guard.nftables).await?);
        Ok(counters)
    }

    /// What each source and private prefix has used, where the kernel counts it.
    ///
    /// # Errors
    /// When `nft` fails.
    pub async fn uses(&self, policy: &Policy) -> Result<Vec<Use>, DataplaneError> {
        self.guard.meter.uses(policy).await
    }

    /// What of the guard is in the kernel.
    ///
    /// # Errors
    /// When the kernel or `nft` does not answer.
    pub async fn guard(&self) -> Result<GuardState, DataplaneError> {
        let standing = self.standing().await?;
        let blackholes =
            standing.iter().filter(|route| route.blackhole).map(|route| (route.table, route.prefix)).collect();
        let rules = rules::own(&self.handle).await?.iter().filter_map(|own| own.rule).collect();
        let table = nft::list().await?.map(|listing| listing.text);
        Ok(GuardState { blackholes, rules, table, meter: meter::list().await?.map(|listing| listing.text) })
    }

    /// Removes routes, blackholes and table: from now on the private prefixes follow the default route.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses.
    pub async fn remove_guard(&self) -> Result<(), DataplaneError> {
        self.remove_routes().await?;
        for rule in rules::own(&self.handle).await? {
            rules::remove(&self.handle, &rule).await?;
        }
        for route in self.standing().await?.iter() {
            netlink::remove_route(&self.handle, route).await?;
        }
        meter::remove().await?;
        nft::remove().await
    }

    /// Gives what was missing.
    pub(crate) async fn apply_guard(
        &self,
        policy: &Arc<Policy>,
        resting: &Resting,
        probe_interval: Duration,
        missing: Missing<'_>,
    ) -> Result<Vec<String>, DataplaneError> {
        let mut repaired = Vec::new();
        let wanted = policy.blackholes();
        let standing = self.standing().await?;
        let carrying = standing.iter().filter(|own| !own.blackhole).map(|own| own.prefix).collect();
        let (late, early): (Vec<&Route>, Vec<&Route>) = wanted
            .iter()
            .filter(|route| !standing.has(route, &[]))
            .partition(|route| blackhole_waits(route.prefix, &carrying));
        for route in early {
            netlink::put_route(&self.handle, route, &[]).await?;
            tracing::info!(route = %netlink::describe(route), "blackhole added");
            repaired.push(netlink::describe(route));
        }
        // Before the guard that wants it, and after the last that did.
        if policy.is_only_attended()
            && let Some(table) = self.attendance.begin().await?
        {
            let table = format!("table {} {table}", ruleset::FAMILY);
            missing(&table);
            repaired.push(table);
        }
        repaired.extend(self.guard.apply(policy, missing).await?);
        if !policy.is_only_attended() {
            self.attendance.end().await;
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
        if repaired.is_empty() {
            return Ok(repaired);
        }
        let found = self.standing().await?;
        if let Some(route) = wanted.iter().find(|route| !found.has(route, &[])) {
            let what = netlink::describe(route);
            return Err(DataplaneError::Netlink { what, why: "not there when read back".into() });
        }
        Ok(repaired)
    }
}
