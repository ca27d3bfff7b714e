//! The MD5 constructions of RADIUS. Broken as hashes go; what the peers speak.

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

/// What a value is hidden under: the shared secret, and what is hashed with it for the first block.
#[derive(Clone, Copy)]
pub struct Hiding<'a> {
    /// The shared secret.
    pub secret: &'a [u8],
    /// The request authenticator, and behind it the salt of an attribute that has one.
    pub first: &'a [&'a [u8]],
}

impl Hiding<'_> {
    fn pad(&self, before: Option<&[u8; BLOCK]>) -> [u8; BLOCK] {
        let mut context = Md5::new();
        context.update(self.secret);
        match before {
            Some(before) => context.update(before),
            None => self.first.iter().for_each(|part| context.update(part)),
        }
        context.finalize().into()
    }
}

const BLOCK: usize = 16;

/// Hides a value anew that was hidden under `from` (User-Password, RFC 2865 §5.2; Tunnel-Password, RFC 2868 §3.5).
///
/// The two pads meet before they meet the value, so that what is hidden is never in memory. False, and nothing is done,
/// when the value is not whole blocks.
pub fn rehide(value: &mut [u8], from: Hiding<'_>, to: Hiding<'_>) -> bool {
    let (blocks, rest) = value.as_chunks_mut::<BLOCK>();
    if blocks.is_empty() || !rest.is_empty() {
        return false;
    }
    let (mut was, mut is) = (None, None);
    for block in blocks {
        let pads = from.pad(was.as_ref()).into_iter().zip(to.pad(is.as_ref()));
        was = Some(*block);
        block.iter_mut().zip(pads).for_each(|(byte, (old, new))| *byte ^= old ^ new);
        is = Some(*block);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{hex, unhex};

    #[test]
    fn a_password_is_hidden_anew_and_a_cut_one_is_left_alone() {
        // RFC 2865 §7.1: "arctangent" under "xyzzy5461".
        let authenticator = unhex("0f403f9473978057bd83d5cb98f4227a").unwrap();
        let hidden = unhex("0dbe708d93d413ce3196e43f782a0aee").unwrap();
        let first: [&[u8]; 1] = [&authenticator];
        let known = Hiding { secret: b"xyzzy5461", first: &first };
        let other = Hiding { secret: b"another secret", first: &first };
        let mut value = hidden.clone();
        assert!(rehide(&mut value, known, other));
        let mut clear = value.clone();
        clear.iter_mut().zip(md5(&[b"another secret", &authenticator])).for_each(|(byte, pad)| *byte ^= pad);
        assert_eq!(clear, b"arctangent\0\0\0\0\0\0");
        assert!(rehide(&mut value, other, known));
        assert_eq!(value, hidden);
        for length in [0, 15, 17] {
            let mut cut = vec![7; length];
            assert!(!rehide(&mut cut, known, other));
            assert_eq!(cut, vec![7; length]);
        }
    }

    #[test]
    fn a_long_value_is_chained_block_by_block() {
        let (a, b) = ([1_u8; 16], [2_u8; 16]);
        let (first_a, first_b): ([&[u8]; 2], [&[u8]; 2]) = ([&a, &[9, 9]], [&b, &[8, 8]]);
        let (from, to) = (Hiding { secret: b"from", first: &first_a }, Hiding { secret: b"to", first: &first_b });
        let clear = *b"forty-eight octets, which are three blocks of it";
        let hide = |hiding: Hiding<'_>| {
            let mut before = None;
            let mut out = Vec::new();
            for block in clear.as_chunks::<16>().0 {
                let mut block = *block;
                block.iter_mut().zip(hiding.pad(before.as_ref())).for_each(|(byte, pad)| *byte ^= pad);
                before = Some(block);
                out.extend_from_slice(&block);
            }
            out
        };
        let mut value = hide(from);
        assert!(rehide(&mut value, from, to));
        assert_eq!(value, hide(to));
    }

    #[test]
    fn md5_and_hmac_md5_give_the_answers_of_rfc_1321_and_rfc_2202() {
        assert_eq!(hex(&md5(&[b"a", b"bc"])), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            hex(&hmac_md5(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "750c783e6ab0b503eaa86e310a5db738"
        );
    }
}
