//! `POST /v1/verify-list`: several verifications in one request, each as `POST /v1/verify` answers it now.
//!
//! Each counts as a request, and has a line in the audit log. All are answered, or none.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use cloakway_runtime::clock;
use serde::Serialize;
use toolbox_wire::http::{ErrorBody, Verdict, VerifyList};

use super::{Api, is_json, not_audited, not_json, verdict_of, word_of};
use crate::callers::Kind;

/// Bytes of a list.
const BODY_LIMIT: usize = 128 * 1024;

pub(super) fn handler() -> MethodRouter<Api> {
    post(verify_list).layer(DefaultBodyLimit::max(BODY_LIMIT))
}

#[derive(Serialize)]
struct Answers {
    answers: Vec<Verdict>,
}

async fn verify_list(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Response {
    let caller = match api.caller(&headers, Kind::Verify) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    let name = caller.name.as_str();
    if !is_json(&headers) {
        return api.refuse(name, not_json());
    }
    let questions = match VerifyList::from_json(&body) {
        Ok(list) => list.questions,
        Err(error) => return api.refuse(name, (StatusCode::BAD_REQUEST, error)),
    };
    // The first was taken with the request.
    let more = u32::try_from(questions.len()).unwrap_or(u32::MAX).saturating_sub(1);
    if more >= caller.rate.burst {
        let message = format!("this caller may ask {} at once", caller.rate.burst);
        return api.refuse(name, (StatusCode::BAD_REQUEST, ErrorBody::new("invalid", message, Some("questions"))));
    }
    if let Err(wait) = api.0.callers.take_some(caller, f64::from(more), clock::now()) {
        return api.limited(caller, wait);
    }
    let now = clock::wall();
    let mut answers = Vec::with_capacity(questions.len());
    for (index, question) in questions.iter().enumerate() {
        match api.look_up(caller, question, now) {
            Ok(answer) => answers.push(answer),
            Err((status, why)) => return api.refuse(name, (status, why.of_question(index))),
        }
    }
    let words = || answers.iter().map(|answer| word_of(*answer));
    if api.0.audit.record_all(name, questions.iter().zip(words()), now).await.is_err() {
        return not_audited();
    }
    api.count(name, |asked| words().for_each(|word| asked.answered(word, now)));
    axum::Json(Answers { answers: answers.into_iter().map(verdict_of).collect() }).into_response()
}
