//! Our speaker, with its API.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Lab, Process, until};

pub(crate) struct Speaker {
    pub(crate) process: Process,
    pub(crate) api: UnixStream,
    pub(crate) answers: BufReader<UnixStream>,
}

impl Speaker {
    /// In the sender's namespace, with BIRD in the other as its peer.
    pub(crate) fn start(lab: &Lab) -> Self {
        let peer = "[[peers]]\nname = \"bird\"\nremote-as = 64500\naddress = \"192.0.2.2\"\nhold-time-s = 90\n";
        Self::with(lab.folder(), Some(&lab.sender()), peer)
    }

    /// With `peers` and what else is to be in its configuration, in `namespace`, or in this one; nothing accepted yet.
    pub(crate) fn with(folder: &Path, namespace: Option<&str>, peers: &str) -> Self {
        let _ = std::fs::remove_file(folder.join("journal"));
        Self::again(folder, namespace, peers)
    }

    /// With what was accepted before.
    pub(crate) fn again(folder: &Path, namespace: Option<&str>, peers: &str) -> Self {
        let process = Self::spawn(folder, namespace, peers);
        let (api, answers) = Self::client(folder);
        Self { process, api, answers }
    }

    /// The process alone, without waiting for its API.
    pub(crate) fn spawn(folder: &Path, namespace: Option<&str>, peers: &str) -> Process {
        let path = |name: &str| folder.join(name);
        let text = format!(
            "admin-socket = {:?}\n[speaker]\nlocal-as = 64500\nrouter-id = \"192.0.2.1\"\n{peers}[inject]\napi-socket = {:?}\n\
             journal = {:?}\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n",
            path("admin"),
            path("api"),
            path("journal")
        );
        std::fs::write(path("speaker.toml"), text).unwrap();
        let binary = env!("CARGO_BIN_EXE_bgp-speaker");
        let config = path("speaker.toml");
        let _ = std::fs::remove_file(path("api"));
        match namespace {
            Some(name) => Process::spawn(name, &[binary, "run", "--config", config.to_str().unwrap()]),
            None => {
                let mut command = Command::new(binary);
                command.args(["run", "--config"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
                Process(command.spawn().unwrap())
            }
        }
    }

    pub(crate) fn client(folder: &Path) -> (UnixStream, BufReader<UnixStream>) {
        let api = until("the API", || UnixStream::connect(folder.join("api")).ok());
        let answers = BufReader::new(api.try_clone().unwrap());
        (api, answers)
    }

    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.api.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"ok\""), "{line}");
        line
    }
}

/// The `n`th IPv4 host.
pub(crate) fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

/// A bulk of IPv4 hosts with one attribute set.
pub(crate) fn stream(set: &str, replace: bool, hosts: impl Iterator<Item = u32>) -> String {
    let mut text = format!(
        "{{\"stream\":{{\"set\":\"{set}\",\"replace\":{replace}}}}}\n{{\"next-hop\":\"192.0.2.1\",\"communities\":[\"64500:1\"]}}\n"
    );
    for n in hosts {
        let _ = writeln!(text, "{}/32", host(n));
    }
    text.push_str(".\n");
    text
}
