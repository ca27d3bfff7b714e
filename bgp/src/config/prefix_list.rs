//! The tables `prefix-lists`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bgp_core::{Filter, PrefixList, Rule, RuleError, Verdict};
use cloakway_runtime::config::Invalid;
use ipnet::IpNet;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawPrefixList {
    name: String,
    rules: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    prefix: IpNet,
    ge: Option<u8>,
    le: Option<u8>,
    action: RawAction,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawAction {
    Permit,
    Deny,
}

/// The lists by name.
#[derive(Debug, Default)]
pub(super) struct Lists(BTreeMap<String, Arc<PrefixList>>);

impl Lists {
    /// What the list called `name` lets pass; without a name, everything.
    pub(super) fn filter(&self, name: Option<&str>) -> Result<Filter, String> {
        let Some(name) = name else { return Ok(Filter::All) };
        self.0.get(name).cloned().map(Filter::List).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            format!("there is no list {name:?} among [[prefix-lists]]: there is {}", known.join(", "))
        })
    }
}

/// Holds the tables to what can be.
pub(super) fn lists(raw: Vec<RawPrefixList>) -> Result<Lists, Invalid> {
    let mut lists = BTreeMap::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let mut rules = Vec::new();
        for (at, RawRule { prefix, ge, le, action }) in raw.rules.into_iter().enumerate() {
            let verdict = match action {
                RawAction::Permit => Verdict::Permit,
                RawAction::Deny => Verdict::Deny,
            };
            let rule = Rule::new(prefix, ge, le, verdict).map_err(|error| {
                let field = match error {
                    RuleError::HostBits(_) => "prefix",
                    RuleError::Lengths { .. } if ge.is_some() => "ge",
                    RuleError::Lengths { .. } => "le",
                };
                Invalid::at(format!("prefix-lists[{index}].rules[{at}].{field}"), error)
            })?;
            rules.push(rule);
        }
        let name = raw.name;
        if name.is_empty() || lists.insert(name.clone(), Arc::new(PrefixList::new(rules))).is_some() {
            let reason = format!("{name:?} is empty or taken: each list has its own");
            return Err(Invalid::at(format!("prefix-lists[{index}].name"), reason));
        }
    }
    Ok(Lists(lists))
}
