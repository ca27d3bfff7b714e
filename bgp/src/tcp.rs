//! What protects a session's TCP: signatures (RFC 2385, RFC 5925) and the distance that packets may have come (GTSM, RFC 5082).
//!
//! The kernel does both. Options that the standard library does not know are set by nix's own macro, so that no unsafe
//! code is written here.

pub mod ao;

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::os::fd::AsFd;

use cloakway_crypto::Secret;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::SetSockOpt as _;
use socket2::SockRef;

/// The longest password that the kernel takes.
pub(crate) const LONGEST_PASSWORD: usize = 80;
/// What a packet carries when it leaves (RFC 5082 §3).
const FULL_TTL: u32 = 255;

/// What the operator wants of a peer's TCP.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Protection {
    /// Every segment is signed with it, and no other is taken.
    pub md5_password: Option<Secret<String>>,
    /// The same with keys that have identifiers; the first is the one that we begin with.
    pub ao_keys: Vec<ao::Key>,
    /// Packets that have come by more routers than this less one are dropped.
    pub ttl_security_hops: Option<NonZeroU8>,
}

/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: the prefix length counts.
const BY_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h, octet by octet: address, flags, prefix length, key length, interface, key.
type Md5Signature = [u8; 216];

#[derive(Clone)]
struct SetMd5Signature;
nix::setsockopt_impl!(
    SetMd5Signature,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG,
    Md5Signature,
    nix::sys::socket::sockopt::SetStruct<'_, Md5Signature>
);

#[derive(Clone)]
struct SetMd5SignatureByPrefix;
nix::setsockopt_impl!(
    SetMd5SignatureByPrefix,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG_EXT,
    Md5Signature,
    nix::sys::socket::sockopt::SetStruct<'_, Md5Signature>
);

#[derive(Clone)]
struct SetMinimumTtl;
nix::setsockopt_impl!(
    SetMinimumTtl,
    libc::IPPROTO_IP,
    libc::IP_MINTTL,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<'_, libc::c_int>
);

#[derive(Clone)]
struct SetMinimumHopCount;
nix::setsockopt_impl!(
    SetMinimumHopCount,
    libc::IPPROTO_IPV6,
    libc::IPV6_MINHOPCOUNT,
    libc::c_int,
    nix::sys::socket::sockopt::SetStruct<'_, libc::c_int>
);

impl Protection {
    /// Whether segments are signed.
    pub(crate) fn is_signed(&self) -> bool {
        self.md5_password.is_some() || !self.ao_keys.is_empty()
    }

    /// Before connecting to `peer`, on a socket of its family.
    ///
    /// # Errors
    /// What the kernel says, with what was wanted of it.
    pub(crate) fn before_connecting(&self, socket: &impl AsFd, peer: IpAddr) -> io::Result<()> {
        self.sign(socket, peer, peer.is_ipv6())?;
        ao::add(socket, &self.ao_keys, peer.into(), peer.is_ipv6(), true)?;
        self.bound_distance(socket, peer.is_ipv6())
    }

    /// On a listening socket that somebody from `peers` may connect to: one address, or a prefix of them.
    ///
    /// # Errors
    /// As [`Protection::before_connecting`].
    pub(crate) fn on_listener(&self, socket: &impl AsFd, peers: IpNet, listens_on_ipv6: bool) -> io::Result<()> {
        if !hears(peers, listens_on_ipv6) {
            return Ok(());
        }
        if self.ttl_security_hops.is_some() {
            // The handshake is answered before anybody here sees it. To others a high TTL does no harm.
            full_ttl(socket, listens_on_ipv6)?;
        }
        ao::add(socket, &self.ao_keys, peers, listens_on_ipv6, false)?;
        let Some(password) = &self.md5_password else { return Ok(()) };
        let signature = md5_signature(peers, listens_on_ipv6, password.expose().as_bytes());
        SetMd5SignatureByPrefix.set(socket, &signature).map_err(|error| no_md5(error, "TCP-MD5"))
    }

