//! The main job, end to end: the eight points of the story, each checked from outside the programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cloakway_crypto::encode::base64;
use serde_json::{Value, json};

use super::world::{APPROVED, DECLINED, Order, PRIVATE, SHOP, SILENT, World, host_prefix, now_ns};
use crate::browser::Browser;
use crate::capture::{self, Flow, Packet};
use crate::command::eventually;
use crate::evidence::{Evidence, Stopped};
use crate::frames::send_syn;
use crate::lab::Lab;
use crate::topology::LinkKind;

/// Tells the story; gives the links that the purchase took, in order.
pub(super) fn tell(lab: &Lab, evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    let world = World::new(lab);
    route(&world, evidence)?;
    forwarding(&world, evidence);
    cloak(&world, evidence);
    toolbox(&world, evidence);
    let order = order(&world, evidence)?;
    let path = buying(&world, evidence, &order)?;
    money(&world, evidence, &order);
    cut_and_mend(&world, evidence)?;
    leaks(&world, evidence);
    outside(&world, evidence);
    Ok(path)
}

// ------------------------------------------------------------------------------------------------------------ 1

fn route(world: &World<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("1", "The speaker announces, the edge router holds, nobody else hears");
    evidence.check("FRR on edge has an iBGP session with the speaker", || {
        let text = world.vtysh("show bgp neighbors 198.51.100.2 json")?;
        let seen: Value = serde_json::from_str(&text)?;
        let neighbour = seen.get("198.51.100.2").context("no neighbour")?;
        let text = |key: &str| neighbour.get(key).map(ToString::to_string).unwrap_or_default();
        ensure!(text("bgpState") == "\"Established\"" && text("nbrInternalLink") == "true", "{}", text("bgpState"));
        Ok(format!(
            "vtysh: state {}, AS {}, internal, hold time {} ms",
            text("bgpState"),
            text("remoteAs"),
            text("bgpTimerHoldTimeMsecs")
        ))
    });
    evidence.require("edge's kernel sends both private network addresses to the forwarder", || {
        Ok((world.await_routes(true, Duration::from_secs(30))?, ()))
    })?;
    for (address, family, next_hop) in
        [(PRIVATE[0], "ipv4", "198.51.100.2"), (PRIVATE[1], "ipv6", "2001:db8:5100:1::2")]
    {
        evidence.check(&format!("FRR shows {address} with NO_EXPORT, next hop the forwarder"), || {
            let prefix = host_prefix(address)?;
            let text = world.vtysh(&format!("show bgp {family} unicast {prefix}"))?;
            ensure!(text.contains("Community: no-export"), "{text}");
            ensure!(text.contains(&format!("{next_hop} from 198.51.100.2")), "{text}");
            ensure!(text.contains("Not advertised to any peer"), "{text}");
            Ok(text)
        });
    }
    for (host, who) in [("internet", "the router in internet"), ("other-isp", "the ISP that is no member")] {
        evidence.check(&format!("{who} holds neither, and does hold the ISP's own prefixes"), || {
            for own in ["198.51.100.0/24", "2001:db8:5100::/48"] {
                ensure!(world.bird_route(host, own)?.is_some(), "{own} is not there: the router is deaf");
            }
            for address in PRIVATE {
                let held = world.bird_route(host, &host_prefix(address)?.to_string())?;
                ensure!(held.is_none(), "{held:?}");
            }
            Ok(format!("birdc show route {} and {}: Network not found", PRIVATE[0], PRIVATE[1]))
        });
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------ 2

fn forwarding(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("2", "The forwarder sends what matches by the private link, and a blackhole stands under the route");
    for address in PRIVATE {
        evidence.check(&format!("isp's kernel: {address} by priv0, under it a blackhole"), || {
            let routes = world.kernel_routes("isp", address)?;
            ensure!(routes.contains("dev priv0") && routes.contains("blackhole"), "{routes}");
            Ok(routes)
        });
    }
    evidence.check("a subscriber's connection goes through and is answered, over IPv4 and IPv6", || {
        let live: Result<Vec<_>> = PRIVATE
            .iter()
            .map(|address| {
                let url = format!("https://{}/v1/live", in_url(address));
                let (status, body) = world.curl("subscriber", &[&url])?;
                ensure!(status == 200, "{url}: {status} {body}");
                Ok(format!("{url}: {status} {body}"))
            })
            .collect();
        Ok(live?.join("\n"))
    });
    evidence.check("a packet from the edge router itself, which is no subscriber, is dropped and counted", || {
        let before = counted(world, "spoofed-source")?;
        let refused = world.try_curl("edge", &["--connect-timeout", "1", "https://203.0.113.200/v1/live"])?;
        ensure!(!refused.ok(), "it was answered: {}", refused.stdout);
        let after = counted(world, "spoofed-source")?;
        ensure!(after > before, "nft counts {before} before and {after} after");
        let source = host_prefix("198.51.100.1")?;
        let crossed = flows(&world.packets("private")?).any(|flow| flow.touches(source));
        ensure!(!crossed, "a packet of 198.51.100.1 is on the private link");
        Ok(format!("nft counter spoofed-source: {before} before, {after} after; none on the private link"))
    });
}

/// What nftables on `isp` has counted under `name`.
fn counted(world: &World<'_>, name: &str) -> Result<u64> {
    let text = world.lab.must("isp", &["nft", "-j", "list", "counter", "inet", "cloakway", name])?;
    let listed: Value = serde_json::from_str(&text)?;
    let counters = listed.get("nftables").and_then(Value::as_array).context("no list")?;
    let packets = counters.iter().find_map(|entry| entry.pointer("/counter/packets")?.as_u64());
    packets.context("no counter")
}

// ------------------------------------------------------------------------------------------------------------ 3

fn cloak(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("3", "The transaction server is cloaked");
    evidence.check("its interface on the private link has no kernel address", || {
        let shown = world.lab.must("cloaked", &["ip", "address", "show", "dev", "priv0"])?;
        ensure!(!shown.contains("inet"), "{shown}");
        Ok(shown)
    });
    evidence.check("it answers no ping of a subscriber, nor of the edge router", || {
        let said = ["subscriber", "edge"].iter().map(|host| silent_to_ping(world, host));
        Ok(said.collect::<Result<Vec<_>>>()?.join("\n"))
    });
    evidence.check("nmap from a subscriber: one port is open, the others are silent", || {
        let mut seen = Vec::new();
        for (address, family) in [(PRIVATE[0], "-4"), (PRIVATE[1], "-6")] {
            let lines = nmap(world, "subscriber", family, address)?;
            for line in &lines {
                let open = line.starts_with("443/tcp");
                ensure!(line.contains(if open { " open " } else { "filtered" }), "{address}: {line}");
            }
            ensure!(lines.len() == 6, "{lines:?}");
            seen.push(format!("{address}: {}", lines.join("; ")));
        }
        Ok(seen.join("\n"))
    });
    evidence.check(
        "a SYN put on the private link itself: answered for a subscriber's address, not for a stranger's",
        || {
            let private: Ipv4Addr = PRIVATE[0].parse()?;
            let to = hardware_address(world, "cloaked", "priv0")?;
            let (member, stranger) = (Ipv4Addr::new(198, 51, 100, 99), Ipv4Addr::new(203, 0, 113, 10));
            let send = |source| send_syn(&world.lab.netns("isp"), "priv0", &to, (source, 40001), (private, 443));
            let answered = |to: Ipv4Addr| -> Result<bool> {
                Ok(flows(&world.packets("private")?)
                    .any(|flow| flow.destination == to && flow.tcp_flags & 0x12 == 0x12))
            };
            send(stranger)?;
            send(member)?;
            // The frames arrive in order: once the second is answered, the first has been dealt with.
            eventually(Duration::from_secs(5), "the subscriber's SYN is answered", || {
                ensure!(answered(member)?, "no SYN-ACK to {member}");
                Ok(())
            })?;
            ensure!(!answered(stranger)?, "SYN-ACK to {stranger}");
            Ok(format!("capture of the private link: SYN-ACK to {member}, none to {stranger}"))
        },
    );
}

fn silent_to_ping(world: &World<'_>, host: &str) -> Result<String> {
    let mut seen = Vec::new();
    for address in PRIVATE {
        let said = world.lab.exec(host, &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address])?;
        ensure!(!said.ok() && !said.stdout.contains("bytes from"), "{host}: {}", said.stdout);
        let line = said.stdout.lines().find(|line| line.contains("packets transmitted")).unwrap_or("no route");
        seen.push(format!("{host} pings {address}: {line}"));
    }
    Ok(seen.join("\n"))
}

fn nmap(world: &World<'_>, host: &str, family: &str, address: &str) -> Result<Vec<String>> {
    let mut words = vec!["nmap", "-Pn", "-n", "-sS", "--max-retries", "1", "-p", "22,80,443,8080,8443,8583", address];
    if family == "-6" {
        words.insert(1, "-6");
    }
    let said = world.lab.must(host, &words)?;
    let squeezed = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(squeezed.filter(|line| line.contains("/tcp ")).collect())
}

fn hardware_address(world: &World<'_>, host: &str, interface: &str) -> Result<String> {
    let shown: Value = serde_json::from_str(&world.lab.must(host, &["ip", "-j", "link", "show", "dev", interface])?)?;
    shown.pointer("/0/address").and_then(Value::as_str).map(str::to_owned).context("no address")
}

// ------------------------------------------------------------------------------------------------------------ 4

fn toolbox(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("4", "The toolbox knows who is at the address, from RADIUS");
    evidence.check("before anything is heard of the subscriber it says no", || {
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(answer.to_string())
    });
    evidence.check("a packet signed with another secret gets no answer and changes nothing", || {
        let wrong = world.lab.run_directory().join("wrong-secret");
        fs::write(&wrong, "not-the-secret")?;
        let said = accounting(world, "Start", &wrong.display().to_string())?;
        ensure!(!said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(format!("radclient: {}\n{answer}", last_line(&said)))
    });
    evidence.check("Accounting-Start by radclient is answered, signed properly; now it says yes", || {
        let said = accounting(world, "Start", "{{secrets}}/radius-secret")?;
        ensure!(said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(true)), "{answer}");
        Ok(format!("radclient: {}\n{answer}", line_with(&said, "Received Accounting-Response")))
    });
    evidence.check("another subscriber at that address, and this one at another: no", || {
        let (other, elsewhere) = (verify(world, "bob", "198.51.100.70")?, verify(world, "alice", "198.51.100.71")?);
        for answer in [&other, &elsewhere] {
            ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        }
        Ok(format!("{other}\n{elsewhere}"))
    });
    evidence.check("without a caller's key it answers nobody", || {
        let (status, body) = world.curl("facilitation", &["-d", "{}", "https://198.51.100.2:8444/v1/verify"])?;
        ensure!(status == 401, "{status} {body}");
        Ok(format!("{status} {body}"))
    });
    evidence.check("after Accounting-Stop it says no", || {
        let said = accounting(world, "Stop", "{{secrets}}/radius-secret")?;
        ensure!(said.contains("Received Accounting-Response"), "{said}");
        let answer = verify(world, "alice", "198.51.100.70")?;
        ensure!(answer.get("live") == Some(&json!(false)), "{answer}");
        Ok(answer.to_string())
    });
}

/// Sends one Accounting-Request from the edge router; gives what radclient says.
fn accounting(world: &World<'_>, status: &str, secret_file: &str) -> Result<String> {
    let file = world.lab.run_directory().join("accounting.txt");
    fs::write(
        &file,
        format!(
            "Acct-Status-Type = {status}\nAcct-Session-Id = \"0001\"\nUser-Name = \"alice\"\n\
             Framed-IP-Address = 198.51.100.70\nNAS-IP-Address = 198.51.100.1\nAcct-Session-Time = 1\n"
        ),
    )?;
    let file = file.display().to_string();
    let words = ["radclient", "-x", "-r", "1", "-t", "2", "-S", secret_file, "-f", &file, "198.51.100.2:1813", "acct"];
    let said = world.lab.exec("edge", &words)?;
    Ok(said.stdout + &said.stderr)
}

fn verify(world: &World<'_>, subscriber: &str, address: &str) -> Result<Value> {
    let key = fs::read_to_string(world.lab.run_directory().join("secrets/toolbox-caller-key"))?;
    let (bearer, body) =
        (format!("Authorization: Bearer {key}"), json!({ "address": address, "subscriber": subscriber }).to_string());
    let words = ["-H", &bearer, "-H", "Content-Type: application/json", "-d", &body];
    let url = "https://198.51.100.2:8444/v1/verify";
    let (status, body) = world.curl("facilitation", &[&words[..], &[url]].concat())?;
    ensure!(status == 200, "{status} {body}");
    Ok(serde_json::from_str(&body)?)
}

// ------------------------------------------------------------------------------------------------------------ 5

fn order(world: &World<'_>, evidence: &mut Evidence) -> Result<Order, Stopped> {
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

// ------------------------------------------------------------------------------------------------------------ 6

fn buying(world: &World<'_>, evidence: &mut Evidence, order: &Order) -> Result<Vec<String>, Stopped> {
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
            let path = eventually(Duration::from_secs(5), "the captures have it", || {
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

// ------------------------------------------------------------------------------------------------------------ 7

fn money(world: &World<'_>, evidence: &mut Evidence, paid: &Order) {
    evidence.point("7", "Id and password, bounds, the bank, the vendor");
    evidence.check("a wrong password is refused as an unknown order is, and the bank is not asked", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let before = world.books()?.len();
        let claim = |id: &str| {
            json!({"transaction": {"vendor": "shop", "transaction_id": id, "password": "AAAAAAAAAAAAAAAAAAAAAA"},
                   "card_number": APPROVED, "expiry": "12/30"})
            .to_string()
        };
        let post = |body: &str| {
            world.curl(
                "subscriber",
                &["-H", "Content-Type: application/json", "-d", body, "https://203.0.113.200/v1/payments"],
            )
        };
        let (wrong, unknown) = (post(&claim(&order.order))?, post(&claim("o-nobody"))?);
        ensure!(wrong.0 == 403 && wrong == unknown, "{wrong:?} {unknown:?}");
        ensure!(world.books()?.len() == before);
        Ok(format!("both: {} {}", wrong.0, wrong.1))
    });
    evidence.check(
        "the byte counter is in force: a connection without a right password is dropped at its bound",
        || {
            let noise = world.lab.run_directory().join("noise");
            fs::write(&noise, vec![b'a'; 3000])?;
            let (data, url) = (format!("@{}", noise.display()), "https://203.0.113.200/v1/outcome?n=[1-30]");
            let began = now_ns();
            let said = world.try_curl(
                "subscriber",
                &["-m", "3", "-H", "Expect:", "-o", "/dev/null", "--data-binary", &data, url],
            )?;
            // A connection that is dropped says nothing more: that request times out.
            let largest = largest_connection(world, began)?;
            // The bound is 32768 bytes of the payer's. When it is reached a last window of 16384 may be on its way, and is
            // sent again into the silence; without a bound it would be all 30 requests, some 96000 bytes.
            ensure!((16_384..65_536).contains(&largest), "{largest} bytes on one connection; curl: {}", said.stderr);
            Ok(format!("30 requests of 3000 bytes: no connection carried more than {largest} bytes"))
        },
    );
    evidence.check("the session timer is in force: a connection that says nothing is dropped", || {
        let (held, refused) = world.lab.netns("subscriber").enter(|| {
            let mut stream = TcpStream::connect((PRIVATE[0], 443))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let began = Instant::now();
            let ended = stream.read(&mut [0; 1]);
            Ok((began.elapsed(), ended.map(|read| read == 0)))
        })?;
        ensure!(!matches!(refused, Ok(false)), "it was spoken to");
        ensure!(held < Duration::from_secs(25), "held for {held:?}");
        Ok(format!("dropped after {:.1} s", held.as_secs_f64()))
    });
    evidence.check("approved: 0100/0110, one authorisation in the bank's books for one order paid", || {
        let seen = world.in_shop(&paid.order)?;
        ensure!(seen.state == "paid" && seen.result_deliveries == 1, "{seen:?}");
        let held = world.books()?.into_iter().filter(|line| line.event == "authorised" && line.last_four == "1111");
        let held: Vec<_> = held.collect();
        ensure!(held.len() == 3, "three purchases were approved, and the bank has {held:?}");
        Ok(format!(
            "shop: {seen}\nbank: {}",
            held.iter()
                .map(|line| format!("{} {} {}", line.stan, line.event, line.amount))
                .collect::<Vec<_>>()
                .join(", ")
        ))
    });
    evidence.check("declined: the payer is told, the shop gets a refusal", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, DECLINED)?;
        ensure!(paid.state == "declined" && paid.code == Some(1), "{paid:?}");
        let seen = world.await_result(&order.order, "refused")?;
        let last = world.books()?.pop().context("the books are empty")?;
        ensure!(last.event == "refused" && last.last_four == "0002", "{last:?}");
        Ok(format!("payer: {}; shop: {seen}; bank: {} code {}", paid.state, last.event, last.code))
    });
    evidence.check("silent: the authorisation is reversed (0400/0410), nothing stays held", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, SILENT)?;
        ensure!(paid.state == "reversed" && paid.code == Some(1), "{paid:?}");
        let seen = world.await_result(&order.order, "refused")?;
        let mine: Vec<_> = world.books()?.into_iter().filter(|line| line.last_four == "0119").collect();
        let events: Vec<_> = mine.iter().map(|line| line.event.as_str()).collect();
        ensure!(
            events == ["authorised", "reversed"]
                && mine.windows(2).all(|pair| matches!(pair, [a, b] if a.stan == b.stan)),
            "{mine:?}"
        );
        Ok(format!("payer: {}; shop: {seen}; bank: {}", paid.state, events.join(", then ")))
    });
    evidence.check("a result with a signature that is not the transaction server's is not believed", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let body = json!({"transaction_id": order.order, "verdict": "approved"}).to_string();
        let time = format!("webhook-timestamp: {}", now_ns() / 1_000_000_000);
        let signature = format!("webhook-signature: v1a,{}", base64(&[7; 64]));
        let words = ["-H", "webhook-id: res_forged", "-H", &time, "-H", &signature, "-d", &body];
        let url = "https://192.0.2.18/cloakway/results";
        let (status, said) = world.curl("facilitation", &[&words[..], &[url]].concat())?;
        ensure!((400..500).contains(&status) && world.in_shop(&order.order)?.state == "waiting", "{status} {said}");
        Ok(format!("{status} {said}"))
    });
}

