//! The transaction server, confined: started as root it becomes another user without capabilities, system calls and files
//! that it has no use for, and does all of its work: purchases over the private link, whatever happens to that; renewed
//! certificates, under connections that go on; and after kill -9 all of it again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cloakway_runtime::tls;
use netns_tests::command::eventually;
use netns_tests::lab::Lab;
use netns_tests::topology::Topology;
use netns_tests::{may_make_namespaces, stories};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BOUND: Duration = Duration::from_secs(60);
const PRIVATE: &str = "203.0.113.200";
const USER: &str = "nobody";

const TOPOLOGY: &str = r#"
about = "the transaction server, confined"
[[namespaces]]
name = "payer"
role = "a payer, at the private link's other end"
loopback = ["198.51.100.70/32"]
routes = ["203.0.113.200/32 dev priv0 src 198.51.100.70"]
[[namespaces]]
name = "server"
role = "transaction-server, and a bank beside it"
[[links]]
name = "private"
kind = "private"
offloads = false
a = { namespace = "payer", interface = "priv0", addresses = ["192.0.2.249/30"] }
b = { namespace = "server", interface = "priv0", kernel-address = false }
[pki]
authority = "test"
[[pki.certificates]]
name = "private"
subjects = ["203.0.113.200"]
[[pki.certificates]]
name = "renewed"
subjects = ["203.0.113.200"]
[[pki.certificates]]
name = "elsewhere"
subjects = ["203.0.113.201"]
[[pki.certificates]]
name = "transaction"
subjects = ["transaction.cloakway.example"]
[[pki.certificates]]
name = "facilitation"
subjects = ["facilitation.cloakway.example"]
client = true
[[secrets]]
name = "result-key"
kind = "ed25519"
[[secrets]]
name = "order-key"
kind = "base64"
[[processes]]
name = "bank"
namespace = "server"
program = "bank-simulator"
arguments = ["--listen", "127.0.0.1:8583", "--books", "{{dir}}/books.jsonl"]
ready = { tcp = "127.0.0.1:8583" }
"#;

struct Site {
    lab: Lab,
    run: PathBuf,
}

impl Site {
    fn up(folder: &Path, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        fs::write(folder.join("topology.toml"), TOPOLOGY)?;
        static SITES: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("cf{}{}-", SITES.fetch_add(1, Ordering::Relaxed), std::process::id());
        let lab = Lab::up(Topology::load(&folder.join("topology.toml"))?, &prefix, &mut |_| ())?;
        let site = Self { run: lab.run_directory().to_owned(), lab };
        let run = site.run.display();
        let config = format!(
            "data = \"{run}/server/data\"\nadmin-socket = \"{run}/server/admin.sock\"\n\
             order-key-file = \"{run}/secrets/order-key\"\nresult-key-file = \"{run}/secrets/result-key\"\n\
             [process]\nuser = \"{USER}\"\n\
             [private]\ninterface = \"priv0\"\ngateway-v4 = \"192.0.2.249\"\n\
             certificate = \"{run}/tls/private.pem\"\nkey = \"{run}/tls/private.key\"\npage-origins = [\"https://192.0.2.34\"]\n\
             [private.limits]\nsession-s = 3600\nidle-s = 3600\n\
             [[isps]]\nid = \"isp-a\"\nprefixes = [\"198.51.100.64/26\"]\naddresses = [\"{PRIVATE}\"]\n\
             [management]\nlisten = \"127.0.0.1:8443\"\ncertificate = \"{run}/tls/transaction.pem\"\n\
             key = \"{run}/tls/transaction.key\"\nclient-ca = \"{run}/pki/ca.pem\"\n\
             client-names = [\"facilitation.cloakway.example\"]\n\
             [bank]\naddress = \"127.0.0.1:8583\"\nterminal = \"CLOAKWAY\"\nacceptor = \"CLOAKWAY\"\nacquirer = \"123456\"\n\
             merchant-type = \"5942\"\n"
        );
        fs::write(site.run.join("server.toml"), config)?;
        let user = nix::unistd::User::from_name(USER)?.context("no such user")?;
        fs::create_dir(site.run.join("server"))?;
        chown(site.run.join("server"), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        fs::create_dir(site.run.join("tls"))?;
        site.install("private", "private")?;
        site.install("transaction", "transaction")?;
        prepare(&site.run.join("server"))?;
        site.start()?;
        Ok(site)
    }

    /// Puts a certificate and its key where the server reads them, each at once, as who renews them does.
    fn install(&self, name: &str, to: &str) -> Result<()> {
        let user = nix::unistd::User::from_name(USER)?.context("no such user")?;
        for end in ["key", "pem"] {
            let new = self.run.join("new");
            fs::copy(self.run.join(format!("pki/{name}.{end}")), &new)?;
            chown(&new, None, Some(user.gid.as_raw()))?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o640))?;
            fs::rename(new, self.run.join(format!("tls/{to}.{end}")))?;
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let file = self.run.join("server.toml").display().to_string();
        let command = self.lab.command("server", &["transaction-server", "run", "--config", &file])?;
        self.lab.spawn("transaction-server", command)?;
        eventually(BOUND, "the server answers", || {
            ensure!(self.lab.alive("transaction-server"), "{}", self.lab.log("transaction-server"));
            self.show("status")
        })?;
        Ok(())
    }

