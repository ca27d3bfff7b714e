//! Messages as they travel: a header line, fields, a trailer line with a checksum.

use std::borrow::Cow;

use crate::canonical::{Field, checksum, strip};
use crate::suite::Suite;
use crate::value::Value;

/// No message is longer.
pub const LONGEST: usize = 1 << 20;

const SYSTEM: &str = "$$-ECASH-";
const TRAILER: &str = "$$-ECASH-END-";
const END: &str = "-$$";

/// Why a message is dropped: nobody is answered, nothing is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Beyond [`LONGEST`].
    #[error("the message is longer than {LONGEST} bytes")]
    TooLong,
    /// Not text.
    #[error("the message is not text of its suite's character set")]
    NotText,
    /// No header that is known here.
    #[error("the first line is no header of a protocol that is spoken here")]
    Header,
    /// No trailer, or something behind it.
    #[error("the last line is no trailer")]
    Trailer,
    /// A line that is no field.
    #[error("line {0} is no field: a label, a colon and a value")]
    Line(usize),
    /// The checksum is not that of the text.
    #[error("the checksum does not match: the message was damaged on its way")]
    Checksum,
}

/// A field that is not as its message wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{label}: {reason}")]
pub struct FormError {
    /// The label.
    pub label: String,
    /// What is wrong with it, or what would be right.
    pub reason: &'static str,
}

impl FormError {
    pub(crate) fn new(label: &str, reason: &'static str) -> Self {
        Self { label: label.to_owned(), reason }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair<'a> {
    label: &'a str,
    /// Length of the label without its suffix.
    base: usize,
    /// The suffix; 0 without one.
    n: u8,
    value: Cow<'a, str>,
}

impl Pair<'_> {
    fn base(&self) -> &str {
        self.label.get(..self.base).unwrap_or(self.label)
    }
}

/// Fields as they were read, in wire order and to be found by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs<'a> {
    list: Vec<Pair<'a>>,
    /// Positions in `list`, by suffix and label.
    sorted: Vec<u32>,
    defect: Option<FormError>,
}

/// Splits a label into its base and its suffix; `None` when it is no label.
fn split_label(label: &str) -> Option<(usize, u8)> {
    let (base, n) = match label.split_once('_') {
        None => (label, 0),
        Some((base, suffix)) => {
            let n: u8 = suffix.parse().ok().filter(|n| *n > 0)?;
            let canonical = !suffix.starts_with('0') && suffix.bytes().all(|byte| byte.is_ascii_digit());
            (base, if canonical { n } else { return None })
        }
    };
    let mut bytes = base.bytes();
    let right = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    right.then_some((base.len(), n))
}

impl<'a> Pairs<'a> {
    /// Reads the plain text of an opaque value.
    ///
    /// # Errors
    /// [`Dropped::Line`] for a line that is no field.
    pub fn parse(text: &'a str) -> Result<Self, Dropped> {
        Self::from_lines(lines(text).map(|line| line.text))
    }

    fn from_lines(lines: impl Iterator<Item = &'a str>) -> Result<Self, Dropped> {
        let mut list: Vec<Pair<'a>> = Vec::new();
        for (number, line) in lines.enumerate() {
            if let Some(folded) = line.strip_prefix([' ', '\t']) {
                let last = list.last_mut().ok_or(Dropped::Line(number + 1))?;
                let value = last.value.to_mut();
                value.push('\n');
                value.push_str(folded);
                continue;
            }
            let (label, value) = line.split_once(':').ok_or(Dropped::Line(number + 1))?;
            let (base, n) = split_label(label).ok_or(Dropped::Line(number + 1))?;
            let value = value.strip_prefix(' ').unwrap_or(value);
            list.push(Pair { label, base, n, value: Cow::Borrowed(value) });
        }
        let mut sorted: Vec<u32> = (0..u32::try_from(list.len()).unwrap_or(u32::MAX)).collect();
        sorted.sort_by_key(|at| list.get(*at as usize).map(|pair| (pair.n, pair.base())));
        let mut pairs = Self { list, sorted, defect: None };
        pairs.defect = pairs.find_defect();
        Ok(pairs)
    }

