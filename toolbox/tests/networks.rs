//! What real networks do, over UDP to the running toolbox.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use running::{INTERIM, Nas, SECRET, START, STOP, Toolbox, now_s};
use serde_json::json;
use toolbox_wire::radius::{Request, build_request};

const ALICE: &str = "alice@isp.example";
const BOB: &str = "bob@isp.example";
const A: [u8; 4] = [198, 51, 100, 70];
const AT: &str = "198.51.100.70";

/// Attributes of a record, to be added to.
struct Record(Vec<(u8, Vec<u8>)>);

impl Record {
    fn of(status: u8, session: &str, user: &str) -> Self {
        Self(vec![(40, vec![0, 0, 0, status]), (44, session.into()), (1, user.into())])
    }

    fn with(mut self, kind: u8, value: impl Into<Vec<u8>>) -> Self {
        self.0.push((kind, value.into()));
        self
    }

    fn at(self, s: u32) -> Self {
        self.with(55, s.to_be_bytes())
    }

    fn edge(self) -> Self {
        self.with(32, "edge")
    }

    fn attributes(&self) -> Vec<(u8, &[u8])> {
        self.0.iter().map(|(kind, value)| (*kind, value.as_slice())).collect()
    }

    fn tell(&self, nas: &mut Nas) {
        let packet = nas.packet(&self.attributes());
        assert_eq!(nas.tell(&packet)[1], packet[1]);
    }
}

fn start() -> (Toolbox, Nas) {
    let toolbox = Toolbox::start();
    let nas = Nas::new("127.0.0.1:0", toolbox.radius);
    (toolbox, nas)
}

#[test]
fn the_address_may_come_in_the_first_interim_update() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    Record::of(START, "s", ALICE).edge().with(8, [0, 0, 0, 0]).at(now - 20).tell(&mut nas);
    assert_eq!(toolbox.reason(ALICE, AT), "no-session");
    assert_eq!(toolbox.show("bindings").unwrap(), json!([]), "0.0.0.0 is nobody's");
    Record::of(INTERIM, "s", ALICE).edge().with(8, A).at(now - 10).tell(&mut nas);
    assert!(toolbox.live(ALICE, AT));
}

#[test]
fn delayed_doubled_and_reordered_records_are_put_in_their_order() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    let record = |status, session, user, at: u32| Record::of(status, session, user).edge().with(8, A).at(at);
    // Alice's Interim-Update and Stop, and Bob's Start, arrive the wrong way round, the late ones with their delay.
    record(START, "a", ALICE, now - 300).tell(&mut nas);
    record(START, "b", BOB, now - 100).tell(&mut nas);
    record(STOP, "a", ALICE, now - 110).with(41, 110_u32.to_be_bytes()).tell(&mut nas);
    record(INTERIM, "a", ALICE, now - 200).with(41, 200_u32.to_be_bytes()).tell(&mut nas);
    assert!(toolbox.live(BOB, AT));
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
    // The same again, as other packets.
    record(STOP, "a", ALICE, now - 110).with(41, 115_u32.to_be_bytes()).tell(&mut nas);
    record(START, "a", ALICE, now - 300).with(41, 305_u32.to_be_bytes()).tell(&mut nas);
    assert!(toolbox.live(BOB, AT));
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
}

#[test]
fn an_interim_update_after_the_stop_opens_nothing() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    let record = |status, at: u32| Record::of(status, "s", ALICE).edge().with(8, A).at(at);
    record(START, now - 60).tell(&mut nas);
    record(STOP, now - 30).tell(&mut nas);
    record(INTERIM, now - 40).tell(&mut nas);
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
    record(INTERIM, now - 20).tell(&mut nas);
    assert!(!toolbox.live(ALICE, AT), "it contradicts the Stop, which came first");
}

#[test]
fn accounting_on_and_off_end_every_session_of_that_nas_alone() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    for status in [7, 8] {
        Record::of(START, "s", ALICE).edge().with(8, A).at(now - 60).tell(&mut nas);
        Record::of(START, "t", BOB).with(32, "other").with(8, [198, 51, 100, 71]).at(now - 60).tell(&mut nas);
        assert!(toolbox.live(BOB, "198.51.100.71"));
        Record(vec![(40, vec![0, 0, 0, status])]).edge().at(now - 50).tell(&mut nas);
        assert_eq!(toolbox.reason(ALICE, AT), "ended");
        assert!(toolbox.live(BOB, "198.51.100.71"));
    }
}

