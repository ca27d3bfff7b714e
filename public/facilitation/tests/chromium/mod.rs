//! Chromium without a screen, driven by WebDriver (W3C). It trusts the test's authority and ignores no error.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloakway_crypto::encode::unbase64;
use serde_json::{Value, json};

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
const BOUND: Duration = Duration::from_secs(60);
/// The key under which WebDriver hands out elements (W3C WebDriver §12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How the browser is.
pub(crate) struct Wish {
    pub(crate) scripts: bool,
    pub(crate) language: &'static str,
    /// As small as a phone.
    pub(crate) phone: bool,
}

pub(crate) struct Chromium {
    driver: Child,
    port: u16,
    session: String,
    _home: tempfile::TempDir,
}

impl Chromium {
    /// A browser that trusts `ca`; `None` where there is none, which is said.
    pub(crate) fn open(ca: &Path, wish: &Wish) -> Option<Self> {
        let tools = [("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("certutil", "libnss3-tools")];
        if !tools.into_iter().all(|(program, package)| cloakway_testing::have(program, package)) {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let store = home.path().join(".pki/nssdb");
        std::fs::create_dir_all(&store).unwrap();
        let certutil = |words: &[&str]| {
            let mut command = Command::new("certutil");
            command.arg("-d").arg(format!("sql:{}", store.display())).args(words);
            assert!(command.status().unwrap().success(), "{words:?}");
        };
        certutil(&["-N", "--empty-password"]);
        certutil(&["-A", "-n", "test", "-t", "C,,", "-i", ca.to_str().unwrap()]);
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // Somebody has to listen to what it says from here on.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self { driver, port: port.unwrap(), session: String::new(), _home: home };
        let mut options = json!({
            "binary": "/usr/bin/chromium",
            "args": ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=900,900"],
            "prefs": {"intl.accept_languages": wish.language,
                      "profile.managed_default_content_settings.javascript": if wish.scripts { 1 } else { 2 }},
        });
        if wish.phone {
            let metrics = json!({"width": 360, "height": 740, "pixelRatio": 2.0, "touch": true});
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }}});
        let opened = browser.ask("POST", "/session", &wanted).unwrap();
        browser.session = opened["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url })).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        self.get("/url").unwrap().as_str().unwrap().to_owned()
    }

    pub(crate) fn title(&self) -> String {
        self.get("/title").unwrap().as_str().unwrap().to_owned()
    }

    /// What a person sees of the first element matching `selector`.
    pub(crate) fn text(&self, selector: &str) -> Result<String, String> {
        let element = self.element(selector)?;
        Ok(self.get(&format!("/element/{element}/text"))?.as_str().unwrap().to_owned())
    }

    pub(crate) fn attribute(&self, selector: &str, name: &str) -> Result<String, String> {
        let element = self.element(selector)?;
        let value = self.get(&format!("/element/{element}/attribute/{name}"))?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn property(&self, selector: &str, name: &str) -> Value {
        let element = self.element(selector).unwrap();
        self.get(&format!("/element/{element}/property/{name}")).unwrap()
    }

    pub(crate) fn click(&self, selector: &str) {
        let element = self.element(selector).unwrap();
        self.post(&format!("/element/{element}/click"), &json!({})).unwrap();
    }

    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).unwrap();
        self.post(&format!("/element/{element}/value"), &json!({ "text": text })).unwrap();
    }

    /// The id of the element that has the focus; its text if it has none.
    pub(crate) fn focused(&self) -> String {
        let active = self.get("/element/active").unwrap();
        let element = active[ELEMENT].as_str().unwrap();
        let id = self.get(&format!("/element/{element}/property/id")).unwrap();
        match id.as_str() {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => self.get(&format!("/element/{element}/text")).unwrap().as_str().unwrap().to_owned(),
        }
    }

    /// Presses keys, one after another, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]})).unwrap();
    }

    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []})).unwrap()
    }

    /// Empties a field.
    pub(crate) fn clear(&self, selector: &str) {
        let element = self.element(selector).unwrap();
        self.post(&format!("/element/{element}/clear"), &json!({})).unwrap();
    }

    /// Waits until `holds`; gives up with what it said last.
    pub(crate) fn until(&self, mut holds: impl FnMut() -> Result<(), String>) {
        let began = Instant::now();
        while let Err(error) = holds() {
            assert!(began.elapsed() < BOUND, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Method and URL of every request since the last call.
    pub(crate) fn requests(&self) -> Vec<(String, String)> {
        let log = self.post("/se/log", &json!({"type": "performance"})).unwrap();
        let events = log.as_array().unwrap().iter().filter_map(|entry| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let sent = event["message"]["method"] == "Network.requestWillBeSent";
            let request = event["message"]["params"]["request"].clone();
            sent.then(|| (request["method"].as_str().unwrap().to_owned(), request["url"].as_str().unwrap().to_owned()))
        });
        events.collect()
    }

    /// What the pages complained about since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({"type": "browser"})).unwrap();
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Keeps what a person sees, in `target/tmp/payer-pages`.
    pub(crate) fn picture(&self, name: &str) {
        self.picture_in("payer-pages", name);
    }

    /// The same in another folder of `target/tmp`.
    pub(crate) fn picture_in(&self, folder: &str, name: &str) {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let png = unbase64(self.get("/screenshot").unwrap().as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    fn element(&self, selector: &str) -> Result<String, String> {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}))?;
        Ok(found[ELEMENT].as_str().unwrap().to_owned())
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        self.ask("GET", &format!("/session/{}{path}", self.session), &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].take();
        match value["error"].as_str() {
            None => Ok(value),
            Some(error) => Err(format!("{error}: {}", value["message"])),
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
