//! The books under random operations: nothing is made, nothing is lost, and the entries prove every balance.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "a test has no API")]

use std::time::Duration;

use cloakway_types::Timestamp;
use ecash_wire::value::{Currency, Money, PersonaBase, PersonaId, SessionId, Value};
use proptest::prelude::*;
use transact_ledger::{
    Account, AuditError, BindingId, Books, Cause, Direction, Entry, Event, HoldError, HoldState, Holds, LedgerError,
    Outcome, Posting,
};

fn persona(n: u8) -> PersonaId {
    PersonaBase::read(&format!("holder{n}")).unwrap().with_check_digits()
}

fn money(minor: i64) -> Money {
    Money::new(Currency::TEST, minor).unwrap()
}

fn at(n: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + n)
}

const CAUSE: Cause = Cause { event: Event::Payment, log: None };

fn accounts() -> Vec<Account> {
    let mut accounts = vec![Account::Clearing, Account::Fees, Account::Exchange];
    for n in 0..3 {
        accounts.push(Account::Available(persona(n)));
        accounts.push(Account::OnHold(persona(n)));
        accounts.push(Account::Session(SessionId(u64::from(n))));
    }
    accounts
}

#[test]
fn an_entry_that_does_not_balance_or_overdraws_changes_nothing() {
    let mut books = Books::default();
    let (a, b) = (Account::Available(persona(0)), Account::Available(persona(1)));
    let load = vec![Posting::take(Account::Clearing, money(100)), Posting::add(a.clone(), money(100))];
    books.post(at(0), CAUSE, load).unwrap();
    let before = books.clone();
    let yen = Money::new(Currency::read("jpy").unwrap(), 5).unwrap();
    for (postings, wrong) in [
        (vec![Posting::add(a.clone(), money(1))], "unbalanced"),
        (vec![Posting::take(a.clone(), money(5)), Posting::add(b.clone(), yen)], "two currencies"),
        (vec![Posting::take(a.clone(), money(101)), Posting::add(b.clone(), money(101))], "overdrawn"),
        (
            vec![
                Posting::take(a.clone(), money(60)),
                Posting::take(a.clone(), money(60)),
                Posting::add(b.clone(), money(120)),
            ],
            "twice",
        ),
        (vec![], "nothing"),
        (vec![Posting::take(a.clone(), money(0)), Posting::add(b.clone(), money(0))], "zero"),
    ] {
        assert!(books.post(at(1), CAUSE, postings).is_err(), "{wrong}");
        assert_eq!(books, before, "{wrong}");
    }
    let error = books.post(at(1), CAUSE, vec![Posting::take(a, money(101)), Posting::add(b, money(101))]).unwrap_err();
    assert_eq!(error.to_string(), "available of holder0-25 has 100 minor units of xts, 101 are asked");
}

#[test]
fn a_hold_ends_once() {
    let (mut books, mut holds) = (Books::default(), Holds::default());
    let held = Account::OnHold(persona(0));
    let load = vec![Posting::take(Account::Clearing, money(100)), Posting::add(held, money(100))];
    books.post(at(0), CAUSE, load).unwrap();
    let release = at(0) + Duration::from_secs(60);
    let hold = holds.open(persona(0), Direction::Load, money(100), BindingId(1), (at(0), Some(release)));
    assert_eq!(holds.due(at(59)), []);
    assert_eq!(holds.next(), Some(release));
    assert_eq!(holds.due(release), [hold.id]);
    let (_, ended) = holds.end(hold.id, Outcome::Done, &mut books, (release, None)).unwrap();
    assert_eq!(ended.state, HoldState::Released);
    let container = books.container(&persona(0), Currency::TEST);
    assert_eq!((container.available, container.on_hold), (money(100), money(0)));
    for outcome in [Outcome::Done, Outcome::Reversed] {
        let again = holds.end(hold.id, outcome, &mut books, (release, None)).unwrap_err();
        assert_eq!(again, HoldError::Ended { hold: hold.id, state: HoldState::Released });
    }
    assert_eq!(holds.due(release), []);
}

