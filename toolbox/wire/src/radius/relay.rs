//! What a proxy does to packets that it passes on: another identifier, signed for the next hop, and what is hidden under
//! one secret hidden under the other. Everything else stays as it is and where it is, Proxy-State among it.

use cloakway_crypto::radius::{self, Hiding, rehide};

use super::{Attribute, HEADER_LENGTH, MAX_LENGTH, MESSAGE_AUTHENTICATOR, Packet, code, put};

const USER_PASSWORD: u8 = 2;
const VENDOR_SPECIFIC: u8 = 26;
const TUNNEL_PASSWORD: u8 = 69;
/// Vendor-Id of Microsoft, whose keys (RFC 2548 §2.4) are hidden too.
const MICROSOFT: [u8; 4] = 311_u32.to_be_bytes();
const MS_CHAP_MPPE_KEYS: u8 = 12;
const MS_MPPE_SEND_KEY: u8 = 16;
const MS_MPPE_RECV_KEY: u8 = 17;

/// Why a packet cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// It is no request that a proxy passes on.
    #[error("packet code {0} is not passed on: 1 and 4 are")]
    Code(u8),
    /// A hidden value is not whole blocks of 16 octets, or a Message-Authenticator is not 16.
    #[error("attribute {kind} at byte {at} has {length} bytes, which cannot be hidden anew or signed")]
    Length {
        /// The attribute type.
        kind: u8,
        /// Its offset.
        at: usize,
        /// Bytes in the value.
        length: usize,
    },
}

/// One side of a proxy: the secret shared there, and the authenticator of the request as it is known there.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The shared secret.
    pub secret: &'a [u8],
    /// The request's authenticator.
    pub authenticator: [u8; 16],
}

/// The request as it goes to the next hop.
///
/// The authenticator of an Access-Request stays, because a CHAP response may be to it (RFC 2865 §5.40); it is given a
/// Message-Authenticator where it has none and there is room. That of an Accounting-Request follows from the packet.
///
/// # Errors
/// [`RelayError`] for a packet that is no request, or with hidden values that do not fit.
pub fn request(packet: Packet<'_>, identifier: u8, from: &[u8], to: &[u8]) -> Result<Vec<u8>, RelayError> {
    let access = match packet.code() {
        code::ACCESS_REQUEST => true,
        code::ACCOUNTING_REQUEST => false,
        other => return Err(RelayError::Code(other)),
    };
    let authenticator = packet.authenticator();
    let sides = [Side { secret: from, authenticator }, Side { secret: to, authenticator }];
    let mut out = copy(packet, identifier, sides, access)?;
    let seed = if access { authenticator } else { [0; 16] };
    sign(&mut out, &seed, to);
    if access {
        put(&mut out, 4, &authenticator);
    } else {
        put(&mut out, 4, &[0; 16]);
        let signature = radius::md5(&[&out, to]);
        put(&mut out, 4, &signature);
    }
    Ok(out)
}

/// The answer as it goes back to who asked.
///
/// What is said of access is given a Message-Authenticator where it has none: without, whoever is in between may turn a
/// no into a yes (CVE-2024-3596).
///
/// # Errors
/// [`RelayError`] for a packet with hidden values that do not fit.
pub fn answer(packet: Packet<'_>, identifier: u8, home: Side<'_>, client: Side<'_>) -> Result<Vec<u8>, RelayError> {
    let accounting = packet.code() == code::ACCOUNTING_RESPONSE;
    let mut out = copy(packet, identifier, [home, client], !accounting)?;
    let seed = if accounting { [0; 16] } else { client.authenticator };
    sign(&mut out, &seed, client.secret);
    put(&mut out, 4, &client.authenticator);
    let signature = radius::md5(&[&out, client.secret]);
    put(&mut out, 4, &signature);
    Ok(out)
}

/// The packet with zeros for its authenticators.
fn copy(packet: Packet<'_>, identifier: u8, sides: [Side<'_>; 2], add: bool) -> Result<Vec<u8>, RelayError> {
    let mut out = Vec::with_capacity(packet.bytes().len() + 18);
    out.extend_from_slice(&[packet.code(), identifier, 0, 0]);
    out.extend_from_slice(&[0; 16]);
    let signed = packet.attributes().any(|attribute| attribute.kind == MESSAGE_AUTHENTICATOR);
    // Accounting has nothing to hide, and an authenticator that differs from hop to hop.
    let hides = !matches!(packet.code(), code::ACCOUNTING_REQUEST | code::ACCOUNTING_RESPONSE);
    if add && !signed && packet.bytes().len() + 18 <= MAX_LENGTH {
        out.extend_from_slice(&[MESSAGE_AUTHENTICATOR, 18]);
        out.extend_from_slice(&[0; 16]);
    }
    for attribute in packet.attributes() {
        let at = out.len();
        out.extend_from_slice(packet.bytes().get(attribute.at..attribute.at + 2).unwrap_or_default());
        out.extend_from_slice(attribute.value);
        let value = out.get_mut(at + 2..).unwrap_or_default();
        let fits = match attribute.kind {
            MESSAGE_AUTHENTICATOR => {
                value.fill(0);
                value.len() == 16
            }
            USER_PASSWORD if hides => hidden(value, 0, sides),
            TUNNEL_PASSWORD if hides => hidden(value.get_mut(1..).unwrap_or_default(), 2, sides),
            VENDOR_SPECIFIC if hides => microsoft(value, sides),
            _ => true,
        };
        if !fits {
            let Attribute { kind, value, at } = attribute;
            return Err(RelayError::Length { kind, at, length: value.len() });
        }
    }
    // At most 4096, as the packet was, or as much as was asked about above.
    let length = u16::try_from(out.len()).unwrap_or_default();
    put(&mut out, 2, &length.to_be_bytes());
    Ok(out)
}

