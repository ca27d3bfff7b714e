//! RADIUS packets (RFC 2865 §3) as an accounting server, a proxy and a listener meet them.
//!
//! A datagram becomes a [`Packet`] once its framing holds, and a [`Verified`] packet once its
//! authenticators hold. Only the second can be read as a record or answered. What a proxy does to packets
//! is in [`relay`], attributes beyond the first 255 types are in [`extended`], questions to a NAS in [`dynamic`].

pub mod dynamic;
pub mod extended;
pub mod relay;

use cloakway_crypto::{ct_eq, radius};

/// The fixed part: code, identifier, length, authenticator.
const HEADER_LENGTH: usize = 20;
/// The longest packet (RFC 2865 §3).
pub const MAX_LENGTH: usize = 4096;

/// Packet codes.
pub mod code {
    /// RFC 2865 §4.1.
    pub const ACCESS_REQUEST: u8 = 1;
    /// RFC 2865 §4.2.
    pub const ACCESS_ACCEPT: u8 = 2;
    /// RFC 2865 §4.3.
    pub const ACCESS_REJECT: u8 = 3;
    /// RFC 2866 §4.1.
    pub const ACCOUNTING_REQUEST: u8 = 4;
    /// RFC 2866 §4.2.
    pub const ACCOUNTING_RESPONSE: u8 = 5;
    /// RFC 2865 §4.4.
    pub const ACCESS_CHALLENGE: u8 = 11;
    /// RFC 5997 §3.
    pub const STATUS_SERVER: u8 = 12;
    /// RFC 5176 §2.2.
    pub const COA_REQUEST: u8 = 43;
    /// RFC 5176 §2.2.
    pub const COA_ACK: u8 = 44;
    /// RFC 5176 §2.2.
    pub const COA_NAK: u8 = 45;
}

const PROXY_STATE: u8 = 33;
const EAP_MESSAGE: u8 = 79;
const MESSAGE_AUTHENTICATOR: u8 = 80;

/// Why a datagram is not a RADIUS packet. Such a datagram is discarded without an answer (RFC 2865 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer than the 20 bytes of a header.
    #[error("{arrived} bytes arrived: a RADIUS packet has at least 20 (RFC 2865 §3)")]
    Short {
        /// Bytes in the datagram.
        arrived: usize,
    },
    /// The length field is outside 20 to 4096.
    #[error("the length field says {stated}: 20 to 4096 are allowed (RFC 2865 §3)")]
    Length {
        /// The length field.
        stated: usize,
    },
    /// The datagram ends before the stated length.
    #[error("the length field says {stated}, but {arrived} bytes arrived")]
    Truncated {
        /// The length field.
        stated: usize,
        /// Bytes in the datagram.
        arrived: usize,
    },
    /// An attribute does not fit.
    #[error("the attribute at byte {at} does not fit: it says {length} bytes, {left} are left")]
    Attribute {
        /// Offset of its type byte in the packet.
        at: usize,
        /// Its length field; 0 when the packet ends before it.
        length: u8,
        /// Bytes from its type byte to the end of the packet.
        left: usize,
    },
}

/// Why a packet is not taken for genuine. Such a packet is discarded without an answer (RFC 2866 §3, RFC 5997 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticityError {
    /// The port does not answer packets of this code.
    #[error("packet code {0} does not belong here: 4 and 12 do, and 1 where access is relayed")]
    Code(u8),
    /// The response authenticator is not MD5 over the packet, the request's authenticator and this secret.
    #[error("the response authenticator is wrong: the shared secrets differ, or the packet was changed")]
    ResponseAuthenticator,
    /// The request authenticator is not MD5 over the packet and this secret.
    #[error("the request authenticator is wrong: the shared secrets differ, or the packet was changed")]
    RequestAuthenticator,
    /// The Message-Authenticator is not HMAC-MD5 over the packet with this secret.
    #[error("the Message-Authenticator is wrong: the shared secrets differ, or the packet was changed")]
    MessageAuthenticator,
    /// A Message-Authenticator of a length other than 16, or more than one.
    #[error("the packet needs at most one Message-Authenticator, of 16 bytes (RFC 3579 §3.2)")]
    MessageAuthenticatorForm,
    /// A Status-Server without Message-Authenticator, or any packet where the client is configured to send it.
    #[error("the Message-Authenticator is missing (RFC 5997 §3, or demanded of this client)")]
    MessageAuthenticatorMissing,
}

