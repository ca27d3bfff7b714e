//! The formulas of `modern-1` and `modern-1h`.

use cloakway_crypto::hkdf::MacKey;
use cloakway_crypto::{Randomness, chacha};

use crate::message::Kind;
use crate::suite::{Plain, Suite, Undecryptable};

const FRESH: usize = 32;

/// CTX(m) and what is put behind it.
pub(super) fn context(suite: Suite, kind: Kind, behind: &str) -> Vec<u8> {
    [suite.prefix(), kind.name(), behind].concat().into_bytes()
}

/// Key and nonce of one message: `fresh` makes them new whatever was sealed before under `secret`.
fn message_key(secret: &[u8], fresh: &[u8], info: &[u8]) -> (cloakway_crypto::Zeroizing<[u8; 32]>, [u8; 12]) {
    let prk = MacKey::extract(fresh, secret);
    (prk.expand(&[info, b"/key"]), *prk.expand(&[info, b"/nonce"]))
}

pub(super) fn seal(
    secret: &[u8],
    info: &[u8],
    context: &[u8],
    plain: &[u8],
    random: &mut dyn Randomness,
) -> Result<Vec<u8>, Undecryptable> {
    let mut fresh = [0; FRESH];
    random.fill(&mut fresh);
    let (key, nonce) = message_key(secret, &fresh, info);
    let mut out = Vec::with_capacity(FRESH + plain.len() + chacha::TAG_LENGTH);
    out.extend_from_slice(&fresh);
    chacha::seal_into(&mut out, &key, nonce, context, plain).map_err(|_| Undecryptable)?;
    Ok(out)
}

pub(super) fn open(secret: &[u8], info: &[u8], context: &[u8], sealed: &[u8]) -> Result<Plain, Undecryptable> {
    let (fresh, body) = sealed.split_at_checked(FRESH).ok_or(Undecryptable)?;
    let (key, nonce) = message_key(secret, fresh, info);
    chacha::open(&key, nonce, context, body).map_err(|_| Undecryptable)
}
