//! Lets configured peers in, and nobody else.

use std::net::{IpAddr, SocketAddr};

use cloakway_runtime::Stop;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Opens `address` for peers.
///
/// # Errors
/// Names the address.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().map_err(|error: std::io::Error| format!("cannot listen on {address}: {error}"))
}

/// Hands connections to the tasks of their peers until the stop.
pub(crate) async fn run(listener: TcpListener, doors: Vec<(IpAddr, mpsc::Sender<TcpStream>)>, stop: Stop) {
    loop {
        let accepted = tokio::select! {
            () = stop.told() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let address = from.ip().to_canonical();
                let door = doors.iter().find(|(peer, _)| *peer == address);
                // Who is no peer, or knocks faster than we open, is shut out without a word.
                if door.is_none_or(|(_, door)| door.try_send(stream).is_err()) {
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
