//! The topology file: what a person writes to describe a laboratory, and the checks on it.
//!
//! Strict: an unknown key, an interface used twice or a process in a namespace that does not exist is refused with
//! the place and what would be right. The manual of the format is the comment at the head of
//! `configs/lab/purchase/topology.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

/// Why a topology file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not the TOML that a topology is made of; the source names line and field.
    #[error("{path}: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        source: Box<toml::de::Error>,
    },
    /// The parts contradict one another.
    #[error("{path}: {place}: {problem}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The field, for example `links[3].a.namespace`.
        place: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A laboratory as written in its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// One line for `lab list` and the head of the picture.
    pub about: String,
    /// The hosts.
    pub namespaces: Vec<Namespace>,
    /// The cables.
    pub links: Vec<Link>,
    /// Certificates, if the laboratory needs any.
    #[serde(default)]
    pub pki: Option<Pki>,
    /// Passwords and keys made afresh for each run.
    #[serde(default)]
    pub secrets: Vec<SecretSpec>,
    /// What runs, in the order of starting.
    pub processes: Vec<Process>,
    /// Where the file lies; templates and firewalls lie beside it.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// A host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Namespace {
    /// Its name, without the prefix of the laboratory.
    pub name: String,
    /// What it plays, for the picture.
    pub role: String,
    /// Kernel settings, set before the interfaces come up (so `conf.default` works).
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Further addresses, on the loopback interface.
    #[serde(default)]
    pub loopback: Vec<IpNet>,
    /// Routes in the words of `ip route add`, IPv4 and IPv6.
    #[serde(default)]
    pub routes: Vec<String>,
    /// An nftables file beside the topology, loaded before the interfaces come up.
    #[serde(default)]
    pub firewall: Option<String>,
}

/// A cable: a veth pair.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// Its name, which is also the name of its capture.
    pub name: String,
    /// Who may see what travels on it.
    pub kind: LinkKind,
    /// One end; captures are taken here.
    pub a: End,
    /// The other end.
    pub b: End,
    /// `false` turns off checksum and segmentation offloads on both ends, for a peer that reads raw frames.
    #[serde(default = "yes")]
    pub offloads: bool,
}

/// Who may see what travels on a link; the leak checks follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The Internet: no packet to or from a private network address, no card number.
    Public,
    /// Inside the member ISP: private network addresses are at home here, a readable card number is not.
    Member,
    /// The private link: as `Member`.
    Private,
    /// Between two of our own servers: no private network address, no card number.
    Management,
    /// To the financial institution, which needs the card number.
    Bank,
}

/// One end of a link.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct End {
    /// The host.
    pub namespace: String,
    /// The name of the interface in it.
    pub interface: String,
    /// Addresses with their prefix lengths.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// `false`: the kernel holds no address here, no IPv6 and no ARP; frames are for whoever opens a raw socket.
    #[serde(default = "yes")]
    pub kernel_address: bool,
}

/// The certificates of a laboratory: one authority and what it signs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pki {
    /// The common name of the authority; its certificate is `{{pki}}/ca.pem`.
    pub authority: String,
    /// What it signs.
    pub certificates: Vec<Certificate>,
}

/// A certificate: `{{pki}}/NAME.pem` and `{{pki}}/NAME.key`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Certificate {
    /// The name of the files and the common name.
    pub name: String,
    /// DNS names and IP addresses that it stands for.
    pub subjects: Vec<String>,
    /// Whether its holder proves itself as a client too.
    #[serde(default)]
    pub client: bool,
}

/// Something random, made afresh for each run, in `{{secrets}}/NAME`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretSpec {
    /// The name of the file.
    pub name: String,
    /// Its form.
    pub kind: SecretKind,
}

/// The forms of a secret. Each is 32 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// Hexadecimal; `NAME.sha256` holds the hash of that text, in hexadecimal.
    Hex,
    /// Base64; `NAME.sha256` holds the hash of that text, in hexadecimal.
    Base64,
    /// An Ed25519 key: the seed in base64, and `NAME.public`, the public half in base64.
    Ed25519,
}

/// A program that runs in a namespace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Process {
    /// Its name; also of its directory `{{dir}}` and its log.
    pub name: String,
    /// Where it runs.
    pub namespace: String,
    /// A path (a system daemon) or a bare name (a binary of this workspace, else one on the PATH).
    pub program: String,
    /// Arguments; placeholders are filled in.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Templates beside the topology, written with placeholders filled in to `{{dir}}` under their own names.
    #[serde(default)]
    pub templates: Vec<String>,
    /// Another process whose directory this one shares.
    #[serde(default)]
    pub directory: Option<String>,
    /// The system user that owns the directory.
    #[serde(default)]
    pub owner: Option<String>,
    /// `true`: it runs once and must end well before the next one starts.
    #[serde(default)]
    pub once: bool,
    /// What must hold before it is started.
    #[serde(default)]
    pub after: Option<Probe>,
    /// What must hold before the next one is started.
    #[serde(default)]
    pub ready: Option<Probe>,
}

