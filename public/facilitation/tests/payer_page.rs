//! The payer page in Chromium, as a person has it (A11, A15). What was seen is kept in `target/tmp/payer-pages`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod chromium;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bench::{Bench, KEY, body, identity, start};
use chromium::{Chromium, ENTER, TAB, Wish};
use cloakway_runtime::http::{Limits, serve};
use cloakway_runtime::tls::server;
use serde_json::{Value, json};
use transact_wire::form::{self, Asked};
use transact_wire::payment::{Outcome, Payment, PaymentState};
use transact_wire::words::Language;

const SCRIPTS: Wish = Wish { scripts: true, language: "en", phone: false };

/// What came to the private network address: the origin that the browser named, and the last four digits of the card.
type Came = Arc<Mutex<Vec<(String, String)>>>;

/// What answers in the place of the transaction server's private side.
async fn private(bench: &Bench, at: SocketAddr) -> Came {
    let came = Came::default();
    let router = Router::new()
        .route("/v1/live", get(|| async { Json(json!({"live": true})) }))
        .route("/v1/live.svg", get(|| async {
            let dot = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"24\" height=\"24\"><circle cx=\"12\" cy=\"12\" r=\"11\"/></svg>";
            ([(header::CONTENT_TYPE, "image/svg+xml")], dot)
        }))
        .route("/v1/payments", post(pay))
        .route("/pay", post(posted))
        .layer(from_fn(cross_origin))
        .with_state(came.clone());
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let tls = server(&identity(bench.folder.path(), "127.0.0.1"), None).unwrap();
    bench.seen.lock().unwrap().private = Some(listener.local_addr().unwrap());
    serve(listener, tls, router, Limits::default(), bench.stop.clone());
    came
}

