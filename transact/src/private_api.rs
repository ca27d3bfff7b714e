//! What a payer can ask at the private network address (A11): whether the path is live, to pay, and
//! how it ended. Browsers come from facilitation's page, so its origin is answered and no other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use cloakway_runtime::http::{Limits, Refusal};
use transact_core::PayError;
use transact_wire::payment::{BodyError, Claim, Outcome, Payment, from_json};

use crate::engine::{Engine, EngineError};
use crate::gate::Gate;

/// The limits of a payer's connection, beside the gate's.
pub(crate) fn limits() -> Limits {
    Limits { body: 4096, head: Duration::from_secs(5), request: Duration::from_secs(60), ..Limits::default() }
}

#[derive(Debug, Clone)]
struct Api {
    engine: Engine,
    origins: Arc<Vec<HeaderValue>>,
}

pub(crate) fn router(engine: Engine, origins: Vec<HeaderValue>) -> Router {
    let api = Api { engine, origins: Arc::new(origins) };
    Router::new()
        .route("/v1/live", get(|| async { Json(serde_json::json!({"live": true})) }))
        .route("/v1/payments", post(pay))
        .route("/v1/outcome", post(outcome))
        .layer(from_fn_with_state(api.clone(), cross_origin))
        .with_state(api.clone())
        .merge(crate::form::router(api.engine, api.origins))
}

async fn pay(State(api): State<Api>, Extension(gate): Extension<Gate>, body: Bytes) -> Result<Json<Outcome>, Refusal> {
    let payment: Result<Payment, Refusal> = from_json(&body).map_err(unreadable);
    wipe(body);
    told(api.engine.pay(payment?, gate).await)
}

async fn outcome(
    State(api): State<Api>,
    Extension(gate): Extension<Gate>,
    body: Bytes,
) -> Result<Json<Outcome>, Refusal> {
    let claim: Claim = from_json(&body).map_err(unreadable)?;
    told(api.engine.outcome(claim, gate).await)
}

fn told(
    answer: Result<Result<transact_wire::payment::PaymentState, PayError>, EngineError>,
) -> Result<Json<Outcome>, Refusal> {
    let refusal = |status, code, error: &dyn std::fmt::Display| Refusal::new(status, code, error.to_string());
    match answer {
        Ok(Ok(state)) => Ok(Json(state.into())),
        Ok(Err(error @ PayError::NoMatch)) => Err(refusal(StatusCode::FORBIDDEN, "no_match", &error)),
        Ok(Err(error @ PayError::CardExpired)) => {
            Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "card_expired", &error).field("expiry"))
        }
        Ok(Err(error @ PayError::CardNotTaken)) => {
            Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "card_not_taken", &error).field("card_number"))
        }
        Ok(Err(error @ PayError::PinNotTaken)) => {
            Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "pin_not_taken", &error).field("pin"))
        }
        Ok(Err(error @ PayError::BankUnreachable)) => {
            Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "bank_unreachable", &error))
        }
        Err(error) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error)),
    }
}

fn unreadable(error: BodyError) -> Refusal {
    match error {
        BodyError::Card(text) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_card", text),
        BodyError::Form(text) => Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", text),
    }
}

/// Wipes a request's body, if nobody else holds it.
pub(crate) fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        cloakway_crypto::Zeroize::zeroize(&mut body[..]);
    }
}