/// A condition seen from outside a process. Exactly one of the first four keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probe {
    /// This path exists.
    #[serde(default)]
    pub path: Option<String>,
    /// This address takes TCP connections from within the namespace.
    #[serde(default)]
    pub tcp: Option<String>,
    /// This command, run in the namespace, ends well; with `contains`, its output has that text.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The log of the process has this text.
    #[serde(default)]
    pub log: Option<String>,
    /// For `command`: the text to find.
    #[serde(default)]
    pub contains: Option<String>,
    /// How long to wait for it.
    #[serde(default = "fifteen")]
    pub within_s: u64,
}

fn yes() -> bool {
    true
}

fn fifteen() -> u64 {
    15
}

impl Topology {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`TopologyError`], naming the file and the field.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TopologyError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks `text`, which came from `path`.
    ///
    /// # Errors
    /// [`TopologyError`], naming the file and the field.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TopologyError> {
        let mut topology: Self = toml::from_str(text)
            .map_err(|source| TopologyError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        topology.folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        match topology.contradiction() {
            None => Ok(topology),
            Some((place, problem)) => Err(TopologyError::Contradiction { path: path.to_owned(), place, problem }),
        }
    }

    /// The namespace that holds `address` on a link or its loopback interface, and the interface.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<(&str, &str)> {
        let on_links = self.links.iter().flat_map(|link| [&link.a, &link.b]).find_map(|end| {
            let here = end.addresses.iter().any(|net| net.addr() == address);
            here.then_some((end.namespace.as_str(), end.interface.as_str()))
        });
        on_links.or_else(|| {
            let host = self.namespaces.iter().find(|host| host.loopback.iter().any(|net| net.addr() == address))?;
            Some((host.name.as_str(), "lo"))
        })
    }

    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn contradiction(&self) -> Option<(String, String)> {
        let mut hosts = BTreeSet::new();
        for (index, host) in self.namespaces.iter().enumerate() {
            if !is_name(&host.name) {
                return Some((format!("namespaces[{index}].name"), not_a_name(&host.name)));
            }
            if !hosts.insert(host.name.as_str()) {
                return Some((format!("namespaces[{index}].name"), format!("`{}` is there already", host.name)));
            }
        }
        self.contradiction_in_links(&hosts)
            .or_else(|| self.contradiction_in_secrets())
            .or_else(|| self.contradiction_in_processes(&hosts))
    }

    fn contradiction_in_links(&self, hosts: &BTreeSet<&str>) -> Option<(String, String)> {
        let (mut names, mut interfaces) = (BTreeSet::new(), BTreeSet::new());
        for (index, link) in self.links.iter().enumerate() {
            if !is_name(&link.name) {
                return Some((format!("links[{index}].name"), not_a_name(&link.name)));
            }
            if !names.insert(link.name.as_str()) {
                return Some((format!("links[{index}].name"), format!("`{}` is there already", link.name)));
            }
            for (side, end) in [("a", &link.a), ("b", &link.b)] {
                let place = |field: &str| format!("links[{index}].{side}.{field}");
                if !hosts.contains(end.namespace.as_str()) {
                    return Some((place("namespace"), format!("`{}` is not among the namespaces", end.namespace)));
                }
                if end.interface.is_empty() || end.interface.len() > 15 || end.interface.contains(['/', ' ']) {
                    let problem = format!("`{}`: an interface name has 1 to 15 characters, no `/`", end.interface);
                    return Some((place("interface"), problem));
                }
                if !interfaces.insert((end.namespace.as_str(), end.interface.as_str())) {
                    let problem = format!("`{}` has an interface `{}` already", end.namespace, end.interface);
                    return Some((place("interface"), problem));
                }
                if !end.kernel_address && !end.addresses.is_empty() {
                    let problem = "kernel-address = false leaves no place for addresses: leave one of the two out";
                    return Some((place("addresses"), problem.to_owned()));
                }
            }
        }
        None
    }

    fn contradiction_in_secrets(&self) -> Option<(String, String)> {
        let mut names = BTreeSet::new();
        for (index, secret) in self.secrets.iter().enumerate() {
            if !is_name(&secret.name) {
                return Some((format!("secrets[{index}].name"), not_a_name(&secret.name)));
            }
            if !names.insert(secret.name.as_str()) {
                return Some((format!("secrets[{index}].name"), format!("`{}` is there already", secret.name)));
            }
        }
        let certificates = self.pki.iter().flat_map(|pki| &pki.certificates);
        let mut names = BTreeSet::from(["ca"]);
        for (index, certificate) in certificates.enumerate() {
            let place = format!("pki.certificates[{index}].name");
            if !is_name(&certificate.name) {
                return Some((place, not_a_name(&certificate.name)));
            }
            if !names.insert(certificate.name.as_str()) {
                return Some((place, format!("`{}` is there already", certificate.name)));
            }
        }
        None
    }

    fn contradiction_in_processes(&self, hosts: &BTreeSet<&str>) -> Option<(String, String)> {
        let mut names = BTreeSet::new();
        for (index, process) in self.processes.iter().enumerate() {
            let place = |field: &str| format!("processes[{index}].{field}");
            if !is_name(&process.name) {
                return Some((place("name"), not_a_name(&process.name)));
            }
            if !hosts.contains(process.namespace.as_str()) {
                return Some((place("namespace"), format!("`{}` is not among the namespaces", process.namespace)));
            }
            if let Some(other) = &process.directory
                && !names.contains(other.as_str())
            {
                return Some((place("directory"), format!("no process `{other}` stands before this one")));
            }
            if !names.insert(process.name.as_str()) {
                return Some((place("name"), format!("`{}` is there already", process.name)));
            }
            for (field, probe) in [("after", &process.after), ("ready", &process.ready)] {
                let Some(probe) = probe else { continue };
                let kinds = [probe.path.is_some(), probe.tcp.is_some(), probe.command.is_some(), probe.log.is_some()];
                if kinds.into_iter().filter(|is| *is).count() != 1 {
                    return Some((place(field), "wants exactly one of path, tcp, command, log".to_owned()));
                }
                if probe.contains.is_some() && probe.command.is_none() {
                    return Some((place(field), "`contains` goes with `command`".to_owned()));
                }
                if probe.command.as_ref().is_some_and(Vec::is_empty) {
                    return Some((place(field), "`command` is empty: name a program".to_owned()));
                }
            }
        }
        None
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn not_a_name(text: &str) -> String {
    format!("`{text}` is not a name: 1 to 32 of a-z, 0-9 and `-`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
about = "two hosts"
[[namespaces]]
name = "left"
role = "one host"
[[namespaces]]
name = "right"
role = "the other"
loopback = ["192.0.2.129/32"]
[[links]]
name = "cable"
kind = "public"
a = { namespace = "left", interface = "eth0", addresses = ["192.0.2.1/30"] }
b = { namespace = "right", interface = "eth0", addresses = ["192.0.2.2/30"] }
[[secrets]]
name = "word"
kind = "hex"
[pki]
authority = "CA"
[[pki.certificates]]
name = "left"
subjects = ["192.0.2.1"]
[[processes]]
name = "listener"
namespace = "right"
program = "nc"
ready = { tcp = "192.0.2.2:80" }
"#;

    fn refusal(text: &str) -> String {
        Topology::parse(text, Path::new("lab/topology.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_small_topology_is_read() {
        let topology = Topology::parse(SMALL, Path::new("lab/topology.toml")).unwrap();
        assert_eq!(topology.folder, Path::new("lab"));
        assert_eq!(topology.holder("192.0.2.2".parse().unwrap()), Some(("right", "eth0")));
        assert_eq!(topology.holder("192.0.2.129".parse().unwrap()), Some(("right", "lo")));
        assert_eq!(topology.holder("192.0.2.3".parse().unwrap()), None);
        assert!(topology.link("cable").unwrap().offloads);
    }

    #[test]
    fn a_stray_key_in_any_table_is_refused_with_its_line() {
        for table in [
            "about = \"two hosts\"",
            "role = \"one host\"",
            "kind = \"public\"",
            "kind = \"hex\"",
            "authority = \"CA\"",
            "subjects = [\"192.0.2.1\"]",
            "program = \"nc\"",
        ] {
            assert!(SMALL.contains(table), "{table}");
            let error = refusal(&SMALL.replace(table, &format!("{table}\nstray = 1")));
            assert!(error.contains("unknown field `stray`") && error.contains("line "), "{table}: {error}");
        }
        for inline in ["interface = \"eth0\", addresses", "tcp = \"192.0.2.2:80\""] {
            let error = refusal(&SMALL.replacen(inline, &format!("stray = 1, {inline}"), 1));
            assert!(error.contains("unknown field `stray`"), "{error}");
        }
    }

    #[test]
    fn parts_that_contradict_one_another_are_named() {
        for (from, to, expected) in [
            ("namespace = \"right\", i", "namespace = \"up\", i", "links[0].b.namespace: `up` is not among"),
            ("name = \"right\"", "name = \"left\"", "namespaces[1].name: `left` is there already"),
            ("namespace = \"right\"\nprogram", "namespace = \"up\"\nprogram", "processes[0].namespace: `up`"),
            ("{ tcp = \"192.0.2.2:80\" }", "{ within-s = 3 }", "processes[0].ready: wants exactly one of"),
            ("program = \"nc\"", "program = \"nc\"\ndirectory = \"x\"", "processes[0].directory: no process `x`"),
            ("namespace = \"right\", interface", "namespace = \"left\", interface", "links[0].b.interface: `left` has"),
            ("name = \"word\"", "name = \"../word\"", "secrets[0].name: `../word` is not a name"),
            ("name = \"left\"\nsubjects", "name = \"ca\"\nsubjects", "pki.certificates[0].name: `ca` is there"),
            (
                "[\"192.0.2.2/30\"] }",
                "[\"192.0.2.2/30\"], kernel-address = false }",
                "links[0].b.addresses: kernel-address = false",
            ),
            ("interface = \"eth0\", a", "interface = \"a-name-too-long-for-linux\", a", "1 to 15 characters"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let error = refusal(&SMALL.replacen(from, to, 1));
            assert!(error.contains("lab/topology.toml: ") && error.contains(expected), "{error}");
        }
    }
}
