//! Bindings that are written down: a file of prefixes, ports and subscribers, read again when it changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cloakway_runtime::Stop;
use cloakway_types::SubscriberId;
use ipnet::IpNet;
use serde::Deserialize;
use toolbox_wire::record::{Address, AddressKind, FOREVER, Ports, User};

use super::teller::{Gone, Teller};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    #[serde(default)]
    bindings: Vec<RawBinding>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawBinding {
    prefix: IpNet,
    ports: Option<String>,
    subscriber: SubscriberId,
}

/// One line: what is whose.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    address: Address,
    subscriber: SubscriberId,
}

type Lines = BTreeMap<String, Line>;

/// Why a file is refused, whole.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("bindings[{0}].prefix: {1} has host bits: {2} would be the prefix")]
    HostBits(usize, IpNet, IpNet),
    #[error("bindings[{0}].ports: {1:?} is no range of ports: 1024-2047 would be one")]
    Ports(usize, String),
    #[error("bindings[{0}].ports: a prefix has no ports: give an address, /32 or /128")]
    PortsOfPrefix(usize),
    #[error("bindings[{1}] is part of bindings[{0}], and another subscriber's")]
    Twice(usize, usize),
}

fn read(path: &Path) -> Result<Lines, Refused> {
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> Result<Lines, Refused> {
    let raw: Raw = toml::from_str(text)?;
    let mut all: Vec<Line> = Vec::new();
    for (index, RawBinding { prefix, ports, subscriber }) in raw.bindings.into_iter().enumerate() {
        if prefix != prefix.trunc() {
            return Err(Refused::HostBits(index, prefix, prefix.trunc()));
        }
        let ports = match ports {
            None => Ports::ALL,
            Some(_) if prefix.prefix_len() != prefix.max_prefix_len() => return Err(Refused::PortsOfPrefix(index)),
            Some(text) => text.parse().map_err(|_| Refused::Ports(index, text))?,
        };
        all.push(Line { address: Address { kind: AddressKind::Static, net: prefix, ports }, subscriber });
    }
    // By their beginnings, so that what may meet stands together.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|index| all.get(*index).map(|line| (line.address.net, line.address.ports)));
    let mut around: Vec<usize> = Vec::new();
    for index in order {
        let Some(line) = all.get(index) else { continue };
        around.retain(|other| all.get(*other).is_some_and(|other| other.address.net.contains(&line.address.net)));
        let of_another = around.iter().find(|other| {
            all.get(**other)
                .is_some_and(|of| of.subscriber != line.subscriber && of.address.ports.meets(line.address.ports))
        });
        if let Some(other) = of_another {
            return Err(Refused::Twice(*other.min(&index), *other.max(&index)));
        }
        around.push(index);
    }
    Ok(all.into_iter().map(|line| (name(&line), line)).collect())
}

fn name(line: &Line) -> String {
    let Address { net, ports, .. } = line.address;
    if ports.is_all() { net.to_string() } else { format!("{}:{ports}", net.addr()) }
}

/// Reads the file, and starts a task that reads it again when it changes.
pub(super) async fn start(path: PathBuf, teller: Teller, stop: Stop) {
    let mut watcher = Watcher { path, teller, lines: Lines::new(), seen: None };
    if watcher.look().await.is_err() {
        return;
    }
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.told() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if watcher.look().await.is_err() {
                return;
            }
        }
    });
}

/// What changes when a file is written.
type Seen = (SystemTime, u64, u64);

fn seen(path: &Path) -> Option<Seen> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

struct Watcher {
    path: PathBuf,
    teller: Teller,
    lines: Lines,
    seen: Option<Option<Seen>>,
}

impl Watcher {
    async fn look(&mut self) -> Result<(), Gone> {
        self.teller.watch();
        let seen = seen(&self.path);
        if self.seen == Some(seen) {
            return Ok(());
        }
        self.seen = Some(seen);
        let fresh = match read(&self.path) {
            Ok(fresh) => fresh,
            Err(refused) => {
                let problem = format!("{}: {refused}", self.path.display());
                if self.lines.is_empty() {
                    self.teller.status.down(&problem);
                } else {
                    self.teller.status.alarm("refused", &format!("what was read before stays: {problem}"));
                }
                return Ok(());
            }
        };
        let gone: Vec<String> = self.lines.keys().filter(|name| !fresh.contains_key(*name)).cloned().collect();
        for name in gone {
            self.teller.stop(name).await?;
        }
        for (name, line) in &fresh {
            if self.lines.get(name) != Some(line) {
                let user = User::Named(line.subscriber.clone());
                self.teller.start(name.clone(), user, line.address, Some(FOREVER)).await?;
            }
        }
        self.lines = fresh;
        self.teller.settle().await?;
        self.teller.status.known(self.lines.len());
        self.teller.status.up();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn binding(prefix: &str, more: &str, subscriber: &str) -> String {
        format!("[[bindings]]\nprefix = \"{prefix}\"\n{more}\nsubscriber = \"{subscriber}\"\n")
    }

    #[test]
    fn prefixes_and_ports_read() {
        let text =
            binding("198.51.100.64/28", "", "alice") + &binding("198.51.100.90/32", "ports = \"1024-2047\"", "bob");
        let names: Vec<String> = parse(&text).unwrap().into_keys().collect();
        assert_eq!(names, ["198.51.100.64/28", "198.51.100.90:1024-2047"]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_file_with_one_wrong_line_is_refused_whole_and_the_line_is_named() {
        let good = binding("198.51.100.64/28", "", "alice");
        assert!(refused(&(good.clone() + &binding("198.51.100.1/24", "", "b"))).contains("bindings[1].prefix"));
        assert!(refused(&binding("198.51.100.1/32", "ports = \"9\"", "b")).contains("1024-2047"));
        assert!(refused(&binding("198.51.100.0/24", "ports = \"1-9\"", "b")).contains("a prefix has no ports"));
        assert!(refused(&binding("198.51.100.0/24", "port = 1", "b")).contains("unknown field"));
        assert!(refused(&binding("198.51.100.0/24", "", "b b")).contains("subscriber"));
    }

    #[test]
    fn what_two_subscribers_have_is_refused() {
        let of = |one: (&str, &str), two: (&str, &str)| {
            parse(&(binding(one.0, one.1, "alice") + &binding(two.0, two.1, "bob")))
        };
        let ports = |text: &str| format!("ports = \"{text}\"");
        let whole = of(("198.51.100.70/32", ""), ("198.51.100.64/26", ""));
        assert!(whole.unwrap_err().to_string().contains("bindings[1] is part of bindings[0]"));
        let (low, high, middle) = (ports("1-9"), ports("10-19"), ports("9-10"));
        assert!(of(("198.51.100.70/32", &low), ("198.51.100.70/32", &high)).is_ok());
        assert!(of(("198.51.100.70/32", &low), ("198.51.100.70/32", &middle)).is_err());
        assert!(of(("198.51.100.70/32", &low), ("198.51.100.70/32", "")).is_err());
        let same = binding("198.51.100.70/32", "", "alice") + &binding("198.51.100.64/26", "", "alice");
        assert!(parse(&same).is_ok());
    }
}
