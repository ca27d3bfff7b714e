//! The codec: octets to fields and back, driven by [`spec::FIELDS`](crate::spec::FIELDS).

use std::collections::BTreeMap;
use std::fmt;

use cloakway_crypto::Secret;

use crate::spec::{FIELDS, Field, Format, Kind, field_of};

/// The message types of the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    /// 0100: may this card be charged?
    AuthorisationRequest,
    /// 0110: the answer.
    AuthorisationResponse,
    /// 0400: take back what a request led to.
    ReversalRequest,
    /// 0401: the same again, no answer having come.
    ReversalRepeat,
    /// 0410: the answer.
    ReversalResponse,
    /// 0800: sign-on or echo.
    NetworkRequest,
    /// 0810: the answer.
    NetworkResponse,
}

impl MessageType {
    /// Every type.
    pub const ALL: [Self; 7] = [
        Self::AuthorisationRequest,
        Self::AuthorisationResponse,
        Self::ReversalRequest,
        Self::ReversalRepeat,
        Self::ReversalResponse,
        Self::NetworkRequest,
        Self::NetworkResponse,
    ];

    /// The four digits.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AuthorisationRequest => "0100",
            Self::AuthorisationResponse => "0110",
            Self::ReversalRequest => "0400",
            Self::ReversalRepeat => "0401",
            Self::ReversalResponse => "0410",
            Self::NetworkRequest => "0800",
            Self::NetworkResponse => "0810",
        }
    }
}

/// Why octets are not a message. Says where, never what was there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer octets than needed.
    #[error("{part} at octet {at} needs {needed} octets, {left} are left")]
    Truncated {
        /// What was being read.
        part: Part,
        /// Where it begins.
        at: usize,
        /// How much it needs.
        needed: usize,
        /// How much is left.
        left: usize,
    },
    /// The first four octets are no type of the profile.
    #[error("message type at octet 0 is not one of 0100, 0110, 0400, 0401, 0410, 0800, 0810")]
    Type,
    /// A bitmap with something else than capital hexadecimal digits.
    #[error("{part} at octet {at} is not made of capital hexadecimal digits")]
    Bitmap {
        /// Which bitmap.
        part: Part,
        /// The first wrong octet.
        at: usize,
    },
    /// A bitmap announces a field that the profile does not have; its length is unknown.
    #[error("field {field}, announced at octet {at}, is not in the profile")]
    UnknownField {
        /// The field's number.
        field: u8,
        /// Where it would begin.
        at: usize,
    },
    /// A length that is no number or above the field's maximum.
    #[error("{part} at octet {at} has a bad length: at most {max} characters are allowed")]
    Length {
        /// The field.
        part: Part,
        /// Where its length is.
        at: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A character that the field may not hold.
    #[error("{part} may hold {allowed} only, octet {at} is something else")]
    Character {
        /// The field.
        part: Part,
        /// The octet.
        at: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Octets after the last field.
    #[error("{left} octets follow the last field at octet {at}")]
    Trailing {
        /// Where they begin.
        at: usize,
        /// How many.
        left: usize,
    },
}

/// A part of a message, for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The four digits of the message type.
    Type,
    /// Fields 1 to 64.
    PrimaryBitmap,
    /// Fields 65 to 128.
    SecondaryBitmap,
    /// A field.
    Field(&'static Field),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type => f.write_str("message type"),
            Self::PrimaryBitmap => f.write_str("primary bitmap"),
            Self::SecondaryBitmap => f.write_str("secondary bitmap"),
            Self::Field(field) => write!(f, "field {} ({})", field.number, field.name),
        }
    }
}

/// Why a value does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The profile has no such field.
    #[error("field {0} is not in the profile")]
    Unknown(u8),
    /// Too long, or not exactly as long as a fixed field is.
    #[error("field {} ({}) holds {} characters, {length} were given", field.number, field.name, describe_length(field))]
    Length {
        /// The field.
        field: &'static Field,
        /// Characters given.
        length: usize,
    },
    /// A character that the field may not hold.
    #[error("field {} ({}) may hold {} only, position {at} is something else", field.number, field.name, field.kind.describe())]
    Character {
        /// The field.
        field: &'static Field,
        /// The position, counted in octets from 0.
        at: usize,
    },
}

