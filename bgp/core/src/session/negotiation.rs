//! Our OPEN, and what it and the peer's amount to.

use std::collections::BTreeSet;

use bgp_wire::{AddPath, Capability, Context, ErrorCode, Families, Family, Notification, Open, Role};

use super::restart;
use super::values::{Negotiated, Settings};

/// What we offer.
pub(super) fn offer(settings: &Settings, restarted: bool, keep: bool) -> Open {
    let mut open = Open::new(settings.local_as, settings.hold_time, settings.router_id, Family::ALL);
    let more = [Capability::ExtendedNextHop, Capability::ExtendedMessages, Capability::EnhancedRouteRefresh];
    open.capabilities.extend(more);
    if settings.options.flow {
        open.capabilities.extend(Family::ALL.map(Capability::Flow));
    }
    if settings.options.add_path {
        let both = |family| AddPath { family, receive: true, send: true };
        open.capabilities.push(Capability::AddPath(Family::ALL.map(both).into()));
    }
    if let Some(setting) = settings.options.role {
        open.capabilities.push(Capability::Role(setting.role));
    }
    open.capabilities.extend(restart::offer(settings, restarted, keep));
    open
}

/// What the peer's OPEN and ours amount to; or the NOTIFICATION that refuses it, and why in words.
pub(super) fn negotiate(settings: &Settings, open: &Open, keep: bool) -> Result<Negotiated, (Notification, String)> {
    if !settings.expects(open.asn()) {
        let detail = match settings.options.remote_as_among.is_empty() {
            true => format!("the peer is AS {}, the configuration says {}", open.asn(), settings.remote_as),
            false => format!("the peer is AS {}, which the configuration does not list", open.asn()),
        };
        return Err((ErrorCode::BAD_PEER_AS.into(), detail));
    }
    // RFC 6286 §2.2: the same identifier is an error inside one AS only.
    if settings.is_internal() && open.router_id == settings.router_id {
        let detail = format!("the peer has our own router id {}", open.router_id);
        return Err((ErrorCode::BAD_IDENTIFIER.into(), detail));
    }
    // Without keepalives a peer whose host dies suddenly, or ours, would leave routes behind for ever.
    if open.hold_time.duration().is_none() && settings.hold_time.duration().is_some() {
        let detail = "the peer wants no keepalives: set a hold time there".to_owned();
        return Err((ErrorCode::UNACCEPTABLE_HOLD_TIME.into(), detail));
    }
    check_role(settings, open)?;
    let families: BTreeSet<Family> = open.families().intersection(&Family::ALL.into()).copied().collect();
    if families.is_empty() {
        let wanted = Family::ALL.iter().flat_map(|family| Capability::Multiprotocol(*family).encode());
        let notification = Notification::new(ErrorCode::UNSUPPORTED_CAPABILITY, wanted.flatten().collect::<Vec<_>>());
        return Err((notification, "the peer takes neither IPv4 nor IPv6 unicast".to_owned()));
    }
    let said = restart::said(settings, open);
    let offers_restart = settings.options.helper.is_some() || (settings.options.keep.is_some() && keep);
    let has = |capability| open.capabilities.contains(&capability);
    let both = Context {
        four_octet_as: open.four_octet_as().is_some(),
        external: !settings.is_internal(),
        extended_messages: has(Capability::ExtendedMessages),
        enhanced_refresh: has(Capability::EnhancedRouteRefresh),
        ipv4_by_ipv6: has(Capability::ExtendedNextHop),
        path_ids: Families::NONE,
        flow: open.flow_families().filter(|_| settings.options.flow).collect(),
    };
    let path_ids = |way: fn(&AddPath) -> bool| {
        let lists = open.capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(families) if settings.options.add_path => Some(families),
            _ => None,
        });
        lists.flatten().filter(|offer| way(offer)).map(|offer| offer.family).collect::<Families>()
    };
    Ok(Negotiated {
        asn: open.asn(),
        router_id: open.router_id,
        hold_time: settings.hold_time.negotiate(open.hold_time),
        families,
        context: Context { path_ids: path_ids(|offer| offer.receive), ..both },
        // RFC 8654 §4: who offered to take long messages takes them, whatever the other end offered.
        incoming: Context { extended_messages: true, path_ids: path_ids(|offer| offer.send), ..both },
        keeps: settings.options.keep.is_some() && keep && said.long_lived,
        notification_restart: offers_restart && said.notification,
        marks_end: offers_restart && said.graceful,
        restart: said.restart,
        long_lived: said.long_lived,
        route_refresh: has(Capability::RouteRefresh),
    })
}

/// RFC 9234 §4.2.
fn check_role(settings: &Settings, open: &Open) -> Result<(), (Notification, String)> {
    let Some(ours) = settings.options.role else { return Ok(()) };
    // A number that is no role fits no role.
    if let Some(value) = open.capabilities.iter().find_map(unknown_role) {
        return Err((ErrorCode::ROLE_MISMATCH.into(), format!("the peer's role {value:?} is none of RFC 9234")));
    }
    let roles: BTreeSet<Role> = open
        .capabilities
        .iter()
        .filter_map(|capability| match capability {
            Capability::Role(role) => Some(*role),
            _ => None,
        })
        .collect();
    let wanted = ours.role.counterpart();
    let detail = match roles.iter().collect::<Vec<_>>().as_slice() {
        [] if ours.strict => format!("the peer does not say that it is our {wanted:?}, and the role is strict"),
        [] => return Ok(()),
        [role] if **role == wanted => return Ok(()),
        [role] => format!("the peer says that it is our {role:?}, the configuration says {wanted:?}"),
        _ => "the peer says that it has several roles".to_owned(),
    };
    Err((ErrorCode::ROLE_MISMATCH.into(), detail))
}

fn unknown_role(capability: &Capability) -> Option<&[u8]> {
    const ROLE: u8 = 9;
    match capability {
        Capability::Other { code: ROLE, value } => Some(value),
        _ => None,
    }
}