/// One attribute, borrowed from its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The attribute type.
    pub kind: u8,
    /// The value without type and length.
    pub value: &'a [u8],
    /// Offset of the type byte in the packet.
    pub at: usize,
}

/// The attributes of a packet in order. Allocates nothing.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    fn step(&self) -> Option<Result<Attribute<'a>, PacketError>> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let misfit = |length| PacketError::Attribute { at: self.at, length, left: rest.len() };
        let (kind, length) = match rest {
            [kind, length, ..] => (*kind, *length),
            _ => return Some(Err(misfit(0))),
        };
        Some(rest.get(2..usize::from(length)).map(|value| Attribute { kind, value, at: self.at }).ok_or(misfit(length)))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;
    fn next(&mut self) -> Option<Attribute<'a>> {
        let attribute = self.step()?.ok()?;
        self.at += attribute.value.len() + 2;
        Some(attribute)
    }
}

/// A packet whose framing holds: the stated length arrived, and the attributes fill it exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    header: &'a [u8; HEADER_LENGTH],
    bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads one datagram. Bytes after the stated length are padding (RFC 2865 §3).
    ///
    /// # Errors
    /// [`PacketError`] for a datagram that is cut, or whose attributes do not fit.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, PacketError> {
        let arrived = datagram.len();
        let header: &[u8; HEADER_LENGTH] = datagram.first_chunk().ok_or(PacketError::Short { arrived })?;
        let stated = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !(HEADER_LENGTH..=MAX_LENGTH).contains(&stated) {
            return Err(PacketError::Length { stated });
        }
        let bytes = datagram.get(..stated).ok_or(PacketError::Truncated { stated, arrived })?;
        let mut attributes = Attributes { bytes, at: HEADER_LENGTH };
        while let Some(step) = attributes.step() {
            attributes.at += step?.value.len() + 2;
        }
        Ok(Self { header, bytes })
    }

    /// The packet code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.header[0]
    }

    /// The identifier, which an answer repeats.
    #[must_use]
    pub const fn identifier(&self) -> u8 {
        self.header[1]
    }

    /// The request authenticator.
    #[must_use]
    pub fn authenticator(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&self.header[4..]);
        out
    }

    /// The attributes in order.
    #[must_use]
    pub const fn attributes(&self) -> Attributes<'a> {
        Attributes { bytes: self.bytes, at: HEADER_LENGTH }
    }

    /// The whole packet, padding left out.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Checks that the packet comes from who knows `secret`.
    ///
    /// An Accounting-Request proves it by its request authenticator (RFC 2866 §3), and by its
    /// Message-Authenticator when it has one or `demand_message_authenticator` is set. A
    /// Status-Server proves it by its Message-Authenticator alone (RFC 5997 §3).
    ///
    /// # Errors
    /// [`AuthenticityError`]; the packet is then discarded without an answer.
    pub fn verify(self, secret: &[u8], demand_message_authenticator: bool) -> Result<Verified<'a>, AuthenticityError> {
        match self.code() {
            code::ACCOUNTING_REQUEST | code::STATUS_SERVER => self.verify_any(secret, demand_message_authenticator),
            other => Err(AuthenticityError::Code(other)),
        }
    }

    /// As [`Packet::verify`], where an Access-Request is welcome too.
    ///
    /// An Access-Request proves nothing of its sender but by a Message-Authenticator (RFC 3579 §3.2), which one that
    /// carries EAP must have.
    ///
    /// # Errors
    /// As [`Packet::verify`].
    pub fn verify_any(self, secret: &[u8], demand: bool) -> Result<Verified<'a>, AuthenticityError> {
        let zeros = [0_u8; 16];
        let (request, seed) = match self.code() {
            code::ACCESS_REQUEST => (Request::Access, self.authenticator()),
            code::ACCOUNTING_REQUEST => (Request::Accounting, zeros),
            code::STATUS_SERVER => (Request::StatusServer, self.authenticator()),
            other => return Err(AuthenticityError::Code(other)),
        };
        if request == Request::Accounting && !ct_eq(&self.digest(&zeros, secret), &self.authenticator()) {
            return Err(AuthenticityError::RequestAuthenticator);
        }
        let eap = || request == Request::Access && self.attributes().any(|attribute| attribute.kind == EAP_MESSAGE);
        let signed = self.signed(secret, &seed)?;
        if !signed && (demand || request == Request::StatusServer || eap()) {
            return Err(AuthenticityError::MessageAuthenticatorMissing);
        }
        Ok(Verified { packet: self, request, signed })
    }

    /// Checks that this is the answer of who knows `secret` to the request with that authenticator.
    ///
    /// # Errors
    /// [`AuthenticityError`]; the packet is then discarded.
    pub fn verify_response(
        &self,
        request_authenticator: &[u8; 16],
        secret: &[u8],
        demand: bool,
    ) -> Result<(), AuthenticityError> {
        if !ct_eq(&self.digest(request_authenticator, secret), &self.authenticator()) {
            return Err(AuthenticityError::ResponseAuthenticator);
        }
        // Of an Accounting-Response some sign with zeros in the authenticator's place, others with the request's.
        let signed = match self.signed(secret, request_authenticator) {
            Err(AuthenticityError::MessageAuthenticator) => self.signed(secret, &[0; 16])?,
            known => known?,
        };
        if demand && !signed { Err(AuthenticityError::MessageAuthenticatorMissing) } else { Ok(()) }
    }

    /// MD5 over the packet with `authenticator` in its place, and the secret.
    fn digest(&self, authenticator: &[u8; 16], secret: &[u8]) -> [u8; 16] {
        let body = self.bytes.get(HEADER_LENGTH..).unwrap_or_default();
        radius::md5(&[&self.header[..4], authenticator, body, secret])
    }

    /// Whether there is a Message-Authenticator, which then holds with `seed` in the authenticator's place.
    fn signed(&self, secret: &[u8], seed: &[u8; 16]) -> Result<bool, AuthenticityError> {
        let zeros = [0_u8; 16];
        let mut found = self.attributes().filter(|attribute| attribute.kind == MESSAGE_AUTHENTICATOR);
        match (found.next(), found.next()) {
            (None, _) => Ok(false),
            (Some(only), None) if only.value.len() == zeros.len() => {
                let start = only.at + 2;
                let before = self.bytes.get(HEADER_LENGTH..start).unwrap_or_default();
                let after = self.bytes.get(start + zeros.len()..).unwrap_or_default();
                let right = radius::hmac_md5(secret, &[&self.header[..4], seed, before, &zeros, after]);
                if ct_eq(&right, only.value) { Ok(true) } else { Err(AuthenticityError::MessageAuthenticator) }
            }
            (Some(_), _) => Err(AuthenticityError::MessageAuthenticatorForm),
        }
    }
}

