//! The meter in nftables: its table applied and read back, and what its sets have counted.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forwarder_core::Policy;
use forwarder_core::meter::{Left, Limit, Metering, Quota, Use, ruleset};
use forwarder_core::ruleset::FAMILY;
use ipnet::IpNet;
use tokio::sync::Mutex;

use crate::DataplaneError;
use crate::guard::aside;
use crate::nft::{self, Counters, Listing};
use crate::nftables::Nftables;

/// The meter of this network namespace.
#[derive(Debug, Default)]
pub(crate) struct KernelMeter {
    /// What was loaded, and what `nft` listed right after: another release may print it in other words than we do.
    loaded: Mutex<Option<(String, String)>>,
    counts: AtomicBool,
    answers: AtomicBool,
    /// Nothing is wanted, and nothing is there.
    gone: AtomicBool,
}

/// The table without what it has counted, and without the elements of its sets, of which there may be very many.
pub(crate) async fn list() -> Result<Option<Listing>, DataplaneError> {
    nft::list_with(&["-t", "-s", "list", "table", FAMILY, ruleset::TABLE]).await
}

/// Removes the table, whether or not there is one.
pub(crate) async fn remove() -> Result<(), DataplaneError> {
    let table = ruleset::TABLE;
    nft::load(&format!("table {FAMILY} {table}\ndelete table {FAMILY} {table}\n")).await
}

impl KernelMeter {
    /// Says whether the table had to be loaded. One that is right stays, with all that it has counted.
    /// `missing` is called before one that is not right is.
    pub(crate) async fn apply(
        &self,
        policy: &Arc<Policy>,
        nftables: &Nftables,
        missing: &(dyn Fn() + Sync),
    ) -> Result<bool, DataplaneError> {
        let counts = policy.metering() == Metering::Kernel;
        self.answers.store(policy.limits().answers, Ordering::Relaxed);
        if !counts && self.gone.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut loaded = self.loaded.lock().await;
        let found = list().await?.map(|listing| listing.text).unwrap_or_default();
        let compared = compare(found.clone(), policy, loaded.clone()).await?;
        if compared.is_wanted {
            self.counts.store(counts, Ordering::Relaxed);
            self.gone.store(!counts, Ordering::Relaxed);
            return Ok(false);
        }
        missing();
        if let Some(change) = compared.change {
            match nft::load(&change).await {
                Ok(()) => {
                    let now = list().await?.map(|listing| listing.text).unwrap_or_default();
                    if compare(now, policy, None).await?.is_wanted {
                        tracing::info!("meter changed");
                        self.counts.store(true, Ordering::Relaxed);
                        return Ok(true);
                    }
                }
                Err(error) => tracing::warn!(%error, "the meter cannot be changed in place and begins anew"),
            }
        }
        nft::load(&ruleset::load_text(policy)).await?;
        self.gone.store(!counts, Ordering::Relaxed);
        self.counts.store(counts, Ordering::Relaxed);
        if !counts {
            tracing::info!("meter removed");
            return Ok(true);
        }
        let now = list().await?.ok_or_else(|| DataplaneError::Nft("the meter is not there when read back".into()))?;
        let counters = nftables.counters(ruleset::TABLE).await?;
        if let Some(missing) = ruleset::counters().find(|counter| !counters.contains_key(*counter)) {
            return Err(DataplaneError::Nft(format!("counter {missing} of the meter is not there when read back")));
        }
        tracing::info!(replaced = !found.is_empty(), "meter loaded");
        *loaded = Some((compared.wanted, now.text));
        Ok(true)
    }

    /// Whether the table is that of `policy` when it is listed.
    pub(crate) async fn is_listed(&self, policy: &Arc<Policy>) -> Result<bool, DataplaneError> {
        let loaded = self.loaded.lock().await.clone();
        let found = list().await?.map(|listing| listing.text).unwrap_or_default();
        Ok(compare(found, policy, loaded).await?.is_wanted)
    }

    /// What passed it, in the place of what the guard let through, and what it dropped.
    pub(crate) async fn counters(&self, nftables: &Nftables) -> Result<Counters, DataplaneError> {
        if !self.counts.load(Ordering::Relaxed) {
            return Ok(Counters::new());
        }
        let mut counters = nftables.counters(ruleset::TABLE).await?;
        if !self.answers.load(Ordering::Relaxed) {
            // The guard is the last that sees them.
            counters.remove(forwarder_core::ruleset::FROM_PRIVATE);
        }
        Ok(counters)
    }

    pub(crate) async fn uses(&self, policy: &Policy) -> Result<Vec<Use>, DataplaneError> {
        if !self.counts.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let limits = policy.limits();
        let mut uses = Vec::new();
        for v4 in [true, false] {
            let Some(set) = ruleset::source_set(limits, v4) else { continue };
            let length = if v4 { 32 } else { limits.v6_source };
            uses.extend(elements(&set_text(&set).await?, length, limits.per_source, false));
        }
        for (set, length, limit) in ruleset::prefix_sets(policy) {
            uses.extend(elements(&set_text(&set).await?, length, limit, true));
        }
        Ok(uses)
    }
}

