//! Bodies and lines of JSON.

use forwarder_wire::prefixes::{Answer, Question, Told};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toolbox_wire::http::{ErrorBody, Verdict, VerifyList, VerifyRequest};
use transact_wire::order::{Issued, Order, Placement};
use transact_wire::payment::{Claim, Outcome, Page, Payment};
use transact_wire::result::{Acknowledgement, Pending, PurchaseResult, SignedResult};

use crate::bytes::long_numbers;

/// A line of the forwarder's health stream, or what a feed tells it of subscriber prefixes.
pub fn forwarder_line(bytes: &[u8]) {
    feed(bytes);
    match forwarder_wire::decode(bytes) {
        Ok(message) => {
            let line = forwarder_wire::encode(&message);
            assert!(line.len() <= forwarder_wire::MAX_LINE + 1 && line.ends_with('\n'));
            assert_eq!(forwarder_wire::decode(&line).expect("it was just written"), message);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is told to who asked for no more than three prefixes, and knows a list of them.
fn feed(bytes: &[u8]) {
    let question = Question { most: Some(3), known: Some("known".to_owned()), ..Question::default() };
    let Ok(answer) = serde_json::from_slice::<Answer>(bytes) else { return };
    let again = serde_json::to_vec(&answer).expect("plain data");
    assert_eq!(serde_json::from_slice::<Answer>(&again).expect("it was just written"), answer);
    match answer.told(&question) {
        Ok(Told::Prefixes { prefixes, .. }) => {
            assert!(prefixes.len() <= 3 && prefixes.iter().all(|prefix| *prefix == prefix.trunc()));
        }
        Ok(Told::NotReady(_) | Told::Unchanged) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A question to the toolbox, alone and in a list, and the bodies that come back.
pub fn toolbox_verify(bytes: &[u8]) {
    match VerifyRequest::from_json(bytes) {
        Ok(request) => {
            let again = serde_json::to_vec(&request).expect("plain data");
            assert_eq!(VerifyRequest::from_json(&again), Ok(request));
        }
        Err(refusal) => {
            assert!(!refusal.error.message.is_empty());
            stays::<ErrorBody>(&serde_json::to_vec(&refusal).expect("plain data"));
        }
    }
    listed(bytes);
    listed(&[b"{\"questions\":[", bytes, b"]}"].concat());
    stays::<ErrorBody>(bytes);
    stays::<Verdict>(bytes);
}

fn listed(bytes: &[u8]) {
    match VerifyList::from_json(bytes) {
        Ok(list) => {
            assert!((1..=VerifyList::MOST).contains(&list.questions.len()));
            let again = serde_json::to_vec(&list).expect("plain data");
            assert_eq!(VerifyList::from_json(&again), Ok(list));
        }
        Err(refusal) => {
            assert!(!refusal.error.message.is_empty());
            stays::<ErrorBody>(&serde_json::to_vec(&refusal).expect("plain data"));
        }
    }
}

/// Every body between vendor, facilitation, transaction server and payer.
pub fn transact_json(bytes: &[u8]) {
    if let Some(order) = stays::<Order>(bytes) {
        checked(&order);
    }
    if let Some(placement) = stays::<Placement>(bytes) {
        checked(&placement.order);
    }
    stays::<Issued>(bytes);
    stays::<Page>(bytes);
    stays::<Outcome>(bytes);
    stays::<PurchaseResult>(bytes);
    stays::<SignedResult>(bytes);
    stays::<Pending>(bytes);
    stays::<Acknowledgement>(bytes);
    if let Some(payment) = stays::<Payment>(bytes) {
        let printed = format!("{payment:?}");
        assert!(!printed.contains(payment.card_number.expose_digits()), "{printed}");
    }
    stays::<Claim>(bytes);
    for text in [refusal::<Payment>(bytes), refusal::<Claim>(bytes)].into_iter().flatten() {
        for number in long_numbers(&String::from_utf8_lossy(bytes)) {
            assert!(!text.contains(number), "the refusal quotes {number}: {text}");
        }
    }
}

fn checked(order: &Order) {
    match order.check() {
        Ok(()) => assert!(!order.description.is_empty()),
        Err((field, reason)) => assert!(!field.is_empty() && !reason.is_empty()),
    }
}

/// What is accepted means the same after it was written and read again.
fn stays<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let text = serde_json::to_string(&value).expect("plain data");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(serde_json::to_string(&again).expect("plain data"), text);
    Some(value)
}

fn refusal<T: DeserializeOwned>(bytes: &[u8]) -> Option<String> {
    transact_wire::payment::from_json::<T>(bytes).err().map(|error| error.to_string())
}
