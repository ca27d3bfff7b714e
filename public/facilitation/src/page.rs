//! The payer page, for people in their language and for programs (A11), and what is shown in the place of one that cannot
//! be used (A15).

use askama::Template;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::clock;
use cloakway_runtime::http::{Peer, Refusal};
use serde::Deserialize;
use transact_wire::form::STYLE;
use transact_wire::page_signature;
use transact_wire::payment::Page;
use transact_wire::words::{Language, Words, fill};

use crate::api;
use crate::pages::Handed;

const SCRIPT: &str = include_str!("../templates/page.js");

/// What a reader may ask for; whatever else stands there is passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct Wishes {
    lang: Option<String>,
}

/// Who reads a page, and how.
struct Reader {
    language: Language,
    program: bool,
}

impl Reader {
    /// The language of the link that was followed counts; else what the browser prefers.
    fn of(headers: &HeaderMap, wishes: &Wishes) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let asked = wishes.lang.as_ref().and_then(|tag| tag.parse().ok());
        Self {
            language: asked.unwrap_or_else(|| Language::accepted(text(header::ACCEPT_LANGUAGE))),
            program: text(header::ACCEPT) == "application/json",
        }
    }
}

/// `GET /p/{token}`: the payer page.
pub(crate) async fn page(
    State(state): State<api::State>,
    Path(token): Path<String>,
    Query(wishes): Query<Wishes>,
    headers: HeaderMap,
) -> Response {
    let reader = Reader::of(&headers, &wishes);
    match state.pages.open(&token, clock::wall()) {
        Ok(page) => shown(&state, page.as_ref(), &reader),
        Err(error) => broken(&error),
    }
}

/// `GET /c/{claim}`: the page, or its URL, straight to the client that the order is for, and to nobody else (A10).
pub(crate) async fn claim(
    State(state): State<api::State>,
    Path(claim): Path<String>,
    Query(wishes): Query<Wishes>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    let reader = Reader::of(&headers, &wishes);
    match state.pages.claimed(&claim, peer.address.ip(), clock::wall()) {
        Ok(Some(Handed::Page(page))) => shown(&state, Some(&page), &reader),
        Ok(Some(Handed::Url(token))) => {
            metrics::counter!("cloakway_pages_total", "outcome" => "handed").increment(1);
            let to = format!("{}/p/{}", state.config.public_url, token.expose());
            let mut answer = guarded(StatusCode::SEE_OTHER, "default-src 'none'", None, "", String::new());
            if let Ok(mut to) = HeaderValue::from_str(&to) {
                to.set_sensitive(true);
                answer.headers_mut().insert(header::LOCATION, to);
            }
            answer
        }
        Ok(None) => shown(&state, None, &reader),
        Err(error) => broken(&error),
    }
}

/// Any other URL.
pub(crate) async fn nothing(Query(wishes): Query<Wishes>, headers: HeaderMap) -> Response {
    unavailable(&Reader::of(&headers, &wishes))
}