/// What a verified packet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// May this subscriber in? (RFC 2865)
    Access,
    /// Record this (RFC 2866).
    Accounting,
    /// Are you there? (RFC 5997)
    StatusServer,
}

/// A packet from who knows the secret. Only [`Packet::verify`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'a> {
    packet: Packet<'a>,
    request: Request,
    signed: bool,
}

impl<'a> Verified<'a> {
    /// What it asks for.
    #[must_use]
    pub const fn request(&self) -> Request {
        self.request
    }

    /// The packet.
    #[must_use]
    pub const fn packet(&self) -> Packet<'a> {
        self.packet
    }

    /// The Accounting-Response that says "recorded", or "here" to a Status-Server (RFC 5997 §4.2).
    ///
    /// Proxy-State is copied in order (RFC 2866 §4.2). A request with Message-Authenticator gets an
    /// answer with one, as the first attribute. For it, the authenticator field counts as zeros in the
    /// answer to an Accounting-Request, and as the request's own in the answer to a Status-Server: no RFC
    /// says so for accounting, but FreeRADIUS 3 checks it that way and drops the other form.
    #[must_use]
    pub fn response(&self, secret: &[u8]) -> Vec<u8> {
        self.answer(code::ACCOUNTING_RESPONSE, secret)
    }

    /// The "here" of a port that takes Access-Requests to a Status-Server (RFC 5997 §4.2).
    #[must_use]
    pub fn here(&self, secret: &[u8]) -> Vec<u8> {
        self.answer(code::ACCESS_ACCEPT, secret)
    }

    fn answer(&self, code: u8, secret: &[u8]) -> Vec<u8> {
        let authenticator = self.packet.authenticator();
        let zeros = [0_u8; 16];
        let states = || self.packet.attributes().filter(|attribute| attribute.kind == PROXY_STATE);
        let signature_length = if self.signed { 18 } else { 0 };
        let length = HEADER_LENGTH + signature_length + states().map(|state| state.value.len() + 2).sum::<usize>();
        // What is copied was part of a packet of at most 4096 bytes, so the sum fits.
        let [high, low] = u16::try_from(length).unwrap_or_default().to_be_bytes();
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&[code, self.packet.identifier(), high, low]);
        out.extend_from_slice(&authenticator);
        if self.signed {
            out.extend_from_slice(&[MESSAGE_AUTHENTICATOR, 18]);
            out.extend_from_slice(&zeros);
        }
        for state in states() {
            out.extend_from_slice(self.packet.bytes.get(state.at..state.at + 2).unwrap_or_default());
            out.extend_from_slice(state.value);
        }
        if self.signed {
            let seed = match self.request {
                Request::Accounting => zeros,
                Request::Access | Request::StatusServer => authenticator,
            };
            let (head, attributes) = out.split_at(HEADER_LENGTH);
            let head = head.get(..4).unwrap_or_default();
            let signature = radius::hmac_md5(secret, &[head, &seed, attributes]);
            put(&mut out, HEADER_LENGTH + 2, &signature);
        }
        let signature = radius::md5(&[&out, secret]);
        put(&mut out, 4, &signature);
        out
    }
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Builds a request as a client does: attributes as (type, value), signed with `secret`.
///
/// With `message_authenticator` one is put first. An Access-Request and a Status-Server take `nonce` as their request
/// authenticator; an Accounting-Request computes its own and ignores it.
///
/// # Errors
/// [`BuildError`] when a value or the whole does not fit.
pub fn build_request(
    request: Request,
    identifier: u8,
    attributes: &[(u8, &[u8])],
    secret: &[u8],
    nonce: [u8; 16],
    message_authenticator: bool,
) -> Result<Vec<u8>, BuildError> {
    let (code, nonce) = match request {
        Request::Access => (code::ACCESS_REQUEST, Some(nonce)),
        Request::Accounting => (code::ACCOUNTING_REQUEST, None),
        Request::StatusServer => (code::STATUS_SERVER, Some(nonce)),
    };
    build(code, identifier, attributes, secret, nonce, message_authenticator)
}