fn describe_length(field: &Field) -> String {
    match field.format {
        Format::Fixed => format!("exactly {}", field.max),
        Format::LlVar | Format::LllVar => format!("1 to {}", field.max),
    }
}

/// A message: a type and the fields that it has. Card number and expiry print as `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    message_type: MessageType,
    fields: BTreeMap<u8, Secret<String>>,
}

impl Message {
    /// A message without fields.
    #[must_use]
    pub const fn new(message_type: MessageType) -> Self {
        Self { message_type, fields: BTreeMap::new() }
    }

    /// Its type.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// What a field holds.
    #[must_use]
    pub fn get(&self, number: u8) -> Option<&str> {
        self.fields.get(&number).map(|value| value.expose().as_str())
    }

    /// The numbers of the fields that the message has, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u8> + '_ {
        self.fields.keys().copied()
    }

    /// Sets a field.
    ///
    /// # Errors
    /// [`FieldError`]: the value does not fit, and the message is unchanged.
    pub fn set(&mut self, number: u8, value: &str) -> Result<(), FieldError> {
        let field = field_of(number).ok_or(FieldError::Unknown(number))?;
        let fits = match field.format {
            Format::Fixed => value.len() == field.max,
            Format::LlVar | Format::LllVar => (1..=field.max).contains(&value.len()),
        };
        if !fits {
            return Err(FieldError::Length { field, length: value.len() });
        }
        if let Some(at) = value.bytes().position(|character| !field.kind.allows(character)) {
            return Err(FieldError::Character { field, at });
        }
        self.fields.insert(number, Secret::new(value.to_owned()));
        Ok(())
    }

    /// Copies the fields that `from` has among `numbers`.
    pub fn copy(&mut self, from: &Self, numbers: &[u8]) {
        for number in numbers {
            if let Some(value) = from.fields.get(number) {
                self.fields.insert(*number, value.clone());
            }
        }
    }

    /// The octets of the message, without the length in front.
    #[must_use]
    pub fn encode(&self) -> Secret<Vec<u8>> {
        // Room for all of it from the start: a vector that grows leaves copies of the card number behind.
        let room: usize = self.fields.values().map(|value| value.expose().len().saturating_add(3)).sum();
        let mut octets = Vec::with_capacity(room.saturating_add(36));
        octets.extend_from_slice(self.message_type.code().as_bytes());
        let bits = |range: std::ops::RangeInclusive<u8>| {
            self.fields.keys().filter(|n| range.contains(n)).fold(0_u64, |bits, n| bits | bit(*n))
        };
        let (primary, secondary) = (bits(1..=64), bits(65..=128));
        let extended = if secondary == 0 { 0 } else { bit(1) };
        push_bitmap(&mut octets, primary | extended);
        if secondary != 0 {
            push_bitmap(&mut octets, secondary);
        }
        for field in FIELDS {
            let Some(value) = self.get(field.number) else { continue };
            match field.format {
                Format::Fixed => {}
                Format::LlVar => push_length(&mut octets, value.len(), 2),
                Format::LllVar => push_length(&mut octets, value.len(), 3),
            }
            octets.extend_from_slice(value.as_bytes());
        }
        Secret::new(octets)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] names the field and the octet.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader { octets, at: 0 };
        let code = reader.take(4, Part::Type)?;
        let message_type =
            MessageType::ALL.into_iter().find(|t| t.code().as_bytes() == code).ok_or(DecodeError::Type)?;
        let primary = reader.bitmap(Part::PrimaryBitmap)?;
        let secondary = if primary & bit(1) == 0 { 0 } else { reader.bitmap(Part::SecondaryBitmap)? };
        let mut message = Self::new(message_type);
        let announced = (2..=128_u8).filter(|n| (if *n <= 64 { primary } else { secondary }) & bit(*n) != 0);
        for number in announced {
            let field = field_of(number).ok_or(DecodeError::UnknownField { field: number, at: reader.at })?;
            message.fields.insert(number, reader.field(field)?);
        }
        match octets.len().saturating_sub(reader.at) {
            0 => Ok(message),
            left => Err(DecodeError::Trailing { at: reader.at, left }),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Message");
        shown.field("type", &self.message_type.code());
        for (number, value) in &self.fields {
            match field_of(*number) {
                Some(field) if !field.secret => shown.field(field.name, value.expose()),
                Some(field) => shown.field(field.name, value),
                None => shown.field("unknown", value),
            };
        }
        shown.finish()
    }
}

