//! Card numbers never come to the facilitation server, and passwords never to its disk or its log in the clear: a server in
//! a process of its own, looked through after many purchases, by the page in Chromium and by programs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;
mod chromium;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex};

use aho_corasick::AhoCorasick;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bench::{KEY, LIMIT, body, identity, start_process};
use chromium::{Chromium, Wish};
use cloakway_runtime::http::{Limits, serve};
use cloakway_runtime::tls::server;
use serde_json::json;
use transact_wire::payment::{Outcome, Page, Payment, PaymentState};

const PURCHASES: u64 = 40;

/// A number that passes the check digit and stands in no program.
fn card(number: u64) -> String {
    let seed = u64::from(std::process::id()) * 1_000_003 + number * 7_919;
    let digits = format!("45{:013}", seed.wrapping_mul(2_862_933_555_777_941_757) % 10_000_000_000_000);
    let sum: u64 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let value = u64::from(digit - b'0') * if at % 2 == 0 { 2 } else { 1 };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

fn in_folder(automaton: &AhoCorasick, folder: &Path, files: &mut usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(in_folder(automaton, &path, files));
        } else if path.is_file() {
            *files += 1;
            let bytes = fs::read(&path).unwrap();
            let hits = automaton.find_iter(&bytes);
            found.extend(hits.map(|hit| format!("{}: secret {}", path.display(), hit.pattern().as_usize())));
        }
    }
    found
}

/// Looks through all memory that the process can write: which of the patterns are there.
fn in_memory(automaton: &AhoCorasick, process: u32) -> std::io::Result<Vec<usize>> {
    let mut memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let mut found = Vec::new();
    for line in fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (low, high) = range.split_once('-').unwrap();
        let (low, high) = (u64::from_str_radix(low, 16).unwrap(), u64::from_str_radix(high, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(high - low).unwrap()];
        memory.seek(SeekFrom::Start(low))?;
        // A mapping that went away meanwhile holds nothing any more.
        if memory.read_exact(&mut bytes).is_ok() {
            found.extend(automaton.find_iter(&bytes).map(|hit| hit.pattern().as_usize()));
        }
    }
    Ok(found)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_card_number_comes_to_the_server_and_no_password_to_its_disk() {
    let mut bench = start_process().await;
    let came: Arc<Mutex<Vec<String>>> = Arc::default();
    let paid = came.clone();
    let pay = move |Json(payment): Json<Payment>| {
        paid.lock().unwrap().push(payment.card_number.expose_digits().to_owned());
        async { Json(Outcome::from(PaymentState::Approved)) }
    };
    let router = axum::Router::new()
        .route("/v1/live", get(|| async { Json(json!({"live": true})) }))
        .route("/v1/payments", post(pay))
        .layer(from_fn(cross_origin));
    let (listener, at) = bench::listener().await;
    bench.seen.lock().unwrap().private = Some(at);
    let tls = server(&identity(bench.folder.path(), "127.0.0.1"), None).unwrap();
    serve(listener, tls, router, Limits::default(), bench.stop.clone());

    let mut passwords = Vec::new();
    for number in 0..PURCHASES {
        let url = bench.order(Some(KEY), &body(&format!("o-{number}"))).await.1["pay_url"].as_str().unwrap().to_owned();
        let page: Page = serde_json::from_str(&bench.page(&url, true).await.2).unwrap();
        passwords.push(page.password.expose().clone());
        let payment = json!({"transaction": {"vendor": page.vendor, "transaction_id": page.transaction_id,
            "password": page.password.expose()}, "card_number": card(number), "expiry": "12/30"});
        let url = format!("{}/v1/payments", page.private_origin);
        let answer = bench.client.post_json(&url, HeaderMap::new(), &payment, LIMIT).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let wish = Wish { scripts: true, language: "en", phone: false };
    let typed = card(PURCHASES);
    if let Some(browser) = Chromium::open(&bench.folder.path().join("ca.pem"), &wish) {
        let url = bench.order(Some(KEY), &body("o-typed")).await.1["pay_url"].as_str().unwrap().to_owned();
        browser.go(&url);
        browser
            .until(|| if browser.attribute("#path", "data-live")? == "true" { Ok(()) } else { Err("dead".to_owned()) });
        browser.type_into("#card-number", &typed);
        browser.type_into("#card-expiry", "12/30");
        browser.click("#pay");
        browser.until(|| {
            if browser.attribute("#outcome", "data-state")? == "approved" {
                Ok(())
            } else {
                Err(browser.text("#outcome")?)
            }
        });
        assert!(came.lock().unwrap().contains(&typed));
    }
    // Cards alone in memory: passwords of pages are the server's to hand out. The vendor's key is what it was asked with.
    let cards: Vec<String> = (0..=PURCHASES).map(card).collect();
    let known = bench.url.clone();
    let in_process = AhoCorasick::new(cards.iter().chain([&known])).unwrap();
    let process = bench.process.as_ref().unwrap().id();
    match in_memory(&in_process, process) {
        Ok(found) => {
            assert!(found.contains(&cards.len()), "the search is blind");
            assert!(found.iter().all(|pattern| *pattern == cards.len()), "{found:?}");
        }
        // The process lets nobody look but root.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            cloakway_testing::skip("the memory of the server, which lets nobody look but root");
        }
        Err(error) => panic!("the memory of the server: {error}"),
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "no core dumps");
    // Whoever posts a card to the wrong server is not written down either.
    let url = bench.order(Some(KEY), &body("o-last")).await.1["pay_url"].as_str().unwrap().to_owned();
    let orders = format!("{}/v1/orders", bench.url);
    for path in [&url, &orders] {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
        let wrong = json!({"card_number": cards[0]}).to_string();
        let answer = bench.client.send(Method::POST, path, headers, wrong.into(), LIMIT).await.unwrap();
        assert!(answer.status().is_client_error());
        assert!(!String::from_utf8_lossy(answer.body()).contains(&cards[0]));
    }
    bench.end_process();
    let on_disk = AhoCorasick::new(cards.iter().chain(&passwords)).unwrap();
    let mut files = 0;
    assert_eq!(in_folder(&on_disk, &bench.folder.path().join("data"), &mut files), [""; 0]);
    let log = fs::read(bench.folder.path().join("log")).unwrap();
    assert!(on_disk.find(&log).is_none(), "the log");
    assert!(files >= 2 && !log.is_empty(), "the store and the log are there: {files}");
}
