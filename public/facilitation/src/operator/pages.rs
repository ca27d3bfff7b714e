//! Pages on which operators register vendors and look after their keys. On this host only, without scripts; whoever is
//! signed in has a cookie that no other site's request carries, and every form a token of the session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;
use cloakway_crypto::{System, ct_eq};
use cloakway_runtime::http::{self, Limits};
use cloakway_runtime::{Stop, clock, tls};
use serde::Deserialize;

use super::session::{Sessions, SignedIn};
use super::settings::AdminConfig;
use crate::audit::Line;
use crate::registry::{Change, OVERLAP, Registered, Registry};

const STYLE: &str = include_str!("../../templates/operator.css");
const COOKIE: &str = "__Host-operator";
/// Lines of the audit log on its page.
const LINES: usize = 500;

#[derive(Clone)]
struct Desk {
    registry: Arc<Registry>,
    sessions: Arc<Mutex<Sessions>>,
    hosts: Arc<Vec<String>>,
}

/// Serves the pages.
pub(crate) async fn serve(
    config: AdminConfig,
    registry: Arc<Registry>,
    stop: Stop,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|e| format!("{}: {e}", config.listen))?;
    let identity = tls::server(&config.identity, None)?;
    let limits = Limits { connections: 64, body: 8 * 1024, ..Limits::default() };
    let router = router(registry, Sessions::new(config.operators), listener.local_addr()?);
    http::serve(listener, identity, router, limits, stop);
    Ok(())
}

fn router(registry: Arc<Registry>, sessions: Sessions, listen: SocketAddr) -> Router {
    // A name of somebody else's that leads to this host is not served.
    let hosts = Arc::new(vec![listen.to_string(), format!("localhost:{}", listen.port())]);
    Router::new()
        .route("/", get(vendors))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/vendors", post(register))
        .route("/vendors/{id}", get(vendor))
        .route("/vendors/{id}/{action}", post(change))
        .route("/audit", get(audit))
        .fallback(|| async { failed(StatusCode::NOT_FOUND, "There is no such page.") })
        .with_state(Desk { registry, sessions: Arc::new(Mutex::new(sessions)), hosts })
}

impl Desk {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks; else the page to sign in.
    fn who(&self, headers: &HeaderMap) -> Result<SignedIn, Box<Response>> {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if !self.hosts.iter().any(|known| known == host) {
            return Err(Box::new(failed(StatusCode::MISDIRECTED_REQUEST, "This server has another name.")));
        }
        let signed_in = cookie(headers).and_then(|cookie| self.sessions().find(cookie, clock::now()));
        signed_in
            .ok_or_else(|| Box::new(shown(StatusCode::UNAUTHORIZED, &SignIn { style: STYLE, problem: String::new() })))
    }

