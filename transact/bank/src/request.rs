//! What is asked of an institution and what it answers, typed.

use std::fmt;

use cloakway_crypto::bank::PinKey;
use cloakway_types::{Currency, Money, Timestamp};
use serde::{Deserialize, Serialize};
use transact_wire::card::{CardNumber, Expiry, Pin};

use crate::message::{FieldError, Message, MessageType};

/// Field 22: typed in, no terminal that could take a PIN.
const TYPED_IN: &str = "010";
/// Field 22: typed in, with a PIN.
const TYPED_IN_WITH_PIN: &str = "011";
/// Field 26: the longest PIN that is taken.
const LONGEST_PIN: &str = "12";
/// Field 25: electronic commerce.
const ELECTRONIC_COMMERCE: &str = "59";

/// Which way money goes, and by which message it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Movement {
    /// 0100: money is held.
    #[default]
    Authorisation,
    /// 0200: money is taken at once.
    Purchase,
    /// 0200 with processing code 20: money goes back.
    Refund,
}

impl Movement {
    /// The message that asks for it.
    #[must_use]
    pub const fn request(self) -> MessageType {
        match self {
            Self::Authorisation => MessageType::AuthorisationRequest,
            Self::Purchase | Self::Refund => MessageType::FinancialRequest,
        }
    }

    /// Field 3: goods and services, or a refund; no account chosen.
    #[must_use]
    pub const fn processing_code(self) -> &'static str {
        match self {
            Self::Authorisation | Self::Purchase => "000000",
            Self::Refund => "200000",
        }
    }
}

/// Why a number is no trace number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("trace number {0} is outside 1 to 999999 (ISO 8583 field 11)")]
pub struct TraceError(u32);

/// What names an authorisation to an institution, for good: its trace number and the second in which it
/// was first meant to be sent, in UTC (fields 11, 7 and 37). The same for its reversal, so that a
/// reversal can be made again after a crash from what was stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    stan: u32,
    sent_at: Timestamp,
}

impl Trace {
    /// The trace of the authorisation with this trace number and time.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn new(stan: u32, sent_at: Timestamp) -> Result<Self, TraceError> {
        if (1..=999_999).contains(&stan) { Ok(Self { stan, sent_at }) } else { Err(TraceError(stan)) }
    }

    /// Field 11.
    #[must_use]
    pub fn stan(self) -> String {
        format!("{:06}", self.stan)
    }

    /// Field 7: `MMDDhhmmss`.
    #[must_use]
    pub fn transmitted(self) -> String {
        let (_, month, day, hour, minute, second) = self.sent_at.civil();
        format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}")
    }

    /// Field 37: last digit of the year, day of the year, hour, trace number.
    #[must_use]
    pub fn retrieval_reference(self) -> String {
        let (year, month, day, hour, ..) = self.sent_at.civil();
        let before = [0_u16, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let days = before.get(usize::from(month).saturating_sub(1)).copied().unwrap_or(0) + u16::from(day);
        let day_of_year = days + u16::from(leap && month > 2);
        format!("{}{day_of_year:03}{hour:02}{:06}", year.rem_euclid(10), self.stan)
    }
}

/// `000042@2023-11-14T22:13:20.123Z`
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}@{}", self.stan, self.sent_at)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({self})")
    }
}

/// Why an [`Acceptor`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {source}")]
pub struct AcceptorError {
    /// The part that is wrong.
    pub name: &'static str,
    /// Why.
    pub source: FieldError,
}

/// Who asks: what the institution gave us to say in every message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptor {
    terminal: String,
    acceptor: String,
    acquirer: String,
    merchant_type: String,
}

