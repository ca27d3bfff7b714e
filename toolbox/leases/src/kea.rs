//! Kea's lease files (backend `memfile`).
//!
//! A file begins with a line that names its columns. Each change of a lease is a line more, and the last line of an
//! address counts; a life of 0 s takes it away. Columns were added over the years and are read by name: `address`,
//! `valid_lifetime` and `expire` must be there, and what is not known is passed over.

pub mod answer;
mod context;

use std::net::IpAddr;

use cloakway_types::Timestamp;
use ipnet::IpNet;

use crate::holder::Holder;
use crate::lease::{Damage, Lease, Record, State};
use crate::octets;

/// Octets of a line; Kea's user context has no bound of its own.
const LONGEST_LINE: usize = 256 * 1024;

/// A life that does not end (RFC 2131 §3.3).
const FOR_EVER: u64 = 0xffff_ffff;

/// Why a file is not one of Kea's: nothing in it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A column that every version has is missing.
    #[error("the first line has no column {0}: this is no lease file of Kea")]
    Missing(&'static str),
    /// A column is there twice.
    #[error("the first line has the column {0} twice")]
    Twice(String),
    /// The line does not end.
    #[error("the first line is longer than {LONGEST_LINE} octets: this is no lease file of Kea")]
    TooLong,
}

/// Reads one file from its beginning, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Reader {
    columns: Option<Columns>,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// It is too long and is passed over.
    over_long: bool,
    /// It was left unfinished.
    halted: bool,
    number: u64,
}

impl Reader {
    /// A reader at the beginning of a file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next octets of the file, and tells `each` the records that end in them.
    ///
    /// # Errors
    /// [`HeaderError`]; the reader cannot go on then.
    pub fn push(&mut self, octets: &[u8], mut each: impl FnMut(Record)) -> Result<(), HeaderError> {
        for piece in octets.split_inclusive(|octet| *octet == b'\n') {
            let ended = piece.last() == Some(&b'\n');
            if self.line.len() + piece.len() > LONGEST_LINE {
                // The beginning says which address it is about.
                let room = LONGEST_LINE.saturating_sub(self.line.len());
                self.line.extend_from_slice(piece.get(..room.min(1024)).unwrap_or(piece));
                self.line.truncate(1024);
                self.over_long = true;
            } else if !self.over_long {
                self.line.extend_from_slice(piece);
            }
            if ended {
                self.number += 1;
                let line = std::mem::take(&mut self.line);
                let over_long = std::mem::take(&mut self.over_long);
                if let Some(record) = self.line(&line, over_long)? {
                    each(record);
                }
            }
        }
        if self.over_long && self.columns.is_none() { Err(HeaderError::TooLong) } else { Ok(()) }
    }

    /// Whether the file ended in the middle of a line.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        !self.line.is_empty()
    }

    /// The file has not grown for a while. Kea writes a line at once: one that is not finished was left when Kea died,
    /// and another one will be joined to it.
    pub fn halt(&mut self) {
        self.halted = self.is_torn();
    }

    /// Whether the line with the names of the columns has been read.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.columns.is_some()
    }

    fn line(&mut self, line: &[u8], over_long: bool) -> Result<Option<Record>, HeaderError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line);
        let Some(columns) = &self.columns else {
            if over_long {
                return Err(HeaderError::TooLong);
            }
            if !text.is_empty() {
                self.columns = Some(Columns::read(&text)?);
            }
            return Ok(None);
        };
        if text.is_empty() {
            return Ok(None);
        }
        let joined = std::mem::take(&mut self.halted);
        let read = if over_long {
            Err(format!("a line of more than {LONGEST_LINE} octets"))
        } else if joined {
            Err("a line that was begun, left, and gone on with".to_owned())
        } else {
            columns.lease(&text)
        };
        Ok(Some(match read {
            Ok(lease) => Record::Lease(Box::new(lease)),
            Err(reason) => Record::Damaged(Damage { line: self.number, reason, about: columns.about(&text, joined) }),
        }))
    }
}

/// Where each column is.
#[derive(Debug, Clone)]
struct Columns {
    names: Vec<String>,
    address: usize,
    valid_lifetime: usize,
    expire: usize,
}

impl Columns {
    fn read(line: &str) -> Result<Self, HeaderError> {
        let names: Vec<String> = line.split(',').map(|name| name.trim().to_owned()).collect();
        for (index, name) in names.iter().enumerate() {
            if names.iter().skip(index + 1).any(|other| other == name) {
                return Err(HeaderError::Twice(name.clone()));
            }
        }
        let place =
            |name: &'static str| names.iter().position(|column| column == name).ok_or(HeaderError::Missing(name));
        let (address, valid_lifetime, expire) = (place("address")?, place("valid_lifetime")?, place("expire")?);
        Ok(Self { address, valid_lifetime, expire, names })
    }

