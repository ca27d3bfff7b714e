//! Strict files in, valid values out.
//!
//! A role's file is read into a private raw struct (`deny_unknown_fields`), then validated into what
//! the program sees. Every error names the file, the line, the field, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use cloakway_crypto::Secret;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// A configuration that a role can be started with.
pub trait Config: Sized {
    /// The file's own shape.
    type Raw: DeserializeOwned;

    /// Turns the file's values into valid ones.
    ///
    /// # Errors
    /// [`Invalid`], which names the field by its path in the file.
    fn validate(raw: Self::Raw) -> Result<Self, Invalid>;
}

/// A value that the file's grammar allows and the role does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Where in the file, such as `peers[0].hold-time-s`.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Invalid {
    /// `field` is the path in the file, `reason` says what is wrong and what would be right.
    pub fn at(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

impl std::error::Error for Invalid {}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot read the configuration: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("{path}:{line}: {field}{reason}")]
    Syntax {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The field and a colon, where there is one.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A value that the role refuses.
    #[error("{path}:{line}: {invalid}")]
    Invalid {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The field and what is wrong.
        invalid: Invalid,
    },
}

/// Reads and validates the file at `path`.
///
/// # Errors
/// [`ConfigError`].
pub fn load<C: Config>(path: &Path) -> Result<C, ConfigError> {
    parse(&path.display().to_string(), &read(path)?)
}

/// Reads the file at `path`, for [`parse`].
///
/// # Errors
/// [`ConfigError::Read`].
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.display().to_string(), source })
}

/// Validates `text`; `name` stands for the file in errors.
///
/// # Errors
/// [`ConfigError`].
pub fn parse<C: Config>(name: &str, text: &str) -> Result<C, ConfigError> {
    let raw: C::Raw = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let field = field_at(text, at).map(|field| format!("{field}: ")).unwrap_or_default();
        ConfigError::Syntax {
            path: name.to_owned(),
            line: line_of(text, at),
            field,
            reason: error.message().to_owned(),
        }
    })?;
    C::validate(raw).map_err(|invalid| ConfigError::Invalid {
        path: name.to_owned(),
        line: line_of(text, offset_of(text, &invalid.field).unwrap_or(0)),
        invalid,
    })
}

/// Reads a secret from a file of its own; white space around it is not part of it.
///
/// # Errors
/// When the file cannot be read or is empty; the error names the file and shows nothing of it.
pub fn read_secret(path: &Path) -> Result<Secret<String>, String> {
    let text = Secret::new(std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?);
    let trimmed = text.expose().trim();
    if trimmed.is_empty() {
        return Err(format!("{}: the file is empty: put the secret there on one line", path.display()));
    }
    Ok(Secret::from(trimmed))
}

/// The folder `/run/cloakway`, where admin sockets are unless the file says otherwise.
#[must_use]
pub fn default_socket(role: &str) -> PathBuf {
    Path::new("/run/cloakway").join(format!("{role}.sock"))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The byte offset of `field` (as `table.key`, `list[2].key`), or of the nearest table around it that exists.
fn offset_of(text: &str, field: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table = Some(document.get_ref());
    for part in field.split('.') {
        let (key, indices) = part.split_once('[').map_or((part, ""), |(key, rest)| (key, rest));
        let Some((name, mut value)) = table?.iter().find(|(name, _)| name.get_ref().as_ref() == key) else {
            return found;
        };
        found = Some(name.span().start);
        for index in indices.split('[').filter_map(|index| index.trim_end_matches(']').parse::<usize>().ok()) {
            match value.get_ref() {
                DeValue::Array(items) => match items.get(index) {
                    Some(item) => value = item,
                    None => return found,
                },
                _ => return found,
            }
            found = Some(value.span().start);
        }
        table = match value.get_ref() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        };
    }
    found
}

/// The path of the innermost field whose key or value lies at `offset`.
fn field_at(text: &str, offset: usize) -> Option<String> {
    fn within(table: &DeTable<'_>, offset: usize, path: &str) -> Option<String> {
        for (key, value) in table {
            let here = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            if let Some(inner) = value_at(value, offset, &here) {
                return Some(inner);
            }
            if key.span().contains(&offset) {
                return Some(here);
            }
        }
        None
    }
    fn value_at(value: &toml::Spanned<DeValue<'_>>, offset: usize, path: &str) -> Option<String> {
        let inner = match value.get_ref() {
            DeValue::Table(table) => within(table, offset, path),
            DeValue::Array(items) => {
                items.iter().enumerate().find_map(|(index, item)| value_at(item, offset, &format!("{path}[{index}]")))
            }
            _ => None,
        };
        inner.or_else(|| value.span().contains(&offset).then(|| path.to_owned()))
    }
    let document = DeTable::parse(text).ok()?;
    within(document.get_ref(), offset, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug)]
    struct Demo;
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct RawDemo {
        peers: Vec<RawPeer>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct RawPeer {
        hold_time_s: u16,
    }
    impl Config for Demo {
        type Raw = RawDemo;
        fn validate(raw: RawDemo) -> Result<Self, Invalid> {
            for (index, peer) in raw.peers.iter().enumerate() {
                if peer.hold_time_s == 2 {
                    return Err(Invalid::at(
                        format!("peers[{index}].hold-time-s"),
                        "2 s is not allowed: 0 or at least 3",
                    ));
                }
            }
            Ok(Self)
        }
    }

    fn error(text: &str) -> String {
        parse::<Demo>("demo.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn an_invalid_value_names_file_line_field_and_what_would_be_right() {
        let text = "[[peers]]\nhold-time-s = 3\n\n[[peers]]\n# comment\nhold-time-s = 2\n";
        assert_eq!(error(text), "demo.toml:6: peers[1].hold-time-s: 2 s is not allowed: 0 or at least 3");
    }

    #[test]
    fn an_unknown_key_a_wrong_type_and_broken_toml_name_their_line() {
        let unknown = error("[[peers]]\nhold-time-s = 3\nhold-tme = 4\n");
        assert!(unknown.starts_with("demo.toml:3: peers[0].hold-tme: unknown field"), "{unknown}");
        assert!(unknown.contains("hold-time-s"), "{unknown}");
        let kind = error("[[peers]]\nhold-time-s = \"x\"\n");
        assert!(kind.starts_with("demo.toml:2: peers[0].hold-time-s: invalid type"), "{kind}");
        let missing = error("[[peers]]\n");
        assert!(missing.starts_with("demo.toml:1: peers[0]: missing field"), "{missing}");
        let broken = error("peers = [\n=\n");
        assert!(broken.starts_with("demo.toml:2: "), "{broken}");
    }

    #[test]
    fn an_empty_secret_file_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, " \n").unwrap();
        assert!(read_secret(&path).unwrap_err().contains("empty"));
        std::fs::write(&path, "s3cret\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().expose(), "s3cret");
    }
}
