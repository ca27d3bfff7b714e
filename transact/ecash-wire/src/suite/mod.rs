//! Suites: what stands behind the formulas F1 to F19. A suite belongs to the server's key; nothing is negotiated.
//!
//! A decision depends on the suite only here and in [`crate::canonical`].

#[cfg(feature = "classic-1995")]
mod classic;
mod keys;
mod modern;
mod session;

use cloakway_crypto::hash::sha256;
use cloakway_crypto::{Randomness, Secret, Zeroizing};
use serde::{Deserialize, Serialize};

pub use keys::{KeyRefused, ServerKey, ServerPrivateKey, SigningKey, Unwrapped, VerifyingKey, signature_input};
pub use session::SessionSecrets;

use crate::canonical::{Digest, Field, push_tlv, tlv};
use crate::message::Kind;

/// The bytes are not what this key, this context and this kind of message sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open")]
pub struct Undecryptable;

/// What is opened: wiped when it goes.
pub type Plain = Zeroizing<Vec<u8>>;

/// A set of algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Suite {
    /// X25519, Ed25519, ChaCha20-Poly1305, HKDF and HMAC with SHA-256.
    #[serde(rename = "modern-1")]
    Modern1,
    /// The same, with X-Wing in the place of X25519.
    #[serde(rename = "modern-1h")]
    Modern1h,
    /// RSA with 768 bits, DES, MD5: for study and the test currency.
    #[cfg(feature = "classic-1995")]
    #[serde(rename = "classic-1995")]
    Classic1995,
}

impl Suite {
    /// Every suite that this program contains.
    pub const ALL: &[Self] = &[
        Self::Modern1,
        Self::Modern1h,
        #[cfg(feature = "classic-1995")]
        Self::Classic1995,
    ];

    /// The name, as configurations have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modern1 => "modern-1",
            Self::Modern1h => "modern-1h",
            #[cfg(feature = "classic-1995")]
            Self::Classic1995 => "classic-1995",
        }
    }

    /// The number in the header line.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Modern1 => "2026.1",
            Self::Modern1h => "2026.1h",
            #[cfg(feature = "classic-1995")]
            Self::Classic1995 => "1995.1",
        }
    }

    /// The suite of a header line.
    #[must_use]
    pub fn from_protocol(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|suite| suite.protocol() == text)
    }

    /// Whether it is the one of 1995.
    #[must_use]
    pub const fn is_classic(self) -> bool {
        !matches!(self, Self::Modern1 | Self::Modern1h)
    }

    /// Whether the character set has all of `text`.
    pub(crate) fn allows(self, text: &str) -> bool {
        !self.is_classic() || text.bytes().all(|byte| matches!(byte, b'\n' | b'\r' | b'\t' | b' '..=b'~'))
    }

    /// Bytes of a session's key and of its salt.
    #[must_use]
    pub const fn session_lengths(self) -> (usize, usize) {
        if self.is_classic() { (16, 8) } else { (32, 32) }
    }

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Modern1h => "ecash-session/modern-1h/",
            _ => "ecash-session/modern-1/",
        }
    }
}

/// Labels of values that are sealed: they do not enter the context of a seal or a signature.
const OPAQUE: [&str; 3] = ["opaque", "merchant-opaque", "customer-opaque"];

pub(crate) fn is_opaque(label: &str) -> bool {
    let base = label.split_once('_').map_or(label, |(base, _)| base);
    OPAQUE.contains(&base)
}

/// HDR: protocol number and clear fields, in wire order.
#[must_use]
pub fn header_context<'a>(suite: Suite, clear: impl Iterator<Item = Field<'a>>) -> Vec<u8> {
    tlv(std::iter::once(("protocol", suite.protocol())).chain(clear.filter(|(label, _)| !is_opaque(label))))
}

/// A secret that is kept in a store, in base64: the store is its owner's to protect. Wiped on drop, printed as nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept(pub Secret<Vec<u8>>);

impl Serialize for Kept {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(cloakway_crypto::encode::base64(self.0.expose())))
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = cloakway_crypto::encode::unbase64(&text);
        bytes.map(|bytes| Self(Secret::new(bytes))).ok_or_else(|| serde::de::Error::custom("base64 is needed here"))
    }
}

/// What both ends of a request share for its reply. Kept with the pending request, wiped on drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplySecret(pub Kept);

impl ReplySecret {
    /// Seals a reply.
    ///
    /// # Errors
    /// [`Undecryptable`] for a text that no cipher takes.
    pub fn seal(
        &self,
        suite: Suite,
        kind: Kind,
        header: &[u8],
        request: &Digest,
        plain: &[u8],
        random: &mut dyn Randomness,
    ) -> Result<Vec<u8>, Undecryptable> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            return classic::seal_reply(self.0.0.expose(), plain);
        }
        let context = [header, &request.0].concat();
        modern::seal(self.0.0.expose(), &modern::context(suite, kind, ""), &context, plain, random)
    }

    /// Opens a reply.
    ///
    /// # Errors
    /// [`Undecryptable`].
    pub fn open(
        &self,
        suite: Suite,
        kind: Kind,
        header: &[u8],
        request: &Digest,
        sealed: &[u8],
    ) -> Result<Plain, Undecryptable> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            return classic::open_reply(self.0.0.expose(), sealed);
        }
        let context = [header, &request.0].concat();
        modern::open(self.0.0.expose(), &modern::context(suite, kind, ""), &context, sealed)
    }
}

/// F13: what stands for the text of an offer.
#[must_use]
pub fn note_hash(suite: Suite, note: &str) -> Vec<u8> {
    #[cfg(feature = "classic-1995")]
    if suite.is_classic() {
        return cloakway_crypto::radius::md5(&[&crate::canonical::strip(note.as_bytes())]).to_vec();
    }
    sha256(&[suite.prefix().as_bytes(), b"note\0", note.as_bytes()]).to_vec()
}

/// F15: by this the server knows an instrument again without keeping its number. `pepper` is the server's own secret.
#[must_use]
pub fn instrument_hash(suite: Suite, pepper: &[u8], salt: &[u8], number: &str) -> Vec<u8> {
    #[cfg(feature = "classic-1995")]
    if suite.is_classic() {
        return cloakway_crypto::radius::md5(&[number.as_bytes(), salt]).to_vec();
    }
    let salt = cloakway_crypto::encode::base64(salt);
    let list = Zeroizing::new(tlv([("instrument-salt", salt.as_str()), ("instrument-number", number)]));
    let input = Zeroizing::new([suite.prefix().as_bytes(), b"instrument\0", &list].concat());
    cloakway_crypto::hash::hmac_sha256(pepper, &input).to_vec()
}

/// F19: what a payee handed in for one use of a payer's session.
#[must_use]
pub fn payment_digest<'a>(list: impl IntoIterator<Item = Field<'a>>, opaque: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(512);
    for (label, value) in list {
        push_tlv(&mut input, label, value);
    }
    sha256(&[&input, opaque])
}
