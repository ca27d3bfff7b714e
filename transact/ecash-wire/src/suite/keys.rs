//! Public keys: the server's, by which requests are wrapped, and the clients', by which they are signed.

use cloakway_crypto::hash::sha256;
use cloakway_crypto::hpke::{self, Kem};
use cloakway_crypto::{Randomness, Secret, sign};

use crate::canonical::{Field, tlv};
use crate::message::Kind;
use crate::suite::{Kept, Plain, ReplySecret, Suite, Undecryptable, is_opaque, modern};

/// Why a key is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Not a key of the suite.
    #[error("not a key of the suite")]
    Malformed,
    /// One that others could sign or open with.
    #[error("a weak key")]
    Weak,
}

fn kem(suite: Suite) -> Kem {
    match suite {
        Suite::Modern1h => Kem::XWing,
        _ => Kem::X25519,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrapping {
    Hpke(hpke::PublicKey),
    #[cfg(feature = "classic-1995")]
    Rsa(cloakway_crypto::classic::RsaPublic),
}

/// A server's public key, as the client's software comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKey {
    /// The value of `serverkey`.
    pub id: String,
    /// The suite of everything that is wrapped to it.
    pub suite: Suite,
    key: Wrapping,
}

fn info(suite: Suite, kind: Kind, key_id: &str) -> Vec<u8> {
    let mut info = modern::context(suite, kind, "\0");
    info.extend_from_slice(key_id.as_bytes());
    info
}

impl ServerKey {
    /// From its bytes.
    ///
    /// # Errors
    /// [`KeyRefused`].
    pub fn from_bytes(id: &str, suite: Suite, bytes: &[u8]) -> Result<Self, KeyRefused> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPublic::from_modulus(bytes).map_err(|_| KeyRefused::Malformed)?;
            return Ok(Self { id: id.to_owned(), suite, key: Wrapping::Rsa(key) });
        }
        let key = hpke::PublicKey::from_bytes(kem(suite), bytes).map_err(|_| KeyRefused::Malformed)?;
        Ok(Self { id: id.to_owned(), suite, key: Wrapping::Hpke(key) })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Vec<u8> {
        match &self.key {
            Wrapping::Hpke(key) => key.as_bytes().to_vec(),
            #[cfg(feature = "classic-1995")]
            Wrapping::Rsa(key) => key.modulus(),
        }
    }

    /// F2 and F4: seals a request, and makes the secret of its reply.
    ///
    /// # Errors
    /// [`Undecryptable`] for a key that leads to no secret.
    pub fn wrap(
        &self,
        kind: Kind,
        header: &[u8],
        plain: &[u8],
        random: &mut dyn Randomness,
    ) -> Result<(Vec<u8>, ReplySecret), Undecryptable> {
        match &self.key {
            Wrapping::Hpke(key) => {
                let (mut opaque, shared) = key.encapsulate(random).map_err(|_| Undecryptable)?;
                let context = shared.context(&info(self.suite, kind, &self.id));
                opaque.append(&mut context.seal(header, plain).map_err(|_| Undecryptable)?);
                let secret = context.export(&modern::context(self.suite, kind, "/reply"));
                Ok((opaque, ReplySecret(Kept(Secret::new(secret.to_vec())))))
            }
            #[cfg(feature = "classic-1995")]
            Wrapping::Rsa(key) => super::classic::wrap(key, plain, random),
        }
    }
}

#[derive(Debug, Clone)]
enum Unwrapping {
    Hpke(hpke::PrivateKey),
    #[cfg(feature = "classic-1995")]
    Rsa(cloakway_crypto::classic::RsaPrivate),
}

/// The private half of a [`ServerKey`].
#[derive(Debug, Clone)]
pub struct ServerPrivateKey {
    id: String,
    suite: Suite,
    key: Unwrapping,
}

/// A request that was opened: what kind its seal says it is, its fields, and the secret of its reply.
pub type Unwrapped = (Option<Kind>, Plain, ReplySecret);