impl Acceptor {
    /// Terminal (field 41, at most 8 characters), acceptor (field 42, at most 15), acquiring institution
    /// (field 32, at most 11 digits) and merchant type (field 18, 4 digits).
    ///
    /// # Errors
    /// [`AcceptorError`] names the part that does not fit its field.
    pub fn new(terminal: &str, acceptor: &str, acquirer: &str, merchant_type: &str) -> Result<Self, AcceptorError> {
        let made = Self {
            terminal: format!("{terminal:<8}"),
            acceptor: format!("{acceptor:<15}"),
            acquirer: acquirer.to_owned(),
            merchant_type: merchant_type.to_owned(),
        };
        let mut probe = Message::new(MessageType::AuthorisationRequest);
        let parts = [
            ("terminal", 41, &made.terminal),
            ("acceptor", 42, &made.acceptor),
            ("acquirer", 32, &made.acquirer),
            ("merchant type", 18, &made.merchant_type),
        ];
        for (name, number, value) in parts {
            probe.set(number, value).map_err(|source| AcceptorError { name, source })?;
        }
        Ok(made)
    }

    /// Field 41, padded.
    #[must_use]
    pub fn terminal(&self) -> &str {
        &self.terminal
    }
}

/// May this card be charged with this amount (0100), or: charge it (0200)?
#[derive(Debug, Clone)]
pub struct Authorisation {
    /// Its name.
    pub trace: Trace,
    /// By which of the two it is asked; a refund is a [`Refund`].
    pub movement: Movement,
    /// The card.
    pub card: CardNumber,
    /// The card's expiry.
    pub expiry: Expiry,
    /// The card's PIN, if its holder gave one.
    pub pin: Option<Pin>,
    /// How much.
    pub amount: Money,
}

impl Authorisation {
    /// The 0100 or the 0200; without the PIN, which [`Authorisation::add_pin`] puts in.
    #[must_use]
    pub fn message(&self, acceptor: &Acceptor) -> Message {
        let mut message = common(self.movement.request(), self.movement, self.trace, self.amount, acceptor);
        set(&mut message, 2, self.card.expose_digits());
        set(&mut message, 14, &self.expiry.yymm());
        set(&mut message, 22, TYPED_IN);
        message
    }

    /// Puts the PIN, if there is one, into fields 22, 26 and 52. `false`: there is no key for it, or the card number is
    /// too short for a PIN block; the message is not to be sent.
    #[must_use]
    pub fn add_pin(&self, message: &mut Message, key: Option<&PinKey>) -> bool {
        let Some(pin) = &self.pin else { return true };
        let block = key.and_then(|key| key.block(pin.expose_digits(), self.card.expose_digits()));
        let Some(block) = block else { return false };
        set(message, 22, TYPED_IN_WITH_PIN);
        set(message, 26, LONGEST_PIN);
        set(message, 52, &block.iter().map(|octet| format!("{octet:02X}")).collect::<String>());
        true
    }
}

/// A purchase as it is named afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its name.
    pub trace: Trace,
    /// How it was asked for.
    pub movement: Movement,
    /// The institution's code for it, if it gave one.
    pub authorisation_code: Option<String>,
}

/// Give money of a purchase back (0200, processing code 20). It names the purchase by its trace and, as a reversal does,
/// carries no card number: it is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// Its own name.
    pub trace: Trace,
    /// How much goes back.
    pub amount: Money,
    /// The purchase.
    pub original: Original,
}

impl Refund {
    /// The 0200.
    #[must_use]
    pub fn message(&self, acceptor: &Acceptor) -> Message {
        let refund = Movement::Refund;
        let mut message = common(refund.request(), refund, self.trace, self.amount, acceptor);
        // What an institution made up need not fit into a request.
        if let Some(code) = &self.original.authorisation_code {
            let _ = message.set(38, &format!("{code:<6}"));
        }
        set(
            &mut message,
            90,
            &original_data(self.original.movement.request(), self.original.trace, &acceptor.acquirer),
        );
        message
    }
}

/// Take back whatever a request led to (0400 or 0420). It names the request by its trace and
/// carries no card number: after a crash there is none, by design.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reversal {
    /// The request's name.
    pub trace: Trace,
    /// What was asked.
    pub movement: Movement,
    /// The request's amount.
    pub amount: Money,
}

