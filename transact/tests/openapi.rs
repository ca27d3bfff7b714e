//! The OpenAPI document beside the code: the same paths and refusals, and examples that the types read.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use cloakway_apidoc::{Document, refusals, routes, through};
use serde_json::Value;
use transact_wire::after::{OrderName, OrderStatus, RefundPlacement, RefundReceipt};
use transact_wire::order::{Issued, Placement};
use transact_wire::payment::{Claim, Outcome, Payment};
use transact_wire::result::{Acknowledgement, Pending};

const TEXT: &str = include_str!("../../docs/openapi/transaction-server.yaml");
const PRIVATE: &[&str] = &[include_str!("../src/private_api.rs"), include_str!("../src/form.rs")];
const MANAGEMENT: &[&str] = &[include_str!("../src/management.rs")];

#[test]
fn every_example_is_what_its_schema_says_and_its_type_reads() {
    Document::read(TEXT).hold_examples(typed);
}

fn typed(schema: &str, body: &Value) -> Result<Value, String> {
    match schema {
        "Placement" => through::<Placement>(body),
        "Issued" => through::<Issued>(body),
        "OrderName" => through::<OrderName>(body),
        "OrderStatus" => through::<OrderStatus>(body),
        "RefundPlacement" => through::<RefundPlacement>(body),
        "RefundReceipt" => through::<RefundReceipt>(body),
        "Payment" => through::<Payment>(body),
        "Claim" => through::<Claim>(body),
        "Outcome" => through::<Outcome>(body),
        "Pending" => through::<Pending>(body),
        "Acknowledgement" => through::<Acknowledgement>(body),
        "Live" | "Error" => Ok(body.clone()),
        other => Err(format!("{other} has no type here")),
    }
}

#[test]
fn each_side_has_the_paths_and_refusals_of_its_router() {
    let document = Document::read(TEXT);
    for (side, sources) in [("private", PRIVATE), ("management", MANAGEMENT)] {
        let of_side = |operation: &Value| operation["tags"][0] == side;
        let operations = document.operations("paths").into_iter().filter(|(.., operation)| of_side(operation));
        let served: BTreeSet<_> = sources.iter().flat_map(|source| routes(source)).collect();
        assert_eq!(served, operations.map(|(method, path, _)| (method, path)).collect(), "{side}");
        // `http::json` refuses bodies on both sides.
        let mut written: BTreeSet<_> = sources.iter().flat_map(|source| refusals(source)).collect();
        written.insert((400, "invalid_json".to_owned()));
        // And `http::Query` refuses queries where there are any.
        if sources.iter().any(|source| source.contains("http::{Query,")) {
            written.insert((400, "invalid_query".to_owned()));
        }
        assert_eq!(written, document.refusals(of_side), "{side}");
    }
}

#[test]
fn the_texts_of_outcomes_are_those_that_payers_get() {
    let document = Document::read(TEXT);
    for example in document.all_examples().iter().filter(|example| example.schema == "Outcome") {
        let outcome: Outcome = serde_json::from_value(example.body.clone()).unwrap();
        assert_eq!(outcome, Outcome::from(outcome.state), "{}", example.place);
    }
}
