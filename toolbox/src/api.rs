//! `POST /v1/verify`: is this subscriber live at this address? [`list`]: many such questions at once. `GET /v1/changes`: what
//! changes? (F2, F9)
//!
//! The question is in `toolbox-wire`, the answer in `toolbox-core`. Here: who may ask, and the rule that an
//! answer leaves only after the audit log has it.

mod list;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use cloakway_runtime::clock;
use cloakway_types::Timestamp;
use metrics::{Counter, counter};
use serde::{Deserialize, Serialize, Serializer};
use toolbox_core::{Live, Question};
use toolbox_wire::http::{ErrorBody, Reason, Verdict, VerifyRequest};
use toolbox_wire::probe::Probed;

use crate::audit::Audit;
use crate::bindings::Bindings;
use crate::callers::{Caller, Callers, Kind};
use crate::follow::{self, Follow};
use crate::radius::probe::Prober;

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
    Route { method: "post", path: "/v1/verify-list", handler: list::handler },
    Route { method: "get", path: "/v1/changes", handler: || get(changes) },
    Route { method: "get", path: "/healthz", handler: || get(|| async { "ok\n" }) },
];
/// Bytes of a request's body, where no more is allowed.
pub const BODY_LIMIT: usize = 4096;
/// Requests at once of one connection.
pub const STREAMS: u32 = 128;

/// What one caller did, for `show callers`.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// The caller's name.
    pub caller: String,
    /// Look-ups that were answered.
    pub lookups: u64,
    /// Of these, with yes.
    pub live: u64,
    /// Requests with a body that was refused, or about what is none of the caller's business.
    pub refused: u64,
    /// Requests that came too soon.
    pub limited: u64,
    /// The last look-up, RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub last: Option<Timestamp>,
    /// The counters of what was answered: to name one anew for every look-up costs more than to count it.
    #[serde(skip)]
    answers: BTreeMap<&'static str, Named>,
}

fn as_text<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(to)
}

/// A counter.
#[derive(Clone)]
struct Named(Counter);

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counter")
    }
}

impl Asked {
    fn answered(&mut self, word: &'static str, now: Timestamp) {
        let caller = &self.caller;
        let named = || Named(counter!("toolbox_lookups_total", "caller" => caller.clone(), "answer" => word));
        self.answers.entry(word).or_insert_with(named).0.increment(1);
        self.lookups += 1;
        self.live += u64::from(word == LIVE);
        self.last = Some(now);
    }
}

/// The word for a yes.
const LIVE: &str = "live";

/// The interface's state. Clones share it.
#[derive(Debug, Clone)]
pub struct Api(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bindings: Bindings,
    prober: Prober,
    audit: Audit,
    follow: Follow,
    callers: Callers,
    asked: Mutex<BTreeMap<String, Asked>>,
}

impl Api {
    /// Answers `callers` from `bindings`, has `prober` ask where they want it, lets them `follow`, and writes it down in
    /// `audit`.
    #[must_use]
    pub fn new(bindings: Bindings, prober: Prober, audit: Audit, follow: Follow, callers: Vec<Caller>) -> Self {
        let asked = |caller: &Caller| Asked {
            caller: caller.name.clone(),
            lookups: 0,
            live: 0,
            refused: 0,
            limited: 0,
            last: None,
            answers: BTreeMap::new(),
        };
        let asked = callers.iter().map(|caller| (caller.name.clone(), asked(caller))).collect();
        let callers = Callers::new(callers, clock::now());
        Self(Arc::new(Shared { bindings, prober, audit, follow, callers, asked: Mutex::new(asked) }))
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

    /// Who asks, if they may ask this kind of question now.
    fn caller(&self, headers: &HeaderMap, kind: Kind) -> Result<&Caller, Box<Response>> {
        let key = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let Some(caller) = key.and_then(|key| self.0.callers.by_key(key)) else {
            counter!("toolbox_unauthorized_requests_total").increment(1);
            let message = "the header Authorization: Bearer KEY is missing or wrong";
            let mut response = refusal(StatusCode::UNAUTHORIZED, "unauthorized", message);
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Err(response.into());
        };
        self.0.callers.take(caller, clock::now()).map_err(|wait| self.limited(caller, wait))?;
        if !caller.may.contains(&kind) {
            self.count(&caller.name, |asked| asked.refused += 1);
            let message = "this caller may not ask this kind of question";
            return Err(refusal(StatusCode::FORBIDDEN, "forbidden", message).into());
        }
        Ok(caller)
    }

    fn limited(&self, caller: &Caller, wait: Duration) -> Response {
        counter!("toolbox_limited_requests_total", "caller" => caller.name.clone()).increment(1);
        self.count(&caller.name, |asked| asked.limited += 1);
        let message = "more requests than this caller may make: ask again after the time in Retry-After";
        let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        // Whole seconds, and no sooner than it makes sense.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        response
    }

    /// What the bindings say to a question of `caller`.
    fn look_up(&self, caller: &Caller, request: &VerifyRequest, now: Timestamp) -> Result<Looked, Refused> {
        if !caller.may_ask_about(request.address) {
            let message = "this caller may not ask about this address".to_owned();
            return Err((StatusCode::FORBIDDEN, ErrorBody::new("forbidden", message, None)));
        }
        let question = Question::new(request.address, request.port);
        match request.at {
            None => Ok(self.0.bindings.verify(&request.subscriber, question)),
            Some(at) if at > now => {
                let why = ErrorBody::new("invalid", format!("{at} is in the future"), Some("at"));
                Err((StatusCode::BAD_REQUEST, why))
            }
            Some(at) => self.0.bindings.verify_at(&request.subscriber, question, at).map_err(|error| {
                tracing::error!(%error, "the history cannot be read");
                let message = "the history cannot be read now".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, ErrorBody::new("no_history", message, None))
            }),
        }
    }

