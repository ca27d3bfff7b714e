//! What financial institutions ask for: message authentication codes (ISO/IEC 9797-1 algorithm 3, which is ANSI X9.19;
//! AES-CMAC, which is algorithm 5) and PIN blocks (ISO 9564-1 format 0).

use aws_lc_rs::cmac;
use des::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use des::{Des, TdesEde2};

use crate::secret::{Secret, ct_eq};

/// Octets of a message authentication code (ISO 8583 fields 64 and 128).
pub const MAC_LENGTH: usize = 8;

/// Octets of a key, and how many are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key has {given} octets, {needed} are needed")]
pub struct KeyLength {
    /// How many there are.
    pub given: usize,
    /// How many there should be.
    pub needed: &'static str,
}

#[derive(Debug, Clone)]
enum Algorithm {
    Retail,
    Cmac(cmac::Algorithm),
}

/// A key for message authentication codes, shared with an institution.
#[derive(Debug, Clone)]
pub struct MacKey {
    algorithm: Algorithm,
    key: Secret<Vec<u8>>,
}

impl MacKey {
    /// ISO/IEC 9797-1 algorithm 3 over DES with padding method 1 (ANSI X9.19): 16 octets, a key in two halves.
    ///
    /// # Errors
    /// [`KeyLength`].
    pub fn retail(key: Secret<Vec<u8>>) -> Result<Self, KeyLength> {
        match key.expose().len() {
            16 => Ok(Self { algorithm: Algorithm::Retail, key }),
            given => Err(KeyLength { given, needed: "16" }),
        }
    }

    /// AES-CMAC (RFC 4493, NIST SP 800-38B) of which the first eight octets are taken: a key of 16 or 32 octets.
    ///
    /// # Errors
    /// [`KeyLength`].
    pub fn aes_cmac(key: Secret<Vec<u8>>) -> Result<Self, KeyLength> {
        let algorithm = match key.expose().len() {
            16 => cmac::AES_128,
            32 => cmac::AES_256,
            given => return Err(KeyLength { given, needed: "16 or 32" }),
        };
        Ok(Self { algorithm: Algorithm::Cmac(algorithm), key })
    }

    /// The code of `message`; `None` only if the library refuses a key that was checked.
    #[must_use]
    pub fn code(&self, message: &[u8]) -> Option<[u8; MAC_LENGTH]> {
        match self.algorithm {
            Algorithm::Retail => retail(self.key.expose(), message),
            Algorithm::Cmac(algorithm) => {
                let key = cmac::Key::new(algorithm, self.key.expose()).ok()?;
                cmac::sign(&key, message).ok()?.as_ref().first_chunk().copied()
            }
        }
    }

    /// Whether `code` is that of `message`, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, message: &[u8], code: &[u8]) -> bool {
        self.code(message).is_some_and(|right| ct_eq(&right, code))
    }
}

/// CBC with the first half of the key; the last block decrypted with the second and encrypted with the first.
fn retail(key: &[u8], message: &[u8]) -> Option<[u8; MAC_LENGTH]> {
    let (first, second) = key.split_at_checked(8)?;
    let (first, second) = (Des::new_from_slice(first).ok()?, Des::new_from_slice(second).ok()?);
    let mut state = Block::<Des>::default();
    // Padding method 1: zeros up to a whole block, and a block of zeros for nothing at all.
    let message = if message.is_empty() { &[0][..] } else { message };
    for block in message.chunks(8) {
        state.iter_mut().zip(block).for_each(|(to, octet)| *to ^= octet);
        first.encrypt_block(&mut state);
    }
    second.decrypt_block(&mut state);
    first.encrypt_block(&mut state);
    Some(state.into())
}

/// A key under which PINs travel to an institution (ISO 9564-1): double-length triple DES.
#[derive(Debug, Clone)]
pub struct PinKey(Secret<Vec<u8>>);

impl PinKey {
    /// 16 octets.
    ///
    /// # Errors
    /// [`KeyLength`].
    pub fn new(key: Secret<Vec<u8>>) -> Result<Self, KeyLength> {
        match key.expose().len() {
            16 => Ok(Self(key)),
            given => Err(KeyLength { given, needed: "16" }),
        }
    }

    /// The PIN block in format 0, encrypted: ISO 8583 field 52. `None`: the PIN is not 4 to 12 digits, or the number
    /// of the card has less than 13.
    #[must_use]
    pub fn block(&self, pin: &str, card: &str) -> Option<[u8; 8]> {
        let mut block = Block::<TdesEde2>::from(clear_block(pin, card)?);
        TdesEde2::new_from_slice(self.0.expose()).ok()?.encrypt_block(&mut block);
        Some(block.into())
    }
}

