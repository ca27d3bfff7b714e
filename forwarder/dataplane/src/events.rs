//! What the kernel says by itself: links, neighbours, addresses.

use std::net::IpAddr;
use std::time::Duration;

use forwarder_core::LinkState;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::{DataplaneError, netlink};

// One look costs some 30 us: a third of a percent of a core for each private link.
const LINK_INTERVAL: Duration = Duration::from_millis(10);

/// Something that the kernel said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state of an interface, changed or not.
    Link {
        /// Its index: stays when it is renamed, changes when it is made anew.
        index: u32,
        /// Its name.
        name: String,
        /// Its state; missing when it was deleted or moved to another namespace.
        state: LinkState,
    },
    /// A neighbour answered, or did not answer all the tries of a probe.
    Neighbour {
        /// The index of the interface that it is on.
        index: u32,
        /// Its address.
        address: IpAddr,
        /// Whether it answered.
        answered: bool,
    },
    /// The host has an address more or less.
    Addresses,
    /// Events were lost: read everything again.
    Overrun,
}

/// The stream of events. It ends when the kernel's side ends.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// Subscribes; `interfaces` are looked at in between too. Events from now on are not missed.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open(interfaces: Vec<String>) -> Result<Self, DataplaneError> {
        let addresses = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh].into_iter().chain(addresses).collect::<Vec<_>>();
        let (mut connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        netlink::roomy(connection.socket_mut().socket_ref());
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(watch_links(netlink::requests()?, interfaces, sender.clone()));
        tokio::spawn(async move {
            // The connection closes when its last handle does.
            let _handle = handle;
            while let Ok((message, _)) = messages.recv().await {
                if let Some(event) = event(message.payload)
                    && sender.send(event).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// The next event; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Overrun),
        _ => return None,
    };
    match message {
        // Bridges send messages of their own family about their ports.
        RouteNetlinkMessage::NewLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            let name = netlink::link_name(&link)?.to_owned();
            Some(Event::Link { index: link.header.index, name, state: netlink::link_state(&link) })
        }
        RouteNetlinkMessage::DelLink(link) if link.header.interface_family == AddressFamily::Unspec => {
            let name = netlink::link_name(&link)?.to_owned();
            Some(Event::Link { index: link.header.index, name, state: LinkState::Missing })
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_event(&neighbour),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Event::Addresses),
        _ => None,
    }
}

fn neighbour_event(message: &NeighbourMessage) -> Option<Event> {
    let answered = match message.header.state {
        NeighbourState::Reachable => true,
        NeighbourState::Failed => false,
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    Some(Event::Neighbour { index: message.header.ifindex, address, answered })
}

/// Says when an interface changed. The kernel's own word of a carrier may come a second late: it sends one
/// batch a second (`linkwatch_nextevent` in `net/core/link_watch.c`), for all interfaces of the machine.
async fn watch_links(handle: Handle, interfaces: Vec<String>, events: mpsc::UnboundedSender<Event>) {
    let mut known = vec![None; interfaces.len()];
    let mut ticks = tokio::time::interval(LINK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !events.is_closed() {
        ticks.tick().await;
        for (name, known) in interfaces.iter().zip(&mut known) {
            let Ok(found) = netlink::interface(&handle, name).await else { continue };
            let before = std::mem::replace(known, found);
            if before == found {
                continue;
            }
            let gone = before.map(|(index, _)| (index, LinkState::Missing));
            if let Some((index, state)) = found.or(gone) {
                // The loop's end of the channel says when to stop.
                let _ = events.send(Event::Link { index, name: name.clone(), state });
            }
        }
    }
}