/// The bit of a field within its bitmap: field 1 and field 65 are the highest.
const fn bit(number: u8) -> u64 {
    1 << (63 - (number.wrapping_sub(1) % 64))
}

fn push_bitmap(octets: &mut Vec<u8>, bits: u64) {
    octets.extend_from_slice(format!("{bits:016X}").as_bytes());
}

fn push_length(octets: &mut Vec<u8>, length: usize, digits: usize) {
    octets.extend_from_slice(format!("{length:0digits$}").as_bytes());
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, needed: usize, part: Part) -> Result<&'a [u8], DecodeError> {
        let rest = self.octets.get(self.at..).unwrap_or_default();
        let taken = rest.get(..needed).ok_or(DecodeError::Truncated { part, at: self.at, needed, left: rest.len() })?;
        self.at = self.at.saturating_add(needed);
        Ok(taken)
    }

    fn bitmap(&mut self, part: Part) -> Result<u64, DecodeError> {
        let begin = self.at;
        let digits = self.take(16, part)?;
        match digits.iter().position(|digit| !Kind::B.allows(*digit)) {
            Some(place) => Err(DecodeError::Bitmap { part, at: begin.saturating_add(place) }),
            None => Ok(digits.iter().fold(0, |bits, digit| (bits << 4) | u64::from(hex_value(*digit)))),
        }
    }

    fn field(&mut self, field: &'static Field) -> Result<Secret<String>, DecodeError> {
        let part = Part::Field(field);
        let length = match field.format {
            Format::Fixed => field.max,
            Format::LlVar => self.length(2, field)?,
            Format::LllVar => self.length(3, field)?,
        };
        let begin = self.at;
        let value = self.take(length, part)?;
        let allowed = field.kind.describe();
        if let Some(place) = value.iter().position(|character| !field.kind.allows(*character)) {
            return Err(DecodeError::Character { part, at: begin.saturating_add(place), allowed });
        }
        // Every allowed character is ASCII.
        match std::str::from_utf8(value) {
            Ok(text) => Ok(Secret::new(text.to_owned())),
            Err(_) => Err(DecodeError::Character { part, at: begin, allowed }),
        }
    }

    fn length(&mut self, digits: usize, field: &'static Field) -> Result<usize, DecodeError> {
        let at = self.at;
        let part = Part::Field(field);
        let text = self.take(digits, part)?;
        let bad = DecodeError::Length { part, at, max: field.max };
        if !text.iter().all(u8::is_ascii_digit) {
            return Err(bad);
        }
        match text.iter().fold(0, |number, digit| number * 10 + usize::from(digit.wrapping_sub(b'0'))) {
            length if (1..=field.max).contains(&length) => Ok(length),
            _ => Err(bad),
        }
    }
}

const fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made by hand from ISO 8583:1987: type, bitmap, LLVAR number, amounts, a secondary bitmap.
    const GOLDEN: &str = "0100\
        C000000000000000\
        0400000000000000\
        164111111111111111\
        001";

    #[test]
    fn a_message_made_by_hand_is_read_and_written() {
        let message = Message::decode(GOLDEN.as_bytes()).unwrap();
        assert_eq!(message.message_type(), MessageType::AuthorisationRequest);
        assert_eq!(message.get(2), Some("4111111111111111"));
        assert_eq!(message.get(70), Some("001"));
        assert_eq!(message.numbers().collect::<Vec<_>>(), [2, 70]);
        assert_eq!(message.encode().expose(), GOLDEN.as_bytes());
    }

    #[test]
    fn the_secondary_bitmap_comes_only_with_fields_above_64() {
        let mut message = Message::new(MessageType::NetworkRequest);
        message.set(11, "000001").unwrap();
        assert_eq!(message.encode().expose(), b"08000020000000000000000001");
    }

    #[test]
    fn debug_never_shows_the_card() {
        let mut message = Message::decode(GOLDEN.as_bytes()).unwrap();
        message.set(14, "2912").unwrap();
        let shown = format!("{message:?} {message:#?}");
        assert!(shown.contains("[secret]") && shown.contains("001"), "{shown}");
        assert!(!shown.contains("4111") && !shown.contains("2912"), "{shown}");
        let encoded = format!("{:?}", message.encode());
        assert_eq!(encoded, "[secret]");
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        let of = |text: &str| Message::decode(text.as_bytes()).unwrap_err();
        assert_eq!(of("0200"), DecodeError::Type);
        assert_eq!(of("01"), DecodeError::Truncated { part: Part::Type, at: 0, needed: 4, left: 2 });
        assert_eq!(
            of("0100c00000000000000"),
            DecodeError::Truncated { part: Part::PrimaryBitmap, at: 4, needed: 16, left: 15 }
        );
        assert_eq!(of("0100400000000000000x"), DecodeError::Bitmap { part: Part::PrimaryBitmap, at: 19 });
        assert_eq!(of("01000800000000000000"), DecodeError::UnknownField { field: 5, at: 20 });
        let pan = Part::Field(field_of(2).unwrap());
        assert_eq!(of("0100400000000000000020"), DecodeError::Length { part: pan, at: 20, max: 19 });
        assert_eq!(of("0100400000000000000000"), DecodeError::Length { part: pan, at: 20, max: 19 });
        assert_eq!(of("01004000000000000000x1"), DecodeError::Length { part: pan, at: 20, max: 19 });
        assert_eq!(of("010040000000000000000312"), DecodeError::Truncated { part: pan, at: 22, needed: 3, left: 2 });
        assert_eq!(of("0100400000000000000003123z"), DecodeError::Trailing { at: 25, left: 1 });
        let error = of("01004000000000000000031x3");
        assert_eq!(
            error.to_string(),
            "field 2 (primary account number) may hold digits only, octet 23 is something else"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_changes_nothing() {
        let mut message = Message::new(MessageType::AuthorisationRequest);
        message.set(4, "000000001234").unwrap();
        assert_eq!(
            message.set(4, "12").unwrap_err().to_string(),
            "field 4 (amount, transaction) holds exactly 12 characters, 2 were given"
        );
        assert_eq!(
            message.set(4, "00000000123x").unwrap_err().to_string(),
            "field 4 (amount, transaction) may hold digits only, position 11 is something else"
        );
        assert_eq!(message.set(5, "1"), Err(FieldError::Unknown(5)));
        assert_eq!(
            message.set(2, "").unwrap_err().to_string(),
            "field 2 (primary account number) holds 1 to 19 characters, 0 were given"
        );
        assert_eq!(message.get(4), Some("000000001234"));
    }

    fn any_value(field: &'static Field) -> BoxedStrategy<(u8, String)> {
        let length = match field.format {
            Format::Fixed => field.max..=field.max,
            Format::LlVar | Format::LllVar => 1..=field.max,
        };
        let characters: Vec<u8> = (0..=127).filter(|c| field.kind.allows(*c)).collect();
        proptest::collection::vec(proptest::sample::select(characters), length)
            .prop_map(move |octets| (field.number, String::from_utf8(octets).unwrap()))
            .boxed()
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let fields = FIELDS.iter().map(|field| proptest::option::of(any_value(field))).collect::<Vec<_>>();
        (proptest::sample::select(MessageType::ALL.to_vec()), fields).prop_map(|(message_type, fields)| {
            let mut message = Message::new(message_type);
            fields.into_iter().flatten().for_each(|(number, value)| message.set(number, &value).unwrap());
            message
        })
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(message in any_message()) {
            prop_assert_eq!(Message::decode(message.encode().expose()).unwrap(), message);
        }

        #[test]
        fn arbitrary_octets_never_panic_and_what_is_read_is_stable(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(message) = Message::decode(&octets) {
                let again = message.encode();
                prop_assert_eq!(again.expose(), &octets);
            }
        }

        #[test]
        fn changed_messages_never_panic(message in any_message(), edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
            let mut octets = message.encode().expose().clone();
            for (place, value) in edits {
                let place = place.index(octets.len());
                octets[place] = value;
            }
            let _ = Message::decode(&octets);
        }

        #[test]
        fn every_cut_is_an_error(message in any_message(), cut in any::<prop::sample::Index>()) {
            let octets = message.encode();
            let cut = cut.index(octets.expose().len());
            prop_assert!(Message::decode(&octets.expose()[..cut]).is_err());
        }
    }
}
