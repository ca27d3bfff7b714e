//! The OpenAPI document beside the code: the same paths and refusals, and examples that the types read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use cloakway_apidoc::{Document, refusals, routes, through};
use serde_json::Value;
use transact_wire::after::{OrderStatus, RefundOrder, RefundReceipt};
use transact_wire::order::{Accepted, Order};
use transact_wire::payment::Page;
use transact_wire::result::{ID_HEADER, PurchaseResult, SIGNATURE_HEADER, SignedResult, TIMESTAMP_HEADER};

const TEXT: &str = include_str!("../../../docs/openapi/facilitation.yaml");
const API: &str =
    concat!(include_str!("../src/api.rs"), include_str!("../src/after.rs"), include_str!("../src/page.rs"));

#[test]
fn every_example_is_what_its_schema_says_and_its_type_reads() {
    Document::read(TEXT).hold_examples(typed);
}

fn typed(schema: &str, body: &Value) -> Result<Value, String> {
    match schema {
        "Order" => through::<Order>(body),
        "Accepted" => through::<Accepted>(body),
        "OrderStatus" => through::<OrderStatus>(body),
        "RefundOrder" => through::<RefundOrder>(body),
        "RefundReceipt" => through::<RefundReceipt>(body),
        "Page" => through::<Page>(body),
        "PurchaseResult" => through::<PurchaseResult>(body),
        "Error" => Ok(body.clone()),
        other => Err(format!("{other} has no type here")),
    }
}

#[test]
fn paths_and_refusals_are_those_of_the_router() {
    let document = Document::read(TEXT);
    let documented = document.operations("paths").into_iter().map(|(method, path, _)| (method, path)).collect();
    assert_eq!(routes(API), documented);
    // `http::json` refuses what is no order.
    let mut written = refusals(API);
    written.insert((400, "invalid_json".to_owned()));
    assert_eq!(written, document.refusals(|_| true));
}

#[test]
fn the_signed_example_is_believed_with_the_key_beside_it() {
    let document = Document::read(TEXT);
    let [(.., webhook)] = document.operations("webhooks")[..] else { panic!("there is one webhook") };
    let header = |name: &str| {
        let parameters = webhook["parameters"].as_array().unwrap();
        parameters.iter().find(|p| p["name"] == name).unwrap()["example"].as_str().unwrap().to_owned()
    };
    let told = webhook["description"].as_str().unwrap();
    let body = told.lines().map(str::trim).find(|line| line.starts_with('{')).unwrap().to_owned();
    let (_, key) = told.split_once("public key `").unwrap();
    let key = cloakway_crypto::sign::VerifyingKey::from_base64(key.split('`').next().unwrap()).unwrap();
    let delivery = SignedResult {
        id: header(ID_HEADER),
        vendor: "shop".parse().unwrap(),
        timestamp_s: header(TIMESTAMP_HEADER).parse().unwrap(),
        signature: header(SIGNATURE_HEADER),
        body,
    };
    let now = cloakway_types::Timestamp::from_secs(delivery.timestamp_s);
    let result = delivery.verify(&key, &delivery.vendor, now).unwrap();
    let example = &webhook["requestBody"]["content"]["application/json"]["examples"]["approved"]["value"];
    assert_eq!(serde_json::to_value(result).unwrap(), *example);
}
