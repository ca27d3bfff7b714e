//! The accounts of the meter (`bpf/meter.h`): what each source and private prefix has used, pinned apart from programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{TestRun as _, TestRunOptions};
use cloakway_types::Instant;
use forwarder_core::fast::{Metered, Table};
use forwarder_core::meter::{Account, Limit, MOST_PREFIXES, Use, full, longest};
use ipnet::IpNet;

use super::object::{absent, map};
use super::{FastPath, FastPathError, refused};

/// The maps with accounts, and which private prefix has which.
pub(super) const ACCOUNTS: [&str; 3] = ["sources", "prefixes", SLOTS];
const SLOTS: &str = "slots";

/// Of the layouts in `meter.h`: accounts of another one are not taken over.
const LAYOUT: u32 = 2;
/// `struct limit`.
pub(super) const LIMIT: usize = 80;
/// `struct account`.
const ACCOUNT: usize = 64;
/// Of an account that is being forgotten, its packets are this and more.
const GONE: u64 = 1 << 63;
/// The beginning of a period that has not begun.
const NEVER: u64 = u64::MAX;
/// Keys that the program sweeps at once.
const SWEPT_AT_ONCE: usize = 64;

/// How large the maps are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) limits: u32,
    pub(super) sources: u32,
    pub(super) prefixes: u32,
}

/// Where nothing is charged.
impl Default for Sizes {
    fn default() -> Self {
        Self { limits: 1, sources: 1, prefixes: 1 }
    }
}

impl Sizes {
    pub(super) fn of(metered: &Metered) -> Self {
        let limits = u32::try_from(metered.prefixes.len() + 1).unwrap_or(u32::MAX);
        let sources = if metered.source.is_none() { 1 } else { metered.sources };
        // One size for every policy, so that the use of a prefix outlives a change.
        let prefixes = if metered.prefixes.is_empty() { 1 } else { u32::try_from(MOST_PREFIXES).unwrap_or(u32::MAX) };
        Self { limits, sources, prefixes }
    }

    /// The name of the pin: a map of another size is another map.
    pub(super) fn pin(self, map: &str) -> String {
        format!("{map}-{LAYOUT}-{}", if map == "sources" { self.sources } else { self.prefixes })
    }
}

/// The pins that a table has.
pub(super) fn pins(table: &Table) -> Vec<String> {
    table.metered.iter().flat_map(|metered| ACCOUNTS.map(|map| Sizes::of(metered).pin(map))).collect()
}

/// The bits of an IPv6 address that are its source, as the program has them beside it in memory.
pub(super) fn v6_bits(length: u8) -> [u64; 2] {
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0).to_be_bytes();
    let (words, _) = mask.as_chunks::<8>();
    let word = |at: usize| words.get(at).copied().map_or(0, u64::from_ne_bytes);
    [word(0), word(1)]
}

