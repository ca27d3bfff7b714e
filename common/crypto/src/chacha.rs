//! ChaCha20-Poly1305 (RFC 8439), with key and nonce chosen by the caller for one message.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::aead::{OpenError, unseal};

/// Length of the tag behind the ciphertext.
pub const TAG_LENGTH: usize = 16;

fn key(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

/// Appends ciphertext and tag of `plain` to `out`. A key serves once with a nonce.
///
/// # Errors
/// [`OpenError`] when the message is longer than the cipher allows (256 GiB).
pub fn seal_into(
    out: &mut Vec<u8>,
    key_bytes: &[u8; 32],
    nonce: [u8; 12],
    context: &[u8],
    plain: &[u8],
) -> Result<(), OpenError> {
    let start = out.len();
    out.extend_from_slice(plain);
    let body = out.get_mut(start..).ok_or(OpenError)?;
    let tag = key(key_bytes)
        .ok_or(OpenError)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), body)
        .map_err(|_| OpenError)?;
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Opens what [`seal_into`] appended.
///
/// # Errors
/// [`OpenError`] for a wrong key, nonce or context, or bytes that were changed or cut.
pub fn open(
    key_bytes: &[u8; 32],
    nonce: [u8; 12],
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    unseal(key(key_bytes), nonce, context, sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let mut sealed = Vec::new();
        seal_into(&mut sealed, &[7; 32], [1; 12], b"page", b"password").unwrap();
        assert_eq!(open(&[7; 32], [1; 12], b"page", &sealed).unwrap().as_slice(), b"password");
        assert!(open(&[8; 32], [1; 12], b"page", &sealed).is_err());
        assert!(open(&[7; 32], [2; 12], b"page", &sealed).is_err());
        assert!(open(&[7; 32], [1; 12], b"other", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&[7; 32], [1; 12], b"page", &changed).is_err(), "byte {at}");
            assert!(open(&[7; 32], [1; 12], b"page", &sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
