//! A message: a type and the fields that it has. Octets are made of it by [`Profile`](crate::Profile).

use std::collections::BTreeMap;
use std::fmt;

use cloakway_crypto::Secret;

use crate::spec::{Field, Format, field_of};

/// The message types that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    /// 0100: may this card be charged?
    AuthorisationRequest,
    /// 0110: the answer.
    AuthorisationResponse,
    /// 0200: charge this card, or give money back to it.
    FinancialRequest,
    /// 0210: the answer.
    FinancialResponse,
    /// 0400: take back what a request led to.
    ReversalRequest,
    /// 0401: the same again, no answer having come.
    ReversalRepeat,
    /// 0410: the answer.
    ReversalResponse,
    /// 0420: what a request led to has been taken back.
    ReversalAdvice,
    /// 0421: the same again, no answer having come.
    ReversalAdviceRepeat,
    /// 0430: the answer.
    ReversalAdviceResponse,
    /// 0800: sign-on or echo.
    NetworkRequest,
    /// 0810: the answer.
    NetworkResponse,
}

impl MessageType {
    /// Every type.
    pub const ALL: [Self; 12] = [
        Self::AuthorisationRequest,
        Self::AuthorisationResponse,
        Self::FinancialRequest,
        Self::FinancialResponse,
        Self::ReversalRequest,
        Self::ReversalRepeat,
        Self::ReversalResponse,
        Self::ReversalAdvice,
        Self::ReversalAdviceRepeat,
        Self::ReversalAdviceResponse,
        Self::NetworkRequest,
        Self::NetworkResponse,
    ];

    /// The four digits.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AuthorisationRequest => "0100",
            Self::AuthorisationResponse => "0110",
            Self::FinancialRequest => "0200",
            Self::FinancialResponse => "0210",
            Self::ReversalRequest => "0400",
            Self::ReversalRepeat => "0401",
            Self::ReversalResponse => "0410",
            Self::ReversalAdvice => "0420",
            Self::ReversalAdviceRepeat => "0421",
            Self::ReversalAdviceResponse => "0430",
            Self::NetworkRequest => "0800",
            Self::NetworkResponse => "0810",
        }
    }

    /// The type with these digits.
    #[must_use]
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The type of the answer; `None` for answers.
    #[must_use]
    pub const fn answer(self) -> Option<Self> {
        match self {
            Self::AuthorisationRequest => Some(Self::AuthorisationResponse),
            Self::FinancialRequest => Some(Self::FinancialResponse),
            Self::ReversalRequest | Self::ReversalRepeat => Some(Self::ReversalResponse),
            Self::ReversalAdvice | Self::ReversalAdviceRepeat => Some(Self::ReversalAdviceResponse),
            Self::NetworkRequest => Some(Self::NetworkResponse),
            Self::AuthorisationResponse
            | Self::FinancialResponse
            | Self::ReversalResponse
            | Self::ReversalAdviceResponse
            | Self::NetworkResponse => None,
        }
    }

    /// Whether it is about the connection and not about money: such messages carry no code of authentication.
    #[must_use]
    pub const fn is_network_management(self) -> bool {
        matches!(self, Self::NetworkRequest | Self::NetworkResponse)
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
    /// What stands in the first place is no type that is spoken here.
    #[error(
        "message type at octet 0 is not one of 0100, 0110, 0200, 0210, 0400, 0401, 0410, 0420, 0421, 0430, 0800, 0810"
    )]
    Type,
    /// A bitmap with something else than capital hexadecimal digits.
    #[error("{part} at octet {at} is not made of capital hexadecimal digits")]
    Bitmap {
        /// Which bitmap.
        part: Part,
        /// The first wrong octet.
        at: usize,
    },
    /// A bitmap announces a third one (field 65), which ISO 8583:1987 does not fill.
    #[error("field {field}, announced at octet {at}, is not in ISO 8583:1987")]
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
    /// No message authentication code, and one is needed.
    #[error("field {field} (message authentication code) is missing")]
    NoCode {
        /// The field that it would be in.
        field: u8,
    },
    /// A message authentication code, and not the right one.
    #[error("field {field} (message authentication code) does not fit the message")]
    WrongCode {
        /// The field that it is in.
        field: u8,
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
    /// There is no such field.
    #[error("field {0} is not in ISO 8583:1987")]
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
        if let Some(at) = value.bytes().enumerate().position(|(at, character)| !field.kind.allows(at, character)) {
            return Err(FieldError::Character { field, at });
        }
        self.fields.insert(number, Secret::new(value.to_owned()));
        Ok(())
    }

    /// A field as it was read: it fits.
    pub(crate) fn take(&mut self, number: u8, value: Secret<String>) {
        self.fields.insert(number, value);
    }

    /// Removes a field.
    pub fn remove(&mut self, number: u8) {
        self.fields.remove(&number);
    }

    /// Copies the fields that `from` has among `numbers`.
    pub fn copy(&mut self, from: &Self, numbers: &[u8]) {
        for number in numbers {
            if let Some(value) = from.fields.get(number) {
                self.fields.insert(*number, value.clone());
            }
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