/// A request whose authenticator is `nonce`, or, without, proves that the secret is known.
fn build(
    code: u8,
    identifier: u8,
    attributes: &[(u8, &[u8])],
    secret: &[u8],
    nonce: Option<[u8; 16]>,
    message_authenticator: bool,
) -> Result<Vec<u8>, BuildError> {
    let mut body = Vec::new();
    if message_authenticator {
        body.extend_from_slice(&[MESSAGE_AUTHENTICATOR, 18]);
        body.extend_from_slice(&[0; 16]);
    }
    for (kind, value) in attributes {
        let length =
            u8::try_from(value.len() + 2).map_err(|_| BuildError::Attribute { kind: *kind, length: value.len() })?;
        body.extend_from_slice(&[*kind, length]);
        body.extend_from_slice(value);
    }
    let length = body.len() + HEADER_LENGTH;
    let [high, low] = match u16::try_from(length) {
        Ok(fits) if length <= MAX_LENGTH => fits.to_be_bytes(),
        _ => return Err(BuildError::Packet { length }),
    };
    let seed = nonce.unwrap_or_default();
    let head = [code, identifier, high, low];
    if message_authenticator {
        let signature = radius::hmac_md5(secret, &[&head, &seed, &body]);
        for (to, from) in body.iter_mut().skip(2).zip(signature) {
            *to = from;
        }
    }
    let authenticator = nonce.unwrap_or_else(|| radius::md5(&[&head, &seed, &body, secret]));
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&head);
    out.extend_from_slice(&authenticator);
    out.append(&mut body);
    Ok(out)
}

