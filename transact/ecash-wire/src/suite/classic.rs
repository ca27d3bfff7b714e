//! The formulas of `classic-1995`: 56-bit DES, MD5, RSA with 768 bits. Nothing here seals what it encrypts.

use cloakway_crypto::classic::{RsaPrivate, RsaPublic, des_block, des_cbc_open, des_cbc_seal};
use cloakway_crypto::radius::md5;
use cloakway_crypto::{Randomness, Secret, Zeroizing};

use crate::canonical::{Field, strip};
use crate::message::Kind;
use crate::suite::{Kept, Plain, ReplySecret, Undecryptable, is_opaque};

/// A DES key and the initial block of its chain.
fn halves(secret: &[u8]) -> Option<([u8; 8], [u8; 8])> {
    let (key, iv) = secret.split_at_checked(8)?;
    Some((key.try_into().ok()?, iv.try_into().ok()?))
}

/// F8, process 1600.
pub(super) fn message_key(secret: &[u8], kind: Kind, (version, index): (u8, u16)) -> Option<[u8; 8]> {
    let (key, iv) = halves(secret)?;
    let [high, low] = index.to_be_bytes();
    let mut block = [0, 0, 0, 0, kind.code(), version, high, low];
    block.iter_mut().zip(iv).for_each(|(byte, other)| *byte ^= other);
    Some(des_block(&key, block).map(|byte| byte & 0xfe))
}

pub(super) fn seal_in_session(
    secret: &[u8],
    kind: Kind,
    at: (u8, u16),
    plain: &[u8],
) -> Result<Vec<u8>, Undecryptable> {
    let key = message_key(secret, kind, at).ok_or(Undecryptable)?;
    let (_, iv) = halves(secret).ok_or(Undecryptable)?;
    Ok(des_cbc_seal(&key, &iv, plain))
}

pub(super) fn open_in_session(secret: &[u8], kind: Kind, at: (u8, u16), sealed: &[u8]) -> Result<Plain, Undecryptable> {
    let key = message_key(secret, kind, at).ok_or(Undecryptable)?;
    let (_, iv) = halves(secret).ok_or(Undecryptable)?;
    des_cbc_open(&key, &iv, sealed).map_err(|_| Undecryptable)
}

pub(super) fn seal_reply(secret: &[u8], plain: &[u8]) -> Result<Vec<u8>, Undecryptable> {
    let (key, iv) = halves(secret).ok_or(Undecryptable)?;
    Ok(des_cbc_seal(&key, &iv, plain))
}

pub(super) fn open_reply(secret: &[u8], sealed: &[u8]) -> Result<Plain, Undecryptable> {
    let (key, iv) = halves(secret).ok_or(Undecryptable)?;
    des_cbc_open(&key, &iv, sealed).map_err(|_| Undecryptable)
}

/// F2 and F4.
pub(super) fn wrap(
    key: &RsaPublic,
    plain: &[u8],
    random: &mut dyn Randomness,
) -> Result<(Vec<u8>, ReplySecret), Undecryptable> {
    let mut request = vec![0; 16];
    random.fill(&mut request);
    let secret = Secret::new(request);
    let mut opaque = key.encrypt(secret.expose(), random).map_err(|_| Undecryptable)?;
    opaque.append(&mut seal_reply(secret.expose(), plain)?);
    Ok((opaque, ReplySecret(Kept(secret))))
}

/// Undoes [`wrap`]. What does not unwrap goes on with a key that is none, and fails later.
pub(super) fn unwrap(key: &RsaPrivate, opaque: &[u8]) -> Result<(Plain, ReplySecret), Undecryptable> {
    let length = key.public().modulus().len();
    let (wrapped, sealed) = opaque.split_at_checked(length).unwrap_or((opaque, &[]));
    let found = key.decrypt(wrapped).ok().filter(|secret| secret.len() == 16);
    let sound = found.is_some();
    let secret = found.unwrap_or_else(|| Zeroizing::new(vec![0; 16]));
    let plain = open_reply(&secret, sealed)?;
    if !sound {
        return Err(Undecryptable);
    }
    Ok((plain, ReplySecret(Kept(Secret::new(secret.to_vec())))))
}

