//! A CGNAT that exports its translations by IPFIX: the sockets, and what is wrong with a message.

mod books;
mod moment;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use toolbox_nat::ipfix::{Event, Session, Told};

use self::books::{Books, Domain};
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
        books: Arc::new(Mutex::new(Books::new(teller, settings.holds))),
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
    collector.books.lock().await.teller.status.up();
    tokio::spawn(async move {
        loop {
            collector.books.lock().await.teller.watch();
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
    books: Arc<Mutex<Books>>,
    places: Arc<Semaphore>,
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
            let place = match sessions.iter().position(|(of, _)| *of == from) {
                Some(place) => place,
                // An exporter that was started again comes from another port.
                None => {
                    if sessions.len() >= SENDERS {
                        let (oldest, _) = sessions.remove(0);
                        let what = format!("{oldest} is no longer followed: more than {SENDERS} senders");
                        if self.books.lock().await.all_over(oldest.ip(), "senders", &what).await.is_err() {
                            return;
                        }
                    }
                    sessions.push((from, Session::new()));
                    sessions.len() - 1
                }
            };
            let Some((_, session)) = sessions.get_mut(place) else { continue };
            if self.message(from.ip(), session, buffer.get(..length).unwrap_or_default()).await.is_err() {
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
            tokio::spawn(self.clone().connection(stream, from.ip(), place, stop.clone()));
        }
    }

    async fn connection(self, mut stream: TcpStream, from: IpAddr, _place: OwnedSemaphorePermit, stop: Stop) {
        let (mut session, mut domains) = (Session::new(), BTreeSet::new());
        let ended = loop {
            let message = tokio::select! {
                () = stop.told() => return,
                message = next(&mut stream) => message,
            };
            match message {
                Ok(message) => match self.message(from, &mut session, &message).await {
                    Ok(domain) => domains.extend(domain),
                    Err(Gone) => return,
                },
                Err(error) => break error,
            }
        };
        // What changes from now on is not heard.
        let mut books = self.books.lock().await;
        for domain in domains {
            let what = format!("the connection of {domain} ended: {ended}");
            if books.over(domain, "disconnected", &what).await.is_err() {
                return;
            }
        }
        let _ = books.settle().await;
    }

    async fn stranger(&self, from: IpAddr) {
        let books = self.books.lock().await;
        books.teller.status.alarm("stranger", &format!("a message of {from}, which is no exporter"));
    }

    /// Gives the domain that it is of.
    async fn message(&self, from: IpAddr, session: &mut Session, octets: &[u8]) -> Result<Option<Domain>, Gone> {
        let arrival = clock::wall();
        let mut events: Vec<Event> = Vec::new();
        let mut odd = None;
        let read = session.read(octets, |_, record| match self.settings.dialect.event(record) {
            Ok(event) => events.extend(event),
            Err(error) => odd = odd.or(Some(error)),
        });
        let mut books = self.books.lock().await;
        let told = match read {
            Ok(told) => told,
            // Which domain it was of is as uncertain as the rest.
            Err(error) => {
                books.all_over(from, "malformed", &format!("a message of {from}: {error}")).await?;
                books.settle().await?;
                return Ok(None);
            }
        };
        let domain = Domain { exporter: from.to_canonical(), id: told.domain };
        match told {
            Told { gap: true, .. } => {
                books.over(domain, "gap", &format!("messages of {domain} are missing, or out of order")).await?;
            }
            Told { first: true, .. } if books.has_said(domain) => {
                books.over(domain, "restarted", &format!("{domain} begins to count anew")).await?;
            }
            Told { unreadable: 1.., .. } => {
                books.over(domain, "template", &format!("a set of {domain} came before its template")).await?;
            }
            Told { .. } => {}
        }
        for event in events {
            books.event(domain, event, told.exported_s, arrival).await?;
        }
        if let Some(error) = odd {
            books.over(domain, "event", &format!("{domain}: {error}")).await?;
        }
        books.heard(domain, arrival);
        books.settle().await?;
        Ok(Some(domain))
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
