//! A CGNAT that exports its translations by IPFIX.
//!
//! Messages are numbered: when one is missing, a translation may have gone to somebody else unheard, and all that was
//! said is over. So it is when something is said that cannot be understood.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use toolbox_nat::ipfix::{Event, Happening, Session, Told, Which};
use toolbox_nat::{Flows, Mapping, Turn};
use toolbox_wire::record::{Address, AddressKind, Ports, User};

use super::settings::Ipfix;
use super::teller::{Gone, Teller};

/// Exporters that send by UDP, each with templates of its own.
const SENDERS: usize = 64;
/// Connections at once.
const CONNECTIONS: usize = 64;
/// Octets that may wait in the kernel.
const BUFFER: usize = 8 << 20;

/// Listens; a task for each socket.
pub(super) async fn start(settings: &Ipfix, teller: Teller, stop: Stop) -> Result<(), String> {
    let collector = Collector {
        settings: settings.clone(),
        inner: Arc::new(Mutex::new(Inner { teller, flows: Flows::new() })),
        places: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    for listen in &settings.udp {
        let socket = UdpSocket::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
        // As much as the host allows.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(BUFFER);
        tokio::spawn(collector.clone().datagrams(socket, stop.clone()));
    }
    for listen in &settings.tcp {
        let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
        tokio::spawn(collector.clone().connections(listener, stop.clone()));
    }
    collector.inner.lock().await.teller.status.up();
    tokio::spawn(async move {
        loop {
            collector.inner.lock().await.teller.watch();
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    });
    Ok(())
}

#[derive(Clone)]
struct Collector {
    settings: Ipfix,
    inner: Arc<Mutex<Inner>>,
    places: Arc<Semaphore>,
}

struct Inner {
    teller: Teller,
    flows: Flows,
}

impl Collector {
    fn is_exporter(&self, from: IpAddr) -> bool {
        self.settings.exporters.iter().any(|prefix| prefix.contains(&from.to_canonical()))
    }

    async fn datagrams(self, socket: UdpSocket, stop: Stop) {
        let mut sessions: Vec<(SocketAddr, Session)> = Vec::new();
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let received = tokio::select! {
                () = stop.told() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            let Ok((length, from)) = received else { continue };
            if !self.is_exporter(from.ip()) {
                self.stranger(from.ip()).await;
                continue;
            }
            let place = sessions.iter().position(|(of, _)| *of == from).unwrap_or_else(|| {
                // An exporter that was started again comes from another port.
                if sessions.len() >= SENDERS {
                    sessions.remove(0);
                }
                sessions.push((from, Session::new()));
                sessions.len() - 1
            });
            let Some((_, session)) = sessions.get_mut(place) else { continue };
            if self.message(session, buffer.get(..length).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    }

    async fn connections(self, listener: TcpListener, stop: Stop) {
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else { continue };
            if !self.is_exporter(from.ip()) {
                self.stranger(from.ip()).await;
                continue;
            }
            let Ok(place) = self.places.clone().try_acquire_owned() else { continue };
            tokio::spawn(self.clone().connection(stream, place, stop.clone()));
        }
    }

    async fn connection(self, mut stream: TcpStream, _place: OwnedSemaphorePermit, stop: Stop) {
        let mut session = Session::new();
        let ended = loop {
            let message = tokio::select! {
                () = stop.told() => return,
                message = next(&mut stream) => message,
            };
            match message {
                Ok(message) => {
                    if self.message(&mut session, &message).await.is_err() {
                        return;
                    }
                }
                Err(error) => break error,
            }
        };
        // What changes from now on is not heard.
        let mut inner = self.inner.lock().await;
        let _ = inner.over("disconnected", &format!("an exporter's connection ended: {ended}")).await;
    }

    async fn stranger(&self, from: IpAddr) {
        let inner = self.inner.lock().await;
        inner.teller.status.alarm("stranger", &format!("a message of {from}, which is no exporter"));
    }

    async fn message(&self, session: &mut Session, octets: &[u8]) -> Result<(), Gone> {
        let mut events: Vec<Event> = Vec::new();
        let mut odd = None;
        let read = session.read(octets, |_, record| match self.settings.dialect.event(record) {
            Ok(event) => events.extend(event),
            Err(error) => odd = odd.or(Some(error)),
        });
        let mut inner = self.inner.lock().await;
        match read {
            Ok(Told { gap: true, domain, .. }) => {
                inner.over("gap", &format!("messages of domain {domain} are missing")).await?;
            }
            Ok(Told { unreadable: 1.., domain, .. }) => {
                inner.over("template", &format!("a set of domain {domain} came before its template")).await?;
            }
            Err(error) => inner.over("malformed", &error.to_string()).await?,
            Ok(_) => {}
        }
        for event in events {
            inner.event(event, self.settings.holds).await?;
        }
        if let Some(error) = odd {
            inner.over("event", &error.to_string()).await?;
        }
        let known = inner.flows.len();
        inner.teller.status.known(known);
        inner.teller.settle().await
    }
}

/// The next message of a stream.
async fn next(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 4];
    stream.read_exact(&mut message).await?;
    let length = Session::length(&message).map_err(io::Error::other)?.unwrap_or(4);
    message.resize(length, 0);
    stream.read_exact(message.get_mut(4..).unwrap_or_default()).await?;
    Ok(message)
}

impl Inner {
    /// Nothing that was said is certain any more.
    async fn over(&mut self, reason: &'static str, what: &str) -> Result<(), Gone> {
        self.teller.status.alarm(reason, what);
        self.flows.clear();
        self.teller.reset().await
    }

    async fn event(&mut self, event: Event, holds: Option<Duration>) -> Result<(), Gone> {
        match event.happening {
            Happening::Session(flow) => {
                let turn = match event.which {
                    Which::Begun => self.flows.begin(flow),
                    Which::Ended => self.flows.end(flow),
                };
                match turn {
                    Some(Turn::Begun(mapping)) => self.mapping(Which::Begun, mapping, true, holds).await,
                    Some(Turn::Ended(mapping)) => self.mapping(Which::Ended, mapping, true, holds).await,
                    None => Ok(()),
                }
            }
            Happening::Binding(mapping) => self.mapping(event.which, mapping, false, holds).await,
            Happening::Block { external, first, last, internal } => {
                let Some(ports) = Ports::new(first, last) else { return Ok(()) };
                let address = Address::ports(AddressKind::PortBlock, external, ports);
                self.tell(event.which, format!("{external}:{ports}"), internal, address, holds).await
            }
            Happening::Address { external, internal } => {
                let address = Address::whole(AddressKind::PortBlock, external.into());
                self.tell(event.which, external.to_string(), internal, address, holds).await
            }
        }
    }

    /// `of_flows`: one port may be several internal addresses'; else a later one replaces what was.
    async fn mapping(
        &mut self,
        which: Which,
        mapping: Mapping,
        of_flows: bool,
        holds: Option<Duration>,
    ) -> Result<(), Gone> {
        let Mapping { external, port, protocol, internal } = mapping;
        let Some(ports) = Ports::new(port, port).map(|ports| ports.of(protocol)) else { return Ok(()) };
        let name = if of_flows { format!("{external}:{ports} {internal}") } else { format!("{external}:{ports}") };
        self.tell(which, name, internal, Address::ports(AddressKind::PortBlock, external, ports), holds).await
    }

    async fn tell(
        &mut self,
        which: Which,
        name: String,
        internal: IpAddr,
        address: Address,
        holds: Option<Duration>,
    ) -> Result<(), Gone> {
        match which {
            Which::Begun => {
                let until = holds.map(|holds| clock::wall() + holds);
                self.teller.start(name, User::Behind(internal), address, until).await
            }
            Which::Ended => self.teller.stop(name).await,
        }
    }
}