    fn lease(&self, line: &str) -> Result<Lease, String> {
        let fields: Vec<&str> = line.split(',').collect();
        if fields.len() != self.names.len() {
            return Err(format!("{} fields where the first line has {} columns", fields.len(), self.names.len()));
        }
        let at = |place: usize| fields.get(place).copied().unwrap_or_default();
        let named = |name: &str| {
            let place = self.names.iter().position(|column| column == name)?;
            fields.get(place).copied().filter(|field| !field.is_empty())
        };
        let number = |name: &str, text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            let value = if plain { text.parse::<u64>().ok() } else { None };
            value.ok_or_else(|| format!("{name} is {text:?}: a number is expected"))
        };
        let octets = |name: &str| {
            let read = |text: &str| octets::from_colons(text).ok_or_else(|| format!("{name} is {text:?}"));
            named(name).map(read).transpose()
        };
        let address = at(self.address);
        let address: IpAddr = address.parse().map_err(|_| format!("address is {address:?}"))?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let length = match named("lease_type") {
            None | Some("0" | "1") => whole,
            Some("2") => {
                let text = named("prefix_len").unwrap_or_default();
                number("prefix_len", text)?.try_into().map_err(|_| format!("prefix_len is {text}"))?
            }
            Some(other) => return Err(format!("lease_type is {other:?}: 0, 1 and 2 are known")),
        };
        let net = IpNet::new(address, length).map_err(|_| format!("prefix_len is {length}"))?;
        if net != net.trunc() {
            return Err(format!("{net} has host bits"));
        }
        let life = number("valid_lifetime", at(self.valid_lifetime))?;
        let expire = number("expire", at(self.expire))?;
        let last = expire.checked_sub(life).ok_or_else(|| format!("expire is {expire}, before a life of {life} s"))?;
        let state = match named("state").unwrap_or("0") {
            _ if life == 0 => State::Over { at: None },
            // Registered (RFC 9686): a client's own address, which the server has checked.
            "0" | "4" if life == FOR_EVER => State::Held { until: None },
            "0" | "4" => State::Held { until: Some(Timestamp::from_secs(expire)) },
            "1" => State::Declined,
            "2" if life == FOR_EVER => State::Over { at: None },
            "2" => State::Over { at: Some(Timestamp::from_secs(expire)) },
            "3" => State::Over { at: None },
            other => return Err(format!("state is {other:?}: 0 to 4 are known")),
        };
        let iaid = named("iaid").map(|text| number("iaid", text)).transpose()?;
        let mut holder = Holder {
            hardware: octets("hwaddr")?,
            client_id: octets("client_id")?,
            duid: octets("duid")?,
            iaid: iaid.map(u32::try_from).transpose().map_err(|_| "iaid has more than 32 bits".to_owned())?,
            hostname: named("hostname").map(plain),
            ..Holder::default()
        };
        if let Some(text) = named("user_context") {
            let text = plain(text);
            let value = serde_json::from_str(&text).map_err(|error| format!("user_context is no JSON: {error}"))?;
            context::read(&value, &mut holder);
            holder.context = Some(value);
        }
        Ok(Lease { net, holder, last: Timestamp::from_secs(last), state })
    }

    /// What a line that cannot be read may have been about. A server that died while it wrote leaves half a line, to
    /// which the next one is joined: what stands before the last columns ends with the address of that one.
    fn about(&self, line: &str, joined: bool) -> Vec<IpNet> {
        let fields: Vec<&str> = line.split(',').collect();
        let mut about: Vec<IpNet> = Vec::new();
        let mut add = |text: &str| {
            if let Ok(address) = text.parse::<IpAddr>() {
                let net = self.net_about(address, &fields);
                if !about.contains(&net) {
                    about.push(net);
                }
            }
        };
        let first = fields.get(self.address).copied().unwrap_or_default();
        add(first);
        // A line with all its columns and an address is about this address.
        if joined || fields.len() != self.names.len() || first.parse::<IpAddr>().is_err() {
            let after = self.names.len() - self.address - 1;
            if let Some(place) = fields.len().checked_sub(after + 1).and_then(|place| fields.get(place)) {
                place.char_indices().for_each(|(at, _)| add(place.get(at..).unwrap_or_default()));
            }
        }
        about
    }

    /// Of a delegated prefix the length may be lost too: then everything that begins there is meant.
    fn net_about(&self, address: IpAddr, fields: &[&str]) -> IpNet {
        let IpAddr::V6(_) = address else { return IpNet::from(address) };
        let length = self.names.iter().position(|name| name == "prefix_len").and_then(|place| {
            let from_the_end = self.names.len() - place;
            fields.len().checked_sub(from_the_end).and_then(|at| fields.get(at))?.parse::<u8>().ok()
        });
        length.and_then(|length| IpNet::new(address, length).ok()).map_or_else(|| address.into(), |net| net.trunc())
    }
}

/// Takes back `&#x2c` and its kin: how Kea keeps a comma out of a field.
fn plain(field: &str) -> String {
    let mut plain: Vec<u8> = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find("&#x") {
        let (before, from) = rest.split_at(at);
        plain.extend_from_slice(before.as_bytes());
        match from.get(3..5).and_then(octets::from_hex).as_deref() {
            Some([octet]) => {
                plain.push(*octet);
                rest = from.get(5..).unwrap_or_default();
            }
            _ => {
                plain.extend_from_slice(b"&#x");
                rest = from.get(3..).unwrap_or_default();
            }
        }
    }
    plain.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests;
