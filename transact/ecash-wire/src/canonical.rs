//! The forms of a message that are hashed, signed and authenticated.

use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;

use crate::suite::Suite;

/// Bytes 0x21 to 0x7e, in order: what no gateway changes.
#[must_use]
pub fn strip(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| (0x21..=0x7e).contains(byte)).collect()
}

/// A field as it enters a hash: label and text, folding undone.
pub type Field<'a> = (&'a str, &'a str);

/// Each field with the lengths of its halves in front, so that no two lists have the same bytes.
#[must_use]
pub fn tlv<'a>(fields: impl IntoIterator<Item = Field<'a>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for (label, value) in fields {
        push_tlv(&mut out, label, value);
    }
    out
}

pub(crate) fn push_tlv(out: &mut Vec<u8>, label: &str, value: &str) {
    out.extend_from_slice(&u16::try_from(label.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// F1 over header and body, already stripped: what the trailer carries.
#[must_use]
pub fn checksum(suite: Suite, stripped: &[u8]) -> String {
    match suite {
        Suite::Modern1 | Suite::Modern1h => {
            base64(sha256(&[stripped]).first_chunk::<16>().map_or(&[], <[u8; 16]>::as_slice))
        }
        #[cfg(feature = "classic-1995")]
        Suite::Classic1995 => base64(&cloakway_crypto::radius::md5(&[stripped])),
    }
}

/// F18: by this a message is known again, whatever white space a gateway changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of a whole message.
    #[must_use]
    pub fn of(message: &[u8]) -> Self {
        Self(sha256(&[&strip(message)]))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&cloakway_crypto::encode::hex(&self.0))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = cloakway_crypto::encode::unbase64(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("32 bytes in base64 are needed here"))
    }
}
