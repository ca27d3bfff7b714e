//! The one crate that names cryptographic primitives, so that a reader can audit them in one place.
//!
//! Pure: randomness comes in through [`Randomness`], keys and nonces as arguments. TLS is set up in
//! `cloakway-runtime`. MD5 is here for RADIUS accounting (RFC 2866 §3, RFC 3579 §3.2), DES
//! for what banks ask for (ISO 9797-1, ISO 9564-1). Both make up the suite of 1995 of electronic cash, with RSA, behind the
//! feature `classic-1995`.

pub mod aead;
pub mod bank;
pub mod chacha;
#[cfg(feature = "classic-1995")]
pub mod classic;
pub mod encode;
pub mod hash;
pub mod hkdf;
pub mod hpke;
pub mod passphrase;
pub mod radius;
mod random;
mod secret;
pub mod sign;

pub use random::{Randomness, System};
pub use secret::{Secret, ct_eq};
pub use zeroize::{Zeroize, Zeroizing};
