//! Requests to rtnetlink: routes of ours, interfaces by name, probes of neighbours.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use forwarder_core::fast::HostInterface;
use forwarder_core::{Exit, LinkState, MAIN_TABLE, ROUTE_PROTOCOL, Route, Target};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{ErrorMessage, NLM_F_ACK, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, RouteMessageBuilder, RouteNextHopBuilder};

use crate::user::Neighbour;
use crate::{DataplaneError, tunnel};

/// What a look-up in the kernel's table gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effective {
    /// Out by the interface with this index.
    Out(u32),
    /// Not forwarded at all.
    Nowhere,
}

/// A route that carries our protocol number.
#[derive(Debug, Clone)]
pub(crate) struct OwnRoute {
    pub(crate) table: u32,
    pub(crate) prefix: IpNet,
    pub(crate) metric: u32,
    pub(crate) blackhole: bool,
    /// Interface and router of each exit, in order.
    pub(crate) exits: Vec<(u32, Option<IpAddr>)>,
    message: RouteMessage,
}

impl OwnRoute {
    /// Whether this is `route`, with its exits by the interfaces of these indexes.
    pub(crate) fn is(&self, route: &Route, indexes: &[u32]) -> bool {
        if self.prefix != route.prefix || self.metric != route.metric || self.table != route.table {
            return false;
        }
        match &route.target {
            Target::Blackhole => self.blackhole,
            Target::Links(exits) => {
                let mut wanted: Vec<_> = indexes.iter().copied().zip(exits.iter().map(|exit| exit.next_hop)).collect();
                wanted.sort();
                !self.blackhole && self.exits == wanted
            }
        }
    }
}

/// The routes that are there, found by their prefix.
#[derive(Debug, Default)]
pub(crate) struct Standing(HashMap<IpNet, Vec<OwnRoute>>);

impl Standing {
    pub(crate) fn new(routes: Vec<OwnRoute>) -> Self {
        let mut standing = Self::default();
        for route in routes {
            standing.0.entry(route.prefix).or_default().push(route);
        }
        standing
    }

    /// Whether `route` is there, with its exits by the interfaces of these indexes.
    pub(crate) fn has(&self, route: &Route, indexes: &[u32]) -> bool {
        self.0.get(&route.prefix).is_some_and(|routes| routes.iter().any(|own| own.is(route, indexes)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &OwnRoute> {
        self.0.values().flatten()
    }
}

/// A socket holds this much that was not read yet: answers to all that is asked at a time, and what happens meanwhile.
const ROOM: usize = 16 << 20;

/// Without the right to it the kernel's default stays, and what is lost is asked for again.
pub(crate) fn roomy(socket: &impl AsFd) {
    let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &ROOM);
}

/// A connection for requests. What the kernel says on it that nobody asked for is that an answer was lost: who waits for
/// that loses patience.
pub(crate) fn requests() -> Result<Handle, DataplaneError> {
    let (mut connection, handle, mut unasked) = rtnetlink::new_connection_with_strict_check()?;
    roomy(connection.socket_mut().socket_ref());
    tokio::spawn(connection);
    tokio::spawn(async move {
        while unasked.recv().await.is_ok() {
            tracing::debug!("an answer of the kernel was lost");
        }
    });
    Ok(handle)
}

/// How often a list is asked for that changes while it is read.
const ATTEMPTS: usize = 10;

/// The kernel answers at once; an answer that was lost never comes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The answer to a request.
pub(crate) async fn answered<T>(what: &str, request: impl Future<Output = T>) -> Result<T, DataplaneError> {
    tokio::time::timeout(PATIENCE, request)
        .await
        .map_err(|_| DataplaneError::Netlink { what: what.to_owned(), why: format!("no answer within {PATIENCE:?}") })
}

/// A list in one piece: of one that changed while it was read (NLM_F_DUMP_INTR), which happens whenever a link goes down,
/// the library says EBUSY. That says nothing about the guard, so it is asked for again.
pub(crate) async fn unbroken<T, F>(what: &str, ask: impl Fn() -> F) -> Result<T, DataplaneError>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let busy = -(nix::errno::Errno::EBUSY as i32);
    for _ in 1..ATTEMPTS {
        match answered(what, ask()).await? {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == busy => {}
            answer => return answer.map_err(|error| failed(what, &error)),
        }
    }
    answered(what, ask()).await?.map_err(|error| failed(what, &error))
}

/// Our routes of both families, in whatever table. The kernel filters, so that a full table costs nothing.
pub(crate) async fn own_routes(handle: &Handle) -> Result<Vec<OwnRoute>, DataplaneError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.table = RouteHeader::RT_TABLE_UNSPEC;
        filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        let ask = || handle.route().get(filter.clone()).execute().try_collect();
        let found: Vec<RouteMessage> = unbroken("list routes", ask).await?;
        // A kernel that does not know the filter answers with all routes.
        let ours = |message: &&RouteMessage| message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);
        routes.extend(found.iter().filter(ours).map(own_route));
    }
    Ok(routes)
}

