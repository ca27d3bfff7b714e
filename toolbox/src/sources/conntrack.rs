//! Linux' own NAT: the events of its connection tracking, in the namespace that we run in.
//!
//! Events are subscribed to before all flows are listed, and what happened meanwhile is applied on top: nothing is lost
//! in between. When the kernel could not keep up with us, everything that was known is doubtful, and it is listed anew: by a
//! new subscription, as what waits in the old one is from before what was lost.
//!
//! Of a flow that is older than our subscription the kernel may not tell the end (`nf_conntrack_events` is 2 by default:
//! events are kept for flows that began while somebody listened), and of one that was under way to be confirmed when we
//! subscribed not even the beginning. Such flows are looked for in the list now and then. One list is no proof that a flow
//! is gone: it is made in parts while flows come and go, so it has to be missing twice.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use cloakway_runtime::Stop;
use futures_util::FutureExt as _;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use toolbox_nat::conntrack::{GROUP_DESTROY, GROUP_NEW, Message, dump, read};
use toolbox_nat::{Flow, Flows, Mapping, Turn};
use toolbox_wire::record::{Address, AddressKind, FOREVER, Ports, User};

use super::settings::Conntrack;
use super::teller::{Gone, Teller};

const ENOBUFS: i32 = 105;
/// What one datagram of the kernel has at most.
const DATAGRAM: usize = 64 * 1024;
/// How often flows that are older than the subscription are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// Looks after which no flow can have been under way when we subscribed.
const LOOKS: u8 = 2;

