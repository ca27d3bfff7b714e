//! Lets configured peers in, and nobody else.

use std::net::{IpAddr, SocketAddr};

use cloakway_runtime::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::tcp::Protection;

/// Where the connections of a peer go.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) peer: IpAddr,
    pub(crate) protection: Protection,
    pub(crate) door: mpsc::Sender<TcpStream>,
}

/// Opens `address` for the peers behind `doors`.
///
/// # Errors
/// Names the address.
pub(crate) fn bind(address: SocketAddr, doors: &[Door]) -> Result<TcpListener, String> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        for door in doors {
            door.protection.on_listener(&listener, door.peer, address.is_ipv6())?;
        }
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().map_err(|error: std::io::Error| format!("cannot listen on {address}: {error}"))
}

/// Hands connections to the tasks of their peers until the stop.
pub(crate) async fn run(listener: TcpListener, doors: Vec<Door>, stop: Stop) {
    loop {
        let accepted = tokio::select! {
            () = stop.told() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let address = from.ip().to_canonical();
                let door = doors.iter().find(|door| door.peer == address);
                // Who is no peer, or knocks faster than we open, is shut out without a word.
                if door.is_none_or(|door| door.door.try_send(stream).is_err()) {
                    metrics::counter!("bgp_speaker_connections_refused_total").increment(1);
                    tracing::debug!(%from, "connection refused");
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: the kernel keeps the rest in its backlog meanwhile.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
