//! The pages and the command line for operators (A6): in Chromium, and as requests that somebody else would send.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod chromium;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bench::{Bench, LIMIT, body, start_with};
use chromium::{Chromium, ENTER, Wish};
use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::admin::{Request, ask_for};
use serde_json::{Value, json};

const TOKEN: &str = "token-of-alice";

/// A server with operators' pages, and where they are.
async fn with_operators() -> (Bench, String) {
    let at = bench::free_port();
    let bench = start_with(|folder, text| {
        let file = folder.join("operator.sha256");
        std::fs::write(&file, hex(&sha256(&[TOKEN.as_bytes()]))).unwrap();
        let (certificate, key) = (folder.join("127.0.0.1.pem"), folder.join("127.0.0.1.key"));
        format!(
            "{text}\n[admin]\nlisten = \"{at}\"\ncertificate = {certificate:?}\nkey = {key:?}\n\
             operators = [{{ name = \"alice\", token-sha256-file = {file:?} }}]\n"
        )
    })
    .await;
    bench.until(|| std::net::TcpStream::connect(at).is_ok()).await;
    (bench, format!("https://{at}"))
}

impl Bench {
    async fn show(&self, topic: &str, arguments: &[(&str, &str)]) -> Result<Value, String> {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { topic: topic.to_owned(), arguments };
        ask_for(&self.folder.path().join("admin.sock"), &request).await
    }

