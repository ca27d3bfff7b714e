//! What nftables says over netlink (`linux/netfilter/nf_tables.h`): the generation of its ruleset, what its counters
//! counted, and whose table a change was of.
//!
//! Whoever changes anything of nftables in a network namespace makes its generation one more. So a table that was found as it
//! should be is still so while the generation is the same, or while all that has changed since was in other tables.

use std::collections::BTreeMap;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const NFTABLES: u16 = 10 << 8;
const GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;
const OBJECT: u16 = NFTABLES | 18;
const GET_OBJECT: u16 = NFTABLES | 19;

const REQUEST: u16 = 1;
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;

/// NFPROTO_INET.
const INET: u8 = 1;
/// NFT_OBJECT_COUNTER.
const COUNTER: u32 = 1;

/// One message of netlink, without its header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Those of a message of netfilter, behind the header of that.
    pub(crate) fn attributes(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        attributes(self.payload.get(4..).unwrap_or_default())
    }

    fn attribute(self, wanted: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// The number of the error in a message of kind [`ERROR`].
    fn error(self) -> Option<i32> {
        let code = self.payload.first_chunk()?;
        (self.kind == ERROR).then(|| i32::from_ne_bytes(*code).saturating_neg())
    }
}

/// The whole messages in what one read gave.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (&[l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3], _) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        })
    })
}

/// Type and value of each attribute.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, t0, t1], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is coded.
        Some((u16::from_ne_bytes([t0, t1]) & 0x3fff, value))
    })
}

/// A string as netlink has it, without the zero at its end.
fn text(value: &[u8]) -> &[u8] {
    value.split(|octet| *octet == 0).next().unwrap_or_default()
}

fn number(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => value.first_chunk().map(|octets| u32::from_be_bytes(*octets).into()),
        8 => value.first_chunk().map(|octets| u64::from_be_bytes(*octets)),
        _ => None,
    }
}

fn request(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for (kind, value) in attributes {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        body.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(body.len() + 16).unwrap_or(u32::MAX).to_ne_bytes();
    let head = [&length[..], &kind.to_ne_bytes(), &(REQUEST | flags).to_ne_bytes(), &sequence.to_ne_bytes(), &[0; 4]];
    [head.concat(), body].concat()
}

/// What an answer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// More of it is to come.
    More,
    /// It is whole.
    Whole(T),
    /// What was listed changed meanwhile: ask again.
    Again,
    /// The kernel refused, with the number of the error.
    Refused(i32),
}

/// Asks for the generation of the ruleset.
#[must_use]
pub fn generation_request(sequence: u32) -> Vec<u8> {
    request(GET_GENERATION, 0, sequence, 0, &[])
}

/// The answer to that in what one read gave.
#[must_use]
pub fn generation(octets: &[u8], sequence: u32) -> Answer<u32> {
    for message in messages(octets).filter(|message| message.sequence == sequence) {
        if let Some(error) = message.error() {
            return Answer::Refused(error);
        }
        if let Some(generation) = generation_of(message) {
            return Answer::Whole(generation);
        }
    }
    Answer::More
}

fn generation_of(message: Message<'_>) -> Option<u32> {
    const ID: u16 = 1;
    let id = message.attribute(ID).and_then(number).and_then(|id| u32::try_from(id).ok());
    (message.kind == GENERATION).then_some(id)?
}

/// What each counter of a table counted: packets and bytes.
pub type Counted = BTreeMap<String, (u64, u64)>;

/// A list of the counters of one table, read piece by piece.
#[derive(Debug)]
pub struct Counting {
    sequence: u32,
    counted: Counted,
    interrupted: bool,
}

impl Counting {
    /// The list that is asked for by the request beside it.
    #[must_use]
    pub fn of(table: &str, sequence: u32) -> (Self, Vec<u8>) {
        const TABLE: u16 = 1;
        const TYPE: u16 = 3;
        let table = [table.as_bytes(), b"\0"].concat();
        let attributes = [(TABLE, &table[..]), (TYPE, &COUNTER.to_be_bytes())];
        let request = request(GET_OBJECT, DUMP, sequence, INET, &attributes);
        (Self { sequence, counted: Counted::new(), interrupted: false }, request)
    }

