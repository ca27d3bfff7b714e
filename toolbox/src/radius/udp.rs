//! RADIUS over UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use cloakway_runtime::Stop;
use cloakway_types::PrefixMap;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::service::{Came, Client, Later, Learning, Reaction, Recent, Service, Takes};
use super::socket::{self, Inbox, TOGETHER};
use super::tally::Dropped;

/// Packets that may wait for the disk or a home server; over it they are dropped, and the NAS sends again.
const WAITING: usize = 16_384;

/// A server at one or several UDP addresses. Clones share it.
#[derive(Debug, Clone)]
pub struct Server {
    service: Service,
    clients: Arc<PrefixMap<Arc<Client>>>,
    places: Arc<Semaphore>,
}

impl Server {
    /// A server that knows `clients`.
    #[must_use]
    pub fn new(service: Service, clients: Arc<PrefixMap<Arc<Client>>>) -> Self {
        Self { service, clients, places: Arc::new(Semaphore::new(WAITING)) }
    }

    /// Serves `socket` until the stop.
    pub async fn serve(self, socket: UdpSocket, takes: Takes, stop: Stop) {
        let place = socket.local_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
        let socket = Arc::new(socket);
        let drops = socket::watch(&socket, &place, self.service.tally(), &stop);
        tokio::join!(drops, self.receive(&socket, takes, &stop));
    }

    async fn receive(&self, socket: &Arc<UdpSocket>, takes: Takes, stop: &Stop) {
        let recent = Recent::default();
        let mut inbox = Inbox::new(socket);
        loop {
            let ready = tokio::select! {
                () = stop.told() => return,
                ready = socket.readable() => ready,
            };
            if ready.is_err() {
                continue;
            }
            // An ICMP error about an earlier answer comes back here; the next packet is not the worse for it.
            if inbox.take(socket).is_err() {
                continue;
            }
            let (mut learning, mut answers) = (Vec::new(), Vec::new());
            let mut came: Option<Came> = None;
            for (from, datagrams) in inbox.datagrams() {
                let came = came.get_or_insert_with(|| Came::just_now(from)).with(from);
                let client = self.client(from);
                for datagram in datagrams {
                    let Some(client) = self.may(client) else { continue };
                    match self.service.packet(client, takes, datagram, came, &recent) {
                        Reaction::Answer(answer) => answers.push((answer, from)),
                        Reaction::Nothing => {}
                        Reaction::Learn(of) => learning.push((of, from)),
                        Reaction::Wait(answer) => self.answer(answer, from, socket),
                    }
                }
            }
            if !learning.is_empty() {
                self.learn(learning, &recent, socket);
            }
            socket::send_all(socket, answers).await;
        }
    }

    fn client(&self, from: SocketAddr) -> Option<&Arc<Client>> {
        self.clients.lookup(from.ip().to_canonical()).map(|(_, client)| client)
    }

    /// Whether a packet of `client` is taken now; it is counted where it is not.
    fn may<'c>(&self, client: Option<&'c Arc<Client>>) -> Option<&'c Arc<Client>> {
        let tally = self.service.tally();
        match client {
            None => tally.dropped(None, &Dropped::UnknownClient),
            Some(client) if self.places.available_permits() < TOGETHER => {
                tally.dropped(Some(&client.name), &Dropped::Busy);
            }
            Some(_) => return client,
        }
        None
    }

    /// Answers records that came together when they are durable together.
    fn learn(&self, learning: Vec<(Learning, SocketAddr)>, recent: &Recent, socket: &Arc<UdpSocket>) {
        let count = u32::try_from(learning.len()).unwrap_or(u32::MAX);
        let learnt = self.service.learn_all(learning, recent);
        let (socket, places) = (socket.clone(), self.places.clone());
        tokio::spawn(async move {
            let held = places.acquire_many(count).await;
            socket::send_all(&socket, learnt.await).await;
            drop(held);
        });
    }

    /// Answers when another server has; what waits for it holds up nobody else.
    fn answer(&self, answer: Later<Option<Vec<u8>>>, to: SocketAddr, socket: &Arc<UdpSocket>) {
        let (socket, places) = (socket.clone(), self.places.clone());
        tokio::spawn(async move {
            let held = places.acquire().await;
            if let Some(answer) = answer.await {
                let _ = socket.send_to(&answer, to).await;
            }
            drop(held);
        });
    }
}