    fn ask(&self, words: &[&str]) -> Result<netns_tests::command::Outcome> {
        let socket = self.run.join("server/admin.sock").display().to_string();
        let words = [&["transaction-server"], words, &["--json", "--socket", &socket]].concat();
        self.lab.exec("server", &words)
    }

    fn show(&self, topic: &str) -> Result<Value> {
        let said = self.ask(&["show", topic])?;
        ensure!(said.ok(), "{}", said.stderr);
        serde_json::from_str(&said.stdout).context(said.stdout)
    }

    /// What the kernel says of each thread of the server.
    fn threads(&self) -> Result<Vec<String>> {
        let pids = self.lab.netns("server").pids()?;
        let of = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let server = pids.iter().find(|pid| of(pid).starts_with("transaction-ser")).context("no server")?;
        let tasks = fs::read_dir(format!("/proc/{server}/task"))?;
        tasks.map(|task| Ok(fs::read_to_string(task?.path().join("status"))?)).collect()
    }

    fn is_confined(&self) -> Result<()> {
        let user = nix::unistd::User::from_name(USER)?.context("no such user")?;
        let threads = self.threads()?;
        ensure!(threads.len() > 3, "only {} threads", threads.len());
        for status in &threads {
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap_or_default().split_whitespace().collect::<Vec<_>>()
            };
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                ensure!(field(set) == ["0000000000000000"], "{set}: {:?}", field(set));
            }
            ensure!(field("NoNewPrivs") == ["1"] && field("Seccomp") == ["2"], "{status}");
            for (name, id) in [("Uid", user.uid.to_string()), ("Gid", user.gid.to_string())] {
                ensure!(field(name) == [&id; 4], "{name}: {:?}", field(name));
            }
        }
        Ok(())
    }

    /// A request with curl; status and body.
    fn curl(&self, host: &str, words: &[&str], body: &Value) -> Result<(u16, Value)> {
        let (ca, body) = (self.run.join("pki/ca.pem").display().to_string(), body.to_string());
        let fixed = ["curl", "-s", "--max-time", "20", "--cacert", &ca, "-w", "\n%{http_code}", "-d", &body];
        let said = self.lab.exec(host, &[&fixed[..], words].concat())?;
        ensure!(said.ok(), "curl: {:?} {}", said.code, said.stderr);
        let (answer, status) = said.stdout.rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, serde_json::from_str(answer).unwrap_or_default()))
    }

    fn place(&self, id: &str) -> Result<Value> {
        let order = json!({"vendor": "shop", "isp": "isp-a", "order": {
            "reference": {"transaction_id": id}, "amount": {"minor": 1250, "currency": "EUR"},
            "client_ip": "198.51.100.70", "description": "A book"}});
        let pki = |name: &str| self.run.join("pki").join(name).display().to_string();
        let (certificate, key) = (pki("facilitation.pem"), pki("facilitation.key"));
        let url = "https://transaction.cloakway.example:8443/v1/orders";
        let words =
            ["--cert", &certificate, "--key", &key, "--resolve", "transaction.cloakway.example:8443:127.0.0.1", url];
        let (status, issued) = self.curl("server", &words, &order)?;
        ensure!(status == 200, "{status}: {issued}");
        Ok(issued)
    }

    /// A whole purchase. An order that was not paid because nobody was reached is paid at the next attempt.
    fn buy(&self, id: &str) -> Result<()> {
        eventually(BOUND, id, || {
            let claim = json!({"vendor": "shop", "transaction_id": id, "password": self.place(id)?["password"]});
            let payment = json!({"transaction": claim, "card_number": "4111111111111111", "expiry": "12/49"});
            let url = format!("https://{PRIVATE}/v1/payments");
            let words = ["--connect-timeout", "3", "--interface", "198.51.100.70", &url];
            let (status, answer) = self.curl("payer", &words, &payment)?;
            ensure!(status == 200 && answer["state"] == "approved", "{status}: {answer}");
            Ok(())
        })
    }

    fn refused_reload(&self, why: &str) -> Result<()> {
        let said = self.ask(&["reload"])?;
        ensure!(said.code == Some(1) && said.stderr.contains(why), "{said:?}");
        Ok(())
    }

    fn certificate(&self, name: &str) -> Result<Vec<u8>> {
        let text = fs::read_to_string(self.run.join(format!("pki/{name}.pem")))?;
        let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        cloakway_crypto::encode::unbase64(&lines).context("no PEM")
    }
}

