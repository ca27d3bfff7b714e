//! Requests to rtnetlink, and what the kernel says by itself. Every request names our table and protocol number.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use bgp_core::kernel::{Foreign, Own, Step, Underlay, Via, Ways};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, RouteNextHopBuilder};
use tokio::sync::mpsc;

use super::settings::Settings;

/// The kernel of this network namespace.
#[derive(Debug)]
pub(super) struct Kernel {
    handle: Handle,
    settings: Settings,
    /// Our routes as they were read: what is removed has to be named as it is.
    read: Mutex<BTreeMap<Own, RouteMessage>>,
}

/// What was found: of ours, and of others.
pub(super) type Found = (Vec<Own>, Underlay);

impl Kernel {
    /// Opens the socket for requests, and that for what the kernel says: each word means that something may be other
    /// than it was read.
    pub(super) fn open(settings: Settings) -> std::io::Result<(Self, mpsc::Receiver<()>)> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        tokio::spawn(connection);
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, listener, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        // One word is as good as many.
        let (changed, words) = mpsc::channel(1);
        tokio::spawn(async move {
            // The connection closes when its last handle does.
            let _listener = listener;
            loop {
                let message = tokio::select! {
                    () = changed.closed() => return,
                    message = messages.recv() => message,
                };
                let Ok((message, _)) = message else { return };
                if concerns(&message.payload, settings) {
                    let _ = changed.try_send(());
                }
            }
        });
        Ok((Self { handle, settings, read: Mutex::default() }, words))
    }

    /// Our routes, and those of others in the main table.
    pub(super) async fn read(&self) -> Result<Found, String> {
        let (mut own, mut foreign) = (BTreeMap::new(), Vec::new());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.dump(family, self.settings.table, true).await? {
                own.insert(own_route(&message), message);
            }
            for message in self.dump(family, u32::from(RouteHeader::RT_TABLE_MAIN), false).await? {
                foreign.extend(foreign_routes(&message));
            }
        }
        let routes = own.keys().cloned().collect();
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = own;
        Ok((routes, Underlay::new(foreign)))
    }

    /// Routes of a table, with our protocol number or with any other.
    async fn dump(&self, family: AddressFamily, table: u32, ours: bool) -> Result<Vec<RouteMessage>, String> {
        let own = RouteProtocol::from(self.settings.protocol);
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.attributes.push(RouteAttribute::Table(table));
        if ours {
            filter.header.protocol = own;
        }
        let found: Result<Vec<RouteMessage>, _> = self.handle.route().get(filter).execute().try_collect().await;
        match found {
            // A kernel that does not know the filter answers with all routes.
            Ok(found) => Ok(found
                .into_iter()
                .filter(|message| table_of(message) == table && (message.header.protocol == own) == ours)
                .collect()),
            // A table that nobody has put anything in is none.
            Err(error) if is_errno(&error, &[ENOENT]) => Ok(Vec::new()),
            Err(error) => Err(format!("list routes: {}", text(&error))),
        }
    }

    /// Does `step`.
    pub(super) async fn carry_out(&self, step: &Step) -> Result<(), String> {
        match step {
            Step::Add(prefix, ways) => {
                let message = self.message(*prefix, ways)?;
                self.handle.route().add(message).execute().await.map_err(|error| match is_errno(&error, &[EEXIST]) {
                    true => format!("a route of the same metric {} is there already", self.settings.metric),
                    false => text(&error),
                })
            }
            Step::Replace(prefix, ways) => {
                let message = self.message(*prefix, ways)?;
                self.handle.route().add(message).replace().execute().await.map_err(|error| text(&error))
            }
            Step::Remove(own) => {
                let read = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(own).cloned();
                let message = match (read, &own.ways) {
                    (Some(message), _) => message,
                    (None, Some(ways)) => self.message(own.prefix, ways)?,
                    (None, None) => return Ok(()),
                };
                match self.handle.route().del(message).execute().await {
                    // It went by itself, with its interface perhaps.
                    Err(error) if !is_errno(&error, &[ESRCH, ENOENT, ENODEV]) => Err(text(&error)),
                    _ => Ok(()),
                }
            }
        }
    }

    fn message(&self, prefix: IpNet, ways: &Ways) -> Result<RouteMessage, String> {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.network(), prefix.prefix_len())
            .map_err(wrong)?
            .table_id(self.settings.table)
            .protocol(RouteProtocol::from(self.settings.protocol))
            .priority(self.settings.metric);
        if let [via] = ways.as_slice() {
            let builder = builder.output_interface(via.interface).gateway(via.gateway);
            return builder.map(RouteMessageBuilder::build).map_err(wrong);
        }
        let family = if prefix.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let hop = |via: &Via| {
            let hop = RouteNextHopBuilder::new(family).interface(via.interface).via(via.gateway);
            hop.map(RouteNextHopBuilder::build).map_err(wrong)
        };
        let hops = ways.as_slice().iter().map(hop).collect::<Result<_, _>>()?;
        Ok(builder.multipath(hops).build())
    }
}