/// F9 to F12: values, stripped and joined by bars, between two salts.
pub(super) fn authenticate(salt: &[u8], list: &[Field<'_>]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = list.iter().map(|(_, value)| strip(value.as_bytes())).collect();
    md5(&[salt, &values.join(&b'|'), salt]).to_vec()
}

/// F3: the signed set, sorted by label. F14: the hash of the offer's pairs in order.
pub(super) fn signature_input<'a>(
    kind: Kind,
    clear: impl Iterator<Item = Field<'a>>,
    opaque: impl Iterator<Item = Field<'a>>,
) -> Vec<u8> {
    let concatenate = |fields: Vec<Field<'a>>| -> Vec<u8> {
        fields.into_iter().flat_map(|(label, value)| strip(format!("{label}:{value}").as_bytes())).collect()
    };
    if kind == Kind::PR1 {
        let covered = |label: &str| label != "merchant-signed-hash" && label != "merchant-amount2";
        return md5(&[&concatenate(clear.filter(|(label, _)| covered(label)).collect())]).to_vec();
    }
    let covered = |label: &str| match label {
        "transaction" | "date" | "serverkey" => true,
        "id" => kind != Kind::R1,
        "service-category" => kind == Kind::CS1,
        _ => false,
    };
    let clear = clear.filter(|(label, _)| covered(label) && !is_opaque(label));
    let mut fields: Vec<Field<'a>> = clear.chain(opaque.filter(|(label, _)| *label != "signature")).collect();
    fields.sort_by_key(|(label, _)| *label);
    concatenate(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Draft;
    use crate::suite::{SessionSecrets, Suite, note_hash};
    use crate::value::{SessionId, Value};
    use cloakway_crypto::encode::{base64, hex, unhex};

    fn secrets(id: u64, key: &str, salt: &str) -> SessionSecrets {
        SessionSecrets::new(Suite::Classic1995, SessionId(id), unhex(key).unwrap(), unhex(salt).unwrap()).unwrap()
    }

    /// The classic answers of Appendix B, computed again in Python from the formulas alone, with `hashlib` and the DES of
    /// the package `cryptography` 48: all of them agree.
    #[test]
    fn t05_the_classic_known_answers() {
        let key = |kind, index, key: &str| hex(&message_key(&unhex(key).unwrap(), kind, (1, index)).unwrap());
        let (payer, payee) = ("0123456789abcdeffedcba9876543210", "a1b2c3d4e5f607181122334455667788");
        assert_eq!(key(Kind::CA1, 1, payer), "bcf4c8ac94ba56c6");
        assert_eq!(key(Kind::CA4, 1, payer), "0c3c6ec6fa9e4ec6");
        assert_eq!(key(Kind::CA1, 2, payer), "68e03866746ad0ae");
        assert_eq!(key(Kind::CA1, 258, payer), "387abc9e46921852");
        assert_eq!(key(Kind::CA2, 7, payee), "645cd64048189c4c");
        assert_eq!(key(Kind::CA3, 7, payee), "b686062a06844a24");

        let (payer, payee) = (secrets(0x29, payer, "0011223344556677"), secrets(0x2a, payee, "8899aabbccddeeff"));
        let note = base64(&note_hash(Suite::Classic1995, "Box kite, red, total usd 42.50"));
        assert_eq!(note, "/4OUicYbSxezn4mxv3WWEg==");
        let (p, m) = (SessionId(0x29).write(), SessionId(0x2a).write());
        let list = |values: &[&'static str]| -> Vec<(&'static str, String)> {
            let named = |value: &str| value.replace("P!", &p).replace("M!", &m).replace("N!", &note);
            values.iter().map(|value| ("", named(value))).collect()
        };
        let code = |secrets: &SessionSecrets, kind, values: &[&'static str]| {
            let list = list(values);
            let fields: Vec<_> = list.iter().map(|(label, value)| (*label, value.as_str())).collect();
            base64(&secrets.authenticate(kind, &fields))
        };
        let ca1 = ["cash-payment", "P!", "1", "usd", "N!", "kite-17", "K-1001", "usd 42.50"];
        let f9 = code(&payer, Kind::CA1, &ca1);
        assert_eq!(f9, "fEgH/6KNTYkJJiB0W94dkw==");
        let f10 = ["to-server", "M!", "7", "cash-collection", "1", "cash-payment", "1", "P!", "1", "N!", "kite-17"];
        let f10 = [f10.as_slice(), &["K-1001", "usd 42.50"]].concat();
        assert_eq!(code(&payee, Kind::CA2, &f10), "E86fzYeNkFyezzJDwPf9Xg==");
        let f11 = ["from-server", "1", "M!", "7", "cash", "cash-batch-receipt", "1", "success", "usd 0.00"];
        let f11 = [f11.as_slice(), &["cash-payment", "1", "P!", "1", "success", "usd 42.50", "K-1001", "1"]].concat();
        assert_eq!(code(&payee, Kind::CA3, &f11), "HsJki3koH0MUOFIvu6Zuvw==");
        let f12 = ["cash-payer-receipt", "1", "P!", "1", "success", "usd 42.50", "K-1001", "1"];
        assert_eq!(code(&payer, Kind::CA4, &f12), "Ox5nNdjqMn++Py8DGngx3w==");

        let plain = format!("amount: usd 42.50\nauth-code: {f9}\n");
        let opaque = seal_in_session(payer.key().expose(), Kind::CA1, (1, 1), plain.as_bytes()).unwrap();
        assert_eq!(base64(&opaque), "ptI5VVkvpzinoYjdiRCOXxLVS4sYhb4GCtUdSlRnUUg32bUxfPVekA6jlwYCfOeYa1N6q5al96U=");
        let mut message = Draft::default();
        for (label, value) in [
            ("type", "cash-payment"),
            ("version", "1"),
            ("session-id", p.as_str()),
            ("index", "1"),
            ("payee-currency", "usd"),
            ("note-hash", note.as_str()),
            ("payee-id", "kite-17"),
            ("order-id", "K-1001"),
            ("service-category", "cash"),
        ] {
            message.text(label, 0, value.to_owned());
        }
        message.text("opaque", 0, base64(&opaque));
        let message = String::from_utf8(message.frame(Suite::Classic1995)).unwrap();
        assert!(message.ends_with("$$-ECASH-END-D1lET0OCr3cIsuejb4Rlcg==-$$\n"), "{message}");
    }
}