    /// Takes in what one read gave. Of a table that is not there the answer is whole, and empty.
    #[must_use]
    pub fn take(&mut self, octets: &[u8]) -> Answer<Counted> {
        for message in messages(octets).filter(|message| message.sequence == self.sequence) {
            self.interrupted |= message.flags & INTERRUPTED != 0;
            match message.kind {
                ERROR => return Answer::Refused(message.error().unwrap_or_default()),
                DONE if self.interrupted => return Answer::Again,
                DONE => return Answer::Whole(std::mem::take(&mut self.counted)),
                OBJECT => self.counted.extend(counter(message)),
                _ => {}
            }
        }
        Answer::More
    }
}

fn counter(message: Message<'_>) -> Option<(String, (u64, u64))> {
    const NAME: u16 = 2;
    const DATA: u16 = 4;
    const BYTES: u16 = 1;
    const PACKETS: u16 = 2;
    let name = String::from_utf8_lossy(text(message.attribute(NAME)?)).into_owned();
    let (mut packets, mut bytes) = (None, None);
    for (kind, value) in attributes(message.attribute(DATA)?) {
        match kind {
            BYTES => bytes = number(value),
            PACKETS => packets = number(value),
            _ => {}
        }
    }
    Some((name, (packets?, bytes?)))
}

/// What is known of some tables from what the kernel says of every change.
#[derive(Debug)]
pub struct Watch {
    tables: Vec<Vec<u8>>,
    /// Nothing of the tables changed from the first of these generations to the last, which is the newest that was heard of.
    untouched: Option<(u32, u32)>,
    /// The transaction that is being told of changes one of them.
    touching: bool,
}

impl Watch {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(tables: &[&str]) -> Self {
        Self { tables: tables.iter().map(|name| name.as_bytes().to_vec()).collect(), untouched: None, touching: true }
    }

    /// Takes in what one read gave; says whether one of the tables was changed.
    pub fn heard(&mut self, octets: &[u8]) -> bool {
        let mut touched = false;
        for message in messages(octets) {
            if let Some(generation) = generation_of(message) {
                let known = self.untouched.filter(|(_, last)| !self.touching && last.wrapping_add(1) == generation);
                self.untouched = Some((known.map_or(generation, |(first, _)| first), generation));
                self.touching = false;
            } else if self.is_of_them(message) {
                self.touching = true;
                touched = true;
            }
        }
        touched
    }

    /// Something was not heard.
    pub fn lost(&mut self) {
        self.untouched = None;
        self.touching = true;
    }

    /// Whether it is known that no transaction between two generations changed the tables.
    #[must_use]
    pub fn is_untouched(&self, since: u32, now: u32) -> bool {
        let Some((first, last)) = self.untouched else { return false };
        last == now && now.wrapping_sub(since) <= now.wrapping_sub(first)
    }

