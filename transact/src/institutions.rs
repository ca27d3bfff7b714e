//! The financial institutions in the configuration: `[bank]` for one, `[[institutions]]` for several.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cloakway_crypto::{Secret, encode};
use cloakway_runtime::config::{self, Invalid};
use serde::Deserialize;
use transact_bank::{
    Acceptor, CardRange, CardRanges, Codec, Framing, LengthKind, LinkConfig, MacKey, Movement, PinKey, Profile,
    ReversalKind,
};
use transact_core::Institutions;

/// The name of the institution in `[bank]`.
const ONLY: &str = "bank";
/// Connections to one institution at most.
const MOST_LINES: usize = 64;
/// Octets of a header at most.
const LONGEST_HEADER: usize = 64;

/// An institution and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Institution {
    /// Its name here.
    pub id: String,
    /// A connection is kept to each of these.
    pub addresses: Vec<SocketAddr>,
    /// How it is spoken to.
    pub link: LinkConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawInstitution {
    id: Option<String>,
    #[serde(default)]
    cards: Vec<String>,
    address: Option<SocketAddr>,
    #[serde(default)]
    addresses: Vec<SocketAddr>,
    terminal: String,
    acceptor: String,
    acquirer: String,
    merchant_type: String,
    #[serde(default = "bank_timeout")]
    answer_timeout_ms: u64,
    #[serde(default)]
    profile: Option<String>,
    #[serde(default)]
    length: RawLength,
    #[serde(default)]
    header: String,
    #[serde(default)]
    purchases: RawPurchases,
    #[serde(default)]
    reversals: RawReversals,
    #[serde(default)]
    mac: RawMac,
    mac_key_file: Option<PathBuf>,
    pin_key_file: Option<PathBuf>,
}