#[test]
fn a_session_whose_stop_never_comes_is_not_believed_for_ever() {
    let toolbox = Toolbox::start_with("max-age-s = 60");
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    let now = now_s();
    Record::of(START, "s", ALICE).edge().with(8, A).at(now - 70).tell(&mut nas);
    assert_eq!(toolbox.reason(ALICE, AT), "stale");
    // Who has the address next is not charged for it, nor is the first one.
    Record::of(START, "t", BOB).edge().with(8, A).at(now).tell(&mut nas);
    assert!(!toolbox.live(ALICE, AT));
}

#[test]
fn an_address_is_somebody_elses_within_the_second() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    let record = |status, session, user, at: u32| Record::of(status, session, user).edge().with(8, A).at(at);
    record(START, "s", ALICE, now - 60).tell(&mut nas);
    record(STOP, "s", ALICE, now - 5).tell(&mut nas);
    record(START, "t", BOB, now - 5).tell(&mut nas);
    assert!(toolbox.live(BOB, AT));
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
}

#[test]
fn one_session_has_ipv4_and_several_prefixes_and_all_end_with_it() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    let prefix = |length: u8, octets: &[u8]| [&[0, length], octets].concat();
    let of =
        |status, at: u32| Record::of(status, "s", ALICE).edge().with(50, "multi").with(89, "cui").with(8, A).at(at);
    of(START, now - 60)
        .with(97, prefix(64, &[0x20, 1, 0x0d, 0xb8, 0x51, 0, 0, 0x64]))
        .with(97, prefix(64, &[0x20, 1, 0x0d, 0xb8, 0x51, 0, 0, 0x65]))
        .with(123, prefix(56, &[0x20, 1, 0x0d, 0xb8, 0x51, 0, 0x64]))
        .with(123, prefix(56, &[0x20, 1, 0x0d, 0xb8, 0x51, 0, 0x65]))
        .with(168, [0x20, 1, 0x0d, 0xb8, 0x51, 0, 0, 0x66, 0, 0, 0, 0, 0, 0, 0, 9])
        .tell(&mut nas);
    let all = [
        AT,
        "2001:db8:5100:64::1",
        "2001:db8:5100:65::1",
        "2001:db8:5100:64ff::1",
        "2001:db8:5100:65ff::1",
        "2001:db8:5100:66::9",
    ];
    for address in all {
        assert!(toolbox.live(ALICE, address), "{address}");
    }
    assert_eq!(toolbox.reason(ALICE, "2001:db8:5100:66::8"), "no-session");
    of(STOP, now - 30).tell(&mut nas);
    for address in all {
        assert_eq!(toolbox.reason(ALICE, address), "ended", "{address}");
    }
}

#[test]
fn different_records_may_have_the_same_packet_identifier() {
    let (toolbox, nas) = start();
    let now = now_s();
    let tell = |status, at: u32| {
        let record = Record::of(status, "s", ALICE).edge().with(8, A).at(at);
        let packet =
            build_request(Request::Accounting, 9, &record.attributes(), SECRET.as_bytes(), [0; 16], false).unwrap();
        nas.tell(&packet)
    };
    let first = tell(START, now - 60);
    assert_eq!(tell(START, now - 60), first, "a copy");
    assert!(toolbox.live(ALICE, AT));
    assert_ne!(tell(STOP, now - 30), first);
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
    let edge = toolbox.show("sources").unwrap()["clients"][0].clone();
    assert_eq!((&edge["acknowledged"], &edge["copies"]), (&json!(2), &json!(1)));
}