/// Cross-origin requests (Fetch standard, CORS protocol): from the payer page's origins only.
async fn cross_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Some(origin) = &origin
        && !api.origins.contains(origin)
    {
        return Refusal::new(StatusCode::FORBIDDEN, "origin", "pages of this origin are not served").into_response();
    }
    let mut response = if request.method() == Method::OPTIONS {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
            (HeaderName::from_static("access-control-allow-private-network"), "true"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        (StatusCode::NO_CONTENT, headers).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use axum::body::Body;
    use cloakway_crypto::Secret;
    use cloakway_crypto::encode::base64;
    use cloakway_crypto::sign::SigningKey;
    use cloakway_runtime::Stop;
    use cloakway_store::Store;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tower_service::Service;
    use transact_core::admission::{Admission, Bounds};
    use transact_core::{BankEvent, Policy};
    use transact_wire::order::{Order, Placement, Reference};

    use super::*;
    use crate::engine::{self, BankRequest};
    use crate::gate::Gates;
    use crate::outbox::Outbox;

    const ORIGIN: &str = "https://192.0.2.34";

    struct Bench {
        _folder: tempfile::TempDir,
        router: Router,
        engine: Engine,
        outbox: Arc<Outbox>,
        bank: mpsc::UnboundedReceiver<BankRequest>,
        gates: Gates,
        password: String,
    }

    async fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_base64(&Secret::new(base64(&[1; 32]))).unwrap();
        let outbox = Arc::new(Outbox::new(key));
        let (ask, bank) = mpsc::unbounded_channel();
        let ask = BTreeMap::from([("bank".to_owned(), ask)]);
        let policy = Policy {
            secret: Secret::new(vec![7; 32]),
            lifetime: Duration::from_secs(900),
            password_attempts: 3,
            open_orders: 10,
            retention: Duration::from_secs(1000),
            addresses: BTreeMap::from([("isp".parse().unwrap(), vec!["203.0.113.200".parse().unwrap()])]),
            port: 443,
            institutions: transact_core::Institutions::one("bank"),
        };
        let store = Store::open(&folder.path().join("orders")).unwrap();
        let engine = engine::start(policy, store, outbox.clone(), ask, Stop::new()).unwrap();
        let placement = Placement {
            vendor: "shop".parse().unwrap(),
            isp: "isp".parse().unwrap(),
            order: Order {
                reference: Reference::TransactionId("o-1".parse().unwrap()),
                amount: cloakway_types::Money::new(1250, "EUR".parse().unwrap()).unwrap(),
                client_ip: "198.51.100.70".parse().unwrap(),
                description: "A book".to_owned(),
            },
        };
        let issued = engine.place(placement).await.unwrap().unwrap();
        let gates = Gates::new(Admission::new(Bounds {
            session: Duration::from_millis(300),
            connection_bytes: 1000,
            isp_bytes: 10_000,
            isp_window: Duration::from_secs(60),
        }));
        let router = router(engine.clone(), vec![HeaderValue::from_static(ORIGIN)]);
        let password = issued.password.expose().clone();
        Bench { _folder: folder, router, engine, outbox, bank, gates, password }
    }

    impl Bench {
        fn gate(&self) -> Gate {
            self.gates.open("isp".parse().unwrap())
        }

        async fn send(
            &self,
            method: &str,
            path: &str,
            origin: Option<&str>,
            body: String,
        ) -> (StatusCode, HeaderMap, Value) {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, origin);
            }
            let mut request = request.body(Body::from(body)).unwrap();
            request.extensions_mut().insert(self.gate());
            let answer = self.router.clone().call(request).await.unwrap();
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_default())
        }

        fn payment(&self) -> Value {
            json!({"transaction": {"vendor": "shop", "transaction_id": "o-1", "password": self.password},
                   "card_number": "4111111111111111", "expiry": "12/30"})
        }
    }

    #[tokio::test]
    async fn wrong_payments_are_refused_and_change_nothing() {
        let mut bench = bench().await;
        let good = bench.payment().to_string();
        for (body, status, code) in [
            ("{".to_owned(), StatusCode::BAD_REQUEST, "invalid_json"),
            (good.replace("\"expiry\"", "\"cvv\":\"123\",\"expiry\""), StatusCode::BAD_REQUEST, "invalid_json"),
            (good.replace("4111111111111111", "4111111111111112"), StatusCode::UNPROCESSABLE_ENTITY, "invalid_card"),
            (good.replace("12/30", "13/30"), StatusCode::UNPROCESSABLE_ENTITY, "invalid_card"),
            (good.replace("12/30", "12/20"), StatusCode::UNPROCESSABLE_ENTITY, "card_expired"),
            (good.replace("o-1", "o-2"), StatusCode::FORBIDDEN, "no_match"),
            (good.replace(&bench.password, "guess"), StatusCode::FORBIDDEN, "no_match"),
        ] {
            let (got, _, answer) = bench.send("POST", "/v1/payments", None, body).await;
            assert_eq!((got, answer["error"]["code"].as_str()), (status, Some(code)), "{answer}");
            assert!(!answer.to_string().contains("411111111111"), "{answer}");
        }
        assert!(bench.bank.try_recv().is_err(), "the bank was not asked");
        let claim = bench.payment()["transaction"].to_string();
        let (_, _, answer) = bench.send("POST", "/v1/outcome", None, claim).await;
        assert_eq!(answer["state"], "open");
    }

    #[tokio::test]
    async fn an_approved_payment_is_told_to_the_payer_and_signed_for_the_vendor() {
        let mut bench = bench().await;
        let engine = bench.engine.clone();
        let body = bench.payment().to_string();
        let bank = async {
            let BankRequest::Authorise(order) = bench.bank.recv().await.unwrap() else {
                panic!("not an authorisation")
            };
            assert_eq!(order.card.expose_digits(), "4111111111111111");
            engine.bank(order.asked, BankEvent::Approved { authorisation_code: "A1".into() }).await;
        };
        let router = bench.router.clone();
        let mut request = Request::builder().method("POST").uri("/v1/payments").body(Body::from(body)).unwrap();
        request.extensions_mut().insert(bench.gates.open("isp".parse().unwrap()));
        let mut router = router;
        let (answer, ()) = tokio::join!(router.call(request), bank);
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
        let pending = bench.outbox.pull(0, Duration::from_secs(5)).await.unwrap();
        assert!(pending.results[0].body.contains("approved"));
        assert!(bench.outbox.pull(pending.cursor, Duration::ZERO).await.unwrap().results.is_empty());
        bench.engine.acknowledge(vec![pending.results[0].id.clone()]).await.unwrap();
        assert_eq!(bench.outbox.len(), 0);
    }

    #[tokio::test]
    async fn a_form_without_scripts_pays_and_its_answer_is_a_page() {
        let mut bench = bench().await;
        let card = |number: &str| {
            let password = &bench.password;
            format!(
                "vendor=shop&transaction_id=o-1&password={password}&lang=de&card_number={number}&expiry=12%2F30&pin="
            )
        };
        let (good, mistyped) = (card("4111111111111111"), card("4111111111111112"));
        let (status, headers, _) = bench.send("GET", "/v1/live.svg?lang=fr", None, String::new()).await;
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static("image/svg+xml"))
        );
        let (status, ..) = bench.send("POST", "/pay", Some("https://evil.example"), good.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, ..) = bench.send("POST", "/pay", Some(ORIGIN), good.replace("o-1", "o-2")).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let (status, headers, _) = bench.send("POST", "/pay", Some(ORIGIN), mistyped).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(headers[header::CONTENT_LANGUAGE], "de");
        assert!(bench.bank.try_recv().is_err(), "the bank was not asked");
        let mut request = Request::builder().method("POST").uri("/pay").header(header::ORIGIN, ORIGIN);
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let mut request = request.body(Body::from(good)).unwrap();
        request.extensions_mut().insert(bench.gate());
        let (engine, mut router) = (bench.engine.clone(), bench.router.clone());
        let bank = async {
            let BankRequest::Authorise(order) = bench.bank.recv().await.unwrap() else {
                panic!("not an authorisation")
            };
            engine.bank(order.asked, BankEvent::Approved { authorisation_code: "A1".into() }).await;
        };
        let (answer, ()) = tokio::join!(router.call(request), bank);
        let html = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
        let html = String::from_utf8(html.to_vec()).unwrap();
        assert!(html.contains("data-state=\"approved\"") && html.contains("Bezahlt."), "{html}");
        assert!(!html.contains("4111") && !html.contains(&bench.password), "{html}");
    }

    #[tokio::test]
    async fn only_the_payer_page_s_origin_may_ask_across_origins() {
        let bench = bench().await;
        let (status, headers, _) = bench.send("OPTIONS", "/v1/payments", Some(ORIGIN), String::new()).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], ORIGIN);
        let (status, headers, _) = bench.send("GET", "/v1/live", Some(ORIGIN), String::new()).await;
        assert_eq!(
            (status, &headers[header::ACCESS_CONTROL_ALLOW_ORIGIN]),
            (StatusCode::OK, &HeaderValue::from_static(ORIGIN))
        );
        let (status, headers, _) =
            bench.send("POST", "/v1/payments", Some("https://evil.example"), bench.payment().to_string()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[tokio::test]
    async fn the_gate_falls_after_its_time_or_bytes_and_opens_for_good_with_the_password() {
        let bench = bench().await;
        let slow = bench.gate();
        slow.count(1).unwrap();
        tokio::time::timeout(Duration::from_secs(5), slow.expired()).await.unwrap();
        assert!(slow.count(1).is_err());
        let large = bench.gate();
        assert!(large.count(1000).is_ok() && large.count(1).is_err());
        let proven = bench.gate();
        proven.count(10).unwrap();
        let claim = serde_json::from_value(bench.payment()["transaction"].clone()).unwrap();
        bench.engine.outcome(claim, proven.clone()).await.unwrap().unwrap();
        assert!(proven.count(1_000_000).is_ok());
        assert!(tokio::time::timeout(Duration::from_millis(600), proven.expired()).await.is_err());
    }
}