    /// Takes back what [`Protection::on_listener`] asked for; the distance is held to at each connection.
    ///
    /// # Errors
    /// As [`Protection::before_connecting`].
    pub(crate) fn off_listener(&self, socket: &impl AsFd, peers: IpNet, listens_on_ipv6: bool) -> io::Result<()> {
        if !hears(peers, listens_on_ipv6) {
            return Ok(());
        }
        ao::remove(socket, &self.ao_keys, peers, listens_on_ipv6)?;
        if self.md5_password.is_none() {
            return Ok(());
        }
        let signature = md5_signature(peers, listens_on_ipv6, &[]);
        SetMd5SignatureByPrefix.set(socket, &signature).map_err(|error| no_md5(error, "TCP-MD5"))
    }

    /// On a connection that was accepted.
    ///
    /// # Errors
    /// As [`Protection::before_connecting`].
    pub(crate) fn on_accepted(&self, socket: &impl AsFd, peer_on_ipv6_socket: bool) -> io::Result<()> {
        self.bound_distance(socket, peer_on_ipv6_socket)
    }

    fn sign(&self, socket: &impl AsFd, peer: IpAddr, ipv6_socket: bool) -> io::Result<()> {
        let Some(password) = &self.md5_password else { return Ok(()) };
        let signature = md5_signature(peer.into(), ipv6_socket, password.expose().as_bytes());
        SetMd5Signature.set(socket, &signature).map_err(|error| no_md5(error, "TCP-MD5"))
    }

    fn bound_distance(&self, socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
        let Some(hops) = self.ttl_security_hops else { return Ok(()) };
        full_ttl(socket, ipv6)?;
        let least = 256 - libc::c_int::from(hops.get());
        let set = if ipv6 { SetMinimumHopCount.set(socket, &least) } else { SetMinimumTtl.set(socket, &least) };
        set.map_err(|error| wanted("TTL security", error))
    }
}

fn full_ttl(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if ipv6 { socket.set_unicast_hops_v6(FULL_TTL) } else { socket.set_ttl_v4(FULL_TTL) }
}

fn wanted(what: &str, error: Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {}", error.desc()))
}

fn no_md5(error: Errno, what: &str) -> io::Error {
    match error {
        Errno::ENOPROTOOPT => wanted("TCP-MD5: this kernel has none (CONFIG_TCP_MD5SIG)", error),
        error => wanted(what, error),
    }
}

/// Whether a socket can have anybody from `peers` at its other end.
fn hears(peers: IpNet, listens_on_ipv6: bool) -> bool {
    peers.addr().is_ipv4() || listens_on_ipv6
}

/// An IPv6 socket sees an IPv4 peer as a mapped address, and counts its prefix in the bits of IPv4. Without a
/// password: to be forgotten.
fn md5_signature(peers: IpNet, ipv6_socket: bool, password: &[u8]) -> Md5Signature {
    let mut out = [0; size_of::<Md5Signature>()];
    let mut put = |at: usize, octets: &[u8]| {
        for (to, from) in out.iter_mut().skip(at).zip(octets) {
            *to = *from;
        }
    };
    put(128, &[BY_PREFIX, peers.prefix_len()]);
    match (peers.network(), ipv6_socket) {
        (IpAddr::V4(peer), false) => {
            put(0, &family(libc::AF_INET));
            put(4, &peer.octets());
        }
        (IpAddr::V4(peer), true) => {
            put(0, &family(libc::AF_INET6));
            put(8, &peer.to_ipv6_mapped().octets());
        }
        (IpAddr::V6(peer), _) => {
            put(0, &family(libc::AF_INET6));
            put(8, &peer.octets());
        }
    }
    let length = u16::try_from(password.len().min(LONGEST_PASSWORD)).unwrap_or_default();
    put(130, &length.to_ne_bytes());
    put(136, password.get(..usize::from(length)).unwrap_or_default());
    out
}

