//! The bodies of the verification interface: `POST /v1/verify` (F2) and errors.
//!
//! A yes/no question gets yes or no (F9): no answer names a subscriber other than the one asked about.

use std::net::IpAddr;

use cloakway_types::{SubscriberId, Timestamp};
use serde::{Deserialize, Serialize};

/// "Is this subscriber live at this address now?"
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The address that the caller sees.
    pub address: IpAddr,
    /// Who should be there.
    pub subscriber: SubscriberId,
    /// The port that the caller sees; an address that is shared by ports has no answer without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// When, RFC 3339; now if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "moment")]
    pub at: Option<Timestamp>,
}

/// A time as text.
mod moment {
    use super::{Deserialize, Timestamp};
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.collect_str(at),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

impl VerifyRequest {
    /// Reads a request body.
    ///
    /// # Errors
    /// [`ErrorBody`] with code `malformed` or `invalid`, naming the field where there is one.
    pub fn from_json(body: &[u8]) -> Result<Self, ErrorBody> {
        serde_json::from_slice(body).map_err(|error| match serde_json::from_slice::<serde_json::Value>(body) {
            Err(_) => ErrorBody::new("malformed", format!("the body is not JSON: {error}"), None),
            Ok(value) => Self::explain(&value, &error),
        })
    }

    /// serde says what is wrong, but not in which field: this finds it.
    fn explain(value: &serde_json::Value, error: &serde_json::Error) -> ErrorBody {
        let Some(object) = value.as_object() else {
            return ErrorBody::new(
                "malformed",
                "the body must be a JSON object with address and subscriber".into(),
                None,
            );
        };
        if let Some(stray) = object.keys().find(|key| !matches!(key.as_str(), "address" | "subscriber" | "port" | "at"))
        {
            let message = "the field is not known: address, subscriber, port and at are".into();
            return ErrorBody::new("invalid", message, Some(stray));
        }
        let bad_text = |field: &str| match object.get(field) {
            None => Some("the field is missing".to_owned()),
            Some(serde_json::Value::String(_)) => None,
            Some(_) => Some("the field must be a string".to_owned()),
        };
        for field in ["address", "subscriber"] {
            if let Some(message) = bad_text(field) {
                return ErrorBody::new("invalid", message, Some(field));
            }
        }
        let text = |field: &str| object.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
        if text("address").parse::<IpAddr>().is_err() {
            let message = "the field is not an IPv4 or IPv6 address, such as 198.51.100.70".into();
            return ErrorBody::new("invalid", message, Some("address"));
        }
        let port = object
            .get("port")
            .is_none_or(|port| port.is_null() || port.as_u64().is_some_and(|port| u16::try_from(port).is_ok()));
        if !port {
            return ErrorBody::new("invalid", "the field is not a port, 0 to 65535".into(), Some("port"));
        }
        let at = object
            .get("at")
            .is_none_or(|at| at.is_null() || at.as_str().is_some_and(|at| at.parse::<Timestamp>().is_ok()));
        if !at {
            return ErrorBody::new("invalid", "the field is not a time of RFC 3339".into(), Some("at"));
        }
        match text("subscriber").parse::<SubscriberId>() {
            Err(wrong) => ErrorBody::new("invalid", wrong.to_string(), Some("subscriber")),
            Ok(_) => ErrorBody::new("malformed", error.to_string(), None),
        }
    }
}

/// Several questions at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyList {
    /// What is asked, to be answered in this order.
    pub questions: Vec<VerifyRequest>,
}

impl VerifyList {
    /// Questions in one request.
    pub const MOST: usize = 256;

    /// Reads a request body with one question or more.
    ///
    /// # Errors
    /// [`ErrorBody`] as of [`VerifyRequest::from_json`], which names the question as well: `questions[3].address`.
    pub fn from_json(body: &[u8]) -> Result<Self, ErrorBody> {
        match serde_json::from_slice::<Self>(body) {
            Ok(list) if (1..=Self::MOST).contains(&list.questions.len()) => Ok(list),
            Ok(list) => {
                let message = format!("{} questions: 1 to {} are allowed", list.questions.len(), Self::MOST);
                Err(ErrorBody::new("invalid", message, Some("questions")))
            }
            Err(error) => Err(Self::explain(body, &error)),
        }
    }

    fn explain(body: &[u8], error: &serde_json::Error) -> ErrorBody {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
            return ErrorBody::new("malformed", format!("the body is not JSON: {error}"), None);
        };
        let Some(questions) = value.get("questions").and_then(serde_json::Value::as_array) else {
            return ErrorBody::new("malformed", "the body must be a JSON object with a list of questions".into(), None);
        };
        let each = questions.iter().map(|question| VerifyRequest::from_json(question.to_string().as_bytes()));
        let wrong = each.enumerate().find_map(|(index, question)| question.err().map(|wrong| wrong.of_question(index)));
        wrong.unwrap_or_else(|| ErrorBody::new("malformed", error.to_string(), None))
    }
}