    fn find_defect(&self) -> Option<FormError> {
        let control = |c: char| c.is_control() && c != '\n';
        for pair in &self.list {
            if pair.value.is_empty() {
                return Some(FormError::new(pair.label, "a label without a value is left out altogether"));
            }
            if pair.value.chars().any(control) {
                return Some(FormError::new(pair.label, "control characters do not belong into a value"));
            }
        }
        let pairs: Vec<&Pair<'_>> = self.in_order().collect();
        let twice = pairs.windows(2).find(|two| matches!(two, [a, b] if a.label == b.label))?;
        twice.first().map(|pair| FormError::new(pair.label, "a label stands once"))
    }

    fn in_order(&self) -> impl Iterator<Item = &Pair<'a>> {
        self.sorted.iter().filter_map(|at| self.list.get(*at as usize))
    }

    /// What is wrong with the fields whatever their message: one without a value, one that stands twice.
    #[must_use]
    pub fn defect(&self) -> Option<&FormError> {
        self.defect.as_ref()
    }

    /// What is wrong with the fields of a message within a session: besides, in the suite of 1995 no value may contain the bar
    /// that separates values where they are authenticated.
    #[must_use]
    pub fn session_defect(&self, suite: Suite) -> Option<FormError> {
        let bar = || self.list.iter().find(|pair| suite.is_classic() && pair.value.contains('|'));
        let told = |pair: &Pair<'_>| FormError::new(pair.label, "a bar does not belong into a value");
        self.defect.clone().or_else(|| bar().map(told))
    }

    /// The value of `label` with the suffix `n`, 0 for none.
    #[must_use]
    pub fn get(&self, label: &str, n: u8) -> Option<&str> {
        self.field(label, n).map(|(_, value)| value)
    }

    /// The same, with the label as it stands there.
    #[must_use]
    pub fn field(&self, label: &str, n: u8) -> Option<Field<'_>> {
        let at = self
            .sorted
            .binary_search_by(|at| {
                let pair = self.list.get(*at as usize);
                pair.map_or(std::cmp::Ordering::Less, |pair| (pair.n, pair.base()).cmp(&(n, label)))
            })
            .ok()?;
        // Of several, the first: the search may have met any.
        let same = |at: &u32| self.list.get(*at as usize).filter(|pair| pair.n == n && pair.base() == label);
        let first = self.sorted.get(..at)?.iter().rev().map_while(same).last();
        let met = self.sorted.get(at).and_then(same);
        first.or(met).map(|pair| (pair.label, pair.value.as_ref()))
    }

    /// A field that has to be there.
    ///
    /// # Errors
    /// [`FormError`] when it is missing or not as its type is written.
    pub fn required<T: Value>(&self, label: &'static str, n: u8) -> Result<T, FormError> {
        self.optional(label, n)?.ok_or_else(|| FormError::new(&suffixed(label, n), "missing"))
    }

    /// A field that may be there.
    ///
    /// # Errors
    /// [`FormError`] when it is not as its type is written.
    pub fn optional<T: Value>(&self, label: &'static str, n: u8) -> Result<Option<T>, FormError> {
        let Some(text) = self.get(label, n) else { return Ok(None) };
        T::read(text).map(Some).map_err(|reason| FormError::new(&suffixed(label, n), reason))
    }

    /// All fields in wire order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.list.iter().map(|pair| (pair.label, pair.value.as_ref()))
    }

    /// The largest suffix of `label`, 0 when none has one.
    #[must_use]
    pub fn largest_suffix(&self, label: &str) -> u8 {
        self.list.iter().filter(|pair| pair.base() == label).map(|pair| pair.n).max().unwrap_or(0)
    }

    /// The largest suffix of any label.
    #[must_use]
    pub fn largest_of_any(&self) -> u8 {
        self.list.iter().map(|pair| pair.n).max().unwrap_or(0)
    }
}

