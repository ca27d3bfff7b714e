//! Row T1 of the protocol's checklist: each base type has one wire form.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

use cloakway_types::Timestamp;
use ecash_wire::value::{
    Agreements, Amounts, Bytes, Currency, Functions, Minutes, Money, OrderId, PersonaBase, PersonaId, Rates, SessionId,
    Signed, Value,
};
use proptest::prelude::*;

fn refused<T: Value>(texts: &[&str]) {
    for text in texts {
        assert!(T::read(text).is_err(), "{text:?}");
    }
}

#[test]
fn t01_amounts_have_all_decimals_of_their_currency_and_no_others() {
    for (text, minor) in [
        ("usd 42.50", 4250),
        ("usd 0.05", 5),
        ("jpy 5000", 5000),
        ("kwd 1.001", 1001),
        ("xts 0.00", 0),
        ("jpy 1000000000000000", 1_000_000_000_000_000),
    ] {
        let money = Money::read(text).unwrap();
        assert_eq!((money.minor(), money.write().as_str()), (minor, text));
    }
    refused::<Money>(&[
        "usd 42.5",
        "usd 42",
        "usd 42.500",
        "usd 042.50",
        "usd .50",
        "usd +1.00",
        "usd  1.00",
        "usd1.00",
        "USD 1.00",
        "usd -1.00",
        "usd 1,00",
        "jpy 1.00",
        "jpy 01",
        "jpy 1000000000000001",
        "usd 10000000000000.01",
        "xau 1",
        "abc 1.00",
        "us 1.00",
        "",
        "jpy 99999999999999999999999",
        "usd 1.0x",
        "usd -0.00",
    ]);
    assert_eq!(Signed::read("usd -9.00").unwrap().0.minor(), -900);
    refused::<Signed>(&["usd --1.00", "usd -0.00", "jpy -0", "jpy -1000000000000001"]);
    refused::<Amounts>(&["usd 1.00;usd 2.00", "usd 1.00;", ";"]);
    assert_eq!(Money::new(Currency::TEST, 1_000_000_000_000_001), None);
}

#[test]
fn t01_dates_exist() {
    for (text, millis) in [
        ("19700101000000000", 0),
        ("20231114221320123", 1_700_000_000_123),
        ("20000229000000000", 951_782_400_000),
        ("99991231235959999", 253_402_300_799_999),
    ] {
        let at = Timestamp::read(text).unwrap();
        assert_eq!((at, at.write().as_str()), (Timestamp::from_millis(millis), text));
    }
    refused::<Timestamp>(&[
        "20230229000000000",
        "21000229000000000",
        "20231301000000000",
        "20230001000000000",
        "20230100000000000",
        "20230431000000000",
        "20230101240000000",
        "20230101006000000",
        "20230101000060000",
        "2023010100000000",
        "202301010000000000",
        "2023010100000000x",
        "19691231235959999",
        "+2023010100000000",
    ]);
}

#[test]
fn t01_ids_have_right_check_digits() {
    for (base, id) in [("dora", "dora-64"), ("kite", "kite-17"), ("brianb", "brianb-40")] {
        assert_eq!(PersonaBase::read(base).unwrap().with_check_digits(), PersonaId::read(id).unwrap());
        assert_eq!(PersonaId::read(&id.to_uppercase()).unwrap().as_str(), id);
    }
    refused::<PersonaId>(&[
        "dora", "dora-", "dora-65", "dora-6", "dora-064", "do-64", "d0ra-64", "dora--64", "dora-64 ",
    ]);
    refused::<PersonaBase>(&["ab", "1ab", "a_b", "", "abcdefghijklmnopqrstuvwxyz12345"]);
    refused::<OrderId>(&["", "a b", "a|b", "é", &"a".repeat(65)]);
    assert!(OrderId::read(&"a".repeat(64)).is_ok());
}

#[test]
fn t01_base64_is_canonical() {
    assert_eq!(SessionId::read("AAAAAAAAACk=").unwrap(), SessionId(0x29));
    assert_eq!(Bytes::read("AAAA\nAAAA\r\n AA==").unwrap().0, [0; 7]);
    refused::<Bytes>(&["AB==", "AA", "AA=", "AA===", "A===", "AA==A", "-_==", ""]);
    refused::<SessionId>(&["AAAAAAAAAC==", "AAAAAAAAACkA", "AAAA"]);
}

#[test]
fn t01_numbers_words_and_lists_have_one_form() {
    refused::<u64>(&["", "01", "+1", "-1", "18446744073709551616", "1.0", " 1"]);
    refused::<u16>(&["65536", "00", "0x1"]);
    assert_eq!(Minutes::read("0120").unwrap(), Minutes::read("120").unwrap());
    assert_eq!(Minutes(120).write(), "0120");
    refused::<Minutes>(&["0", "0000", "10000", "00120", "-1", "+120", "1e3", ""]);
    assert_eq!((bool::read("YES"), bool::read("no"), bool::read("y").is_err()), (Ok(true), Ok(false), true));
    assert_eq!(Functions::read("sale,unload").unwrap().write(), "charge,unload");
    refused::<Functions>(&["", "load,", "load,load", "sale,charge", "Load", "load, unload"]);
    refused::<Rates>(&["cad", "cad 0", "cad -1", "cad 1 cad 2", "cad 1.5", "cad  1", ""]);
    refused::<Agreements>(&["", "1,1", "1,,2", "01", "4294967296"]);
}

proptest! {
    #[test]
    fn t01_what_is_written_is_read(minor in -1_000_000_000_000_000_i64..=1_000_000_000_000_000, millis in 0_u64..253_402_300_800_000, id: u64, bytes in prop::collection::vec(any::<u8>(), 1..90), which in 0_usize..4) {
        let currency = Currency::read(["usd", "jpy", "kwd", "xts"][which]).unwrap();
        let signed = Signed(Money::new(currency, minor).unwrap());
        prop_assert_eq!(Signed::read(&signed.write()), Ok(signed));
        let at = Timestamp::from_millis(millis);
        prop_assert_eq!(Timestamp::read(&at.write()), Ok(at));
        prop_assert_eq!(SessionId::read(&SessionId(id).write()), Ok(SessionId(id)));
        prop_assert_eq!(u64::read(&id.write()), Ok(id));
        prop_assert_eq!(Bytes::read(&Bytes(bytes.clone()).write()), Ok(Bytes(bytes)));
    }

    #[test]
    fn t01_one_changed_digit_is_another_persona(base in "[a-z][a-z0-9]{2,29}", at: prop::sample::Index, to in "[a-z0-9]") {
        let id = PersonaBase::read(&base).unwrap().with_check_digits();
        prop_assert_eq!(&PersonaId::read(id.as_str()).unwrap(), &id);
        let mut changed: Vec<char> = id.as_str().chars().collect();
        let at = at.index(base.len());
        let was = std::mem::replace(&mut changed[at], to.chars().next().unwrap());
        prop_assume!(was != changed[at]);
        // Letters count for two digits: only a letter for a letter, or a digit for a digit, is sure to be seen.
        prop_assume!(was.is_ascii_digit() == changed[at].is_ascii_digit());
        prop_assert!(PersonaId::read(&changed.into_iter().collect::<String>()).is_err());
    }
}