/// Which source a binding was learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// RADIUS accounting, told to us or through us.
    Radius,
    /// RADIUS accounting between others, overheard.
    RadiusTap,
    /// Leases of a DHCP server.
    Dhcp,
    /// DHCP between others, overheard.
    DhcpTap,
    /// Translations and port blocks of a NAT.
    Cgnat,
    /// A neighbour table (ARP, ND).
    Neighbour,
    /// A file.
    Static,
}

/// Why the answer is no. It speaks of the subscriber asked about and of nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The address is outside the subscriber prefixes of this ISP.
    NotOurs,
    /// No open session of this subscriber has the address.
    NoSession,
    /// This subscriber's session at the address is over.
    Ended,
    /// This subscriber's session at the address was not heard of for too long.
    Stale,
    /// This subscriber's session is not the only one that claims the address, or contradicts itself.
    Ambiguous,
    /// Subscribers share the address, each with ports of its own, and no port was asked about.
    PortNeeded,
    /// The moment that was asked about is longer ago than history is kept.
    Forgotten,
}

impl Reason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOurs => "not-ours",
            Self::NoSession => "no-session",
            Self::Ended => "ended",
            Self::Stale => "stale",
            Self::Ambiguous => "ambiguous",
            Self::PortNeeded => "port-needed",
            Self::Forgotten => "forgotten",
        }
    }
}

/// The answer to [`VerifyRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawVerdict", into = "RawVerdict")]
pub enum Verdict {
    /// Yes.
    Live {
        /// Since when at least, RFC 3339.
        since: String,
        /// Learnt from.
        source: Source,
        /// The moment of the last evidence, RFC 3339.
        proved_at: String,
    },
    /// No.
    NotLive {
        /// Why.
        reason: Reason,
    },
}

impl Verdict {
    /// A yes.
    #[must_use]
    pub fn live(since: Timestamp, source: Source, proved_at: Timestamp) -> Self {
        Self::Live { since: since.to_string(), source, proved_at: proved_at.to_string() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVerdict {
    live: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proved_at: Option<String>,
}

impl From<Verdict> for RawVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Live { since, source, proved_at } => {
                Self { live: true, reason: None, since: Some(since), source: Some(source), proved_at: Some(proved_at) }
            }
            Verdict::NotLive { reason } => {
                Self { live: false, reason: Some(reason), since: None, source: None, proved_at: None }
            }
        }
    }
}

impl TryFrom<RawVerdict> for Verdict {
    type Error = &'static str;
    fn try_from(raw: RawVerdict) -> Result<Self, Self::Error> {
        match raw {
            RawVerdict {
                live: true,
                reason: None,
                since: Some(since),
                source: Some(source),
                proved_at: Some(proved_at),
            } => Ok(Self::Live { since, source, proved_at }),
            RawVerdict { live: false, reason: Some(reason), since: None, source: None, proved_at: None } => {
                Ok(Self::NotLive { reason })
            }
            _ => Err("a verdict is live with since, source and proved_at, or not live with reason"),
        }
    }
}

