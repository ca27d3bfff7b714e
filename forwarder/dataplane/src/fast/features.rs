//! Whether an interface takes redirected frames, from the kernel's generic netlink family `netdev` (Linux 6.3).
//!
//! A driver that takes an XDP program need not: frames sent to such an interface vanish without a word.

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

// `linux/genetlink.h`, `linux/netdev.h`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const NDO_XMIT: u64 = 4;

const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// Of a netlink header and a generic one.
const HEADERS: usize = 20;

/// Whether the interface takes frames that an XDP program redirects to it, as it is now; `None` when the kernel does
/// not say.
pub(super) fn takes_redirects(index: u32) -> std::io::Result<Option<bool>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let Some(answer) = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")? else { return Ok(None) };
    let family = attribute(&answer, FAMILY_ID).and_then(|value| value.first_chunk().copied());
    let Some(family) = family.map(u16::from_ne_bytes) else { return Ok(None) };
    let Some(answer) = ask(&socket, family, DEV_GET, DEV_IFINDEX, &index.to_ne_bytes())? else { return Ok(None) };
    let features = attribute(&answer, DEV_XDP_FEATURES).and_then(|value| value.first_chunk().copied());
    Ok(features.map(|features| u64::from_ne_bytes(features) & NDO_XMIT != 0))
}

/// One question with one attribute; `None` when the kernel refuses it.
fn ask(socket: &Socket, kind: u16, command: u8, name: u16, value: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let mut request = Vec::new();
    request.extend([0; 4]);
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(short(4 + value.len()).to_ne_bytes());
    request.extend(name.to_ne_bytes());
    request.extend(value);
    request.resize(request.len().next_multiple_of(4), 0);
    let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
    request.iter_mut().zip(length.to_ne_bytes()).for_each(|(octet, part)| *octet = part);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|kind| kind.first_chunk().copied()).map(u16::from_ne_bytes);
    Ok(if kind.is_none_or(|kind| kind == ERROR) { None } else { Some(answer) })
}

/// The value of an attribute behind the headers.
fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(HEADERS..)?;
    while let [a, b, c, d, behind @ ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = behind.get(..length.checked_sub(4)?)?;
        if u16::from_ne_bytes([*c, *d]) == wanted {
            return Some(value);
        }
        rest = behind.get(value.len().next_multiple_of(4)..)?;
    }
    None
}
