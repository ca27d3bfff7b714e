//! What a session's owner and the server share, and the keys made from it.

use cloakway_crypto::hkdf::MacKey;
use cloakway_crypto::{Randomness, Secret, ct_eq};

use serde::{Deserialize, Serialize};

use crate::canonical::{Field, tlv};
use crate::message::Kind;
use crate::suite::{Kept, Plain, Suite, Undecryptable, modern};
use crate::value::SessionId;

/// A session's key and salt. They travel once, in OS2; they are wiped on drop and never printed.
#[derive(Clone)]
pub struct SessionSecrets {
    suite: Suite,
    id: SessionId,
    key: Secret<Vec<u8>>,
    salt: Secret<Vec<u8>>,
    /// F8's first step, which is the same for every message of the session.
    root: MacKey,
    authenticator: MacKey,
}

impl std::fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionSecrets({:?}, [secret])", self.id)
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    suite: Suite,
    id: SessionId,
    key: Kept,
    salt: Kept,
}

impl Serialize for SessionSecrets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, salt) = (Kept(self.key.clone()), Kept(self.salt.clone()));
        Stored { suite: self.suite, id: self.id, key, salt }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SessionSecrets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        Self::new(stored.suite, stored.id, stored.key.0.expose().clone(), stored.salt.0.expose().clone())
            .ok_or_else(|| serde::de::Error::custom("the secrets of a session are not as long as its suite wants them"))
    }
}

impl SessionSecrets {
    /// From what OS2 carries; `None` when the lengths are not those of the suite.
    #[must_use]
    pub fn new(suite: Suite, id: SessionId, key: Vec<u8>, salt: Vec<u8>) -> Option<Self> {
        let (key, salt) = (Secret::new(key), Secret::new(salt));
        if (key.expose().len(), salt.expose().len()) != suite.session_lengths() {
            return None;
        }
        let root = MacKey::extract(&id.0.to_be_bytes(), key.expose());
        let authenticator = MacKey::new(salt.expose());
        Some(Self { suite, id, key, salt, root, authenticator })
    }

    /// F7: new ones for session `id`.
    #[must_use]
    pub fn generate(suite: Suite, id: SessionId, random: &mut dyn Randomness) -> Option<Self> {
        let (key_length, salt_length) = suite.session_lengths();
        let (mut key, mut salt) = (vec![0; key_length], vec![0; salt_length]);
        random.fill(&mut key);
        random.fill(&mut salt);
        Self::new(suite, id, key, salt)
    }

    /// The session's number.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The key, for OS2 and for storage.
    #[must_use]
    pub fn key(&self) -> &Secret<Vec<u8>> {
        &self.key
    }

    /// The salt, for OS2 and for storage.
    #[must_use]
    pub fn salt(&self) -> &Secret<Vec<u8>> {
        &self.salt
    }

    /// F8: the key of the one message of this kind, version and index.
    pub(super) fn message_key(&self, kind: Kind, version: u8, index: u16) -> cloakway_crypto::Zeroizing<[u8; 32]> {
        let code = [kind.code(), version];
        self.root.expand(&[self.suite.prefix().as_bytes(), b"message-key\0", &code, &u32::from(index).to_be_bytes()])
    }

