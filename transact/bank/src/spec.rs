//! The fields of the profile, as data: the codec, the tests and a reader see the same table.

/// How a field says how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Always [`Field::max`] characters.
    Fixed,
    /// Two digits of length, then at most [`Field::max`] characters.
    LlVar,
    /// Three digits of length, then at most [`Field::max`] characters.
    LllVar,
}

/// Which characters a field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Digits.
    N,
    /// Letters, digits and the space that pads them.
    An,
    /// Printable ASCII.
    Ans,
    /// Octets as pairs of capital hexadecimal digits.
    B,
}

impl Kind {
    /// Whether the field may hold `character`.
    #[must_use]
    pub const fn allows(self, character: u8) -> bool {
        match self {
            Self::N => character.is_ascii_digit(),
            Self::An => character.is_ascii_alphanumeric() || character == b' ',
            Self::Ans => matches!(character, b' '..=b'~'),
            Self::B => matches!(character, b'0'..=b'9' | b'A'..=b'F'),
        }
    }

    /// The allowed characters in words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::N => "digits",
            Self::An => "letters, digits and spaces",
            Self::Ans => "printable ASCII",
            Self::B => "capital hexadecimal digits",
        }
    }
}

/// A data element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its number, 2 to 128.
    pub number: u8,
    /// Its name in ISO 8583:1987.
    pub name: &'static str,
    /// How its length is told.
    pub format: Format,
    /// What it may hold.
    pub kind: Kind,
    /// The most characters; of a fixed field, the number of characters.
    pub max: usize,
    /// Cardholder data: wiped after use, never printed.
    pub secret: bool,
}

const fn field(number: u8, name: &'static str, format: Format, kind: Kind, max: usize) -> Field {
    Field { number, name, format, kind, max, secret: false }
}

const fn secret(field: Field) -> Field {
    Field { secret: true, ..field }
}

/// Every field of the profile, in order.
pub const FIELDS: &[Field] = &[
    secret(field(2, "primary account number", Format::LlVar, Kind::N, 19)),
    field(3, "processing code", Format::Fixed, Kind::N, 6),
    field(4, "amount, transaction", Format::Fixed, Kind::N, 12),
    field(7, "transmission date and time", Format::Fixed, Kind::N, 10),
    field(11, "system trace audit number", Format::Fixed, Kind::N, 6),
    field(12, "time, local transaction", Format::Fixed, Kind::N, 6),
    field(13, "date, local transaction", Format::Fixed, Kind::N, 4),
    secret(field(14, "date, expiration", Format::Fixed, Kind::N, 4)),
    field(18, "merchant type", Format::Fixed, Kind::N, 4),
    field(22, "point of service entry mode", Format::Fixed, Kind::N, 3),
    field(25, "point of service condition code", Format::Fixed, Kind::N, 2),
    field(32, "acquiring institution identification code", Format::LlVar, Kind::N, 11),
    field(37, "retrieval reference number", Format::Fixed, Kind::An, 12),
    field(38, "authorisation identification response", Format::Fixed, Kind::An, 6),
    field(39, "response code", Format::Fixed, Kind::An, 2),
    field(41, "card acceptor terminal identification", Format::Fixed, Kind::Ans, 8),
    field(42, "card acceptor identification code", Format::Fixed, Kind::Ans, 15),
    field(49, "currency code, transaction", Format::Fixed, Kind::N, 3),
    field(54, "additional amounts", Format::LllVar, Kind::An, 120),
    field(64, "message authentication code", Format::Fixed, Kind::B, 16),
    field(70, "network management information code", Format::Fixed, Kind::N, 3),
    field(90, "original data elements", Format::Fixed, Kind::N, 42),
];

/// The field with this number, if the profile has it.
#[must_use]
pub fn field_of(number: u8) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_lengths_can_be_written() {
        assert!(FIELDS.windows(2).all(|pair| pair[0].number < pair[1].number));
        for field in FIELDS {
            assert!((2..=128).contains(&field.number) && field.number != 65, "{field:?}");
            let most = match field.format {
                Format::Fixed => usize::MAX,
                Format::LlVar => 99,
                Format::LllVar => 999,
            };
            assert!(field.max >= 1 && field.max <= most, "{field:?}");
        }
    }
}
