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
}

/// The signature is not one by this key over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// A private key: 32 random bytes.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
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
}
