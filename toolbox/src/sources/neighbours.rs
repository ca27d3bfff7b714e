//! The kernel's neighbour table: who answers ARP and ND on interfaces that subscribers are directly at.
//!
//! An entry holds while the kernel calls it reachable, stale or being asked again: somebody with that hardware address
//! answered for it and nobody else has. It ends when nobody answers any more, and when it goes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::Stop;
use futures_util::TryStreamExt as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::oneshot;
use toolbox_leases::Identities;
use toolbox_wire::record::{Address, AddressKind, User};

use super::settings::Neighbours;
use super::teller::{Gone, Teller};

/// How often the whole table is compared: a refresh of an entry is its proof.
const COMPARE: Duration = Duration::from_secs(5);

type Mac = [u8; 6];

/// Subscribes, and starts a task that follows; ends when the table has been told once.
pub(super) async fn start(settings: &Neighbours, teller: Teller, stop: Stop) -> Result<(), String> {
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh]).map_err(|error| format!("netlink: {error}"))?;
    tokio::spawn(connection);
    let (ready, read) = oneshot::channel();
    let mut table = Table {
        interfaces: settings.interfaces.clone(),
        subscribers: settings.subscribers.clone(),
        handle,
        teller,
        told: HashMap::new(),
    };
    tokio::spawn(async move {
        let mut ready = Some(ready);
        let mut ticks = tokio::time::interval(COMPARE);
        loop {
            let done = tokio::select! {
                () = stop.told() => return,
                _ = ticks.tick() => table.compare().await,
                message = messages.recv() => match message {
                    Ok((message, _)) => match message.payload {
                        NetlinkPayload::InnerMessage(message) => table.heard(message).await,
                        NetlinkPayload::Overrun(_) => table.compare().await,
                        _ => Ok(()),
                    },
                    Err(_) => {
                        table.teller.status.down("the kernel tells nothing any more");
                        let _ = table.teller.reset().await;
                        let _ = table.teller.settle().await;
                        return;
                    }
                },
            };
            if done.is_err() {
                return;
            }
            ready.take().map(|ready: oneshot::Sender<()>| ready.send(()));
        }
    });
    let _ = read.await;
    Ok(())
}

/// An entry.
struct Entry {
    address: IpAddr,
    mac: Mac,
    /// Somebody answered a moment ago.
    fresh: bool,
}

struct Table {
    interfaces: Vec<String>,
    subscribers: Arc<Identities>,
    handle: Handle,
    teller: Teller,
    told: HashMap<IpAddr, Mac>,
}

impl Table {
    async fn heard(&mut self, message: RouteNetlinkMessage) -> Result<(), Gone> {
        let (message, gone) = match message {
            RouteNetlinkMessage::NewNeighbour(message) => (message, false),
            RouteNetlinkMessage::DelNeighbour(message) => (message, true),
            _ => return Ok(()),
        };
        if !self.indexes().contains(&message.header.ifindex) {
            return Ok(());
        }
        match (entry(&message), gone) {
            (Some(entry), false) => self.tell(entry).await?,
            _ => {
                if let Some(address) = address(&message) {
                    self.end(address).await?;
                }
            }
        }
        self.settle().await
    }

    /// Reads the whole table: what is not in it any more is over.
    async fn compare(&mut self) -> Result<(), Gone> {
        self.teller.watch();
        let entries = match read(&self.handle, &self.indexes()).await {
            Ok(entries) => entries,
            Err(error) => {
                self.teller.status.down(&format!("the neighbour table: {error}"));
                self.told.clear();
                self.teller.reset().await?;
                return self.settle().await;
            }
        };
        let gone: Vec<IpAddr> = self
            .told
            .keys()
            .filter(|address| !entries.iter().any(|entry| entry.address == **address))
            .copied()
            .collect();
        for address in gone {
            self.end(address).await?;
        }
        for entry in entries {
            self.tell(entry).await?;
        }
        self.teller.status.up();
        self.settle().await
    }

    fn indexes(&self) -> Vec<u32> {
        let index = |name: &String| nix::net::if_::if_nametoindex(name.as_str()).ok();
        self.interfaces.iter().filter_map(index).collect()
    }

    async fn tell(&mut self, Entry { address, mac, fresh }: Entry) -> Result<(), Gone> {
        let known = self.told.insert(address, mac);
        let [a, b, c, d, e, f] = mac;
        let text = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let user = self.subscribers.get(&text).map_or(User::Unusable, |name| User::Named(name.clone()));
        let net = Address::whole(AddressKind::Neighbour, address.into());
        if known == Some(mac) {
            // An old answer proves nothing new.
            return if fresh { self.teller.go_on(address.to_string(), user, net, None).await } else { Ok(()) };
        }
        if known.is_some() {
            self.teller.status.alarm("moved", &format!("another hardware address answers for {address}"));
        }
        self.teller.start(address.to_string(), user, net, None).await
    }

    async fn end(&mut self, address: IpAddr) -> Result<(), Gone> {
        if self.told.remove(&address).is_some() { self.teller.stop(address.to_string()).await } else { Ok(()) }
    }

    async fn settle(&mut self) -> Result<(), Gone> {
        self.teller.status.known(self.told.len());
        self.teller.settle().await
    }
}

async fn read(handle: &Handle, indexes: &[u32]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(message) = neighbours.try_next().await.map_err(io::Error::other)? {
        if indexes.contains(&message.header.ifindex) {
            entries.extend(entry(&message));
        }
    }
    Ok(entries)
}

/// An entry that stands for somebody.
fn entry(message: &NeighbourMessage) -> Option<Entry> {
    let state = message.header.state;
    let stands = matches!(
        state,
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe
    );
    if !stands {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => Mac::try_from(octets.as_slice()).ok(),
        _ => None,
    })?;
    Some(Entry { address: address(message)?, mac, fresh: state == NeighbourState::Reachable })
}

fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
