//! The tables `private-routes`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_core::{Guard, PrivateRoute, RouteError};
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
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawGuard {
    #[default]
    NoExport,
    NoAdvertise,
}

/// Holds the tables to what can be.
pub(super) fn routes(raw: Vec<RawRoute>) -> Result<Vec<PrivateRoute>, Invalid> {
    let mut seen = BTreeSet::new();
    let mut routes = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let at = |field: &str| format!("private-routes[{index}].{field}");
        let guard = match raw.guard {
            RawGuard::NoExport => Guard::NoExport,
            RawGuard::NoAdvertise => Guard::NoAdvertise,
        };
        let communities = raw.communities.iter().map(|text| text.parse::<Community>()).collect::<Result<_, _>>();
        let communities = communities.map_err(|error| Invalid::at(at("communities"), error))?;
        let route = PrivateRoute::new(raw.prefix, raw.next_hop, guard, communities).map_err(|error| {
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
        if !seen.insert(route.prefix()) {
            return Err(Invalid::at(at("prefix"), format!("{} is given twice: once is enough", route.prefix())));
        }
        routes.push(route);
    }
    Ok(routes)
}
