//! Orders, pages and results, as vendors and payers see them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod bench;

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bench::{KEY, LIMIT, body, example, start};
use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;
use cloakway_crypto::sign::SigningKey;
use cloakway_runtime::{Role, clock, config};
use cloakway_types::Timestamp;
use facilitation::Facilitation;
use serde_json::{Value, json};
use transact_wire::page_signature;
use transact_wire::result::{PurchaseResult, SignedResult, Verdict};

#[tokio::test]
async fn an_order_becomes_a_page_for_people_and_programs_and_a_repeat_gets_the_same_one() {
    let bench = start().await;
    let (status, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    assert_eq!(status, StatusCode::OK, "{accepted}");
    let url = accepted["pay_url"].as_str().unwrap().to_owned();
    assert_eq!(bench.order(Some(KEY), &body("o-1")).await.1["pay_url"], url.as_str());
    assert_eq!(bench.seen.lock().unwrap().placements[0].isp.as_str(), "isp-a");

    let (status, headers, html) = bench.page(&url, false).await;
    assert_eq!(status, StatusCode::OK);
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src https://203.0.113.200;"), "{policy}");
    assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    assert!(
        policy.contains("form-action https://203.0.113.200;") && policy.contains("object-src https://203.0.113.200;")
    );
    assert!(html.contains("12.50\u{a0}EUR") && html.contains("Example Shop") && html.contains("<html lang=\"en\">"));
    assert!(html.contains("<form id=\"form\" method=\"post\" action=\"https://203.0.113.200/pay\""));
    assert!(!html.contains("<b>book"), "what a vendor writes is text, not markup");
    for (open, close) in [("<script>", "</script>"), ("<style>", "</style>")] {
        let inline = html.split(open).nth(1).unwrap().split(close).next().unwrap();
        let hash = base64(&sha256(&[inline.as_bytes()]));
        assert!(policy.contains(&hash), "the policy allows exactly the page's own {open}");
    }

    for (wish, language, amount) in
        [("?lang=de", "de", "12,50"), ("?lang=nl", "en", "12.50"), ("?other=1", "en", "12.50")]
    {
        let (_, headers, html) = bench.page(&format!("{url}{wish}"), false).await;
        assert_eq!(headers[header::CONTENT_LANGUAGE], language);
        assert!(html.contains(&format!("<html lang=\"{language}\">")) && html.contains(&format!("{amount}\u{a0}EUR")));
    }

    let (_, headers, text) = bench.page(&url, true).await;
    let signed = page_signature::Signed {
        digest: headers[page_signature::DIGEST_HEADER].to_str().unwrap().to_owned(),
        input: headers[page_signature::INPUT_HEADER].to_str().unwrap().to_owned(),
        signature: headers[page_signature::SIGNATURE_HEADER].to_str().unwrap().to_owned(),
    };
    let summary = {
        let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let text = example(bench.folder.path(), at, at, at);
        Facilitation::summary(&config::parse::<facilitation::config::Config>("f.toml", &text).unwrap()).join("\n")
    };
    let (_, key) = summary.split_once("pages are signed by ").unwrap();
    let key = cloakway_crypto::sign::VerifyingKey::from_base64(key.lines().next().unwrap()).unwrap();
    page_signature::verify(&key, 200, "application/json", text.as_bytes(), &signed).unwrap();
    let page: transact_wire::payment::Page = serde_json::from_str(&text).unwrap();
    assert_eq!(page.private_origin, "https://203.0.113.200");
    assert_eq!(page.password.expose(), "one-time-password");
}

#[tokio::test]
async fn wrong_orders_are_refused_with_the_place_and_reach_nobody() {
    let bench = start().await;
    let good = body("o-1");
    for (key, body, status, code, field) in [
        (None, good.clone(), StatusCode::UNAUTHORIZED, "unknown_vendor", None),
        (Some("guess"), good.clone(), StatusCode::UNAUTHORIZED, "unknown_vendor", None),
        (Some(KEY), "{".to_owned(), StatusCode::BAD_REQUEST, "invalid_json", None),
        (Some(KEY), good.replace("minor", "cents"), StatusCode::BAD_REQUEST, "invalid_json", None),
        (Some(KEY), good.replace("A <b>book</b>", ""), StatusCode::BAD_REQUEST, "invalid_field", Some("description")),
        (
            Some(KEY),
            good.replace("198.51.100.70", "203.0.113.10"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "not_member_isp",
            Some("client_ip"),
        ),
    ] {
        let (got, answer) = bench.order(key, &body).await;
        assert_eq!(
            (got, answer["error"]["code"].as_str(), answer["error"]["field"].as_str()),
            (status, Some(code), field),
            "{answer}"
        );
        assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    }
    assert!(bench.seen.lock().unwrap().placements.is_empty());
    let (status, answer) = bench.order(Some(KEY), &body("taken")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (StatusCode::CONFLICT, Some("conflict")));
    let (status, answer) = bench.order(Some(KEY), &body("v6")).await;
    assert_eq!(
        (status, answer["error"]["code"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("no_private_address"))
    );
    let large = "x".repeat(70_000);
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
    let answer = bench
        .client
        .send(Method::POST, &format!("{}/v1/orders", bench.url), headers, large.into(), LIMIT)
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn guessed_and_used_pages_look_the_same_and_a_result_is_repeated_until_it_is_taken() {
    let bench = start().await;
    let (_, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    let url = accepted["pay_url"].as_str().unwrap().to_owned();
    let guessed = bench.page(&format!("{}/p/{}", bench.url, "A".repeat(43)), false).await;
    assert_eq!(guessed.0, StatusCode::NOT_FOUND);
    assert!(guessed.2.contains("cannot be used"));

    let result = PurchaseResult {
        vendor: "shop".parse().unwrap(),
        transaction_id: "o-1".parse().unwrap(),
        temporary_id: None,
        amount: cloakway_types::Money::new(1250, "EUR".parse().unwrap()).unwrap(),
        verdict: Verdict::Approved,
        decided_at: Timestamp::from_secs(1),
        refund: None,
    };
    let key = SigningKey::from_base64(&cloakway_crypto::Secret::new(base64(&[9; 32]))).unwrap();
    let signed = SignedResult::sign("res_1", &result, &key, clock::wall()).unwrap();
    {
        let mut seen = bench.seen.lock().unwrap();
        seen.refuse_deliveries = 1;
        seen.pending.push(signed.clone());
    }
    bench.until(|| !bench.seen.lock().unwrap().acknowledged.is_empty()).await;
    {
        let seen = bench.seen.lock().unwrap();
        assert_eq!(seen.deliveries, [("res_1".to_owned(), signed.body.clone()), ("res_1".to_owned(), signed.body)]);
        assert_eq!(seen.acknowledged, ["res_1"]);
    }
    // What was used, what never was and what cannot be: to the byte, but for the date.
    let plain = |(status, mut headers, text): (StatusCode, HeaderMap, String)| {
        headers.remove(header::DATE);
        (status, headers, text)
    };
    let guessed = plain(guessed);
    for path in
        [url.clone(), format!("{}/p/x", bench.url), format!("{}/c/{}", bench.url, "B".repeat(43)), bench.url.clone()]
    {
        assert_eq!(plain(bench.page(&path, false).await), guessed, "{path}");
    }
    let german = bench.page(&format!("{url}?lang=de"), false).await;
    assert!(german.0 == StatusCode::NOT_FOUND && german.2.contains("bestellen Sie noch einmal"), "{}", german.2);
    let (status, _, text) = bench.page(&url, true).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("page_unavailable"));
}

#[tokio::test]
async fn a_direct_page_goes_to_its_client_and_to_nobody_else() {
    let bench = start().await;
    let post = async |query: &str, body: String| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
        let url = format!("{}/v1/orders{query}", bench.url);
        let answer = bench.client.send(Method::POST, &url, headers, body.into(), LIMIT).await.unwrap();
        (answer.status(), serde_json::from_slice::<Value>(answer.body()).unwrap())
    };
    for wrong in ["?direct=mail", "?direct=", "?other=1"] {
        let (status, answer) = post(wrong, body("o-1")).await;
        assert_eq!((status, &answer["error"]["field"]), (StatusCode::BAD_REQUEST, &json!("direct")), "{wrong}");
    }
    // This test is not at the address of its first order: the claim is nothing to it.
    let elsewhere = post("?direct=url", body("o-1")).await.1["pay_url"].as_str().unwrap().to_owned();
    assert!(elsewhere.starts_with(&format!("{}/c/", bench.url)), "{elsewhere}");
    assert_eq!(bench.page(&elsewhere, false).await.0, StatusCode::NOT_FOUND);
    let here = |id: &str| body(id).replace("198.51.100.70", "127.0.0.1");
    let plain = post("", here("o-2")).await.1["pay_url"].as_str().unwrap().to_owned();
    let url = post("?direct=url", here("o-2")).await.1["pay_url"].as_str().unwrap().to_owned();
    let (status, headers, text) = bench.page(&url, false).await;
    assert_eq!(
        (status, headers[header::LOCATION].to_str().unwrap(), text.as_str()),
        (StatusCode::SEE_OTHER, &*plain, "")
    );
    let whole = post("?direct=page", here("o-2")).await.1["pay_url"].as_str().unwrap().to_owned();
    assert!(whole != url && whole != plain);
    let (status, headers, html) = bench.page(&whole, false).await;
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("12.50\u{a0}EUR") && headers.contains_key(page_signature::SIGNATURE_HEADER));
    assert_eq!(bench.page(&whole, true).await.2, bench.page(&plain, true).await.2);
}

#[tokio::test]
async fn nobody_s_password_or_page_is_in_the_data_folder() {
    let bench = start().await;
    let (_, accepted) = bench.order(Some(KEY), &body("o-1")).await;
    let token = accepted["pay_url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let bytes = std::fs::read(bench.folder.path().join("data/pages.redb")).unwrap();
    for needle in ["one-time-password", &token, "198.51.100.70"] {
        assert!(!bytes.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle}");
    }
}

#[test]
fn the_example_is_valid_and_a_stray_key_in_any_table_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let at: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let text = example(folder.path(), at, at, at);
    assert!(config::parse::<facilitation::config::Config>("f.toml", &text).is_ok());
    for table in ["[transaction-server]", "[rib]", "[[isps]]", "[[vendors]]"] {
        let stray = text.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
        let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
        let error = config::parse::<facilitation::config::Config>("f.toml", &stray).unwrap_err().to_string();
        assert!(error.starts_with(&format!("f.toml:{line}: ")) && error.contains("unknown field `stray`"), "{error}");
    }
    for (from, to, says) in [
        (
            "asns = [64500]",
            "asns = [64500]\n[[isps]]\nid = \"b\"\nasns = [64500]",
            "isps[1].asns: AS 64500 belongs to two ISPs",
        ),
        (
            "[[vendors]]\n",
            "[admin]\nlisten = \"192.0.2.1:1\"\ncertificate = \"c\"\nkey = \"k\"\noperators = []\n[[vendors]]\n",
            "admin.listen: 192.0.2.1:1 can be reached by others",
        ),
        (
            "[[vendors]]\n",
            "[admin]\nlisten = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"k\"\noperators = []\n[[vendors]]\n",
            "admin.operators: nobody could sign in",
        ),
        (
            "[[vendors]]\n",
            "[admin]\nlisten = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"k\"\noperators = [{ name = \"\", token-sha256-file = \"f\" }]\n[[vendors]]\n",
            "admin.operators[0].name: 1 to 40 characters",
        ),
        (
            "[[vendors]]\n",
            "[admin]\nlisten = \"127.0.0.1:1\"\ncertificate = \"c\"\nkey = \"k\"\noperators = [{ name = \"a\", token-sha256-file = \"/nonexistent\" }]\n[[vendors]]\n",
            "admin.operators[0].token-sha256-file: ",
        ),
        (
            "[[vendors]]\n",
            "[private-names]\n\"2001:db8::1\" = \"https://x\"\n[[vendors]]\n",
            "private-names.2001:db8::1: \"https://x\" is not a DNS name",
        ),
        ("name = \"Example Shop\"", "name = \" \"", "vendors[0].name: empty"),
        ("id = \"isp-a\"", "id = \"isp a\"", "isps[0].id: ISP id has ' '"),
        (
            "asns = [64500]",
            "host-suffixes = [\"isp-a.example\"]",
            "isps[0].host-suffixes: nobody is asked for names: give [reverse-dns]",
        ),
        ("[rib]\n", "[reverse-dns]\nresolvers = []\n[rib]\n", "reverse-dns.resolvers: there is none"),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\nlimit-ms = 0\n[rib]\n",
            "reverse-dns.limit-ms: 0 is not allowed",
        ),
        ("[rib]\n", "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\ncache = 0\n[rib]\n", "reverse-dns.cache: 0 is not"),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\n[[isps]]\nid = \"b\"\nhost-suffixes = [\"net\"]\n[rib]\n",
            "isps[0].host-suffixes[0]: \"net\" is a whole top-level domain",
        ),
        (
            "[rib]\n",
            "[reverse-dns]\nresolvers = [\"127.0.0.1:53\"]\n[[isps]]\nid = \"b\"\n\
             host-suffixes = [\"b.example\", \"dsl.B.example\"]\n[rib]\n",
            "isps[0].host-suffixes[1]: dsl.B.example and b.example. overlap",
        ),
        (
            "[rib]\n",
            "[rib]\nlive-tcp = { address = \"192.0.2.9:4179\" }\n",
            "rib.live-tcp.address: 192.0.2.9:4179 is another host: give name, ca, certificate and key",
        ),
        (
            "[rib]\n",
            "[rib]\nlive-tcp = { address = \"127.0.0.1:4179\", name = \"a\" }\n",
            "rib.live-tcp: TLS takes name, ca, certificate and key",
        ),
        (
            "[rib]\n",
            "[rib]\nlive = \"/s\"\nlive-tcp = { address = \"127.0.0.1:4179\" }\n",
            "rib.live-tcp: the speaker is asked by rib.live already",
        ),
    ] {
        let error =
            config::parse::<facilitation::config::Config>("f.toml", &text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