/// By which messages requests are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReversalKind {
    /// 0400, repeated as 0401, answered by 0410.
    #[default]
    Request,
    /// 0420, repeated as 0421, answered by 0430.
    Advice,
}

impl ReversalKind {
    /// The type of the message, the first or a later time.
    #[must_use]
    pub const fn message_type(self, repeated: bool) -> MessageType {
        match (self, repeated) {
            (Self::Request, false) => MessageType::ReversalRequest,
            (Self::Request, true) => MessageType::ReversalRepeat,
            (Self::Advice, false) => MessageType::ReversalAdvice,
            (Self::Advice, true) => MessageType::ReversalAdviceRepeat,
        }
    }
}

impl Reversal {
    /// The message, or its repetition when it was sent before.
    #[must_use]
    pub fn message(&self, acceptor: &Acceptor, kind: ReversalKind, repeated: bool) -> Message {
        let mut message = common(kind.message_type(repeated), self.movement, self.trace, self.amount, acceptor);
        set(&mut message, 90, &original_data(self.movement.request(), self.trace, &acceptor.acquirer));
        message
    }
}

/// Field 90 for a request: its type, trace number, time, acquirer, and no forwarder.
#[must_use]
pub fn original_data(request: MessageType, trace: Trace, acquirer: &str) -> String {
    format!("{}{}{}{acquirer:0>11}{:011}", request.code(), trace.stan(), trace.transmitted(), 0)
}

fn common(message_type: MessageType, movement: Movement, trace: Trace, amount: Money, acceptor: &Acceptor) -> Message {
    let mut message = Message::new(message_type);
    let transmitted = trace.transmitted();
    let (date, time) = transmitted.split_at(4);
    set(&mut message, 3, movement.processing_code());
    set(&mut message, 4, &format!("{:012}", amount.minor()));
    set(&mut message, 7, &transmitted);
    set(&mut message, 11, &trace.stan());
    set(&mut message, 12, time);
    set(&mut message, 13, date);
    set(&mut message, 18, &acceptor.merchant_type);
    set(&mut message, 25, ELECTRONIC_COMMERCE);
    set(&mut message, 32, &acceptor.acquirer);
    set(&mut message, 37, &trace.retrieval_reference());
    set(&mut message, 41, &acceptor.terminal);
    set(&mut message, 42, &acceptor.acceptor);
    set(&mut message, 49, &format!("{:03}", amount.currency().numeric()));
    message
}

/// Sets a field from a value whose type has been checked to fit it.
fn set(message: &mut Message, number: u8, value: &str) {
    let fitted = message.set(number, value);
    debug_assert!(fitted.is_ok(), "field {number}: {fitted:?}");
}

/// What an institution says in field 39.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseCode([u8; 2]);

impl ResponseCode {
    /// `00`.
    pub const APPROVED: Self = Self(*b"00");

    /// Reads field 39.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    /// Approved, without conditions.
    #[must_use]
    pub fn is_approval(self) -> bool {
        self == Self::APPROVED
    }

    /// Approved in some other way (with identification, in part, for a VIP, with an update): the
    /// institution may hold money for something else than what was asked.
    #[must_use]
    pub fn is_conditional_approval(self) -> bool {
        matches!(&self.0, b"08" | b"10" | b"11" | b"16" | b"32" | b"85" | b"87")
    }

    /// Whether a reversal with this answer is over: taken back, nothing done, nothing found, done before.
    #[must_use]
    pub fn settles_reversal(self) -> bool {
        matches!(&self.0, b"00" | b"21" | b"25" | b"94")
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two characters of field 39 are ASCII.
        f.write_str(std::str::from_utf8(&self.0).unwrap_or("??"))
    }
}

/// Field 70.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkCode {
    /// 001.
    SignOn,
    /// 002.
    SignOff,
    /// 301.
    Echo,
}