/// Why a request cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A value is longer than an attribute holds.
    #[error("attribute {kind} has {length} bytes: at most 253 fit")]
    Attribute {
        /// The attribute type.
        kind: u8,
        /// Bytes in the value.
        length: usize,
    },
    /// The attributes together are too long.
    #[error("the packet would have {length} bytes: at most 4096 are allowed")]
    Packet {
        /// Bytes in the packet.
        length: usize,
    },
}

#[cfg(test)]
pub(crate) mod golden {
    //! Sent by radclient of FreeRADIUS 3.2.1 with the secret below; the answers are those it accepted.

    pub(crate) const SECRET: &[u8] = b"s3cr3t-of-edge";
    /// Start of alice@isp.example, session 0000A001, at NAS `edge` 198.51.100.1, with 198.51.100.70,
    /// 2001:db8:5100:64::/64 and Event-Timestamp 1700000000.
    pub(crate) const START: &str = "04b60069498f758f9a1372b8360ae5444f23d4302806000000012c0a30303030413030310113616c696365406973702e6578616d706c652006656467650406c63364010806c63364466114004020010db851000064000000000000000037066553f100290600000000";
    pub(crate) const START_ANSWER: &str = "05b600145708d8a13d725916dd8dd36bd018f210";
    /// Interim-Update with NAS-IPv6-Address, Delegated-IPv6-Prefix 2001:db8:5100:6400::/56,
    /// Framed-IPv6-Address 2001:db8:5100:64::70, Acct-Delay-Time 7, two Proxy-States, Message-Authenticator.
    pub(crate) const INTERIM: &str = "046200961707d3e11912bdda40ad0b03eb10d2fb2806000000032c0a30303030413030310113616c696365406973702e6578616d706c655f1220010db85100000100000000000000010806c63364467b14003820010db8510064000000000000000000a81220010db851000064000000000000007029060000000721047031210570322d501299f793d941832b83a56755157c205043";
    pub(crate) const STATUS: &str = "0ced0026ff8cfb407698b2469ae9f3c1d85e139d501294e955e0900c18cbf0e36e0ffe6448eb";
    /// A second Status-Server, whose answer radclient accepted.
    pub(crate) const STATUS_2: &str = "0cf9002630b05d6362e566e62f5ef2f390172c5b50122d49d6f96da82422a0e3a68cd12cdfd0";
    pub(crate) const STATUS_2_ANSWER: &str =
        "05f90026945739058fa87ec1411188c3e32631f15012e67e06a4f219000e24311e10137908f0";