fn family(number: libc::c_int) -> [u8; 2] {
    u16::try_from(number).unwrap_or_default().to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn signed(password: &str) -> Protection {
        Protection { md5_password: Some(Secret::from(password)), ..Protection::default() }
    }

    fn dial(to: &TcpListener, protection: &Protection) -> io::Result<()> {
        let to = to.local_addr()?;
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        protection.before_connecting(&socket, to.ip())?;
        socket.connect_timeout(&to.into(), std::time::Duration::from_millis(400))
    }

    #[test]
    fn a_signed_listener_takes_the_same_password_and_neither_another_nor_none() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let ip = listener.local_addr().unwrap().ip();
            signed("right").on_listener(&listener, ip.into(), ip.is_ipv6()).unwrap();
            dial(&listener, &signed("right")).unwrap();
            assert!(dial(&listener, &signed("wrong")).is_err(), "{address}");
            assert!(dial(&listener, &Protection::default()).is_err(), "{address}");
            signed("right").off_listener(&listener, ip.into(), ip.is_ipv6()).unwrap();
            dial(&listener, &Protection::default()).unwrap();
        }
    }

    #[test]
    fn a_whole_prefix_signs_with_one_password_and_one_address_in_it_with_another() {
        for (address, prefix) in [("127.0.0.1:0", "127.0.0.0/8"), ("[::1]:0", "::/64"), ("[::]:0", "127.0.0.0/8")] {
            let listener = TcpListener::bind(address).unwrap();
            let ipv6 = listener.local_addr().unwrap().is_ipv6();
            signed("all").on_listener(&listener, prefix.parse().unwrap(), ipv6).unwrap();
            let to = std::net::SocketAddr::new(
                if prefix.contains('.') { "127.0.0.1".parse().unwrap() } else { "::1".parse().unwrap() },
                listener.local_addr().unwrap().port(),
            );
            let dial = |password: Option<&str>| {
                let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
                password.map_or_else(Protection::default, signed).before_connecting(&socket, to.ip())?;
                socket.connect_timeout(&to.into(), std::time::Duration::from_millis(400))
            };
            dial(Some("all")).unwrap();
            assert!(dial(None).is_err(), "{address}");
            signed("one").on_listener(&listener, to.ip().into(), ipv6).unwrap();
            dial(Some("one")).unwrap();
            assert!(dial(Some("all")).is_err(), "{address}");
        }
    }

    #[test]
    fn an_ipv4_peer_of_an_ipv6_listener_is_known_by_its_mapped_address() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        signed("right").on_listener(&listener, "127.0.0.1/32".parse().unwrap(), true).unwrap();
        let to = (std::net::Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        signed("right").before_connecting(&socket, to.0.into()).unwrap();
        let to = std::net::SocketAddr::from(to);
        socket.connect_timeout(&to.into(), std::time::Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_connection_that_came_too_far_hears_nothing() {
        let hops = |hops| Protection { ttl_security_hops: NonZeroU8::new(hops), ..Protection::default() };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let ip = listener.local_addr().unwrap().ip();
            hops(1).on_listener(&listener, ip.into(), ip.is_ipv6()).unwrap();
            dial(&listener, &hops(1)).unwrap();
            // The dialler wants 255, and a listener that knows nothing of it answers with 64.
            let plain = TcpListener::bind(address).unwrap();
            assert!(dial(&plain, &hops(1)).is_err(), "{address}");
            assert!(dial(&plain, &hops(191)).is_err(), "65 wanted of 64: {address}");
            dial(&plain, &hops(192)).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        hops(255).on_accepted(&stream, false).unwrap();
    }

    #[test]
    fn the_kernels_structure_to_the_octet() {
        let v4 = md5_signature("192.0.2.0/24".parse().unwrap(), false, b"key");
        assert_eq!((&v4[..2], &v4[4..8]), (&2_u16.to_ne_bytes()[..], &[192, 0, 2, 0][..]));
        assert_eq!(
            (&v4[128..130], &v4[130..132], &v4[136..140]),
            (&[1, 24][..], &3_u16.to_ne_bytes()[..], &b"key\0"[..])
        );
        let v6 = md5_signature("2001:db8::1/128".parse().unwrap(), true, &[7; 80]);
        assert_eq!((&v6[..2], v6[23], v6[215]), (&10_u16.to_ne_bytes()[..], 1, 7));
    }
}