#[test]
fn a_nas_may_be_known_by_ipv6_alone() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    let one = "2001:db8:5100:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let other = "2001:db8:5100:1::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    Record::of(START, "s", ALICE).with(95, one).with(8, A).at(now - 60).tell(&mut nas);
    Record::of(START, "s", BOB).with(95, other).with(8, [198, 51, 100, 71]).at(now - 60).tell(&mut nas);
    assert!(toolbox.live(ALICE, AT) && toolbox.live(BOB, "198.51.100.71"), "two sessions of one name");
    Record::of(STOP, "s", ALICE).with(95, one).at(now - 30).tell(&mut nas);
    assert_eq!(toolbox.reason(ALICE, AT), "ended");
    assert!(toolbox.live(BOB, "198.51.100.71"));
}

#[test]
fn a_clock_may_be_off_by_minutes() {
    let (toolbox, mut nas) = start();
    let now = now_s();
    for (session, off, address) in [("ahead", 300_i64, 70_u8), ("behind", -300, 71)] {
        let at = |s: i64| u32::try_from(i64::from(now) + off + s).unwrap();
        let record =
            |status, s| Record::of(status, session, ALICE).with(32, session).with(8, [198, 51, 100, address]).at(at(s));
        let address = format!("198.51.100.{address}");
        record(START, -60).tell(&mut nas);
        let verdict = toolbox.verify(ALICE, &address);
        assert_eq!(verdict["live"], json!(true), "{session}");
        let proved: String = serde_json::from_value(verdict["proved_at"].clone()).unwrap();
        let latest = toolbox_wire_time(now_s() + 1);
        assert!(proved <= latest, "{session}: proved at {proved}, and it is not later than {latest}");
        record(STOP, -30).tell(&mut nas);
        assert_eq!(toolbox.reason(ALICE, &address), "ended", "{session}");
    }
}

fn toolbox_wire_time(s: u32) -> String {
    cloakway_types::Timestamp::from_secs(u64::from(s)).to_string()
}

#[test]
fn several_sockets_take_what_several_nases_send_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = Toolbox::start_in(folder, "", "workers = 3\nreceive-buffer-kib = 1024", "");
    let now = now_s();
    let mut nases: Vec<Nas> = (0..12).map(|_| Nas::new("127.0.0.1:0", toolbox.radius)).collect();
    let mut sent = Vec::new();
    for (n, nas) in (0_u8..).zip(&mut nases) {
        let record = Record::of(START, &format!("s{n}"), &format!("user{n}"));
        let record = record.edge().with(8, [198, 51, 100, 65 + n]).at(now - 5);
        let packet = nas.packet(&record.attributes());
        nas.send(&packet);
        sent.push(packet);
    }
    for (nas, packet) in nases.iter().zip(&sent) {
        let answer = nas.receive(running::PATIENCE).expect("an answer");
        assert_eq!(answer[1], packet[1]);
        assert_eq!(nas.tell(packet), answer, "a copy comes to the socket that knows the answer");
    }
    for n in 0..12 {
        assert!(toolbox.live(&format!("user{n}"), &format!("198.51.100.{}", 65 + n)));
    }
    let sources = toolbox.show("sources").unwrap();
    assert_eq!((&sources["clients"][0]["acknowledged"], &sources["clients"][0]["copies"]), (&json!(12), &json!(12)));
    assert_eq!(sources["kernel_drops"].as_object().unwrap().len(), 1);
}

#[test]
fn where_names_are_pseudonyms_the_chargeable_identity_is_the_subscriber() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("radius.secret").display().to_string();
    let client = format!(
        "[[radius.clients]]\nname = \"roaming\"\nprefix = \"127.0.0.7/32\"\nsecret-file = \"{secret}\"\n\
         subscriber = \"chargeable-user-identity\"\n"
    );
    let toolbox = Toolbox::start_in(folder, "", "", &client);
    let mut nas = Nas::new("127.0.0.7:0", toolbox.radius);
    let now = now_s();
    Record::of(START, "s", "anonymous@isp.example").edge().with(89, ALICE).with(8, A).at(now - 5).tell(&mut nas);
    assert!(toolbox.live(ALICE, AT));
    assert_eq!(toolbox.reason("anonymous@isp.example", AT), "no-session");
    let of = Record::of(START, "t", BOB).edge().with(89, [0]).with(8, [198, 51, 100, 71]);
    of.at(now - 5).tell(&mut nas);
    assert_eq!(toolbox.reason(BOB, "198.51.100.71"), "no-session", "its identity was asked for and not told");
}