    pub(crate) fn bytes(hex: &str) -> Vec<u8> {
        cloakway_crypto::encode::unhex(hex).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::golden::{INTERIM, SECRET, START, START_ANSWER, STATUS, STATUS_2, STATUS_2_ANSWER, bytes};
    use super::*;
    use cloakway_crypto::encode::hex;
    use proptest::prelude::*;

    fn verified(packet: &[u8]) -> Result<Verified<'_>, AuthenticityError> {
        Packet::parse(packet).unwrap().verify(SECRET, false)
    }

    #[test]
    fn what_radclient_sends_is_verified_and_answered_with_the_bytes_it_accepts() {
        let start = bytes(START);
        let verified_start = verified(&start).unwrap();
        assert_eq!(verified_start.request(), Request::Accounting);
        assert_eq!(hex(&verified_start.response(SECRET)), START_ANSWER);
        let status = bytes(STATUS_2);
        assert_eq!(hex(&verified(&status).unwrap().response(SECRET)), STATUS_2_ANSWER);
        assert_eq!(verified(&bytes(STATUS)).unwrap().request(), Request::StatusServer);
    }

    #[test]
    fn the_answer_copies_proxy_state_in_order_behind_the_message_authenticator() {
        let interim = bytes(INTERIM);
        let answer = verified(&interim).unwrap().response(SECRET);
        let kinds: Vec<(u8, Vec<u8>)> =
            Packet::parse(&answer).unwrap().attributes().map(|a| (a.kind, a.value.to_vec())).collect();
        assert_eq!(kinds.len(), 3);
        assert_eq!(kinds[0].0, MESSAGE_AUTHENTICATOR);
        assert_eq!(kinds[1], (PROXY_STATE, b"p1".to_vec()));
        assert_eq!(kinds[2], (PROXY_STATE, b"p2-".to_vec()));
    }

    #[test]
    fn every_truncation_is_an_error_that_says_what_arrived() {
        for whole in [bytes(START), bytes(INTERIM), bytes(STATUS)] {
            for arrived in 0..whole.len() {
                let expected = if arrived < 20 {
                    PacketError::Short { arrived }
                } else {
                    PacketError::Truncated { stated: whole.len(), arrived }
                };
                assert_eq!(Packet::parse(&whole[..arrived]), Err(expected));
            }
        }
    }