    /// F9 to F12 over the fields that the kind of message lists.
    #[must_use]
    pub fn authenticate(&self, kind: Kind, list: &[Field<'_>]) -> Vec<u8> {
        #[cfg(feature = "classic-1995")]
        if self.suite.is_classic() {
            return super::classic::authenticate(self.salt.expose(), list);
        }
        let prefix = self.suite.prefix().as_bytes();
        let fields = tlv(list.iter().copied());
        self.authenticator.mac(&[prefix, kind.name().as_bytes(), b"/auth\0", &fields]).to_vec()
    }

    /// Whether `code` is [`SessionSecrets::authenticate`] of the list, in a time that does not tell where it differs.
    #[must_use]
    pub fn verify(&self, kind: Kind, list: &[Field<'_>], code: &[u8]) -> bool {
        ct_eq(&self.authenticate(kind, list), code)
    }

    /// Seals the opaque part of a message.
    ///
    /// # Errors
    /// [`Undecryptable`] for a text that no cipher takes.
    pub fn seal(
        &self,
        kind: Kind,
        (version, index): (u8, u16),
        context: &[u8],
        plain: &[u8],
        random: &mut dyn Randomness,
    ) -> Result<Vec<u8>, Undecryptable> {
        #[cfg(feature = "classic-1995")]
        if self.suite.is_classic() {
            return super::classic::seal_in_session(self.key.expose(), kind, (version, index), plain);
        }
        let key = self.message_key(kind, version, index);
        modern::seal(key.as_slice(), &modern::context(self.suite, kind, ""), context, plain, random)
    }

    /// Opens the opaque part of a message.
    ///
    /// # Errors
    /// [`Undecryptable`].
    pub fn open(
        &self,
        kind: Kind,
        (version, index): (u8, u16),
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Plain, Undecryptable> {
        #[cfg(feature = "classic-1995")]
        if self.suite.is_classic() {
            return super::classic::open_in_session(self.key.expose(), kind, (version, index), sealed);
        }
        let key = self.message_key(kind, version, index);
        modern::open(key.as_slice(), &modern::context(self.suite, kind, ""), context, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::tlv;
    use crate::suite::note_hash;
    use crate::value::Value;
    use cloakway_crypto::encode::{base64, hex};
    use cloakway_crypto::hash::sha256;

    struct Counted(u8);

    impl Randomness for Counted {
        fn fill(&mut self, bytes: &mut [u8]) {
            for byte in bytes {
                *byte = self.0;
                self.0 += 1;
            }
        }
    }

    /// The modern answers of Appendix B, computed again in Python from the formulas alone, with `hashlib`, `hmac` and the
    /// ChaCha20-Poly1305 of the package `cryptography` 48: all of them agree.
    #[test]
    fn t05_the_modern_known_answers() {
        let key = (0..0x20).collect();
        let salt = (0x20..0x40).collect();
        let payer = SessionSecrets::new(Suite::Modern1, SessionId(0x29), key, salt).unwrap();
        assert_eq!(
            hex(payer.message_key(Kind::CA1, 1, 1).as_slice()),
            "bd4730f699131b28fd4ea63c4dee104bb25f2cb305739f03f8dd7169b115cb2f"
        );
        assert_eq!(
            hex(payer.message_key(Kind::CA4, 1, 1).as_slice()),
            "7af6af5bb78d08a3222f61dd9a05f59cf9d08946ff4646e9487a041dcbcf8229"
        );
        let note = base64(&note_hash(Suite::Modern1, "Box kite, red, total usd 42.50"));
        assert_eq!(note, "qL1pTktOLR3LhLR2JJWV91mir5SyWAmKMkqpqBHcOEk=");
        let session = SessionId(0x29).write();
        let clear = [
            ("type", "cash-payment"),
            ("version", "1"),
            ("session-id", session.as_str()),
            ("index", "1"),
            ("payee-currency", "usd"),
            ("note-hash", note.as_str()),
            ("payee-id", "kite-17"),
            ("order-id", "K-1001"),
        ];
        let context = tlv(clear);
        assert_eq!(context.len(), 199);
        assert_eq!(hex(&sha256(&[&context])), "c70808eff9a050316cb0689d5da1cd67a46ba3be2bb6992c133d09af54fd85ac");
        let list: Vec<_> = clear.into_iter().chain([("amount", "usd 42.50")]).collect();
        let code = base64(&payer.authenticate(Kind::CA1, &list));
        assert_eq!(code, "Lvw8Di9ULs0CDP/nnlQsUBc3f7lQjRIlPMwWMTvWOiY=");
        let plain = format!("amount: usd 42.50\nauth-code: {code}\n");
        let sealed = payer.seal(Kind::CA1, (1, 1), &context, plain.as_bytes(), &mut Counted(0x40)).unwrap();
        assert_eq!(sealed.len(), 122);
        assert_eq!(hex(&sha256(&[&sealed])), "213d37418a16ee2d181d81490e73db2233a0eab801a956b936aa1b37ea06a05c");
        assert_eq!(hex(&sealed[106..]), "811a736e2c6248f5ebd678db9075f85a");
        assert_eq!(payer.open(Kind::CA1, (1, 1), &context, &sealed).unwrap().as_slice(), plain.as_bytes());
    }

    #[test]
    fn t05_each_of_session_type_version_and_index_makes_another_key() {
        let secrets = |id| SessionSecrets::new(Suite::Modern1, SessionId(id), vec![7; 32], vec![8; 32]).unwrap();
        let mut keys: Vec<_> = [1, 2]
            .into_iter()
            .flat_map(|id| [Kind::CA1, Kind::CA2, Kind::CA3, Kind::CA4].map(|kind| (id, kind)))
            .flat_map(|(id, kind)| {
                [(1, 1), (2, 1), (1, 2), (1, 258)].map(|(v, i)| *secrets(id).message_key(kind, v, i))
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 2 * 4 * 4);
    }

    #[test]
    fn secrets_are_not_printed_and_of_the_suites_lengths() {
        let secrets = SessionSecrets::new(Suite::Modern1, SessionId(1), vec![0x61; 32], vec![0x62; 32]).unwrap();
        assert_eq!(format!("{secrets:?}"), "SessionSecrets(SessionId(1), [secret])");
        assert!(SessionSecrets::new(Suite::Modern1, SessionId(1), vec![0; 31], vec![0; 32]).is_none());
        assert!(SessionSecrets::new(Suite::Modern1h, SessionId(1), vec![0; 32], vec![0; 8]).is_none());
    }
}
