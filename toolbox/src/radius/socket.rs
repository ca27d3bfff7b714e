//! UDP sockets that take a burst: large buffers, several at one address, and what the kernel dropped nevertheless.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use cloakway_runtime::Stop;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::tally::Tally;

/// How often the kernel is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Where the drops are in what [`MemoryInfo`] gives (`SK_MEMINFO_DROPS`, linux/sock_diag.h).
const DROPS: usize = 8;

sockopt_impl!(
    /// How full a socket is, and what it dropped.
    MemoryInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9]
);

/// Opens `count` sockets at `listen`, each with room for `buffer` octets as far as this host allows.
///
/// What one NAS process sends comes to one of them, in order: the kernel chooses by addresses and ports.
///
/// # Errors
/// The address is taken, or not ours.
pub fn open(listen: SocketAddr, count: usize, buffer: usize) -> io::Result<Vec<UdpSocket>> {
    // Sharing an address would also hide that somebody else is there already.
    let (address, first) = {
        let first = socket(listen, buffer, false)?;
        (first.local_addr()?.as_socket().unwrap_or(listen), first)
    };
    if count <= 1 {
        return Ok(vec![UdpSocket::from_std(first.into())?]);
    }
    drop(first);
    (0..count).map(|_| UdpSocket::from_std(socket(address, buffer, true)?.into())).collect()
}

fn socket(listen: SocketAddr, buffer: usize, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    // Past net.core.rmem_max with CAP_NET_ADMIN, up to it without.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    socket.bind(&listen.into())?;
    Ok(socket)
}

/// Counts what the kernel drops at `socket`, until the stop.
pub(super) async fn watch(socket: &UdpSocket, place: &str, tally: &Tally, stop: &Stop) {
    let mut known = 0_u32;
    tally.kernel_dropped(place, 0);
    loop {
        if let Some(drops) = drops(socket) {
            tally.kernel_dropped(place, u64::from(drops.wrapping_sub(known)));
            known = drops;
        }
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

fn drops(socket: &UdpSocket) -> Option<u32> {
    getsockopt(socket, MemoryInfo).ok()?.get(DROPS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_sockets_share_an_address_that_nobody_else_has() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let sockets = open(any, 3, 1 << 20).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        assert!(open(address, 1, 1 << 20).is_err() && open(address, 2, 1 << 20).is_err());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let socket = open(([127, 0, 0, 1], 0).into(), 1, 4096).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(drops(&socket), Some(0));
        for _ in 0..200 {
            sender.send_to(&[0; 1000], address).unwrap();
        }
        assert!(drops(&socket).unwrap() > 0);
    }
}
