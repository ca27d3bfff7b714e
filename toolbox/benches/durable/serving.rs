//! The toolbox as it is run, killed and started again: how long until it answers rightly, and that it refuses until then.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

const KEY: &str = "the key of the bench";

/// A toolbox whose data are in a folder.
pub(crate) struct Server<'f> {
    folder: &'f Path,
    https: SocketAddr,
    connector: TlsConnector,
}

/// One start: from when to when nobody listened, all was refused, and the first right answer came.
pub(crate) struct Start {
    pub(crate) listens: Duration,
    pub(crate) refused: usize,
    pub(crate) answers: Duration,
    child: Child,
}

impl Start {
    /// As SIGKILL does it, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Megabytes of memory that it has.
    pub(crate) fn resident(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6
    }
}

impl<'f> Server<'f> {
    pub(crate) fn new(folder: &'f Path, prefixes: &[&str]) -> Self {
        let path = |name: &str| folder.join(name);
        let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), issued.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), issued.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("secret"), "a secret of the bench, of some length").unwrap();
        let radius = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let https = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (dir, key) = (folder.display(), hex(&sha256(&[KEY.as_bytes()])));
        let config = format!(
            r#"data = "{dir}"
admin-socket = "{dir}/admin.sock"
[subscribers]
prefixes = {prefixes:?}
[bindings]
max-age-s = 86400
[radius]
listen = ["{radius}"]
[[radius.clients]]
name = "bng"
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
        let connector = TlsConnector::from(Arc::new(tls::client(&path("cert.pem"), None).unwrap()));
        Self { folder, https, connector }
    }

    /// Starts it, and asks who is at an address until the answer is the right one; before it is, there is none.
    pub(crate) async fn start(&self, address: &str, subscriber: &str) -> Start {
        let log = std::fs::File::create(self.folder.join("toolbox.log")).unwrap();
        let begun = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolbox"));
        command.args(["run", "--config"]).arg(self.folder.join("toolbox.toml")).stderr(log).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (mut listens, mut refused) = (None, 0);
        loop {
            assert!(begun.elapsed() < Duration::from_secs(600), "it does not answer");
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(self.folder.join("toolbox.log")).unwrap();
                panic!("it ended, {status}: {log}");
            }
            if let Ok(answer) = self.ask(address, subscriber).await {
                let listens = *listens.get_or_insert(begun.elapsed());
                if answer.starts_with("HTTP/1.1 200 ") {
                    assert!(answer.contains(r#"{"live":true"#), "{answer}");
                    return Start { listens, refused, answers: begun.elapsed(), child };
                }
                assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
                refused += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(&self, address: &str, subscriber: &str) -> std::io::Result<String> {
        let stream = TcpStream::connect(self.https).await?;
        let mut stream = self.connector.connect(ServerName::IpAddress(self.https.ip().into()), stream).await?;
        let body = format!(r#"{{"address":"{address}","subscriber":"{subscriber}"}}"#);
        let (host, length) = (self.https, body.len());
        let head = format!("POST /v1/verify HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n");
        let rest =
            format!("connection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all((head + &rest).as_bytes()).await?;
        let mut answer = Vec::new();
        // How the other side ends the connection is no matter once the answer is there.
        let _ = stream.read_to_end(&mut answer).await;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
