//! RADIUS peers that are programs of others.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{PATIENCE, eventually};

/// A program that ends with its test.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A UDP port that is free now.
pub(crate) fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) struct Said {
    pub(crate) answered: bool,
    pub(crate) text: String,
}

/// Sends what `attributes` says by radclient; `command` is `acct`, `auth` or `status`.
pub(crate) fn radclient(
    folder: &Path,
    server: SocketAddr,
    command: &str,
    secret: &str,
    attributes: &str,
    tries: u32,
) -> Said {
    radclient_in(None, folder, server, command, secret, attributes, tries)
}

/// A command, in a network namespace where one is named.
pub(crate) fn program(namespace: Option<&str>, name: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(name) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, name]);
    command
}

/// As [`radclient`], in a network namespace.
pub(crate) fn radclient_in(
    namespace: Option<&str>,
    folder: &Path,
    server: SocketAddr,
    command: &str,
    secret: &str,
    attributes: &str,
    tries: u32,
) -> Said {
    let file = folder.join(format!("radclient-{}.secret", secret.len()));
    std::fs::write(&file, secret).unwrap();
    let mut child = program(namespace, "radclient")
        .args(["-x", "-r", &tries.to_string(), "-t", "5", "-S"])
        .arg(file)
        .args([&server.to_string(), command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(attributes.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Said { answered: output.status.success() && text.contains("\nReceived "), text }
}

/// A FreeRADIUS server of this test, that knows nobody but 127.0.0.1.
pub(crate) struct FreeRadius {
    program: Program,
    pub(crate) authentication: SocketAddr,
    pub(crate) accounting: SocketAddr,
    folder: tempfile::TempDir,
}

pub(crate) const HOME_SECRET: &str = "secret of the home server";

impl FreeRadius {
    /// `more` are further sections of the configuration, and `sections` those of the server.
    pub(crate) fn start(more: &str, sections: &str) -> Self {
        Self::start_in(None, [127, 0, 0, 1].into(), more, sections)
    }

    /// In a network namespace, at an address there.
    pub(crate) fn start_in(namespace: Option<&str>, at: std::net::IpAddr, more: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (auth, acct) = (free_port(), free_port());
        let dir = folder.path().display();
        let config = format!(
            r#"prefix = /usr
name = radiusd
libdir = /usr/lib/freeradius
logdir = {dir}
raddbdir = {dir}
run_dir = {dir}
pidfile = {dir}/pid
max_request_time = 30
log {{
    destination = stdout
    auth = no
}}
security {{
    allow_core_dumps = no
    reject_delay = 0
    status_server = yes
}}
thread pool {{
    start_servers = 1
    max_servers = 4
    min_spare_servers = 1
    max_spare_servers = 2
    max_requests_per_server = 0
    auto_limit_acct = no
}}
modules {{
    always ok {{
        rcode = ok
    }}
    always reject {{
        rcode = reject
    }}
    pap {{
    }}
    chap {{
    }}
    linelog heard {{
        filename = {dir}/heard
        format = "%{{User-Name}} %{{Acct-Status-Type}} %{{Acct-Session-Id}} %{{Packet-Src-Port}} %{{Framed-IP-Address}}"
    }}
}}
client toolbox {{
    ipaddr = 127.0.0.1
    secret = "{HOME_SECRET}"
}}
{more}
server default {{
    listen {{
        type = auth
        ipaddr = {at}
        port = {auth}
    }}
    listen {{
        type = acct
        ipaddr = {at}
        port = {acct}
    }}
    {sections}
}}
"#
        );
        std::fs::write(folder.path().join("radiusd.conf"), config).unwrap();
        let out = std::fs::File::create(folder.path().join("out")).unwrap();
        let mut command = program(namespace, "freeradius");
        command.args(["-f", "-l", "stdout", "-d"]).arg(folder.path());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let mut server = Self {
            program: Program::start(&mut command),
            authentication: (at, auth).into(),
            accounting: (at, acct).into(),
            folder,
        };
        eventually("FreeRADIUS is there", || {
            assert!(!server.program.ended(), "it ended: {}", server.log());
            server.log().contains("Ready to process requests").then_some(())
        });
        server
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    /// Who it heard of by accounting: lines of name, status, session, the port that it came from, and the address.
    pub(crate) fn heard(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("heard")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Lines for a server that lets everybody in who says `hello`.
pub(crate) const LETS_IN: &str = r#"
    authorize {
        update control {
            Cleartext-Password := "hello"
        }
        chap
        pap
    }
    authenticate {
        Auth-Type PAP {
            pap
        }
        Auth-Type CHAP {
            chap
        }
    }
    post-auth {
        update reply {
            Delegated-IPv6-Prefix := 2001:db8:5100:6400::/56
            Tunnel-Password := "of the tunnel"
            Class := 0x0102
        }
    }
    accounting {
        heard
        ok
    }
"#;

/// Waits until `server` answers a Status-Server.
pub(crate) fn answers(folder: &Path, server: SocketAddr, secret: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    while !radclient(folder, server, "status", secret, "Message-Authenticator = 0x00\n", 1).answered {
        assert!(std::time::Instant::now() < end, "{server} does not answer");
    }
}
