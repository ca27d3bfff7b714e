//! The data elements of ISO 8583:1987, as data: the codec, the tests and a reader see the same table.
//!
//! Where institutions are known to be wider than the standard, so is the table: fields 44 to 48 may hold every printable
//! character.

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
    /// `C` or `D`, for credit or debit, and digits behind it.
    Xn,
    /// What a magnetic stripe holds on its second track: digits and `=`.
    Z,
}

impl Kind {
    /// Whether the field may hold `character` at the place `at`, counted from 0.
    #[must_use]
    pub const fn allows(self, at: usize, character: u8) -> bool {
        match self {
            Self::Xn if at == 0 => matches!(character, b'C' | b'D'),
            Self::N | Self::Xn => character.is_ascii_digit(),
            Self::Z => matches!(character, b'0'..=b'9' | b'='),
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
            Self::Xn => "C or D and digits",
            Self::Z => "digits and =",
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

/// Every data element, in order. Field 65, which announces a third bitmap, is not one.
pub const FIELDS: &[Field] = &[
    secret(field(2, "primary account number", Format::LlVar, Kind::N, 19)),
    field(3, "processing code", Format::Fixed, Kind::N, 6),
    field(4, "amount, transaction", Format::Fixed, Kind::N, 12),
    field(5, "amount, settlement", Format::Fixed, Kind::N, 12),
    field(6, "amount, cardholder billing", Format::Fixed, Kind::N, 12),
    field(7, "transmission date and time", Format::Fixed, Kind::N, 10),
    field(8, "amount, cardholder billing fee", Format::Fixed, Kind::N, 8),
    field(9, "conversion rate, settlement", Format::Fixed, Kind::N, 8),
    field(10, "conversion rate, cardholder billing", Format::Fixed, Kind::N, 8),
    field(11, "system trace audit number", Format::Fixed, Kind::N, 6),
    field(12, "time, local transaction", Format::Fixed, Kind::N, 6),
    field(13, "date, local transaction", Format::Fixed, Kind::N, 4),
    secret(field(14, "date, expiration", Format::Fixed, Kind::N, 4)),
    field(15, "date, settlement", Format::Fixed, Kind::N, 4),
    field(16, "date, conversion", Format::Fixed, Kind::N, 4),
    field(17, "date, capture", Format::Fixed, Kind::N, 4),
    field(18, "merchant type", Format::Fixed, Kind::N, 4),
    field(19, "acquiring institution country code", Format::Fixed, Kind::N, 3),
    field(20, "primary account number extended, country code", Format::Fixed, Kind::N, 3),
    field(21, "forwarding institution country code", Format::Fixed, Kind::N, 3),
    field(22, "point of service entry mode", Format::Fixed, Kind::N, 3),
    field(23, "card sequence number", Format::Fixed, Kind::N, 3),
    field(24, "network international identifier", Format::Fixed, Kind::N, 3),
    field(25, "point of service condition code", Format::Fixed, Kind::N, 2),
    field(26, "point of service PIN capture code", Format::Fixed, Kind::N, 2),
    field(27, "authorisation identification response length", Format::Fixed, Kind::N, 1),
    field(28, "amount, transaction fee", Format::Fixed, Kind::Xn, 9),
    field(29, "amount, settlement fee", Format::Fixed, Kind::Xn, 9),
    field(30, "amount, transaction processing fee", Format::Fixed, Kind::Xn, 9),
    field(31, "amount, settlement processing fee", Format::Fixed, Kind::Xn, 9),
    field(32, "acquiring institution identification code", Format::LlVar, Kind::N, 11),
    field(33, "forwarding institution identification code", Format::LlVar, Kind::N, 11),
    secret(field(34, "primary account number, extended", Format::LlVar, Kind::Ans, 28)),
    secret(field(35, "track 2 data", Format::LlVar, Kind::Z, 37)),
    secret(field(36, "track 3 data", Format::LllVar, Kind::Ans, 104)),
    field(37, "retrieval reference number", Format::Fixed, Kind::An, 12),
    field(38, "authorisation identification response", Format::Fixed, Kind::An, 6),
    field(39, "response code", Format::Fixed, Kind::An, 2),
    field(40, "service restriction code", Format::Fixed, Kind::An, 3),
    field(41, "card acceptor terminal identification", Format::Fixed, Kind::Ans, 8),
    field(42, "card acceptor identification code", Format::Fixed, Kind::Ans, 15),
    field(43, "card acceptor name and location", Format::Fixed, Kind::Ans, 40),
    field(44, "additional response data", Format::LlVar, Kind::Ans, 25),
    secret(field(45, "track 1 data", Format::LlVar, Kind::Ans, 76)),
    field(46, "additional data, ISO", Format::LllVar, Kind::Ans, 999),
    field(47, "additional data, national", Format::LllVar, Kind::Ans, 999),
    secret(field(48, "additional data, private", Format::LllVar, Kind::Ans, 999)),
    field(49, "currency code, transaction", Format::Fixed, Kind::N, 3),
    field(50, "currency code, settlement", Format::Fixed, Kind::N, 3),
    field(51, "currency code, cardholder billing", Format::Fixed, Kind::N, 3),
    secret(field(52, "personal identification number data", Format::Fixed, Kind::B, 16)),
    field(53, "security related control information", Format::Fixed, Kind::N, 16),
    field(54, "additional amounts", Format::LllVar, Kind::An, 120),
    secret(field(55, "reserved for ISO use", Format::LllVar, Kind::Ans, 999)),
    field(56, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(57, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(58, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(59, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(60, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    secret(field(61, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(62, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(63, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    field(64, "message authentication code", Format::Fixed, Kind::B, 16),
    field(66, "settlement code", Format::Fixed, Kind::N, 1),
    field(67, "extended payment code", Format::Fixed, Kind::N, 2),
    field(68, "receiving institution country code", Format::Fixed, Kind::N, 3),
    field(69, "settlement institution country code", Format::Fixed, Kind::N, 3),
    field(70, "network management information code", Format::Fixed, Kind::N, 3),
    field(71, "message number", Format::Fixed, Kind::N, 4),
    field(72, "message number, last", Format::Fixed, Kind::N, 4),
    field(73, "date, action", Format::Fixed, Kind::N, 6),
    field(74, "credits, number", Format::Fixed, Kind::N, 10),
    field(75, "credits, reversal number", Format::Fixed, Kind::N, 10),
    field(76, "debits, number", Format::Fixed, Kind::N, 10),
    field(77, "debits, reversal number", Format::Fixed, Kind::N, 10),
    field(78, "transfers, number", Format::Fixed, Kind::N, 10),
    field(79, "transfers, reversal number", Format::Fixed, Kind::N, 10),
    field(80, "inquiries, number", Format::Fixed, Kind::N, 10),
    field(81, "authorisations, number", Format::Fixed, Kind::N, 10),
    field(82, "credits, processing fee amount", Format::Fixed, Kind::N, 12),
    field(83, "credits, transaction fee amount", Format::Fixed, Kind::N, 12),
    field(84, "debits, processing fee amount", Format::Fixed, Kind::N, 12),
    field(85, "debits, transaction fee amount", Format::Fixed, Kind::N, 12),
    field(86, "credits, amount", Format::Fixed, Kind::N, 16),
    field(87, "credits, reversal amount", Format::Fixed, Kind::N, 16),
    field(88, "debits, amount", Format::Fixed, Kind::N, 16),
    field(89, "debits, reversal amount", Format::Fixed, Kind::N, 16),
    field(90, "original data elements", Format::Fixed, Kind::N, 42),
    field(91, "file update code", Format::Fixed, Kind::An, 1),
    field(92, "file security code", Format::Fixed, Kind::An, 2),
    field(93, "response indicator", Format::Fixed, Kind::An, 5),
    field(94, "service indicator", Format::Fixed, Kind::An, 7),
    field(95, "replacement amounts", Format::Fixed, Kind::An, 42),
    secret(field(96, "message security code", Format::Fixed, Kind::B, 16)),
    field(97, "amount, net settlement", Format::Fixed, Kind::Xn, 17),
    field(98, "payee", Format::Fixed, Kind::Ans, 25),
    field(99, "settlement institution identification code", Format::LlVar, Kind::N, 11),
    field(100, "receiving institution identification code", Format::LlVar, Kind::N, 11),
    field(101, "file name", Format::LlVar, Kind::Ans, 17),
    secret(field(102, "account identification 1", Format::LlVar, Kind::Ans, 28)),
    secret(field(103, "account identification 2", Format::LlVar, Kind::Ans, 28)),
    field(104, "transaction description", Format::LllVar, Kind::Ans, 100),
    field(105, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(106, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(107, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(108, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(109, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(110, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(111, "reserved for ISO use", Format::LllVar, Kind::Ans, 999),
    field(112, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(113, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(114, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(115, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(116, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(117, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(118, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    field(119, "reserved for national use", Format::LllVar, Kind::Ans, 999),
    secret(field(120, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(121, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(122, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(123, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(124, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(125, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(126, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    secret(field(127, "reserved for private use", Format::LllVar, Kind::Ans, 999)),
    field(128, "message authentication code", Format::Fixed, Kind::B, 16),
];

/// The field with this number, if there is one.
#[must_use]
pub fn field_of(number: u8) -> Option<&'static Field> {
    FIELDS.binary_search_by_key(&number, |field| field.number).ok().and_then(|at| FIELDS.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_in_order_and_its_lengths_can_be_written() {
        assert_eq!(FIELDS.len(), 126);
        assert!(FIELDS.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!((field_of(0), field_of(1), field_of(65), field_of(129)), (None, None, None, None));
        for field in FIELDS {
            assert!((2..=128).contains(&field.number) && field.number != 65, "{field:?}");
            let most = match field.format {
                Format::Fixed => usize::MAX,
                Format::LlVar => 99,
                Format::LllVar => 999,
            };
            assert!(field.max >= 1 && field.max <= most, "{field:?}");
            assert_eq!(field_of(field.number), Some(field));
        }
    }
}
