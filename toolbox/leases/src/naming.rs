//! Which of a lease's identities is the subscriber.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cloakway_types::{IdError, SubscriberId};
use serde_json::Value;

use crate::holder::Holder;
use crate::octets;

/// An identity that may name the subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// `hw-address`: the hardware address.
    Hardware,
    /// `client-id`: DHCPv4 option 61.
    ClientId,
    /// `duid`: DHCPv6 option 1.
    Duid,
    /// `flex-id`: what Kea's flexible identifier put in the place of the client id or the DUID.
    FlexId,
    /// `circuit-id`: option 82.1, or the interface-id of DHCPv6.
    CircuitId,
    /// `remote-id`: option 82.2, or option 37 of DHCPv6.
    RemoteId,
    /// `subscriber-id`: option 82.6, or option 38 of DHCPv6.
    SubscriberId,
    /// `hostname`: what the client calls itself.
    Hostname,
    /// `user-context/…`: a text in Kea's user context, as a JSON pointer (RFC 6901).
    Context(String),
}

/// A word that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no identity of a lease: hw-address, client-id, duid, flex-id, circuit-id, remote-id, subscriber-id, \
     hostname and user-context/NAME are"
)]
pub struct IdentityError(String);

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Ok(match text {
            "hw-address" => Self::Hardware,
            "client-id" => Self::ClientId,
            "duid" => Self::Duid,
            "flex-id" => Self::FlexId,
            "circuit-id" => Self::CircuitId,
            "remote-id" => Self::RemoteId,
            "subscriber-id" => Self::SubscriberId,
            "hostname" => Self::Hostname,
            other => match other.strip_prefix("user-context") {
                Some(pointer) if pointer.starts_with('/') => Self::Context(pointer.to_owned()),
                _ => return Err(IdentityError(text.to_owned())),
            },
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hardware => f.write_str("hw-address"),
            Self::ClientId => f.write_str("client-id"),
            Self::Duid => f.write_str("duid"),
            Self::FlexId => f.write_str("flex-id"),
            Self::CircuitId => f.write_str("circuit-id"),
            Self::RemoteId => f.write_str("remote-id"),
            Self::SubscriberId => f.write_str("subscriber-id"),
            Self::Hostname => f.write_str("hostname"),
            Self::Context(pointer) => write!(f, "user-context{pointer}"),
        }
    }
}

impl Identity {
    /// Whether the client alone decides what it is, and no access network usually pins it.
    #[must_use]
    pub const fn is_the_clients_word(&self) -> bool {
        matches!(self, Self::Hostname | Self::ClientId | Self::Duid)
    }

    /// This identity of `holder` as text, when it has one.
    fn of(&self, holder: &Holder) -> Option<String> {
        let hex = |octets: &Option<Vec<u8>>| octets.as_deref().map(octets::colons);
        let text = |octets: &Option<Vec<u8>>| octets.as_deref().map(written);
        match self {
            Self::Hardware => hex(&holder.hardware),
            Self::ClientId => hex(&holder.client_id),
            Self::Duid => hex(&holder.duid),
            // Kea puts an octet 0 before it in a client id, and the type 0 in a DUID.
            Self::FlexId => match (&holder.client_id, &holder.duid) {
                (_, Some(duid)) => duid.strip_prefix(&[0, 0]).map(written),
                (Some(id), None) => id.strip_prefix(&[0]).map(written),
                (None, None) => None,
            },
            Self::CircuitId => text(&holder.circuit_id),
            Self::RemoteId => text(&holder.remote_id),
            Self::SubscriberId => text(&holder.subscriber_id),
            Self::Hostname => holder.hostname.clone(),
            Self::Context(pointer) => {
                holder.context.as_ref()?.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
            }
        }
        .filter(|name| !name.is_empty())
    }
}

/// Octets that are the text of a subscriber's name as they are, others as `hex:00:1b`. Two identities never look alike.
fn written(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) if !text.starts_with("hex:") && text.parse::<SubscriberId>().is_ok() => text.to_owned(),
        _ if octets.is_empty() => String::new(),
        _ => format!("hex:{}", octets::colons(octets)),
    }
}

/// Names of subscribers by identity, where the identity is not the name itself.
pub type Identities = BTreeMap<String, SubscriberId>;

/// Why a lease names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// None of the identities that may name the subscriber is there.
    #[error("the lease has none of the identities that name a subscriber")]
    Absent,
    /// The identity is not among those that are known.
    #[error("the identity is in no list")]
    Unlisted,
    /// It is no name of a subscriber.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// How a lease's subscriber is found.
