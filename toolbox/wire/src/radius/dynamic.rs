//! Questions to a NAS (RFC 5176): does this session still live there?
//!
//! The question is a CoA-Request that names a session and asks for no change. A NAS that knows the session says ACK, or NAK
//! because there is nothing to change; one that does not says NAK 503. Only these two prove anything.

use std::net::IpAddr;

use super::{AuthenticityError, BuildError, Packet, build, code};
use crate::accounting::{Nas, kind};

const ERROR_CAUSE: u8 = 101;
/// "Session Context Not Found" (RFC 5176 §3.6).
const NOT_FOUND: u32 = 503;

/// Which session is asked about, by every name that its NAS gave it.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Acct-Session-Id.
    pub session: &'a str,
    /// User-Name.
    pub user: Option<&'a str>,
    /// The NAS.
    pub nas: &'a Nas,
    /// An address that the session should have.
    pub address: Option<IpAddr>,
}

/// What the NAS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The session is there.
    There,
    /// There is no such session.
    Gone,
    /// Neither: a refusal with this Error-Cause, or with none.
    Refused(Option<u32>),
}

/// The CoA-Request for `question`, with Event-Timestamp `at_s` against replays (RFC 5176 §6.3).
///
/// # Errors
/// [`BuildError`] when a name is too long for its attribute.
pub fn request(question: &Question<'_>, identifier: u8, at_s: u32, secret: &[u8]) -> Result<Vec<u8>, BuildError> {
    let at = at_s.to_be_bytes();
    let nas_v4 = question.nas.v4.map(|address| address.octets());
    let nas_v6 = question.nas.v6.map(|address| address.octets());
    let framed = match question.address {
        Some(IpAddr::V4(address)) => Some(address.octets()),
        // Most have IPv6 by prefix: there is no Framed-IPv6-Address to be named by.
        Some(IpAddr::V6(_)) | None => None,
    };
    let named: [(u8, Option<&[u8]>); 7] = [
        (kind::NAS_IDENTIFIER, question.nas.identifier.as_deref().map(str::as_bytes)),
        (kind::NAS_IP_ADDRESS, nas_v4.as_ref().map(<[u8; 4]>::as_slice)),
        (kind::NAS_IPV6_ADDRESS, nas_v6.as_ref().map(<[u8; 16]>::as_slice)),
        (kind::USER_NAME, question.user.map(str::as_bytes)),
        (kind::ACCT_SESSION_ID, Some(question.session.as_bytes())),
        (kind::FRAMED_IP_ADDRESS, framed.as_ref().map(<[u8; 4]>::as_slice)),
        (kind::EVENT_TIMESTAMP, Some(&at)),
    ];
    let attributes: Vec<(u8, &[u8])> =
        named.into_iter().filter_map(|(kind, value)| value.map(|value| (kind, value))).collect();
    build(code::COA_REQUEST, identifier, &attributes, secret, None, true)
}

/// What `packet` says to the request with this identifier and authenticator.
///
/// # Errors
/// [`AuthenticityError`]; the packet is then no answer.
pub fn answer(
    packet: Packet<'_>,
    identifier: u8,
    authenticator: &[u8; 16],
    secret: &[u8],
) -> Result<Said, AuthenticityError> {
    if packet.identifier() != identifier {
        return Err(AuthenticityError::ResponseAuthenticator);
    }
    packet.verify_response(authenticator, secret, false)?;
    match packet.code() {
        code::COA_ACK => Ok(Said::There),
        code::COA_NAK => {
            let cause = packet.attributes().find(|attribute| attribute.kind == ERROR_CAUSE);
            let cause = cause.and_then(|cause| cause.value.try_into().ok()).map(u32::from_be_bytes);
            Ok(if cause == Some(NOT_FOUND) { Said::Gone } else { Said::Refused(cause) })
        }
        other => Err(AuthenticityError::Code(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::relay::{self, Side};
    use super::*;

    const SECRET: &[u8] = b"secret of the NAS";

    fn asked() -> Vec<u8> {
        let nas = Nas { identifier: Some("edge".into()), v4: Some([192, 0, 2, 1].into()), v6: None };
        let address = Some([198, 51, 100, 70].into());
        request(&Question { session: "s1", user: Some("alice"), nas: &nas, address }, 9, 1_700_000_000, SECRET).unwrap()
    }

    /// As a NAS would say it.
    fn said(code: u8, attributes: &[(u8, &[u8])]) -> Result<Said, AuthenticityError> {
        let asked = asked();
        let authenticator = Packet::parse(&asked).unwrap().authenticator();
        let side = Side { secret: SECRET, authenticator };
        let made = build(code, 9, attributes, SECRET, Some([0; 16]), false).unwrap();
        let answered = relay::answer(Packet::parse(&made).unwrap(), 9, side, side).unwrap();
        answer(Packet::parse(&answered).unwrap(), 9, &authenticator, SECRET)
    }

    #[test]
    fn the_question_names_the_session_and_changes_nothing() {
        let asked = asked();
        let packet = Packet::parse(&asked).unwrap();
        let kinds: Vec<u8> = packet.attributes().map(|attribute| attribute.kind).collect();
        assert_eq!((packet.code(), kinds), (43, vec![80, 32, 4, 1, 44, 8, 55]));
    }

    #[test]
    fn ack_is_there_503_is_gone_and_anything_else_proves_nothing() {
        assert_eq!(said(code::COA_ACK, &[]), Ok(Said::There));
        assert_eq!(said(code::COA_NAK, &[(ERROR_CAUSE, &503_u32.to_be_bytes())]), Ok(Said::Gone));
        assert_eq!(said(code::COA_NAK, &[(ERROR_CAUSE, &401_u32.to_be_bytes())]), Ok(Said::Refused(Some(401))));
        assert_eq!(said(code::COA_NAK, &[]), Ok(Said::Refused(None)));
        assert_eq!(said(code::COA_NAK, &[(ERROR_CAUSE, &[1])]), Ok(Said::Refused(None)));
        assert_eq!(said(code::ACCESS_ACCEPT, &[]), Err(AuthenticityError::Code(2)));
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let asked = asked();
        let authenticator = Packet::parse(&asked).unwrap().authenticator();
        let side = Side { secret: SECRET, authenticator };
        let made = build(code::COA_ACK, 9, &[], SECRET, Some([0; 16]), false).unwrap();
        let answered = relay::answer(Packet::parse(&made).unwrap(), 9, side, side).unwrap();
        let packet = Packet::parse(&answered).unwrap();
        assert_eq!(answer(packet, 9, &authenticator, SECRET), Ok(Said::There));
        for (identifier, authenticator, secret) in
            [(8, authenticator, SECRET), (9, [1; 16], SECRET), (9, authenticator, b"another")]
        {
            assert_eq!(
                answer(packet, identifier, &authenticator, secret),
                Err(AuthenticityError::ResponseAuthenticator)
            );
        }
    }
}
