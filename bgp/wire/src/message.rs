//! One message with its header (RFC 4271 §4.1).

use crate::error::{DecodeError, EncodeError};
use crate::notification::Notification;
use crate::open::Open;
use crate::reader::Reader;
use crate::types::Families;
use crate::update::Update;

/// Octets of a header.
pub const HEADER_LENGTH: usize = 19;
/// Octets of the longest message (RFC 4271 §4.1).
pub const MAX_LENGTH: usize = 4096;
/// Octets of the longest message between speakers of RFC 8654.
pub const MAX_EXTENDED_LENGTH: usize = 65535;

const MARKER: [u8; 16] = [0xff; 16];

mod kind {
    pub(super) const OPEN: u8 = 1;
    pub(super) const UPDATE: u8 = 2;
    pub(super) const NOTIFICATION: u8 = 3;
    pub(super) const KEEPALIVE: u8 = 4;
    pub(super) const ROUTE_REFRESH: u8 = 5;
}

/// What the session has settled that changes how bytes read, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Both ends have the four-octet AS capability (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in another AS: its LOCAL_PREF means nothing (RFC 4271 §5.1.5).
    pub external: bool,
    /// The receiver takes messages of up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// Both ends have the enhanced route refresh capability (RFC 7313).
    pub enhanced_refresh: bool,
    /// IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub ipv4_by_ipv6: bool,
    /// Families whose prefixes carry path identifiers (RFC 7911).
    pub path_ids: Families,
    /// Families of packets whose flow specifications are exchanged (RFC 8955, RFC 8956).
    pub flow: Families,
}

impl Context {
    /// An internal session of speakers without capabilities.
    pub const LEAST: Self = Self {
        four_octet_as: false,
        external: false,
        extended_messages: false,
        enhanced_refresh: false,
        ipv4_by_ipv6: false,
        path_ids: Families::NONE,
        flow: Families::NONE,
    };

    /// Octets of the longest message, other than OPEN and KEEPALIVE.
    #[must_use]
    pub const fn max_length(self) -> usize {
        if self.extended_messages { MAX_EXTENDED_LENGTH } else { MAX_LENGTH }
    }
}

impl Default for Context {
    /// An internal session of four-octet speakers.
    fn default() -> Self {
        Self { four_octet_as: true, ..Self::LEAST }
    }
}

/// ROUTE-REFRESH: the peer wants a family again (RFC 2918).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// [`RouteRefresh::REQUEST`], [`RouteRefresh::BEGIN`] or [`RouteRefresh::END`]; others are ignored (RFC 7313 §5).
    pub subtype: u8,
    /// Subsequent address family.
    pub safi: u8,
}

impl RouteRefresh {
    /// Send me the family again.
    pub const REQUEST: u8 = 0;
    /// What follows is the family again (RFC 7313 §4).
    pub const BEGIN: u8 = 1;
    /// That was all of it (RFC 7313 §4).
    pub const END: u8 = 2;
}

/// A BGP message.
#[expect(clippy::large_enum_variant, reason = "one is in hand at a time; boxing would cost each UPDATE an allocation")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Starts a session.
    Open(Open),
    /// Changes routes.
    Update(Update),
    /// Ends a session.
    Notification(Notification),
    /// Keeps a session.
    KeepAlive,
    /// Asks for routes again.
    RouteRefresh(RouteRefresh),
}

/// What a header says.
pub(crate) struct Header {
    pub(crate) length: usize,
    kind: u8,
}

impl Header {
    /// Checks marker, type and length; `None` while the header is not whole.
    pub(crate) fn decode(bytes: &[u8], extended: bool) -> Result<Option<Self>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (Some(marker), Some(length), Some(kind)) = (reader.array::<16>(), reader.u16(), reader.u8()) else {
            // Garbage is told as soon as it shows, not when a header's worth has come.
            let wrong = bytes.iter().zip(MARKER).any(|(byte, expected)| *byte != expected);
            return if wrong { Err(DecodeError::Marker) } else { Ok(None) };
        };
        if marker != MARKER {
            return Err(DecodeError::Marker);
        }
        let octets = usize::from(length);
        // RFC 8654 §4: OPEN and KEEPALIVE stay as they were.
        let longest = match kind {
            kind::OPEN | kind::KEEPALIVE => MAX_LENGTH,
            _ if extended => MAX_EXTENDED_LENGTH,
            _ => MAX_LENGTH,
        };
        if !(HEADER_LENGTH..=longest).contains(&octets) {
            return Err(DecodeError::Length { what: "message", length });
        }
        let (what, fits) = match kind {
            kind::OPEN => ("OPEN", octets >= 29),
            kind::UPDATE => ("UPDATE", octets >= 23),
            kind::NOTIFICATION => ("NOTIFICATION", octets >= 21),
            kind::KEEPALIVE => ("KEEPALIVE", octets == HEADER_LENGTH),
            // The subtype decides what another length than 23 means.
            kind::ROUTE_REFRESH => ("ROUTE-REFRESH", octets >= 23),
            other => return Err(DecodeError::Type(other)),
        };
        if !fits {
            return Err(DecodeError::Length { what, length });
        }
        Ok(Some(Self { length: octets, kind }))
    }
}

