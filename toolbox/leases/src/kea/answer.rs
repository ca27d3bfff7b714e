//! What Kea answers on its control socket (`lease4-get-page`, `lease6-get-page`), for audits.

use std::net::IpAddr;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use serde::Deserialize;

use crate::holder::Holder;
use crate::lease::{Lease, State};
use crate::octets;

const FOR_EVER: u64 = 0xffff_ffff;
/// Kea's result of a search that found nothing.
const EMPTY: i64 = 3;

/// Leases of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The leases.
    pub leases: Vec<Lease>,
    /// The address to ask for the next page from; none when this was the last one.
    pub next: Option<IpAddr>,
}

/// An answer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is no JSON of the form that Kea documents.
    #[error("not an answer of Kea: {0}")]
    Form(#[from] serde_json::Error),
    /// Kea refuses.
    #[error("Kea answers {result}: {text}")]
    Refused {
        /// Its number.
        result: i64,
        /// Its words.
        text: String,
    },
    /// A lease that is none.
    #[error("a lease of {0} that cannot be read")]
    Lease(IpAddr),
}

#[derive(Deserialize)]
struct Answer<A> {
    result: i64,
    #[serde(default)]
    text: String,
    arguments: Option<A>,
}

#[derive(Deserialize)]
struct RawPage {
    leases: Vec<RawLease>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawLease {
    ip_address: IpAddr,
    #[serde(default)]
    hw_address: String,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    duid: String,
    prefix_len: Option<u8>,
    #[serde(default)]
    r#type: String,
    cltt: u64,
    valid_lft: u64,
    state: u8,
}

/// Reads the commands that a server has.
///
/// # Errors
/// [`AnswerError`].
pub fn commands(octets: &[u8]) -> Result<Vec<String>, AnswerError> {
    let answer: Answer<Vec<String>> = serde_json::from_slice(octets)?;
    match (answer.result, answer.arguments) {
        (0, Some(commands)) => Ok(commands),
        (result, _) => Err(AnswerError::Refused { result, text: answer.text }),
    }
}

/// Reads a page.
///
/// # Errors
/// [`AnswerError`].
pub fn page(octets: &[u8]) -> Result<Page, AnswerError> {
    let answer: Answer<RawPage> = serde_json::from_slice(octets)?;
    let leases = match (answer.result, answer.arguments) {
        (0, Some(page)) => page.leases,
        (EMPTY, _) => Vec::new(),
        (result, _) => return Err(AnswerError::Refused { result, text: answer.text }),
    };
    let next = leases.last().map(|lease| lease.ip_address);
    let leases = leases.into_iter().map(RawLease::read).collect::<Result<_, _>>()?;
    Ok(Page { leases, next })
}

impl RawLease {
    fn read(self) -> Result<Lease, AnswerError> {
        let wrong = || AnswerError::Lease(self.ip_address);
        let whole = if self.ip_address.is_ipv4() { 32 } else { 128 };
        let length = if self.r#type == "IA_PD" { self.prefix_len.ok_or_else(wrong)? } else { whole };
        let net = IpNet::new(self.ip_address, length).map_err(|_| wrong())?;
        let octets = |text: &str| {
            if text.is_empty() { Ok(None) } else { octets::from_colons(text).map(Some).ok_or_else(wrong) }
        };
        let holder = Holder {
            hardware: octets(&self.hw_address)?,
            client_id: octets(&self.client_id)?,
            duid: octets(&self.duid)?,
            ..Holder::default()
        };
        let expire = Timestamp::from_secs(self.cltt.saturating_add(self.valid_lft));
        let state = match self.state {
            0 | 4 if self.valid_lft == FOR_EVER => State::Held { until: None },
            0 | 4 => State::Held { until: Some(expire) },
            1 => State::Declined,
            _ => State::Over { at: None },
        };
        Ok(Lease { net, holder, last: Timestamp::from_secs(self.cltt), state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kea 2.2 answers.
    const PAGE: &str = r#"{ "arguments": { "count": 2, "leases": [
        { "client-id": "01:00:0c:01:02:03:04", "cltt": 1795375687, "fqdn-fwd": false, "fqdn-rev": false, "hostname": "",
          "hw-address": "00:0c:01:02:03:04", "ip-address": "10.77.1.0", "state": 0, "subnet-id": 1, "valid-lft": 60 },
        { "cltt": 1795375687, "duid": "00:01:02", "iaid": 1, "ip-address": "2001:db8:8000::", "prefix-len": 56,
          "preferred-lft": 40, "state": 0, "subnet-id": 1, "type": "IA_PD", "valid-lft": 4294967295 } ] },
        "result": 0, "text": "2 lease(s) found." }"#;

    #[test]
    fn a_page_reads() {
        let page = page(PAGE.as_bytes()).unwrap();
        let [address, prefix] = page.leases.as_slice() else { panic!("{page:?}") };
        assert_eq!(address.net, "10.77.1.0/32".parse().unwrap());
        assert_eq!(address.state, State::Held { until: Some(Timestamp::from_secs(1_795_375_747)) });
        assert_eq!((prefix.net, prefix.state), ("2001:db8:8000::/56".parse().unwrap(), State::Held { until: None }));
        assert_eq!(page.next, Some("2001:db8:8000::".parse().unwrap()));
    }

    #[test]
    fn nothing_found_is_an_empty_page_and_a_refusal_an_error() {
        assert_eq!(page(br#"{"result":3,"text":"0 leases"}"#).unwrap(), Page { leases: vec![], next: None });
        let refused = page(br#"{"result":2,"text":"'lease4-get-page' command not supported."}"#).unwrap_err();
        assert!(refused.to_string().contains("not supported"), "{refused}");
        assert!(page(b"[]").is_err() && page(b"").is_err());
        assert_eq!(commands(br#"{"arguments":["build-report"],"result":0}"#).unwrap(), ["build-report"]);
    }
}
