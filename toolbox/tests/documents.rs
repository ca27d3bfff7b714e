//! What is written down for people holds: the example configuration and the OpenAPI document.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;

use cloakway_apidoc::Document;
use cloakway_runtime::config;
use toolbox::api::ROUTES;
use toolbox::config::Config;

const EXAMPLE: &str = include_str!("../../configs/toolbox.toml");
const OPENAPI: &str = include_str!("../../docs/openapi/toolbox.yaml");

/// The example with a secret that exists.
fn plain(folder: &Path) -> String {
    let secret = folder.join("radius.secret");
    std::fs::write(&secret, "a secret of the edge router\n").unwrap();
    EXAMPLE.replace("/etc/cloakway/radius.secret", &secret.display().to_string())
}

/// The same with the settings in force that are commented out: `#` before a setting, `# ` before prose.
fn example(folder: &Path) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    plain(folder).lines().map(line).collect()
}

fn error(text: &str) -> String {
    config::parse::<Config>("toolbox.toml", text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_example_is_valid_and_its_commented_defaults_are_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    config::parse::<Config>("toolbox.toml", &plain(folder.path())).unwrap();
    let text = example(folder.path());
    let whole: Config = config::parse("toolbox.toml", &text).unwrap();
    let defaults = [
        "[bindings]",
        "max-age-s = 1800",
        "max-delay-s = 20",
        "[history]",
        "retention-days = 90",
        "schema = \"toolbox\"",
        "receive-buffer-kib = 8192",
        "coa-wait-ms = 1500",
        "subscriber = \"user-name\"",
        "allow-tls12 = false",
        "connections = 256",
        "connections-per-client = 16",
        "idle-s = 300",
        "wait-ms = 2000",
        "tries = 3",
        "may = [\"verify\"]",
        "rate-per-s = 1000",
        "accounting-ports = [1813]",
        "authentication-ports = [1812]",
        "[changes]",
        "heartbeat-s = 15",
        "patience-s = 60",
        "streams-per-caller = 4",
    ];
    let without = defaults.iter().fold(text.clone(), |text, line| {
        assert_eq!(text.matches(&format!("\n{line}\n")).count(), 1, "{line}");
        text.replace(&format!("\n{line}\n"), "\n")
    });
    let defaults: Config = config::parse("toolbox.toml", &without).unwrap();
    assert_eq!(format!("{whole:?}"), format!("{defaults:?}"));
    assert_eq!(whole.radius.clients[0].name, "edge");
}

#[test]
fn a_stray_key_is_refused_in_every_table() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let tables = [
        "[subscribers]",
        "[bindings]",
        "[history]",
        "[history.postgresql]",
        "[radius]",
        "[[radius.clients]]",
        "[radius.radsec]",
        "[[radius.radsec.clients]]",
        "[radius.proxy]",
        "[[radius.proxy.homes]]",
        "[[radius.taps]]",
        "[https]",
        "[[callers]]",
        "[changes]",
    ];
    for table in tables {
        assert_eq!(text.matches(&format!("\n{table}\n")).count(), 1, "{table}");
        let stray = text.replace(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"));
        let message = error(&stray);
        assert!(message.contains("stray: unknown field"), "{table}: {message}");
    }
    assert!(error(&format!("stray = 1\n{text}")).starts_with("toolbox.toml:1: stray: unknown field"));
    let headers = text.lines().filter(|line| line.starts_with('[')).count();
    assert_eq!(headers, tables.len(), "a table is missing from this test");
}

#[test]
fn an_error_names_line_field_and_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let line = |of: &str| text.lines().position(|line| line.starts_with(of)).unwrap() + 1;
    let cases = [
        ("max-age-s = 1800", "max-age-s = 59", "bindings.max-age-s", "60 to 86400"),
        ("max-delay-s = 20", "max-delay-s = 301", "bindings.max-delay-s", "1 to 300"),
        ("retention-days = 90", "retention-days = 3651", "history.retention-days", "0 to 3650"),
        (
            "connection = \"host",
            "connection = \"user=toolbox\" #",
            "history.postgresql.connection",
            "host=/run/postgresql",
        ),
        ("schema = \"toolbox\"", "schema = \"My\"", "history.postgresql.schema", "small letters"),
        ("prefix = \"198.51.100.1/32\"", "prefix = \"198.51.100.1/24\"", "radius.clients[0].prefix", "198.51.100.0/24"),
        ("name = \"edge\"", "name = \"the edge\"", "radius.clients[0].name", "letters, digits"),
        ("key-sha256", "key-sha256 = \"12\" #", "callers[0].key-sha256", "sha256sum"),
        ("may = ", "may = [] #", "callers[0].may", "verify"),
        ("rate-per-s = 1000", "rate-per-s = 0", "callers[0].rate-per-s", "1 to 1000000"),
        ("burst = 2000", "burst = 0", "callers[0].burst", "1 to 1000000"),
        ("receive-buffer-kib = 8192", "receive-buffer-kib = 63", "radius.receive-buffer-kib", "64 to 1048576"),
        ("workers = 4", "workers = 0", "radius.workers", "1 to 64"),
        ("coa-wait-ms = 1500", "coa-wait-ms = 99", "radius.clients[0].coa-wait-ms", "100 to 10000"),
        ("idle-s = 300", "idle-s = 9", "radius.radsec.idle-s", "10 to 86400"),
        ("connections = 256", "connections = 0", "radius.radsec.connections", "1 to 65536"),
        ("certificate-names", "certificate-names = [\"a b\"] #", "radius.radsec.clients[0].certificate-names", "could"),
        ("certificate-sha256", "certificate-sha256 = [\"12\"] #", "clients[0].certificate-sha256", "openssl x509"),
        ("name = \"edge-tls\"", "name = \"edge\"", "radius.radsec.clients[0].name", "there already"),
        ("wait-ms = 2000", "wait-ms = 99", "radius.proxy.wait-ms", "100 to 30000"),
        ("interface = \"mirror0\"", "interface = \"mirror-is-too-long\"", "radius.taps[0].interface", "1 to 15"),
        ("servers = ", "servers = [] #", "radius.taps[0].servers", "empty"),
        ("tries = 3", "tries = 11", "radius.proxy.tries", "1 to 10"),
        ("heartbeat-s = 15", "heartbeat-s = 31", "changes.heartbeat-s", "1 to 30"),
        ("patience-s = 60", "patience-s = 0", "changes.patience-s", "1 to 3600"),
        ("streams-per-caller = 4", "streams-per-caller = 65", "changes.streams-per-caller", "1 to 64"),
        ("prefixes", "prefixes = [] #", "subscribers.prefixes", "empty"),
    ];
    for (right, wrong, field, hint) in cases {
        let message = error(&text.replacen(&format!("\n{right}"), &format!("\n{wrong}"), 1));
        let found = line(right);
        let place = message.split(": ").next().unwrap().to_owned();
        assert!(message.contains(field) && message.contains(hint), "{message}");
        let named: usize = place.rsplit(':').next().unwrap().parse().unwrap();
        assert!(named.abs_diff(found) <= 1, "line {found} expected: {message}");
    }
    assert!(error(&text.replace("\"verify\"", "\"guess\"")).contains("guess"));
    let schema = "schema = \"toolbox\"";
    let password = error(&text.replace(schema, &format!("{schema}\npassword-file = \"/nowhere\"")));
    assert!(password.contains("history.postgresql.password-file: /nowhere"), "{password}");
    let names = error(&text.replace("may = [\"verify\"]", "may = [\"names\"]"));
    assert!(names.contains("callers[0].may") && names.contains("give both"), "{names}");
    assert!(error(&text.replace("subscriber = \"user-name\"", "subscriber = \"class\"")).contains("class"));
    let unasked = error(&text.replace("\ncoa-port = ", "\n#"));
    assert!(unasked.contains("radius.clients[0].coa-port: give the port"), "{unasked}");
    let nowhere = error(&text.replace("\nauthentication = ", "\n#"));
    assert!(nowhere.contains("radius.proxy.listen-authentication: no home server"), "{nowhere}");
    let missing = error(&text.replace("radius.secret", "none"));
    assert!(missing.contains("radius.clients[0].secret-file") && missing.contains("none"), "{missing}");
}

