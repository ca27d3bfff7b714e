//! The one crate that names cryptographic primitives, so that a reader can audit them in one place.
//!
//! Pure: randomness comes in through [`Randomness`], keys and nonces as arguments. TLS is set up in
//! `cloakway-runtime`. MD5 is here for RADIUS accounting (RFC 2866 §3, RFC 3579 §3.2) and for nothing else; DES
//! for what banks ask for (ISO 9797-1, ISO 9564-1) and for nothing else.

pub mod aead;
pub mod bank;
pub mod encode;
pub mod hash;
pub mod radius;
mod random;
mod secret;
pub mod sign;

pub use random::{Randomness, System};
pub use secret::{Secret, ct_eq};
pub use zeroize::Zeroize;