/// Subscribes, and starts a task that follows; ends when all flows have been told once.
pub(super) async fn start(settings: &Conntrack, mut teller: Teller, stop: Stop) -> Result<(), String> {
    let receive_buffer = settings.receive_buffer;
    let events = subscribe(receive_buffer)?;
    let (ready, read) = oneshot::channel();
    tokio::spawn(async move {
        let mut tracker = Tracker { events, flows: Flows::new(), old: HashSet::new(), looks: 0 };
        let mut ready = Some(ready);
        loop {
            let followed = tokio::select! {
                () = stop.told() => return,
                followed = tracker.follow(&mut teller, &mut ready) => followed,
            };
            match followed {
                Ok(Lost::Overrun) => {
                    teller.status.alarm("overrun", "flows came and went faster than we could hear of them")
                }
                Ok(Lost::Error(error)) => {
                    teller.status.down(&error);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(Gone) => return,
            }
            tracker.flows.clear();
            if teller.reset().await.is_err() || teller.settle().await.is_err() {
                return;
            }
            // Whoever waits for the first list waits no longer than this.
            ready.take().map(|ready: oneshot::Sender<()>| ready.send(()));
            tracker.events = loop {
                match subscribe(receive_buffer) {
                    Ok(events) => break events,
                    Err(error) => teller.status.down(&error),
                }
                tokio::select! {
                    () = stop.told() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            };
        }
    });
    let _ = read.await;
    Ok(())
}

/// A socket that hears of flows from now on.
fn subscribe(receive_buffer: usize) -> Result<TokioSocket, String> {
    let mut events = open().map_err(|error| format!("netlink: {error}"))?;
    let socket = events.socket_mut();
    socket.set_rx_buf_sz(i32::try_from(receive_buffer).unwrap_or(i32::MAX)).map_err(|error| error.to_string())?;
    for group in [GROUP_NEW, GROUP_DESTROY] {
        let joined = socket.add_membership(group);
        joined.map_err(|error| format!("events of conntrack: {error}: that needs CAP_NET_ADMIN"))?;
    }
    Ok(events)
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

/// Why following ended.
enum Lost {
    Overrun,
    Error(String),
}

struct Tracker {
    events: TokioSocket,
    flows: Flows,
    /// Flows whose end the kernel may not tell.
    old: HashSet<Flow>,
    /// How often they were looked for since.
    looks: u8,
}

impl Tracker {
    /// Lists all flows, and follows what happens to them.
    async fn follow(&mut self, teller: &mut Teller, ready: &mut Option<oneshot::Sender<()>>) -> Result<Lost, Gone> {
        match list().await {
            Ok(flows) => {
                for flow in &flows {
                    self.flows.begin(*flow);
                }
                (self.old, self.looks) = (flows, 0);
            }
            Err(error) => return Ok(lost(&error)),
        }
        // What happened since the list was begun has waited: it has the last word before anything is told.
        while let Some(received) = receive(&mut self.events).now_or_never() {
            match received {
                Ok(datagram) => {
                    if let Err(lost) = self.take(&datagram, &mut Vec::new()) {
                        return Ok(lost);
                    }
                }
                Err(error) => return Ok(lost(&error)),
            }
        }
        for mapping in self.flows.mappings() {
            begin(teller, mapping).await?;
        }
        teller.settle().await?;
        teller.status.known(self.flows.len());
        teller.status.up();
        ready.take().map(|ready| ready.send(()));
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            teller.watch();
            let mut turns = Vec::new();
            let taken = tokio::select! {
                received = receive(&mut self.events) => match received {
                    Ok(datagram) => self.take(&datagram, &mut turns),
                    Err(error) => Err(lost(&error)),
                },
                _ = look.tick() => self.look_for_old(&mut turns).await,
            };
            for turn in turns {
                match turn {
                    Turn::Begun(mapping) => begin(teller, mapping).await?,
                    Turn::Ended(mapping) => teller.stop(name(&mapping)).await?,
                }
            }
            if let Err(lost) = taken {
                return Ok(lost);
            }
            teller.settle().await?;
            teller.status.known(self.flows.len());
        }
    }

    /// Looks for flows that the kernel tells nothing of: those that are older than the subscription and over, and those that
    /// nobody has heard of.
    async fn look_for_old(&mut self, turns: &mut Vec<Turn>) -> Result<(), Lost> {
        if self.old.is_empty() && self.looks >= LOOKS {
            return Ok(());
        }
        self.looks = self.looks.saturating_add(1);
        let there = list().await.map_err(|error| lost(&error))?;
        let missing: Vec<Flow> = self.old.difference(&there).copied().collect();
        if !missing.is_empty() {
            let again = list().await.map_err(|error| lost(&error))?;
            for flow in missing.into_iter().filter(|flow| !again.contains(flow)) {
                self.old.remove(&flow);
                turns.extend(self.flows.end(flow));
            }
        }
        // Its beginning may wait for us still, and then its end will, too.
        for flow in there {
            if !self.flows.has(&flow) {
                self.old.insert(flow);
                turns.extend(self.flows.begin(flow));
            }
        }
        Ok(())
    }

    fn take(&mut self, datagram: &[u8], turns: &mut Vec<Turn>) -> Result<(), Lost> {
        for message in read(datagram) {
            match message {
                Ok(Message::Begun(flow)) => {
                    self.old.remove(&flow);
                    turns.extend(self.flows.begin(flow));
                }
                Ok(Message::Ended(flow)) => {
                    self.old.remove(&flow);
                    turns.extend(self.flows.end(flow));
                }
                Ok(Message::Overrun) => return Err(Lost::Overrun),
                Ok(Message::Done | Message::Refused(_) | Message::Other) => {}
                Err(error) => return Err(Lost::Error(error.to_string())),
            }
        }
        Ok(())
    }
}

/// All flows that are translated.
async fn list() -> io::Result<HashSet<Flow>> {
    let mut socket = open()?;
    socket.send_to(&dump(), &SocketAddr::new(0, 0)).await?;
    let mut flows = HashSet::new();
    loop {
        let datagram = receive(&mut socket).await?;
        for message in read(&datagram) {
            match message.map_err(io::Error::other)? {
                Message::Begun(flow) => drop(flows.insert(flow)),
                Message::Done => return Ok(flows),
                Message::Refused(number) => return Err(io::Error::from_raw_os_error(number)),
                Message::Overrun => return Err(io::Error::from_raw_os_error(ENOBUFS)),
                Message::Ended(_) | Message::Other => {}
            }
        }
    }
}

fn lost(error: &io::Error) -> Lost {
    if error.raw_os_error() == Some(ENOBUFS) { Lost::Overrun } else { Lost::Error(format!("conntrack: {error}")) }
}

async fn receive(socket: &mut TokioSocket) -> io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(DATAGRAM);
    socket.recv(&mut buffer).await?;
    Ok(buffer)
}

async fn begin(teller: &mut Teller, mapping: Mapping) -> Result<(), Gone> {
    let ports = Ports::new(mapping.port, mapping.port).unwrap_or(Ports::ALL).of(mapping.protocol);
    let address = Address::ports(AddressKind::PortBlock, mapping.external, ports);
    // Until the kernel says that it is gone.
    teller.start(name(&mapping), User::Behind(mapping.internal), address, Some(FOREVER)).await
}

fn name(mapping: &Mapping) -> String {
    let Mapping { external, port, protocol, internal } = mapping;
    format!("{external}:{port}/{protocol} {internal}")
}
