//! Hybrid public key encryption in base mode (RFC 9180), one message a context: a KEM, HKDF-SHA256 and
//! ChaCha20-Poly1305. The KEM is DHKEM(X25519, HKDF-SHA256), or X-Wing, which adds ML-KEM-768 so that a recording
//! stays closed even to a quantum computer.

use aws_lc_rs::agreement;
use x_wing::{Decapsulate, Decapsulator, KeyExport};
use zeroize::Zeroizing;

use crate::aead::OpenError;
use crate::hkdf::MacKey;
use crate::random::Randomness;
use crate::{Secret, chacha};

/// How the shared secret comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256), 0x0020.
    X25519,
    /// X-Wing, 0x647a.
    XWing,
}

impl Kem {
    const fn id(self) -> [u8; 2] {
        match self {
            Self::X25519 => [0x00, 0x20],
            Self::XWing => [0x64, 0x7a],
        }
    }

    /// Length of what is sent so that the other end finds the shared secret.
    #[must_use]
    pub const fn encapsulation_length(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::XWing => 1120,
        }
    }

    fn suite(self) -> [u8; 10] {
        let [high, low] = self.id();
        [b'H', b'P', b'K', b'E', high, low, 0, 1, 0, 3]
    }
}

/// The bytes are not a key of this KEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a public key of this KEM")]
pub struct KeyError;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kem: Kem,
    bytes: Vec<u8>,
}

/// A private key: 32 random bytes.
#[derive(Debug, Clone)]
pub struct PrivateKey {
    seed: Secret<[u8; 32]>,
    public: PublicKey,
}

/// What both ends know after encapsulation.
#[derive(Clone)]
pub struct Shared {
    kem: Kem,
    secret: Zeroizing<[u8; 32]>,
}

/// One message's key, nonce and exporter.
pub struct Context {
    kem: Kem,
    key: Zeroizing<[u8; 32]>,
    nonce: Zeroizing<[u8; 12]>,
    exporter: MacKey,
}

const EMPTY: &[u8] = &[0; 32];

fn labeled_extract(salt: &[u8], suite: &[u8], label: &[u8], material: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(MacKey::new(salt).mac(&[b"HPKE-v1", suite, label, material]))
}

fn labeled_expand<const N: usize>(prk: &MacKey, suite: &[u8], label: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let length = u16::try_from(N).unwrap_or(0).to_be_bytes();
    prk.expand(&[&length, b"HPKE-v1", suite, label, info])
}

fn x25519(private: &[u8], public: &[u8], enc: &[u8], recipient: &[u8]) -> Result<Shared, KeyError> {
    let private = agreement::PrivateKey::from_private_key(&agreement::X25519, private).map_err(|_| KeyError)?;
    let public = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
    let secret = agreement::agree(&private, public, KeyError, |shared| {
        let suite = [b'K', b'E', b'M', 0x00, 0x20];
        let prk = labeled_extract(EMPTY, &suite, b"eae_prk", shared);
        let context = [enc, recipient].concat();
        Ok(labeled_expand(&MacKey::new(prk.as_slice()), &suite, b"shared_secret", &context))
    })?;
    Ok(Shared { kem: Kem::X25519, secret })
}

fn x25519_public(private: &[u8]) -> Result<Vec<u8>, KeyError> {
    agreement::PrivateKey::from_private_key(&agreement::X25519, private)
        .map_err(|_| KeyError)?
        .compute_public_key()
        .map(|key| key.as_ref().to_vec())
        .map_err(|_| KeyError)
}

impl PublicKey {
    /// From the bytes of the KEM's own encoding.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_bytes(kem: Kem, bytes: &[u8]) -> Result<Self, KeyError> {
        let right = match kem {
            Kem::X25519 => bytes.len() == 32,
            Kem::XWing => x_wing::EncapsulationKey::try_from(bytes).is_ok(),
        };
        if right { Ok(Self { kem, bytes: bytes.to_vec() }) } else { Err(KeyError) }
    }

    /// The KEM's own encoding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The KEM.
    #[must_use]
    pub fn kem(&self) -> Kem {
        self.kem
    }

    /// A new shared secret, and what the holder of the private key needs to find it.
    ///
    /// # Errors
    /// [`KeyError`] for a key that leads to no secret (a point of small order).
    pub fn encapsulate(&self, random: &mut dyn Randomness) -> Result<(Vec<u8>, Shared), KeyError> {
        match self.kem {
            Kem::X25519 => {
                let mut ephemeral = Zeroizing::new([0; 32]);
                random.fill(ephemeral.as_mut_slice());
                let enc = x25519_public(ephemeral.as_slice())?;
                let shared = x25519(ephemeral.as_slice(), &self.bytes, &enc, &self.bytes)?;
                Ok((enc, shared))
            }
            Kem::XWing => {
                let mut seed = Zeroizing::new([0; 64]);
                random.fill(seed.as_mut_slice());
                let key = x_wing::EncapsulationKey::try_from(self.bytes.as_slice()).map_err(|_| KeyError)?;
                let (enc, shared) = key.encapsulate_deterministic(&(*seed).into());
                Ok((enc.to_vec(), Shared { kem: self.kem, secret: Zeroizing::new(shared.into()) }))
            }
        }
    }
}

