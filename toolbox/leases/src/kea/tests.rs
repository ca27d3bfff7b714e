use proptest::prelude::*;

use super::*;
use crate::book::{Book, Now};

/// As Kea 2.2 writes it.
const V4: &str =
    "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n";
const V6: &str = "address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,\
                  fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source\n";

fn read(text: &str) -> Vec<Record> {
    let mut records = Vec::new();
    Reader::new().push(text.as_bytes(), |record| records.push(record)).unwrap();
    records
}

fn lease(header: &str, row: &str) -> Lease {
    match read(&format!("{header}{row}\n")).as_slice() {
        [Record::Lease(lease)] => (**lease).clone(),
        other => panic!("{other:?}"),
    }
}

fn damage(header: &str, row: &str) -> Damage {
    match read(&format!("{header}{row}\n")).as_slice() {
        [Record::Damaged(damage)] => damage.clone(),
        other => panic!("{other:?}"),
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_lease_of_kea_2_2_reads() {
    let lease = lease(V4, "10.77.1.0,00:0c:01:02:03:04,01:00:0c:01:02:03:04,60,1795375746,1,0,0,,0,");
    assert_eq!(lease.net, "10.77.1.0/32".parse().unwrap());
    assert_eq!(lease.holder.hardware.as_deref(), Some(&[0, 12, 1, 2, 3, 4][..]));
    assert_eq!(lease.holder.client_id.as_deref(), Some(&[1, 0, 12, 1, 2, 3, 4][..]));
    assert_eq!(lease.holder.hostname, None);
    assert_eq!(lease.last, Timestamp::from_secs(1_795_375_686));
    assert_eq!(lease.state, State::Held { until: Some(Timestamp::from_secs(1_795_375_746)) });
}

#[test]
fn a_delegated_prefix_reads_and_a_temporary_address_too() {
    let duid = "00:01:00:01:32:95:fe:ff:00:0c:01:02:03:04";
    let row = |what: &str| format!("{what},0,0,,00:0c:01:02:03:04,0,,1,2");
    let pd = lease(V6, &row(&format!("2001:db8:8000:100::,{duid},60,1795375803,1,40,2,3507587453,56")));
    assert_eq!(pd.net, "2001:db8:8000:100::/56".parse().unwrap());
    assert_eq!((pd.holder.iaid, pd.holder.duid.map(|duid| duid.len())), (Some(3_507_587_453), Some(14)));
    let ta = lease(V6, &row(&format!("2001:db8:77::1000,{duid},60,1795375803,1,40,1,1,128")));
    assert_eq!(ta.net, "2001:db8:77::1000/128".parse().unwrap());
    let wrong = damage(V6, &row(&format!("2001:db8:8000:100::1,{duid},60,1795375803,1,40,2,1,56")));
    assert!(wrong.reason.contains("host bits"), "{wrong}");
    assert_eq!(wrong.about, nets(&["2001:db8:8000:100::/56"]), "the prefix that was meant");
}

#[test]
fn columns_are_found_by_name_in_any_order_and_unknown_ones_are_passed_over() {
    let lease = lease("expire,pool_id,address,weather,valid_lifetime\n", "1000,7,192.0.2.1,rain,100");
    assert_eq!((lease.net, lease.last), ("192.0.2.1/32".parse().unwrap(), Timestamp::from_secs(900)));
    assert_eq!(lease.state, State::Held { until: Some(Timestamp::from_secs(1000)) });
}

#[test]
fn a_file_without_the_columns_of_a_lease_is_refused() {
    let push = |text: &str| Reader::new().push(text.as_bytes(), |_| {});
    assert_eq!(push("address,expire\n"), Err(HeaderError::Missing("valid_lifetime")));
    assert_eq!(push("address,address,expire\n"), Err(HeaderError::Twice("address".into())));
    assert_eq!(push(&"x".repeat(LONGEST_LINE + 1)), Err(HeaderError::TooLong));
}

#[test]
fn every_state_of_kea_has_its_meaning() {
    let state =
        |life: u64, expire: u64, state: &str| lease(V4, &format!("192.0.2.1,,,{life},{expire},1,0,0,,{state},")).state;
    assert_eq!(state(60, 160, "0"), State::Held { until: Some(Timestamp::from_secs(160)) });
    assert_eq!(state(FOR_EVER, FOR_EVER + 5, "0"), State::Held { until: None });
    assert_eq!(state(60, 160, "1"), State::Declined);
    assert_eq!(state(60, 160, "2"), State::Over { at: Some(Timestamp::from_secs(160)) });
    assert_eq!(state(60, 160, "3"), State::Over { at: None });
    assert_eq!(state(0, 100, "0"), State::Over { at: None });
    assert!(damage(V4, "192.0.2.1,,,60,160,1,0,0,,9,").reason.contains("state"));
}

#[test]
fn a_comma_in_a_field_is_taken_back_and_what_only_looks_like_one_stays() {
    let context = r#"{ "ISC": { "relay-agent-info": "0x0104000a000b02036c3137" }&#x2c "note": "a&#x26;#x2cb" }"#;
    let lease = lease(V4, &format!("192.0.2.1,,,60,160,1,0,0,a&#x2cb,0,{context}"));
    assert_eq!(lease.holder.hostname.as_deref(), Some("a,b"));
    assert_eq!(lease.holder.circuit_id.as_deref(), Some(&[0, 10, 0, 11][..]));
    assert_eq!(lease.holder.remote_id.as_deref(), Some(&b"l17"[..]));
    assert_eq!(plain("&#x2"), "&#x2");
    assert_eq!(plain("&#x26#x2c"), "&#x2c", "an escaped escape is not one");
    assert_eq!(plain("&#xzz&#x2C"), "&#xzz,");
}

#[test]
fn the_relay_next_to_the_client_says_which_line_it_is_in_every_version() {
    let with = |context: &str| {
        let context = context.replace(',', "&#x2c");
        let row = format!("2001:db8::1,00:01:02:03:04:05:06:07,60,160,1,40,0,1,128,0,0,,,0,{context},,");
        lease(V6, &row).holder
    };
    let far = r#"{ "hop": 1, "options": "0x0012000178" }"#;
    let near = r#"{ "hop": 0, "options": "0x00120002706900250006000000096c31" }"#;
    for name in ["relays", "relay-info"] {
        let holder = with(&format!(r#"{{ "ISC": {{ "{name}": [ {far}, {near} ] }} }}"#));
        assert_eq!(holder.circuit_id.as_deref(), Some(&b"pi"[..]));
        assert_eq!(holder.remote_id.as_deref(), Some(&b"l1"[..]), "without the enterprise number");
    }
    let newer = r#"{ "ISC": { "relay-agent-info": { "sub-options": "0x02026c32", "remote-id": "0x6c32" } } }"#;
    assert_eq!(with(newer).remote_id.as_deref(), Some(&b"l2"[..]));
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let mut reader = Reader::new();
    let mut records = Vec::new();
    for piece in [V4, "192.0.2.1,,,60,1", "60,1,0,0,,0,", "\n192.0.2.2"] {
        reader.push(piece.as_bytes(), |record| records.push(record)).unwrap();
    }
    assert!(matches!(records.as_slice(), [Record::Lease(lease)] if lease.net == "192.0.2.1/32".parse().unwrap()));
    assert!(reader.is_torn());
}

#[test]
fn a_line_that_was_torn_and_joined_to_the_next_makes_both_addresses_doubtful() {
    // Kea died while it wrote the lease of .17, and went on with that of .7 when it was started again.
    let torn = damage(V4, "192.0.2.1192.0.2.7,,,60,160,1,0,0,,0,");
    assert!(torn.about.contains(&"192.0.2.7/32".parse().unwrap()), "{torn:?}");
    let later = damage(V4, "192.0.2.17,00:0c:01192.0.2.7,,,60,160,1,0,0,,0,");
    for net in nets(&["192.0.2.17/32", "192.0.2.7/32"]) {
        assert!(later.about.contains(&net), "{later:?}");
    }
    assert_eq!(damage(V4, "garbage").about, []);
    assert_eq!(damage(V4, "garbage").line, 2);
}

#[test]
fn a_line_that_was_left_and_gone_on_with_is_damage_even_if_it_reads() {
    let mut reader = Reader::new();
    let mut records = Vec::new();
    reader.push(format!("{V4}1").as_bytes(), |record| records.push(record)).unwrap();
    reader.halt();
    reader
        .push(b"10.77.1.20,,,60,160,1,0,0,,0,\n10.77.1.21,,,60,160,1,0,0,,0,\n", |record| records.push(record))
        .unwrap();
    let [Record::Damaged(damage), Record::Lease(_)] = records.as_slice() else { panic!("{records:?}") };
    assert!(damage.about.contains(&"10.77.1.20/32".parse().unwrap()), "{damage:?}");
}

#[test]
fn an_over_long_line_is_damage_and_the_next_one_reads() {
    let long = format!("192.0.2.1,{}\n", "a".repeat(LONGEST_LINE));
    let records = read(&format!("{V4}{long}192.0.2.2,,,60,160,1,0,0,,0,\n"));
    let [Record::Damaged(damage), Record::Lease(lease)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((damage.about.as_slice(), lease.net), (&nets(&["192.0.2.1/32"])[..], "192.0.2.2/32".parse().unwrap()));
}

fn row() -> impl Strategy<Value = (u8, u8, u64, u64, u8)> {
    (1..6_u8, 1..4_u8, prop_oneof![Just(0_u64), 1..100_u64], 1000..2000_u64, 0..3_u8)
}

proptest! {
    #[test]
    fn no_octets_break_it(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut reader = Reader::new();
        let _ = reader.push(V4.as_bytes(), |_| {});
        let _ = reader.push(&octets, |_| {});
        let _ = Reader::new().push(&octets, |_| {});
    }

    #[test]
    fn however_it_is_cut_the_same_comes_out(
        rows in proptest::collection::vec(row(), 0..12), cuts in proptest::collection::vec(0..400_usize, 0..6),
    ) {
        let text: String = V4.to_owned() + &rows.iter().map(|(address, client, life, last, state)| {
            format!("192.0.2.{address},02:00:00:00:00:0{client},,{life},{},1,0,0,,{state},\n", last + life)
        }).collect::<String>();
        let whole = read(&text);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let (mut reader, mut pieces) = (Reader::new(), Vec::new());
        for pair in cuts.windows(2) {
            reader.push(&text.as_bytes()[pair[0]..pair[1]], |record| pieces.push(record)).unwrap();
        }
        prop_assert_eq!(&pieces, &whole);

        // The last line of an address counts.
        let mut book = Book::new();
        for record in &whole {
            book.take(record);
        }
        for address in 1..6_u8 {
            let last = rows.iter().rev().find(|row| row.0 == address);
            let expected = last.and_then(|(_, client, life, _, state)| match (life, state) {
                (0, _) | (_, 2) => None,
                (_, 1) => Some(None),
                _ => Some(Some(*client)),
            });
            let known = book.get(IpAddr::from([192, 0, 2, address]).into()).map(|now| match now {
                Now::Held { holder, .. } => holder.hardware.as_ref().map(|octets| octets[5]),
                _ => None,
            });
            prop_assert_eq!(known, expected);
        }
    }
}