impl Message {
    /// The type in the header.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Open(_) => kind::OPEN,
            Self::Update(_) => kind::UPDATE,
            Self::Notification(_) => kind::NOTIFICATION,
            Self::KeepAlive => kind::KEEPALIVE,
            Self::RouteRefresh(_) => kind::ROUTE_REFRESH,
        }
    }

    /// Reads one whole message, as [`crate::Framer`] cuts it.
    ///
    /// # Errors
    /// [`DecodeError`], which knows the NOTIFICATION to answer with. What RFC 7606 bears is no error:
    /// it is in [`Update::flaws`].
    pub fn decode(frame: &[u8], context: Context) -> Result<Self, DecodeError> {
        let header = Header::decode(frame, context.extended_messages)?;
        let body = header.as_ref().filter(|header| header.length == frame.len()).and(frame.get(HEADER_LENGTH..));
        let (Some(header), Some(body)) = (header, body) else {
            let length = u16::try_from(frame.len()).unwrap_or(u16::MAX);
            return Err(DecodeError::Length { what: "frame", length });
        };
        let cut = || DecodeError::Length { what: "message", length: u16::try_from(header.length).unwrap_or(u16::MAX) };
        match header.kind {
            kind::OPEN => Open::decode_body(body).map(Self::Open),
            kind::UPDATE => Update::decode_body(body, context).map(Self::Update),
            kind::NOTIFICATION => Notification::decode_body(body).map(Self::Notification).ok_or_else(cut),
            kind::KEEPALIVE => Ok(Self::KeepAlive),
            kind::ROUTE_REFRESH => {
                let mut reader = Reader::new(body);
                let (Some(afi), Some(subtype), Some(safi)) = (reader.u16(), reader.u8(), reader.u8()) else {
                    return Err(cut());
                };
                match (reader.is_empty(), subtype) {
                    (true, _) => Ok(Self::RouteRefresh(RouteRefresh { afi, subtype, safi })),
                    (false, RouteRefresh::BEGIN | RouteRefresh::END) if context.enhanced_refresh => {
                        Err(DecodeError::RouteRefreshLength(frame.into()))
                    }
                    (false, _) => Err(cut()),
                }
            }
            other => Err(DecodeError::Type(other)),
        }
    }

    /// Writes it, header and all. [`Update::flaws`] are left out.
    ///
    /// # Errors
    /// [`EncodeError`] when something does not fit its length field or the whole exceeds [`Context::max_length`].
    pub fn encode(&self, context: Context) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&MARKER);
        let kind = match self {
            Self::Open(_) => kind::OPEN,
            Self::Update(_) => kind::UPDATE,
            Self::Notification(_) => kind::NOTIFICATION,
            Self::KeepAlive => kind::KEEPALIVE,
            Self::RouteRefresh(_) => kind::ROUTE_REFRESH,
        };
        out.extend_from_slice(&[0, 0, kind]);
        match self {
            Self::Open(open) => open.encode_body(&mut out)?,
            Self::Update(update) => update.encode_body(context, &mut out)?,
            Self::Notification(notification) => notification.encode_body(&mut out),
            Self::KeepAlive => {}
            Self::RouteRefresh(RouteRefresh { afi, subtype, safi }) => {
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[*subtype, *safi]);
            }
        }
        let length = out.len();
        let limit = match self {
            Self::Open(_) | Self::KeepAlive => MAX_LENGTH,
            Self::Update(_) | Self::Notification(_) | Self::RouteRefresh(_) => context.max_length(),
        };
        let too_long = EncodeError { what: "message", length, limit };
        let length = u16::try_from(length).ok().filter(|_| length <= limit).ok_or(too_long)?;
        for (to, from) in out.iter_mut().skip(MARKER.len()).zip(length.to_be_bytes()) {
            *to = from;
        }
        Ok(out)
    }
}
