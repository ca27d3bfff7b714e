//! Electronic cash with sessions: what both ends and those between them speak (G1, G2, G4, G5).
//!
//! Public-key cryptography is used when a session is opened and when it is closed; each payment in between costs
//! symmetric work alone. A payer and a payee share no key: each has a session with the server, which links the two.
//!
//! Base types are in [`value`], the text form of messages in [`frame`], what is hashed and signed in [`canonical`],
//! algorithms in [`suite`], fields in [`message`]. Clients of either role are state machines in [`client`]. The server's
//! end is `transact-ecash`: nothing here moves money. No I/O, no clock; randomness is handed in.

pub mod canonical;
pub mod cash;
pub mod client;
pub mod frame;
pub mod message;
pub mod suite;
pub mod value;

pub use cloakway_crypto::{Randomness, Secret};
