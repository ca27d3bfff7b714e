//! HMAC-SHA-256 with a prepared key, and HKDF-SHA256 over it (RFC 5869).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// A key for HMAC-SHA-256, or a pseudorandom key of HKDF, prepared once for many messages.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey([secret])")
    }
}

impl MacKey {
    /// From bytes of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// HMAC of the parts, one after another.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        out.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        out
    }

    /// HKDF-Extract.
    #[must_use]
    pub fn extract(salt: &[u8], key_material: &[u8]) -> Self {
        let prk = Zeroizing::new(Self::new(salt).mac(&[key_material]));
        Self::new(prk.as_slice())
    }

    /// HKDF-Expand of up to 32 bytes, with this key as the pseudorandom key.
    #[must_use]
    pub fn expand<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= 32, "one block of SHA-256") };
        let mut parts: Vec<&[u8]> = Vec::with_capacity(info.len() + 1);
        parts.extend_from_slice(info);
        parts.push(&[1]);
        let block = Zeroizing::new(self.mac(&parts));
        let mut out = Zeroizing::new([0; N]);
        out.iter_mut().zip(block.iter()).for_each(|(to, from)| *to = *from);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{hex, unhex};

    #[test]
    fn the_first_block_of_rfc_5869_case_1() {
        let salt: Vec<u8> = (0..13).collect();
        let prk = MacKey::extract(&salt, &[0x0b; 22]);
        let info = unhex("f0f1f2f3f4f5f6f7f8f9").unwrap();
        let okm = prk.expand::<32>(&[&info]);
        assert_eq!(hex(okm.as_slice()), "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
        assert_eq!(prk.expand::<12>(&[&info[..4], &info[4..]]).as_slice(), &okm.as_slice()[..12]);
    }

    #[test]
    fn the_key_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", MacKey::new(b"salt")), "MacKey([secret])");
    }
}
