//! RSA with 768 bits and DES, as electronic cash used them in 1995. Broken; for study, and money for tests.

use std::convert::Infallible;

use des::Des;
use des::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use rsa::{BoxedUint, Pkcs1v15Encrypt, Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use zeroize::Zeroizing;

use crate::radius::md5;
use crate::{Randomness, Secret};

/// Bits of a modulus.
pub const MODULUS_BITS: usize = 768;
const MODULUS_BYTES: usize = MODULUS_BITS / 8;
const PRIME_BYTES: usize = MODULUS_BYTES / 2;
const EXPONENT: u64 = 65_537;

/// Bytes that are no key, or no message under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key, or not a message under this key")]
pub struct Refused;

struct Source<'a>(&'a mut dyn Randomness);

impl TryRng for Source<'_> {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Source<'_> {}

/// DER of the algorithm in front of an MD5 digest (RFC 8017 §9.2).
const MD5_PREFIX: [u8; 18] =
    [0x30, 0x20, 0x30, 0x0c, 0x06, 0x08, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05, 0x05, 0x00, 0x04, 0x10];

fn md5_signature() -> Pkcs1v15Sign {
    Pkcs1v15Sign { hash_len: Some(16), prefix: Box::new(MD5_PREFIX) }
}

fn number(bytes: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(bytes)
}

/// A public key: a modulus of 768 bits, and 65537.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaPublic(RsaPublicKey);

impl RsaPublic {
    /// From the modulus, most significant byte first.
    ///
    /// # Errors
    /// [`Refused`] for another length, or an even number.
    pub fn from_modulus(modulus: &[u8]) -> Result<Self, Refused> {
        if modulus.len() != MODULUS_BYTES {
            return Err(Refused);
        }
        let limits = MODULUS_BITS..=MODULUS_BITS;
        RsaPublicKey::new_with_size_limits(number(modulus), EXPONENT.into(), limits).map(Self).map_err(|_| Refused)
    }

    /// The modulus, without leading zeros.
    #[must_use]
    pub fn modulus(&self) -> Vec<u8> {
        self.0.n_bytes().to_vec()
    }

    /// RSAES-PKCS1-v1_5.
    ///
    /// # Errors
    /// [`Refused`] for a message that is too long.
    pub fn encrypt(&self, message: &[u8], random: &mut dyn Randomness) -> Result<Vec<u8>, Refused> {
        self.0.encrypt(&mut Source(random), Pkcs1v15Encrypt, message).map_err(|_| Refused)
    }

    /// RSASSA-PKCS1-v1_5 over the MD5 of `message`.
    #[must_use]
    pub fn verify_md5(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(md5_signature(), &md5(&[message]), signature).is_ok()
    }
}

/// A private key.
#[derive(Clone)]
pub struct RsaPrivate(RsaPrivateKey);

impl std::fmt::Debug for RsaPrivate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RsaPrivate([secret])")
    }
}

impl RsaPrivate {
    /// A new one.
    ///
    /// # Errors
    /// [`Refused`], when no primes are found.
    pub fn generate(random: &mut dyn Randomness) -> Result<Self, Refused> {
        RsaPrivateKey::new_unchecked(&mut Source(random), MODULUS_BITS).map(Self).map_err(|_| Refused)
    }

    /// From its two primes, one after the other.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let (p, q) = bytes.split_at_checked(PRIME_BYTES).filter(|(_, q)| q.len() == PRIME_BYTES).ok_or(Refused)?;
        let key = RsaPrivateKey::from_p_q(number(p), number(q), EXPONENT.into()).map_err(|_| Refused)?;
        if key.n_bytes().len() == MODULUS_BYTES { Ok(Self(key)) } else { Err(Refused) }
    }

    /// What [`RsaPrivate::from_bytes`] takes.
    #[must_use]
    pub fn to_bytes(&self) -> Secret<Vec<u8>> {
        let mut bytes = Vec::with_capacity(MODULUS_BYTES);
        for prime in self.0.primes() {
            let whole = Zeroizing::new(prime.to_be_bytes().to_vec());
            bytes.extend_from_slice(whole.get(whole.len().saturating_sub(PRIME_BYTES)..).unwrap_or_default());
        }
        Secret::new(bytes)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> RsaPublic {
        RsaPublic(self.0.to_public_key())
    }

    /// Undoes [`RsaPublic::encrypt`].
    ///
    /// # Errors
    /// [`Refused`].
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        self.0.decrypt(Pkcs1v15Encrypt, sealed).map(Zeroizing::new).map_err(|_| Refused)
    }

    /// RSASSA-PKCS1-v1_5 over the MD5 of `message`.
    #[must_use]
    pub fn sign_md5(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(md5_signature(), &md5(&[message])).unwrap_or_default()
    }
}