fn wrong(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Whether a word of the kernel may change what we want or hold. Our own additions do not.
fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>, settings: Settings) -> bool {
    match payload {
        NetlinkPayload::Overrun(_) => {
            metrics::counter!("bgp_speaker_kernel_overruns_total").increment(1);
            true
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            route.header.protocol != RouteProtocol::from(settings.protocol) && is_relevant(route, settings)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => is_relevant(route, settings),
        NetlinkPayload::InnerMessage(_) => true,
        _ => false,
    }
}

fn is_relevant(route: &RouteMessage, settings: Settings) -> bool {
    let table = table_of(route);
    table == settings.table || table == u32::from(RouteHeader::RT_TABLE_MAIN)
}

fn table_of(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or_else(|| u32::from(message.header.table))
}

/// What a message says of a route: prefix, metric, interface, gateway.
fn fields(message: &RouteMessage) -> (IpNet, u32, Option<u32>, Option<IpAddr>) {
    let unspecified =
        if message.header.address_family == AddressFamily::Inet { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let (mut destination, mut metric, mut interface, mut gateway) = (unspecified, 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => destination = address(found).unwrap_or(destination),
            RouteAttribute::Priority(found) => metric = *found,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(found) => gateway = address(found),
            RouteAttribute::Via(RouteVia::Inet(found)) => gateway = Some(IpAddr::V4(*found)),
            RouteAttribute::Via(RouteVia::Inet6(found)) => gateway = Some(IpAddr::V6(*found)),
            _ => {}
        }
    }
    let prefix = IpNet::new(destination, message.header.destination_prefix_length);
    (prefix.unwrap_or_else(|_| IpNet::from(destination)), metric, interface, gateway)
}

fn own_route(message: &RouteMessage) -> Own {
    let (prefix, metric, ..) = fields(message);
    let via = |(interface, gateway): (u32, Option<IpAddr>)| gateway.map(|gateway| Via { gateway, interface });
    let ways = match message.header.kind {
        RouteType::Unicast => hops(message).into_iter().map(via).collect::<Option<Vec<_>>>().and_then(Ways::new),
        _ => None,
    };
    Own { prefix, metric, ways }
}

fn foreign_routes(message: &RouteMessage) -> Option<(IpNet, u32, Foreign)> {
    let (prefix, metric, ..) = fields(message);
    let foreign = match message.header.kind {
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Foreign::Nowhere,
        RouteType::Unicast => match hops(message).as_slice() {
            [] => return None,
            [(interface, Some(gateway))] => Foreign::Gateway(Via { gateway: *gateway, interface: *interface }),
            [(interface, None)] => Foreign::Link(*interface),
            several => Foreign::Several(several.to_vec()),
        },
        _ => return None,
    };
    Some((prefix, metric, foreign))
}

/// The ways of a route: interfaces, and gateways on them where there is one.
fn hops(message: &RouteMessage) -> Vec<(u32, Option<IpAddr>)> {
    let several = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(several) = several else {
        let (_, _, interface, gateway) = fields(message);
        return interface.map(|interface| (interface, gateway)).into_iter().collect();
    };
    let hop = |hop: &RouteNextHop| {
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(found) => address(found),
            RouteAttribute::Via(RouteVia::Inet(found)) => Some(IpAddr::V4(*found)),
            RouteAttribute::Via(RouteVia::Inet6(found)) => Some(IpAddr::V6(*found)),
            _ => None,
        });
        (hop.interface_index, gateway)
    };
    several.iter().map(hop).collect()
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

fn is_errno(error: &rtnetlink::Error, numbers: &[i32]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if numbers.contains(&-message.raw_code()))
}

fn text(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}
