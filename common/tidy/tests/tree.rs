//! Holds this tree to the rules.

#![expect(clippy::panic, clippy::indexing_slicing, reason = "the helpers of a test may fail it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cloakway_tidy::{self as tidy, File, Graph, Package};
use serde_json::Value;

static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
});

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let read = |path: &str| Some((path.to_owned(), std::fs::read(root().join(path)).ok()?));
    let text = |(path, bytes): (String, Vec<u8>)| (path, String::from_utf8_lossy(&bytes).into_owned());
    paths.split('\0').filter(|path| !path.is_empty()).filter_map(read).map(text).collect()
});

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root of the tree")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn graph() -> Graph {
    let members: BTreeSet<&str> = list(&METADATA, "workspace_members").iter().filter_map(Value::as_str).collect();
    let mut dependencies: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for node in list(&METADATA["resolve"], "nodes") {
        let built_from = list(node, "deps")
            .iter()
            .filter(|edge| list(edge, "dep_kinds").iter().any(|kind| kind["kind"].as_str() != Some("dev")));
        dependencies.insert(text(node, "id"), built_from.map(|edge| text(edge, "pkg").to_owned()).collect());
    }
    let package = |package: &Value| {
        let id = text(package, "id");
        let folder = Path::new(text(package, "manifest_path")).parent().and_then(|path| path.strip_prefix(root()).ok());
        let folder = folder.filter(|_| members.contains(id)).map(|path| path.display().to_string());
        let dependencies = dependencies.get(id).cloned().unwrap_or_default();
        (id.to_owned(), Package { name: text(package, "name").to_owned(), folder, dependencies })
    };
    list(&METADATA, "packages").iter().map(package).collect()
}

fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn the_graph_and_the_files_are_really_read() {
    let graph = graph();
    let speaker = graph.values().find(|package| package.name == "bgp").expect("bgp is a member");
    assert_eq!(speaker.folder.as_deref(), Some("bgp"));
    assert!(graph.values().any(|package| package.name == "tokio" && package.folder.is_none()));
    assert!(FILES.iter().any(|(path, text)| path == "Cargo.toml" && text.contains("[workspace]")));
}

#[test]
fn pure_crates_reach_no_io() {
    none(tidy::pure_crates_reach_no_io(&graph()));
}

#[test]
fn roles_meet_in_wire_crates() {
    none(tidy::roles_meet_in_wire_crates(&graph()));
}

#[test]
fn what_faces_strangers_holds_no_money() {
    none(tidy::what_faces_strangers_holds_no_money(&graph()));
}

#[test]
fn one_crate_names_cryptography() {
    none(tidy::one_crate_names_cryptography(&graph()));
}

#[test]
fn pure_crates_read_no_clock() {
    let graph = graph();
    let pure = graph.values().filter(|package| tidy::is_pure(&package.name));
    let folders: Vec<String> = pure.filter_map(|package| package.folder.clone()).collect();
    assert!(folders.len() > 8, "{folders:?}");
    none(tidy::pure_crates_read_no_clock(&FILES, &folders));
}

#[test]
fn unsafe_lives_in_one_place() {
    none(tidy::unsafe_lives_in_one_place(&FILES));
}

#[test]
fn nothing_is_left_for_later() {
    none(tidy::nothing_is_left_for_later(&FILES));
}

#[test]
fn configurations_belong_to_binaries() {
    let targets = list(&METADATA, "packages").iter().filter(|package| package["source"].is_null());
    let binaries = targets
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "bin"));
    none(tidy::configurations_belong_to_binaries(&FILES, &binaries.map(|bin| text(bin, "name").to_owned()).collect()));
}

#[test]
fn the_top_is_tidy() {
    none(tidy::the_top_is_tidy(&FILES));
}

#[test]
fn decisions_are_numbered() {
    none(tidy::decisions_are_numbered(&FILES));
}