/// Hides anew what stands behind a salt.
fn hidden(value: &mut [u8], salt: usize, [from, to]: [Side<'_>; 2]) -> bool {
    let Some((salt, value)) = value.split_at_mut_checked(salt) else { return false };
    let (first_from, first_to): ([&[u8]; 2], [&[u8]; 2]) = ([&from.authenticator, salt], [&to.authenticator, salt]);
    rehide(value, Hiding { secret: from.secret, first: &first_from }, Hiding { secret: to.secret, first: &first_to })
}

/// Keys in the attributes of Microsoft. One that is not as RFC 2865 §5.26 suggests stays as it is.
fn microsoft(value: &mut [u8], sides: [Side<'_>; 2]) -> bool {
    let Some((vendor, mut rest)) = value.split_at_mut_checked(4) else { return true };
    if *vendor != MICROSOFT {
        return true;
    }
    loop {
        let (kind, length) = match &*rest {
            [kind, length, ..] => (*kind, usize::from(*length)),
            _ => return true,
        };
        let Some((of, behind)) = rest.split_at_mut_checked(length) else { return true };
        let Some(inner) = of.get_mut(2..) else { return true };
        let fits = match kind {
            MS_CHAP_MPPE_KEYS => hidden(inner, 0, sides),
            MS_MPPE_SEND_KEY | MS_MPPE_RECV_KEY => hidden(inner, 2, sides),
            _ => true,
        };
        if !fits {
            return false;
        }
        rest = behind;
    }
}

/// Fills in the Message-Authenticator, if there is one. The authenticator's place is left to the caller.
fn sign(out: &mut [u8], seed: &[u8; 16], secret: &[u8]) {
    let found = Packet::parse(out).ok().and_then(|packet| {
        packet.attributes().find(|attribute| attribute.kind == MESSAGE_AUTHENTICATOR).map(|found| found.at + 2)
    });
    let Some(at) = found else { return };
    let (head, body) = out.split_at(HEADER_LENGTH.min(out.len()));
    let signature = radius::hmac_md5(secret, &[head.get(..4).unwrap_or_default(), seed, body]);
    put(out, at, &signature);
}

#[cfg(test)]
mod tests {
    use super::super::{Request, build_request};
    use super::*;
    use proptest::prelude::*;

    const NEAR: &[u8] = b"secret of the NAS";
    const FAR: &[u8] = b"secret of the home server";

    fn hide(clear: [u8; 16], secret: &[u8], first: &[&[u8]]) -> Vec<u8> {
        let mut parts = vec![secret];
        parts.extend_from_slice(first);
        clear.iter().zip(radius::md5(&parts)).map(|(byte, pad)| byte ^ pad).collect()
    }

    fn attribute(packet: &[u8], kind: u8) -> Vec<u8> {
        Packet::parse(packet).unwrap().attributes().find(|a| a.kind == kind).unwrap().value.to_vec()
    }

    #[test]
    fn an_access_request_keeps_its_authenticator_and_its_password_changes_secrets() {
        let nonce = [7; 16];
        let clear = *b"a password\0\0\0\0\0\0";
        let password = hide(clear, NEAR, &[&nonce]);
        let attributes: [(u8, &[u8]); 3] = [(1, b"alice"), (USER_PASSWORD, &password), (33, b"state")];
        for signed in [false, true] {
            let near = build_request(Request::Access, 5, &attributes, NEAR, nonce, signed).unwrap();
            let far = request(Packet::parse(&near).unwrap(), 9, NEAR, FAR).unwrap();
            let packet = Packet::parse(&far).unwrap();
            assert_eq!((packet.code(), packet.identifier(), packet.authenticator()), (1, 9, nonce));
            packet.verify_any(FAR, true).unwrap();
            assert_eq!(attribute(&far, USER_PASSWORD), hide(clear, FAR, &[&nonce]));
            assert_eq!(attribute(&far, 33), b"state");
        }
    }

    #[test]
    fn an_accounting_request_is_signed_for_the_next_hop() {
        for signed in [false, true] {
            let near = build_request(Request::Accounting, 5, &[(40, &[0, 0, 0, 1])], NEAR, [0; 16], signed).unwrap();
            let far = request(Packet::parse(&near).unwrap(), 200, NEAR, FAR).unwrap();
            let packet = Packet::parse(&far).unwrap();
            assert_eq!((packet.identifier(), packet.bytes().len()), (200, near.len()));
            packet.verify(FAR, signed).unwrap();
            assert!(packet.verify(NEAR, false).is_err());
        }
    }

    #[test]
    fn an_accept_is_signed_for_the_nas_and_its_keys_change_secrets() {
        let nonce = [3; 16];
        let (home, client) = (Side { secret: FAR, authenticator: nonce }, Side { secret: NEAR, authenticator: nonce });
        let clear = *b"\x0ffifteen octets ";
        let salt: &[u8] = &[0x81, 2];
        let key = [&[MS_MPPE_SEND_KEY, 20], salt, &hide(clear, FAR, &[&nonce, salt])].concat();
        let vendor = [&MICROSOFT[..], &[1, 3, 9], &key].concat();
        let tunnel = [&[1][..], salt, &hide(clear, FAR, &[&nonce, salt])].concat();
        let attributes: [(u8, &[u8]); 3] = [(VENDOR_SPECIFIC, &vendor), (TUNNEL_PASSWORD, &tunnel), (33, b"p")];
        // An answer of the home server is what this side would send, were its client the proxy.
        let mut made = build_request(Request::Access, 77, &attributes, FAR, nonce, false).unwrap();
        made[0] = code::ACCESS_ACCEPT;
        let far = answer(Packet::parse(&made).unwrap(), 77, home, home).unwrap();
        Packet::parse(&far).unwrap().verify_response(&nonce, FAR, true).unwrap();
        let near = answer(Packet::parse(&far).unwrap(), 5, home, client).unwrap();
        let packet = Packet::parse(&near).unwrap();
        packet.verify_response(&nonce, NEAR, true).unwrap();
        assert_eq!((packet.code(), packet.identifier()), (code::ACCESS_ACCEPT, 5));
        assert_eq!(attribute(&near, TUNNEL_PASSWORD)[3..], hide(clear, NEAR, &[&nonce, salt]));
        assert_eq!(attribute(&near, VENDOR_SPECIFIC)[11..], hide(clear, NEAR, &[&nonce, salt]));
        assert_eq!(attribute(&near, VENDOR_SPECIFIC)[..7], vendor[..7]);
        assert!(packet.verify_response(&nonce, FAR, false).is_err());
    }

    #[test]
    fn an_accounting_response_is_signed_with_the_clients_own_authenticator() {
        let (at_home, at_client) = ([1; 16], [2; 16]);
        let home = Side { secret: FAR, authenticator: at_home };
        let mut made = build_request(Request::Access, 8, &[(33, b"p")], FAR, at_home, true).unwrap();
        made[0] = code::ACCOUNTING_RESPONSE;
        let far = answer(Packet::parse(&made).unwrap(), 8, home, home).unwrap();
        Packet::parse(&far).unwrap().verify_response(&at_home, FAR, true).unwrap();
        let client = Side { secret: NEAR, authenticator: at_client };
        let near = answer(Packet::parse(&far).unwrap(), 4, home, client).unwrap();
        Packet::parse(&near).unwrap().verify_response(&at_client, NEAR, true).unwrap();
        assert!(Packet::parse(&near).unwrap().verify_response(&at_home, NEAR, true).is_err());
    }

    #[test]
    fn a_password_that_is_cut_is_not_passed_on() {
        let near = build_request(Request::Access, 5, &[(USER_PASSWORD, &[1; 17])], NEAR, [0; 16], false).unwrap();
        let refused = request(Packet::parse(&near).unwrap(), 1, NEAR, FAR);
        assert_eq!(refused, Err(RelayError::Length { kind: USER_PASSWORD, at: 20, length: 17 }));
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same_packet(
            access: bool,
            signed: bool,
            nonce: [u8; 16],
            attributes in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..70)), 0..20),
        ) {
            let kind = if access { Request::Access } else { Request::Accounting };
            let borrowed: Vec<(u8, &[u8])> =
                attributes.iter().filter(|(kind, _)| *kind != 80).map(|(kind, value)| (*kind, value.as_slice())).collect();
            let near = build_request(kind, 5, &borrowed, NEAR, nonce, signed || access).unwrap();
            let Ok(far) = request(Packet::parse(&near).unwrap(), 6, NEAR, FAR) else { return Ok(()) };
            prop_assert!(Packet::parse(&far).unwrap().verify_any(FAR, signed).is_ok());
            prop_assert_eq!(request(Packet::parse(&far).unwrap(), 5, FAR, NEAR), Ok(near));
        }

        #[test]
        fn no_packet_makes_the_proxy_panic(bytes in proptest::collection::vec(any::<u8>(), 20..200), code in 1..6_u8) {
            let mut bytes = bytes;
            let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes[..4].copy_from_slice(&[code, 0, length[0], length[1]]);
            if let Ok(packet) = Packet::parse(&bytes) {
                let side = |secret| Side { secret, authenticator: [0; 16] };
                for out in [request(packet, 1, NEAR, FAR), answer(packet, 1, side(FAR), side(NEAR))].into_iter().flatten() {
                    prop_assert!(Packet::parse(&out).is_ok());
                }
            }
        }
    }
}