/// A payer's connection that stays.
struct Kept {
    runtime: tokio::runtime::Runtime,
    stream: tls::Stream,
}

impl Kept {
    fn open(site: &Site) -> Result<Self> {
        let ca = site.run.join("pki/ca.pem");
        site.lab.netns("payer").enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let config = tls::client(&ca, None)?;
            let opening = async {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.bind("198.51.100.70:0".parse()?)?;
                let stream = socket.connect(format!("{PRIVATE}:443").parse()?).await?;
                anyhow::Ok(tls::connect(&config, PRIVATE, b"http/1.1", stream).await?)
            };
            let stream = runtime.block_on(async { tokio::time::timeout(BOUND, opening).await })??;
            Ok(Self { runtime, stream })
        })
    }

    fn is_shown(&self, certificate: &[u8]) -> bool {
        tls::peer_certificate(&self.stream).is_some_and(|shown| shown.as_ref() == certificate)
    }

    fn is_served(&mut self) -> Result<()> {
        let request = format!("GET /v1/live HTTP/1.1\r\nhost: {PRIVATE}\r\n\r\n");
        let stream = &mut self.stream;
        self.runtime.block_on(async {
            let exchange = async {
                stream.write_all(request.as_bytes()).await?;
                let mut answer = vec![0; 4096];
                let octets = stream.read(&mut answer).await?;
                answer.truncate(octets);
                anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
            };
            let answer = tokio::time::timeout(BOUND, exchange).await??;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            Ok(())
        })
    }
}