fn own_route(message: &RouteMessage) -> OwnRoute {
    let unspecified =
        if message.header.address_family == AddressFamily::Inet { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let mut route = OwnRoute {
        table: message.header.table.into(),
        prefix: IpNet::from(unspecified),
        metric: 0,
        blackhole: message.header.kind == RouteType::BlackHole,
        exits: Vec::new(),
        message: message.clone(),
    };
    let mut destination = unspecified;
    let (mut interface, mut next_hop) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => destination = address(found).unwrap_or(destination),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(found) => next_hop = address(found),
            RouteAttribute::MultiPath(hops) => route.exits = hops.iter().map(exit).collect(),
            _ => {}
        }
    }
    route.exits.extend(interface.map(|index| (index, next_hop)));
    route.exits.sort();
    route.prefix = IpNet::new(destination, message.header.destination_prefix_length).unwrap_or(route.prefix);
    route
}

fn exit(hop: &RouteNextHop) -> (u32, Option<IpAddr>) {
    let next_hop = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(found) => address(found),
        _ => None,
    });
    (hop.interface_index, next_hop)
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// Adds `route`, in place of one with the same prefix and metric. `indexes` are those of its exits' interfaces.
pub(crate) async fn put_route(handle: &Handle, route: &Route, indexes: &[u32]) -> Result<(), DataplaneError> {
    let what = || format!("add route {}", describe(route));
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.prefix.addr(), route.prefix.prefix_len())
        .map_err(refused(what()))?
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL))
        .table_id(route.table)
        .priority(route.metric);
    match &route.target {
        Target::Blackhole => builder = builder.kind(RouteType::BlackHole),
        Target::Links(exits) => {
            if exits.iter().all(|exit| exit.next_hop.is_none()) && route.prefix.addr().is_ipv4() {
                builder = builder.scope(RouteScope::Link);
            }
            match (exits.as_slice(), indexes) {
                ([Exit { next_hop, .. }], [index]) => {
                    builder = builder.output_interface(*index);
                    if let Some(next_hop) = next_hop {
                        builder = builder.gateway(*next_hop).map_err(refused(what()))?.onlink();
                    }
                }
                _ => {
                    let mut hops = Vec::with_capacity(exits.len());
                    for (exit, index) in exits.iter().zip(indexes) {
                        let v4 = route.prefix.addr().is_ipv4();
                        let hop = if v4 { RouteNextHopBuilder::new_ipv4() } else { RouteNextHopBuilder::new_ipv6() };
                        let mut hop = hop.interface(*index);
                        if let Some(next_hop) = exit.next_hop {
                            hop = hop.via(next_hop).map_err(refused(what()))?.onlink();
                        }
                        hops.push(hop.build());
                    }
                    builder = builder.multipath(hops);
                }
            }
        }
    }
    let message = builder.build();
    let done = answered(&what(), handle.route().add(message).replace().execute()).await?;
    done.map_err(|error| failed(&what(), &error))
}

fn refused<E: std::fmt::Display>(what: String) -> impl FnOnce(E) -> DataplaneError {
    move |error| DataplaneError::Netlink { what, why: error.to_string() }
}

/// Removes a route of ours; one that is gone already is no error.
pub(crate) async fn remove_route(handle: &Handle, route: &OwnRoute) -> Result<(), DataplaneError> {
    let what = format!("remove route {}", route.prefix);
    match answered(&what, handle.route().del(route.message.clone()).execute()).await? {
        Err(error) if !is_errno(&error, &[ESRCH, ENOENT, ENODEV]) => Err(failed(&what, &error)),
        _ => Ok(()),
    }
}

/// Where the kernel would send a packet for `address`.
pub(crate) async fn effective(handle: &Handle, address: IpAddr) -> Result<Effective, DataplaneError> {
    let found = next_hop(handle, address).await?;
    Ok(found.map_or(Effective::Nowhere, |(index, _)| Effective::Out(index)))
}

