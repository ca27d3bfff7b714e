//! Messages, sets, templates and records (RFC 7011).

use std::collections::HashMap;

const VERSION: u16 = 10;
const HEADER: usize = 16;
const TEMPLATES: u16 = 2;
const OPTIONS_TEMPLATES: u16 = 3;
const FIRST_DATA: u16 = 256;
/// A field whose length each record says (§7).
const VARIABLE: u16 = 65_535;
const ENTERPRISE: u16 = 0x8000;

/// Templates of one exporter; no exporter of translations has more than a few.
const MOST_TEMPLATES: usize = 1024;
/// Fields of one template.
const MOST_FIELDS: usize = 256;

/// Why a message cannot be read. What came before it is not known to have been followed whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not IPFIX: NetFlow 9 is version 9.
    #[error("version {0}: IPFIX is version 10")]
    Version(u16),
    /// The message is not as long as it says.
    #[error("a message that says {said} octets and has {there}")]
    Length {
        /// What it says.
        said: u16,
        /// What is there.
        there: usize,
    },
    /// A set that is cut off, or too short to be one.
    #[error("set {id} at octet {at} is cut off")]
    Set {
        /// Its id.
        id: u16,
        /// Where it begins.
        at: usize,
    },
    /// A template that is none.
    #[error("template {id}: {reason}")]
    Template {
        /// Its id.
        id: u16,
        /// Why.
        reason: &'static str,
    },
    /// More templates than an exporter has.
    #[error("more than {MOST_TEMPLATES} templates")]
    TooMany,
    /// A record that does not fit its template.
    #[error("a record of template {0} is cut off")]
    Record(u16),
}

/// One field of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    element: u16,
    enterprise: Option<u32>,
    length: u16,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    fields: Vec<Field>,
    /// Its records are about the exporter, not about flows.
    options: bool,
}

impl Template {
    /// The fewest octets of a record.
    fn least(&self) -> usize {
        self.fields.iter().map(|field| if field.length == VARIABLE { 1 } else { usize::from(field.length) }).sum()
    }
}

/// One data record: its fields in the template's order.
#[derive(Debug, Clone)]
pub struct Record<'m> {
    fields: Vec<(Field, &'m [u8])>,
}

impl<'m> Record<'m> {
    /// The first field of a standard element.
    #[must_use]
    pub fn get(&self, element: u16) -> Option<&'m [u8]> {
        let of = |(field, _): &&(Field, &'m [u8])| field.element == element && field.enterprise.is_none();
        self.fields.iter().find(of).map(|(_, value)| *value)
    }

    /// The first field of an enterprise's element.
    #[must_use]
    pub fn get_of(&self, enterprise: u32, element: u16) -> Option<&'m [u8]> {
        let of = |(field, _): &&(Field, &'m [u8])| field.element == element && field.enterprise == Some(enterprise);
        self.fields.iter().find(of).map(|(_, value)| *value)
    }

    /// A standard element as a number; numbers may be sent with fewer octets than they have (§6.2).
    #[must_use]
    pub fn number(&self, element: u16) -> Option<u64> {
        let value = self.get(element).filter(|value| (1..=8).contains(&value.len()))?;
        Some(value.iter().fold(0, |number, octet| (number << 8) | u64::from(*octet)))
    }
}

/// What a message said beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The observation domain.
    pub domain: u32,
    /// When it was exported, in seconds since 1970.
    pub exported_s: u32,
    /// It is the first one of this domain that can be counted: what was said before it is not known.
    pub first: bool,
    /// Records of this domain that were lost before it, or that came twice or late: nothing earlier is certain.
    pub gap: bool,
    /// Data sets without a template: what they said is not known.
    pub unreadable: usize,
}

/// One exporter over one transport.
#[derive(Debug, Default)]
pub struct Session {
    templates: HashMap<(u32, u16), Template>,
    /// The sequence number that comes next, of each domain (§3.1).
    expected: HashMap<u32, u32>,
}

impl Session {
    /// An exporter of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the message is that begins here; on a stream messages follow each other. `None` when that cannot be told
    /// yet.
    ///
    /// # Errors
    /// [`SessionError`]: the stream cannot go on.
    pub fn length(octets: &[u8]) -> Result<Option<usize>, SessionError> {
        let [v0, v1, l0, l1, ..] = *octets else { return Ok(None) };
        let (version, length) = (u16::from_be_bytes([v0, v1]), u16::from_be_bytes([l0, l1]));
        if version != VERSION {
            return Err(SessionError::Version(version));
        }
        if usize::from(length) < HEADER {
            return Err(SessionError::Length { said: length, there: octets.len() });
        }
        Ok(Some(usize::from(length)))
    }

