use super::*;

fn read(text: &str) -> Result<Settings, String> {
    let raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
    raw.validate().map_err(|error| error.to_string())
}

fn refused(text: &str, field: &str, right: &str) {
    let error = read(text).map(|settings| settings.sources).unwrap_err();
    assert!(error.contains(field) && error.contains(right), "{error}");
}

/// The tables of the example, which is there as comments.
fn example() -> String {
    let file = include_str!("../../../../configs/toolbox.toml");
    let (_, sources) = file.split_once("# Sources beside RADIUS").unwrap();
    let tables = sources.lines().filter_map(|line| line.strip_prefix("# "));
    let is_table = |line: &&str| line.starts_with("[[sources.") || line.contains(" = ");
    tables.filter(is_table).map(|line| line.replace("[[sources.", "[[") + "\n").collect()
}

#[test]
fn the_example_has_every_source_and_is_right() {
    let identities = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(identities.path(), "[identities]\n\"00:0c:01:02:03:04\" = \"alice\"\n").unwrap();
    let text = example().replace("/etc/cloakway/identities.toml", identities.path().to_str().unwrap());
    let settings = read(&text).unwrap();
    let words: Vec<&str> = settings.sources.iter().map(|source| source.kind.word()).collect();
    assert_eq!(words, ["kea", "isc", "fixed", "conntrack", "ipfix", "neighbours", "dhcp-tap"]);
    assert_eq!(settings.rules.len(), 2);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    for line in text.lines().filter(|line| line.starts_with("[[")) {
        let stray = text.replacen(line, &format!("{line}\nstray = 1"), 1);
        assert!(read(&stray).unwrap_err().contains("stray"), "{line}");
    }
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let kea = |more: &str| format!("[[kea]]\nname = \"a\"\nlease-file = \"/f\"\n{more}\n");
    refused(&kea("subscriber = [\"mac\"]"), "sources.kea[0].subscriber[0]", "hw-address");
    refused(&kea("subscriber = []"), "sources.kea[0].subscriber", "remote-id");
    let good = kea("subscriber = [\"hw-address\"]");
    refused(&good.replace("\"/f\"", "\"f\""), "sources.kea[0].lease-file", "begin it with /");
    refused(&(good.clone() + &good), "sources.kea[1].name", "a name of its own");
    refused(
        &kea("subscriber = [\"duid\"]\nidentities = \"/no/such/file\""),
        "sources.kea[0].identities",
        "/no/such/file",
    );
    let audited = |more: &str| kea(&format!("subscriber = [\"hw-address\"]\n{more}"));
    refused(&audited("audit-every-s = 60"), "sources.kea[0].audit-every-s", "control-socket");
    refused(&audited("control-socket = \"/s\"\naudit-every-s = 1"), "sources.kea[0].audit-every-s", "10 to 86400");
    let isc = audited("control-socket = \"/s\"").replace("kea", "isc");
    refused(&isc, "sources.isc[0].control-socket", "leave it out");
    refused("[[conntrack]]\nname = \"n\"\nreceive-buffer = 1", "sources.conntrack[0].receive-buffer", "4096");
    refused("[[conntrack]]\nname = \"n\"\n[[conntrack]]\nname = \"m\"", "sources.conntrack[1]", "one table");
    let ipfix = |more: &str| format!("[[ipfix]]\nname = \"c\"\nexporters = [\"192.0.2.0/24\"]\n{more}\n");
    refused(&ipfix("dialect = \"junos\""), "sources.ipfix[0].listen-tcp", "listen-udp");
    let listening = ipfix("listen-tcp = [\"192.0.2.1:4739\"]\ndialect = \"cisco\"");
    refused(&listening, "sources.ipfix[0].dialect", "rfc8158 and junos");
    let bits = listening.replace("192.0.2.0/24", "192.0.2.1/24").replace("cisco", "junos");
    refused(&bits, "sources.ipfix[0].exporters[0]", "192.0.2.0/24");
    let held = listening.replace("\"cisco\"", "\"junos\"\nholds-s = 5");
    refused(&held, "sources.ipfix[0].holds-s", "60 to 604800");
    let rule = |ports: u32| {
        format!("[[deterministic]]\ninternal = [\"100.64.0.0/24\"]\nexternal = [\"192.0.2.1\"]\nports-each = {ports}\n")
    };
    refused(&rule(1024), "sources.deterministic[0]", "more external addresses or fewer ports");
    refused(&rule(8).replace("100.64.0.0/24", "100.64.0.1/24"), "sources.deterministic[0].internal", "100.64.0.0/22");
    let map = "[[map-e]]\nipv6-prefix = \"2001:db8::/60\"\nipv4-prefix = \"192.0.2.0/24\"\nea-bits = 16\n";
    refused(map, "sources.map-e[0]", "64 together");
    let tap = "[[dhcp-tap]]\nname = \"t\"\ninterface = \"e\"\nservers = []\nsubscriber = [\"remote-id\"]\n";
    refused(tap, "sources.dhcp-tap[0].servers", "addresses that the DHCP servers send from");
}

#[test]
fn an_identity_that_clients_choose_is_warned_of() {
    let warned = |word: &str| {
        let text = format!("[[isc]]\nname = \"a\"\nlease-file = \"/f\"\nsubscriber = [\"{word}\"]\n");
        !read(&text).unwrap().warnings.is_empty()
    };
    assert!(warned("hostname") && warned("client-id") && warned("duid"));
    assert!(!warned("remote-id"));
}