/// The key of a source or private prefix: its first address, IPv4 as mapped into IPv6.
pub(super) fn key_of(prefix: IpNet) -> [u8; 16] {
    match prefix.network() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn prefix_of(key: [u8; 16], v6_length: u8) -> Option<IpNet> {
    let address = IpAddr::from(Ipv6Addr::from(key)).to_canonical();
    IpNet::new(address, if address.is_ipv4() { 32 } else { v6_length }).ok()
}

/// `struct limit`; private prefixes have a slot.
pub(super) fn encoded_limit(limit: &Limit, slot: u32) -> [u8; LIMIT] {
    let [packets, bytes] = [limit.packets, limit.bytes]
        .map(|rate| rate.map_or([0; 3], |rate| [rate.per_second, full(rate).cast_unsigned(), longest(rate)]));
    let quota = limit.quota.map_or([0; 3], |quota| {
        let period = u64::try_from(quota.period.as_nanos()).unwrap_or(u64::MAX);
        [quota.packets.unwrap_or(u64::MAX), quota.bytes.unwrap_or(u64::MAX), period]
    });
    encoded([packets, bytes, quota].into_iter().flatten().chain([slot.into()]))
}

fn encoded<const LENGTH: usize>(words: impl Iterator<Item = u64>) -> [u8; LENGTH] {
    let mut value = [0; LENGTH];
    value.iter_mut().zip(words.flat_map(u64::to_ne_bytes)).for_each(|(octet, part)| *octet = part);
    value
}

/// The `struct account` of a private prefix that has used nothing.
fn unused(limit: &Limit) -> [u8; ACCOUNT] {
    let tokens = [limit.packets, limit.bytes].map(|rate| rate.map_or(0, |rate| full(rate).cast_unsigned()));
    encoded([0, tokens[0], tokens[1], 0, NEVER].into_iter())
}

/// `struct account`: whose it is, then what was used. `None` for one that is being forgotten.
fn decoded(value: &[u8; ACCOUNT]) -> Option<Account> {
    let (words, _) = value.as_chunks::<8>();
    let word = |at: usize| words.get(at).copied().map_or(0, u64::from_ne_bytes);
    let at = |word| Instant::after_origin(Duration::from_nanos(word));
    let account = Account {
        packet_tokens: word(1).cast_signed(),
        byte_tokens: word(2).cast_signed(),
        filled: at(word(3)),
        started: at(word(4)),
        packets: word(5),
        bytes: word(6),
        refused: word(7),
    };
    (account.packets < GONE).then_some(account)
}

/// The slots of the private prefixes with limits, in their order: those that they have, and free ones for the others.
pub(super) fn slots(ebpf: &mut Ebpf, metered: &Metered) -> Result<Vec<u32>, FastPathError> {
    let mut taken = {
        let slots: HashMap<_, [u8; 16], u32> = map(ebpf, SLOTS)?;
        slots.iter().collect::<Result<BTreeMap<_, _>, _>>().map_err(refused("read the slots"))?
    };
    let fresh: Vec<_> = metered.prefixes.iter().filter(|(prefix, _)| !taken.contains_key(&key_of(*prefix))).collect();
    if taken.len() + fresh.len() > MOST_PREFIXES {
        let mut slots: HashMap<_, [u8; 16], u32> = map(ebpf, SLOTS)?;
        let kept: BTreeSet<_> = metered.prefixes.iter().map(|(prefix, _)| key_of(*prefix)).collect();
        for stale in taken.keys().filter(|key| !kept.contains(*key)) {
            slots.remove(stale).map_err(refused("forget a private prefix"))?;
        }
        taken.retain(|key, _| kept.contains(key));
    }
    let used: BTreeSet<u32> = taken.values().copied().collect();
    let mut free = (0..).filter(|slot| !used.contains(slot));
    for (prefix, limit) in fresh {
        let Some(slot) = free.next() else { break };
        let mut prefixes: Array<_, [u8; ACCOUNT]> = map(ebpf, "prefixes")?;
        prefixes.set(slot, unused(limit), 0).map_err(refused("fill prefixes"))?;
        let mut slots: HashMap<_, [u8; 16], u32> = map(ebpf, SLOTS)?;
        slots.insert(key_of(*prefix), slot, 0).map_err(refused("fill slots"))?;
        taken.insert(key_of(*prefix), slot);
    }
    let slot = |(prefix, _): &(IpNet, Limit)| taken.get(&key_of(*prefix)).copied();
    metered.prefixes.iter().map(|entry| slot(entry).ok_or_else(|| absent(SLOTS))).collect()
}

type Sources = HashMap<MapData, [u8; 16], [u8; ACCOUNT]>;

fn open<M>(directory: &Path, pin: &str, kind: impl FnOnce(MapData) -> Map) -> Result<M, FastPathError>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error,
{
    let what = || format!("open {}", directory.join(pin).display());
    let data = MapData::from_pin(directory.join(pin)).map_err(refused(what()))?;
    M::try_from(kind(data)).map_err(refused(what()))
}

/// Every account that is there for the whole of the walk, and those of the others that it meets.
fn all(sources: &Sources) -> impl Iterator<Item = ([u8; 16], Account)> {
    sources.iter().filter_map(Result::ok).filter_map(|(key, value)| Some((key, decoded(&value)?)))
}

impl FastPath {
    /// What each source and private prefix has used, and has left; of those that were charged at all.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn uses(&mut self) -> Result<Vec<Use>, FastPathError> {
        let now = self.sweep_keys(&[])?;
        let Some((metered, sizes)) = self.metered() else { return Ok(Vec::new()) };
        let directory = self.pins.directory();
        let mut uses = Vec::new();
        let told = |who, account: Account, limit: &Limit, is_private| Use {
            who,
            is_private,
            packets: Some(account.packets),
            bytes: Some(account.bytes),
            refused: Some(account.refused),
            left: account.left(limit, now),
        };
        for (key, account) in all(&open(directory, &sizes.pin("sources"), Map::HashMap)?) {
            let Some(who) = prefix_of(key, metered.v6_source) else { continue };
            uses.push(told(who, account, &metered.source, false));
        }
        let slots: HashMap<_, [u8; 16], u32> = open(directory, &sizes.pin(SLOTS), Map::HashMap)?;
        let prefixes: Array<_, [u8; ACCOUNT]> = open(directory, &sizes.pin("prefixes"), Map::Array)?;
        for (who, limit) in &metered.prefixes {
            let Ok(slot) = slots.get(&key_of(*who), 0) else { continue };
            let value = prefixes.get(&slot, 0).map_err(refused("read a private prefix"))?;
            let account = decoded(&value).filter(|account| account.filled > Instant::ORIGIN);
            uses.extend(account.map(|account| told(*who, account, limit, true)));
        }
        Ok(uses)
    }

    /// Forgets the sources that are as good as new, and says how many are left.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn sweep(&mut self) -> Result<usize, FastPathError> {
        let now = self.sweep_keys(&[])?;
        let Some((metered, sizes)) = self.metered() else { return Ok(0) };
        let (mut idle, mut busy) = (Vec::new(), 0);
        for (key, account) in all(&open(self.pins.directory(), &sizes.pin("sources"), Map::HashMap)?) {
            if account.is_idle(&metered.source, now) {
                idle.push(key);
            } else {
                busy += 1;
            }
        }
        // Of private prefixes that the policy no longer has.
        let mut slots: HashMap<_, [u8; 16], u32> = open(self.pins.directory(), &sizes.pin(SLOTS), Map::HashMap)?;
        let known: BTreeSet<_> = metered.prefixes.iter().map(|(prefix, _)| key_of(*prefix)).collect();
        let stale: Vec<_> = slots.keys().filter_map(Result::ok).filter(|key| !known.contains(key)).collect();
        for key in stale {
            slots.remove(&key).map_err(refused("forget a private prefix"))?;
        }
        // The program looks again, and lets nobody charge them meanwhile.
        for keys in idle.chunks(SWEPT_AT_ONCE) {
            self.sweep_keys(keys)?;
        }
        Ok(busy)
    }

    fn metered(&self) -> Option<(&Metered, Sizes)> {
        let metered = self.now.as_ref()?.table.metered.as_ref()?;
        Some((metered, Sizes::of(metered)))
    }

    /// Lets the program sweep these, and gives its time.
    fn sweep_keys(&mut self, keys: &[[u8; 16]]) -> Result<Instant, FastPathError> {
        let Some(now) = self.now.as_mut().filter(|now| now.table.metered.is_some()) else { return Ok(Instant::ORIGIN) };
        let frame: Vec<u8> = [0; 16].into_iter().chain(keys.iter().flatten().copied()).collect();
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        now.object.sweep()?.test_run(options).map_err(refused("sweep"))?;
        let nanos = now.object.clock()?.get(&0, 0).map_err(refused("read the clock"))?;
        Ok(Instant::after_origin(Duration::from_nanos(nanos)))
    }
}
