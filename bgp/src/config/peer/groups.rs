//! Groups of peers, whose settings count where a peer has none, and where in the file a setting stands.

use std::collections::{BTreeMap, BTreeSet};

use cloakway_runtime::config::Invalid;

use super::Peer;
use super::written::{RawGroup, RawPeer};
use crate::config::dynamic::DynamicPeers;

/// The groups by name, and where each stands in the file.
#[derive(Debug, Default)]
pub(in crate::config) struct Groups(BTreeMap<String, (usize, RawGroup)>);

/// Holds the names of groups to what can be; their settings are looked at where they are used.
pub(in crate::config) fn groups(raw: Vec<RawGroup>) -> Result<Groups, Invalid> {
    let mut groups = BTreeMap::new();
    for (index, group) in raw.into_iter().enumerate() {
        let name = group.name.clone();
        if name.is_empty() || groups.insert(name.clone(), (index, group)).is_some() {
            let reason = format!("{name:?} is empty or taken: each group has its own");
            return Err(Invalid::at(format!("peer-groups[{index}].name"), reason));
        }
    }
    Ok(Groups(groups))
}

/// Where the settings of one peer are written: in its own table, or in its group's.
pub(super) struct Place {
    table: String,
    group: Option<(usize, BTreeSet<&'static str>)>,
}

impl Place {
    /// The path of `field`, which is written in kebab case.
    pub(super) fn of(&self, field: &str) -> String {
        let inherited = field.split('.').next().unwrap_or(field).replace('-', "_");
        match &self.group {
            Some((index, fields)) if fields.contains(inherited.as_str()) => format!("peer-groups[{index}].{field}"),
            _ => format!("{}.{field}", self.table),
        }
    }
}

impl Groups {
    /// Those that nobody is of.
    pub(in crate::config) fn unused(&self, peers: &[Peer], dynamic: &[DynamicPeers]) -> Vec<String> {
        let templates = dynamic.iter().map(|dynamic| &dynamic.template);
        let used: BTreeSet<&str> = peers.iter().chain(templates).filter_map(|peer| peer.group.as_deref()).collect();
        self.0.keys().filter(|name| !used.contains(name.as_str())).cloned().collect()
    }

    /// Fills up `raw` from its group.
    pub(super) fn fill(&self, raw: &mut RawPeer, table: String) -> Result<Place, Invalid> {
        let Some(name) = &raw.group else { return Ok(Place { table, group: None }) };
        let Some((index, group)) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let reason = format!("there is no group {name:?} among [[peer-groups]]: there is {}", known.join(", "));
            return Err(Invalid::at(format!("{table}.group"), reason));
        };
        let inherited = raw.inherit(group);
        Ok(Place { table, group: Some((*index, inherited)) })
    }
}
