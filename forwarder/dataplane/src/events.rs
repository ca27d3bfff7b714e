//! What the kernel says by itself: links, neighbours, the guard's table.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use forwarder_core::LinkState;
use forwarder_core::ruleset::TABLE;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::{DataplaneError, netlink};

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
    /// Something of the guard's table was deleted, maybe by us.
    GuardTouched,
    /// Events were lost: read everything again.
    Overrun,
}

/// The stream of events. It ends when the kernel's side ends.
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    /// Subscribes. Events from now on are not missed.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self, DataplaneError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Neigh];
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::unbounded_channel();
        let guard = sender.clone();
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
        tokio::spawn(watch_guard(guard));
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

/// `nft monitor` sees a flushed ruleset at once; the periodic read-back sees what it misses.
async fn watch_guard(events: mpsc::UnboundedSender<Event>) {
    while !events.is_closed() {
        let child = Command::new("nft")
            .args(["monitor", "destroy"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match child {
            Ok(mut child) => {
                if let Some(stdout) = child.stdout.take() {
                    let mut lines = BufReader::new(stdout).lines();
                    loop {
                        let line = tokio::select! {
                            () = events.closed() => return,
                            line = lines.next_line() => line,
                        };
                        match line {
                            Ok(Some(line)) if line.contains(TABLE) => {
                                let _ = events.send(Event::GuardTouched);
                            }
                            Ok(Some(_)) => {}
                            Ok(None) | Err(_) => break,
                        }
                    }
                }
                let _ = child.kill().await;
            }
            Err(error) => tracing::debug!(%error, "nft monitor does not start"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
