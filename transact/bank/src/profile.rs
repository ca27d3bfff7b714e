//! The codec: a [`Message`] to octets and back, driven by [`spec::FIELDS`](crate::spec::FIELDS) and by what an
//! institution makes of the standard's silence about how characters become octets.

use cloakway_crypto::Secret;
use cloakway_crypto::bank::{MAC_LENGTH, MacKey};

use crate::message::{DecodeError, Message, MessageType, Part};
use crate::spec::{FIELDS, Field, Format, Kind, field_of};

/// How digits are written: in numeric fields, in lengths and in the message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    /// A character each, in ASCII.
    Text,
    /// Two in an octet; an odd number has a zero in front of it. Lengths count digits.
    Packed,
}

/// How octets are written: in bitmaps and in binary fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Octets {
    /// As two capital hexadecimal digits.
    Hex,
    /// As they are.
    Raw,
}

/// How fields become octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    digits: Digits,
    octets: Octets,
}

impl Default for Profile {
    fn default() -> Self {
        Self::ASCII
    }
}

impl Profile {
    /// Everything readable: ASCII, with bitmaps and binary fields as hexadecimal digits.
    pub const ASCII: Self = Self { digits: Digits::Text, octets: Octets::Hex };
    /// ASCII, with bitmaps and binary fields as they are.
    pub const ASCII_RAW: Self = Self { digits: Digits::Text, octets: Octets::Raw };
    /// Digits packed in pairs (BCD), text in ASCII, bitmaps and binary fields as they are.
    pub const BINARY: Self = Self { digits: Digits::Packed, octets: Octets::Raw };

    /// Every profile under the name that configurations use.
    pub const NAMED: [(&'static str, Self); 3] =
        [("ascii", Self::ASCII), ("ascii-raw", Self::ASCII_RAW), ("binary", Self::BINARY)];

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, profile)| profile)
    }

    /// The octets of a message, without what frames it.
    #[must_use]
    pub fn encode(self, message: &Message) -> Secret<Vec<u8>> {
        Secret::new(self.octets_of(message))
    }

    fn octets_of(self, message: &Message) -> Vec<u8> {
        // Room for all of it from the start: a vector that grows leaves copies of the card number behind.
        let values = FIELDS.iter().filter_map(|field| message.get(field.number));
        let room: usize = values.map(|value| value.len().saturating_add(3)).sum();
        let mut octets = Vec::with_capacity(room.saturating_add(36));
        self.push_digits(&mut octets, message.message_type().code().as_bytes());
        let bits = |range: std::ops::RangeInclusive<u8>| {
            message.numbers().filter(|n| range.contains(n)).fold(0_u64, |bits, n| bits | bit(n))
        };
        let (primary, secondary) = (bits(1..=64), bits(65..=128));
        let extended = if secondary == 0 { 0 } else { bit(1) };
        self.push_bitmap(&mut octets, primary | extended);
        if secondary != 0 {
            self.push_bitmap(&mut octets, secondary);
        }
        for field in FIELDS {
            let Some(value) = message.get(field.number) else { continue };
            match field.format {
                Format::Fixed => {}
                Format::LlVar => self.push_digits(&mut octets, format!("{:02}", value.len()).as_bytes()),
                Format::LllVar => self.push_digits(&mut octets, format!("{:03}", value.len()).as_bytes()),
            }
            self.push_value(&mut octets, field.kind, value.as_bytes());
        }
        octets
    }

    fn push_value(self, octets: &mut Vec<u8>, kind: Kind, value: &[u8]) {
        match (kind, value) {
            (Kind::N | Kind::Z, _) => self.push_digits(octets, value),
            (Kind::Xn, [sign, digits @ ..]) => {
                octets.push(*sign);
                self.push_digits(octets, digits);
            }
            (Kind::B, _) if self.octets == Octets::Raw => {
                octets.extend(
                    value.chunks(2).map(|pair| pair.iter().fold(0, |octet, digit| (octet << 4) | nibble(*digit))),
                );
            }
            (Kind::An | Kind::Ans | Kind::B | Kind::Xn, _) => octets.extend_from_slice(value),
        }
    }

    fn push_digits(self, octets: &mut Vec<u8>, digits: &[u8]) {
        match self.digits {
            Digits::Text => octets.extend_from_slice(digits),
            Digits::Packed => {
                let (odd, pairs) = digits.split_at(digits.len() % 2);
                octets.extend(odd.iter().map(|digit| nibble(*digit)));
                octets.extend(
                    pairs.chunks(2).map(|pair| pair.iter().fold(0, |octet, digit| (octet << 4) | nibble(*digit))),
                );
            }
        }
    }

    fn push_bitmap(self, octets: &mut Vec<u8>, bits: u64) {
        match self.octets {
            Octets::Hex => octets.extend_from_slice(format!("{bits:016X}").as_bytes()),
            Octets::Raw => octets.extend_from_slice(&bits.to_be_bytes()),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] names the field and the octet.
    pub fn decode(self, octets: &[u8]) -> Result<Message, DecodeError> {
        let mut reader = Reader { profile: self, octets, at: 0 };
        let code = reader.digits(4, Part::Type, || DecodeError::Type)?;
        let message_type = MessageType::of(code.expose()).ok_or(DecodeError::Type)?;
        let primary = reader.bitmap(Part::PrimaryBitmap)?;
        let secondary = if primary & bit(1) == 0 { 0 } else { reader.bitmap(Part::SecondaryBitmap)? };
        let mut message = Message::new(message_type);
        let announced = (2..=128_u8).filter(|n| (if *n <= 64 { primary } else { secondary }) & bit(*n) != 0);
        for number in announced {
            let field = field_of(number).ok_or(DecodeError::UnknownField { field: number, at: reader.at })?;
            message.take(number, reader.field(field)?);
        }
        match octets.len().saturating_sub(reader.at) {
            0 => Ok(message),
            left => Err(DecodeError::Trailing { at: reader.at, left }),
        }
    }
}