impl ServerPrivateKey {
    /// From 32 random bytes; for the classic suite, from an encoded RSA key.
    ///
    /// # Errors
    /// [`KeyRefused::Malformed`].
    pub fn from_secret(id: &str, suite: Suite, secret: &[u8]) -> Result<Self, KeyRefused> {
        let id = id.to_owned();
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPrivate::from_bytes(secret).map_err(|_| KeyRefused::Malformed)?;
            return Ok(Self { id, suite, key: Unwrapping::Rsa(key) });
        }
        let seed = secret.try_into().map_err(|_| KeyRefused::Malformed)?;
        let key = hpke::PrivateKey::from_seed(kem(suite), seed).map_err(|_| KeyRefused::Malformed)?;
        Ok(Self { id, suite, key: Unwrapping::Hpke(key) })
    }

    /// A new one.
    ///
    /// # Errors
    /// [`KeyRefused::Malformed`], which randomness never leads to.
    pub fn generate(id: &str, suite: Suite, random: &mut dyn Randomness) -> Result<Self, KeyRefused> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPrivate::generate(random).map_err(|_| KeyRefused::Malformed)?;
            return Ok(Self { id: id.to_owned(), suite, key: Unwrapping::Rsa(key) });
        }
        let mut seed = cloakway_crypto::Zeroizing::new([0; 32]);
        random.fill(seed.as_mut_slice());
        Self::from_secret(id, suite, seed.as_slice())
    }

    /// What [`ServerPrivateKey::from_secret`] takes, for storage.
    #[must_use]
    pub fn secret(&self) -> Secret<Vec<u8>> {
        match &self.key {
            Unwrapping::Hpke(key) => Secret::new(key.seed().expose().to_vec()),
            #[cfg(feature = "classic-1995")]
            Unwrapping::Rsa(key) => key.to_bytes(),
        }
    }

    /// The value of `serverkey`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> ServerKey {
        let key = match &self.key {
            Unwrapping::Hpke(key) => Wrapping::Hpke(key.public().clone()),
            #[cfg(feature = "classic-1995")]
            Unwrapping::Rsa(key) => Wrapping::Rsa(key.public()),
        };
        ServerKey { id: self.id.clone(), suite: self.suite, key }
    }

    /// Opens a request. The seal names the kind of message that is inside, so each kind is tried: one agreement of keys,
    /// and the same work whatever is wrong. The classic seal names none.
    ///
    /// # Errors
    /// [`Undecryptable`].
    pub fn unwrap(&self, header: &[u8], opaque: &[u8]) -> Result<Unwrapped, Undecryptable> {
        match &self.key {
            Unwrapping::Hpke(key) => {
                let length = key.public().kem().encapsulation_length();
                let (enc, sealed) = opaque.split_at_checked(length).unwrap_or((&[], opaque));
                let found = key.decapsulate(enc);
                let sound = found.is_ok();
                let shared = found.unwrap_or_else(|_| hpke::Shared::decoy(key.public().kem()));
                let mut opened = None;
                for kind in Kind::REQUESTS {
                    let context = shared.context(&info(self.suite, *kind, &self.id));
                    if let (Ok(plain), true) = (context.open(header, sealed), sound) {
                        let secret = context.export(&modern::context(self.suite, *kind, "/reply"));
                        opened = Some((Some(*kind), plain, ReplySecret(Kept(Secret::new(secret.to_vec())))));
                    }
                }
                opened.ok_or(Undecryptable)
            }
            #[cfg(feature = "classic-1995")]
            Unwrapping::Rsa(key) => super::classic::unwrap(key, opaque).map(|(plain, secret)| (None, plain, secret)),
        }
    }
}

/// A client's private key.
#[derive(Debug)]
pub enum SigningKey {
    /// Of the modern suites.
    Ed25519(Box<sign::SigningKey>, Secret<[u8; 32]>),
    /// Of the suite of 1995.
    #[cfg(feature = "classic-1995")]
    Rsa(Box<cloakway_crypto::classic::RsaPrivate>),
}