/// The most bytes that one connection from the subscriber, opened since then, sent over the private link, headers
/// left out.
fn largest_connection(world: &World<'_>, since_ns: u64) -> Result<usize> {
    let packets = world.packets("private")?;
    let subscriber = host_prefix("198.51.100.70")?;
    let mut sent = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.at_ns > since_ns) {
        let Some(flow) = packet.flow().filter(|flow| subscriber.contains(&flow.source)) else { continue };
        *sent.entry(flow.ports).or_insert(0) += packet.tcp_payload_v4();
    }
    sent.into_values().max().context("no connection")
}

// ------------------------------------------------------------------------------------------------------------ 8

fn cut_and_mend(world: &World<'_>, evidence: &mut Evidence) -> Result<(), Stopped> {
    evidence.point("8", "The private link is cut, and nothing leaks");
    for address in PRIVATE {
        let words = ["ping", "-n", "-q", "-i", "0.005", address];
        let started = world
            .lab
            .command("subscriber", &words)
            .and_then(|ping| world.lab.spawn(&format!("ping-{}", address.len()), ping));
        evidence.check(&format!("the subscriber sends a packet to {address} every 5 ms from here on"), || {
            started.map(|()| words.join(" "))
        });
    }
    let before = now_ns();
    evidence
        .require("cut: the route is withdrawn, and the edge drops", || {
            world.lab.plug("private", false)?;
            let mut lines = Vec::new();
            for address in PRIVATE {
                let withdrawn = world.bgp_message_after(host_prefix(address)?, before)?;
                lines.push((format!("cut to WITHDRAW on the wire, {address}"), withdrawn));
            }
            let routes = world.await_routes(false, Duration::from_secs(10))?;
            ensure!(routes.matches("blackhole").count() == 2, "the edge has no discard route: {routes}");
            let text = lines.iter().map(|(what, time)| format!("{what}: {:.1} ms", time.as_secs_f64() * 1000.0));
            Ok((text.chain([routes]).collect::<Vec<_>>().join("\n"), lines))
        })
        .map(|lines| measure(evidence, "cut-to-withdrawal-ms", &lines))?;
    evidence.check(
        "while it is cut the payer is told that the private path is dead, and the bank is not asked",
        || {
            let order = world.buy("subscriber", SHOP[0], "book")?;
            let before = world.books()?.len();
            let paid = world.pay(&order.pay_url, APPROVED)?;
            ensure!(paid.code == Some(1) && world.books()?.len() == before, "{paid:?}");
            Ok(format!("payer: {} ({})", paid.state, paid.message))
        },
    );
    let before = now_ns();
    evidence
        .require("mended: the route is announced again", || {
            world.lab.plug("private", true)?;
            let mut lines = Vec::new();
            for address in PRIVATE {
                let announced = world.bgp_message_after(host_prefix(address)?, before)?;
                lines.push((format!("mend to announcement on the wire, {address}"), announced));
            }
            let routes = world.await_routes(true, Duration::from_secs(20))?;
            let text = lines.iter().map(|(what, time)| format!("{what}: {:.1} ms", time.as_secs_f64() * 1000.0));
            Ok((text.chain([routes]).collect::<Vec<_>>().join("\n"), lines))
        })
        .map(|lines| measure(evidence, "mend-to-announcement-ms", &lines))?;
    evidence.check("a new purchase succeeds", || {
        let order = world.buy("subscriber", SHOP[0], "book")?;
        let paid = world.pay(&order.pay_url, APPROVED)?;
        ensure!(paid.state == "approved", "{paid:?}");
        Ok(format!("payer: {}; shop: {}", paid.state, world.await_result(&order.order, "paid")?))
    });
    Ok(())
}

