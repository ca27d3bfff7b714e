//! For browsers without scripts (A11): the payer page's form comes here as it is, and the answer is a page. And the mark
//! by which such a page shows whether the private path is live.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;
use serde::Deserialize;
use transact_core::PayError;
use transact_wire::form::{Asked, STYLE, Wrong, escape, read};
use transact_wire::payment::{Claim, PaymentState};
use transact_wire::words::{Language, Words, fill};

use crate::engine::{Engine, EngineError};
use crate::gate::Gate;
use crate::private_api::wipe;

/// A tick in a circle, and the words for it.
const MARK: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="400" height="24" viewBox="0 0 400 24" role="img"><title>{text}</title><circle cx="12" cy="12" r="11" fill="#0b5c3b"/><path d="m6 12 4 4 8-8" fill="none" stroke="#fff" stroke-width="3"/><text x="32" y="18" font-family="system-ui,sans-serif" font-size="18" fill="#0b5c3b">{text}</text></svg>"##;

#[derive(Debug, Deserialize)]
struct Wish {
    lang: Option<Language>,
}

#[derive(Debug, Clone)]
struct Forms {
    engine: Engine,
    origins: Arc<Vec<HeaderValue>>,
}

pub(crate) fn router(engine: Engine, origins: Arc<Vec<HeaderValue>>) -> Router {
    Router::new().route("/v1/live.svg", get(mark)).route("/pay", post(pay)).with_state(Forms { engine, origins })
}

async fn mark(Query(wish): Query<Wish>) -> Response {
    let words = wish.lang.unwrap_or_default().words();
    let mut answer = fill(MARK, &[("text", &escape(words.path_live))]).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("cross-origin"));
    answer
}

/// What a payer is told, and what can be done next.
struct Told {
    status: StatusCode,
    /// For programs that look at the page.
    state: String,
    text: &'static str,
    next: Next,
}

/// What the page offers.
enum Next {
    /// Another card, or the same one again.
    Pay(Option<Wrong>),
    /// To ask how it ended.
    Ask,
    Nothing,
}

async fn pay(
    State(forms): State<Forms>,
    Extension(gate): Extension<Gate>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let posted = read(&body);
    wipe(body);
    let posted = match posted {
        Ok(posted) => posted,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let words = posted.language.words();
    if !from_our_pages(&forms.origins, &headers) {
        return (StatusCode::FORBIDDEN, "pages of this origin are not served").into_response();
    }
    let (claim, told) = match posted.asked {
        Asked::Wrong(claim, wrong) => {
            let next = Next::Pay(Some(wrong));
            let (status, state) = (StatusCode::UNPROCESSABLE_ENTITY, "invalid_card".to_owned());
            (claim, Told { status, state, text: wrong.text(words), next })
        }
        Asked::Payment(payment) => {
            let claim = payment.transaction.clone();
            (claim, told(forms.engine.pay(payment, gate).await, words))
        }
        Asked::Outcome(claim) => (claim.clone(), told(forms.engine.outcome(claim, gate).await, words)),
    };
    page(posted.language, &claim, &told)
}

/// A form says where it comes from: the payer page, or a page of this side that offers to try again. A browser that says
/// nothing, or `null`, is known by the password alone.
fn from_our_pages(origins: &[HeaderValue], headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).filter(|origin| *origin != "null") else { return true };
    let own = headers.get(header::HOST).is_some_and(|host| {
        origin.as_bytes().strip_prefix(b"https://").is_some_and(|from| from.eq_ignore_ascii_case(host.as_bytes()))
    });
    own || origins.contains(origin)
}

fn told(answer: Result<Result<PaymentState, PayError>, EngineError>, words: &'static Words) -> Told {
    let refused = |status, code: &str, next| Told { status, state: code.to_owned(), text: words.refusal(code), next };
    match answer {
        Ok(Ok(state)) => {
            let next = match state {
                PaymentState::Open => Next::Pay(None),
                PaymentState::Authorising | PaymentState::Reversing => Next::Ask,
                PaymentState::Approved
                | PaymentState::Declined
                | PaymentState::Reversed
                | PaymentState::Expired
                | PaymentState::Locked
                | PaymentState::Cancelled => Next::Nothing,
            };
            let name = serde_json::to_value(state).ok().and_then(|name| name.as_str().map(str::to_owned));
            Told { status: StatusCode::OK, state: name.unwrap_or_default(), text: words.state(state), next }
        }
        Ok(Err(PayError::NoMatch)) => refused(StatusCode::FORBIDDEN, "no_match", Next::Nothing),
        Ok(Err(PayError::CardExpired)) => refused(StatusCode::UNPROCESSABLE_ENTITY, "card_expired", Next::Pay(None)),
        Ok(Err(PayError::CardNotTaken)) => refused(StatusCode::UNPROCESSABLE_ENTITY, "card_not_taken", Next::Pay(None)),
        Ok(Err(PayError::PinNotTaken)) => refused(StatusCode::UNPROCESSABLE_ENTITY, "pin_not_taken", Next::Pay(None)),
        Ok(Err(PayError::BankUnreachable)) => {
            refused(StatusCode::SERVICE_UNAVAILABLE, "bank_unreachable", Next::Pay(None))
        }
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "unavailable", Next::Ask),
    }
}