    /// Reads one whole message, and gives its data records to `each`.
    ///
    /// # Errors
    /// [`SessionError`]. Records before the place of the error were given; treat it as a gap.
    pub fn read<'m>(
        &mut self,
        message: &'m [u8],
        mut each: impl FnMut(u32, &Record<'m>),
    ) -> Result<Told, SessionError> {
        let Some((head, mut rest)) = message.split_first_chunk::<HEADER>() else {
            return Err(SessionError::Length { said: 0, there: message.len() });
        };
        let [v0, v1, l0, l1, e0, e1, e2, e3, s0, s1, s2, s3, d0, d1, d2, d3] = *head;
        let (version, said) = (u16::from_be_bytes([v0, v1]), u16::from_be_bytes([l0, l1]));
        if version != VERSION {
            return Err(SessionError::Version(version));
        }
        if usize::from(said) != message.len() {
            return Err(SessionError::Length { said, there: message.len() });
        }
        let sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        let domain = u32::from_be_bytes([d0, d1, d2, d3]);
        let expected = self.expected.remove(&domain);
        let mut told = Told {
            domain,
            exported_s: u32::from_be_bytes([e0, e1, e2, e3]),
            first: expected.is_none(),
            gap: expected.is_some_and(|expected| expected != sequence),
            unreadable: 0,
        };
        let mut records = 0_u32;
        while let [i0, i1, l0, l1, ..] = *rest {
            let (id, length) = (u16::from_be_bytes([i0, i1]), usize::from(u16::from_be_bytes([l0, l1])));
            let at = message.len() - rest.len();
            let (Some(body), Some(behind)) = (rest.get(4..length), rest.get(length..)) else {
                return Err(SessionError::Set { id, at });
            };
            rest = behind;
            match id {
                TEMPLATES => self.templates(domain, body, false)?,
                OPTIONS_TEMPLATES => self.templates(domain, body, true)?,
                FIRST_DATA.. => match self.templates.get(&(domain, id)) {
                    Some(template) => records = records.wrapping_add(data(template, id, body, |of| each(domain, of))?),
                    None => told.unreadable += 1,
                },
                // Reserved.
                _ => {}
            }
        }
        if !rest.is_empty() {
            return Err(SessionError::Set { id: 0, at: message.len() - rest.len() });
        }
        // Without its template a set does not say how many records it has: the next number cannot be foretold.
        if told.unreadable == 0 && self.expected.len() < MOST_TEMPLATES {
            self.expected.insert(domain, sequence.wrapping_add(records));
        }
        Ok(told)
    }

    fn templates(&mut self, domain: u32, mut rest: &[u8], options: bool) -> Result<(), SessionError> {
        // What is shorter than a template's head is padding (§3.3.1).
        while let [i0, i1, c0, c1, behind @ ..] = rest {
            let (id, count) = (u16::from_be_bytes([*i0, *i1]), usize::from(u16::from_be_bytes([*c0, *c1])));
            rest = behind;
            let wrong = |reason| SessionError::Template { id, reason };
            if count == 0 {
                // A withdrawal (§8.1): of one template, or by the set's own id of all of the kind.
                match id {
                    TEMPLATES | OPTIONS_TEMPLATES => {
                        self.templates.retain(|(of, _), template| *of != domain || template.options != options);
                    }
                    FIRST_DATA.. => drop(self.templates.remove(&(domain, id))),
                    // Padding of more than three octets.
                    _ if rest.iter().all(|octet| *octet == 0) && id == 0 => return Ok(()),
                    _ => return Err(wrong("an id below 256")),
                }
                continue;
            }
            if id < FIRST_DATA {
                return Err(wrong("an id below 256"));
            }
            if count > MOST_FIELDS {
                return Err(wrong("more fields than 256"));
            }
            if options {
                let [s0, s1, behind @ ..] = rest else { return Err(wrong("it is cut off")) };
                let scopes = usize::from(u16::from_be_bytes([*s0, *s1]));
                if scopes == 0 || scopes > count {
                    return Err(wrong("as many scopes as there are no fields for"));
                }
                rest = behind;
            }
            let mut fields = Vec::with_capacity(count);
            for _ in 0..count {
                let (field, behind) = field(rest).ok_or_else(|| wrong("it is cut off"))?;
                fields.push(field);
                rest = behind;
            }
            let template = Template { fields, options };
            if template.least() == 0 {
                return Err(wrong("its records have no octets"));
            }
            if self.templates.len() >= MOST_TEMPLATES && !self.templates.contains_key(&(domain, id)) {
                return Err(SessionError::TooMany);
            }
            self.templates.insert((domain, id), template);
        }
        Ok(())
    }
}

fn field(octets: &[u8]) -> Option<(Field, &[u8])> {
    let [e0, e1, l0, l1, rest @ ..] = octets else { return None };
    let (element, length) = (u16::from_be_bytes([*e0, *e1]), u16::from_be_bytes([*l0, *l1]));
    if element & ENTERPRISE == 0 {
        return Some((Field { element, enterprise: None, length }, rest));
    }
    let (enterprise, rest) = rest.split_first_chunk()?;
    let enterprise = Some(u32::from_be_bytes(*enterprise));
    Some((Field { element: element & !ENTERPRISE, enterprise, length }, rest))
}

/// Reads the records of a set; gives how many there were. What is shorter than a record is padding.
fn data<'m>(
    template: &Template,
    id: u16,
    mut rest: &'m [u8],
    mut each: impl FnMut(&Record<'m>),
) -> Result<u32, SessionError> {
    let least = template.least();
    let mut count = 0;
    let mut record = Record { fields: Vec::with_capacity(template.fields.len()) };
    while rest.len() >= least {
        record.fields.clear();
        for field in &template.fields {
            let (value, behind) = value(field.length, rest).ok_or(SessionError::Record(id))?;
            record.fields.push((*field, value));
            rest = behind;
        }
        count += 1;
        if !template.options {
            each(&record);
        }
    }
    Ok(count)
}

fn value(length: u16, octets: &[u8]) -> Option<(&[u8], &[u8])> {
    if length != VARIABLE {
        return octets.split_at_checked(usize::from(length));
    }
    match octets {
        [255, l0, l1, rest @ ..] => rest.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1]))),
        [255, ..] | [] => None,
        [length, rest @ ..] => rest.split_at_checked(usize::from(*length)),
    }
}