    async fn form(&self, url: &str, cookie: &str, origin: &str, form: &str) -> (StatusCode, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: &str| headers.insert(name, HeaderValue::from_str(value).unwrap());
        put(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        put(header::ORIGIN, origin);
        put(header::COOKIE, cookie);
        let answer = self.client.send(Method::POST, url, headers, form.into(), LIMIT).await.unwrap();
        (answer.status(), answer.headers().clone(), String::from_utf8(answer.body().to_vec()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_registers_a_vendor_changes_its_keys_and_reads_what_was_done() {
    let (bench, pages) = with_operators().await;
    let wish = Wish { scripts: false, language: "en", phone: false };
    let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) else { return };
    let pictures = "operator-pages";
    browser.go(&pages);
    browser.type_into("#token", "guess");
    browser.press(ENTER);
    browser.until(|| browser.text("#problem").map(drop));
    assert_eq!(browser.text("#problem").unwrap(), "This token is nobody's.");
    browser.picture_in(pictures, "sign-in");
    browser.type_into("#token", TOKEN);
    browser.press(ENTER);
    browser.until(|| browser.text("#who").map(drop));
    assert_eq!(browser.text("#who").unwrap(), "alice");
    assert!(browser.text("#configured").unwrap().contains("Example Shop"));

    browser.type_into("#id", "shop");
    browser.type_into("#name", "Taken");
    browser.type_into("#results-url", "https://192.0.2.19/results");
    browser.click("#register");
    browser.until(|| browser.text("#problem").map(drop));
    assert_eq!(browser.text("#problem").unwrap(), "shop is in the configuration file: change it there");
    assert_eq!(browser.property("#name", "value"), "Taken", "what was typed is still there");
    browser.clear("#id");
    browser.type_into("#id", "books");
    browser.click("#register");
    browser.until(|| browser.text("#new-key").map(drop));
    let first = browser.text("#new-key").unwrap();
    browser.picture_in(pictures, "registered");
    let order = body("o-1");
    assert_eq!(bench.order(Some(&first), &order).await.0, StatusCode::OK);
    assert_eq!(bench.seen.lock().unwrap().placements[0].vendor.as_str(), "books");

    browser.click("#rotate");
    browser.until(|| if browser.text("#new-key")? == first { Err("the old key".to_owned()) } else { Ok(()) });
    let second = browser.text("#new-key").unwrap();
    for key in [&first, &second] {
        assert_eq!(bench.order(Some(key), &order).await.0, StatusCode::OK, "both are good for a day");
    }
    // The newest stands first.
    browser.click("#keys tbody tr:last-child .revoke");
    browser.until(|| {
        let keys = browser.text("#keys")?;
        if keys.contains("ended") { Ok(()) } else { Err(keys) }
    });
    assert!(browser.text("#new-key").is_err(), "a key is shown once");
    assert_eq!(bench.order(Some(&first), &order).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.order(Some(&second), &order).await.0, StatusCode::OK);
    browser.click("#suspend");
    browser.until(|| {
        let state = browser.text("#state")?;
        if state.contains("Suspended") { Ok(()) } else { Err(state) }
    });
    assert_eq!(bench.order(Some(&second), &order).await.0, StatusCode::UNAUTHORIZED);
    browser.click("#suspend");
    browser.until(|| {
        let state = browser.text("#state")?;
        if state.contains("are taken") { Ok(()) } else { Err(state) }
    });
    assert_eq!(bench.order(Some(&second), &order).await.0, StatusCode::OK);
    browser.go(&format!("{pages}/audit"));
    let log = browser.text("#audit").unwrap();
    for what in ["signed in", "registered", "key made", "key revoked", "suspended", "resumed"] {
        assert!(log.contains(&format!("alice {what}")), "{log}");
    }
    assert!(!log.contains(&first) && !log.contains(&second));
    browser.picture_in(pictures, "audit");
    browser.click("#sign-out");
    browser.until(|| browser.text("#sign-in").map(drop));
    browser.go(&format!("{pages}/vendors/books"));
    assert!(browser.text("#token").is_ok(), "nobody is signed in any more");
}

#[tokio::test]
async fn what_another_site_or_a_guesser_sends_changes_nothing() {
    let (bench, pages) = with_operators().await;
    let sign_in = format!("{pages}/sign-in");
    let (status, ..) = bench.form(&sign_in, "", "https://evil.example", &format!("token={TOKEN}")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, headers, _) = bench.form(&sign_in, "", &pages, &format!("token={TOKEN}")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let set = headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for word in ["__Host-operator=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(word), "{set}");
    }
    let cookie = set.split(';').next().unwrap().to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, HeaderValue::from_str(&cookie).unwrap());
    let answer = bench.client.send(Method::GET, &pages, headers, Vec::new(), LIMIT).await.unwrap();
    let html = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
    let (_, token) = html.split_once("name=\"form_token\" value=\"").unwrap();
    let token = token.split('"').next().unwrap().to_owned();
    let register = |token: &str| format!("form_token={token}&id=x&name=X&results_url=https%3A%2F%2Fx.example%2Fr");
    let url = format!("{pages}/vendors");
    for (cookie, origin, token, status) in [
        ("", pages.as_str(), token.as_str(), StatusCode::UNAUTHORIZED),
        ("__Host-operator=guess", &pages, &token, StatusCode::UNAUTHORIZED),
        (&cookie, "https://evil.example", &token, StatusCode::FORBIDDEN),
        (&cookie, "null", &token, StatusCode::FORBIDDEN),
        (&cookie, &pages, "guess", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(bench.form(&url, cookie, origin, &register(token)).await.0, status, "{origin} {token}");
    }
    let stray = format!("{}&stray=1", register(&token));
    assert_eq!(bench.form(&url, &cookie, &pages, &stray).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(bench.show("vendors", &[]).await.unwrap().as_array().unwrap().len(), 1, "nobody was registered");
    assert_eq!(bench.form(&url, &cookie, &pages, &register(&token)).await.0, StatusCode::OK);
    for _ in 0..5 {
        assert_eq!(bench.form(&sign_in, "", &pages, "token=guess").await.0, StatusCode::UNAUTHORIZED);
    }
    let (status, _, html) = bench.form(&sign_in, "", &pages, &format!("token={TOKEN}")).await;
    assert!(status == StatusCode::UNAUTHORIZED && html.contains("wait a minute"), "{html}");
    let url = format!("{}/audit", bench.url);
    let payers = bench.client.send(Method::GET, &url, HeaderMap::new(), Vec::new(), LIMIT).await.unwrap();
    assert_eq!(payers.status(), StatusCode::NOT_FOUND, "operators' pages are not where payers come");
}

#[tokio::test]
async fn the_command_line_does_the_same_and_is_in_the_same_log() {
    let bench = start_with(|_, text| text.to_owned()).await;
    let named = [("id", "maps"), ("name", "Maps"), ("results-url", "https://maps.example/r"), ("by", "root")];
    let made = bench.show("vendor-register", &named).await.unwrap();
    let first = made["key"].as_str().unwrap().to_owned();
    assert_eq!(bench.order(Some(&first), &body("o-1")).await.0, StatusCode::OK);
    let again = bench.show("vendor-register", &named).await.unwrap_err();
    assert!(again.contains("maps is registered already"), "{again}");
    let rotated = bench.show("vendor-rotate", &[("id", "maps"), ("overlap-s", "0")]).await.unwrap();
    let second = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!(bench.order(Some(&first), &body("o-2")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bench.order(Some(&second), &body("o-2")).await.0, StatusCode::OK);
    let vendors = bench.show("vendors", &[]).await.unwrap();
    let maps = vendors.as_array().unwrap().iter().find(|vendor| vendor["id"] == "maps").unwrap();
    assert_eq!((maps["from"].as_str(), maps["keys"].as_array().unwrap().len()), (Some("registration"), 1));
    let key = maps["keys"][0]["id"].as_str().unwrap().to_owned();
    let absent = bench.show("vendor-revoke", &[("id", "maps"), ("key", "k-none")]).await.unwrap_err();
    assert!(absent.contains("not there: maps has no key k-none"), "{absent}");
    bench.show("vendor-revoke", &[("id", "maps"), ("key", &key)]).await.unwrap();
    assert_eq!(bench.order(Some(&second), &body("o-3")).await.0, StatusCode::UNAUTHORIZED);
    assert!(bench.show("vendor-dance", &[("id", "maps")]).await.unwrap_err().contains("cannot be told to dance"));
    assert!(bench.show("vendor-suspend", &[]).await.unwrap_err().contains("id is missing"));
    let log = bench.show("audit", &[]).await.unwrap();
    let lines: Vec<_> =
        log.as_array().unwrap().iter().map(|line| (line["what"].clone(), line["who"].clone())).collect();
    let somebody = json!("somebody, command line");
    assert_eq!(
        lines,
        [
            (json!("key revoked"), somebody.clone()),
            (json!("key made"), somebody),
            (json!("registered"), json!("root, command line"))
        ]
    );
    assert_eq!(bench.show("status", &[]).await.unwrap()["audit_problem"], Value::Null);
}

#[test]
fn the_command_line_has_its_help_and_its_exit_codes() {
    let program = env!("CARGO_BIN_EXE_facilitation-server");
    let run = |words: &[&str]| {
        let output = std::process::Command::new(program).args(words).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for (words, code, says) in [
        (&["vendor", "--help"][..], Some(0), "register"),
        (&["vendor"], Some(2), "Usage"),
        (&["vendor", "register", "x"], Some(2), "--name"),
        (&["vendor", "rotate", "x", "--overlap-s", "soon"], Some(2), "soon"),
        (&["vendor", "rotate", "x", "--socket", "/nonexistent/socket"], Some(1), "/nonexistent/socket"),
        (&["vendor", "suspend", "x", "--config", "/nonexistent.toml"], Some(2), "/nonexistent.toml"),
    ] {
        let (found, text) = run(words);
        assert!(found == code && text.contains(says), "{words:?}: {found:?} {text}");
    }
}
