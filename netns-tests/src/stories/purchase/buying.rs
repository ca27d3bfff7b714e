//! Points 5 and 6: an order, and its payment over the private link, by program and by browser.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::browser::Browser;
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::stories::world::{APPROVED, Order, PRIVATE, SHOP, World, now_ns};

pub(super) fn order(world: &World<'_>, evidence: &mut Evidence) -> Result<Order, Stopped> {
    evidence.point("5", "The shop posts an order, and the payer gets a page for this one purchase");
    evidence.check("the facilitation server knows the Internet's routes from the MRT dump of its router", || {
        let status = world.show("facilitation-server", "status")?;
        let known = status.get("rib_prefixes").and_then(Value::as_u64).unwrap_or(0);
        ensure!(known >= 4, "{status}");
        Ok(status.to_string())
    });
    evidence.check("a client of the ISP that is no member gets a clear refusal", || {
        let words = ["--interface", "203.0.113.10", "-H", "Accept: application/json", "-d", "item=book"];
        let (status, body) = world.curl("other-isp", &[&words[..], &["https://192.0.2.18/buy"]].concat())?;
        ensure!(status == 422 && body.contains("not_member_isp"), "{status} {body}");
        Ok(format!("{status} {body}"))
    });
    evidence.check("an unknown vendor, and an order with a negative amount, are refused", || {
        let key = fs::read_to_string(world.lab.run_directory().join("secrets/vendor-api-key"))?;
        let url = "https://192.0.2.34/v1/orders";
        let post = |key: &str, body: &str| {
            let bearer = format!("Authorization: Bearer {key}");
            world.curl("vendor", &["-H", &bearer, "-H", "Content-Type: application/json", "-d", body, url])
        };
        let unknown = post("guessed", "{}")?;
        ensure!(unknown.0 == 401, "{unknown:?}");
        let malformed = post(&key, r#"{"reference":{"transaction_id":"x"},"amount":{"minor":-5,"currency":"EUR"},"client_ip":"198.51.100.70","description":"d"}"#)?;
        ensure!(malformed.0 == 400 || malformed.0 == 422, "{malformed:?}");
        Ok(format!("{} {}\n{} {}", unknown.0, unknown.1, malformed.0, malformed.1))
    });
    evidence.check("the transaction server's management port wants a certificate of ours", || {
        let url = "https://transaction.cloakway.example:8443/";
        let resolve = ["--resolve", "transaction.cloakway.example:8443:192.0.2.66"];
        let without = world.try_curl("facilitation", &[&resolve[..], &[url]].concat())?;
        ensure!(!without.ok(), "answered without a certificate: {}", without.stdout);
        let ours = ["--cert", "{{pki}}/facilitation-client.pem", "--key", "{{pki}}/facilitation-client.key"];
        let with = world.curl("facilitation", &[&resolve[..], &ours, &[url]].concat())?;
        ensure!(with.0 != 0, "{with:?}");
        let foreign = ["--cert", "{{pki}}/vendor.pem", "--key", "{{pki}}/vendor.key"];
        let wrong = world.try_curl("facilitation", &[&resolve[..], &foreign, &[url]].concat())?;
        let refused = !wrong.ok() || wrong.stdout.trim_end().ends_with("403");
        ensure!(refused, "answered to a vendor's certificate: {}", wrong.stdout);
        Ok(format!(
            "without: {}\nours: HTTP {}\na vendor's: {}{}",
            without.stderr.trim(),
            with.0,
            wrong.stdout.trim(),
            wrong.stderr.trim()
        ))
    });
    evidence.require("a subscriber's order gets the URL of a page", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        ensure!(order.pay_url.starts_with("https://192.0.2.34/p/"), "{}", order.pay_url);
        ensure!(world.in_shop(&order.order)?.state == "waiting");
        Ok((format!("{} {}", order.order, order.pay_url), order))
    })
}

