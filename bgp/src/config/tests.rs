use std::num::NonZeroU8;
use std::time::Duration;

use bgp_core::{Export, Guard, Keep, RoleSetting};
use bgp_wire::Role;
use cloakway_runtime::Role as _;

use super::*;
use crate::role::BgpSpeaker;

const EXAMPLE: &str = include_str!("../../../configs/bgp-speaker.toml");

fn error(text: &str) -> String {
    config::parse::<Config>("bgp-speaker.toml", text).unwrap_err().to_string()
}

#[test]
fn the_example_is_valid_and_its_values_arrive() {
    let config: Config = config::parse("bgp-speaker.toml", EXAMPLE).unwrap();
    assert_eq!(config.peers[0].address, "198.51.100.1:179".parse().unwrap());
    assert!(config.peers[0].is_internal());
    assert_eq!(config.peers[0].settings.hold_time.as_secs(), 9);
    assert_eq!(config.routes.iter().map(PrivateRoute::keep).collect::<Vec<_>>(), [Keep::Guard(Guard::NoExport); 2]);
    assert_eq!(config.admin_socket, config::default_socket("bgp-speaker"));
    assert!(config.listen.is_empty());
}

#[test]
fn what_is_commented_out_in_the_example_is_valid_too() {
    let text = EXAMPLE.replace("# shutdown-communication", "shutdown-communication");
    let text = text.replacen("# listen = ", "listen = ", 1).replace("# metrics-listen = ", "metrics-listen = ");
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    assert_eq!((config.listen.len(), config.metrics_listen.is_some()), (2, true));
}

#[test]
fn the_leak_watch_and_the_caches_in_the_example_are_valid() {
    let text = format!("{EXAMPLE}{}{}{}", commented("[bmp]"), commented("[rpki]"), commented("[mrt]"));
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    let bmp = config.bmp.unwrap();
    assert_eq!((bmp.routers.len(), bmp.watch.on_leak), (1, bgp_bmp::Action::Withdraw));
    assert_eq!(bmp.watch.internal, [Asn(64500)].into());
    assert_eq!(config.rpki.unwrap().caches[0].port, 3323);
    assert_eq!(config.mrt.unwrap().rotate, Duration::from_secs(900));
}