impl Message {
    /// The octets of the message in [`Profile::ASCII`].
    #[must_use]
    pub fn encode(&self) -> Secret<Vec<u8>> {
        Profile::ASCII.encode(self)
    }

    /// Reads a message in [`Profile::ASCII`].
    ///
    /// # Errors
    /// [`DecodeError`] names the field and the octet.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        Profile::ASCII.decode(octets)
    }
}

/// What both ends have agreed on: the profile, and the key under which messages are authenticated.
///
/// The code goes into field 64, or into field 128 where the message has fields above 64, and is over all octets before it,
/// from the message type on. Messages about the connection (0800, 0810) need none.
#[derive(Debug, Clone, Default)]
pub struct Codec {
    /// How fields become octets.
    pub profile: Profile,
    /// The key, where codes are used.
    pub mac: Option<MacKey>,
}

impl Codec {
    /// The octets of a message, authenticated where that is agreed on.
    #[must_use]
    pub fn encode(&self, message: &Message) -> Secret<Vec<u8>> {
        let Some(key) = self.mac.as_ref().filter(|_| !message.message_type().is_network_management()) else {
            return self.profile.encode(message);
        };
        let mut message = message.clone();
        message.remove(64);
        message.remove(128);
        let field = code_field(&message);
        message.take(field, Secret::from("0000000000000000"));
        let mut octets = self.profile.octets_of(&message);
        let code_at = octets.len().saturating_sub(self.code_length());
        let code = octets.get(..code_at).and_then(|covered| key.code(covered)).unwrap_or_default();
        let written = match self.profile.octets {
            Octets::Raw => code.to_vec(),
            Octets::Hex => code.iter().flat_map(|octet| format!("{octet:02X}").into_bytes()).collect(),
        };
        octets.iter_mut().skip(code_at).zip(written).for_each(|(to, from)| *to = from);
        Secret::new(octets)
    }

    /// Reads a message, and checks its code where that is agreed on.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(&self, octets: &[u8]) -> Result<Message, DecodeError> {
        let message = self.profile.decode(octets)?;
        let Some(key) = &self.mac else { return Ok(message) };
        let field = code_field(&message);
        let Some(code) = message.get(field) else {
            return match message.message_type().is_network_management() {
                true => Ok(message),
                false => Err(DecodeError::NoCode { field }),
            };
        };
        let code: Vec<u8> = code
            .as_bytes()
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |octet, digit| (octet << 4) | nibble(*digit)))
            .collect();
        // The field is the last one, so that what it covers is all before it.
        let covered = octets.get(..octets.len().saturating_sub(self.code_length())).unwrap_or_default();
        if key.matches(covered, &code) { Ok(message) } else { Err(DecodeError::WrongCode { field }) }
    }

    fn code_length(&self) -> usize {
        match self.profile.octets {
            Octets::Raw => MAC_LENGTH,
            Octets::Hex => 2 * MAC_LENGTH,
        }
    }
}