/// `{"error":{"code":…,"message":…,"field":…}}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, for a program and for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorDetail {
    /// Stable word for programs.
    pub code: String,
    /// Sentence for people.
    pub message: String,
    /// The field of the body at fault, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl ErrorBody {
    /// An error, with the field at fault where one is (cut to 64 characters).
    #[must_use]
    pub fn new(code: &str, message: String, field: Option<&str>) -> Self {
        let field = field.map(|name| name.chars().take(64).collect());
        Self { error: ErrorDetail { code: code.to_owned(), message, field } }
    }

    /// The same about a question of a list, counted from 0.
    #[must_use]
    pub fn of_question(mut self, index: usize) -> Self {
        let field = self.error.field.map_or_else(String::new, |field| format!(".{field}"));
        self.error.field = Some(format!("questions[{index}]{field}"));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(body: &str) -> (String, Option<String>) {
        let error = VerifyRequest::from_json(body.as_bytes()).unwrap_err().error;
        (error.code, error.field)
    }

    #[test]
    fn the_question_of_the_story_is_read() {
        let body = br#"{"address":"198.51.100.70","subscriber":"alice@isp.example"}"#;
        let request = VerifyRequest::from_json(body).unwrap();
        assert_eq!(request.address, IpAddr::from([198, 51, 100, 70]));
        assert_eq!((request.subscriber.as_str(), request.port), ("alice@isp.example", None));
        let body = br#"{"address":"198.51.100.70","subscriber":"alice@isp.example","port":40000}"#;
        assert_eq!(VerifyRequest::from_json(body).unwrap().port, Some(40_000));
        let body = br#"{"address":"198.51.100.70","subscriber":"alice","at":"2023-11-14T23:13:20+01:00"}"#;
        let request = VerifyRequest::from_json(body).unwrap();
        assert_eq!(request.at, Some(Timestamp::from_secs(1_700_000_000)));
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(VerifyRequest::from_json(&text), Ok(request));
    }

    #[test]
    fn a_refusal_names_the_field() {
        let field = |body| refused(body).1.unwrap();
        assert_eq!(field(r#"{"address":"198.51.100.70"}"#), "subscriber");
        assert_eq!(field(r#"{"subscriber":"a"}"#), "address");
        assert_eq!(field(r#"{"address":"198.51.100","subscriber":"a"}"#), "address");
        assert_eq!(field(r#"{"address":7,"subscriber":"a"}"#), "address");
        assert_eq!(field(r#"{"address":"192.0.2.1","subscriber":"a b"}"#), "subscriber");
        for port in ["65536", "-1", "\"1\"", "1.5"] {
            let body = format!(r#"{{"address":"192.0.2.1","subscriber":"a","port":{port}}}"#);
            assert_eq!(refused(&body).1.unwrap(), "port", "{port}");
        }
        assert_eq!(field(r#"{"address":"192.0.2.1","subscriber":"a","at":1700000000}"#), "at");
        assert_eq!(field(r#"{"address":"192.0.2.1","subscriber":"a","at":"yesterday"}"#), "at");
        assert_eq!(field(r#"{"address":"192.0.2.1","subscriber":"a","proof":1}"#), "proof");
        for body in ["", "[]", "{", r#"{"address":"192.0.2.1","address":"192.0.2.2","subscriber":"a"}"#] {
            assert_eq!(refused(body), ("malformed".into(), None), "{body}");
        }
    }

    #[test]
    fn a_list_is_read_in_its_order_and_a_refusal_names_the_question() {
        let good = r#"{"address":"198.51.100.70","subscriber":"alice"},{"address":"::1","subscriber":"bob","port":1}"#;
        let list = VerifyList::from_json(format!(r#"{{"questions":[{good}]}}"#).as_bytes()).unwrap();
        let names: Vec<&str> = list.questions.iter().map(|question| question.subscriber.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        let refused = |body: String| {
            let error = VerifyList::from_json(body.as_bytes()).unwrap_err().error;
            (error.code, error.field.unwrap_or_default())
        };
        let with = |question: &str| refused(format!(r#"{{"questions":[{good},{question}]}}"#));
        let invalid = |field: &str| ("invalid".to_owned(), field.to_owned());
        assert_eq!(with(r#"{"address":"198.51.100","subscriber":"a"}"#), invalid("questions[2].address"));
        assert_eq!(with(r#"{"address":"192.0.2.1","subscriber":"a","what":1}"#), invalid("questions[2].what"));
        assert_eq!(with("7"), ("malformed".into(), "questions[2]".into()));
        let question = r#"{"address":"::1","subscriber":"a"}"#;
        let many = |count: usize| format!(r#"{{"questions":[{}]}}"#, vec![question; count].join(","));
        assert_eq!((refused(many(0)), refused(many(257))), (invalid("questions"), invalid("questions")));
        assert_eq!(VerifyList::from_json(many(256).as_bytes()).unwrap().questions.len(), 256);
        for body in ["", "[]", "{", r#"{"questions":{}}"#, r#"{"questions":[],"more":1}"#] {
            assert_eq!(refused(body.to_owned()), ("malformed".into(), String::new()), "{body}");
        }
    }

    #[test]
    fn verdicts_have_the_documented_shape_and_no_other() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        let live = serde_json::to_string(&Verdict::live(at, Source::Radius, at)).unwrap();
        assert_eq!(
            live,
            r#"{"live":true,"since":"2023-11-14T22:13:20.123Z","source":"radius","proved_at":"2023-11-14T22:13:20.123Z"}"#
        );
        let no = serde_json::to_string(&Verdict::NotLive { reason: Reason::NoSession }).unwrap();
        assert_eq!(no, r#"{"live":false,"reason":"no-session"}"#);
        for text in [live.as_str(), no.as_str()] {
            let back: Verdict = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), text);
        }
        for odd in [
            r#"{"live":true}"#,
            r#"{"live":false,"reason":"ended","since":"x"}"#,
            r#"{"live":false,"reason":"ended","x":1}"#,
        ] {
            assert!(serde_json::from_str::<Verdict>(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn reasons_are_spelt_the_same_everywhere() {
        for reason in
            [Reason::NotOurs, Reason::NoSession, Reason::Ended, Reason::Stale, Reason::Ambiguous, Reason::PortNeeded]
        {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in any::<Vec<u8>>(), text in any::<String>()) {
            let _ = VerifyRequest::from_json(&body);
            let _ = VerifyRequest::from_json(format!(r#"{{"address":"192.0.2.1","subscriber":{text:?}}}"#).as_bytes());
        }
    }
}