    #[test]
    fn a_packet_whose_own_length_is_cut_inside_an_attribute_is_refused_with_its_place() {
        let whole = bytes(START);
        for stated in 21..whole.len() {
            let mut cut = whole[..stated].to_vec();
            cut[2..4].copy_from_slice(&u16::try_from(stated).unwrap().to_be_bytes());
            match Packet::parse(&cut) {
                Err(PacketError::Attribute { at, left, .. }) => assert_eq!(at + left, stated),
                Ok(packet) => assert_eq!(packet.verify(SECRET, false), Err(AuthenticityError::RequestAuthenticator)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn padding_after_the_stated_length_is_ignored() {
        let mut padded = bytes(START);
        padded.extend_from_slice(&[0; 7]);
        assert!(verified(&padded).is_ok());
    }

    #[test]
    fn a_length_field_outside_20_to_4096_is_refused() {
        let mut packet = vec![0; 5000];
        for (stated, fine) in [(19_u16, false), (20, true), (4097, false)] {
            packet[2..4].copy_from_slice(&stated.to_be_bytes());
            assert_eq!(Packet::parse(&packet).is_ok(), fine, "{stated}");
        }
    }

    #[test]
    fn a_changed_bit_anywhere_or_another_secret_is_not_genuine() {
        for whole in [bytes(START), bytes(INTERIM), bytes(STATUS)] {
            assert!(Packet::parse(&whole).unwrap().verify(b"s3cr3t-of-edgf", false).is_err());
            for at in 0..whole.len() * 8 {
                let mut changed = whole.clone();
                changed[at / 8] ^= 1 << (at % 8);
                let genuine = Packet::parse(&changed).is_ok_and(|packet| packet.verify(SECRET, false).is_ok());
                assert!(!genuine, "bit {at}");
            }
        }
    }

    #[test]
    fn message_authenticator_is_demanded_of_status_server_and_of_clients_that_send_it() {
        let plain = bytes(START);
        let demanded = Packet::parse(&plain).unwrap().verify(SECRET, true);
        assert_eq!(demanded, Err(AuthenticityError::MessageAuthenticatorMissing));
        assert!(Packet::parse(&bytes(INTERIM)).unwrap().verify(SECRET, true).is_ok());
        let status = build_request(Request::StatusServer, 1, &[], SECRET, [3; 16], false).unwrap();
        assert_eq!(verified(&status), Err(AuthenticityError::MessageAuthenticatorMissing));
        for attributes in
            [&[(MESSAGE_AUTHENTICATOR, &[0_u8; 15] as &[u8])][..], &[(MESSAGE_AUTHENTICATOR, &[0_u8; 16])]]
        {
            let odd = build_request(Request::Accounting, 1, attributes, SECRET, [0; 16], attributes[0].1.len() == 16);
            assert_eq!(verified(&odd.unwrap()), Err(AuthenticityError::MessageAuthenticatorForm));
        }
    }

    #[test]
    fn codes_of_other_ports_are_refused() {
        let mut access = bytes(START);
        access[0] = 1;
        assert_eq!(verified(&access), Err(AuthenticityError::Code(1)));
    }

    #[test]
    fn what_does_not_fit_is_not_built() {
        let long = [0_u8; 254];
        let build =
            |attributes: &[(u8, &[u8])]| build_request(Request::Accounting, 0, attributes, SECRET, [0; 16], false);
        assert_eq!(build(&[(1, &long)]), Err(BuildError::Attribute { kind: 1, length: 254 }));
        // Fifteen full attributes leave 4096 - 20 - 15 * 255 = 251 bytes.
        let mut attributes = vec![(1, &long[..253]); 15];
        attributes.push((1, &long[..249]));
        assert_eq!(build(&attributes).unwrap().len(), MAX_LENGTH);
        attributes[15].1 = &long[..250];
        assert_eq!(build(&attributes), Err(BuildError::Packet { length: 4097 }));
    }

    proptest! {
        #[test]
        fn what_was_built_is_read_back_and_verified(
            identifier: u8,
            nonce: [u8; 16],
            signed: bool,
            status: bool,
            secret in proptest::collection::vec(any::<u8>(), 1..64),
            attributes in proptest::collection::vec(
                ((1_u8..=255).prop_filter("ours", |kind| *kind != MESSAGE_AUTHENTICATOR),
                 proptest::collection::vec(any::<u8>(), 0..40)), 0..30),
        ) {
            let request = if status { Request::StatusServer } else { Request::Accounting };
            let borrowed: Vec<(u8, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
            let built = build_request(request, identifier, &borrowed, &secret, nonce, signed || status).unwrap();
            let packet = Packet::parse(&built).unwrap();
            let read: Vec<(u8, &[u8])> = packet.attributes().skip(usize::from(signed || status)).map(|a| (a.kind, a.value)).collect();
            prop_assert_eq!(read, borrowed);
            let verified = packet.verify(&secret, signed || status).unwrap();
            prop_assert_eq!(verified.request(), request);
            let answer = verified.response(&secret);
            let answer = Packet::parse(&answer).unwrap();
            prop_assert_eq!(answer.identifier(), identifier);
            prop_assert_eq!(
                answer.attributes().filter(|a| a.kind == PROXY_STATE).count(),
                attributes.iter().filter(|(kind, _)| *kind == PROXY_STATE).count()
            );
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.attributes().count() <= bytes.len());
                let _ = packet.verify(SECRET, false);
            }
        }
    }
}
