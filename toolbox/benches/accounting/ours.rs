//! The toolbox, as it is run.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use tempfile::TempDir;
use toolbox_wire::radius::{Request, build_request};

use crate::ask;
use crate::h2load::{self, Asking};
use crate::load::Figures;

pub(crate) const SECRET: &str = "a secret of the bench, of some length";
const KEY: &str = "the key of the bench";
const SUBSCRIBERS: u8 = 200;

/// A folder on the disk that the build is on: what is in memory alone would be durable at no price.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("accounting").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Waits until `there` says so.
pub(crate) fn until(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) struct Toolbox {
    child: Child,
    pub(crate) radius: SocketAddr,
    https: SocketAddr,
    folder: TempDir,
}

impl Toolbox {
    pub(crate) fn start() -> Self {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), issued.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), issued.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("secret"), SECRET).unwrap();
        let radius = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let https = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (dir, key) = (folder.path().display(), hex(&sha256(&[KEY.as_bytes()])));
        let config = format!(
            r#"data = "{dir}/data"
admin-socket = "{dir}/admin.sock"
[subscribers]
prefixes = ["10.0.0.0/8"]
[radius]
listen = ["{radius}"]
[[radius.clients]]
name = "edge"
prefix = "127.0.0.1/32"
secret-file = "{dir}/secret"
[https]
listen = ["{https}"]
certificate = "{dir}/cert.pem"
key = "{dir}/key.pem"
[[callers]]
name = "shop"
key-sha256 = "{key}"
rate-per-s = 1000000
"#
        );
        std::fs::write(path("toolbox.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        command.args(["run", "--config"]).arg(path("toolbox.toml")).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("the toolbox answers", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            let mut show = Command::new(env!("CARGO_BIN_EXE_toolbox"));
            show.args(["show", "status", "--config"]).arg(path("toolbox.toml"));
            show.output().unwrap().status.success()
        });
        Self { child, radius, https, folder }
    }

    /// As many callers ask, each as soon as it is answered.
    pub(crate) fn verify(&self, callers: usize, seconds: Duration) -> Figures {
        self.subscribers();
        let host = self.https;
        let request = move |n: usize| {
            let who = n % usize::from(SUBSCRIBERS) + 1;
            let body = format!(r#"{{"address":"10.0.0.{who}","subscriber":"user{who}"}}"#);
            let length = body.len();
            let head = format!("POST /v1/verify HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n");
            format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
        };
        ask::run(self.https, &self.folder.path().join("cert.pem"), callers, seconds, request)
    }

    /// As [`Toolbox::verify`], over HTTP/2.
    pub(crate) fn verify_http2(&self, connections: usize, streams: usize, seconds: Duration) -> Figures {
        let body = r#"{"address":"10.0.0.7","subscriber":"user7"}"#;
        self.ask(&Asking { connections, streams, path: "/v1/verify", body }, seconds)
    }

    /// As [`Toolbox::verify_http2`], so many in each request.
    pub(crate) fn verify_lists(&self, connections: usize, each: usize, seconds: Duration) -> Figures {
        let questions = (0..each).map(|n| n % usize::from(SUBSCRIBERS) + 1);
        let questions = questions.map(|who| format!(r#"{{"address":"10.0.0.{who}","subscriber":"user{who}"}}"#));
        let body = format!(r#"{{"questions":[{}]}}"#, questions.collect::<Vec<_>>().join(","));
        self.ask(&Asking { connections, streams: 1, path: "/v1/verify-list", body: &body }, seconds)
    }

    fn ask(&self, asking: &Asking<'_>, seconds: Duration) -> Figures {
        self.subscribers();
        let figures = h2load::run(self.https, KEY, asking, seconds, self.folder.path());
        let callers = self.show("callers");
        let lookups = callers[0]["lookups"].as_u64().unwrap();
        assert_eq!(callers[0]["live"].as_u64(), Some(lookups), "every answer is a yes");
        assert!(lookups >= figures.answered() as u64);
        figures
    }

    fn show(&self, topic: &str) -> serde_json::Value {
        let mut show = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        show.args(["show", topic, "--json", "--config"]).arg(self.folder.path().join("toolbox.toml"));
        serde_json::from_slice(&show.output().unwrap().stdout).unwrap()
    }

    fn subscribers(&self) {
        (1..=SUBSCRIBERS).for_each(|n| self.start_session(n));
    }

    fn start_session(&self, n: u8) {
        let (session, user) = (format!("s{n}"), format!("user{n}"));
        let attributes: [(u8, &[u8]); 5] =
            [(40, &[0, 0, 0, 1]), (44, session.as_bytes()), (1, user.as_bytes()), (32, b"edge"), (8, &[10, 0, 0, n])];
        let packet = build_request(Request::Accounting, n, &attributes, SECRET.as_bytes(), [0; 16], false).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(&packet, self.radius).unwrap();
        socket.recv(&mut [0; 4096]).unwrap();
    }
}

impl Drop for Toolbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