/// A connection that is in use all the time, as a server ends one that is not.
struct Busy {
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Busy {
    fn with(mut kept: Kept) -> Self {
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (answered.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                kept.is_served()?;
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        Self { answered, stop, thread }
    }

    /// Waits for two more answers: the second was asked for after this call.
    fn is_served(&self) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(BOUND, "the connection that was there before is served", || {
            ensure!(!self.thread.is_finished(), "it has ended");
            ensure!(self.answered.load(Ordering::Relaxed) >= before + 2, "no answer yet");
            Ok(())
        })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    }
}

#[test]
fn a_confined_server_sells_renews_its_certificates_and_comes_back() -> Result<()> {
    if !may_make_namespaces("a_confined_server_sells_renews_its_certificates_and_comes_back") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let site = Site::up(folder.path(), |_| Ok(()))?;
    site.is_confined()?;
    ensure!(site.show("status")?["process"]["user"] == USER, "{}", site.show("status")?);
    site.buy("first")?;

    renewal(&site, folder.path())?;

    // The link may go and come back: its socket stays, as no other could be made.
    site.lab.plug("private", false)?;
    site.lab.plug("private", true)?;
    site.buy("after-the-link")?;

    site.lab.kill9("transaction-server")?;
    site.start()?;
    site.is_confined()?;
    site.buy("after-the-kill")?;
    let orders = site.show("orders")?;
    let approved = orders.as_array().context("a list")?.iter().filter(|order| order["state"] == "approved").count();
    ensure!(approved == 4, "{orders}");
    Ok(())
}

/// A small disk.
struct Disk(PathBuf);

impl Disk {
    fn size(&self, options: &str) -> Result<()> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0);
        netns_tests::command::must(&mut mount, BOUND).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_server_whose_disk_is_full_ends_and_what_it_said_before_holds() -> Result<()> {
    if !may_make_namespaces("a_server_whose_disk_is_full_ends_and_what_it_said_before_holds") {
        return Ok(());
    }
    stories::build_programs()?;
    let folder = tempfile::tempdir()?;
    let mut disk = None;
    let user = nix::unistd::User::from_name(USER)?.context("no such user")?;
    let site = Site::up(folder.path(), |server| {
        let data = Disk(server.join("data"));
        fs::create_dir(&data.0)?;
        data.size(&format!("size=128k,mode=0700,uid={},gid={}", user.uid, user.gid))?;
        disk = Some(data);
        Ok(())
    })?;
    let disk = disk.context("no disk")?;
    let mut passwords = Vec::new();
    while passwords.len() < 2000 {
        match site.place(&format!("o-{}", passwords.len())) {
            Ok(issued) => passwords.push(issued["password"].clone()),
            Err(_) => break,
        }
    }
    ensure!((20..2000).contains(&passwords.len()), "{} orders on a disk of 128 KiB", passwords.len());
    eventually(BOUND, "the server ends", || {
        ensure!(!site.lab.alive("transaction-server"), "it runs");
        Ok(())
    })?;
    let log = site.lab.log("transaction-server");
    ensure!(log.contains("nothing more can be made durable") && log.contains("stopped by an error"), "{log}");

    disk.size("remount,size=16m")?;
    site.start()?;
    for (number, password) in passwords.iter().enumerate() {
        ensure!(site.place(&format!("o-{number}"))?["password"] == *password, "order {number} is another one");
    }
    site.buy("after-the-disk")
}

/// Certificates are exchanged while a payer is connected.
fn renewal(site: &Site, folder: &Path) -> Result<()> {
    let (old, new) = (site.certificate("private")?, site.certificate("renewed")?);
    let kept = Kept::open(site)?;
    ensure!(kept.is_shown(&old), "another certificate");
    let kept = Busy::with(kept);
    kept.is_served()?;

    // What is no good is refused, whole: no certificate, another's key, another's address.
    let file = site.run.join("tls/private.pem");
    fs::write(&file, "no certificate")?;
    site.refused_reload("the certificates of before stay")?;
    fs::copy(site.run.join("pki/renewed.pem"), &file)?;
    site.refused_reload("the certificates of before stay")?;
    site.install("elsewhere", "private")?;
    site.refused_reload("not valid for 203.0.113.200")?;
    // A file that anybody may read, outside of the server's folders.
    let outside = folder.join("outside.pem");
    fs::copy(site.run.join("pki/private.pem"), &outside)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o644))?;
    site.install("private", "private")?;
    fs::remove_file(&file)?;
    symlink(&outside, &file)?;
    site.refused_reload("Permission denied")?;
    kept.is_served()?;
    ensure!(Kept::open(site)?.is_shown(&old), "a certificate that was refused is in force");

    site.install("renewed", "private")?;
    site.lab.hang_up("transaction-server")?;
    eventually(BOUND, "new connections are shown the new certificate", || {
        ensure!(Kept::open(site)?.is_shown(&new), "the old certificate");
        Ok(())
    })?;
    kept.is_served()?;
    kept.end()?;
    site.buy("renewed")?;
    let shown = site.show("certificates")?;
    ensure!(shown[0]["side"] == "private" && shown[0]["valid_until"].is_string(), "{shown}");
    Ok(())
}