impl SigningKey {
    /// From what [`SigningKey::secret`] gave.
    ///
    /// # Errors
    /// [`KeyRefused::Malformed`].
    pub fn from_secret(suite: Suite, secret: &[u8]) -> Result<Self, KeyRefused> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPrivate::from_bytes(secret).map_err(|_| KeyRefused::Malformed)?;
            return Ok(Self::Rsa(Box::new(key)));
        }
        let _ = suite;
        let seed: [u8; 32] = secret.try_into().map_err(|_| KeyRefused::Malformed)?;
        let key = sign::SigningKey::from_seed(&seed).map_err(|_| KeyRefused::Malformed)?;
        Ok(Self::Ed25519(Box::new(key), Secret::new(seed)))
    }

    /// A new one.
    ///
    /// # Errors
    /// [`KeyRefused::Malformed`], which randomness never leads to.
    pub fn generate(suite: Suite, random: &mut dyn Randomness) -> Result<Self, KeyRefused> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPrivate::generate(random).map_err(|_| KeyRefused::Malformed)?;
            return Ok(Self::Rsa(Box::new(key)));
        }
        let mut seed = cloakway_crypto::Zeroizing::new([0; 32]);
        random.fill(seed.as_mut_slice());
        Self::from_secret(suite, seed.as_slice())
    }

    /// For storage.
    #[must_use]
    pub fn secret(&self) -> Secret<Vec<u8>> {
        match self {
            Self::Ed25519(_, seed) => Secret::new(seed.expose().to_vec()),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => key.to_bytes(),
        }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        match self {
            Self::Ed25519(key, _) => VerifyingKey::Ed25519(key.verifying_key()),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => VerifyingKey::Rsa(key.public()),
        }
    }

    /// F3 and F14: signs what [`signature_input`] makes.
    #[must_use]
    pub fn sign(&self, input: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(key, _) => key.sign(input),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => key.sign_md5(input),
        }
    }
}

/// A client's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyingKey {
    /// Of the modern suites.
    Ed25519(sign::VerifyingKey),
    /// Of the suite of 1995.
    #[cfg(feature = "classic-1995")]
    Rsa(cloakway_crypto::classic::RsaPublic),
}

impl VerifyingKey {
    /// From the bytes of `pubkey`.
    ///
    /// # Errors
    /// [`KeyRefused`].
    pub fn from_bytes(suite: Suite, bytes: &[u8]) -> Result<Self, KeyRefused> {
        #[cfg(feature = "classic-1995")]
        if suite.is_classic() {
            let key = cloakway_crypto::classic::RsaPublic::from_modulus(bytes);
            return key.map(Self::Rsa).map_err(|_| KeyRefused::Weak);
        }
        let _ = suite;
        sign::VerifyingKey::from_bytes_strict(bytes).map(Self::Ed25519).map_err(|error| match error {
            sign::KeyError::Malformed => KeyRefused::Malformed,
            sign::KeyError::Weak => KeyRefused::Weak,
        })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.as_bytes().to_vec(),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => key.modulus(),
        }
    }

    /// Whether `signature` is one over `input` by the holder of the private half.
    #[must_use]
    pub fn verify(&self, input: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => key.verify_strict(input, signature).is_ok(),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => key.verify_md5(input, signature),
        }
    }

    /// F6: the value of `key`.
    #[must_use]
    pub fn fingerprint(&self, suite: Suite) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => sha256(&[suite.prefix().as_bytes(), b"key\0", key.as_bytes()]).to_vec(),
            #[cfg(feature = "classic-1995")]
            Self::Rsa(key) => cloakway_crypto::radius::md5(&[&key.modulus()]).to_vec(),
        }
    }
}

/// F3 and F14: the bytes that a signature covers. In the modern suites that is every field but the signature and the
/// sealed value.
#[must_use]
pub fn signature_input<'a>(
    suite: Suite,
    kind: Kind,
    clear: impl Iterator<Item = Field<'a>>,
    opaque: impl Iterator<Item = Field<'a>>,
) -> Vec<u8> {
    #[cfg(feature = "classic-1995")]
    if suite.is_classic() {
        return super::classic::signature_input(kind, clear, opaque);
    }
    let unsigned = |label: &str| is_opaque(label) || label == "signature" || label == "merchant-signed-hash";
    let mut fields: Vec<Field<'a>> = clear.chain(opaque).filter(|(label, _)| !unsigned(label)).collect();
    fields.sort_by_key(|(label, _)| *label);
    let mut input = modern::context(suite, kind, "/sig\0");
    input.append(&mut tlv(fields));
    input
}