/// The interface and the neighbour that the kernel would send a packet for `address` to; `None` for nowhere, and for itself.
pub(crate) async fn next_hop(handle: &Handle, address: IpAddr) -> Result<Option<(u32, IpAddr)>, DataplaneError> {
    let what = || format!("look up {address}");
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, length)
        .map_err(|error| DataplaneError::Netlink { what: what(), why: error.to_string() })?
        .build();
    // The strict check of a look-up wants the rest of the header to be zero.
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Unspec;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unspec;
    message.header.flags = RouteFlags::empty();
    let mut asked = handle.route().get(message).execute();
    let found: Result<Option<RouteMessage>, _> = answered(&what(), asked.try_next()).await?;
    match found {
        Ok(Some(found)) if found.header.kind == RouteType::Unicast => {
            let (mut index, mut neighbour) = (None, address);
            for attribute in &found.attributes {
                match attribute {
                    RouteAttribute::Oif(found) => index = Some(*found),
                    RouteAttribute::Gateway(found) => neighbour = self::address(found).unwrap_or(neighbour),
                    _ => {}
                }
            }
            Ok(index.map(|index| (index, neighbour)))
        }
        Ok(_) => Ok(None),
        // A blackhole or unreachable route answers with its error.
        Err(error) if is_errno(&error, &[EINVAL, ENETUNREACH, EHOSTUNREACH, EACCES]) => Ok(None),
        Err(error) => Err(failed(&what(), &error)),
    }
}

/// The interface called `name`: its index and state, or `None` when there is none.
pub(crate) async fn interface(handle: &Handle, name: &str) -> Result<Option<(u32, LinkState)>, DataplaneError> {
    Ok(link(handle, name).await?.map(|message| (message.header.index, link_state(&message))))
}

/// The interface called `name` as the fast path needs it, or `None` when there is none.
pub(crate) async fn host_interface(handle: &Handle, name: &str) -> Result<Option<HostInterface>, DataplaneError> {
    let Some(message) = link(handle, name).await? else { return Ok(None) };
    let (mac, kind) = mac_and_kind(&message);
    let tunnel = tunnel::of(handle, &message).await?;
    Ok(Some(HostInterface { index: message.header.index, mac, kind, tunnel }))
}

/// The link-layer address of an interface with an Ethernet header, and the kernel's word for a virtual one.
pub(crate) fn mac_and_kind(message: &LinkMessage) -> (Option<[u8; 6]>, Option<String>) {
    let (mut mac, mut kind) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                mac = address.as_slice().try_into().ok();
            }
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (mac, kind)
}

/// The interface with this index and all that the kernel says of it, when there is one.
pub(crate) async fn link_at(handle: &Handle, index: u32) -> Result<Option<LinkMessage>, DataplaneError> {
    let what = format!("find interface {index}");
    match answered(&what, handle.link().get().match_index(index).execute().try_next()).await? {
        Ok(found) => Ok(found),
        Err(error) if is_errno(&error, &[ENODEV]) => Ok(None),
        Err(error) => Err(failed(&what, &error)),
    }
}

/// The MTU of the interface with this index, when there is one.
pub(crate) async fn mtu(handle: &Handle, index: u32) -> Result<Option<usize>, DataplaneError> {
    Ok(link_at(handle, index).await?.and_then(|message| {
        message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
            _ => None,
        })
    }))
}

/// The interface called `name` with all that the kernel says of it, or `None` when there is none.
pub(crate) async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, DataplaneError> {
    let what = format!("find interface {name}");
    match answered(&what, handle.link().get().match_name(name.to_owned()).execute().try_next()).await? {
        Ok(message) => Ok(message),
        Err(error) if is_errno(&error, &[ENODEV]) => Ok(None),
        Err(error) => Err(failed(&what, &error)),
    }
}

/// Every interface with all that the kernel says of it.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, DataplaneError> {
    let ask = || handle.link().get().execute().try_collect();
    unbroken("list interfaces", ask).await
}

/// Every address of the host, with the length of its subnet.
pub(crate) async fn addresses(handle: &Handle) -> Result<Vec<IpNet>, DataplaneError> {
    let mut addresses: Vec<_> = addresses_by_interface(handle).await?.into_iter().map(|(_, address)| address).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// Every address of the host, with the index of its interface and the length of its subnet.
pub(crate) async fn addresses_by_interface(handle: &Handle) -> Result<Vec<(u32, IpNet)>, DataplaneError> {
    let found: Vec<_> = unbroken("list addresses", || handle.address().get().execute().try_collect()).await?;
    let mut addresses = Vec::new();
    for message in found {
        // On a point-to-point link `Address` is the peer, and `Local` ours; IPv6 has `Address` alone.
        let of = |local| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
        };
        let Some(address) = of(true).or_else(|| of(false)) else { continue };
        let index = message.header.index;
        addresses.extend(IpNet::new(address, message.header.prefix_len).map(|address| (index, address)));
    }
    Ok(addresses)
}

