//! Argon2id verifiers of passphrases (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};

/// How much work a guess costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl Cost {
    /// The least that is taken for real passphrases: 19 MiB, two passes, one lane.
    pub const LEAST: Self = Self { memory_kib: 19 * 1024, passes: 2 };
}

/// 32 bytes by which a passphrase is known again; `None` for a cost or a salt that Argon2 does not know.
#[must_use]
pub fn verifier(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Option<[u8; 32]> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).ok()?;
    let mut out = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(passphrase, salt, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::hex;

    /// Computed apart with the Python package `cryptography` 48.
    #[test]
    fn the_known_answer() {
        let salt = std::array::from_fn(|at| at as u8);
        let known = verifier(b"correct horse", &salt, Cost { memory_kib: 64, passes: 2 }).unwrap();
        assert_eq!(hex(&known), "9c87c06898bc18516669b54a8b95d36e622946494d7a55c26f391a0406068c19");
        assert!(verifier(b"x", &salt, Cost { memory_kib: 1, passes: 2 }).is_none());
    }
}
