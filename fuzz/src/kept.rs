//! What the toolbox keeps on disk and reads back, what a reader of its changes is sent, and what an operator writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakway_store::{Journal, Place};
use cloakway_types::{Instant, Timestamp};
use toolbox_core::{Cursor, Interval, Row, Rows, Settings, Table};
use toolbox_leases::Identity;
use toolbox_nat::{Range, Ranges};
use toolbox_wire::follow;
use toolbox_wire::frame::{self, NoUdp, Seen};
use toolbox_wire::record::Ports;

fn table() -> Table {
    let prefixes = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().expect("a prefix"), ()));
    Table::new(Settings {
        prefixes: prefixes.into_iter().collect(),
        max_age: Duration::from_secs(1800),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    })
}

fn listed(table: &Table) -> Vec<Row> {
    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    loop {
        let some = table.list(&mut cursor, 16);
        if some.is_empty() {
            rows.sort_by(|a: &Row, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
            return rows;
        }
        rows.extend(some);
    }
}

/// Rows of a journal or snapshot, each behind its length (one octet): what is accepted is listed as it was, answers, and
/// is read back from its own list.
pub fn toolbox_row(mut bytes: &[u8]) {
    let now = Timestamp::from_secs(1_700_000_100);
    let mut table = table();
    while let [length, rest @ ..] = bytes {
        let (record, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        let Ok(row) = Row::decode(record).map_err(|error| assert!(!error.to_string().is_empty())) else { continue };
        assert_eq!(Row::decode(&row.encode()), Ok(row.clone()));
        if let (Rows::History, Some(value)) = (row.table, &row.value)
            && let Ok(interval) = Interval::decode(value)
        {
            assert_eq!(Interval::decode(&interval.encode()).as_ref(), Ok(&interval));
            assert!(interval.key().len() > 16);
        }
        let replayed = table.replay(row.table, &row.key, row.value.as_deref());
        if let Err(error) = &replayed {
            assert!(!error.to_string().is_empty());
        }
        if let Ok(places) = row.places() {
            for (net, _) in &places {
                let _ = table.lookup(net.addr(), now);
            }
            assert!(table.known_around(&places, now).len() >= places.len().min(1));
        }
    }
    let rows = listed(&table);
    let mut again = self::table();
    for row in &rows {
        again.replay(row.table, &row.key, row.value.as_deref()).expect("what was listed is read back");
    }
    assert_eq!(listed(&again), rows);
    let bindings = |table: &Table| table.bindings(now).collect::<Vec<_>>();
    assert_eq!(bindings(&again), bindings(&table));
}

/// A folder of its own, gone afterwards; in memory where there is such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("cloakway-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A log of a journal, as a crash or a bad disk left it: what is accepted is the same at the next start, and as it is read
/// from any place.
pub fn journal_log(bytes: &[u8]) {
    let folder = Folder::new();
    std::fs::write(folder.0.join("log-0"), bytes).expect("a file");
    let open = || {
        let mut records: Vec<Vec<u8>> = Vec::new();
        let journal = Journal::open(&folder.0, |record| {
            records.push(record.to_vec());
            Ok(())
        });
        journal.map(|journal| (journal, records))
    };
    let (journal, records) = match open() {
        Ok(opened) => opened,
        Err(error) => return assert!(error.to_string().contains("log-0"), "{error}"),
    };
    let end = *journal.end().borrow();
    assert_eq!((end.log, end.records), (0, records.len() as u64));
    let from = records.len() / 2;
    let mut reader = journal.read_from(Place { log: 0, records: from as u64 }).expect("readable").expect("there");
    let read = reader.read(end, usize::MAX).expect("readable").expect("there");
    assert_eq!(read.into_iter().map(|(_, record)| record).collect::<Vec<_>>(), records[from..]);
    drop(journal);
    let (_, again) = open().expect("what was opened once opens again");
    assert_eq!(again, records);
}

/// A stream of changes, whole and in pieces: the first octet says how long they are.
pub fn toolbox_stream(bytes: &[u8]) {
    let [piece, stream @ ..] = bytes else { return };
    let read = |length: usize| {
        let (mut reader, mut events) = (follow::Reader::new("before".to_owned()), Vec::new());
        let read = stream.chunks(length).try_for_each(|piece| reader.push(piece, |event| events.push(event)));
        (read, events, reader.last().to_owned())
    };
    let whole = read(stream.len().max(1));
    assert_eq!(whole, read(usize::from(*piece).max(1)), "however it is cut the same comes out");
    for event in whole.1 {
        if let Ok(data) = serde_json::from_str::<follow::Bindings>(&event.data) {
            let kept = follow::event(follow::CHANGED, Some("1"), &data);
            let mut again = Vec::new();
            follow::Reader::new(String::new()).push(&kept, |event| again.push(event)).expect("ours");
            assert_eq!(serde_json::from_str::<follow::Bindings>(&again[0].data).expect("ours"), data);
        }
    }
}

/// Frames that a tap hears: one, and the same octets as several, each behind its length.
pub fn tap_frame(bytes: &[u8]) {
    let (mut parts, mut rest) = (frame::Parts::new(), bytes);
    hear(&mut parts, bytes);
    while let [length, behind @ ..] = rest {
        let (frame, more) = behind.split_at(usize::from(*length).min(behind.len()));
        hear(&mut parts, frame);
        rest = more;
    }
    parts.forget(Instant::after_origin(Duration::from_secs(60)));
    let given_up = parts.given_up();
    assert!(given_up.count <= bytes.len() as u64 + 1 && given_up.sources.len() as u64 <= given_up.count);
}

fn hear(parts: &mut frame::Parts, bytes: &[u8]) {
    match frame::read(bytes) {
        Ok(Seen::Whole(udp)) => {
            assert!(udp.payload.len() + 42 <= bytes.len());
            assert_eq!(udp.source.is_ipv4(), udp.destination.is_ipv4());
        }
        Ok(Seen::Part(part)) => {
            assert_eq!(part.source.is_ipv4(), part.destination.is_ipv4());
            if let Some(udp) = parts.take(part, Instant::after_origin(Duration::ZERO)) {
                assert_eq!(udp.source.ip(), part.source);
            }
        }
        Err(NoUdp::Other) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Words of the configuration, a line each: what is read is written the same.
pub fn toolbox_words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut ranges = Vec::new();
    for word in text.lines() {
        if let Ok(ports) = word.parse::<Ports>() {
            assert!(ports.first() <= ports.last());
            assert_eq!(ports.to_string().parse(), Ok(ports));
        }
        if let Ok(range) = word.parse::<Range>() {
            assert_eq!(range.to_string().parse(), Ok(range));
            ranges.push(range);
        }
        if let Ok(identity) = word.parse::<Identity>() {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        if let Ok(place) = word.parse::<Place>() {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
    }
    if let Some(ranges) = Ranges::new(ranges) {
        for place in [0, 1, ranges.size() / 2, ranges.size() - 1] {
            if let Some(address) = ranges.at(place) {
                assert_eq!(ranges.place(address), Some(place));
            }
        }
        assert_eq!(ranges.at(ranges.size()), None);
    }
}