#[derive(Debug, Clone)]
pub struct Naming {
    identities: Vec<Identity>,
    listed: Option<Arc<Identities>>,
}

impl Naming {
    /// The first of `identities` that a lease has names its subscriber: by itself, or by what is `listed` for it.
    #[must_use]
    pub fn new(identities: Vec<Identity>, listed: Option<Arc<Identities>>) -> Self {
        Self { identities, listed }
    }

    /// Whose the lease is.
    ///
    /// # Errors
    /// [`Unnamed`].
    pub fn subscriber(&self, holder: &Holder) -> Result<SubscriberId, Unnamed> {
        let name = self.identities.iter().find_map(|identity| identity.of(holder)).ok_or(Unnamed::Absent)?;
        match &self.listed {
            Some(listed) => listed.get(&name).cloned().ok_or(Unnamed::Unlisted),
            None => Ok(name.parse()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(words: &[&str]) -> Naming {
        Naming::new(words.iter().map(|word| word.parse().unwrap()).collect(), None)
    }

    fn name(words: &[&str], holder: &Holder) -> Result<String, Unnamed> {
        naming(words).subscriber(holder).map(String::from)
    }

    #[test]
    fn the_first_identity_that_is_there_names_the_subscriber() {
        let holder = Holder {
            hardware: Some(vec![0, 12, 1, 2, 3, 4]),
            remote_id: Some(b"line-17".to_vec()),
            circuit_id: Some(vec![0, 4, 0, 10]),
            hostname: Some("anything I like".into()),
            context: Some(serde_json::json!({"line": {"name": "alice@isp.example"}})),
            ..Holder::default()
        };
        assert_eq!(name(&["remote-id", "hw-address"], &holder).unwrap(), "line-17");
        assert_eq!(name(&["duid", "hw-address"], &holder).unwrap(), "00:0c:01:02:03:04");
        assert_eq!(name(&["circuit-id"], &holder).unwrap(), "hex:00:04:00:0a");
        assert_eq!(name(&["user-context/line/name"], &holder).unwrap(), "alice@isp.example");
        assert_eq!(name(&["client-id", "duid"], &holder), Err(Unnamed::Absent));
        assert!(matches!(name(&["hostname"], &holder), Err(Unnamed::Id(_))));
    }

    #[test]
    fn octets_and_a_text_that_looks_like_them_are_two_subscribers() {
        let of = |octets: &[u8]| {
            name(&["circuit-id"], &Holder { circuit_id: Some(octets.to_vec()), ..Holder::default() }).unwrap()
        };
        assert_ne!(of(&[0, 4]), of(b"hex:00:04"));
        assert_eq!(of(b"00:04"), "00:04");
        assert_ne!(of(&[0, 4]), of(b"00:04"));
    }

    #[test]
    fn keas_flexible_identifier_is_what_it_put_in_the_place_of_the_client_id() {
        let v4 = Holder { client_id: Some(b"\0port-9".to_vec()), ..Holder::default() };
        let v6 = Holder { duid: Some(b"\0\0port-9".to_vec()), ..Holder::default() };
        assert_eq!(
            (name(&["flex-id"], &v4).unwrap(), name(&["flex-id"], &v6).unwrap()),
            ("port-9".into(), "port-9".into())
        );
        let other = Holder { client_id: Some(vec![1, 2, 3]), ..Holder::default() };
        assert_eq!(name(&["flex-id"], &other), Err(Unnamed::Absent));
    }

    #[test]
    fn with_a_list_only_what_is_listed_is_somebody() {
        let listed = Identities::from([("00:0c".to_owned(), "alice".parse().unwrap())]);
        let naming = Naming::new(vec![Identity::Hardware], Some(Arc::new(listed)));
        let holder = |octets: &[u8]| Holder { hardware: Some(octets.to_vec()), ..Holder::default() };
        assert_eq!(naming.subscriber(&holder(&[0, 12])).unwrap().as_str(), "alice");
        assert_eq!(naming.subscriber(&holder(&[0, 13])), Err(Unnamed::Unlisted));
    }

    #[test]
    fn words_read_back() {
        for word in ["hw-address", "client-id", "duid", "flex-id", "remote-id", "hostname", "user-context/a/b"] {
            assert_eq!(word.parse::<Identity>().unwrap().to_string(), word);
        }
        for wrong in ["mac", "", "user-context", "user-contextual/a"] {
            assert!(wrong.parse::<Identity>().unwrap_err().to_string().contains("hw-address"), "{wrong}");
        }
    }
}