/// `label` with its suffix, if it has one.
#[must_use]
pub fn suffixed(label: &'static str, n: u8) -> Cow<'static, str> {
    if n == 0 { Cow::Borrowed(label) } else { Cow::Owned(format!("{label}_{n}")) }
}

/// Fields to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft(Vec<(Cow<'static, str>, String)>);

impl Draft {
    /// Adds a field; one without a value is not sent.
    pub fn text(&mut self, label: &'static str, n: u8, value: String) {
        if !value.is_empty() {
            self.0.push((suffixed(label, n), value));
        }
    }

    /// Adds a field with any label.
    pub fn own(&mut self, label: String, value: String) {
        if !value.is_empty() {
            self.0.push((Cow::Owned(label), value));
        }
    }

    /// Adds a field.
    pub fn put<T: Value>(&mut self, label: &'static str, n: u8, value: &T) {
        self.text(label, n, value.write());
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.0.iter().map(|(label, value)| (label.as_ref(), value.as_str()))
    }

    /// The fields as lines, long values folded at their line ends.
    #[must_use]
    pub fn render(&self) -> String {
        let length = self.0.iter().map(|(label, value)| label.len() + value.len() + 3).sum();
        let mut out = String::with_capacity(length);
        for (label, value) in &self.0 {
            out.push_str(label);
            out.push_str(": ");
            if value.contains('\n') {
                out.push_str(&value.replace('\n', "\n "));
            } else {
                out.push_str(value);
            }
            out.push('\n');
        }
        out
    }

    /// The whole message.
    #[must_use]
    pub fn frame(&self, suite: Suite) -> Vec<u8> {
        let mut out = format!("{SYSTEM}{}{END}\n{}", suite.protocol(), self.render());
        let sum = checksum(suite, &strip(out.as_bytes()));
        out.push_str(TRAILER);
        out.push_str(&sum);
        out.push_str(END);
        out.push('\n');
        out.into_bytes()
    }
}

struct Line<'a> {
    text: &'a str,
    /// Where the line begins.
    start: usize,
}

/// Lines without their ends, LF or CRLF; an end at the very end makes no empty line.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let end = rest.find('\n').unwrap_or(rest.len());
        let line = rest.get(..end)?;
        let line = Line { text: line.strip_suffix('\r').unwrap_or(line), start };
        start += (end + 1).min(rest.len());
        Some(line)
    })
}

/// A message whose checksum matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The suite that the header names.
    pub suite: Suite,
    /// The clear fields, opaque ones among them.
    pub clear: Pairs<'a>,
}