impl PrivateKey {
    /// The key pair that 32 random bytes make.
    ///
    /// # Errors
    /// [`KeyError`], which 32 bytes never lead to.
    pub fn from_seed(kem: Kem, seed: [u8; 32]) -> Result<Self, KeyError> {
        let bytes = match kem {
            Kem::X25519 => x25519_public(&seed)?,
            Kem::XWing => x_wing::DecapsulationKey::from(seed).encapsulation_key().to_bytes().to_vec(),
        };
        Ok(Self { seed: Secret::new(seed), public: PublicKey { kem, bytes } })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The 32 bytes, for storage.
    #[must_use]
    pub fn seed(&self) -> &Secret<[u8; 32]> {
        &self.seed
    }

    /// The secret behind `enc`.
    ///
    /// # Errors
    /// [`KeyError`] when no secret can be behind it.
    pub fn decapsulate(&self, enc: &[u8]) -> Result<Shared, KeyError> {
        match self.public.kem {
            Kem::X25519 => x25519(self.seed.expose(), enc, enc, &self.public.bytes),
            Kem::XWing => {
                let key = x_wing::DecapsulationKey::from(*self.seed.expose());
                let enc: &x_wing::Ciphertext = enc.try_into().map_err(|_| KeyError)?;
                Ok(Shared { kem: Kem::XWing, secret: Zeroizing::new(key.decapsulate(enc).into()) })
            }
        }
    }
}

impl Shared {
    /// Stands for a secret that was not found, so that going on takes as long. Everybody knows it.
    #[must_use]
    pub fn decoy(kem: Kem) -> Self {
        Self { kem, secret: Zeroizing::new([0; 32]) }
    }

    /// The key schedule for one message.
    #[must_use]
    pub fn context(&self, info: &[u8]) -> Context {
        let suite = self.kem.suite();
        let mut context = vec![0];
        context.extend_from_slice(labeled_extract(EMPTY, &suite, b"psk_id_hash", &[]).as_slice());
        context.extend_from_slice(labeled_extract(EMPTY, &suite, b"info_hash", info).as_slice());
        let secret = MacKey::new(labeled_extract(self.secret.as_slice(), &suite, b"secret", &[]).as_slice());
        let exporter: Zeroizing<[u8; 32]> = labeled_expand(&secret, &suite, b"exp", &context);
        Context {
            kem: self.kem,
            key: labeled_expand(&secret, &suite, b"key", &context),
            nonce: labeled_expand(&secret, &suite, b"base_nonce", &context),
            exporter: MacKey::new(exporter.as_slice()),
        }
    }
}

impl Context {
    /// Seals the one message of this context.
    ///
    /// # Errors
    /// [`OpenError`] for a message beyond the cipher's bound.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut out = Vec::with_capacity(plain.len() + chacha::TAG_LENGTH);
        chacha::seal_into(&mut out, &self.key, *self.nonce, context, plain)?;
        Ok(out)
    }

