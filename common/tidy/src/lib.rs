//! Rules about the code, as functions from what Cargo resolves and what the files say to a list of violations.
//!
//! `tests/tree.rs` holds the tree to them. Each rule is also tested on made-up input that breaks it, because a check
//! that cannot fail checks nothing. The invariants are those of `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};

/// A package as Cargo resolved it.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// For a member of the workspace, its folder below the root.
    pub folder: Option<String>,
    /// The ids of the packages that it is built from; those for tests only are left out.
    pub dependencies: BTreeSet<String>,
}

/// What Cargo resolved, by package id.
pub type Graph = BTreeMap<String, Package>;

/// A file of the tree: its path below the root, and its text.
pub type File = (String, String);

/// Crates by which a program reaches sockets, files, timers or a database.
const SHELL_ONLY: &[&str] = &[
    "async-std",
    "axum",
    "hyper",
    "mio",
    "netlink-sys",
    "nix",
    "redb",
    "reqwest",
    "rtnetlink",
    "rustls",
    "smol",
    "socket2",
    "tokio",
    "tokio-rustls",
];

/// Crates that are cryptography.
const CRYPTOGRAPHY: &[&str] = &[
    "aes",
    "aes-gcm",
    "argon2",
    "aws-lc-rs",
    "base64",
    "chacha20poly1305",
    "des",
    "ed25519-dalek",
    "getrandom",
    "hkdf",
    "hmac",
    "md-5",
    "md5",
    "ml-kem",
    "openssl",
    "p256",
    "pbkdf2",
    "rand",
    "ring",
    "rsa",
    "sha1",
    "sha2",
    "subtle",
    "x-wing",
    "x25519-dalek",
    "zeroize",
];

/// The folders of the roles.
const ROLES: &[&str] = &["bgp", "forwarder", "toolbox", "channels", "transact", "public"];

/// What may lie at the top of the tree.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bgp",
    "channels",
    "clippy.toml",
    "common",
    "configs",
    "deny.toml",
    "docs",
    "forwarder",
    "fuzz",
    "netns-tests",
    "public",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "toolbox",
    "transact",
];

/// Whether the crate of this name may do no input or output and read no clock.
#[must_use]
pub fn is_pure(name: &str) -> bool {
    ["-wire", "-core", "-ledger", "-ecash", "-bank", "-cloak"].iter().any(|end| name.ends_with(end))
        || matches!(
            name,
            "cloakway-types"
                | "cloakway-crypto"
                | "cloakway-sim"
                | "bgp-bmp"
                | "bgp-mrt"
                | "bgp-rib"
                | "bgp-rpki"
                | "toolbox-leases"
                | "toolbox-nat"
        )
}

/// Pure crates reach no crate that does input or output, however far down; the cloak alone has a TCP/IP of its own.
#[must_use]
pub fn pure_crates_reach_no_io(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, package) in members(graph).filter(|(_, package)| is_pure(&package.name)) {
        for (reached, by) in reach(graph, id) {
            let no_stack = reached == "smoltcp" && package.name != "transact-cloak";
            if SHELL_ONLY.contains(&reached) || no_stack {
                violations.push(format!("{} is pure and reaches {reached}, by {by}", package.name));
            }
        }
    }
    violations
}

/// A role depends on another role's `wire` crate and on nothing else of it; what is common depends on no role.
#[must_use]
pub fn roles_meet_in_wire_crates(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for (_, package) in members(graph) {
        let Some(from) = top_folder(package).filter(|from| ROLES.contains(from) || *from == "common") else { continue };
        for dependency in package.dependencies.iter().filter_map(|id| graph.get(id)) {
            let Some(to) = top_folder(dependency).filter(|to| ROLES.contains(to)) else { continue };
            if from == "common" || (from != to && !dependency.name.ends_with("-wire")) {
                let (from, to) = (&package.name, &dependency.name);
                violations.push(format!("{from} depends on {to}: roles meet in wire crates only"));
            }
        }
    }
    violations
}

/// What faces strangers contains no ledger, bank, cloak or transaction core, however far down.
#[must_use]
pub fn what_faces_strangers_holds_no_money(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, package) in members(graph).filter(|(_, package)| top_folder(package) == Some("public")) {
        for (reached, by) in reach(graph, id) {
            if matches!(reached, "transact" | "transact-core" | "transact-bank" | "transact-cloak" | "transact-ledger")
            {
                violations.push(format!("{} faces strangers and reaches {reached}, by {by}", package.name));
            }
        }
    }
    violations
}