fn measure(evidence: &mut Evidence, name: &str, lines: &[(String, Duration)]) {
    let longest = lines.iter().map(|(_, time)| time.as_secs_f64() * 1000.0).fold(0.0, f64::max);
    evidence.measure(name, longest);
}

/// What the captures hold, once they are whole. Each search is shown to find what it looks for where that belongs.
fn leaks(world: &World<'_>, evidence: &mut Evidence) {
    let ended = world.lab.end_captures();
    evidence.check("the captures are whole", || ended.map(|()| String::new()));
    let links = &world.lab.topology().links;
    evidence.check("no public link carried a packet to or from a private network address", || {
        let mut lines = Vec::new();
        for link in links {
            let packets = world.packets(&link.name)?;
            let touching = |address: &str| -> Result<usize> {
                let prefix = host_prefix(address)?;
                Ok(flows(&packets).filter(|flow| flow.touches(prefix)).count())
            };
            let (four, six) = (touching(PRIVATE[0])?, touching(PRIVATE[1])?);
            match link.kind {
                LinkKind::Member | LinkKind::Private => {
                    ensure!(four > 0 && six > 0, "{}: the search is blind", link.name)
                }
                LinkKind::Public | LinkKind::Management | LinkKind::Bank => {
                    ensure!(four + six == 0, "{}: {} packets", link.name, four + six);
                }
            }
            lines.push(format!(
                "{} ({:?}): {} packets, {four} + {six} to or from a private address",
                link.name,
                link.kind,
                packets.len()
            ));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("no BGP message on a public link names a private network address", || {
        let mut lines = Vec::new();
        for link in links.iter().filter(|link| matches!(link.kind, LinkKind::Public) || link.name == "core") {
            let packets = world.packets(&link.name)?;
            let mut named = 0;
            for address in PRIVATE {
                let bytes = capture::in_bgp(host_prefix(address)?);
                let bgp = |flow: Flow| flow.ports.is_some_and(|(from, to)| from == 179 || to == 179);
                named += packets.iter().filter(|packet| packet.flow().is_some_and(bgp) && packet.has(&bytes)).count();
            }
            ensure!((named > 0) == (link.name == "core"), "{}: {named}", link.name);
            lines.push(format!("{}: {named} messages", link.name));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("the card number is readable on the bank's link and on no other", || {
        let mut lines = Vec::new();
        for link in links {
            let packets = world.packets(&link.name)?;
            let forms: Vec<_> = [APPROVED, DECLINED, SILENT].into_iter().flat_map(capture::forms_of_card).collect();
            let found = packets.iter().filter(|packet| forms.iter().any(|form| packet.has(form))).count();
            ensure!((found > 0) == (link.kind == LinkKind::Bank), "{}: {found} packets", link.name);
            lines.push(format!("{}: {found} of {} packets", link.name, packets.len()));
        }
        Ok(lines.join("\n"))
    });
    evidence.check("the card number is in no log and in nothing that a program stored", || {
        let mut looked = 0;
        let mut open = vec![world.lab.run_directory().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if entry.file_type()?.is_dir() {
                    // The captures were looked at above, and the browser's home belongs to the payer.
                    if name != "captures" && name != "browser" {
                        open.push(path);
                    }
                } else if entry.file_type()?.is_file() && !name.starts_with("card-") {
                    let packet = Packet { at_ns: 0, frame: fs::read(&path)? };
                    let cards = [APPROVED, DECLINED, SILENT];
                    ensure!(!cards.iter().any(|card| packet.has(card.as_bytes())), "{}", path.display());
                    looked += 1;
                }
            }
        }
        Ok(format!("{looked} files looked at"))
    });
}

fn flows(packets: &[Packet]) -> impl Iterator<Item = Flow> {
    packets.iter().filter_map(Packet::flow)
}

fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

fn line_with<'t>(text: &'t str, part: &str) -> &'t str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}

/// What a stranger sees. It comes last, when the captures are closed: they are to hold no packet for a private network
/// address, not even one that this story sent.
fn outside(world: &World<'_>, evidence: &mut Evidence) {
    evidence.point("3", "The transaction server is cloaked: seen from outside the member ISP");
    evidence.check("pings from the ISP that is no member and from internet get nothing", || {
        let said = ["other-isp", "internet"].iter().map(|host| silent_to_ping(world, host));
        Ok(said.collect::<Result<Vec<_>>>()?.join("\n"))
    });
    evidence.check("nmap from the ISP that is no member and from internet: nothing at all", || {
        let mut seen = Vec::new();
        for host in ["other-isp", "internet"] {
            let lines = nmap(world, host, "-4", PRIVATE[0])?;
            ensure!(lines.iter().all(|line| !line.contains(" open ")), "{host}: {lines:?}");
            seen.push(format!("{host}: {}", lines.join("; ")));
        }
        Ok(seen.join("\n"))
    });
}
