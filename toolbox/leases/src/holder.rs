//! Who holds a lease, by every name that the server keeps.

use serde_json::Value;

use crate::octets;

/// The identities of a lease. A client chooses most of them; a relay adds [`Holder::circuit_id`],
/// [`Holder::remote_id`] and [`Holder::subscriber_id`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// The hardware address.
    pub hardware: Option<Vec<u8>>,
    /// DHCPv4 option 61.
    pub client_id: Option<Vec<u8>>,
    /// DHCPv6 option 1.
    pub duid: Option<Vec<u8>>,
    /// Which association of the client.
    pub iaid: Option<u32>,
    /// Option 82.1, or the interface-id of DHCPv6 (option 18).
    pub circuit_id: Option<Vec<u8>>,
    /// Option 82.2, or option 37 of DHCPv6 without its enterprise number.
    pub remote_id: Option<Vec<u8>>,
    /// Option 82.6 (RFC 3993), or option 38 of DHCPv6 (RFC 4580).
    pub subscriber_id: Option<Vec<u8>>,
    /// What the client calls itself.
    pub hostname: Option<String>,
    /// Kea's user context.
    pub context: Option<Value>,
}

impl Holder {
    /// Takes the sub-options of option 82. What is cut off says nothing.
    pub(crate) fn relay4(&mut self, sub_options: &[u8]) {
        for (code, value) in octets::items8(sub_options).unwrap_or_default() {
            match code {
                1 => self.circuit_id = Some(value.to_vec()),
                2 => self.remote_id = Some(value.to_vec()),
                6 => self.subscriber_id = Some(value.to_vec()),
                _ => {}
            }
        }
    }

    /// Takes the options of a DHCPv6 relay.
    pub(crate) fn relay6(&mut self, options: &[u8]) {
        for (code, value) in octets::items16(options).unwrap_or_default() {
            match code {
                18 => self.circuit_id = Some(value.to_vec()),
                37 => self.remote_id = value.get(4..).map(<[u8]>::to_vec),
                38 => self.subscriber_id = Some(value.to_vec()),
                _ => {}
            }
        }
    }

    /// Whether this is the same client by what protocols identify a client by (RFC 2131 §4.2, RFC 8415 §11): a renewal
    /// by another relay, or under another host name, is still a renewal.
    #[must_use]
    pub fn is_same_client(&self, other: &Self) -> bool {
        match (&self.duid, &other.duid) {
            (Some(one), Some(two)) => return one == two,
            (Some(_), None) | (None, Some(_)) => return false,
            (None, None) => {}
        }
        match (&self.client_id, &other.client_id) {
            (Some(one), Some(two)) => one == two,
            (None, None) => self.hardware == other.hardware,
            _ => false,
        }
    }
}
