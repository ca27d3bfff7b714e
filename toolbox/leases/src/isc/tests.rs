use cloakway_types::Timestamp;
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::lease::{Lease, State};

fn read(text: &str) -> Vec<Record> {
    let mut records = Vec::new();
    Reader::new().push(text.as_bytes(), |record| records.push(record)).unwrap();
    records
}

fn lease(body: &str) -> Lease {
    match read(&format!("lease 192.0.2.7 {{\n{body}\n}}\n")).as_slice() {
        [Record::Lease(lease)] => (**lease).clone(),
        other => panic!("{other:?}"),
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const LEASE: &str = r#"  starts 0 2026/11/22 19:28:06;
  ends 0 2026/11/22 19:38:06;
  cltt 0 2026/11/22 19:28:06;
  binding state active;
  next binding state free;
  rewind binding state free;
  hardware ethernet 00:0c:01:02:03:04;
  uid "\001\000\014\001\002\"\004";
  set vendor-class-identifier = "a } { ; \" b";
  option agent.circuit-id 0:4:0:a;
  option agent.remote-id "line-17";
  client-hostname "box # 1";
  on expiry or release { set x = "1"; { log(info, "y"); } }"#;

#[test]
fn a_lease_reads_with_all_that_it_says() {
    let lease = lease(LEASE);
    assert_eq!(lease.net, net("192.0.2.7/32"));
    assert_eq!(lease.last, Timestamp::from_secs(1_795_375_686));
    assert_eq!(lease.state, State::Held { until: Some(Timestamp::from_secs(1_795_376_286)) });
    let holder = lease.holder;
    assert_eq!(holder.hardware.as_deref(), Some(&[0, 12, 1, 2, 3, 4][..]));
    assert_eq!(holder.client_id.as_deref(), Some(&[1, 0, 12, 1, 2, b'"', 4][..]));
    assert_eq!(holder.circuit_id.as_deref(), Some(&[0, 4, 0, 10][..]));
    assert_eq!(holder.remote_id.as_deref(), Some(&b"line-17"[..]));
    assert_eq!(holder.hostname.as_deref(), Some("box # 1"));
}

#[test]
fn every_binding_state_has_its_meaning() {
    let state = |state: &str| {
        let text = LEASE.replace("  binding state active;", &format!("  binding state {state};"));
        lease(&text).state
    };
    let ended = State::Over { at: Some(Timestamp::from_secs(1_795_376_286)) };
    for over in ["free", "expired", "released", "reset", "backup"] {
        assert_eq!(state(over), ended, "{over}");
    }
    assert_eq!(state("abandoned"), State::Declined);
    assert!(matches!(state("bootp"), State::Held { .. }));
    let unknown = read("lease 192.0.2.7 {\n starts 0 2026/11/22 19:28:06;\n binding state odd;\n}\n");
    assert!(matches!(unknown.as_slice(), [Record::Damaged(damage)] if damage.about == [net("192.0.2.7/32")]));
}

#[test]
fn a_lease_that_never_ends_and_times_by_the_epoch_read() {
    let lease = lease("starts epoch 1000; # Thu Jan  1 00:16:40 1970 }\n ends never;\n binding state active;");
    assert_eq!((lease.last, lease.state), (Timestamp::from_secs(1000), State::Held { until: None }));
    let wrong = read("lease 192.0.2.7 { starts 4 2026/13/01 00:00:00; ends never; }\n");
    assert!(matches!(wrong.as_slice(), [Record::Damaged(damage)] if damage.reason.contains("no date")), "{wrong:?}");
}

#[test]
fn days_are_counted_as_the_calendar_has_them() {
    let at = |day: &str| lease(&format!("starts 1 {day} 00:00:00;\n ends never;")).last.civil();
    assert_eq!(at("2000/02/29"), (2000, 2, 29, 0, 0, 0));
    assert_eq!(at("1970/01/01"), (1970, 1, 1, 0, 0, 0));
    assert_eq!(at("2099/12/31"), (2099, 12, 31, 0, 0, 0));
}

#[test]
fn associations_of_dhcpv6_read_with_addresses_and_prefixes() {
    let text = r#"# comment with { and "
authoring-byte-order little-endian;
server-duid "\000\001\000\0012\225";

ia-na "\001\000\000\000\000\001\000\0012" {
  cltt 0 2026/11/22 19:28:06;
  iaaddr 2001:db8:77::1003 {
    binding state active;
    preferred-life 375;
    max-life 600;
    ends 0 2026/11/22 19:38:06;
    set ddns-fwd-name = "x";
  }
}

ia-pd "\001\000\000\000\000\001\000\0012" {
  cltt 0 2026/11/22 19:28:06;
  iaprefix 2001:db8:8000:300::/56 {
    binding state released;
    ends 0 2026/11/22 19:38:06;
  }
}
"#;
    let records = read(text);
    let [Record::Association { key: na, leases, .. }, Record::Association { key: pd, leases: prefixes, .. }] =
        records.as_slice()
    else {
        panic!("{records:?}")
    };
    assert_ne!(na, pd, "an association of addresses is not that of prefixes");
    assert_eq!(leases[0].net, net("2001:db8:77::1003/128"));
    assert_eq!(leases[0].holder.duid.as_deref(), Some(&[0, 1, 0, 1, b'2'][..]));
    assert_eq!(prefixes[0].net, net("2001:db8:8000:300::/56"));
    assert!(matches!(prefixes[0].state, State::Over { at: Some(_) }));
}

#[test]
fn what_is_about_no_lease_is_passed_over() {
    let text = "failover peer \"a\" state {\n  my state normal at 0 2026/11/22 19:28:06;\n}\n\
                host x {\n  dynamic;\n  hardware ethernet 00:0c:01:02:03:04;\n}\n";
    assert_eq!(read(text), []);
}

#[test]
fn a_declaration_that_was_torn_is_damage_and_the_next_one_reads() {
    let records = read(&format!("lease 192.0.2.9 {{\n  starts 0 2026/11/22 19:2\nlease 192.0.2.7 {{\n{LEASE}\n}}\n"));
    let [Record::Damaged(damage), Record::Lease(lease)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((damage.line, damage.about.as_slice()), (1, &[net("192.0.2.9/32")][..]));
    assert_eq!(lease.net, net("192.0.2.7/32"));
    let in_a_text = read(&format!("lease 192.0.2.9 {{\n  uid \"ab\nlease 192.0.2.7 {{\n{LEASE}\n}}\n"));
    assert!(matches!(in_a_text.as_slice(), [Record::Damaged(_), Record::Lease(_)]), "{in_a_text:?}");
}

#[test]
fn what_never_ends_is_refused() {
    let mut reader = Reader::new();
    let error = reader.push(&vec![b'x'; LONGEST + 1], |_| {}).unwrap_err();
    assert_eq!(error.line, 1);
}

proptest! {
    #[test]
    fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Reader::new().push(&octets, |_| {});
        let inside = [b"lease 192.0.2.1 { ", octets.as_slice(), b" }"].concat();
        let _ = Reader::new().push(&inside, |_| {});
    }

    #[test]
    fn however_it_is_cut_the_same_comes_out(cuts in proptest::collection::vec(0..900_usize, 0..8)) {
        let text = format!("lease 192.0.2.9 {{\n  starts\nlease 192.0.2.7 {{\n{LEASE}\n}}\nhost a {{ }}\nlease 192.0.2.8 {{\n{LEASE}\n}}\n");
        let whole = read(&text);
        prop_assert_eq!(whole.len(), 3);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let (mut reader, mut pieces) = (Reader::new(), Vec::new());
        for pair in cuts.windows(2) {
            reader.push(&text.as_bytes()[pair[0]..pair[1]], |record| pieces.push(record)).unwrap();
        }
        prop_assert_eq!(pieces, whole);
    }
}
