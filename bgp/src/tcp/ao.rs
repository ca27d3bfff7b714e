//! TCP-AO (RFC 5925): keys with identifiers, so that they can be changed while the session runs. The kernel signs, from
//! Linux 6.7 on where it is built with CONFIG_TCP_AO.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use cloakway_crypto::Secret;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::SetSockOpt as _;

use super::{family, wanted};

/// The longest key that the kernel takes.
pub(crate) const LONGEST_KEY: usize = 80;
/// `TCP_AO_ADD_KEY` and `TCP_AO_DEL_KEY` of linux/tcp.h.
const TCP_AO_ADD_KEY: libc::c_int = 38;
const TCP_AO_DEL_KEY: libc::c_int = 39;

/// How segments are signed: what RFC 5926 has every implementation offer, shortened to 96 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-1-96.
    HmacSha1,
    /// AES-128-CMAC-96.
    AesCmac,
}

impl Algorithm {
    /// What the kernel calls it.
    const fn kernel_name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac(sha1)",
            Self::AesCmac => "cmac(aes128)",
        }
    }
}

/// A master key.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Names it in what we send.
    pub id: u8,
    /// Names it in what the peer sends.
    pub receive_id: u8,
    /// How segments are signed.
    pub algorithm: Algorithm,
    /// The key itself.
    pub secret: Secret<String>,
}

/// `struct tcp_ao_add` of linux/tcp.h, octet by octet.
type Add = [u8; 288];
/// `struct tcp_ao_del` of linux/tcp.h, octet by octet.
type Del = [u8; 144];

