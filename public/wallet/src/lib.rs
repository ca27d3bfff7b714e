//! A wallet for electronic cash with sessions, of payers and payees alike (G5).
//!
//! [`Wallet`] puts the state machine of `ecash-wire` on a disk and on a network. A message leaves when everything that led
//! to it is durable, sealed under the wallet's passphrase ([`Vault`]); what was not answered is sent again byte for byte,
//! also by a process that took the place of one that was killed. So no index and no transaction number is ever used twice,
//! and a lost reply is never a lost payment.

mod remote;
mod vault;
mod wallet;

pub use cloakway_crypto::passphrase::Cost;
pub use ecash_wire as wire;
pub use remote::{Remote, Unreached};
pub use vault::{Settings, Vault, VaultError};
pub use wallet::{Bought, Commit, Done, Progress, Wallet, WalletError};