impl NetworkCode {
    /// The three digits.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::SignOn => "001",
            Self::SignOff => "002",
            Self::Echo => "301",
        }
    }

    /// The 0800 with this code.
    #[must_use]
    pub fn message(self, trace: Trace) -> Message {
        let mut message = Message::new(MessageType::NetworkRequest);
        set(&mut message, 7, &trace.transmitted());
        set(&mut message, 11, &trace.stan());
        set(&mut message, 70, self.code());
        message
    }
}

/// Why a message is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("answer without field {0}")]
pub struct AnswerError(u8);

/// The answer to a request or a reversal (0110, 0210, 0410, 0430).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Fields 11 and 7: which request it answers.
    pub stan: String,
    /// See [`Answer::stan`].
    pub transmitted: String,
    /// Field 41.
    pub terminal: String,
    /// Field 37, if it is there.
    pub retrieval_reference: Option<String>,
    /// Field 39.
    pub code: ResponseCode,
    /// Field 38, if it is there.
    pub authorisation_code: Option<String>,
    /// Field 4, in minor units, if it is there.
    pub amount_minor: Option<u64>,
    /// Field 49, if it is there and known.
    pub currency: Option<Currency>,
}

impl Answer {
    /// Reads the fields of an answer.
    ///
    /// # Errors
    /// [`AnswerError`] names the field that is missing.
    pub fn from_message(message: &Message) -> Result<Self, AnswerError> {
        let need = |number| message.get(number).map(str::to_owned).ok_or(AnswerError(number));
        Ok(Self {
            stan: need(11)?,
            transmitted: need(7)?,
            terminal: need(41)?,
            retrieval_reference: message.get(37).map(str::to_owned),
            code: message.get(39).and_then(ResponseCode::parse).ok_or(AnswerError(39))?,
            authorisation_code: message.get(38).map(|code| code.trim_end().to_owned()).filter(|code| !code.is_empty()),
            amount_minor: message.get(4).and_then(|amount| amount.parse().ok()),
            currency: message.get(49).and_then(|c| c.parse().ok()).and_then(|c| Currency::from_numeric(c).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakway_crypto::Secret;

    fn trace() -> Trace {
        Trace::new(42, Timestamp::from_millis(1_700_000_000_123)).unwrap()
    }

    fn acceptor() -> Acceptor {
        Acceptor::new("CLOAK001", "CLOAKWAY", "12345", "5815").unwrap()
    }

    fn amount() -> Money {
        Money::new(1234, "EUR".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_trace_is_written_as_iso_8583_wants_it() {
        assert_eq!(trace().stan(), "000042");
        assert_eq!(trace().transmitted(), "1114221320");
        assert_eq!(trace().retrieval_reference(), "331822000042");
        let leap_day = Trace::new(999_999, Timestamp::from_secs(1_709_251_199)).unwrap();
        assert_eq!(leap_day.retrieval_reference(), "406023999999");
        assert_eq!(Trace::new(0, Timestamp::from_secs(0)), Err(TraceError(0)));
        assert!(Trace::new(1_000_000, Timestamp::from_secs(0)).is_err());
    }

    #[test]
    fn an_authorisation_has_the_card_and_a_reversal_has_not() {
        let authorisation = Authorisation {
            trace: trace(),
            movement: Movement::Authorisation,
            card: CardNumber::parse(&Secret::from("4111 1111 1111 1111")).unwrap(),
            expiry: Expiry::parse("12/29").unwrap(),
            pin: None,
            amount: amount(),
        };
        let message = authorisation.message(&acceptor());
        assert_eq!(message.get(2), Some("4111111111111111"));
        assert_eq!(message.get(14), Some("2912"));
        assert_eq!((message.get(4), message.get(49)), (Some("000000001234"), Some("978")));
        assert_eq!((message.get(13), message.get(12)), (Some("1114"), Some("221320")));
        assert_eq!(message.get(42), Some("CLOAKWAY       "));
        assert!(!format!("{authorisation:?} {message:?}").contains("4111"));

        let reversal = Reversal { trace: trace(), movement: Movement::Authorisation, amount: amount() };
        let message = reversal.message(&acceptor(), ReversalKind::Request, false);
        assert_eq!(message.message_type().code(), "0400");
        assert_eq!((message.get(2), message.get(14)), (None, None));
        assert_eq!(message.get(90), Some("010000004211142213200000001234500000000000"));
        let codes = [
            (ReversalKind::Request, true, "0401"),
            (ReversalKind::Advice, false, "0420"),
            (ReversalKind::Advice, true, "0421"),
        ];
        for (kind, repeated, code) in codes {
            assert_eq!(reversal.message(&acceptor(), kind, repeated).message_type().code(), code);
        }
    }

    #[test]
    fn a_pin_travels_as_a_block_under_its_key_or_not_at_all() {
        let key = PinKey::new(Secret::new(vec![7; 16])).unwrap();
        let with = |card: &str, pin: Option<&str>| Authorisation {
            trace: trace(),
            movement: Movement::Authorisation,
            card: CardNumber::parse(&Secret::from(card)).unwrap(),
            expiry: Expiry::parse("12/29").unwrap(),
            pin: pin.map(|pin| Pin::parse(Secret::from(pin)).unwrap()),
            amount: amount(),
        };
        let asked = with("4111111111111111", Some("987654"));
        let mut message = asked.message(&acceptor());
        assert!(asked.add_pin(&mut message, Some(&key)));
        assert_eq!((message.get(22), message.get(26)), (Some("011"), Some("12")));
        let block = message.get(52).unwrap();
        assert!(block.len() == 16 && !block.contains("987654"), "{block}");
        assert!(!format!("{asked:?} {message:?}").contains("987654") && !format!("{message:?}").contains(block));
        assert!(!asked.add_pin(&mut asked.message(&acceptor()), None), "no key");
        let short = with("123456789007", Some("1234"));
        assert!(!short.add_pin(&mut short.message(&acceptor()), Some(&key)), "too short for a block");
        let without = with("4111111111111111", None);
        let mut message = without.message(&acceptor());
        assert!(without.add_pin(&mut message, None));
        assert_eq!((message.get(22), message.get(52)), (Some("010"), None));
    }

    #[test]
    fn a_refund_names_its_purchase_and_has_a_trace_of_its_own() {
        let refund = Refund {
            trace: Trace::new(43, Timestamp::from_secs(1_700_003_600)).unwrap(),
            amount: amount(),
            original: Original {
                trace: trace(),
                movement: Movement::Purchase,
                authorisation_code: Some("A1".to_owned()),
            },
        };
        let message = refund.message(&acceptor());
        assert_eq!((message.message_type().code(), message.get(3), message.get(2)), ("0200", Some("200000"), None));
        assert_eq!((message.get(11), message.get(38)), (Some("000043"), Some("A1    ")));
        assert_eq!(message.get(90), Some("020000004211142213200000001234500000000000"));
        let strange = Refund {
            original: Original { authorisation_code: Some("too long".to_owned()), ..refund.original.clone() },
            ..refund
        };
        assert_eq!(strange.message(&acceptor()).get(38), None);
    }

    #[test]
    fn an_acceptor_that_does_not_fit_is_refused_by_name() {
        let error = Acceptor::new("CLOAK0001", "CLOAKWAY", "12345", "5815").unwrap_err();
        assert_eq!(
            error.to_string(),
            "terminal: field 41 (card acceptor terminal identification) holds exactly 8 characters, 9 were given"
        );
        assert_eq!(Acceptor::new("T", "A", "x", "5815").unwrap_err().name, "acquirer");
        assert_eq!(Acceptor::new("T", "A", "1", "581").unwrap_err().name, "merchant type");
    }

    #[test]
    fn response_codes_are_told_apart() {
        let code = |text| ResponseCode::parse(text).unwrap();
        assert!(code("00").is_approval() && !code("05").is_approval() && !code("10").is_approval());
        assert!(code("10").is_conditional_approval() && !code("51").is_conditional_approval());
        assert!(code("25").settles_reversal() && !code("96").settles_reversal());
        assert_eq!(ResponseCode::parse("0"), None);
    }
}
