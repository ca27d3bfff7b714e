//! `GET /v1/changes`: a stream of what changes, as server-sent events (F2, F9).
//!
//! A reader keeps a map from places (a prefix, or ports of an address) to what is [`Known`] there. [`RESET`] empties it,
//! [`BINDINGS`] and [`CHANGED`] set what they have, [`State::Gone`] takes out. Who is at an address and port: all entries
//! around it that are not over have to agree on one subscriber; else it is unknown. An event says what was so when it was
//! sent, and its id where the reader goes on with Last-Event-ID.

use cloakway_types::SubscriberId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::http::Source;
use crate::record::Ports;

/// All that was known is to be forgotten: all that holds follows. Data: [`Reset`]. Its id is empty.
pub const RESET: &str = "reset";
/// A part of all that holds. Data: [`Bindings`].
pub const BINDINGS: &str = "bindings";
/// That was all. Data: `{}`.
pub const LISTED: &str = "listed";
/// Something changed. Data: [`Bindings`].
pub const CHANGED: &str = "changed";
/// The stream ends. Data: [`End`].
pub const END: &str = "end";

/// What is known of one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The address or prefix.
    pub prefix: IpNet,
    /// Which ports of it; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// What it is worth.
    pub state: State,
    /// Why it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose, where the caller may know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriber: Option<SubscriberId>,
    /// The internal address that answers for it, where the caller may know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<IpAddr>,
    /// Learnt from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Since when at least, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last evidence, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_at: Option<String>,
    /// After this it is stale without another event, RFC 3339; none: for as long as nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// What a place is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// One subscriber has it.
    Bound,
    /// Who is at the internal address has it.
    Translated,
    /// Somebody claims it, and nobody is believed.
    Unknown,
    /// Nobody claims it any more.
    Gone,
}

/// Data of [`BINDINGS`] and [`CHANGED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bindings {
    /// One or several places.
    pub bindings: Vec<Known>,
}

/// Data of [`RESET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// Why.
    pub reason: ResetReason,
}

/// Why all is said anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// The reader named no place to go on from.
    Begin,
    /// The place that it named is not there any more, or never was.
    Gone,
}

impl ResetReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Gone => "gone",
        }
    }
}

/// Data of [`END`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Why.
    pub reason: EndReason,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The toolbox stops.
    Stopping,
    /// The reader did not take what there was for it.
    Slow,
    /// The toolbox cannot read what changed.
    Failed,
}

impl EndReason {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

/// An event. `data` has no line breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// The last id that was said, by this event or before it; empty: none holds.
    pub id: String,
    /// What it says.
    pub data: String,
}

/// An event as octets. With `id`, the reader goes on behind it.
#[must_use]
pub fn event(name: &str, id: Option<&str>, data: &impl Serialize) -> Vec<u8> {
    // Names, numbers and texts of ours have no form that JSON lacks.
    let data = serde_json::to_string(data).unwrap_or_default();
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n").into_bytes()
}

/// A sign of life, which moves the reader's place to `id` where it is given.
#[must_use]
pub fn alive(id: Option<&str>) -> Vec<u8> {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!(": alive\n{id}\n").into_bytes()
}

/// A stream that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A line has no end.
    #[error("a line of the stream is longer than {LONGEST} octets")]
    Line,
    /// Data has no end.
    #[error("an event of the stream is longer than {LONGEST} octets")]
    Event,
    /// It is no text.
    #[error("the stream is not UTF-8")]
    Text,
}

/// The longest line, and the longest event, that is read.
pub const LONGEST: usize = 16 << 20;

/// Reads a stream in whatever pieces it comes (WHATWG HTML §9.2.6).
#[derive(Debug, Default)]
pub struct Reader {
    line: Vec<u8>,
    /// The last octet ended a line by CR: an LF that follows belongs to it.
    after_cr: bool,
    begun: bool,
    name: String,
    id: String,
    data: Option<String>,
    last: String,
}

impl Reader {
    /// At the beginning of a stream, by a reader who was at `last`; empty: nowhere.
    #[must_use]
    pub fn new(last: String) -> Self {
        Self { id: last.clone(), last, ..Self::default() }
    }

    /// The id that the reader goes on from; empty: from the beginning.
    #[must_use]
    pub fn last(&self) -> &str {
        &self.last
    }