    /// Opens the one message of this context.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        chacha::open(&self.key, *self.nonce, context, sealed)
    }

    /// A secret that both ends share for `purpose`.
    #[must_use]
    pub fn export(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        labeled_expand(&self.exporter, &self.kem.suite(), b"sec", purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{hex, unhex};
    use crate::hash::sha256;

    struct Fixed(Vec<u8>);

    impl Randomness for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0.drain(..bytes.len()).collect::<Vec<_>>());
        }
    }

    const INFO: &[u8] = b"Ode on a Grecian Urn";
    const PLAIN: &[u8] = b"Beauty is truth, truth beauty";

    /// Vectors computed apart, in Python, with the primitives of the package `cryptography` 48, whose own HPKE opened the
    /// same ciphertext without additional data. The RFC's appendix has no vector for this KEM with this nonce length that
    /// exports under one label, so the text is its own and the keys are counted bytes.
    #[test]
    fn x25519_gives_the_known_answers() {
        let key = PrivateKey::from_seed(Kem::X25519, std::array::from_fn(|at| at as u8 + 1)).unwrap();
        assert_eq!(hex(key.public().as_bytes()), "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c");
        let (enc, shared) = key.public().encapsulate(&mut Fixed((33..65).collect())).unwrap();
        assert_eq!(hex(&enc), "5869aff450549732cbaaed5e5df9b30a6da31cb0e5742bad5ad4a1a768f1a67b");
        let context = shared.context(INFO);
        assert_eq!(
            hex(&context.seal(b"Count-0", PLAIN).unwrap()),
            "da7e49ba1ca477113c6adbcc7cbb71caad8c5b71f71b54d8b06af032f240d300c1d0c7f5e983612ba56fec2890"
        );
        assert_eq!(
            hex(context.export(b"TestContext").as_slice()),
            "07a7d10a9a8541b72ef7a5a833e531649f6301a84cf24384b5e6f939ed434375"
        );
    }

    /// The KEM's answers are those of draft-connolly-cfrg-xwing-kem's first vector; the schedule behind it was computed
    /// apart as above.
    #[test]
    fn x_wing_gives_the_known_answers() {
        let seed = unhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26").unwrap();
        let random = "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e235b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2";
        let key = PrivateKey::from_seed(Kem::XWing, seed.try_into().unwrap()).unwrap();
        assert_eq!(
            hex(&sha256(&[key.public().as_bytes()])),
            "2e816deebcd76c5c80d0cd2d174478871658e8e2ff42bc9d4a6e486372e856bb"
        );
        let (enc, shared) = key.public().encapsulate(&mut Fixed(unhex(random).unwrap())).unwrap();
        assert_eq!(hex(&sha256(&[&enc])), "17cd532d657e44c897ca6583e548a5424fc70bf54f99515a4d2bcf99e3469f33");
        let context = shared.context(INFO);
        assert_eq!(
            hex(&context.seal(b"Count-0", PLAIN).unwrap()),
            "0842b049e8cbdc90d36fff201b307f6d3b3f1037a25fa1deaf840344c13a64b60a311c3394b84b25348b29d69a"
        );
        assert_eq!(
            hex(context.export(b"TestContext").as_slice()),
            "b41ffbf072a869779783296fd8b65e1753394a3f80a3e37aed596dd5baf5767c"
        );
        assert_eq!(key.decapsulate(&enc).unwrap().secret, shared.secret);
    }

    #[test]
    fn both_ends_agree_and_a_changed_byte_of_anything_ends_it() {
        for kem in [Kem::X25519, Kem::XWing] {
            let key = PrivateKey::from_seed(kem, [3; 32]).unwrap();
            let (enc, shared) = key.public().encapsulate(&mut Fixed(vec![9; 64])).unwrap();
            assert_eq!(enc.len(), kem.encapsulation_length());
            let sealed = shared.context(INFO).seal(b"aad", PLAIN).unwrap();
            let open = |enc: &[u8], info: &[u8], aad: &[u8]| {
                key.decapsulate(enc).ok().and_then(|shared| shared.context(info).open(aad, &sealed).ok())
            };
            assert_eq!(open(&enc, INFO, b"aad").unwrap().as_slice(), PLAIN);
            assert!(open(&enc, b"other", b"aad").is_none());
            assert!(open(&enc, INFO, b"other").is_none());
            assert!(open(&enc[1..], INFO, b"aad").is_none());
            let mut changed = enc;
            changed[5] ^= 1;
            assert!(open(&changed, INFO, b"aad").is_none());
        }
    }

    #[test]
    fn a_key_of_small_order_and_one_of_a_wrong_length_are_refused() {
        let zero = PublicKey::from_bytes(Kem::X25519, &[0; 32]).unwrap();
        assert!(zero.encapsulate(&mut Fixed(vec![9; 64])).is_err());
        assert!(PublicKey::from_bytes(Kem::X25519, &[1; 31]).is_err());
        assert!(PublicKey::from_bytes(Kem::XWing, &[1; 32]).is_err());
    }
}
