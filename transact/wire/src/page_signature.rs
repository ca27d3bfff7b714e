//! The signature of a payer page that goes straight to its client (A10): HTTP Message Signatures (RFC 9421) with Ed25519
//! over the status, the type and the digest (RFC 9530) of the answer.

use cloakway_crypto::ct_eq;
use cloakway_crypto::encode::{base64, unbase64};
use cloakway_crypto::hash::sha256;
use cloakway_crypto::sign::{SigningKey, VerifyingKey};
use cloakway_types::Timestamp;

/// The header with the digest of the body.
pub const DIGEST_HEADER: &str = "content-digest";
/// The header that says what is signed.
pub const INPUT_HEADER: &str = "signature-input";
/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "signature";

const COVERED: &str = r#"("@status" "content-digest" "content-type")"#;

/// The headers of a signed page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// For [`DIGEST_HEADER`].
    pub digest: String,
    /// For [`INPUT_HEADER`].
    pub input: String,
    /// For [`SIGNATURE_HEADER`].
    pub signature: String,
}

/// Why a page is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageSignatureError {
    /// The body is not the one that was signed.
    #[error("{DIGEST_HEADER} is not the SHA-256 of the page")]
    Digest,
    /// Not signed in this form.
    #[error("{INPUT_HEADER} does not say {COVERED} by ed25519")]
    Input,
    /// Signed by another key, or something is changed.
    #[error("{SIGNATURE_HEADER} is not by this key over this page")]
    Signature,
}

fn digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", base64(&sha256(&[body])))
}

/// The signature base (RFC 9421 §2.5).
fn base(status: u16, digest: &str, content_type: &str, parameters: &str) -> String {
    format!(
        "\"@status\": {status}\n\"content-digest\": {digest}\n\"content-type\": {content_type}\n\"@signature-params\": {parameters}"
    )
}

/// Signs an answer at `now`.
#[must_use]
pub fn sign(key: &SigningKey, status: u16, content_type: &str, body: &[u8], now: Timestamp) -> Signed {
    let digest = digest(body);
    let parameters = format!(r#"{COVERED};created={};keyid="page";alg="ed25519""#, now.as_secs());
    let signature = key.sign(base(status, &digest, content_type, &parameters).as_bytes());
    let signature = format!("page=:{}:", base64(&signature));
    Signed { digest, input: format!("page={parameters}"), signature }
}

/// Checks an answer with the headers that it came with.
///
/// # Errors
/// [`PageSignatureError`].
pub fn verify(
    key: &VerifyingKey,
    status: u16,
    content_type: &str,
    body: &[u8],
    headers: &Signed,
) -> Result<(), PageSignatureError> {
    if !ct_eq(headers.digest.as_bytes(), digest(body).as_bytes()) {
        return Err(PageSignatureError::Digest);
    }
    let parameters = headers.input.strip_prefix("page=").ok_or(PageSignatureError::Input)?;
    if !parameters.strip_prefix(COVERED).is_some_and(|rest| rest.ends_with(r#";alg="ed25519""#)) {
        return Err(PageSignatureError::Input);
    }
    let signature = headers.signature.strip_prefix("page=:").and_then(|rest| unbase64(rest.strip_suffix(':')?));
    let signed = base(status, &headers.digest, content_type, parameters);
    key.verify(signed.as_bytes(), &signature.unwrap_or_default()).map_err(|_| PageSignatureError::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_believed_as_it_was_signed_and_not_otherwise() {
        let key = SigningKey::from_seed(&[5; 32]).unwrap();
        let public = key.verifying_key();
        let signed = sign(&key, 200, "text/html", b"page", Timestamp::from_secs(7));
        assert!(signed.input.contains(";created=7;"), "{}", signed.input);
        assert_eq!(verify(&public, 200, "text/html", b"page", &signed), Ok(()));
        assert_eq!(verify(&public, 200, "text/html", b"pagE", &signed), Err(PageSignatureError::Digest));
        assert_eq!(verify(&public, 201, "text/html", b"page", &signed), Err(PageSignatureError::Signature));
        assert_eq!(verify(&public, 200, "text/plain", b"page", &signed), Err(PageSignatureError::Signature));
        let later = Signed { input: signed.input.replace("=7;", "=8;"), ..signed.clone() };
        assert_eq!(verify(&public, 200, "text/html", b"page", &later), Err(PageSignatureError::Signature));
        for input in ["", "page=", "page=(\"@status\");alg=\"ed25519\"", &signed.input.replace("ed25519", "rsa")] {
            let other = Signed { input: input.to_owned(), ..signed.clone() };
            assert_eq!(verify(&public, 200, "text/html", b"page", &other), Err(PageSignatureError::Input), "{input}");
        }
        let other = SigningKey::from_seed(&[6; 32]).unwrap().verifying_key();
        assert_eq!(verify(&other, 200, "text/html", b"page", &signed), Err(PageSignatureError::Signature));
        for signature in ["", "page=::", "page=:AAAA:", "page=:*:"] {
            let other = Signed { signature: signature.to_owned(), ..signed.clone() };
            assert_eq!(verify(&public, 200, "text/html", b"page", &other), Err(PageSignatureError::Signature));
        }
    }
}
