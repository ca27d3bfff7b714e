//! Where peers connect: sockets that ask for the signatures of those who are expected.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cloakway_runtime::Stop;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::neighbours::Neighbours;
use crate::tcp::Protection;

/// Who is expected, and how their connections are protected.
pub(crate) type Expected = Vec<(IpNet, Protection)>;

/// The open sockets.
#[derive(Default)]
pub(crate) struct Listeners(BTreeMap<SocketAddr, Open>);

struct Open {
    socket: Arc<TcpListener>,
    task: JoinHandle<()>,
}

/// Sockets that are open and not yet listened to, so that a configuration can be given up when one can't be had.
pub(crate) struct Bound(Vec<(SocketAddr, TcpListener)>);

impl Listeners {
    /// Opens what of `addresses` is not open, for whoever is `expected`.
    ///
    /// # Errors
    /// Names the address.
    pub(crate) fn bind(&self, addresses: &[SocketAddr], expected: &Expected) -> Result<Bound, String> {
        let missing = addresses.iter().filter(|address| !self.0.contains_key(address));
        let bound = missing.map(|address| {
            let listen = || {
                let listener = std::net::TcpListener::bind(address)?;
                for (peers, protection) in expected {
                    protection.on_listener(&listener, *peers, address.is_ipv6())?;
                }
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            };
            let listener = listen().map_err(|error| format!("cannot listen on {address}: {error}"))?;
            Ok((*address, listener))
        });
        bound.collect::<Result<_, String>>().map(Bound)
    }

    /// Listens to `bound` too, and no longer to what is not among `addresses`.
    pub(crate) fn take(&mut self, bound: Bound, addresses: &[SocketAddr], neighbours: &Neighbours, stop: &Stop) {
        for (address, listener) in bound.0 {
            let socket = Arc::new(listener);
            let task = tokio::spawn(run(socket.clone(), neighbours.clone(), stop.clone()));
            self.0.insert(address, Open { socket, task });
        }
        for (_, gone) in self.0.extract_if(.., |address, _| !addresses.contains(address)) {
            gone.task.abort();
        }
    }

    /// Has the open sockets ask for other signatures: those of `to` in place of those of `from`.
    pub(crate) fn expect(&self, from: &Expected, to: &Expected) {
        for (address, open) in &self.0 {
            let gone =
                from.iter().filter(|(peers, _)| !to.iter().any(|(others, with)| others == peers && with.is_signed()));
            for (peers, protection) in gone {
                if let Err(error) = protection.off_listener(&*open.socket, *peers, address.is_ipv6()) {
                    tracing::warn!(%peers, %error, "cannot take a signature back");
                }
            }
            for (peers, protection) in to.iter().filter(|expected| !from.contains(expected)) {
                if let Err(error) = protection.on_listener(&*open.socket, *peers, address.is_ipv6()) {
                    tracing::error!(%peers, %error, "cannot protect connections");
                }
            }
        }
    }
}

/// Hands connections to the peers until the stop.
async fn run(listener: Arc<TcpListener>, neighbours: Neighbours, stop: Stop) {
    loop {
        let accepted = tokio::select! {
            () = stop.told() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => neighbours.accepted(stream, from).await,
            Err(error) => {
                // Out of file descriptors, most likely: the kernel keeps the rest in its backlog meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
