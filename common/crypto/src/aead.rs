//! AES-256-GCM, with the nonce chosen by the caller.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Length of a nonce in bytes.
pub const NONCE_LENGTH: usize = 12;

/// The sealed bytes are not what this key and this context sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open under this key and context")]
pub struct OpenError;

fn key(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Seals `plain` bound to `context`; the result is nonce, ciphertext and tag. A nonce serves once per key.
///
/// # Errors
/// [`OpenError`] when the message is longer than GCM allows (64 GiB).
pub fn seal(
    key_bytes: &[u8; 32],
    nonce: [u8; NONCE_LENGTH],
    context: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let mut body = plain.to_vec();
    key(key_bytes)
        .ok_or(OpenError)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut body)
        .map_err(|_| OpenError)?;
    let mut sealed = nonce.to_vec();
    sealed.append(&mut body);
    Ok(sealed)
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`OpenError`] for a wrong key, a wrong context, or bytes that were changed or cut.
pub fn open(key_bytes: &[u8; 32], context: &[u8], sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, OpenError> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LENGTH>().ok_or(OpenError)?;
    unseal(key(key_bytes), *nonce, context, body)
}

/// Ciphertext and tag of either cipher, opened in a copy that is zeroised.
pub(crate) fn unseal(
    key: Option<LessSafeKey>,
    nonce: [u8; NONCE_LENGTH],
    context: &[u8],
    sealed: &[u8],
) -> Result<zeroize::Zeroizing<Vec<u8>>, OpenError> {
    let mut body = zeroize::Zeroizing::new(sealed.to_vec());
    let length = key
        .ok_or(OpenError)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut body)
        .map_err(|_| OpenError)?
        .len();
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let sealed = seal(&[7; 32], [1; 12], b"page", b"password").unwrap();
        assert_eq!(open(&[7; 32], b"page", &sealed).unwrap().as_slice(), b"password");
        assert!(open(&[8; 32], b"page", &sealed).is_err());
        assert!(open(&[7; 32], b"other", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&[7; 32], b"page", &changed).is_err(), "byte {at}");
            assert!(open(&[7; 32], b"page", &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
