//! What the institution has decided: one JSON line each, synced to disk before it is answered.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What names an authorisation: terminal, trace number and transmission time (fields 41, 11 and 7).
pub(crate) type Key = (String, String, String);

/// A line of the books. There is no card number in it, only the last four digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) terminal: String,
    pub(crate) stan: String,
    pub(crate) time: String,
    /// Minor units; 0 for a reversal of something that was never seen.
    pub(crate) amount: u64,
    /// ISO 4217, three digits.
    pub(crate) currency: String,
    pub(crate) last_four: String,
    /// Response code, field 39.
    pub(crate) code: String,
    /// Of a refund: trace number and time of what it gives back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<(String, String)>,
    /// Field 38, if approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authorisation_code: Option<String>,
}

impl Entry {
    fn key(&self) -> Key {
        (self.terminal.clone(), self.stan.clone(), self.time.clone())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// Money is held.
    Authorised,
    /// It is not.
    Refused,
    /// Money of an authorisation went back.
    Refunded,
    /// What was decided before is taken back; money that was held is free.
    Reversed,
    /// A reversal of something never seen, which is refused should it still come.
    Buried,
}

/// The books, in memory as on disk.
#[derive(Debug)]
pub(crate) struct Books {
    file: File,
    entries: BTreeMap<Key, Standing>,
}

/// Where an authorisation stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How the request was answered, if it came.
    pub(crate) decision: Option<Entry>,
    /// How a reversal was answered, if one came.
    pub(crate) reversal: Option<Entry>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BooksError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("line {line} of the books is no entry: {source}")]
    Line { line: usize, source: serde_json::Error },
}

impl Books {
    /// Opens the books, or begins new ones. A last line without its end was being written when the
    /// process died: nobody has had an answer from it, and it is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, BooksError> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::End(0))?;
        let mut books = Self { file, entries: BTreeMap::new() };
        let lines = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            let entry = serde_json::from_slice(line).map_err(|source| BooksError::Line { line: number + 1, source })?;
            books.apply(entry);
        }
        Ok(books)
    }

    /// Writes an entry down, for good.
    pub(crate) fn record(&mut self, entry: Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.apply(entry);
        Ok(())
    }

    pub(crate) fn standing(&self, key: &Key) -> Standing {
        self.entries.get(key).cloned().unwrap_or_default()
    }

    /// How much of an authorisation went back, in minor units.
    pub(crate) fn refunded(&self, key: &Key) -> u64 {
        let standing =
            self.entries.iter().filter(|((terminal, ..), standing)| *terminal == key.0 && standing.reversal.is_none());
        standing
            .filter_map(|(_, standing)| standing.decision.as_ref())
            .filter(|d| {
                d.event == Event::Refunded && d.of.as_ref().is_some_and(|(stan, time)| (stan, time) == (&key.1, &key.2))
            })
            .map(|decision| decision.amount)
            .sum()
    }

    fn apply(&mut self, entry: Entry) {
        let standing = self.entries.entry(entry.key()).or_default();
        match entry.event {
            Event::Authorised | Event::Refused | Event::Refunded => standing.decision = Some(entry),
            Event::Reversed | Event::Buried => standing.reversal = Some(entry),
        }
    }

    /// Authorisations that hold money.
    #[cfg(test)]
    pub(crate) fn held(&self) -> Vec<Key> {
        let holds = |standing: &Standing| {
            standing.reversal.is_none() && standing.decision.as_ref().is_some_and(|d| d.event == Event::Authorised)
        };
        self.entries.iter().filter(|(_, standing)| holds(standing)).map(|(key, _)| key.clone()).collect()
    }
}