fn broken(error: &dyn std::fmt::Display) -> Response {
    tracing::error!(%error, "page not read");
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn shown(state: &api::State, page: Option<&Page>, reader: &Reader) -> Response {
    let Some(page) = page else {
        metrics::counter!("cloakway_pages_total", "outcome" => "unavailable").increment(1);
        return unavailable(reader);
    };
    metrics::counter!("cloakway_pages_total", "outcome" => "shown").increment(1);
    let (policy, kind, text) = if reader.program {
        ("default-src 'none'".to_owned(), "application/json", serde_json::to_string(page).map_err(|e| e.to_string()))
    } else {
        let view = PageView::new(page, reader.language);
        (policy(&page.private_origin), "text/html; charset=utf-8", view.render().map_err(|e| e.to_string()))
    };
    match text {
        Ok(text) => {
            let key = Some(state.pages.signing_key());
            let mut answer = guarded(StatusCode::OK, &policy, key, kind, text);
            language(&mut answer, reader);
            answer
        }
        Err(error) => broken(&error),
    }
}

/// Used, expired, guessed and wrong URLs look the same.
fn unavailable(reader: &Reader) -> Response {
    if reader.program {
        return Refusal::new(
            StatusCode::NOT_FOUND,
            "page_unavailable",
            "this page was used, has expired or never was: order again at the shop",
        )
        .into_response();
    }
    let view = Unavailable {
        language: reader.language,
        languages: &Language::ALL,
        words: reader.language.words(),
        style: STYLE,
    };
    match view.render() {
        Ok(text) => {
            let kind = "text/html; charset=utf-8";
            let mut answer = guarded(StatusCode::NOT_FOUND, &policy("'none'"), None, kind, text);
            language(&mut answer, reader);
            answer
        }
        Err(error) => broken(&error),
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct PageView<'p> {
    page: &'p Page,
    language: Language,
    languages: &'static [Language],
    words: &'static Words,
    amount: String,
    title: String,
    pay: String,
    note: String,
    no_script: String,
    /// For the script.
    texts: String,
    script: &'static str,
    style: &'static str,
}

impl<'p> PageView<'p> {
    fn new(page: &'p Page, language: Language) -> Self {
        let words = language.words();
        let amount = language.amount(page.amount);
        let values = [("amount", amount.as_str()), ("payee", &page.payee), ("origin", &page.private_origin)];
        let filled = |text| fill(text, &values);
        let (title, pay) = (filled(words.title), filled(words.pay));
        let (note, no_script) = (filled(words.note), filled(words.no_script));
        let texts = serde_json::to_string(words).unwrap_or_default();
        let languages = &Language::ALL;
        Self {
            page,
            language,
            languages,
            words,
            amount,
            title,
            pay,
            note,
            no_script,
            texts,
            script: SCRIPT,
            style: STYLE,
        }
    }
}

#[derive(Template)]
#[template(path = "unavailable.html")]
struct Unavailable {
    language: Language,
    languages: &'static [Language],
    words: &'static Words,
    style: &'static str,
}

fn language(answer: &mut Response, reader: &Reader) {
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(reader.language.tag()));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-language"));
}

/// The page runs its own script and style, by their hashes, and speaks to the private origin alone.
fn policy(private: &str) -> String {
    // A host-source of a content security policy cannot be an IPv6 literal (CSP 3 §2.3.1), so that such a page is held by
    // the hash of its one script alone. With a name for the address (`private-names`) it is held as every other.
    let private = if private.contains('[') { "https:" } else { private };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src {private}; object-src {private}; frame-src {private}; \
         form-action {private}; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        base64(&sha256(&[SCRIPT.as_bytes()])),
        base64(&sha256(&[STYLE.as_bytes()])),
    )
}

/// An answer with everything that keeps it to itself, and signed if there is a key.
fn guarded(
    status: StatusCode,
    policy: &str,
    key: Option<&cloakway_crypto::sign::SigningKey>,
    kind: &'static str,
    text: String,
) -> Response {
    let signed = key.map(|key| page_signature::sign(key, status.as_u16(), kind, text.as_bytes(), clock::wall()));
    let mut answer = (status, text).into_response();
    let headers = answer.headers_mut();
    if kind.is_empty() {
        headers.remove(header::CONTENT_TYPE);
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("content-security-policy", policy);
    for (name, value) in [
        ("cache-control", "no-store"),
        // The private side sees by the origin of a form that it comes from here; nobody sees the URL.
        ("referrer-policy", "strict-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=()"),
        ("strict-transport-security", "max-age=31536000"),
    ] {
        put(name, value);
    }
    if let Some(signed) = signed {
        put(page_signature::DIGEST_HEADER, &signed.digest);
        put(page_signature::INPUT_HEADER, &signed.input);
        put(page_signature::SIGNATURE_HEADER, &signed.signature);
    }
    answer
}
