//! The words of a declaration.

use crate::octets;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name, a number, an address.
    Word(String),
    /// What stood in quotation marks.
    Text(Vec<u8>),
    /// `{`, `}`, `;` and what else stands for itself.
    Sign(u8),
}

impl Token {
    /// Octets, which are written as a text or as hexadecimal digits.
    pub(super) fn octets(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(octets) => Some(octets.clone()),
            Self::Word(word) => octets::from_colons(word),
            Self::Sign(_) => None,
        }
    }

    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Text(_) | Self::Sign(_) => None,
        }
    }
}

/// Reads words one by one. `None` when a text has no end.
pub(super) fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let [first, after @ ..] = rest {
        match first {
            b'#' => {
                let end = after.iter().position(|octet| *octet == b'\n').unwrap_or(after.len());
                rest = after.get(end..).unwrap_or_default();
            }
            b'"' => {
                let (octets, behind) = quoted(after)?;
                tokens.push(Token::Text(octets));
                rest = behind;
            }
            first if is_word(*first) => {
                let end = rest.iter().position(|octet| !is_word(*octet)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(end);
                tokens.push(Token::Word(String::from_utf8_lossy(word).into_owned()));
                rest = behind;
            }
            first if first.is_ascii_whitespace() => rest = after,
            sign => {
                tokens.push(Token::Sign(*sign));
                rest = after;
            }
        }
    }
    Some(tokens)
}

const fn is_word(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b':' | b'-' | b'/' | b'_' | b'%')
}

/// A text behind its first quotation mark, and what follows the last one. Octets that cannot be printed are a
/// backslash and three octal digits.
fn quoted(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut octets = Vec::new();
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return Some((octets, behind)),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..] => {
                octets.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                behind
            }
            [b'\\', escaped, behind @ ..] => {
                octets.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    other => *other,
                });
                behind
            }
            [octet, behind @ ..] => {
                octets.push(*octet);
                behind
            }
            [] => return None,
        };
    }
}