    /// Takes a piece, and hands whole events on.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(Event)) -> Result<(), StreamError> {
        for octet in piece {
            match octet {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = *octet == b'\r';
                    self.end_of_line(&mut each)?;
                }
                _ if self.line.len() >= LONGEST => return Err(StreamError::Line),
                _ => {
                    self.after_cr = false;
                    self.line.push(*octet);
                }
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self, each: &mut impl FnMut(Event)) -> Result<(), StreamError> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8(line).map_err(|_| StreamError::Text)?;
        let line = if self.begun { line.as_str() } else { line.strip_prefix('\u{feff}').unwrap_or(&line) };
        self.begun = true;
        if line.is_empty() {
            self.last.clone_from(&self.id);
            let name = std::mem::take(&mut self.name);
            if let Some(data) = self.data.take() {
                each(Event { name, id: self.last.clone(), data });
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = value.to_owned(),
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "data" => {
                let data = match self.data.take() {
                    Some(before) => before + "\n" + value,
                    None => value.to_owned(),
                };
                if data.len() > LONGEST {
                    return Err(StreamError::Event);
                }
                self.data = Some(data);
            }
            // A comment, or what a later version says.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(octets: &[u8], piece: usize) -> (Vec<Event>, String) {
        let (mut reader, mut events) = (Reader::new("before".into()), Vec::new());
        for piece in octets.chunks(piece.max(1)) {
            reader.push(piece, |event| events.push(event)).unwrap();
        }
        (events, reader.last().to_owned())
    }

    fn said(name: &str, id: &str, data: &str) -> Event {
        Event { name: name.into(), id: id.into(), data: data.into() }
    }

    #[test]
    fn what_is_written_is_read_and_a_sign_of_life_moves_the_place() {
        let known = Known {
            prefix: "198.51.100.70/32".parse().unwrap(),
            ports: "1024-2047/6".parse().ok(),
            state: State::Bound,
            reason: None,
            subscriber: "alice".parse().ok(),
            behind: None,
            source: Some(Source::Radius),
            since: None,
            proved_at: None,
            until: None,
        };
        let data = r#"{"bindings":[{"prefix":"198.51.100.70/32","ports":"1024-2047/6","state":"bound","subscriber":"alice","source":"radius"}]}"#;
        let bindings = Bindings { bindings: vec![known] };
        assert_eq!(serde_json::from_str::<Bindings>(data).unwrap(), bindings);
        let stream = [
            event(RESET, Some(""), &Reset { reason: ResetReason::Gone }),
            event(BINDINGS, None, &bindings),
            event(LISTED, Some("a-1"), &serde_json::json!({})),
            alive(None),
            alive(Some("a-2")),
            event(END, None, &End { reason: EndReason::Slow }),
            alive(Some("a-3")),
        ];
        let (events, last) = read(&stream.concat(), 7);
        let expected = [
            said(RESET, "", r#"{"reason":"gone"}"#),
            said(BINDINGS, "", data),
            said(LISTED, "a-1", "{}"),
            said(END, "a-2", r#"{"reason":"slow"}"#),
        ];
        assert_eq!((events.as_slice(), last.as_str()), (expected.as_slice(), "a-3"));
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_it_says() {
        let (events, last) = read("\u{feff}data: YHOO\ndata: +2\r\ndata: 10\r\r".as_bytes(), 1);
        assert_eq!((events.as_slice(), last.as_str()), ([said("", "before", "YHOO\n+2\n10")].as_slice(), "before"));
        let stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let expected = [said("", "1", "first event"), said("", "", "second event"), said("", "", " third event")];
        assert_eq!(read(stream, 3).0, expected);
        assert_eq!(read(b"data\n\ndata\ndata\n\ndata:", 2).0, [said("", "before", ""), said("", "before", "\n")]);
        assert_eq!(read(b"id: 7\ndata: cut", 2), (vec![], "before".into()), "an id counts with its event");
    }

    #[test]
    fn what_is_no_text_or_has_no_end_is_refused() {
        let mut reader = Reader::new(String::new());
        assert_eq!(reader.push(b"data: \xff\n", |_| ()), Err(StreamError::Text));
        let mut reader = Reader::new(String::new());
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(reader.push(&long, |_| ()), Err(StreamError::Line));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_same_is_read(text in "[a-z:\\n\\r \u{e4}]{0,200}", piece in 1..20_usize) {
            prop_assert_eq!(read(text.as_bytes(), piece), read(text.as_bytes(), text.len()));
        }

        #[test]
        fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Reader::new(String::new()).push(&octets, |event| assert!(!event.data.contains('\r')));
        }
    }
}
