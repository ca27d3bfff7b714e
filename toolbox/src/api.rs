//! `POST /v1/verify`: is this subscriber live at this address? (F2, F9)
//!
//! The question is in `toolbox-wire`, the answer in `toolbox-core`. Here: who may ask, and the rule that an
//! answer leaves only after the audit log has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use cloakway_crypto::{ct_eq, hash};
use cloakway_runtime::clock;
use metrics::counter;
use serde::Serialize;
use toolbox_core::{Live, Question};
use toolbox_wire::http::{ErrorBody, Reason, Verdict, VerifyRequest};

use crate::audit::Audit;
use crate::bindings::Bindings;
use crate::config::Caller;

/// A path of the interface.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The method in small letters.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    handler: fn() -> MethodRouter<Api>,
}

/// Every path, as `docs/openapi/toolbox.yaml` has them.
pub const ROUTES: &[Route] = &[
    Route { method: "post", path: "/v1/verify", handler: || post(verify) },
    Route { method: "get", path: "/healthz", handler: || get(|| async { "ok\n" }) },
];
/// Bytes of a request's body.
pub const BODY_LIMIT: usize = 4096;

/// What one caller did, for `show callers`.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// The caller's name.
    pub caller: String,
    /// Look-ups that were answered.
    pub lookups: u64,
    /// Of these, with yes.
    pub live: u64,
    /// Requests with a body that was refused.
    pub refused: u64,
    /// The last look-up, RFC 3339.
    pub last: Option<String>,
}

/// The interface's state. Clones share it.
#[derive(Debug, Clone)]
pub struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bindings: Bindings,
    audit: Audit,
    callers: Vec<Caller>,
    asked: Mutex<BTreeMap<String, Asked>>,
}

impl Api {
    /// Answers `callers` from `bindings`, and writes it down in `audit`.
    #[must_use]
    pub fn new(bindings: Bindings, audit: Audit, callers: Vec<Caller>) -> Self {
        let asked =
            |caller: &Caller| Asked { caller: caller.name.clone(), lookups: 0, live: 0, refused: 0, last: None };
        let asked = callers.iter().map(|caller| (caller.name.clone(), asked(caller))).collect();
        Self(Arc::new(Shared { bindings, audit, callers, asked: Mutex::new(asked) }))
    }

    /// What the callers did so far.
    #[must_use]
    pub fn callers(&self) -> Vec<Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The router for [`ROUTES`].
    pub fn router(self) -> Router {
        ROUTES
            .iter()
            .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
            .method_not_allowed_fallback(|| async {
                refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the path has another method")
            })
            .fallback(|| async { refusal(StatusCode::NOT_FOUND, "not_found", "there is no such path") })
            .with_state(self)
    }

    /// Compares with every key, so that the time tells nothing.
    fn caller(&self, headers: &HeaderMap) -> Option<String> {
        let key = headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")?;
        let digest = hash::sha256(&[key]);
        let matching = |found, caller: &'_ Caller| {
            if ct_eq(&caller.key_sha256, &digest) { Some(caller.name.clone()) } else { found }
        };
        self.0.callers.iter().fold(None, matching)
    }

    fn count(&self, caller: &str, change: impl FnOnce(&mut Asked)) {
        if let Some(asked) = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).get_mut(caller) {
            change(asked);
        }
    }
}

async fn verify(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(caller) = api.caller(&headers) else {
        counter!("toolbox_unauthorized_requests_total").increment(1);
        let mut response = refusal(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the header Authorization: Bearer KEY is missing or wrong",
        );
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    };
    let json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !json {
        api.count(&caller, |asked| asked.refused += 1);
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send application/json");
    }
    let request = match VerifyRequest::from_json(&body) {
        Ok(request) => request,
        Err(error) => {
            api.count(&caller, |asked| asked.refused += 1);
            return (StatusCode::BAD_REQUEST, axum::Json(error)).into_response();
        }
    };
    let now = clock::wall();
    let answer = api.0.bindings.verify(&request.subscriber, Question::new(request.address, request.port));
    let word = answer.map_or_else(Reason::as_str, |_| "live");
    if api.0.audit.record(&caller, &request, word, now).await.is_err() {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_audited",
            "the look-up cannot be written down now: ask again",
        );
    }
    counter!("toolbox_lookups_total", "caller" => caller.clone(), "answer" => word).increment(1);
    api.count(&caller, |asked| {
        asked.lookups += 1;
        asked.live += u64::from(answer.is_ok());
        asked.last = Some(now.to_string());
    });
    axum::Json(match answer {
        Ok(Live { source, span }) => Verdict::live(span.since, source, span.proof),
        Err(reason) => Verdict::NotLive { reason },
    })
    .into_response()
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(ErrorBody::new(code, message.to_owned(), None))).into_response()
}
