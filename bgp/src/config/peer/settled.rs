//! Single settings of a peer, held to what can be; an error is the reason, and where needed which part of the setting.

use std::path::Path;
use std::time::Duration;

use bgp_core::{MaxPrefix, RoleSetting, SetNames, check_name};
use bgp_wire::Role;
use cloakway_crypto::Secret;
use cloakway_runtime::config;

use super::written::{RawAction, RawAlgorithm, RawAoKey, RawBfd, RawMaxPrefix, RawRole};
use super::{Bfd, Own};
use crate::inject;
use crate::tcp::{LONGEST_PASSWORD, ao};

/// How many routes are taken, or which field is wrong and why.
pub(super) fn max_prefix(raw: RawMaxPrefix, imports: bool) -> Result<MaxPrefix, (&'static str, String)> {
    if !imports {
        return Err(("", "nothing is taken from the peer: give import = \"all\" beside it".to_owned()));
    }
    if raw.limit == 0 {
        return Err((".limit", "0 is not allowed: at least 1, or no import".to_owned()));
    }
    if !(1..=100).contains(&raw.warn_percent) {
        return Err((".warn-percent", format!("{} is not allowed: 1 to 100", raw.warn_percent)));
    }
    if raw.restart_s.is_some() && raw.action == RawAction::Warn {
        return Err((".restart-s", "a warning ends nothing: leave it out, or give action = \"idle\"".to_owned()));
    }
    Ok(MaxPrefix {
        limit: raw.limit,
        warn_percent: raw.warn_percent,
        ends: raw.action == RawAction::Idle,
        restart: raw.restart_s.map(|s| Duration::from_secs(u64::from(s))),
    })
}

/// Whether an internal peer that does not follow RFC 9494 is told of long-lived stale routes.
pub(super) fn pass_on_stale(raw: Option<bool>, passes_on_inside: bool) -> Result<bool, &'static str> {
    let wanted = raw.unwrap_or_default();
    if wanted && !passes_on_inside {
        return Err("true takes an internal peer with pass-on = true: stale routes go nowhere else (RFC 9494 §4.6)");
    }
    Ok(wanted)
}

/// The sets that the peer is told, if not all.
pub(super) fn sets(raw: Option<Vec<String>>, told_of_sets: bool) -> Result<Option<SetNames>, String> {
    let Some(names) = raw else { return Ok(None) };
    if !told_of_sets {
        return Err("the peer is told of no set: give export = \"injected\" or \"all\" beside it".to_owned());
    }
    if names.is_empty() {
        return Err("none is named: name the sets that the peer is told, or leave it out".to_owned());
    }
    names.iter().try_for_each(|name| check_name("set", name)).map_err(|error| error.to_string())?;
    Ok(Some(names.into_iter().collect()))
}

/// For how many seconds the peer keeps what is to be kept. A session has one time for all of a family (RFC 9494 §3.1):
/// unless given, the shortest that one of its sets is to be kept, so that all of them are and none for longer.
pub(super) fn keep(given: Option<u32>, keeps: bool, own: &Own, sets: Option<&SetNames>) -> Result<Option<u32>, String> {
    let told = own.kept.iter().filter(|(name, _)| sets.is_none_or(|sets| sets.has(name))).map(|(_, keep_s)| *keep_s);
    let Some(given) = given else { return Ok(told.min().filter(|_| keeps)) };
    if !keeps {
        return Err("the peer keeps nothing: give keep = true beside it".to_owned());
    }
    inject::settings::keep_time(given)?;
    match told.max() {
        Some(longest) if longest >= given => Ok(Some(given)),
        Some(longest) => {
            Err(format!("{given} s, and no set that the peer is told is to be kept for longer than {longest} s"))
        }
        None => Err("no set that the peer is told is to be kept: give keep-s to one of inject.sets".to_owned()),
    }
}

pub(super) fn bfd(raw: RawBfd) -> Result<Bfd, String> {
    match raw.interval_ms {
        10..=60_000 => {
            Ok(Bfd { interval: Duration::from_millis(u64::from(raw.interval_ms)), multiplier: raw.multiplier })
        }
        other => Err(format!("{other} ms is not allowed: 10 to 60000")),
    }
}

/// The keys, or which of their fields is wrong and why.
pub(super) fn ao_keys(raw: Vec<RawAoKey>, signed_by_md5: bool) -> Result<Vec<ao::Key>, (String, String)> {
    if raw.is_empty() {
        return Ok(Vec::new());
    }
    if signed_by_md5 {
        let reason = "md5-password-file is given too: a connection is signed one way, so leave one out";
        return Err((String::new(), reason.to_owned()));
    }
    let mut keys: Vec<ao::Key> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let wrong = |field: &str, reason: String| (format!("[{index}].{field}"), reason);
        for (field, taken) in [
            ("id", keys.iter().any(|key| key.id == raw.id)),
            ("recv-id", keys.iter().any(|key| key.receive_id == raw.recv_id)),
        ] {
            if taken {
                return Err(wrong(field, "another key of the peer has it: each has its own".to_owned()));
            }
        }
        let secret = config::read_secret(&raw.key_file).map_err(|reason| wrong("key-file", reason))?;
        let length = secret.expose().len();
        if length > ao::LONGEST_KEY {
            let reason = format!("{length} octets: TCP-AO takes up to {} here", ao::LONGEST_KEY);
            return Err(wrong("key-file", reason));
        }
        let algorithm = match raw.algorithm {
            RawAlgorithm::HmacSha1 => ao::Algorithm::HmacSha1,
            RawAlgorithm::AesCmac => ao::Algorithm::AesCmac,
        };
        keys.push(ao::Key { id: raw.id, receive_id: raw.recv_id, algorithm, secret });
    }
    ao::available().map_err(|reason| (String::new(), reason))?;
    Ok(keys)
}

pub(super) fn md5_password(path: &Path) -> Result<Secret<String>, String> {
    let password = config::read_secret(path)?;
    match password.expose().len() {
        0..=LONGEST_PASSWORD => Ok(password),
        length => Err(format!("{length} octets: TCP-MD5 takes up to {LONGEST_PASSWORD}")),
    }
}

/// RFC 9234 §4: roles are for external sessions.
pub(super) fn role(
    raw: Option<RawRole>,
    strict: bool,
    internal: bool,
) -> Result<Option<RoleSetting>, (&'static str, &'static str)> {
    let Some(raw) = raw else {
        return if strict { Err(("strict-role", "true takes a role: give one")) } else { Ok(None) };
    };
    if internal {
        return Err(("role", "roles are for external peers, and this one is in our own AS: leave it out"));
    }
    let role = match raw {
        RawRole::Provider => Role::Provider,
        RawRole::RouteServer => Role::RouteServer,
        RawRole::RouteServerClient => Role::RouteServerClient,
        RawRole::Customer => Role::Customer,
        RawRole::Peer => Role::Peer,
    };
    Ok(Some(RoleSetting { role, strict }))
}
