//! How much of what was sent the peer's TCP has acknowledged.

use nix::libc;
use nix::sys::socket::getsockopt;
use tokio::net::TcpStream;

/// The head of the kernel's `struct tcp_info` (linux/tcp.h), which only grows at its end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct TcpInfo {
    states: [u8; 8],
    numbers: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
}

#[derive(Debug, Clone, Copy)]
struct Info;

nix::getsockopt_impl!(Info, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo, nix::sys::socket::sockopt::GetStruct<TcpInfo>);

/// Octets that the peer's TCP has acknowledged since the connection began, the SYN included.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn acknowledged(stream: &TcpStream) -> std::io::Result<u64> {
    getsockopt(stream, Info).map(|info| info.bytes_acked).map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_was_sent_is_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
        let before = acknowledged(&near).unwrap();
        near.write_all(&[7; 5000]).await.unwrap();
        far.read_exact(&mut [0; 5000]).await.unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while acknowledged(&near).unwrap() != before + 5000 {
            assert!(std::time::Instant::now() < deadline, "{:?}", acknowledged(&near));
            tokio::task::yield_now().await;
        }
    }
}
