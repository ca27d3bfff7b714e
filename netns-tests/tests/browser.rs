//! The browser of the lab: it shows pages, types, and trusts nobody but the laboratory's authority.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use cloakway_runtime::http::{Limits, serve};
use cloakway_runtime::stop::Stop;
use cloakway_runtime::tls::{self, Identity};
use netns_tests::browser::Browser;
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::may_make_namespaces;
use netns_tests::topology::Topology;

const TWO_HOSTS: &str = r#"
about = "a browser and a server"
processes = []
[[namespaces]]
name = "reader"
role = "browser"
[[namespaces]]
name = "server"
role = "two pages"
[[links]]
name = "cable"
kind = "public"
a = { namespace = "reader", interface = "eth0", addresses = ["192.0.2.1/30"] }
b = { namespace = "server", interface = "eth0", addresses = ["192.0.2.2/30"] }
[pki]
authority = "CA"
[[pki.certificates]]
name = "right"
subjects = ["192.0.2.2"]
[[pki.certificates]]
name = "wrong"
subjects = ["192.0.2.99"]
"#;

const PAGE: &str = "<!doctype html><title>t</title><p id=p data-state=waiting>hello</p><input id=i>\
    <button id=b onclick=\"p.textContent = i.value; p.dataset.state = 'done'; fetch('/asked')\">go</button>";

#[test]
fn pages_open_only_with_the_right_certificate_and_take_keys_and_clicks() -> Result<()> {
    if !may_make_namespaces("pages_open_only_with_the_right_certificate_and_take_keys_and_clicks") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("topology.toml"), TWO_HOSTS)?;
    let topology = Topology::load(&folder.path().join("topology.toml"))?;
    let lab = Lab::up(topology, &format!("br{}-", std::process::id()), &mut |_| ())?;
    let stop = Stop::new();
    std::thread::scope(|scope| {
        for (port, name) in [(443, "right"), (444, "wrong")] {
            let (lab, stop) = (&lab, stop.clone());
            scope.spawn(move || lab.netns("server").enter(|| serve_page(lab, port, name, &stop)));
        }
        let seen = look(&lab);
        stop.tell();
        seen
    })
}

fn look(lab: &Lab) -> Result<()> {
    for port in ["443", "444"] {
        eventually(Duration::from_secs(10), "the server listens", || {
            lab.must("reader", &["curl", "-sk", "-o", "/dev/null", &format!("https://192.0.2.2:{port}/")])
        })?;
    }
    let browser = Browser::open(lab, "reader")?;
    browser.go("https://192.0.2.2/")?;
    ensure!(browser.text("#p")? == "hello");
    browser.type_into("#i", "4111 typed")?;
    browser.click("#b")?;
    eventually(Duration::from_secs(30), "the page has answered", || {
        ensure!(browser.attribute("#p", "data-state")? == "done");
        Ok(())
    })?;
    ensure!(browser.text("#p")? == "4111 typed");
    let asked = eventually(Duration::from_secs(30), "the request is in the log", || {
        let requests = browser.requests()?;
        ensure!(requests.iter().any(|(_, url)| url == "https://192.0.2.2/asked"), "{requests:?}");
        Ok(requests)
    })?;
    ensure!(asked.iter().all(|(_, url)| url.starts_with("https://192.0.2.2/")), "{asked:?}");
    ensure!(fs::read(browser.screenshot("page")?)?.starts_with(b"\x89PNG"));
    let refused = browser.go("https://192.0.2.2:444/").err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|why| why.contains("ERR_CERT")), "{refused:?}");
    ensure!(browser.text("#nothing").is_err());
    Ok(())
}

fn serve_page(lab: &Lab, port: u16, name: &str, stop: &Stop) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let file = |end: &str| lab.run_directory().join("pki").join(format!("{name}.{end}"));
    let tls = tls::server(&Identity { certificate: file("pem"), key: file("key") }, None)?;
    let router = Router::new().route("/", get(|| async { Html(PAGE) })).route("/asked", get(|| async { "" }));
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([192, 0, 2, 2], port))).await?;
        serve(listener, tls, router, Limits::default(), stop.clone());
        stop.told().await;
        Ok(())
    })
}
