//! The tables `private-routes`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_core::{Guard, Keep, PrivateRoute, RouteError, Unguarded};
use bgp_wire::Community;
use cloakway_runtime::config::Invalid;
use ipnet::IpNet;
use serde::Deserialize;

use super::permit::{RawPermit, permits};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RawRoute {
    prefix: IpNet,
    next_hop: IpAddr,
    #[serde(default)]
    guard: RawGuard,
    #[serde(default)]
    communities: Vec<String>,
    flow: Option<Vec<RawPermit>>,
    unicast: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    #[default]
    NoExport,
    NoAdvertise,
    None,
}

/// Holds the tables to what can be.
/// `unguarded`: the speaker may tell of some without a guard, where they say so themselves.
pub(super) fn routes(raw: Vec<RawRoute>, unguarded: bool) -> Result<Vec<PrivateRoute>, Invalid> {
    let mut seen = BTreeSet::new();
    let mut routes = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("private-routes[{index}].{field}");
        let keep: Keep = match (raw.guard, Unguarded::lift(unguarded, matches!(raw.guard, RawGuard::None))) {
            (RawGuard::NoExport, _) => Guard::NoExport.into(),
            (RawGuard::NoAdvertise, _) => Guard::NoAdvertise.into(),
            (RawGuard::None, Some(lifted)) => Keep::Nothing(lifted),
            (RawGuard::None, None) => {
                let reason = "\"none\" lets the route out of the AS, and takes a second word: \
                              speaker.allow-unguarded-private-routes = true";
                return Err(Invalid::at(at("guard"), reason));
            }
        };
        let communities = raw.communities.iter().map(|text| text.parse::<Community>()).collect::<Result<_, _>>();
        let communities = communities.map_err(|error| Invalid::at(at("communities"), error))?;
        let route = PrivateRoute::new(raw.prefix, raw.next_hop, keep, communities).map_err(|error| {
            let field = match error {
                RouteError::Family { .. } | RouteError::NextHop(_) => "next-hop",
                RouteError::HostBits(_) | RouteError::TooShort(_) => "prefix",
                RouteError::Communities(_) => "communities",
            };
            Invalid::at(at(field), error)
        })?;
        let route = match raw.flow {
            None => route,
            Some(flow) => {
                let permits = permits(flow)
                    .map_err(|(permit, field, why)| Invalid::at(at(&format!("flow[{permit}].{field}")), why))?;
                if permits.is_empty() {
                    let reason = "nothing could be sent to the prefix: give what may, or leave flow out";
                    return Err(Invalid::at(at("flow"), reason));
                }
                route.with_permits(&permits).map_err(|error| Invalid::at(at("flow"), error))?
            }
        };
        let route = match raw.unicast {
            Some(false) => route.by_rules_alone().map_err(|error| Invalid::at(at("unicast"), error))?,
            Some(true) | None => route,
        };
        if !seen.insert(route.prefix()) {
            return Err(Invalid::at(at("prefix"), format!("{} is given twice: once is enough", route.prefix())));
        }
        routes.push(route);
    }
    Ok(routes)
}
