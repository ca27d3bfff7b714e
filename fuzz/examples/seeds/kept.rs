//! What the toolbox keeps, and what its readers are sent.

use std::time::Duration;

use cloakway_store::Journal;
use cloakway_types::Timestamp;
use toolbox_core::{Event, Settings, Table};
use toolbox_wire::follow::{self, Bindings, End, EndReason, Reset, ResetReason};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Address, AddressKind, Change, EventTime, Nas, Ports, Record, SessionRecord, User};

use super::Seeds;

fn at(s: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + s)
}

fn events() -> Vec<Event> {
    let nas = Nas { identifier: Some("edge".into()), v4: Some([192, 0, 2, 1].into()), v6: None };
    let named = |name: &str| User::Named(name.parse().expect("a name"));
    let whole = |kind, net: &str| Address::whole(kind, net.parse().expect("a prefix"));
    let block = Address::ports(AddressKind::PortBlock, [203, 0, 113, 1].into(), Ports::new(1024, 2047).expect("ports"));
    let session = |change, session: &str, user, addresses, s| {
        Record::Session(SessionRecord {
            change,
            session: session.into(),
            user,
            nas: nas.clone(),
            addresses,
            time: EventTime::stated(at(s), at(s)),
            until: (s == 3).then(|| at(4000)),
        })
    };
    let both = vec![
        whole(AddressKind::FramedV4, "198.51.100.70/32"),
        whole(AddressKind::DelegatedPrefixV6, "2001:db8:5100::/56"),
    ];
    let records = vec![
        session(Change::Start, "a", named("alice"), both.clone(), 1),
        session(Change::Interim, "a", named("alice"), both, 2),
        session(Change::Start, "b", User::Behind([198, 51, 100, 70].into()), vec![block], 3),
        session(Change::Start, "c", named("carol"), vec![whole(AddressKind::Lease, "198.51.100.70/32")], 4),
        session(Change::Stop, "a", User::Unstated, Vec::new(), 5),
        Record::NasReset { nas: Nas::default(), time: EventTime::stated(at(6), at(6)) },
    ];
    let event = |(index, record)| Event {
        source: Source::Radius,
        client: "edge".into(),
        record,
        arrival: at(index as u64 + 1),
    };
    records.into_iter().enumerate().map(event).collect()
}

fn encoded() -> Vec<Vec<u8>> {
    let prefixes = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().expect("a prefix"), ()));
    let mut table = Table::new(Settings {
        prefixes: prefixes.into_iter().collect(),
        max_age: Duration::from_secs(1800),
        max_delay: Duration::from_secs(20),
        translators: Vec::new(),
    });
    events().iter().flat_map(|event| table.apply(event).rows).map(|row| row.encode()).collect()
}

pub(super) fn rows() -> Seeds {
    let behind_length =
        |record: &Vec<u8>| [vec![u8::try_from(record.len()).expect("a short row")], record.clone()].concat();
    let all: Vec<Vec<u8>> = encoded().iter().map(behind_length).collect();
    vec![("all", all.concat()), ("first", all[..2].concat()), ("last", all[all.len() - 3..].concat())]
}

pub(super) fn log() -> Seeds {
    let folder = std::env::temp_dir().join(format!("cloakway-seeds-{}", std::process::id()));
    let journal = Journal::open(&folder, |_| Ok(())).expect("a journal");
    for records in encoded().chunks(3) {
        journal.append_blocking(records.to_vec()).expect("it is written");
    }
    drop(journal);
    let log = std::fs::read(folder.join("log-0")).expect("a log");
    std::fs::remove_dir_all(&folder).expect("it is there");
    vec![("torn", log[..log.len() - 5].to_vec()), ("whole", log)]
}

pub(super) fn streams() -> Seeds {
    let data = r#"{"bindings":[{"prefix":"198.51.100.70/32","ports":"1024-2047/17","state":"translated","behind":"10.0.0.1","source":"cgnat","since":"2023-11-14T22:13:20.123Z","proved_at":"2023-11-14T22:13:20.123Z","until":"2023-11-14T22:43:20.123Z"},{"prefix":"2001:db8::/56","state":"unknown","reason":"overlap"}]}"#;
    let data: Bindings = serde_json::from_str(data).expect("it is ours");
    let stream = [
        follow::event(follow::RESET, Some(""), &Reset { reason: ResetReason::Gone }),
        follow::event(follow::BINDINGS, None, &data),
        follow::event(follow::LISTED, Some("5f0c6a1b2d3e4f50-0-7"), &serde_json::json!({})),
        follow::event(follow::CHANGED, Some("5f0c6a1b2d3e4f50-0-8"), &data),
        follow::alive(Some("5f0c6a1b2d3e4f50-0-9")),
        follow::event(follow::END, None, &End { reason: EndReason::Slow }),
    ];
    vec![
        ("ours", [vec![7], stream.concat()].concat()),
        ("standard", b"\x03\xef\xbb\xbfdata: a\r\ndata:b\r\rid\n\n:x\n".to_vec()),
    ]
}

pub(super) fn frames() -> Seeds {
    let ethernet = |kind: [u8; 2], tags: &[u8]| [&[0x02; 12], tags, &kind].concat();
    let udp = [&[0x07, 0x14, 0x07, 0x15, 0, 12, 0, 0][..], b"data"].concat();
    let v4 = |fragment: [u8; 2]| {
        let head = [0x45, 0, 0, 32, 0, 1, fragment[0], fragment[1], 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        [ethernet([8, 0], &[]), head.to_vec(), udp.clone()].concat()
    };
    let address = |last: u8| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let v6 = [&[0x60, 0, 0, 0, 0, 20, 44, 64][..], &address(1), &address(2), &[17, 0, 0, 0, 0, 0, 0, 1], &udp].concat();
    let tagged = [ethernet([0x86, 0xdd], &[0x81, 0, 0, 5]), v6].concat();
    vec![("v4", v4([0, 0])), ("fragment", v4([0x20, 0])), ("rest", v4([0, 3])), ("v6-tagged", tagged)]
}

pub(super) fn words() -> Seeds {
    let words = "1024-2047\n1024-2047/17\n0-65535\n100.64.0.0/22\n100.65.0.1-100.65.3.254\n192.0.2.1\nhw-address\n\
                 user-context/line/name\n3-120\n";
    vec![("all", words.into())]
}