#[test]
fn the_inject_table_in_the_example_is_valid_and_strict() {
    let text = [
        "[inject]",
        "journal = ",
        "allow = [",
        "[[inject.processes]]",
        "name = \"anycast",
        "run = [",
        "[[inject.checks]]",
        "set = \"anycast",
        "tcp = \"198",
    ]
    .iter()
    .fold(EXAMPLE.to_owned(), |text, start| text.replace(&format!("# {start}"), start));
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    let inject = config.inject.unwrap();
    assert_eq!((inject.max_routes, inject.processes.len(), inject.checks.len()), (2_000_000, 1, 1));
    let private = "203.0.113.200/32".parse().unwrap();
    assert!(inject.policy.check(private, Some(Guard::NoExport)).is_err(), "the allow-list holds for all");
    for (from, to, expected) in [
        ("allow = [", "stray = 1\nallow = [", "unknown field `stray`"),
        ("allow = [\"198.51.100.0/24\"", "allow = [\"198.51.100.1/24\"", "inject.allow[0]: the prefix has host bits"),
        ("allow = [\"198.51.100.0/24\", \"2001:db8:5100::/48\"]", "allow = []", "inject.allow: nothing could be"),
        ("name = \"anycast\"", "name = \"\"", "inject.processes[0].name"),
        ("tcp = \"198.51.100.10:53\"", "http = \"https://x\"", "inject.checks[0].http: \"https://x\" is not"),
        ("tcp = \"198.51.100.10:53\"", "rise = 0", "inject.checks[0].rise: 0 is not allowed"),
    ] {
        let message = error(&text.replacen(from, to, 1));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_kernel_table_in_the_example_is_valid_and_strict() {
    let text = EXAMPLE.replace("# [kernel]", "[kernel]").replace("# table = 100", "table = 100");
    let imports = "hold-time-s = 9\nimport = \"all\"\n";
    let with = text.replace("hold-time-s = 9\n", imports);
    let kernel = config::parse::<Config>("bgp-speaker.toml", &with).unwrap().kernel.unwrap();
    assert_eq!((kernel.table, kernel.protocol, kernel.metric), (100, 203, 20));
    assert!(!kernel.keep && !kernel.private, "nothing stays and nothing private is installed unless asked");
    for (from, to, expected) in [
        ("table = 100", "table = 255", "kernel.table: 255 is no table for routes"),
        ("table = 100", "table = 100\nprotocol = 4", "kernel.protocol: 4 is the mark of others"),
        ("table = 100", "table = 100\nprotocol = 143", "kernel.protocol: 143 is the mark of others"),
        ("table = 100", "table = 100\nmetric = 0", "kernel.metric: 0 is the metric of connected networks"),
        ("table = 100", "table = 100\npaths = 0", "kernel.paths: 0 is not allowed: 1 to 64"),
        ("table = 100", "table = 100\nat-stop = \"leave\"", "unknown variant `leave`"),
        ("table = 100", "table = 100\nstray = 1", "unknown field `stray`"),
        (imports, "hold-time-s = 9\n", "kernel.table: no peer's routes are imported"),
    ] {
        let message = error(&with.replacen(from, to, 1));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_external_peer_is_told_nothing_unless_the_file_says_so() {
    let external = EXAMPLE.replace("remote-as = 64500", "remote-as = 64501");
    let export = |text: &str| {
        let config: Config = config::parse("bgp-speaker.toml", text).unwrap();
        config.peers[0].settings.export
    };
    assert_eq!(export(EXAMPLE), Export::All);
    assert_eq!(export(&external), Export::Nothing);
    let private = "hold-time-s = 9\nexport = \"private\"\n";
    assert_eq!(export(&external.replace("hold-time-s = 9\n", private)), Export::Private);
    assert_eq!(export(&EXAMPLE.replace("hold-time-s = 9\n", "export = \"nothing\"\n")), Export::Nothing);
}

#[test]
fn a_password_is_read_from_its_file_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let text = EXAMPLE.replace(
        "hold-time-s = 9\n",
        &format!("md5-password-file = {:?}\nttl-security-hops = 1\n", file.display().to_string()),
    );
    assert!(error(&text).contains("peers[0].md5-password-file: "), "{}", error(&text));
    std::fs::write(&file, "x".repeat(81)).unwrap();
    assert!(error(&text).contains("81 octets: TCP-MD5 takes up to 80"), "{}", error(&text));
    std::fs::write(&file, "x".repeat(80) + "\n").unwrap();
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    assert!(!format!("{config:?}").contains("xxx"));
    assert_eq!(config.peers[0].protection.ttl_security_hops, NonZeroU8::new(1));
    assert!(error(&text.replace("hops = 1", "hops = 0")).contains("ttl-security-hops"));
}

#[test]
fn a_watched_path_has_three_packets_to_miss_unless_told_otherwise() {
    let with = |bfd: &str| EXAMPLE.replace("hold-time-s = 9\n", &format!("bfd = {bfd}\n"));
    let bfd = |text: &str| config::parse::<Config>("f.toml", &with(text)).unwrap().peers[0].bfd.unwrap();
    assert_eq!(bfd("{ interval-ms = 50 }").multiplier.get(), 3);
    assert_eq!(bfd("{ interval-ms = 10, multiplier = 5 }").interval, Duration::from_millis(10));
    for wrong in [9, 60_001] {
        let message = error(&with(&format!("{{ interval-ms = {wrong} }}")));
        assert!(message.contains("peers[0].bfd.interval-ms: "), "{message}");
    }
    assert!(error(&with("{ interval-ms = 50, multiplier = 0 }")).contains("multiplier"));
    assert!(error(&with("{ interval-ms = 50, stray = 1 }")).contains("unknown field `stray`"));
}

#[test]
fn options_of_a_session_arrive() {
    let options = "delay-open-s = 5\nadd-path = true\nrole = \"provider\"\nstrict-role = true\n";
    let text = EXAMPLE.replace("remote-as = 64500", "remote-as = 64501").replace("hold-time-s = 9\n", options);
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    let options = &config.peers[0].settings.options;
    assert_eq!((options.delay_open, options.add_path), (Some(Duration::from_secs(5)), true));
    assert_eq!(options.role, Some(RoleSetting { role: Role::Provider, strict: true }));
}

#[test]
fn a_private_route_says_which_packets_it_is_for() {
    let flow = "flow = [{ protocol = \"tcp\", ports = [443, \"8000-8010\"] }, { protocol = \"icmp\", then = \"rate-packets 10\" }]";
    let text = EXAMPLE.replacen("guard = \"no-export\"\n", &format!("{flow}\n"), 1);
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    let rules: Vec<String> =
        config.routes[0].flow_routes().map(|(rule, route)| format!("{rule}: {}", route.actions)).collect();
    assert_eq!(
        rules,
        [
            "destination 203.0.113.200/32 protocol =1: rate-packets 10",
            "destination 203.0.113.200/32 protocol =6 destination-port =443 >=8000&<=8010: accept",
            "destination 203.0.113.200/32: discard",
        ]
    );
    assert!(!config.routes[1].is_restricted());
    assert!(
        error(&text.replace("protocol = \"tcp\"", "stray = 1, protocol = \"tcp\"")).contains("unknown field `stray`")
    );
    let summary = BgpSpeaker::summary(&config).join("\n");
    assert!(
        summary.contains("warning: edge is not told of 203.0.113.200/32: its flow rules take flowspec = true"),
        "{summary}"
    );
    let text = text.replace("hold-time-s = 9\n", "flowspec = true\n");
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    assert!(config.peers[0].settings.options.flow);
    assert!(!BgpSpeaker::summary(&config).join("\n").contains("flowspec"));
}

#[test]
fn the_guard_is_no_export_unless_asked_otherwise() {
    let text =
        EXAMPLE.replacen("guard = \"no-export\"\n", "", 1).replacen("\"no-export\"\n\n#", "\"no-advertise\"\n\n#", 1);
    let config: Config = config::parse("bgp-speaker.toml", &text).unwrap();
    assert_eq!(config.routes[0].keep(), Guard::NoExport.into());
    assert_eq!(config.routes[1].keep(), Guard::NoAdvertise.into());
    assert!(error(&EXAMPLE.replacen("\"no-export\"\n\n[", "\"no\"\n\n[", 1)).contains("no-advertise"));
}

#[test]
fn the_guard_is_lifted_by_two_words_and_not_by_one() {
    let route = EXAMPLE.replacen("guard = \"no-export\"", "guard = \"none\"", 1);
    let speaker = "[speaker]\nallow-unguarded-private-routes = true";
    let message = error(&route);
    assert!(message.contains("private-routes[0].guard: \"none\" lets the route out"), "{message}");
    assert!(message.contains("speaker.allow-unguarded-private-routes"), "{message}");
    let inject = "\n[inject]\njournal = \"/j\"\nallow = [\"203.0.113.0/24\", \"2001:db8:c10a::/48\"]\n";
    let parse = |text: &str| config::parse::<Config>("f.toml", &format!("{text}{inject}")).unwrap();
    let check = |config: &Config, prefix: &str| {
        config.inject.as_ref().unwrap().policy.check(prefix.parse().unwrap(), None).is_ok()
    };
    let warned = |config: &Config, word: &str| BgpSpeaker::summary(config).iter().any(|line| line.contains(word));
    let one = parse(&EXAMPLE.replacen("[speaker]", speaker, 1));
    assert_eq!(one.routes[0].keep(), Guard::NoExport.into());
    assert!(!check(&one, "203.0.113.200/32") && warned(&one, "no private route makes use of it"));
    let both = parse(&route.replacen("[speaker]", speaker, 1));
    assert!(matches!(both.routes[0].keep(), Keep::Nothing(_)));
    assert_eq!(both.routes[1].keep(), Guard::NoExport.into());
    assert!(warned(&both, "warning: 203.0.113.200/32 goes out without a guard"));
    assert!(check(&both, "203.0.113.200/32"), "what is injected there takes none either");
    assert!(!check(&both, "2001:db8:c10a::200/128"), "the other is guarded as before");
    let none = parse(EXAMPLE);
    assert!(!check(&none, "203.0.113.200/32") && !warned(&none, "guard ") && !warned(&none, "makes use"));
}

#[test]
fn a_stray_key_in_any_table_is_refused_with_its_line() {
    for table in ["[speaker]", "[[peers]]", "[[private-routes]]", "[health]"] {
        let stray = EXAMPLE.replacen(&format!("\n{table}\n"), &format!("\n{table}\nstray = 1\n"), 1);
        let line = stray.lines().position(|line| line == "stray = 1").unwrap() + 1;
        let message = error(&stray);
        assert!(message.starts_with(&format!("bgp-speaker.toml:{line}: ")), "{message}");
        assert!(message.contains("unknown field `stray`"), "{message}");
    }
    assert!(error(&format!("stray = 1\n{EXAMPLE}")).contains("bgp-speaker.toml:1: stray: unknown field"));
}

#[test]
fn a_value_that_cannot_be_names_line_field_and_what_would_be_right() {
    let cases = [
        ("local-as = 64500", "local-as = 0", "speaker.local-as: AS 0 is reserved"),
        ("router-id = \"198.51.100.2\"", "router-id = \"0.0.0.0\"", "speaker.router-id: router id 0.0.0.0"),
        ("hold-time-s = 9", "hold-time-s = 2", "peers[0].hold-time-s: 2 s is not allowed: 3 to 65535"),
        ("hold-time-s = 9", "hold-time-s = 0", "peers[0].hold-time-s: 0 s is not allowed: 3 to 65535"),
        ("hold-time-s = 9", "passive = true", "peers[0].passive: true takes an address to listen on"),
        ("hold-time-s = 9", "role = \"peer\"", "peers[0].role: roles are for external peers"),
        ("hold-time-s = 9", "strict-role = true", "peers[0].strict-role: true takes a role"),
        ("hold-time-s = 9", "port = 0", "peers[0].port: 0 is no port"),
        ("remote-as = 64500", "remote-as = 23456", "peers[0].remote-as: AS 23456 is reserved"),
        ("address = \"198.51.100.1\"", "address = \"0.0.0.0\"", "peers[0].address: 0.0.0.0 is no router"),
        ("local-address = \"198.51.100.2\"", "local-address = \"::1\"", "peers[0].local-address: ::1 is not of"),
        ("prefix = \"203.0.113.200/32\"", "prefix = \"203.0.113.200/24\"", "private-routes[0].prefix: prefix 203"),
        ("prefix = \"203.0.113.200/32\"", "prefix = \"0.0.0.0/0\"", "private-routes[0].prefix: prefix 0.0.0.0/0"),
        ("next-hop = \"2001:db8:5100:1::2\"", "next-hop = \"192.0.2.1\"", "private-routes[1].next-hop: next hop"),
        ("guard = \"no-export\"", "communities = [\"x\"]", "private-routes[0].communities: community \"x\""),
        ("guard = \"no-export\"", "flow = []", "private-routes[0].flow: nothing could be sent"),
        ("guard = \"no-export\"", "unicast = false", "private-routes[0].unicast: without a route and without rules"),
        (
            "guard = \"no-export\"",
            "flow = [{ protocol = \"smtp\" }]",
            "private-routes[0].flow[0].protocol: \"smtp\" is not known",
        ),
        (
            "guard = \"no-export\"",
            "flow = [{ protocol = 1, ports = [1] }]",
            "private-routes[0].flow: flow[0]: protocol 1 has no ports",
        ),
        (
            "guard = \"no-export\"",
            "flow = [{ protocol = 6, ports = [\"80\"] }]",
            "private-routes[0].flow[0].ports: \"80\" is no range",
        ),
        (
            "guard = \"no-export\"",
            "flow = [{ protocol = 6, then = \"drop\" }]",
            "private-routes[0].flow[0].then: action \"drop\" is not understood",
        ),
    ];
    for (from, to, expected) in cases {
        let text = EXAMPLE.replacen(&format!("\n{from}\n"), &format!("\n{to}\n"), 1);
        assert_ne!(text, EXAMPLE, "{from}");
        let message = error(&text);
        let line = text.lines().position(|line| line == to).unwrap() + 1;
        assert!(message.starts_with(&format!("bgp-speaker.toml:{line}: {expected}")), "{message}");
    }
    let twice = EXAMPLE.replace("2001:db8:c10a::200/128", "203.0.113.200/32");
    let twice = twice.replace("next-hop = \"2001:db8:5100:1::2\"", "next-hop = \"198.51.100.2\"");
    assert!(error(&twice).contains("private-routes[1].prefix: 203.0.113.200/32 is given twice"));
    let alone = |then: &str| {
        let flow = format!("flow = [{{ protocol = 6, ports = [443]{then} }}]\nunicast = false");
        EXAMPLE.replacen("guard = \"no-export\"", &flow, 1)
    };
    assert!(
        error(&alone("")).contains("private-routes[0].unicast: \"destination 203.0.113.200/32 protocol =6"),
        "{}",
        error(&alone(""))
    );
    let config: Config = config::parse("f.toml", &alone(", then = \"redirect 64500:7\"")).unwrap();
    assert!(config.routes[0].is_by_rules_alone() && !config.routes[1].is_by_rules_alone());
    let same = EXAMPLE.replace("forwarder-health.sock", "bgp-speaker.sock");
    assert!(error(&same).contains("health.socket: the same path as admin-socket"));
}

/// What is commented out in the example from `start` on, up to an empty line, without the marks.
fn commented(start: &str) -> String {
    let block = EXAMPLE.split("\n\n").find(|block| block.contains(&format!("# {start}"))).unwrap();
    let lines = block.lines().skip_while(|line| !line.starts_with(&format!("# {start}")));
    lines.map(|line| format!("{}\n", line.strip_prefix("# ").unwrap())).collect()
}

fn replace_last(text: &str, from: &str, to: &str) -> String {
    let (before, after) = text.rsplit_once(from).unwrap();
    format!("{before}{to}{after}")
}

fn with_listen(more: &str) -> String {
    EXAMPLE.replacen("# listen = ", "listen = ", 1).replace("\n[health]\n", &format!("\n{more}\n[health]\n"))
}

#[test]
fn a_peer_takes_from_its_group_what_it_has_not_itself() {
    let group = "[[peer-groups]]\nname = \"edges\"\nhold-time-s = 30\nadd-path = true\nremote-as = 64500\n";
    let grouped = EXAMPLE
        .replace("remote-as = 64500\n", "group = \"edges\"\n")
        .replace("\n[health]\n", &format!("\n{group}\n[health]\n"));
    let config: Config = config::parse("f.toml", &grouped).unwrap();
    let settings = &config.peers[0].settings;
    assert_eq!((settings.hold_time.as_secs(), settings.options.add_path, settings.remote_as), (9, true, Asn(64500)));
    let config: Config = config::parse("f.toml", &grouped.replacen("hold-time-s = 9\n", "", 1)).unwrap();
    assert_eq!(config.peers[0].settings.hold_time.as_secs(), 30);
    // A fault is told where it is written.
    let line = |text: &str, what: &str| text.lines().position(|line| line == what).unwrap() + 1;
    let wrong = grouped.replacen("hold-time-s = 9\n", "", 1).replace("hold-time-s = 30", "hold-time-s = 2");
    let expected = format!("bgp-speaker.toml:{}: peer-groups[0].hold-time-s: 2 s is", line(&wrong, "hold-time-s = 2"));
    assert!(error(&wrong).starts_with(&expected), "{}", error(&wrong));
    let wrong = grouped.replace("hold-time-s = 9", "hold-time-s = 1");
    assert!(error(&wrong).contains("peers[0].hold-time-s: 1 s is"), "{}", error(&wrong));
    for (from, to, expected) in [
        (
            "group = \"edges\"",
            "group = \"core\"",
            "peers[0].group: there is no group \"core\" among [[peer-groups]]: there is edges",
        ),
        ("name = \"edges\"", "name = \"\"", "peer-groups[0].name: \"\" is empty or taken"),
        (
            "remote-as = 64500\n\n[health]",
            "\n[health]",
            "peers[0].remote-as: there is none: give it here or in the group",
        ),
        ("add-path = true", "address = \"192.0.2.1\"", "unknown field `address`"),
    ] {
        let message = error(&grouped.replacen(from, to, 1));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn neighbours_from_a_prefix_are_like_their_group() {
    let text = with_listen(&(commented("[[peer-groups]]") + &commented("[[dynamic-peers]]")));
    let config: Config = config::parse("f.toml", &text).unwrap();
    let dynamic = &config.dynamic[0];
    let peer = dynamic.at("198.51.100.70:40000".parse().unwrap());
    assert_eq!((peer.name.as_str(), peer.settings.passive), ("leaves/198.51.100.70", true));
    assert_eq!(peer.settings.options.remote_as_among, [Asn(64512)..=Asn(64999), Asn(65001)..=Asn(65001)]);
    assert_eq!(dynamic.limit, 50);
    for (from, to, expected) in [
        (
            "listen = [\"198",
            "# listen = [\"198",
            "dynamic-peers[0].prefix: neighbours that connect to us take speaker.listen",
        ),
        ("limit = 50", "limit = 0", "dynamic-peers[0].limit: 0 lets nobody in"),
        ("\"198.51.100.64/26\"", "\"198.51.100.65/26\"", "dynamic-peers[0].prefix: 198.51.100.65/26 has host bits set"),
        ("\"64512-64999\"", "\"64999-64512\"", "dynamic-peers[0].remote-as: \"64999-64512\" is no range"),
        ("\"64512-64999\"", "\"x\"", "dynamic-peers[0].remote-as: \"x\" is no range"),
        ("\"64512-64999\"", "64500", "dynamic-peers[0].remote-as: our own AS 64500 among others"),
        ("\"64512-64999\"", "0", "dynamic-peers[0].remote-as: AS 0 is reserved"),
        ("\"64512-64999\"", "true", "an AS number, or a list"),
        ("group = \"leaves\"", "group = \"x\"", "dynamic-peers[0].group: there is no group \"x\""),
        (
            "name = \"leaves\"",
            "name = \"leaves\"\nbfd = { interval-ms = 50 }",
            "dynamic-peers[0].group: its group has bfd",
        ),
    ] {
        let message = error(&replace_last(&text, from, to));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_prefix_that_is_signed_signs_for_the_peers_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "x").unwrap();
    let tables = format!(
        "[[peer-groups]]\nname = \"g\"\nmd5-password-file = {:?}\n[[dynamic-peers]]\nprefix = \"198.51.100.0/24\"\n\
         group = \"g\"\nremote-as = 64500\n",
        file.display().to_string()
    );
    let message = error(&with_listen(&tables));
    assert!(
        message.contains("dynamic-peers[0].prefix: 198.51.100.0/24 is signed and peer \"edge\" inside it is not"),
        "{message}"
    );
}

#[test]
fn prefix_lists_are_known_by_name_and_their_rules_can_be() {
    let text = with_listen(&commented("[[prefix-lists]]")).replacen(
        "hold-time-s = 9\n",
        "export-prefixes = \"customers\"\n",
        1,
    );
    let config: Config = config::parse("f.toml", &text).unwrap();
    let passes = |prefix: &str| config.peers[0].settings.options.filter.takes(&prefix.parse().unwrap());
    assert!(passes("198.51.100.0/26") && !passes("198.51.100.0/29") && !passes("203.0.113.0/24"));
    for (from, to, expected) in [
        (
            "\"customers\"\n",
            "\"x\"\n",
            "peers[0].export-prefixes: there is no list \"customers\" among [[prefix-lists]]: there is x",
        ),
        ("ge = 29", "ge = 33", "prefix-lists[0].rules[0].ge: no prefix inside 198.51.100.0/24 is 33 to 32 bits long"),
        ("le = 28", "le = 23", "prefix-lists[0].rules[1].le: no prefix"),
        ("action = \"deny\"", "action = \"drop\"", "unknown variant `drop`"),
        ("action = \"deny\"", "action = \"deny\", stray = 1", "unknown field `stray`"),
    ] {
        let message = error(&replace_last(&text, from, to));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn keys_of_tcp_ao_are_checked_and_a_kernel_without_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "secret").unwrap();
    let key = |id: u8, recv: u8| {
        format!(
            "{{ id = {id}, recv-id = {recv}, algorithm = \"aes-128-cmac-96\", key-file = {:?} }}",
            file.display().to_string()
        )
    };
    let with = |keys: &str| EXAMPLE.replace("hold-time-s = 9\n", &format!("ao-keys = [{keys}]\n"));
    let good = with(&format!("{}, {}", key(1, 1), key(2, 3)));
    match crate::tcp::ao::available() {
        Ok(()) => {
            let config: Config = config::parse("f.toml", &good).unwrap();
            assert_eq!(config.peers[0].protection.ao_keys.len(), 2);
            assert!(!format!("{config:?}").contains("\"secret\""));
        }
        Err(reason) => {
            let message = error(&good);
            assert!(message.contains(&format!("peers[0].ao-keys: {reason}")), "{message}");
            assert!(message.contains("CONFIG_TCP_AO"), "{message}");
        }
    }
    let both = format!("{}md5-password-file = {:?}\n", "", file.display().to_string());
    for (text, expected) in [
        (with(&format!("{}, {}", key(1, 1), key(1, 2))), "peers[0].ao-keys[1].id: another key"),
        (with(&format!("{}, {}", key(1, 1), key(2, 1))), "peers[0].ao-keys[1].recv-id: another key"),
        (with(&key(1, 1)).replace("aes-128-cmac-96", "md5"), "unknown variant `md5`"),
        (with(&key(1, 1)).replace("recv-id", "stray"), "unknown field `stray`"),
        (
            with(&key(1, 1)).replace("\nao-keys", &format!("\n{both}ao-keys")),
            "peers[0].ao-keys: md5-password-file is given too",
        ),
    ] {
        let message = error(&text);
        assert!(message.contains(expected), "{message}");
    }
    std::fs::write(&file, "x".repeat(81)).unwrap();
    assert!(
        error(&good).contains("peers[0].ao-keys[0].key-file: 81 octets: TCP-AO takes up to 80"),
        "{}",
        error(&good)
    );
}

#[test]
fn sets_are_kept_by_who_is_told_of_them_and_may_keep() {
    let inject = "[inject]\njournal = \"/j\"\nallow = [\"198.51.100.0/24\"]\n";
    let with = |sets: &str| format!("{}\n{inject}{sets}", EXAMPLE.split("\n# Routes beside").next().unwrap());
    let set = |name: &str, more: &str| format!("[[inject.sets]]\nname = {name:?}\n{more}\n");
    let keep = |text: &str| {
        let config: Config = config::parse("f.toml", text).unwrap();
        config.peers[0].settings.options.keep
    };
    let kept = with(&(set("a", "keep-s = 3600") + &set("b", "") + &set("c", "keep-s = 3600")));
    let peer = |text: &str, more: &str| text.replace("hold-time-s = 9\n", more);
    assert_eq!(keep(&kept), None, "private routes go by this session");
    assert_eq!(keep(&peer(&kept, "keep = true\n")), Some(3600));
    assert_eq!(keep(&peer(&kept, "export = \"injected\"\n")), Some(3600));
    assert_eq!(keep(&peer(&with(&set("a", "")), "export = \"injected\"\n")), None);
    assert_eq!(keep(&peer(&kept, "export = \"injected\"\nkeep = false\n")), None);
    assert!(
        error(&peer(&kept, "export = \"private\"\nkeep = true\n")).contains("peers[0].keep: true takes a peer that")
    );
    let external = kept.replacen("remote-as = 64500", "remote-as = 64501", 1);
    assert_eq!(keep(&peer(&external, "export = \"injected\"\n")), None);
    assert_eq!(keep(&external.replace("hold-time-s = 9\n", "export = \"all\"\nkeep = true\n")), Some(3600));
    for (sets, expected) in [
        (set("a", "keep-s = 0"), "inject.sets[0].keep-s: 0 s is not allowed: 1 to 16777215"),
        (set("a", "keep-s = 16777216"), "inject.sets[0].keep-s: 16777216 s is not"),
        (set("a", "") + &set("a", ""), "inject.sets[1].name: \"a\" is given twice"),
        (set("", ""), "inject.sets[0].name: the set has a name of 0 octets"),
        (set("a", "stray = 1"), "unknown field `stray`"),
    ] {
        let message = error(&with(&sets));
        assert!(message.contains(expected), "{message}");
    }
    // Each set has its own time; a session has one: the shortest of its sets, unless it says otherwise.
    let mixed = with(&(set("a", "keep-s = 60") + &set("b", "keep-s = 3600") + &set("c", "")));
    let injected = |more: &str| peer(&mixed, &format!("export = \"injected\"\n{more}"));
    assert_eq!(keep(&injected("")), Some(60));
    assert_eq!(keep(&injected("keep-s = 3600\n")), Some(3600));
    assert_eq!(keep(&injected("sets = [\"b\", \"c\"]\n")), Some(3600));
    assert_eq!(keep(&injected("sets = [\"c\"]\n")), None);
    for (more, expected) in [
        (
            "keep-s = 3601\n",
            "peers[0].keep-s: 3601 s, and no set that the peer is told is to be kept for longer than 3600",
        ),
        ("keep-s = 0\n", "peers[0].keep-s: 0 s is not allowed"),
        ("sets = [\"c\"]\nkeep-s = 1\n", "peers[0].keep-s: no set that the peer is told is to be kept"),
        ("keep = false\nkeep-s = 60\n", "peers[0].keep-s: the peer keeps nothing"),
        ("sets = []\n", "peers[0].sets: none is named"),
        ("sets = [\"\"]\n", "peers[0].sets: the set has a name of 0 octets"),
    ] {
        let message = error(&injected(more));
        assert!(message.contains(expected), "{message}");
    }
    assert!(
        error(&peer(&mixed, "export = \"private\"\nsets = [\"a\"]\n"))
            .contains("peers[0].sets: the peer is told of no")
    );
    let lines = BgpSpeaker::summary(&config::parse("f.toml", &injected("")).unwrap()).join("\n");
    assert!(lines.contains("edge keeps set a for 60 s while we are down"), "{lines}");
    assert!(lines.contains("warning: edge keeps set b for 60 s, and not for the 3600 s of its keep-s"), "{lines}");
    let lines = BgpSpeaker::summary(&config::parse("f.toml", &injected("keep-s = 3600\n")).unwrap()).join("\n");
    assert!(lines.contains("warning: edge drops set a as soon as we are gone"), "{lines}");
    for (max, expected) in [
        ("{ limit = 10 }", "peers[0].max-prefix: nothing is taken from the peer"),
        ("{ limit = 0 }\nimport = \"all\"", "peers[0].max-prefix.limit: 0 is not allowed"),
        ("{ limit = 1, warn-percent = 101 }\nimport = \"all\"", "peers[0].max-prefix.warn-percent: 101 is not"),
        (
            "{ limit = 1, action = \"warn\", restart-s = 1 }\nimport = \"all\"",
            "peers[0].max-prefix.restart-s: a warning",
        ),
        ("{ limit = 1, stray = 1 }\nimport = \"all\"", "unknown field `stray`"),
    ] {
        let message = error(&EXAMPLE.replace("hold-time-s = 9\n", &format!("max-prefix = {max}\n")));
        assert!(message.contains(expected), "{message}");
    }
    let helper = kept.replace("hold-time-s = 9\n", "graceful-restart = { long-lived-s = 60 }\n");
    let config: Config = config::parse("f.toml", &helper).unwrap();
    let helper = config.peers[0].settings.options.helper.unwrap();
    assert_eq!((helper.restart, helper.long_lived), (Duration::from_secs(120), Duration::from_secs(60)));
}

#[test]
fn stale_routes_go_to_internal_peers_that_are_told_others_routes() {
    let with = |more: &str| EXAMPLE.replace("hold-time-s = 9\n", more);
    let config: Config = config::parse("f.toml", &with("pass-on = true\npass-on-stale = true\n")).unwrap();
    assert!(config.peers[0].settings.options.pass_on_stale);
    let external = with("pass-on = true\npass-on-stale = true\n").replace("remote-as = 64500", "remote-as = 64501");
    for text in [with("pass-on-stale = true\n"), external] {
        let message = error(&text);
        assert!(message.contains("peers[0].pass-on-stale: true takes an internal peer with pass-on"), "{message}");
    }
}