fn page(language: Language, claim: &Claim, told: &Told) -> Response {
    let words = language.words();
    let hidden =
        |name: &str, value: &str| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value));
    let form = |fields: &str, button: &str| {
        format!(
            "<form method=\"post\" action=\"/pay\">{}{}{}{}{fields}<button type=\"submit\">{button}</button></form>",
            hidden("vendor", claim.vendor.as_str()),
            hidden("transaction_id", claim.transaction_id.as_str()),
            hidden("password", claim.password.expose()),
            hidden("lang", language.tag()),
        )
    };
    let next = match &told.next {
        Next::Nothing => String::new(),
        Next::Ask => form("", words.ask_again),
        Next::Pay(wrong) => form(&card_fields(words, *wrong), words.pay_now),
    };
    let title = escape(told.text);
    let html = format!(
        "<!doctype html>\n<html lang=\"{language}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><main><h1 id=\"outcome\" data-state=\"{}\">{title}</h1>\n{next}</main></body></html>\n",
        escape(&told.state)
    );
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        base64(&sha256(&[STYLE.as_bytes()]))
    );
    let mut answer = (told.status, html).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// Empty: what was typed is not sent back.
fn card_fields(words: &Words, wrong: Option<Wrong>) -> String {
    let field = |name: &str, label: &str, more: &str| {
        let wrong = wrong.filter(|wrong| wrong.field() == name);
        let focus = if wrong.is_some() { " autofocus aria-invalid=\"true\"" } else { "" };
        let text = wrong.map(|wrong| wrong.text(words)).unwrap_or_default();
        format!(
            "<label for=\"{name}\">{}</label><input id=\"{name}\" name=\"{name}\" inputmode=\"numeric\" {more} \
             aria-describedby=\"{name}-error\"{focus}><p id=\"{name}-error\" class=\"wrong\">{}</p>",
            escape(label),
            escape(text)
        )
    };
    [
        field("card_number", words.card_number, "autocomplete=\"cc-number\" maxlength=\"23\" required"),
        field("expiry", words.card_expiry, "autocomplete=\"cc-exp\" maxlength=\"5\" required"),
        field("pin", words.card_pin, "type=\"password\" autocomplete=\"off\" maxlength=\"12\""),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_another_page_is_not_taken() {
        let origins = [HeaderValue::from_static("https://pay.example")];
        let from = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("203.0.113.200"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            from_our_pages(&origins, &headers)
        };
        for ours in [None, Some("null"), Some("https://pay.example"), Some("https://203.0.113.200")] {
            assert!(from(ours), "{ours:?}");
        }
        for other in ["https://evil.example", "http://203.0.113.200", "https://203.0.113.200.evil.example", "https://"]
        {
            assert!(!from(Some(other)), "{other}");
        }
    }

    #[test]
    fn every_answer_is_a_page_in_its_language_that_quotes_nothing_and_runs_nothing() {
        let claim = Claim {
            vendor: "shop".parse().unwrap(),
            transaction_id: "o-1".parse().unwrap(),
            password: "\"><script>".into(),
        };
        let states = [
            PaymentState::Open,
            PaymentState::Authorising,
            PaymentState::Approved,
            PaymentState::Declined,
            PaymentState::Reversing,
            PaymentState::Reversed,
            PaymentState::Expired,
            PaymentState::Locked,
            PaymentState::Cancelled,
        ];
        let refusals = [
            PayError::NoMatch,
            PayError::CardExpired,
            PayError::CardNotTaken,
            PayError::PinNotTaken,
            PayError::BankUnreachable,
        ];
        for language in Language::ALL {
            let answers = states.into_iter().map(Ok).chain(refusals.iter().cloned().map(Err));
            for answer in answers {
                let told = told(Ok(answer), language.words());
                let offers = !matches!(told.next, Next::Nothing);
                let answer = page(language, &claim, &told);
                assert_eq!(answer.headers()[header::CONTENT_LANGUAGE], language.tag());
                let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
                assert!(policy.starts_with("default-src 'none'") && !policy.contains("script-src"), "{policy}");
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let body = runtime.block_on(axum::body::to_bytes(answer.into_body(), 1 << 20)).unwrap();
                let html = String::from_utf8(body.to_vec()).unwrap();
                assert!(html.contains(&escape(told.text)) && html.contains(&format!("lang=\"{language}\"")), "{html}");
                assert!(!html.contains("<script"), "{html}");
                assert_eq!(html.contains("<form"), offers, "{html}");
            }
        }
    }
}
