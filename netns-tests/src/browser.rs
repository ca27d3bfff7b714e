//! Pages in a real browser: Chromium in a namespace, driven by WebDriver (W3C).
//!
//! The browser has a home of its own, whose certificate store trusts the laboratory's authority and nothing is ignored:
//! a page with a wrong certificate does not open.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cloakway_crypto::encode::unbase64;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::command::{eventually, must};
use crate::lab::Lab;
use crate::netns::Netns;

const DRIVER: &str = "chromedriver";
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 9515);
const BOUND: Duration = Duration::from_secs(60);

/// The key under which WebDriver hands out elements (W3C WebDriver §12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window.
pub struct Browser<'a> {
    lab: &'a Lab,
    netns: Netns,
    session: String,
}

impl<'a> Browser<'a> {
    /// Starts a browser in the namespace `host` that trusts the authority `{{pki}}/ca.pem`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn open(lab: &'a Lab, host: &str) -> Result<Self> {
        Self::open_with(lab, host, true)
    }

    /// The same, with scripts or without.
    ///
    /// # Errors
    /// As [`Browser::open`].
    pub fn open_with(lab: &'a Lab, host: &str, scripts: bool) -> Result<Self> {
        let home = lab.run_directory().join(if scripts { "browser" } else { "browser-without-scripts" });
        trust(&home, &lab.run_directory().join("pki/ca.pem"))?;
        let netns = lab.netns(host);
        let mut driver = netns.command(DRIVER);
        driver.arg(format!("--port={}", ADDRESS.1)).env("HOME", &home).env("XDG_CONFIG_HOME", home.join("config"));
        lab.spawn(DRIVER, driver)?;
        let mut browser = Self { lab, netns, session: String::new() };
        eventually(Duration::from_secs(20), "the driver is ready", || {
            let status = browser.ask(Method::GET, "/status", None)?;
            ensure!(status.get("ready") == Some(&Value::Bool(true)), "{status}");
            Ok(())
        })?;
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=900,900",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": flags,
                "prefs": { "profile.managed_default_content_settings.javascript": if scripts { 1 } else { 2 } } },
            "goog:loggingPrefs": { "performance": "ALL", "browser": "ALL" },
        } } });
        let opened = browser.ask(Method::POST, "/session", Some(wanted))?;
        browser.session = opened.get("sessionId").and_then(Value::as_str).context("no session")?.to_owned();
        Ok(browser)
    }

    /// Opens a page; comes back when it has loaded.
    ///
    /// # Errors
    /// When it cannot be reached or its certificate is not trusted.
    pub fn go(&self, url: &str) -> Result<()> {
        self.post("/url", json!({ "url": url })).with_context(|| url.to_owned())?;
        // A certificate that is not trusted gives a page of the browser's own and no error.
        match self.text("#error-code") {
            Ok(error) => bail!("{url}: {error}"),
            Err(_) => Ok(()),
        }
    }

    /// The address of the page that is shown.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn url(&self) -> Result<String> {
        let url = self.ask(Method::GET, &format!("/session/{}/url", self.session), None)?;
        url.as_str().map(str::to_owned).context("no URL")
    }

    /// The text that a person sees in the first element matching `selector`.
    ///
    /// # Errors
    /// When there is none.
    pub fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector)?;
        let text = self.ask(Method::GET, &format!("/session/{}/element/{element}/text", self.session), None)?;
        text.as_str().map(str::to_owned).context("no text")
    }

    /// The value of an attribute of the first element matching `selector`; empty when it has none.
    ///
    /// # Errors
    /// When there is no such element.
    pub fn attribute(&self, selector: &str, name: &str) -> Result<String> {
        let element = self.element(selector)?;
        let path = format!("/session/{}/element/{element}/attribute/{name}", self.session);
        Ok(self.ask(Method::GET, &path, None)?.as_str().unwrap_or_default().to_owned())
    }

    /// Types into the first element matching `selector`, key by key.
    ///
    /// # Errors
    /// When there is none that takes keys.
    pub fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.element(selector)?;
        self.post(&format!("/element/{element}/value"), json!({ "text": text })).map(drop)
    }

    /// Clicks on the first element matching `selector`.
    ///
    /// # Errors
    /// When there is none that can be clicked.
    pub fn click(&self, selector: &str) -> Result<()> {
        let element = self.element(selector)?;
        self.post(&format!("/element/{element}/click"), json!({})).map(drop)
    }

    /// Writes what a person sees to `NAME.png` in the folder `pictures` of the run.
    ///
    /// # Errors
    /// When it cannot be taken or written.
    pub fn screenshot(&self, name: &str) -> Result<PathBuf> {
        let taken = self.ask(Method::GET, &format!("/session/{}/screenshot", self.session), None)?;
        let png = taken.as_str().and_then(unbase64).context("no picture")?;
        let folder = self.lab.run_directory().join("pictures");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.png"));
        fs::write(&path, png)?;
        Ok(path)
    }

    /// Every request that the browser sent since the last call: method and URL.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn requests(&self) -> Result<Vec<(String, String)>> {
        let log = self.post("/se/log", json!({ "type": "performance" }))?;
        let entries = log.as_array().context("no log")?;
        let messages = entries.iter().filter_map(|entry| entry.get("message")?.as_str());
        let events = messages.filter_map(|message| serde_json::from_str::<Value>(message).ok());
        let requests = events.filter_map(|event| {
            let event = event.get("message")?;
            let request = event
                .pointer("/params/request")
                .filter(|_| event.get("method").and_then(Value::as_str) == Some("Network.requestWillBeSent"))?;
            Some((request.get("method")?.as_str()?.to_owned(), request.get("url")?.as_str()?.to_owned()))
        });
        Ok(requests.collect())
    }

    /// What the pages complained about since the last call, for example a blocked request.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.post("/se/log", json!({ "type": "browser" }))?;
        let entries = log.as_array().context("no log")?;
        Ok(entries.iter().filter_map(|entry| entry.get("message")?.as_str().map(str::to_owned)).collect())
    }

    fn element(&self, selector: &str) -> Result<String> {
        let found = self.post("/element", json!({ "using": "css selector", "value": selector }))?;
        found.get(ELEMENT).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {selector}"))
    }

    fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ask(Method::POST, &format!("/session/{}{path}", self.session), Some(body))
    }

    /// One request to the driver; gives its `value`.
    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(text)))?;
        let answer = self.netns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { tokio::time::timeout(BOUND, exchange(request)).await? })
        })?;
        let mut answer: Value = serde_json::from_slice(&answer)?;
        let value = answer.get_mut("value").map(Value::take).context("no value in the driver's answer")?;
        match value.get("error").and_then(Value::as_str) {
            None => Ok(value),
            Some(error) => {
                let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
                bail!("{error}: {}", message.lines().next().unwrap_or_default())
            }
        }
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask(Method::DELETE, &format!("/session/{}", self.session), None);
        }
        let _ = self.lab.kill9(DRIVER);
    }
}

async fn exchange(request: Request<Full<Bytes>>) -> Result<Bytes> {
    let stream = tokio::net::TcpStream::connect(SocketAddr::from(ADDRESS)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await?.into_body().collect().await.map_err(|error| anyhow!(error))?;
    connection.abort();
    Ok(answer.to_bytes())
}

/// Makes `home` with a certificate store that trusts the authority `ca` for servers.
fn trust(home: &Path, ca: &Path) -> Result<()> {
    let store = home.join(".pki/nssdb");
    fs::create_dir_all(&store)?;
    let store = format!("sql:{}", store.display());
    let certutil =
        |words: &[&str]| must(std::process::Command::new("certutil").args(["-d", &store]).args(words), BOUND).map(drop);
    certutil(&["-N", "--empty-password"])?;
    let ca = ca.display().to_string();
    certutil(&["-A", "-n", "laboratory", "-t", "C,,", "-i", &ca])
}