fn origin(headers: &HeaderMap) -> String {
    headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn cross_origin(request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut answer = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    answer
}

async fn pay(State(came): State<Came>, headers: HeaderMap, Json(payment): Json<Payment>) -> Json<Outcome> {
    came.lock().unwrap().push((origin(&headers), payment.card_number.last_four()));
    Json(PaymentState::Approved.into())
}

async fn posted(State(came): State<Came>, headers: HeaderMap, body: Bytes) -> Html<String> {
    let posted = form::read(&body).unwrap();
    let Asked::Payment(payment) = posted.asked else { panic!("no payment") };
    came.lock().unwrap().push((origin(&headers), payment.card_number.last_four()));
    Html(format!(
        "<!doctype html><html lang={0}><h1 id=outcome>{1}</h1>",
        posted.language,
        posted.language.words().approved
    ))
}

async fn page_of(bench: &Bench, id: &str) -> String {
    bench.order(Some(KEY), &body(id)).await.1["pay_url"].as_str().unwrap().to_owned()
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Whether text has the contrast that WCAG 2.2 asks for (1.4.3: 4.5 to 1) against what it stands on.
const CONTRAST: &str = r##"
const parse = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && (e.matches("input, button:enabled") || [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) && !e.matches("button:disabled"))
  .map((e) => { const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x); return [e.tagName + "#" + e.id, (a + 0.05) / (b + 0.05)]; })
  .filter(([, ratio]) => ratio < 4.5).map(String);
"##;

/// Every field has a name that is read out, and what it is described by is there.
const LABELS: &str = r#"
return [...document.querySelectorAll("input:not([type=hidden]), button")].filter((e) => {
  const name = e.labels?.length ? e.labels[0].textContent : e.textContent;
  const described = (e.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);
  return !name.trim() || described.some((id) => !document.getElementById(id));
}).map((e) => e.outerHTML);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_pays_by_keyboard_alone_on_a_phone_in_german() {
    let bench = start().await;
    let came = private(&bench, loopback()).await;
    let url = page_of(&bench, "o-1").await;
    let wish = Wish { scripts: true, language: "de-DE,de", phone: true };
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) else { return };
    let words = Language::De.words();
    browser.go(&url);
    assert_eq!(browser.title(), "12,50 EUR an Example Shop zahlen".replace("50 E", "50\u{a0}E"));
    assert_eq!(browser.attribute("html", "lang").unwrap(), "de");
    assert_eq!(browser.text("#amount").unwrap(), "12,50 EUR");
    assert_eq!(browser.text("#description").unwrap(), "A <b>book</b>");
    browser.until(|| match browser.text("#path")? {
        live if live == words.path_live => Ok(()),
        other => Err(other),
    });
    let fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(browser.run(fits), true, "nothing is wider than the phone");
    assert_eq!(browser.run(CONTRAST), json!([]));
    assert_eq!(browser.run(LABELS), json!([]));
    browser.picture("phone-german");

    let mut order = Vec::new();
    for _ in 0..7 {
        browser.press(TAB);
        order.push(browser.focused());
    }
    assert_eq!(order, ["English", "Français", "Español", "card-number", "card-expiry", "card-pin", "pay"]);
    // Nothing typed: the summary has the focus and leads to the first field.
    browser.press(ENTER);
    browser.until(|| if browser.focused() == "summary" { Ok(()) } else { Err(browser.focused()) });
    let summary = browser.text("#summary").unwrap();
    assert!(summary.contains(words.summary) && summary.contains(words.number_length), "{summary}");
    assert_eq!(browser.attribute("#card-number", "aria-invalid").unwrap(), "true");
    assert_eq!(browser.text("#card-expiry-error").unwrap(), words.expiry_form);
    assert_eq!(browser.text("#card-pin-error").unwrap(), "");
    assert_eq!(browser.run(CONTRAST), json!([]));
    browser.picture("phone-german-errors");
    browser.press(&format!("{TAB}{ENTER}"));
    assert_eq!(browser.focused(), "card-number");
    browser.press("4111 1111 1111 1112");
    browser.press(&format!("{TAB}12/30{ENTER}"));
    browser.until(|| match browser.text("#summary")? {
        summary if summary.contains(words.number_mistyped) => Ok(()),
        other => Err(other),
    });
    assert_eq!(browser.attribute("#card-expiry", "aria-invalid").unwrap(), "");
    assert!(came.lock().unwrap().is_empty(), "nothing was sent");
    browser.press(&format!("{TAB}{ENTER}"));
    browser.run("document.activeElement.select()");
    browser.press(&format!("4111111111111111{ENTER}"));
    browser.until(|| match browser.text("#outcome")? {
        paid if paid == words.approved => Ok(()),
        other => Err(other),
    });
    assert_eq!(browser.focused(), "outcome");
    assert_eq!(browser.run(CONTRAST), json!([]));
    browser.picture("phone-german-paid");
    assert_eq!(*came.lock().unwrap(), [(bench.url.clone(), "1111".to_owned())]);
    let private = format!("https://{}/", bench.seen.lock().unwrap().private.unwrap());
    let strange: Vec<_> = browser
        .requests()
        .into_iter()
        .filter(|(_, url)| url.starts_with("http") && !url.starts_with(&private) && !url.starts_with(&bench.url))
        .collect();
    assert_eq!(strange, [], "nobody else is asked for anything");
    let complaints = browser.complaints();
    assert!(!complaints.iter().any(|line| line.contains("Content Security Policy")), "{complaints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_private_path_the_page_says_what_to_do_and_sends_nothing_and_goes_on_when_it_is_there() {
    let bench = start().await;
    let at = bench::free_port();
    bench.seen.lock().unwrap().private = Some(at);
    let url = page_of(&bench, "o-1").await;
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &SCRIPTS) else { return };
    browser.go(&url);
    let words = Language::En.words();
    browser.until(|| match browser.text("#path")? {
        dead if dead == words.path_dead => Ok(()),
        other => Err(other),
    });
    assert_eq!(browser.property("#pay", "disabled"), true);
    browser.type_into("#card-number", "4111111111111111");
    browser.type_into("#card-expiry", "12/30");
    browser.press(ENTER);
    browser.picture("path-dead");
    let posts = browser.requests().into_iter().filter(|(method, _)| method == "POST").count();
    assert_eq!(posts, 0, "nothing is sent while the path is dead");
    for (language, name) in [("de", "Deutsch"), ("fr", "Français"), ("es", "Español")] {
        browser.click(&format!("nav a[hreflang={language}]"));
        browser.until(|| match browser.attribute("html", "lang")? {
            shown if shown == language => Ok(()),
            other => Err(other),
        });
        assert_eq!(browser.text("nav [aria-current]").unwrap(), name);
        let language: Language = language.parse().unwrap();
        browser.until(|| match browser.text("#path")? {
            dead if dead == language.words().path_dead => Ok(()),
            other => Err(other),
        });
        browser.picture(&format!("path-dead-{language}"));
    }
    private(&bench, at).await;
    browser.until(|| {
        if browser.attribute("#path", "data-live")? == "true" { Ok(()) } else { Err("still dead".to_owned()) }
    });
    assert_eq!(browser.property("#pay", "disabled"), false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scripts_the_form_goes_to_the_private_address_and_its_answer_is_a_page_there() {
    let bench = start().await;
    let came = private(&bench, loopback()).await;
    let url = page_of(&bench, "o-1").await;
    let wish = Wish { scripts: false, ..SCRIPTS };
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) else { return };
    browser.go(&url);
    let (en, fr) = (Language::En.words(), Language::Fr.words());
    assert!(browser.text("#no-script").unwrap().starts_with(&en.no_script[..30]));
    browser.click("nav a[hreflang=fr]");
    browser.until(|| if browser.text("#pay")?.starts_with(fr.pay_now) { Ok(()) } else { Err(browser.text("#pay")?) });
    // What stands in the place of the mark is not seen where the mark is.
    browser.until(|| match browser.text("#live")?.as_str() {
        "" => Ok(()),
        other => Err(other.to_owned()),
    });
    browser.picture("no-script");
    browser.type_into("#card-number", "4111 1111 1111 1111");
    browser.type_into("#card-expiry", "12/30");
    browser.click("#pay");
    browser.until(|| match browser.text("#outcome")? {
        paid if paid == fr.approved => Ok(()),
        other => Err(other),
    });
    let private = bench.seen.lock().unwrap().private.unwrap();
    assert_eq!(browser.url(), format!("https://{private}/pay"));
    browser.picture("no-script-paid");
    assert_eq!(*came.lock().unwrap(), [(bench.url.clone(), "1111".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_scripts_and_without_the_private_path_the_page_says_what_to_do() {
    let bench = start().await;
    bench.seen.lock().unwrap().private = Some(bench::free_port());
    let url = page_of(&bench, "o-1").await;
    let wish = Wish { scripts: false, language: "es", phone: true };
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) else { return };
    browser.go(&url);
    let words = Language::Es.words();
    browser.until(|| match browser.text("#live")? {
        dead if dead == words.path_dead => Ok(()),
        other => Err(other),
    });
    browser.picture("no-script-path-dead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipv6_private_address_is_reached_by_script_and_by_form() {
    let six = SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), 0);
    if std::net::TcpListener::bind(six).is_err() {
        cloakway_testing::skip("IPv6 on this machine");
        return;
    }
    let bench = start().await;
    let came = private(&bench, six).await;
    for (id, scripts) in [("o-1", true), ("o-2", false)] {
        let url = page_of(&bench, id).await;
        let wish = Wish { scripts, ..SCRIPTS };
        let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) else { return };
        browser.go(&url);
        if scripts {
            browser.until(|| {
                if browser.attribute("#path", "data-live")? == "true" { Ok(()) } else { Err(browser.text("#path")?) }
            });
        }
        browser.type_into("#card-number", "4111111111111111");
        browser.type_into("#card-expiry", "12/30");
        browser.click("#pay");
        browser.until(|| match browser.text("#outcome")? {
            paid if paid == Language::En.words().approved => Ok(()),
            other => Err(other),
        });
    }
    assert_eq!(came.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_cannot_be_used_says_so_and_what_to_do() {
    let bench = start().await;
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &SCRIPTS) else { return };
    for language in Language::ALL {
        browser.go(&format!("{}/p/{}?lang={language}", bench.url, "A".repeat(43)));
        assert_eq!(browser.text("h1").unwrap(), language.words().unusable_title);
        assert_eq!(browser.text("#unavailable").unwrap(), language.words().unusable);
        assert_eq!(browser.run(CONTRAST), json!([]));
        browser.picture(&format!("unusable-{language}"));
    }
    let seen: Value = browser.run("return document.documentElement.outerHTML.includes('EUR')");
    assert_eq!(seen, false);
}