    /// Every message of a change names its table first; what names none may be of any.
    fn is_of_them(&self, message: Message<'_>) -> bool {
        const TABLE: u16 = 1;
        let named = message.attribute(TABLE).map(text);
        named.is_none_or(|named| self.tables.iter().any(|table| table == named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEW_RULE: u16 = NFTABLES | 6;

    fn message(kind: u16, flags: u16, sequence: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        request(kind, flags, sequence, 0, attributes)
    }

    fn newer(id: u32) -> Vec<u8> {
        message(GENERATION, 0, 0, &[(1, &id.to_be_bytes()), (3, b"nft\0")])
    }

    fn change(table: &str) -> Vec<u8> {
        message(NEW_RULE, 0, 0, &[(1, format!("{table}\0").as_bytes()), (2, b"forward\0")])
    }

    fn refusal(sequence: u32, error: i32) -> Vec<u8> {
        let mut octets = message(ERROR, 0, sequence, &[]);
        octets[16..20].copy_from_slice(&(-error).to_ne_bytes());
        octets
    }

    fn counter(sequence: u32, flags: u16, name: &str, packets: u64, bytes: u64) -> Vec<u8> {
        let nested = request(0, 0, 0, 0, &[(1, &bytes.to_be_bytes()), (2, &packets.to_be_bytes())]);
        let name = format!("{name}\0");
        message(OBJECT, flags, sequence, &[(1, b"t\0"), (2, name.as_bytes()), (4 | 0x8000, &nested[20..])])
    }

    #[test]
    fn the_generation_is_that_of_the_answer_and_of_no_other() {
        let asked = generation_request(7);
        assert_eq!((asked.len(), u16::from_ne_bytes([asked[4], asked[5]])), (20, 0x0a10));
        let answer = message(GENERATION, 0, 7, &[(1, &4711_u32.to_be_bytes())]);
        assert_eq!(generation(&[newer(3), answer].concat(), 7), Answer::Whole(4711));
        assert_eq!(generation(&newer(3), 7), Answer::More);
        assert_eq!(generation(&refusal(7, 1), 7), Answer::Refused(1));
    }

    #[test]
    fn counters_come_in_pieces_and_again_when_they_changed_meanwhile() {
        let (mut counting, asked) = Counting::of("cloakway", 9);
        assert_eq!(u16::from_ne_bytes([asked[6], asked[7]]), 0x301);
        assert_eq!(asked[16], INET);
        let piece = [counter(9, 2, "hairpin", 7, 420), counter(9, 2, "no-route", 0, 0), counter(8, 2, "x", 1, 1)];
        assert_eq!(counting.take(&piece.concat()), Answer::More);
        let expected = [("hairpin".to_owned(), (7, 420)), ("no-route".to_owned(), (0, 0))].into();
        assert_eq!(counting.take(&message(DONE, 2, 9, &[])), Answer::Whole(expected));
        let (mut counting, _) = Counting::of("cloakway", 9);
        let torn = [counter(9, 2 | INTERRUPTED, "hairpin", 7, 420), message(DONE, 2, 9, &[])];
        assert_eq!(counting.take(&torn.concat()), Answer::Again);
        assert_eq!(Counting::of("cloakway", 9).0.take(&refusal(9, 2)), Answer::Refused(2));
    }

    #[test]
    fn what_others_change_touches_nothing_and_what_is_ours_or_lost_does() {
        let mut watch = Watch::new(&["cloakway", "cloakway-meter"]);
        assert!(!watch.is_untouched(5, 5));
        assert!(!watch.heard(&newer(5)));
        assert!(watch.is_untouched(5, 5) && !watch.is_untouched(4, 5));
        assert!(!watch.heard(&[change("filter"), change("cloakway2"), newer(6)].concat()));
        assert!(!watch.heard(&change("filter")));
        assert!(watch.is_untouched(5, 6) && watch.is_untouched(6, 6));
        assert!(!watch.is_untouched(5, 7), "nothing was heard of it yet");
        assert!(!watch.heard(&newer(7)));
        assert!(watch.is_untouched(5, 7));
        assert!(watch.heard(&[change("filter"), change("cloakway-meter"), change("filter")].concat()));
        assert!(!watch.heard(&newer(8)));
        assert!(!watch.is_untouched(7, 8) && watch.is_untouched(8, 8));
        watch.lost();
        assert!(!watch.is_untouched(8, 8));
        assert!(!watch.heard(&newer(9)));
        assert!(!watch.is_untouched(8, 9));
        assert!(!watch.heard(&newer(11)), "and one was missed");
        assert!(!watch.is_untouched(9, 11));
        assert!(watch.heard(&message(NEW_RULE, 0, 0, &[])), "whose it is is not said");
    }

    #[test]
    fn generations_go_round() {
        let mut watch = Watch::new(&["cloakway"]);
        watch.heard(&[newer(u32::MAX), newer(0), newer(1)].concat());
        assert!(watch.is_untouched(u32::MAX, 1) && watch.is_untouched(0, 1) && !watch.is_untouched(u32::MAX - 1, 1));
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..200), kind in any::<u16>()) {
            let kinds = [kind, ERROR, DONE, GENERATION, OBJECT];
            let whole = kinds.map(|kind| message(kind, 0, 1, &[(1, &octets), (2, &octets), (4, &octets)]));
            for octets in whole.iter().chain([&octets]) {
                let _ = (generation(octets, 1), Counting::of("t", 1).0.take(octets));
                let mut watch = Watch::new(&["t"]);
                watch.heard(octets);
                let _ = watch.is_untouched(1, 0);
            }
        }
    }
}