impl<'a> Frame<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Dropped`].
    pub fn parse(message: &'a [u8]) -> Result<Self, Dropped> {
        if message.len() > LONGEST {
            return Err(Dropped::TooLong);
        }
        let text = std::str::from_utf8(message).map_err(|_| Dropped::NotText)?;
        let mut all: Vec<Line<'a>> = lines(text).collect();
        let trailer = all.pop().ok_or(Dropped::Header)?;
        let header = all.first().ok_or(Dropped::Header)?;
        let protocol = header.text.strip_prefix(SYSTEM).and_then(|rest| rest.strip_suffix(END));
        let suite = protocol.and_then(Suite::from_protocol).ok_or(Dropped::Header)?;
        if !suite.allows(text) {
            return Err(Dropped::NotText);
        }
        let sum = trailer.text.strip_prefix(TRAILER).and_then(|rest| rest.strip_suffix(END)).ok_or(Dropped::Trailer)?;
        let covered = message.get(..trailer.start).ok_or(Dropped::Trailer)?;
        if checksum(suite, &strip(covered)) != sum {
            return Err(Dropped::Checksum);
        }
        let clear = Pairs::from_lines(all.iter().skip(1).map(|line| line.text))?;
        Ok(Self { suite, clear })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draft(pairs: &[(&'static str, &str)]) -> Draft {
        let mut draft = Draft::default();
        pairs.iter().for_each(|(label, value)| draft.text(label, 0, (*value).to_owned()));
        draft
    }

    #[test]
    fn t02_line_ends_and_folding_do_not_change_the_message() {
        let message = draft(&[("type", "cash-payment"), ("note", "one\ntwo")]).frame(Suite::Modern1);
        let text = String::from_utf8(message.clone()).unwrap();
        let frame = Frame::parse(&message).unwrap();
        assert_eq!(frame.clear.get("note", 0), Some("one\ntwo"));
        for changed in [text.replace('\n', "\r\n"), text.replace("\n two", "\r\n\ttwo"), text.trim_end().to_owned()] {
            let again = Frame::parse(changed.as_bytes()).unwrap();
            assert!(again.clear.iter().eq(frame.clear.iter()), "{changed}");
        }
        for (wrong, why) in [
            (text.replace("ECASH-2026.1", "ECASH-2027.1"), Dropped::Header),
            (text.replace("$$-ECASH-END-", "$$-ECASH-FIN-"), Dropped::Trailer),
            (format!("{text}\n"), Dropped::Trailer),
            (text.replace("cash-payment", "cash-payments"), Dropped::Checksum),
            (String::new(), Dropped::Header),
        ] {
            assert_eq!(Frame::parse(wrong.as_bytes()), Err(why), "{wrong}");
        }
    }

    #[test]
    fn t02_labels_are_lower_case_and_suffixes_are_1_to_255() {
        for right in ["a: 1\n", "a-b_1: 1\n", "a9_255: 1\n"] {
            assert!(Pairs::parse(right).is_ok(), "{right}");
        }
        for wrong in
            ["A: 1\n", "a_0: 1\n", "a_01: 1\n", "a_256: 1\n", "a_+1: 1\n", "-a: 1\n", "a b: 1\n", "a\n", " a: 1\n"]
        {
            assert!(Pairs::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn t02_empty_values_doubles_and_control_characters_are_defects() {
        for wrong in ["a: 1\nb:\n", "a: 1\nb: 2\na: 3\n", "a: \u{7}\n", "a_3: 1\na_3: 1\n"] {
            assert!(Pairs::parse(wrong).unwrap().defect().is_some(), "{wrong}");
        }
        assert_eq!(Pairs::parse("a: 1\na_1: 1\na_2: 1\n").unwrap().defect(), None);
        assert_eq!(Pairs::parse("a: 1\na: 2\na: 3\n").unwrap().get("a", 0), Some("1"));
    }

    proptest! {
        #[test]
        fn t02_what_is_written_is_read(values in prop::collection::vec(("[a-z][a-z0-9-]{0,6}", 0_u8..4, "[ -~äß]{1,20}(\n[!-~]{1,9})?"), 0..12)) {
            let mut draft = Draft::default();
            for (label, n, value) in &values {
                let label = if *n == 0 { label.clone() } else { format!("{label}_{n}") };
                draft.own(label, value.clone());
            }
            let bytes = draft.frame(Suite::Modern1);
            let frame = Frame::parse(&bytes).unwrap();
            prop_assert!(frame.clear.iter().eq(draft.iter()));
            for (label, n, _) in &values {
                let first = values.iter().find(|(other, m, _)| (other, m) == (label, n)).unwrap();
                prop_assert_eq!(frame.clear.get(label, *n), Some(first.2.as_str()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), text in "(\\$\\$-ECASH-(END-)?|2026.1|-\\$\\$|[a-c_0:\n\r\t ]){0,40}") {
            let _ = Frame::parse(&bytes);
            let _ = Frame::parse(text.as_bytes());
            let _ = Pairs::parse(&text);
        }
    }
}
