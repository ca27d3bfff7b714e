//! The MD5 constructions of RADIUS accounting. Broken as hashes go; what the peers speak.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};

/// MD5 of the parts, one after another (RFC 2866 §3: code, id, length, authenticator, attributes, secret).
#[must_use]
pub fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut context = Md5::new();
    for part in parts {
        context.update(part);
    }
    context.finalize().into()
}

/// HMAC-MD5 of the parts, one after another (Message-Authenticator, RFC 3579 §3.2).
#[must_use]
#[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104 §2)")]
pub fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut context = Hmac::<Md5>::new_from_slice(key).expect("any key length");
    for part in parts {
        context.update(part);
    }
    context.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::hex;

    #[test]
    fn md5_and_hmac_md5_give_the_answers_of_rfc_1321_and_rfc_2202() {
        assert_eq!(hex(&md5(&[b"a", b"bc"])), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            hex(&hmac_md5(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "750c783e6ab0b503eaa86e310a5db738"
        );
    }
}