/// `0`, the length, the PIN and `F`s, with the twelve digits before the check digit laid over it.
fn clear_block(pin: &str, card: &str) -> Option<[u8; 8]> {
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if !(4..=12).contains(&pin.len()) || !digits(pin) || !digits(card) {
        return None;
    }
    let account = card.get(card.len().checked_sub(13)?..card.len() - 1)?;
    let nibble = |digit: u8| digit.wrapping_sub(b'0') & 0xf;
    let length = u8::try_from(pin.len()).ok()?;
    let mut first = [0xf; 16];
    let parts = [0, length].into_iter().chain(pin.bytes().map(nibble));
    first.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    let mut second = [0; 16];
    second.iter_mut().skip(4).zip(account.bytes().map(nibble)).for_each(|(to, from)| *to = from);
    let mut block = [0; 8];
    let pairs = first.chunks(2).zip(second.chunks(2));
    for (to, pair) in block.iter_mut().zip(pairs) {
        if let (&[a, b], &[c, d]) = pair {
            *to = ((a ^ c) << 4) | (b ^ d);
        }
    }
    crate::Zeroize::zeroize(&mut first);
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{hex, unhex};

    fn key(text: &str) -> Secret<Vec<u8>> {
        Secret::new(unhex(text).unwrap())
    }

    /// ISO/IEC 9797-1 annex: algorithm 3, padding 1, over "Now is the time for all "; and the vector of Bouncy Castle.
    #[test]
    fn the_retail_code_is_that_of_the_standard() {
        let retail = MacKey::retail(key("0123456789abcdeffedcba9876543210")).unwrap();
        assert_eq!(hex(&retail.code(b"Now is the time for all ").unwrap()), "a1c72e74ea3fa9b6");
        let other = MacKey::retail(key("7ca110454a1a6e570131d9619dc1376e")).unwrap();
        assert_eq!(hex(&other.code(b"Hello World !!!!").unwrap()), "f09b856213bab83b");
    }

    #[test]
    fn a_message_that_ends_within_a_block_is_filled_with_zeros() {
        let retail = MacKey::retail(key("0123456789abcdeffedcba9876543210")).unwrap();
        assert_eq!(retail.code(b"0123456789"), retail.code(b"0123456789\0\0\0\0\0\0"));
        assert_eq!(retail.code(b""), retail.code(&[0; 8]));
    }

    /// RFC 4493 §4, examples 1 and 3, of which eight octets are taken.
    #[test]
    fn the_cmac_is_that_of_the_rfc() {
        let cmac = MacKey::aes_cmac(key("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
        assert_eq!(hex(&cmac.code(b"").unwrap()), "bb1d6929e9593728");
        let message =
            unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411").unwrap();
        assert_eq!(hex(&cmac.code(&message).unwrap()), "dfa66747de9ae630");
        assert!(cmac.matches(&message, &unhex("dfa66747de9ae630").unwrap()));
        assert!(!cmac.matches(&message, &unhex("dfa66747de9ae631").unwrap()));
        assert!(!cmac.matches(&message, &unhex("dfa66747de9ae6").unwrap()));
    }

    #[test]
    fn keys_of_another_length_are_refused_and_none_is_printed() {
        assert_eq!(MacKey::retail(key("00")).unwrap_err().to_string(), "the key has 1 octets, 16 are needed");
        assert!(MacKey::aes_cmac(key("0011223344556677")).is_err());
        assert!(PinKey::new(key("0011223344556677")).is_err());
        let shown = format!("{:?}", MacKey::retail(Secret::new(vec![0x41; 16])).unwrap());
        assert!(shown.contains("[secret]") && !shown.contains("65"), "{shown}");
    }

    #[test]
    fn a_pin_block_is_laid_over_the_card_number_and_encrypted() {
        assert_eq!(hex(&clear_block("1234", "43219876543210987").unwrap()), "0412ac89abcdef67");
        let pins = PinKey::new(key("0123456789abcdeffedcba9876543210")).unwrap();
        let one = pins.block("1234", "4111111111111111").unwrap();
        assert_ne!(one, clear_block("1234", "4111111111111111").unwrap());
        assert_ne!(one, pins.block("1235", "4111111111111111").unwrap());
        for (pin, card) in [
            ("123", "4111111111111111"),
            ("1234567890123", "4111111111111111"),
            ("12a4", "4111111111111111"),
            ("1234", "123456789012"),
        ] {
            assert_eq!(pins.block(pin, card), None, "{pin} {card}");
        }
    }
}
