//! Who may ask, about what, and how often (F9).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cloakway_crypto::encode::unhex;
use cloakway_crypto::{ct_eq, hash};
use cloakway_runtime::config::Invalid;
use cloakway_types::{Instant, PrefixMap};
use ipnet::IpNet;
use serde::Deserialize;

use crate::config::{name, some};

/// Who may ask for verifications.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name in the audit log.
    pub name: String,
    /// SHA-256 of the bearer key.
    pub key_sha256: [u8; 32],
    /// The addresses that they may ask about; without, all.
    pub prefixes: Option<PrefixMap<()>>,
    /// What they may ask.
    pub may: BTreeSet<Kind>,
    /// How often.
    pub rate: Rate,
}

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Is this subscriber at this address?
    Verify,
    /// The same, and the equipment is asked now.
    Probe,
    /// What changes, as it changes?
    Changes,
    /// With it: whose is what changes?
    Names,
}

/// Requests that a caller may make: so many in each second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In each second.
    pub per_s: u32,
    /// At once.
    pub burst: u32,
}

impl Caller {
    /// Whether they may ask about `address`.
    #[must_use]
    pub fn may_ask_about(&self, address: IpAddr) -> bool {
        self.prefixes.as_ref().is_none_or(|prefixes| prefixes.lookup(address.to_canonical()).is_some())
    }
}

/// A caller as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Raw {
    name: String,
    key_sha256: String,
    prefixes: Option<Vec<IpNet>>,
    #[serde(default = "verify")]
    may: Vec<Kind>,
    #[serde(default = "thousand")]
    rate_per_s: u32,
    burst: Option<u32>,
}

fn verify() -> Vec<Kind> {
    vec![Kind::Verify]
}

const fn thousand() -> u32 {
    1000
}

/// The callers of the configuration.
pub(crate) fn validate(raw: Vec<Raw>) -> Result<Vec<Caller>, Invalid> {
    const MOST: u32 = 1_000_000;
    some(&raw, "callers", "a [[callers]] table for who may ask")?;
    let mut names = BTreeSet::new();
    let mut callers: Vec<Caller> = Vec::new();
    for (index, caller) in raw.into_iter().enumerate() {
        let field = |key: &str| format!("callers[{index}].{key}");
        name(&field("name"), &caller.name, &mut names)?;
        let digest = unhex(&caller.key_sha256).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let Some(key_sha256) = digest else {
            let right = "64 hexadecimal digits are expected: printf %s KEY | sha256sum";
            return Err(Invalid::at(field("key-sha256"), right));
        };
        if let Some(other) = callers.iter().find(|other| other.key_sha256 == key_sha256) {
            let reason = format!("caller {} has the same key: give each its own", other.name);
            return Err(Invalid::at(field("key-sha256"), reason));
        }
        if let Some(prefixes) = &caller.prefixes {
            some(prefixes, &field("prefixes"), "the prefixes that the caller may ask about, or leave it out for all")?;
        }
        some(&caller.may, &field("may"), "what the caller may ask: \"verify\"")?;
        if caller.may.contains(&Kind::Names) && !caller.may.contains(&Kind::Changes) {
            return Err(Invalid::at(field("may"), "\"names\" are those of \"changes\": give both"));
        }
        if !(1..=MOST).contains(&caller.rate_per_s) {
            let reason = format!("{} is not allowed: 1 to {MOST}", caller.rate_per_s);
            return Err(Invalid::at(field("rate-per-s"), reason));
        }
        let burst = caller.burst.unwrap_or(caller.rate_per_s);
        if !(1..=MOST).contains(&burst) {
            return Err(Invalid::at(field("burst"), format!("{burst} is not allowed: 1 to {MOST}")));
        }
        callers.push(Caller {
            name: caller.name,
            key_sha256,
            prefixes: caller.prefixes.map(|prefixes| prefixes.into_iter().map(|prefix| (prefix, ())).collect()),
            may: caller.may.into_iter().collect(),
            rate: Rate { per_s: caller.rate_per_s, burst },
        });
    }
    Ok(callers)
}