/// One crate names cryptographic libraries.
#[must_use]
pub fn one_crate_names_cryptography(graph: &Graph) -> Vec<String> {
    let mut violations = Vec::new();
    for (_, package) in members(graph).filter(|(_, package)| package.name != "cloakway-crypto") {
        for dependency in package.dependencies.iter().filter_map(|id| graph.get(id)) {
            if CRYPTOGRAPHY.contains(&dependency.name.as_str()) {
                violations.push(format!("{} names {}: cloakway-crypto does that", package.name, dependency.name));
            }
        }
    }
    violations
}

/// Pure crates read no clock: `pure` are the folders of pure crates.
#[must_use]
pub fn pure_crates_read_no_clock(files: &[File], pure: &[String]) -> Vec<String> {
    let clocks = ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now", "Utc::now"];
    let is_pure = |path: &str| pure.iter().any(|folder| path.starts_with(&format!("{folder}/src/")));
    lines(files, |path| path.ends_with(".rs") && is_pure(path))
        .filter(|(_, _, line)| clocks.iter().any(|clock| line.contains(clock)))
        .map(|(path, number, _)| format!("{path}:{number}: a pure crate reads a clock: take the time as an argument"))
        .collect()
}

/// One crate allows `unsafe`, and every crate takes the lints of the workspace.
#[must_use]
pub fn unsafe_lives_in_one_place(files: &[File]) -> Vec<String> {
    let permits = |line: &str| {
        let line = line.replace(' ', "");
        line.contains("(unsafe_code") && (line.contains("allow(") || line.contains("expect("))
            || line.contains("unsafe_code=\"allow\"")
            || line.contains("unsafe_code=\"warn\"")
    };
    let mut violations: Vec<String> = lines(files, |path| {
        (path.ends_with(".rs") || path.ends_with("Cargo.toml"))
            && !path.starts_with("forwarder/dataplane/")
            && !ours(path)
    })
    .filter(|(_, _, line)| permits(line))
    .map(|(path, number, _)| format!("{path}:{number}: forwarder/dataplane alone may allow unsafe"))
    .collect();
    let elsewhere = |path: &str| path.starts_with("fuzz/") || path.starts_with("common/store/engines/");
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml") && !elsewhere(path)) {
        if !text.contains("[lints]\nworkspace = true") {
            violations.push(format!("{path}: does not take the lints of the workspace: [lints] workspace = true"));
        }
    }
    violations
}

/// Nothing is left half done: no marks for later, no macro that stands for missing code, no test that never runs.
#[must_use]
pub fn nothing_is_left_for_later(files: &[File]) -> Vec<String> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ign", "ore"),
    ];
    let is_mark = |line: &str, mark: &str| {
        line.match_indices(mark).any(|(at, _)| {
            let before = line.get(..at).and_then(|text| text.chars().next_back());
            let after = line.get(at + mark.len()..).and_then(|text| text.chars().next());
            let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            !part_of_word(before) && (mark.ends_with(['(', 'e']) || !part_of_word(after))
        })
    };
    let looked_at =
        |path: &str| [".rs", ".toml", ".md", ".nft", ".conf", ".html", ".js"].iter().any(|end| path.ends_with(end));
    lines(files, looked_at)
        .filter_map(|(path, number, line)| {
            let mark = marks.iter().find(|mark| is_mark(line, mark))?;
            Some(format!("{path}:{number}: `{mark}`: do it now or leave it out"))
        })
        .collect()
}

/// Every configuration directly in `configs/` is one of a binary.
#[must_use]
pub fn configurations_belong_to_binaries(files: &[File], binaries: &BTreeSet<String>) -> Vec<String> {
    let names = files.iter().filter_map(|(path, _)| path.strip_prefix("configs/")?.strip_suffix(".toml"));
    names
        .filter(|name| !name.contains('/') && !binaries.contains(*name))
        .map(|name| format!("configs/{name}.toml: there is no binary `{name}`"))
        .collect()
}

/// Nothing lies at the top of the tree that does not belong there.
#[must_use]
pub fn the_top_is_tidy(files: &[File]) -> Vec<String> {
    let top: BTreeSet<&str> = files.iter().filter_map(|(path, _)| path.split('/').next()).collect();
    top.into_iter()
        .filter(|entry| !TOP.contains(entry))
        .map(|entry| format!("{entry}: does not belong at the top of the tree"))
        .collect()
}