/// One block of DES.
#[must_use]
pub fn des_block(key: &[u8; 8], block: [u8; 8]) -> [u8; 8] {
    let mut block = block.into();
    Des::new(&(*key).into()).encrypt_block(&mut block);
    block.into()
}

/// DES-CBC with PKCS#7 padding.
#[must_use]
pub fn des_cbc_seal(key: &[u8; 8], iv: &[u8; 8], plain: &[u8]) -> Vec<u8> {
    let cipher = Des::new(&(*key).into());
    let padding = 8 - plain.len() % 8;
    let mut padded = Zeroizing::new(plain.to_vec());
    padded.resize(plain.len() + padding, u8::try_from(padding).unwrap_or(8));
    let mut before = *iv;
    let mut out = Vec::with_capacity(padded.len());
    for block in padded.as_chunks::<8>().0 {
        let mut block: [u8; 8] = *block;
        block.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        before = block.into();
        out.extend_from_slice(&before);
    }
    out
}

/// Undoes [`des_cbc_seal`].
///
/// # Errors
/// [`Refused`] for what is not whole blocks, or ends in no padding.
pub fn des_cbc_open(key: &[u8; 8], iv: &[u8; 8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let (blocks, []) = sealed.as_chunks::<8>() else { return Err(Refused) };
    let cipher = Des::new(&(*key).into());
    let mut before = *iv;
    let mut out = Zeroizing::new(Vec::with_capacity(sealed.len()));
    for block in blocks {
        let mut plain = (*block).into();
        cipher.decrypt_block(&mut plain);
        let mut plain: [u8; 8] = plain.into();
        plain.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
        before = *block;
        out.extend_from_slice(&plain);
    }
    let padding = usize::from(out.last().copied().unwrap_or(0));
    let body = out.len().checked_sub(padding).filter(|_| (1..=8).contains(&padding)).ok_or(Refused)?;
    if out.get(body..).is_some_and(|tail| tail.iter().all(|byte| usize::from(*byte) == padding)) {
        out.truncate(body);
        Ok(out)
    } else {
        Err(Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::System;
    use crate::encode::{hex, unhex};

    #[test]
    fn des_gives_the_answer_that_everybody_quotes() {
        // FIPS 81, table B1: the plain text "Now is the time for all ", in CBC.
        let key = unhex("0123456789abcdef").unwrap().try_into().unwrap();
        let iv = unhex("1234567890abcdef").unwrap().try_into().unwrap();
        let sealed = des_cbc_seal(&key, &iv, b"Now is the time for all ");
        assert_eq!(hex(&sealed[..24]), "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6");
        assert_eq!(des_cbc_open(&key, &iv, &sealed).unwrap().as_slice(), b"Now is the time for all ");
        assert!(des_cbc_open(&key, &iv, &sealed[..20]).is_err());
        assert!(des_cbc_open(&key, &iv, &[]).is_err());
    }

    #[test]
    fn rsa_seals_signs_and_is_stored_as_its_primes() {
        let key = RsaPrivate::generate(&mut System).unwrap();
        let again = RsaPrivate::from_bytes(key.to_bytes().expose()).unwrap();
        assert_eq!(again.public(), key.public());
        let public = RsaPublic::from_modulus(&key.public().modulus()).unwrap();
        let sealed = public.encrypt(b"sixteen and more", &mut System).unwrap();
        assert_eq!(sealed.len(), 96);
        assert_eq!(again.decrypt(&sealed).unwrap().as_slice(), b"sixteen and more");
        let signature = again.sign_md5(b"message");
        assert!(public.verify_md5(b"message", &signature));
        assert!(!public.verify_md5(b"massage", &signature));
        assert!(RsaPublic::from_modulus(&[0xff; 95]).is_err());
        assert!(RsaPublic::from_modulus(&[0xfe; 96]).is_err());
        assert!(RsaPrivate::from_bytes(&[3; 96]).is_err());
        assert_eq!(format!("{key:?}"), "RsaPrivate([secret])");
    }
}
