//! The secret that a vendor shares with the transaction server, for those who check results by HMAC-SHA-256: `v1` of
//! Standard Webhooks, beside the Ed25519 of everybody (A14).

use std::fmt;

use cloakway_crypto::encode::{base64, unbase64};
use cloakway_crypto::hash::hmac_sha256;
use cloakway_crypto::{Secret, Zeroizing, ct_eq};

/// What such a secret begins with.
pub const PREFIX: &str = "whsec_";

/// The text is no such secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is whsec_ and 24 to 64 bytes in base64")]
pub struct SecretError;

/// 24 to 64 bytes that two parties know.
#[derive(Clone, PartialEq, Eq)]
pub struct HmacSecret(Secret<Vec<u8>>);

impl HmacSecret {
    /// Reads `whsec_…`, surrounded by white space or not.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn parse(text: &Secret<String>) -> Result<Self, SecretError> {
        let bytes = text.expose().trim().strip_prefix(PREFIX).and_then(unbase64).map(Secret::new);
        bytes.filter(|bytes| (24..=64).contains(&bytes.expose().len())).map(Self).ok_or(SecretError)
    }

    /// From 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Secret::new(bytes.to_vec()))
    }

    /// `whsec_…`, to be handed to the vendor.
    #[must_use]
    pub fn reveal(&self) -> Secret<String> {
        let text = Zeroizing::new(base64(self.0.expose()));
        Secret::new(format!("{PREFIX}{}", text.as_str()))
    }

    /// `v1,` and the code in base64.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        format!("v1,{}", base64(&hmac_sha256(self.0.expose(), message)))
    }

    /// Whether one of the signatures is by this secret.
    pub(crate) fn signed(&self, signatures: &str, message: &[u8]) -> bool {
        let code = hmac_sha256(self.0.expose(), message);
        let mut codes = signatures.split(' ').filter_map(|signature| unbase64(signature.strip_prefix("v1,")?));
        codes.any(|found| ct_eq(&found, &code))
    }
}

impl fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_standard_webhooks_holds() {
        // From the specification's reference libraries.
        let secret = HmacSecret::parse(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()).unwrap();
        let message = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(secret.sign(message), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(secret.signed("v1a,AAAA v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", message));
        assert!(!secret.signed("v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", message));
        assert!(!secret.signed("", message));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_what_is_one_is_not_printed() {
        for bad in [
            "",
            "whsec_",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAA",
            "whsec_*",
            &format!("whsec_{}", base64(&[1; 65])),
        ] {
            assert_eq!(HmacSecret::parse(&bad.into()), Err(SecretError), "{bad}");
        }
        let secret = HmacSecret::from_bytes(&[7; 32]);
        assert_eq!(HmacSecret::parse(&secret.reveal()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "[secret]");
    }
}