/// Decisions are called `docs/adr/NNNN-title.md`, and no number is taken twice.
#[must_use]
pub fn decisions_are_numbered(files: &[File]) -> Vec<String> {
    let mut numbers = BTreeSet::new();
    let mut violations = Vec::new();
    for name in files.iter().filter_map(|(path, _)| path.strip_prefix("docs/adr/")) {
        let number = name.get(..4).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let title = name.get(4..).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".md"));
        let plain = |title: &str| {
            !title.is_empty() && title.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match (number, title) {
            (Some(number), Some(title)) if plain(title) => {
                if !numbers.insert(number) {
                    violations.push(format!("docs/adr/{name}: the number {number} is taken"));
                }
            }
            _ => violations.push(format!("docs/adr/{name}: decisions are called NNNN-title.md")),
        }
    }
    violations
}

fn members(graph: &Graph) -> impl Iterator<Item = (&String, &Package)> {
    graph.iter().filter(|(_, package)| package.folder.is_some())
}

fn top_folder(package: &Package) -> Option<&str> {
    package.folder.as_deref()?.split('/').next()
}

/// The names of all packages below `id`, each with the name of one that depends on it.
fn reach<'a>(graph: &'a Graph, id: &str) -> BTreeMap<&'a str, &'a str> {
    let mut reached = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Package> = graph.get(id).into_iter().collect();
    while let Some(package) = open.pop() {
        for below in &package.dependencies {
            let Some((below, dependency)) = graph.get_key_value(below) else { continue };
            reached.entry(dependency.name.as_str()).or_insert(package.name.as_str());
            if seen.insert(below) {
                open.push(dependency);
            }
        }
    }
    reached
}

fn lines(files: &[File], wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, usize, &str)> {
    files
        .iter()
        .filter(move |(path, _)| wanted(path))
        .flat_map(|(path, text)| text.lines().enumerate().map(move |(index, line)| (path.as_str(), index + 1, line)))
}