fn bank_timeout() -> u64 {
    15_000
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawLength {
    #[default]
    Octets,
    Digits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawPurchases {
    #[default]
    Authorised,
    Financial,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawReversals {
    #[default]
    Request,
    Advice,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawMac {
    #[default]
    None,
    #[serde(rename = "x9.19")]
    Retail,
    AesCmac,
}

/// The institutions of a configuration, and which cards and movements they have.
///
/// # Errors
/// [`Invalid`] names the field.
pub(crate) fn validate(
    bank: Option<RawInstitution>,
    several: Vec<RawInstitution>,
) -> Result<(Vec<Institution>, Institutions), Invalid> {
    let rows: Vec<(String, RawInstitution)> = match (bank, several.is_empty()) {
        (Some(bank), true) => vec![("bank".to_owned(), bank)],
        (None, false) => {
            several.into_iter().enumerate().map(|(at, raw)| (format!("institutions[{at}]"), raw)).collect()
        }
        (Some(_), false) => {
            return Err(Invalid::at("bank", "there are [[institutions]] as well: put this one among them"));
        }
        (None, true) => {
            return Err(Invalid::at("institutions", "no financial institution: give [bank] or [[institutions]]"));
        }
    };
    let (mut institutions, mut ranges, mut movements) = (Vec::new(), CardRanges::default(), BTreeMap::new());
    for (path, raw) in rows {
        let id = match (&raw.id, path.as_str()) {
            (None, ONLY) => ONLY.to_owned(),
            (Some(id), _) if is_name(id) => id.clone(),
            (_, _) => {
                return Err(Invalid::at(
                    format!("{path}.id"),
                    "give a name of 1 to 32 letters, digits, hyphens and underscores",
                ));
            }
        };
        let cards = if raw.cards.is_empty() { vec!["*".to_owned()] } else { raw.cards.clone() };
        for (at, range) in cards.iter().enumerate() {
            let added = range.parse::<CardRange>().and_then(|range| ranges.add(range, &id));
            added.map_err(|error| Invalid::at(format!("{path}.cards[{at}]"), error))?;
        }
        let movement = match raw.purchases {
            RawPurchases::Authorised => Movement::Authorisation,
            RawPurchases::Financial => Movement::Purchase,
        };
        if movements.insert(id.clone(), movement).is_some() {
            return Err(Invalid::at(format!("{path}.id"), format!("{id} is there twice: names are unique")));
        }
        institutions.push(institution(&path, id, raw)?);
    }
    let with_pins = institutions.iter().filter(|institution| institution.link.pin_key.is_some());
    let pins: BTreeSet<String> = with_pins.map(|institution| institution.id.clone()).collect();
    Ok((institutions, Institutions { ranges, movements, pins }))
}

/// One institution that has all cards, and how purchases are asked for there.
///
/// # Errors
/// [`Invalid`] names the field below `path`.
pub(crate) fn one(path: &str, id: &str, raw: RawInstitution) -> Result<(Institution, Movement), Invalid> {
    if raw.id.is_some() || !raw.cards.is_empty() {
        return Err(Invalid::at(path, "there is one institution here, for all cards: leave out id and cards"));
    }
    let movement = match raw.purchases {
        RawPurchases::Authorised => Movement::Authorisation,
        RawPurchases::Financial => Movement::Purchase,
    };
    Ok((institution(path, id.to_owned(), raw)?, movement))
}

fn is_name(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn institution(path: &str, id: String, raw: RawInstitution) -> Result<Institution, Invalid> {
    let at = |field: &str| format!("{path}.{field}");
    let mut addresses = raw.addresses.clone();
    addresses.extend(raw.address);
    if !(1..=MOST_LINES).contains(&addresses.len()) {
        let reason =
            format!("{} addresses: 1 to {MOST_LINES} are needed, a connection is kept to each", addresses.len());
        return Err(Invalid::at(at("addresses"), reason));
    }
    let acceptor = Acceptor::new(&raw.terminal, &raw.acceptor, &raw.acquirer, &raw.merchant_type)
        .map_err(|error| Invalid::at(at(&error.name.replace(' ', "-")), error.source))?;
    let profile = match raw.profile.as_deref() {
        None => Profile::default(),
        Some(name) => Profile::named(name).ok_or_else(|| {
            let known = Profile::NAMED.map(|(name, _)| format!("{name:?}")).join(", ");
            Invalid::at(at("profile"), format!("{name:?} is not known: give one of {known}"))
        })?,
    };
    let header = encode::unhex(&raw.header).filter(|header| header.len() <= LONGEST_HEADER).ok_or_else(|| {
        let reason = format!("{:?} is no header: give up to {LONGEST_HEADER} octets in hexadecimal digits", raw.header);
        Invalid::at(at("header"), reason)
    })?;
    if raw.answer_timeout_ms == 0 {
        return Err(Invalid::at(at("answer-timeout-ms"), "0 is not allowed: give at least 1"));
    }
    let link = LinkConfig {
        codec: Codec { profile, mac: mac(path, &raw)? },
        pin_key: pin_key(path, &raw)?,
        framing: Framing {
            length: match raw.length {
                RawLength::Octets => LengthKind::Octets,
                RawLength::Digits => LengthKind::Digits,
            },
            header,
        },
        reversals: match raw.reversals {
            RawReversals::Request => ReversalKind::Request,
            RawReversals::Advice => ReversalKind::Advice,
        },
        lines: addresses.len(),
        answer_timeout: Duration::from_millis(raw.answer_timeout_ms),
        ..LinkConfig::new(acceptor)
    };
    Ok(Institution { id, addresses, link })
}

fn mac(path: &str, raw: &RawInstitution) -> Result<Option<MacKey>, Invalid> {
    let field = format!("{path}.mac-key-file");
    let make: fn(Secret<Vec<u8>>) -> Result<MacKey, _> = match (&raw.mac, &raw.mac_key_file) {
        (RawMac::None, None) => return Ok(None),
        (RawMac::None, Some(_)) => {
            return Err(Invalid::at(field, "there is a key and mac = \"none\": say which code it is for"));
        }
        (_, None) => return Err(Invalid::at(field, "no key: give the file that holds it in hexadecimal digits")),
        (RawMac::Retail, Some(_)) => MacKey::retail,
        (RawMac::AesCmac, Some(_)) => MacKey::aes_cmac,
    };
    let file = raw.mac_key_file.as_deref().unwrap_or(std::path::Path::new(""));
    make(key(&field, file)?).map(Some).map_err(|error| Invalid::at(field, error))
}

fn pin_key(path: &str, raw: &RawInstitution) -> Result<Option<PinKey>, Invalid> {
    let field = format!("{path}.pin-key-file");
    let Some(file) = &raw.pin_key_file else { return Ok(None) };
    PinKey::new(key(&field, file)?).map(Some).map_err(|error| Invalid::at(field, error))
}

fn key(field: &str, file: &std::path::Path) -> Result<Secret<Vec<u8>>, Invalid> {
    let text = config::read_secret(file).map_err(|error| Invalid::at(field, error))?;
    let key = encode::unhex(text.expose().trim());
    key.map(Secret::new).ok_or_else(|| Invalid::at(field, "the file has to hold hexadecimal digits"))
}