#[derive(Clone)]
struct AddKey;
nix::setsockopt_impl!(AddKey, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, Add, nix::sys::socket::sockopt::SetStruct<'_, Add>);

#[derive(Clone)]
struct DelKey;
nix::setsockopt_impl!(DelKey, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, Del, nix::sys::socket::sockopt::SetStruct<'_, Del>);

/// Whether this kernel has it.
///
/// # Errors
/// That it has not, with what it would take.
pub(crate) fn available() -> Result<(), String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .map_err(|error| format!("cannot ask the kernel for TCP-AO: {error}"))?;
    // A key of nobody is refused as wrong by a kernel that would take a right one.
    match AddKey.set(&socket, &[0; size_of::<Add>()]) {
        Err(Errno::ENOPROTOOPT) => Err(NONE.to_owned()),
        Ok(()) | Err(_) => Ok(()),
    }
}

const NONE: &str = "this kernel has no TCP-AO: it takes Linux 6.7 or later with CONFIG_TCP_AO; md5-password-file is the \
                    older way";

/// Has `socket` sign with `keys` towards `peers`; `connecting`: the first key is used from the first segment on.
pub(super) fn add(
    socket: &impl AsFd,
    keys: &[Key],
    peers: IpNet,
    ipv6_socket: bool,
    connecting: bool,
) -> io::Result<()> {
    for (at, key) in keys.iter().enumerate() {
        let added = AddKey.set(socket, &add_key(key, peers, ipv6_socket, connecting && at == 0));
        added.map_err(|error| match error {
            Errno::ENOPROTOOPT => io::Error::new(io::ErrorKind::Unsupported, NONE),
            error => wanted("TCP-AO", error),
        })?;
    }
    Ok(())
}

/// Takes the keys back.
pub(super) fn remove(socket: &impl AsFd, keys: &[Key], peers: IpNet, ipv6_socket: bool) -> io::Result<()> {
    for key in keys {
        DelKey.set(socket, &del_key(key, peers, ipv6_socket)).map_err(|error| wanted("TCP-AO", error))?;
    }
    Ok(())
}

fn put(out: &mut [u8], at: usize, octets: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(octets) {
        *to = *from;
    }
}

/// `struct sockaddr_storage`; an IPv6 socket sees an IPv4 peer as a mapped address, with its prefix in bits of IPv4.
fn put_address(out: &mut [u8], peers: IpNet, ipv6_socket: bool) {
    match (peers.network(), ipv6_socket) {
        (IpAddr::V4(peer), false) => {
            put(out, 0, &family(libc::AF_INET));
            put(out, 4, &peer.octets());
        }
        (IpAddr::V4(peer), true) => {
            put(out, 0, &family(libc::AF_INET6));
            put(out, 8, &peer.to_ipv6_mapped().octets());
        }
        (IpAddr::V6(peer), _) => {
            put(out, 0, &family(libc::AF_INET6));
            put(out, 8, &peer.octets());
        }
    }
}

fn add_key(key: &Key, peers: IpNet, ipv6_socket: bool, current: bool) -> Add {
    let mut out = [0; size_of::<Add>()];
    put_address(&mut out, peers, ipv6_socket);
    put(&mut out, 128, key.algorithm.kernel_name().as_bytes());
    // The bits set_current and set_rnext, the first two of a bit field: where those are depends on the machine.
    let bits: u32 = if cfg!(target_endian = "big") { 0b11 << 30 } else { 0b11 };
    put(&mut out, 196, &if current { bits } else { 0 }.to_ne_bytes());
    let secret = key.secret.expose().as_bytes();
    let length = u8::try_from(secret.len().min(LONGEST_KEY)).unwrap_or_default();
    // prefix, sndid, rcvid, maclen (0: the algorithm's own), keyflags, keylen
    put(&mut out, 202, &[peers.prefix_len(), key.id, key.receive_id, 0, 0, length]);
    put(&mut out, 208, secret.get(..usize::from(length)).unwrap_or_default());
    out
}

fn del_key(key: &Key, peers: IpNet, ipv6_socket: bool) -> Del {
    let mut out = [0; size_of::<Del>()];
    put_address(&mut out, peers, ipv6_socket);
    put(&mut out, 138, &[peers.prefix_len(), key.id, key.receive_id]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Key {
        Key { id: 7, receive_id: 9, algorithm: Algorithm::AesCmac, secret: Secret::from(secret) }
    }

    #[test]
    fn the_kernels_structures_to_the_octet() {
        let v4 = add_key(&key("secret"), "192.0.2.0/24".parse().unwrap(), false, true);
        assert_eq!((&v4[..2], &v4[2..8]), (&2_u16.to_ne_bytes()[..], &[0, 0, 192, 0, 2, 0][..]));
        assert_eq!(&v4[128..141], b"cmac(aes128)\0");
        // ifindex; the bit field, set_current and set_rnext; reserved2
        assert_eq!((&v4[192..196], &v4[200..202]), (&[0; 4][..], &[0; 2][..]));
        assert_eq!(u32::from_ne_bytes([v4[196], v4[197], v4[198], v4[199]]).count_ones(), 2);
        assert_eq!(&v4[202..208], [24, 7, 9, 0, 0, 6]);
        assert_eq!(&v4[208..215], b"secret\0");
        let v6 = add_key(&key(&"x".repeat(90)), "2001:db8::1/128".parse().unwrap(), true, false);
        assert_eq!((&v6[..2], v6[23], &v6[196..200]), (&10_u16.to_ne_bytes()[..], 1, &[0; 4][..]));
        assert_eq!((v6[202], v6[207], v6[287]), (128, 80, b'x'));
        let mapped = add_key(&key("k"), "192.0.2.1/32".parse().unwrap(), true, false);
        assert_eq!((&mapped[18..24], mapped[202]), (&[0xff, 0xff, 192, 0, 2, 1][..], 32));
        let gone = del_key(&key("secret"), "192.0.2.0/24".parse().unwrap(), false);
        assert_eq!(
            (&gone[4..8], &gone[128..138], &gone[138..144]),
            (&[192, 0, 2, 0][..], &[0; 10][..], &[24, 7, 9, 0, 0, 0][..])
        );
    }

    #[test]
    fn a_kernel_without_it_is_named_plainly() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let added = add(&socket, &[key("secret")], "127.0.0.1/32".parse().unwrap(), false, true);
        match available() {
            Ok(()) => added.unwrap(),
            Err(reason) => {
                assert!(reason.contains("Linux 6.7 or later with CONFIG_TCP_AO"), "{reason}");
                assert_eq!(added.unwrap_err().to_string(), reason);
            }
        }
    }
}