#[test]
fn each_way_that_a_hold_goes_moves_its_money_there() {
    for (direction, outcome, available, clearing) in [
        (Direction::Load, Outcome::Done, 100, -100),
        (Direction::Load, Outcome::Reversed, 0, 0),
        (Direction::Unload, Outcome::Done, 0, 0),
        (Direction::Unload, Outcome::Reversed, 100, -100),
    ] {
        let (mut books, mut holds) = (Books::default(), Holds::default());
        let held = Account::OnHold(persona(0));
        let load = vec![Posting::take(Account::Clearing, money(100)), Posting::add(held, money(100))];
        books.post(at(0), CAUSE, load).unwrap();
        let hold = holds.open(persona(0), direction, money(100), BindingId(1), (at(0), None));
        holds.end(hold.id, outcome, &mut books, (at(1), Some(7))).unwrap();
        let balance = |account| books.balance(&account, Currency::TEST);
        assert_eq!(balance(Account::Available(persona(0))), available, "{direction:?} {outcome:?}");
        assert_eq!(balance(Account::Clearing), clearing, "{direction:?} {outcome:?}");
        assert_eq!(balance(Account::OnHold(persona(0))), 0);
    }
}

#[test]
fn an_audit_names_what_does_not_hold() {
    let mut books = Books::default();
    let a = Account::Available(persona(0));
    let entry = |books: &mut Books, minor| {
        let postings = vec![Posting::take(Account::Clearing, money(minor)), Posting::add(a.clone(), money(minor))];
        books.post(at(0), CAUSE, postings).unwrap()
    };
    let entries = [entry(&mut books, 5), entry(&mut books, 7)];
    let audited = books.audit(&entries).unwrap();
    assert_eq!((audited.entries, audited.client_money[&Currency::TEST]), (2, 12));
    assert_eq!(books.audit(&entries[..1]), Err(AuditError::Gap { expected: 2, found: 1 }));
    assert_eq!(books.audit(&entries[1..]), Err(AuditError::Gap { expected: 1, found: 2 }));
    let mut wrong = entries.clone();
    for posting in &mut wrong[1].postings {
        posting.minor += posting.minor.signum();
    }
    assert!(matches!(books.audit(&wrong), Err(AuditError::Balance { held: -12, proved: -13, .. })));
    wrong[1].postings[0].minor += 1;
    assert!(matches!(
        books.audit(&wrong),
        Err(AuditError::Entry { number: 2, source: LedgerError::Unbalanced { .. } })
    ));
}

proptest! {
    /// I1 and G3: whatever is tried, each currency sums to zero, no client owes, and the entries lead to the balances.
    #[test]
    fn i01_random_postings_make_and_lose_nothing(
        steps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_i64..50, any::<bool>(), -1_i64..2), 1..80),
    ) {
        let (mut books, mut entries) = (Books::default(), Vec::<Entry>::new());
        let currencies = [Currency::TEST, Currency::read("jpy").unwrap()];
        for (n, (from, to, minor, which, slip)) in steps.into_iter().enumerate() {
            let accounts = accounts();
            let (from, to) = (from.get(&accounts).clone(), to.get(&accounts).clone());
            let currency = currencies[usize::from(which)];
            let amount = |minor| Money::new(currency, minor).unwrap();
            let postings = vec![Posting::take(from, amount(minor)), Posting::add(to, amount(minor + slip))];
            let before = books.clone();
            match books.post(at(n as u64), CAUSE, postings) {
                Ok(entry) => entries.push(entry),
                Err(_) => prop_assert_eq!(&books, &before),
            }
            prop_assert!(books.sums().values().all(|sum| *sum == 0));
            for (account, currency) in books.accounts().collect::<Vec<_>>() {
                prop_assert!(!account.is_client() || books.balance(&account, currency) >= 0);
            }
        }
        prop_assert!(books.audit(&entries).is_ok());
        let mut again = Books::default();
        for entry in &entries {
            again.replay(entry).unwrap();
        }
        prop_assert_eq!(again, books);
    }
}