    fn refuse(&self, caller: &str, (status, why): Refused) -> Response {
        if status.is_client_error() {
            self.count(caller, |asked| asked.refused += 1);
        }
        (status, axum::Json(why)).into_response()
    }

    fn count(&self, caller: &str, change: impl FnOnce(&mut Asked)) {
        if let Some(asked) = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).get_mut(caller) {
            change(asked);
        }
    }
}

/// What a look-up came to.
type Looked = Result<Live, Reason>;
/// Why there is none.
type Refused = (StatusCode, ErrorBody);

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

fn not_json() -> Refused {
    let why = ErrorBody::new("unsupported_media_type", "send application/json".to_owned(), None);
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
}

fn word_of(answer: Looked) -> &'static str {
    answer.map_or_else(Reason::as_str, |_| LIVE)
}

fn verdict_of(answer: Looked) -> Verdict {
    match answer {
        Ok(Live { source, span }) => Verdict::live(span.since, source, span.proof),
        Err(reason) => Verdict::NotLive { reason },
    }
}

fn not_audited() -> Response {
    let message = "the look-up cannot be written down now: ask again";
    refusal(StatusCode::SERVICE_UNAVAILABLE, "not_audited", message)
}

/// What may stand behind the path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Whether the equipment is to be asked now.
    #[serde(default)]
    probe: bool,
}

async fn verify(
    State(api): State<Api>,
    options: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(Query(Options { probe })) = options else {
        let message = "behind the path there may be ?probe=true or ?probe=false, and nothing else";
        return refusal(StatusCode::BAD_REQUEST, "malformed", message);
    };
    let caller = match api.caller(&headers, if probe { Kind::Probe } else { Kind::Verify }) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    let name = caller.name.as_str();
    if !is_json(&headers) {
        return api.refuse(name, not_json());
    }
    let request = match VerifyRequest::from_json(&body) {
        Ok(request) => request,
        Err(error) => return api.refuse(name, (StatusCode::BAD_REQUEST, error)),
    };
    let now = clock::wall();
    let answer = match api.look_up(caller, &request, now) {
        Ok(answer) => answer,
        Err(refused) => return api.refuse(name, refused),
    };
    // Only about what is believed anyway is anybody asked: a probe can take a yes back, and never make one.
    let session = answer.ok().filter(|_| probe && request.at.is_none());
    let question = Question::new(request.address, request.port);
    let session = session.and_then(|_| api.0.bindings.session(&request.subscriber, question));
    let probed = match session {
        Some(session) => Some(api.0.prober.ask(&session, &request.subscriber, request.address).await),
        None => None,
    };
    let answer = if probed == Some(Probed::Gone) { Err(Reason::Ended) } else { answer };
    let word = word_of(answer);
    if api.0.audit.record(name, &request, word, now).await.is_err() {
        return not_audited();
    }
    api.count(name, |asked| asked.answered(word, now));
    axum::Json(Answered { verdict: verdict_of(answer), probe: probed }).into_response()
}

async fn changes(State(api): State<Api>, headers: HeaderMap) -> Response {
    let caller = match api.caller(&headers, Kind::Changes) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    // What is no text is no place that anybody was given.
    let from = headers.get("last-event-id").map(|id| id.to_str().unwrap_or("?")).filter(|id| !id.is_empty());
    let now = clock::wall();
    if api.0.audit.record_text(&caller.name, "changes", "", "followed", now).await.is_err() {
        return not_audited();
    }
    let Some(body) = api.0.follow.start(caller, from) else {
        api.count(&caller.name, |asked| asked.limited += 1);
        let message = "this caller has as many streams as it may have";
        let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", message);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(follow::BUSY.as_secs()));
        return response;
    };
    api.count(&caller.name, |asked| {
        asked.lookups += 1;
        asked.last = Some(now);
    });
    ([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// The answer, and what the equipment said.
#[derive(Serialize)]
struct Answered {
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Probed>,
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(ErrorBody::new(code, message.to_owned(), None))).into_response()
}