#[test]
fn two_of_a_kind_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = example(folder.path());
    let client = "[[radius.clients]]\nname = \"NAME\"\nprefix = \"PREFIX\"\nsecret-file = \"SECRET\"\n";
    let client = client.replace("SECRET", &folder.path().join("radius.secret").display().to_string());
    let twice = |name: &str, prefix: &str| {
        error(&format!("{text}\n{}", client.replace("NAME", name).replace("PREFIX", prefix)))
    };
    assert!(twice("edge", "192.0.2.1/32").contains("radius.clients[1].name"));
    assert!(twice("edge2", "198.51.100.1/32").contains("radius.clients[1].prefix"));
    let key = text.lines().rfind(|line| line.starts_with("key-sha256")).unwrap();
    let caller = error(&format!("{text}\n[[callers]]\nname = \"other\"\n{key}\n"));
    assert!(caller.contains("callers[1].key-sha256"), "{caller}");
}

#[test]
fn the_openapi_document_has_the_paths_of_the_router_and_no_others() {
    let document = Document::read(OPENAPI);
    let operations = document.operations("paths").into_iter();
    let mut documented: Vec<_> = operations.map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
    let mut routes: Vec<_> = ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    documented.sort();
    routes.sort();
    assert_eq!(documented, routes);
}
