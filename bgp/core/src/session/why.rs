//! Why a peer is told of a route, or not: the same conditions as where routes are sent, in words.

use std::net::IpAddr;

use bgp_wire::Family;
use ipnet::IpNet;

use super::values::{Export, Settings, State, Status};
use crate::guard::{PrivateRoute, Reach};
use crate::route::{NextHop, RouteAttributes};

/// Why a peer is not told of a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// There is no session.
    #[error("the session is {state}{}", last_down.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NotEstablished {
        /// What it is instead.
        state: State,
        /// Why the last one ended.
        last_down: Option<String>,
    },
    /// The peer is told nothing (RFC 8212).
    #[error("export is \"nothing\"")]
    ExportNothing,
    /// The peer is told private routes alone.
    #[error("export is \"private\": the peer is told no injected routes")]
    ExportPrivate,
    /// The peer is told injected routes alone.
    #[error("export is \"injected\": the peer is told no private routes")]
    ExportInjected,
    /// The prefix list does not let it through.
    #[error("the peer's export prefix list does not let it through")]
    Filtered,
    /// The two ends did not agree on the family.
    #[error("the session does not carry {0}")]
    Family(Family),
    /// RFC 8950.
    #[error("the next hop is IPv6, and the peer does not take IPv4 by way of IPv6 (RFC 8950)")]
    NextHop,
    /// IPv6 by way of our end of an IPv4 session.
    #[error("the next hop is our end of the session, which is IPv4: an IPv6 prefix takes an IPv6 address")]
    OwnIpv4,
    /// RFC 8955, and nothing less.
    #[error("the route goes with flow rules, and the session does not carry them: it would let everything pass")]
    FlowRules,
    /// The route names who is told.
    #[error("the route names other peers")]
    Audience,
    /// The operator names which sets the peer is told.
    #[error("the peer is told other sets")]
    Sets,
}

impl Settings {
    /// Whether a peer with these settings, at `status`, is told of a private route that is announced.
    ///
    /// # Errors
    /// Why not.
    pub fn tells_private(&self, status: &Status, route: &PrivateRoute) -> Result<(), NotTold> {
        match self.export {
            Export::All | Export::Private => {}
            Export::Injected => return Err(NotTold::ExportInjected),
            Export::Nothing => return Err(NotTold::ExportNothing),
        }
        let prefix = route.prefix();
        self.tells(status, &prefix)?;
        let context = status.negotiated.as_ref().map(|negotiated| negotiated.context).unwrap_or_default();
        if matches!(route.reach, Reach::V4ByV6(..)) && !route.is_by_rules_alone() && !context.ipv4_by_ipv6 {
            return Err(NotTold::NextHop);
        }
        if route.is_restricted() && !context.flow.has(Family::of(&prefix)) {
            return Err(NotTold::FlowRules);
        }
        Ok(())
    }

    /// Whether a peer with these settings, at `address` and `status`, is told of an injected route that is shown.
    ///
    /// # Errors
    /// Why not.
    pub fn tells_injected(
        &self,
        status: &Status,
        address: IpAddr,
        prefix: &IpNet,
        (set, route): (&str, &RouteAttributes),
    ) -> Result<(), NotTold> {
        match self.export {
            Export::All | Export::Injected => {}
            Export::Private => return Err(NotTold::ExportPrivate),
            Export::Nothing => return Err(NotTold::ExportNothing),
        }
        self.tells(status, prefix)?;
        if !route.is_for(address) {
            return Err(NotTold::Audience);
        }
        if self.options.sets.as_ref().is_some_and(|sets| !sets.has(set)) {
            return Err(NotTold::Sets);
        }
        let family = Family::of(prefix);
        let next_hop = match route.next_hop {
            // Our own end of the session is of its family.
            NextHop::Own => address,
            NextHop::Address(next_hop) => next_hop,
        };
        let by_ipv6 = family == Family::Ipv4 && next_hop.is_ipv6();
        let context = status.negotiated.as_ref().map(|negotiated| negotiated.context).unwrap_or_default();
        match NextHop::Address(next_hop).fits(family) {
            true if !by_ipv6 || context.ipv4_by_ipv6 => Ok(()),
            true => Err(NotTold::NextHop),
            false => Err(NotTold::OwnIpv4),
        }
    }

    fn tells(&self, status: &Status, prefix: &IpNet) -> Result<(), NotTold> {
        let Some(negotiated) = &status.negotiated else {
            let last_down = status.last_down.as_ref().map(ToString::to_string);
            return Err(NotTold::NotEstablished { state: status.state, last_down });
        };
        let family = Family::of(prefix);
        if !negotiated.families.contains(&family) {
            return Err(NotTold::Family(family));
        }
        if self.options.filter.takes(prefix) { Ok(()) } else { Err(NotTold::Filtered) }
    }
}