pub(super) fn buying(world: &World<'_>, evidence: &mut Evidence, order: &Order) -> Result<Vec<String>, Stopped> {
    evidence.point("6", "The payer buys: by command line and in a browser");
    let began = now_ns();
    evidence.require("payer pays from the command line", || {
        let paid = world.pay(&order.pay_url, APPROVED)?;
        ensure!(paid.state == "approved" && paid.code == Some(0), "{paid:?}");
        let seen = world.await_result(&order.order, "paid")?;
        Ok((format!("payer: {} ({})\nshop: {seen}", paid.state, paid.message), ()))
    })?;
    let path = evidence.require(
        "its packets went by the access link, the core and the private link, in this order",
        || {
            let path = eventually(Duration::from_secs(30), "the captures have it", || {
                let path = world.path(PRIVATE[0].parse()?, began)?;
                let names: Vec<&str> = path.iter().map(|(name, _)| name.as_str()).collect();
                ensure!(names == ["access", "core", "private"], "{names:?}");
                Ok(path)
            })?;
            let start = path.first().map_or(0, |(_, at)| *at);
            let steps = path.iter().map(|(name, at)| format!("{name} at {} µs", (at - start) / 1000));
            Ok((steps.collect::<Vec<_>>().join(", "), path.into_iter().map(|(name, _)| name).collect()))
        },
    )?;
    evidence.check("the same over IPv6", || {
        let order = world.buy("subscriber", SHOP[1], "map")?;
        let began = now_ns();
        let paid = world.pay(&order.pay_url, APPROVED)?;
        ensure!(paid.state == "approved", "{paid:?}");
        let seen = world.await_result(&order.order, "paid")?;
        let path = world.path(PRIVATE[1].parse()?, began)?;
        ensure!(path.len() == 3, "the connection did not go to {}: {path:?}", PRIVATE[1]);
        Ok(format!("payer: {}; shop: {seen}; by {}", paid.state, PRIVATE[1]))
    });
    browser(world, evidence);
    without_scripts(world, evidence);
    evidence.check("a page that was used, and one that was guessed, answer clearly and reveal nothing", || {
        let again = world.pay(&order.pay_url, APPROVED)?;
        ensure!(
            again.code != Some(0) || again.state != "approved" || world.in_shop(&order.order)?.result_deliveries == 1
        );
        let approved = world.books()?.into_iter().filter(|line| line.event == "authorised").count();
        let (status, body) =
            world.curl("subscriber", &["https://192.0.2.34/p/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"])?;
        ensure!(status == 404 && !body.contains("book") && !body.contains("EUR"), "{status} {body}");
        ensure!(world.books()?.into_iter().filter(|line| line.event == "authorised").count() == approved);
        Ok(format!("used: {} ({}), the bank was not asked again\nguessed: HTTP {status}", again.state, again.message))
    });
    evidence.check("a mistyped card number (Luhn) is not sent", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let before = world.books()?.len();
        let paid = world.pay(&order.pay_url, "4111111111111112")?;
        ensure!(paid.code == Some(2) && world.books()?.len() == before, "{paid:?}");
        Ok(format!("payer: {} ({})", paid.state, paid.message))
    });
    evidence.check("the private address speaks TLS 1.3 and nothing older", || {
        let old = world.try_curl("subscriber", &["--tls-max", "1.2", "https://203.0.113.200/v1/live"])?;
        ensure!(!old.ok(), "TLS 1.2 was answered");
        let (status, _) = world.curl("subscriber", &["--tlsv1.3", "https://203.0.113.200/v1/live"])?;
        ensure!(status == 200, "{status}");
        Ok(format!("--tls-max 1.2: {}\n--tlsv1.3: {status}", old.stderr.trim()))
    });
    Ok(path)
}

fn without_scripts(world: &World<'_>, evidence: &mut Evidence) {
    evidence.check(
        "the same without scripts: the page's form goes to the private address, where the answer is a page",
        || {
            let order = world.buy("subscriber", SHOP[0], "book")?;
            let browser = Browser::open_with(world.lab, "subscriber", false)?;
            browser.go(&format!("{}?lang=de", order.pay_url))?;
            eventually(Duration::from_secs(60), "the mark of the live path is there", || {
                let instead = browser.text("#live")?;
                ensure!(instead.is_empty(), "{instead}");
                Ok(())
            })?;
            browser.screenshot("without-scripts")?;
            browser.type_into("#card-number", APPROVED)?;
            browser.type_into("#card-expiry", "12/30")?;
            browser.click("#pay")?;
            let outcome = eventually(Duration::from_secs(60), "the answer is there", || {
                let state = browser.attribute("#outcome", "data-state")?;
                ensure!(state == "approved", "{state} {}", browser.text("#outcome")?);
                browser.text("#outcome")
            })?;
            ensure!(browser.url()? == format!("https://{}/pay", PRIVATE[0]), "{}", browser.url()?);
            browser.screenshot("without-scripts-paid")?;
            let seen = world.await_result(&order.order, "paid")?;
            Ok(format!("{outcome}\nshop: {seen}"))
        },
    );
}

fn browser(world: &World<'_>, evidence: &mut Evidence) {
    evidence.check("a person pays on the page, in Chromium on subscriber, typing the card number", || {
        let browser = Browser::open(world.lab, "subscriber")?;
        browser.go("https://192.0.2.18/")?;
        browser.click("#buy-book")?;
        eventually(Duration::from_secs(10), "the browser is on the payer page", || {
            let url = browser.url()?;
            ensure!(url.starts_with("https://192.0.2.34/p/"), "{url}");
            Ok(())
        })?;
        let (amount, payee) = (browser.text("#amount")?, browser.text("#payee")?);
        ensure!(amount == "12.50 EUR" && payee == "Example Shop", "{amount} {payee}");
        eventually(Duration::from_secs(15), "the page shows that the private path is live", || {
            ensure!(browser.attribute("#path", "data-live")? == "true", "{}", browser.text("#path")?);
            Ok(())
        })?;
        let path = browser.text("#path")?;
        browser.type_into("#card-number", APPROVED)?;
        browser.type_into("#card-expiry", "12/30")?;
        browser.screenshot("page")?;
        browser.click("#pay")?;
        let outcome = eventually(Duration::from_secs(15), "the page shows the outcome", || {
            let state = browser.attribute("#outcome", "data-state")?;
            ensure!(state == "approved", "{state} {}", browser.text("#outcome")?);
            browser.text("#outcome")
        })?;
        browser.screenshot("paid")?;
        let requests = browser.requests()?;
        let to = |origin: &str| requests.iter().filter(|(_, url)| url.starts_with(&format!("https://{origin}/"))).count();
        ensure!(
            to("192.0.2.18") + to("192.0.2.34") + to(PRIVATE[0]) == requests.len(),
            "there are other requests: {requests:?}"
        );
        let posts: Vec<_> = requests.iter().filter(|(method, _)| method == "POST").map(|(_, url)| url.as_str()).collect();
        ensure!(posts == ["https://192.0.2.18/buy", "https://203.0.113.200/v1/payments"], "{posts:?}");
        let complaints = browser.complaints()?;
        ensure!(!complaints.iter().any(|line| line.contains("Content Security Policy")), "{complaints:?}");
        Ok(format!(
            "{amount} to {payee}; {path} {outcome}\nthe browser posted to {}\nscreenshots: pictures/page.png, pictures/paid.png",
            posts.join(" and ")
        ))
    });
}