/// This crate speaks of what it forbids.
fn ours(path: &str) -> bool {
    path.starts_with("common/tidy/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from lines `name folder: dependency dependency`; a package without a folder has `-`.
    fn graph(text: &str) -> Graph {
        text.lines()
            .map(|line| {
                let (head, dependencies) = line.split_once(':').unwrap();
                let (name, folder) = head.split_once(' ').unwrap();
                let package = Package {
                    name: name.to_owned(),
                    folder: Some(folder.to_owned()).filter(|folder| folder != "-"),
                    dependencies: dependencies.split_whitespace().map(str::to_owned).collect(),
                };
                (name.to_owned(), package)
            })
            .collect()
    }

    fn file(path: &str, text: &str) -> Vec<File> {
        vec![(path.to_owned(), text.to_owned())]
    }

    #[test]
    fn a_pure_crate_that_reaches_tokio_through_another_is_named() {
        let clean = "bgp-core bgp/core: ipnet\nbgp bgp: bgp-core tokio\nipnet -:\ntokio -: mio\nmio -:";
        assert!(pure_crates_reach_no_io(&graph(clean)).is_empty());
        let through = clean.replace("ipnet -:", "ipnet -: tokio");
        assert_eq!(
            pure_crates_reach_no_io(&graph(&through)),
            ["bgp-core is pure and reaches mio, by tokio", "bgp-core is pure and reaches tokio, by ipnet"]
        );
    }

    #[test]
    fn the_cloak_alone_has_a_stack() {
        let cloak = "transact-cloak transact/cloak: smoltcp\nsmoltcp -:";
        assert!(pure_crates_reach_no_io(&graph(cloak)).is_empty());
        assert_eq!(pure_crates_reach_no_io(&graph(&cloak.replace("cloak", "core"))).len(), 1);
    }

    #[test]
    fn a_role_that_names_the_core_of_another_is_named() {
        let clean = "bgp bgp: bgp-core forwarder-wire\nbgp-core bgp/core:\nforwarder-wire forwarder/wire:\n\
                     forwarder-core forwarder/core:\ncloakway-types common/types:";
        assert!(roles_meet_in_wire_crates(&graph(clean)).is_empty());
        let core = clean.replace("bgp-core forwarder-wire", "bgp-core forwarder-core");
        assert_eq!(
            roles_meet_in_wire_crates(&graph(&core)),
            ["bgp depends on forwarder-core: roles meet in wire crates only"]
        );
        let common = clean.replace("common/types:", "common/types: forwarder-wire");
        assert_eq!(roles_meet_in_wire_crates(&graph(&common)).len(), 1);
    }

    #[test]
    fn a_public_crate_that_reaches_the_bank_is_named() {
        let clean = "payer public/payer: transact-wire\ntransact-wire transact/wire:\ntransact-bank transact/bank:";
        assert!(what_faces_strangers_holds_no_money(&graph(clean)).is_empty());
        let bank = clean.replace("transact/wire:", "transact/wire: transact-bank");
        assert_eq!(
            what_faces_strangers_holds_no_money(&graph(&bank)),
            ["payer faces strangers and reaches transact-bank, by transact-wire"]
        );
    }

    #[test]
    fn a_second_crate_that_names_cryptography_is_named() {
        let clean =
            "cloakway-crypto common/crypto: aws-lc-rs\nrustls -: aws-lc-rs\ntoolbox toolbox: rustls\naws-lc-rs -:";
        assert!(one_crate_names_cryptography(&graph(clean)).is_empty());
        let second = clean.replace("toolbox: rustls", "toolbox: aws-lc-rs");
        assert_eq!(
            one_crate_names_cryptography(&graph(&second)),
            ["toolbox names aws-lc-rs: cloakway-crypto does that"]
        );
    }

    #[test]
    fn a_clock_in_a_pure_crate_is_named_and_elsewhere_is_none_of_ours() {
        let pure = ["bgp/core".to_owned()];
        let clock = "fn f() {\n    let now = Instant::now();\n}";
        assert_eq!(
            pure_crates_read_no_clock(&file("bgp/core/src/fsm.rs", clock), &pure),
            ["bgp/core/src/fsm.rs:2: a pure crate reads a clock: take the time as an argument"]
        );
        assert!(pure_crates_read_no_clock(&file("bgp/src/main.rs", clock), &pure).is_empty());
    }

    #[test]
    fn unsafe_outside_the_dataplane_and_a_crate_without_lints_are_named() {
        let allowed = "#![allow(unsafe_code, reason = \"mapped rings\")]";
        assert!(unsafe_lives_in_one_place(&file("forwarder/dataplane/src/ring.rs", allowed)).is_empty());
        assert_eq!(unsafe_lives_in_one_place(&file("bgp/src/main.rs", allowed)).len(), 1);
        assert_eq!(unsafe_lives_in_one_place(&file("bgp/src/main.rs", "#[expect( unsafe_code )]")).len(), 1);
        let manifest = "[package]\n[lints]\nworkspace = true\n";
        assert!(unsafe_lives_in_one_place(&file("bgp/Cargo.toml", manifest)).is_empty());
        assert_eq!(unsafe_lives_in_one_place(&file("bgp/Cargo.toml", "[package]\n")).len(), 1);
    }

    #[test]
    fn marks_for_later_are_named_and_words_that_contain_them_are_not() {
        for mark in [
            concat!("// TO", "DO: later"),
            concat!("FIX", "ME"),
            concat!("to", "do!()"),
            concat!("#[ign", "ore = \"slow\"]"),
            concat!("    #[ign", "ore]"),
        ] {
            assert_eq!(nothing_is_left_for_later(&file("a.rs", mark)).len(), 1, "{mark}");
        }
        assert!(nothing_is_left_for_later(&file("a.rs", concat!("let MAS", "TODON = \"XXXX\";"))).is_empty());
        assert!(nothing_is_left_for_later(&file("a.pcap", concat!("TO", "DO"))).is_empty());
    }

    #[test]
    fn a_configuration_without_a_binary_is_named() {
        let binaries = BTreeSet::from(["forwarder".to_owned()]);
        assert!(configurations_belong_to_binaries(&file("configs/forwarder.toml", ""), &binaries).is_empty());
        assert!(configurations_belong_to_binaries(&file("configs/lab/x/topology.toml", ""), &binaries).is_empty());
        assert_eq!(configurations_belong_to_binaries(&file("configs/router.toml", ""), &binaries).len(), 1);
    }

    #[test]
    fn a_stranger_at_the_top_and_a_badly_named_decision_are_named() {
        assert!(the_top_is_tidy(&file("bgp/src/lib.rs", "")).is_empty());
        assert_eq!(the_top_is_tidy(&file("notes.txt", "")), ["notes.txt: does not belong at the top of the tree"]);
        assert!(decisions_are_numbered(&file("docs/adr/0001-one-tree.md", "")).is_empty());
        for name in ["1-one.md", "0001-One.md", "0001.md", "0001-.md", "readme"] {
            assert_eq!(decisions_are_numbered(&file(&format!("docs/adr/{name}"), "")).len(), 1, "{name}");
        }
        let twice = [file("docs/adr/0001-a.md", ""), file("docs/adr/0001-b.md", "")].concat();
        assert_eq!(decisions_are_numbered(&twice).len(), 1);
    }
}