/// A listing beside what is wanted.
struct Compared {
    wanted: String,
    is_wanted: bool,
    /// What makes it so with the budgets kept, where that can be.
    change: Option<String>,
}

async fn compare(
    found: String,
    policy: &Arc<Policy>,
    loaded: Option<(String, String)>,
) -> Result<Compared, DataplaneError> {
    let policy = policy.clone();
    let work = move || {
        let wanted = ruleset::render(&policy).unwrap_or_default();
        let same = |(text, listed): &(String, String)| *text == wanted && *listed == found;
        let is_wanted = found.split_whitespace().eq(wanted.split_whitespace()) || loaded.as_ref().is_some_and(same);
        let change = if is_wanted { None } else { ruleset::change_text(&found, &policy) };
        Compared { wanted, is_wanted, change }
    };
    aside(work).await
}

async fn set_text(set: &str) -> Result<String, DataplaneError> {
    nft::run(&["list", "set", FAMILY, ruleset::TABLE, set], None).await
}

/// The elements of a listed set: `198.51.100.70 quota 10 mbytes used 84 bytes counter packets 3 bytes 84 expires 59s, …`.
fn elements(text: &str, length: u8, limit: Limit, is_private: bool) -> Vec<Use> {
    let list = text.split_once("elements = {").map_or("", |(_, list)| list);
    let list = list.split_once('}').map_or("", |(list, _)| list);
    list.split(',').filter_map(|element| one(element, length, limit, is_private)).collect()
}

fn one(element: &str, length: u8, limit: Limit, is_private: bool) -> Option<Use> {
    let words: Vec<&str> = element.split_whitespace().collect();
    let (address, words) = words.split_first()?;
    let who = IpNet::new(address.parse::<IpAddr>().ok()?, length).ok()?;
    let behind = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1..));
    let used = behind("used").and_then(|rest| match rest {
        [number, unit, ..] => bytes(number, unit),
        _ => None,
    });
    let counted = behind("counter").and_then(|rest| match rest {
        ["packets", packets, "bytes", bytes, ..] => Some((packets.parse().ok()?, bytes.parse().ok()?)),
        _ => None,
    });
    let (packets, in_bytes): (Option<u64>, Option<u64>) = counted.unzip();
    let Quota { packets: most_packets, bytes: most_bytes, .. } =
        limit.quota.unwrap_or(Quota { packets: None, bytes: None, period: std::time::Duration::ZERO });
    // The kernel goes on counting what it refuses; used up is used up.
    let used = match (used, most_bytes) {
        (Some(used), Some(most)) => Some(used.min(most)),
        (None, Some(_)) => Some(0),
        (_, None) => None,
    };
    let left = Left {
        quota_packets: most_packets.zip(packets).map(|(most, packets)| most.saturating_sub(packets)),
        quota_bytes: most_bytes.zip(used).map(|(most, used)| most.saturating_sub(used)),
        ..Left::default()
    };
    Some(Use { who, is_private, packets, bytes: in_bytes.or(used), refused: None, left })
}

/// As `nft` prints a number of bytes.
fn bytes(number: &str, unit: &str) -> Option<u64> {
    let number: u64 = number.parse().ok()?;
    let shift = match unit {
        "bytes" => 0,
        "kbytes" => 10,
        "mbytes" => 20,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_lists_is_read() {
        let quota = |packets, bytes| Limit { quota: Quota::new(packets, bytes, Some(60)).unwrap(), ..Limit::default() };
        let text = "table inet cloakway-meter {\n\tset source-quota4 {\n\t\ttype ipv4_addr\n\t\tsize 2\n\
                    \t\tflags dynamic,timeout\n\t\ttimeout 1m\n\t\telements = { 198.51.100.70 quota 10 kbytes used 2 kbytes \
                    counter packets 2 bytes 2048 expires 59s996ms,\n\t\t\t     198.51.100.71 quota 10 kbytes used 11 kbytes \
                    counter packets 9 bytes 9999 expires 1s }\n\t}\n}\n";
        let uses = elements(text, 32, quota(None, Some(10_240)), false);
        let left: Vec<_> =
            uses.iter().map(|found| (found.who.to_string(), found.packets, found.left.quota_bytes)).collect();
        assert_eq!(
            left,
            [("198.51.100.70/32".to_owned(), Some(2), Some(8192)), ("198.51.100.71/32".to_owned(), Some(9), Some(0))]
        );
        let text = "elements = { 2001:db8:5100:64:: limit rate 6/week burst 100 packets counter packets 7 bytes 700 }";
        let uses = elements(text, 64, quota(Some(100), None), true);
        assert_eq!(uses.len(), 1);
        assert_eq!((uses[0].who.to_string().as_str(), uses[0].bytes), ("2001:db8:5100:64::/64", Some(700)));
        assert_eq!(uses[0].left, Left { quota_packets: Some(93), ..Left::default() });
        assert!(elements("set x { type ipv4_addr }", 32, Limit::default(), false).is_empty());
    }
}
