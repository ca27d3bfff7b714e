//! Ed25519 signatures (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::encode::{base64, unbase64};
use crate::secret::Secret;

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes in base64.
    #[error("the key is not 32 bytes in base64")]
    Malformed,
    /// An encoding that is not the one of its point, or a point of small order: others could sign as its owner.
    #[error("the key is weak: its point is of small order, or not encoded as RFC 8032 §5.1.2 has it")]
    Weak,
}

/// The signature is not one by this key over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// A private key: 32 random bytes.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From the 32-byte seed.
    ///
    /// # Errors
    /// [`KeyError::Malformed`], which 32 bytes never lead to.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| KeyError::Malformed)
    }

    /// From the 32-byte seed in base64, surrounded by white space or not.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_base64(text: &Secret<String>) -> Result<Self, KeyError> {
        let seed = zeroize::Zeroizing::new(unbase64(text.expose().trim()).ok_or(KeyError::Malformed)?);
        Ed25519KeyPair::from_seed_unchecked(&seed).map(Self).map_err(|_| KeyError::Malformed)
    }

    /// The 64-byte signature of `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().as_ref().to_vec())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(public half {})", self.verifying_key().to_base64())
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey(Vec<u8>);

impl VerifyingKey {
    /// From 32 bytes in base64.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        match unbase64(text.trim()) {
            Some(bytes) if bytes.len() == 32 => Ok(Self(bytes)),
            _ => Err(KeyError::Malformed),
        }
    }

    /// From 32 bytes that are the one encoding of a point that is not of small order.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] or [`KeyError::Weak`].
    pub fn from_bytes_strict(bytes: &[u8]) -> Result<Self, KeyError> {
        let key: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::Malformed)?;
        if is_weak(key) {
            return Err(KeyError::Weak);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As [`VerifyingKey::verify`], and the point in the signature is not of small order either. That `s` is below the
    /// order of the group, and that the point is encoded canonically, holds for every signature that verifies.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify_strict(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        match signature.first_chunk::<32>() {
            Some(point) if !is_weak(point) => self.verify(message, signature),
            _ => Err(BadSignature),
        }
    }

    /// 32 bytes in base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        base64(&self.0)
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).map_err(|_| BadSignature)
    }
}

/// The y of the four pairs of points whose order divides 8: 1, -1, 0, and the two of order 8 (with either sign of x).
const SMALL_ORDER: [[u8; 32]; 5] = [
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [0; 32],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

fn is_weak(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    // 2^255 - 19, most significant byte first: an encoding from there on is not the one of its point.
    let canonical = y.iter().rev().zip(std::iter::once(&0x7f).chain([0xff; 30].iter()).chain([0xed].iter()));
    let below = canonical.fold(std::cmp::Ordering::Equal, |order, (byte, limit)| order.then(byte.cmp(limit))).is_lt();
    !below || SMALL_ORDER.contains(&y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{hex, unhex};

    #[test]
    fn rfc_8032_test_2() {
        let seed = unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let key = SigningKey::from_base64(&Secret::new(base64(&seed))).unwrap();
        let signature = key.sign(&[0x72]);
        assert_eq!(
            hex(&signature),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        let public = VerifyingKey::from_base64(&key.verifying_key().to_base64()).unwrap();
        assert_eq!(public.verify(&[0x72], &signature), Ok(()));
        assert_eq!(public.verify(&[0x73], &signature), Err(BadSignature));
        assert_eq!(public.verify(&[0x72], &signature[..63]), Err(BadSignature));
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused_and_the_debug_print_hides_the_seed() {
        assert!(SigningKey::from_base64(&Secret::from("AAAA")).is_err());
        assert!(VerifyingKey::from_base64("AAAA").is_err());
        let key = SigningKey::from_base64(&Secret::new(base64(&[9; 32]))).unwrap();
        assert!(!format!("{key:?}").contains(&base64(&[9; 32])));
    }

    /// A point of small order signs everything: s = 0 and R = A verify under RFC 8032's equation for some messages.
    #[test]
    fn weak_keys_are_refused_and_ordinary_ones_are_not() {
        for point in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut bytes = point;
                bytes[31] |= sign;
                assert_eq!(VerifyingKey::from_bytes_strict(&bytes), Err(KeyError::Weak));
                let key = SigningKey::from_seed(&[4; 32]).unwrap().verifying_key();
                assert_eq!(key.verify_strict(b"m", &[bytes, [0; 32]].concat()), Err(BadSignature));
            }
        }
        for last in [0xed, 0xee, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (last, 0x7f);
            assert_eq!(VerifyingKey::from_bytes_strict(&bytes), Err(KeyError::Weak));
        }
        for seed in 0..50 {
            let key = SigningKey::from_seed(&[seed; 32]).unwrap();
            let public = VerifyingKey::from_bytes_strict(key.verifying_key().as_bytes()).unwrap();
            assert_eq!(public.verify_strict(b"m", &key.sign(b"m")), Ok(()));
            assert_eq!(public.verify_strict(b"n", &key.sign(b"m")), Err(BadSignature));
        }
        assert_eq!(VerifyingKey::from_bytes_strict(&[1; 31]), Err(KeyError::Malformed));
    }
}