    /// Who sends a form; it has to be a form of ours.
    fn who_sends(&self, headers: &HeaderMap, form_token: &str) -> Result<SignedIn, Box<Response>> {
        let signed_in = self.who(headers)?;
        if from_here(headers) && ct_eq(signed_in.form_token.as_bytes(), form_token.as_bytes()) {
            Ok(signed_in)
        } else {
            Err(Box::new(failed(StatusCode::FORBIDDEN, "This form is not of this session: open the page again.")))
        }
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Browsers say where a form comes from.
fn from_here(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    text(header::ORIGIN).strip_prefix("https://") == Some(text(header::HOST))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

async fn sign_in(State(desk): State<Desk>, headers: HeaderMap, form: Result<Form<Token>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else { return failed(StatusCode::BAD_REQUEST, "Not a form of ours.") };
    if !from_here(&headers) {
        return failed(StatusCode::FORBIDDEN, "This form comes from another page.");
    }
    let signed = desk.sessions().sign_in(&form.token, &mut System, clock::now());
    match signed {
        Ok((cookie, signed_in)) => {
            let noted = desk.registry.note(&signed_in.who, "signed in", "", clock::wall()).await;
            if let Err(error) = noted {
                tracing::error!(%error, "sign-in not written to the audit log");
                return failed(StatusCode::SERVICE_UNAVAILABLE, "The audit log cannot be written.");
            }
            let cookie = format!("{COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict", cookie.expose());
            let mut answer = back("/");
            if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
                cookie.set_sensitive(true);
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            answer
        }
        Err(error) => {
            tracing::warn!(%error, "an operator was not signed in");
            metrics::counter!("cloakway_operator_sign_ins_refused_total").increment(1);
            shown(StatusCode::UNAUTHORIZED, &SignIn { style: STYLE, problem: error.to_string() })
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bare {
    form_token: String,
}

async fn sign_out(State(desk): State<Desk>, headers: HeaderMap, form: Result<Form<Bare>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else { return failed(StatusCode::BAD_REQUEST, "Not a form of ours.") };
    if let Err(answer) = desk.who_sends(&headers, &form.form_token) {
        return *answer;
    }
    desk.sessions().sign_out(cookie(&headers).unwrap_or_default());
    back("/")
}

async fn vendors(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    match desk.who(&headers) {
        Ok(signed_in) => list(&desk, &signed_in, StatusCode::OK, String::new(), Register::default()),
        Err(answer) => *answer,
    }
}

fn list(desk: &Desk, signed_in: &SignedIn, status: StatusCode, problem: String, typed: Register) -> Response {
    let configured = desk.registry.configured().iter();
    let configured = configured.map(|vendor| (vendor.id.to_string(), vendor.name.clone(), vendor.results_url.clone()));
    let page = Vendors {
        style: STYLE,
        who: &signed_in.who,
        form_token: &signed_in.form_token,
        registered: desk.registry.registered(),
        configured: configured.collect(),
        problem,
        typed,
    };
    shown(status, &page)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    form_token: String,
    id: String,
    name: String,
    results_url: String,
}

async fn register(
    State(desk): State<Desk>,
    headers: HeaderMap,
    form: Result<Form<Register>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else { return failed(StatusCode::BAD_REQUEST, "Not a form of ours.") };
    let signed_in = match desk.who_sends(&headers, &form.form_token) {
        Ok(signed_in) => signed_in,
        Err(answer) => return *answer,
    };
    let change = Change::Register {
        id: form.id.trim().to_owned(),
        name: form.name.clone(),
        results_url: form.results_url.trim().to_owned(),
    };
    match desk.registry.change(change, &signed_in.who, clock::wall()).await {
        Ok(done) => {
            let key = done.key.as_ref().map(|key| key.expose().as_str());
            one(&signed_in, StatusCode::OK, &done.vendor, key, String::new())
        }
        Err(error) => list(&desk, &signed_in, StatusCode::UNPROCESSABLE_ENTITY, error.to_string(), form),
    }
}

async fn vendor(State(desk): State<Desk>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    match (desk.who(&headers), desk.registry.get(&id)) {
        (Ok(signed_in), Some(vendor)) => one(&signed_in, StatusCode::OK, &vendor, None, String::new()),
        (Ok(_), None) => failed(StatusCode::NOT_FOUND, "There is no such vendor."),
        (Err(answer), _) => *answer,
    }
}

fn one(
    signed_in: &SignedIn,
    status: StatusCode,
    vendor: &Registered,
    new_key: Option<&str>,
    problem: String,
) -> Response {
    let now = clock::wall();
    let keys = vendor.keys.iter().rev().map(|key| {
        let state = match key.until {
            None => "good".to_owned(),
            Some(until) if now < until => format!("good until {until}"),
            Some(until) => format!("ended {until}"),
        };
        (key.id.clone(), key.made_at.to_string(), state, key.until.is_none_or(|until| now < until))
    });
    let page = One {
        style: STYLE,
        who: &signed_in.who,
        form_token: &signed_in.form_token,
        vendor,
        keys: keys.collect(),
        new_key: new_key.unwrap_or_default(),
        problem,
    };
    shown(status, &page)
}

/// Whatever the forms of a vendor's page hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    form_token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    results_url: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    overlap_hours: Option<u64>,
}

async fn change(
    State(desk): State<Desk>,
    headers: HeaderMap,
    Path((id, action)): Path<(String, String)>,
    form: Result<Form<Act>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else { return failed(StatusCode::BAD_REQUEST, "Not a form of ours.") };
    let signed_in = match desk.who_sends(&headers, &form.form_token) {
        Ok(signed_in) => signed_in,
        Err(answer) => return *answer,
    };
    let overlap = form.overlap_hours.map_or(OVERLAP, |hours| Duration::from_secs(hours.saturating_mul(3600)));
    let change = match action.as_str() {
        "describe" => Change::Describe { id: id.clone(), name: form.name, results_url: form.results_url },
        "rotate" => Change::Rotate { id: id.clone(), overlap },
        "revoke" => Change::Revoke { id: id.clone(), key: form.key },
        "suspend" => Change::Suspend { id: id.clone() },
        "resume" => Change::Resume { id: id.clone() },
        _ => return failed(StatusCode::NOT_FOUND, "There is no such page."),
    };
    match desk.registry.change(change, &signed_in.who, clock::wall()).await {
        Ok(done) => {
            let key = done.key.as_ref().map(|key| key.expose().as_str());
            one(&signed_in, StatusCode::OK, &done.vendor, key, String::new())
        }
        Err(error) => match desk.registry.get(&id) {
            Some(vendor) => one(&signed_in, StatusCode::UNPROCESSABLE_ENTITY, &vendor, None, error.to_string()),
            None => failed(StatusCode::NOT_FOUND, "There is no such vendor."),
        },
    }
}

async fn audit(State(desk): State<Desk>, headers: HeaderMap) -> Response {
    let signed_in = match desk.who(&headers) {
        Ok(signed_in) => signed_in,
        Err(answer) => return *answer,
    };
    let problem = desk.registry.audit_problem().await.unwrap_or_default();
    match desk.registry.audited(LINES) {
        Ok(lines) => {
            let (who, form_token) = (&signed_in.who, &signed_in.form_token);
            shown(StatusCode::OK, &Audit { style: STYLE, who, form_token, lines, problem })
        }
        Err(error) => {
            tracing::error!(%error, "audit log not read");
            failed(StatusCode::SERVICE_UNAVAILABLE, "The audit log cannot be read.")
        }
    }
}

#[derive(Template)]
#[template(path = "operator_sign_in.html")]
struct SignIn {
    style: &'static str,
    problem: String,
}

#[derive(Template)]
#[template(path = "operator_vendors.html")]
struct Vendors<'p> {
    style: &'static str,
    who: &'p str,
    form_token: &'p str,
    registered: Vec<Registered>,
    configured: Vec<(String, String, String)>,
    problem: String,
    typed: Register,
}

#[derive(Template)]
#[template(path = "operator_vendor.html")]
struct One<'p> {
    style: &'static str,
    who: &'p str,
    form_token: &'p str,
    vendor: &'p Registered,
    keys: Vec<(String, String, String, bool)>,
    new_key: &'p str,
    problem: String,
}

#[derive(Template)]
#[template(path = "operator_audit.html")]
struct Audit<'p> {
    style: &'static str,
    who: &'p str,
    form_token: &'p str,
    lines: Vec<Line>,
    problem: String,
}

fn back(to: &'static str) -> Response {
    guarded((StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response())
}

fn failed(status: StatusCode, text: &'static str) -> Response {
    guarded((status, text).into_response())
}

fn shown(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => guarded((status, axum::response::Html(text)).into_response()),
        Err(error) => {
            tracing::error!(%error, "page not written");
            failed(StatusCode::INTERNAL_SERVER_ERROR, "The page cannot be written.")
        }
    }
}

fn guarded(mut answer: Response) -> Response {
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        base64(&sha256(&[STYLE.as_bytes()]))
    );
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