/// Up means set up and with carrier.
pub(crate) fn link_state(message: &LinkMessage) -> LinkState {
    if message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp) { LinkState::Up } else { LinkState::Down }
}

/// The name in a link message.
pub(crate) fn link_name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Makes the kernel ask the neighbour now; the answer comes as an event.
pub(crate) async fn probe(handle: &Handle, index: u32, address: IpAddr) -> Result<(), DataplaneError> {
    // A known neighbour is asked by unicast while traffic goes on.
    let mut known = handle.neighbours().add(index, address).state(NeighbourState::Probe);
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(known.message_mut().clone()));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
    if accepted(handle, request).await? {
        return Ok(());
    }
    // An unknown one is looked for.
    ask(handle, index, address).await
}

/// Makes the kernel look for the neighbour, or see whether one that it has not heard of for a while is still there.
pub(crate) async fn ask(handle: &Handle, index: u32, address: IpAddr) -> Result<(), DataplaneError> {
    let unknown = handle.neighbours().add(index, address).state(NeighbourState::None).flags(NeighbourFlags::Use);
    let what = format!("probe {address}");
    match answered(&what, unknown.replace().execute()).await? {
        Err(error) if !is_errno(&error, &[ENODEV, ENETDOWN, EINVAL]) => Err(failed(&what, &error)),
        _ => Ok(()),
    }
}

/// What the kernel knows of a neighbour.
pub(crate) async fn neighbour(handle: &Handle, index: u32, address: IpAddr) -> Result<Neighbour, DataplaneError> {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    let what = format!("neighbour {address}");
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
    request.header.flags = NLM_F_REQUEST;
    let mut answers = handle.clone().request(request).map_err(|error| failed(&what, &error))?;
    while let Some(answer) = answered(&what, answers.next()).await? {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found)) => return Ok(known(&found)),
            NetlinkPayload::Error(error) if error.raw_code() == -ENOENT => return Ok(Neighbour::Unknown),
            NetlinkPayload::Error(error) => {
                return Err(DataplaneError::Netlink { what, why: error.to_io().to_string() });
            }
            _ => {}
        }
    }
    Ok(Neighbour::Unknown)
}

fn known(message: &NeighbourMessage) -> Neighbour {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => octets.as_slice().try_into().ok(),
        _ => None,
    });
    match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Neighbour::Silent,
        (NeighbourState::Stale, Some(mac)) => Neighbour::Stale(mac),
        (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => Neighbour::Asked,
        (_, Some(mac)) => Neighbour::Known(mac),
    }
}

async fn accepted(handle: &Handle, request: NetlinkMessage<RouteNetlinkMessage>) -> Result<bool, DataplaneError> {
    let mut answers = handle.clone().request(request).map_err(|error| failed("probe", &error))?;
    while let Some(answer) = answered("probe", answers.next()).await? {
        if let NetlinkPayload::Error(ErrorMessage { code: Some(_), .. }) = answer.payload {
            return Ok(false);
        }
    }
    Ok(true)
}

/// For people: the route without its bookkeeping.
pub(crate) fn describe(route: &Route) -> String {
    let Route { table, prefix, metric, target } = route;
    let table = if *table == MAIN_TABLE { String::new() } else { format!(" table {table}") };
    let exit = |Exit { interface, next_hop }: &Exit| match next_hop {
        None => format!("dev {interface}"),
        Some(next_hop) => format!("via {next_hop} dev {interface}"),
    };
    match target {
        Target::Blackhole => format!("blackhole {prefix} metric {metric}{table}"),
        Target::Links(exits) => {
            let exits: Vec<String> = exits.iter().map(exit).collect();
            format!("{prefix} {} metric {metric}{table}", exits.join(" and "))
        }
    }
}

pub(crate) const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;
pub(crate) const ENOBUFS: i32 = 105;

pub(crate) fn is_errno(error: &rtnetlink::Error, numbers: &[i32]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if numbers.contains(&-message.raw_code()))
}

pub(crate) fn failed(what: &str, error: &rtnetlink::Error) -> DataplaneError {
    let why = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    };
    DataplaneError::Netlink { what: what.to_owned(), why }
}
