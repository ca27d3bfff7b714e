//! A running toolbox in a folder of its own, on loopback and free ports.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod radius;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method, StatusCode};
use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::http::Client;
use cloakway_runtime::tls;
use serde_json::{Value, json};
use tempfile::TempDir;
use toolbox_wire::radius::{Packet, Request, build_request};

pub(crate) const SECRET: &str = "s3cr3t-of-the-edge-router";
pub(crate) const KEY: &str = "the key of the shop";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Toolbox {
    namespace: Option<String>,
    folder: TempDir,
    child: Option<Child>,
    pub(crate) radius: SocketAddr,
    https: SocketAddr,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Toolbox {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// `bindings` are lines for that table.
    pub(crate) fn start_with(bindings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), bindings, "", "")
    }

    /// With lines for the tables `bindings` and `radius`, and further tables.
    pub(crate) fn start_in(folder: TempDir, bindings: &str, of_radius: &str, tables: &str) -> Self {
        Self::start_at(None, folder, bindings, of_radius, tables)
    }

    /// In a network namespace, where it can be asked by `show` alone.
    pub(crate) fn start_at(
        namespace: Option<&str>,
        folder: TempDir,
        bindings: &str,
        of_radius: &str,
        tables: &str,
    ) -> Self {
        let namespace = namespace.map(str::to_owned);
        let path = |name: &str| folder.path().join(name);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), issued.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), issued.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("radius.secret"), format!("{SECRET}\n")).unwrap();
        // Bound and let go: nothing else on this host takes them in the meantime but by chance.
        // An address of this test process: nobody else takes the port while the toolbox is down.
        let own = Ipv4Addr::from(0x7f40_0000 + (std::process::id() & 0x3f_ffff));
        let radius = UdpSocket::bind((own, 0)).unwrap().local_addr().unwrap();
        let https = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = folder.path().display();
        let key = hex(&sha256(&[KEY.as_bytes()]));
        let config = format!(
            r#"data = "{dir}/data"
admin-socket = "{dir}/admin.sock"
[subscribers]
prefixes = ["198.51.100.64/26", "2001:db8:5100::/48"]
[bindings]
{bindings}
[radius]
listen = ["{radius}"]
{of_radius}
[[radius.clients]]
name = "edge"
prefix = "127.0.0.1/32"
secret-file = "{dir}/radius.secret"
[[radius.clients]]
name = "strict"
prefix = "127.0.0.2/32"
secret-file = "{dir}/radius.secret"
require-message-authenticator = true
[https]
listen = ["{https}"]
certificate = "{dir}/cert.pem"
key = "{dir}/key.pem"
[[callers]]
name = "shop"
key-sha256 = "{key}"
{tables}
"#
        );
        std::fs::write(path("toolbox.toml"), config).unwrap();
        let client = client(&path("cert.pem"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut toolbox = Self { namespace, folder, child: None, radius, https, client, runtime };
        toolbox.run();
        toolbox
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = radius::program(self.namespace.as_deref(), env!("CARGO_BIN_EXE_toolbox"));
        command.args(["run", "--config"]).arg(self.path("toolbox.toml")).stderr(log).stdin(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        eventually("the toolbox answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            self.show("status").ok()
        });
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Without the connections to the dead process.
        self.client = client(&self.path("cert.pem"));
    }

    /// `kill -TERM`, and waits for the end.
    pub(crate) fn terminate(&mut self) {
        let mut child = self.child.take().unwrap();
        let killed = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert!(child.wait().unwrap().success());
        self.client = client(&self.path("cert.pem"));
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.https)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        command.args(arguments).arg("--config").arg(self.path("toolbox.toml")).output().unwrap()
    }

    pub(crate) fn show(&self, topic: &str) -> Result<Value, String> {
        let output = self.command(&["show", topic, "--json"]);
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (StatusCode, Value) {
        let (status, answer, _) = self.ask_whole(method, path, headers, body);
        (status, answer)
    }

    /// With the headers of the answer.
    pub(crate) fn ask_whole(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (StatusCode, Value, HeaderMap) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(axum::http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let url = format!("https://{}{path}", self.https);
        let answer = self.client.send(method, &url, map, body.to_vec(), PATIENCE);
        let answer = self.runtime.block_on(answer).unwrap();
        let json = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        (answer.status(), json, answer.headers().clone())
    }

    pub(crate) fn verify(&self, subscriber: &str, address: &str) -> Value {
        let body = json!({"address": address, "subscriber": subscriber}).to_string();
        let headers = [("authorization", &*format!("Bearer {KEY}")), ("content-type", "application/json")];
        let (status, answer) = self.ask(Method::POST, "/v1/verify", &headers, body.as_bytes());
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    pub(crate) fn verify_at(&self, subscriber: &str, address: &str, at: &str) -> Value {
        let body = json!({"address": address, "subscriber": subscriber, "at": at}).to_string();
        let headers = [("authorization", &*format!("Bearer {KEY}")), ("content-type", "application/json")];
        let (status, answer) = self.ask(Method::POST, "/v1/verify", &headers, body.as_bytes());
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    pub(crate) fn live(&self, subscriber: &str, address: &str) -> bool {
        self.verify(subscriber, address)["live"].as_bool().unwrap()
    }

    pub(crate) fn reason(&self, subscriber: &str, address: &str) -> String {
        self.verify(subscriber, address)["reason"].as_str().unwrap_or("live").to_owned()
    }
}

fn client(certificate: &Path) -> Client {
    Client::new(tls::client(certificate, None).unwrap(), None).unwrap()
}

impl Drop for Toolbox {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A NAS of our own make.
pub(crate) struct Nas {
    socket: UdpSocket,
    server: SocketAddr,
    identifier: u8,
}

pub(crate) const START: u8 = 1;
pub(crate) const STOP: u8 = 2;
pub(crate) const INTERIM: u8 = 3;

impl Nas {
    pub(crate) fn new(from: &str, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind(from).unwrap();
        Self { socket, server, identifier: 0 }
    }

    pub(crate) fn accounting(&mut self, status: u8, session: &str, user: &str, address: [u8; 4], at_s: u32) -> Vec<u8> {
        let status = [0, 0, 0, status];
        let at = at_s.to_be_bytes();
        let attributes: [(u8, &[u8]); 6] =
            [(40, &status), (44, session.as_bytes()), (1, user.as_bytes()), (32, b"edge"), (8, &address), (55, &at)];
        self.identifier = self.identifier.wrapping_add(1);
        build_request(Request::Accounting, self.identifier, &attributes, SECRET.as_bytes(), [0; 16], false).unwrap()
    }

    /// An Accounting-Request with these attributes.
    pub(crate) fn packet(&mut self, attributes: &[(u8, &[u8])]) -> Vec<u8> {
        self.identifier = self.identifier.wrapping_add(1);
        build_request(Request::Accounting, self.identifier, attributes, SECRET.as_bytes(), [0; 16], false).unwrap()
    }

    /// The same, with the delay that the NAS states.
    pub(crate) fn accounting_of(
        &mut self,
        status: u8,
        session: &str,
        user: &str,
        address: [u8; 4],
        at_s: u32,
        delay_s: u32,
    ) -> Vec<u8> {
        let (status, at, delay) = ([0, 0, 0, status], at_s.to_be_bytes(), delay_s.to_be_bytes());
        let attributes: [(u8, &[u8]); 7] = [
            (40, &status),
            (44, session.as_bytes()),
            (1, user.as_bytes()),
            (32, b"edge"),
            (8, &address),
            (55, &at),
            (41, &delay),
        ];
        self.identifier = self.identifier.wrapping_add(1);
        build_request(Request::Accounting, self.identifier, &attributes, SECRET.as_bytes(), [0; 16], false).unwrap()
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        // So it is told of a port that nobody listens on while the process is down.
        let _ = self.socket.send_to(packet, self.server);
    }

    /// An answer that is there already.
    pub(crate) fn poll(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        self.socket.set_nonblocking(true).unwrap();
        // A port that nobody listens on while the process is down is an error of the socket, and passes.
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// The next answer, if one comes within `patience`.
    pub(crate) fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let length = self.socket.recv(&mut buffer).ok()?;
        assert!(Packet::parse(&buffer[..length]).is_ok());
        Some(buffer[..length].to_vec())
    }

    pub(crate) fn tell(&self, packet: &[u8]) -> Vec<u8> {
        self.send(packet);
        self.receive(PATIENCE).expect("an answer")
    }
}

/// Now, as Event-Timestamp has it.
pub(crate) fn now_s() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs()).unwrap()
}