/// Where the code of a message is.
fn code_field(message: &Message) -> u8 {
    if message.numbers().any(|number| number > 64) { 128 } else { 64 }
}

/// The bit of a field within its bitmap: field 1 and field 65 are the highest.
const fn bit(number: u8) -> u64 {
    1 << (63 - (number.wrapping_sub(1) % 64))
}

/// A digit, hexadecimal or not, or the `=` of a second track, in four bits.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'A'..=b'F' => digit - b'A' + 10,
        b'=' => 13,
        _ => 0,
    }
}

struct Reader<'a> {
    profile: Profile,
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
        match self.profile.octets {
            Octets::Raw => {
                let octets = self.take(8, part)?;
                Ok(octets.iter().fold(0, |bits, octet| (bits << 8) | u64::from(*octet)))
            }
            Octets::Hex => {
                let digits = self.take(16, part)?;
                match digits.iter().position(|digit| !Kind::B.allows(0, *digit)) {
                    Some(place) => Err(DecodeError::Bitmap { part, at: begin.saturating_add(place) }),
                    None => Ok(digits.iter().fold(0, |bits, digit| (bits << 4) | u64::from(nibble(*digit)))),
                }
            }
        }
    }

    /// `count` digits as text; `bad` where they were packed and are none.
    fn digits(
        &mut self,
        count: usize,
        part: Part,
        bad: impl Fn() -> DecodeError,
    ) -> Result<Secret<String>, DecodeError> {
        match self.profile.digits {
            Digits::Text => {
                let text = self.take(count, part)?;
                std::str::from_utf8(text).map(Secret::from).map_err(|_| bad())
            }
            Digits::Packed => {
                let octets = self.take(count.div_ceil(2), part)?;
                let nibbles = octets.iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
                let padding = count % 2;
                if nibbles.clone().take(padding).any(|nibble| nibble != 0) {
                    return Err(bad());
                }
                let mut text = String::with_capacity(count);
                for nibble in nibbles.skip(padding) {
                    text.push(match nibble {
                        0..=9 => char::from(b'0' + nibble),
                        13 => '=',
                        _ => return Err(bad()),
                    });
                }
                Ok(Secret::new(text))
            }
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
        let bad = |place: usize| DecodeError::Character {
            part,
            at: begin.saturating_add(place),
            allowed: field.kind.describe(),
        };
        let value = match field.kind {
            Kind::N | Kind::Z => self.digits(length, part, || bad(0))?,
            Kind::Xn if self.profile.digits == Digits::Packed => {
                let sign = self.take(1, part)?;
                let digits = self.digits(length.saturating_sub(1), part, || bad(1))?;
                let sign = std::str::from_utf8(sign).map_err(|_| bad(0))?;
                Secret::new(format!("{sign}{}", digits.expose()))
            }
            Kind::B if self.profile.octets == Octets::Raw => {
                let octets = self.take(length / 2, part)?;
                let mut text = String::with_capacity(length);
                let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0').to_ascii_uppercase();
                octets.iter().for_each(|octet| text.extend([digit(octet >> 4), digit(octet & 0xf)]));
                Secret::new(text)
            }
            Kind::An | Kind::Ans | Kind::B | Kind::Xn => {
                let text = self.take(length, part)?;
                Secret::from(std::str::from_utf8(text).map_err(|error| bad(error.valid_up_to()))?)
            }
        };
        let wrong = value.expose().bytes().enumerate().position(|(at, character)| !field.kind.allows(at, character));
        match (wrong, self.profile.digits) {
            (None, _) => Ok(value),
            (Some(place), Digits::Text) => Err(bad(place)),
            (Some(_), Digits::Packed) => Err(bad(0)),
        }
    }

    fn length(&mut self, digits: usize, field: &'static Field) -> Result<usize, DecodeError> {
        let at = self.at;
        let part = Part::Field(field);
        let bad = || DecodeError::Length { part, at, max: field.max };
        let text = self.digits(digits, part, bad)?;
        if !text.expose().bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(bad());
        }
        match text.expose().parse() {
            Ok(length) if (1..=field.max).contains(&length) => Ok(length),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests;