/// All callers, and what each has left.
#[derive(Debug)]
pub(crate) struct Callers {
    callers: Vec<Caller>,
    left: BTreeMap<String, Mutex<Left>>,
}

/// What is left of a burst.
#[derive(Debug)]
struct Left {
    requests: f64,
    at: Instant,
}

impl Callers {
    pub(crate) fn new(callers: Vec<Caller>, now: Instant) -> Self {
        let left = |caller: &Caller| Mutex::new(Left { requests: f64::from(caller.rate.burst), at: now });
        let left = callers.iter().map(|caller| (caller.name.clone(), left(caller))).collect();
        Self { callers, left }
    }

    /// Who has this key. Compares with every one, so that the time tells nothing.
    pub(crate) fn by_key(&self, key: &[u8]) -> Option<&Caller> {
        let digest = hash::sha256(&[key]);
        let mut found = None;
        for caller in &self.callers {
            if ct_eq(&caller.key_sha256, &digest) {
                found = Some(caller);
            }
        }
        found
    }

    /// Takes one request from what `caller` has left; how long to wait, when nothing is.
    pub(crate) fn take(&self, caller: &Caller, now: Instant) -> Result<(), Duration> {
        self.take_some(caller, 1.0, now)
    }

    /// Takes so many requests at once, or none.
    pub(crate) fn take_some(&self, caller: &Caller, count: f64, now: Instant) -> Result<(), Duration> {
        let Some(left) = self.left.get(&caller.name) else { return Ok(()) };
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let Rate { per_s, burst } = caller.rate;
        let back = now.since(left.at).as_secs_f64() * f64::from(per_s);
        left.requests = (left.requests + back).min(f64::from(burst));
        left.at = left.at.max(now);
        if left.requests < count {
            return Err(Duration::from_secs_f64((count - left.requests) / f64::from(per_s)));
        }
        left.requests -= count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(prefixes: Option<&str>) -> Caller {
        Caller {
            name: "shop".into(),
            key_sha256: hash::sha256(&[b"key"]),
            prefixes: prefixes.map(|prefix| [(prefix.parse().unwrap(), ())].into_iter().collect()),
            may: [Kind::Verify].into(),
            rate: Rate { per_s: 2, burst: 3 },
        }
    }

    #[test]
    fn a_burst_and_then_so_many_in_each_second() {
        let at = |ms| Instant::after_origin(Duration::from_millis(ms));
        let callers = Callers::new(vec![caller(None)], at(0));
        let shop = callers.by_key(b"key").unwrap();
        assert!(callers.by_key(b"other").is_none());
        for _ in 0..3 {
            assert_eq!(callers.take(shop, at(0)), Ok(()));
        }
        assert_eq!(callers.take(shop, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(callers.take(shop, at(499)).map_err(|wait| wait.as_millis()), Err(1));
        assert_eq!(callers.take(shop, at(500)), Ok(()));
        assert!(callers.take(shop, at(500)).is_err());
        for _ in 0..3 {
            assert_eq!(callers.take(shop, at(60_000)), Ok(()));
        }
        assert!(callers.take(shop, at(60_000)).is_err(), "no more than the burst, however long the rest");
    }

    #[test]
    fn a_caller_may_ask_about_its_prefixes_alone() {
        let address = |text: &str| text.parse().unwrap();
        assert!(caller(None).may_ask_about(address("192.0.2.1")));
        let some = caller(Some("198.51.100.0/24"));
        assert!(some.may_ask_about(address("198.51.100.1")) && some.may_ask_about(address("::ffff:198.51.100.1")));
        assert!(!some.may_ask_about(address("198.51.101.1")) && !some.may_ask_about(address("2001:db8::1")));
    }
}
