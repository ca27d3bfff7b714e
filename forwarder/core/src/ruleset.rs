//! The guard: the policy as an nftables table.
//!
//! The text is what `nft -s list table` prints for it, so that the table in the kernel can be compared
//! with the wanted one, and left alone when it is the same. It asks what [`Policy::decide`] asks, in
//! the same order. Bystanders meet a few set look-ups and no verdict.

pub mod attendance;
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;

use crate::decide::Reason;
use crate::made::Tunnel;
use crate::meter::{MARK, Metering};
use crate::policy::{Link, Policy, PrivatePrefix, name_of};
use attendance::ATTENDED;
pub use table::Table;

/// The family of the guard's table.
pub const FAMILY: &str = "inet";

/// The name of the guard's table.
pub const TABLE: &str = "cloakway";

/// Counts packets forwarded out by a private link.
pub const TO_PRIVATE: &str = "to-private";

/// Counts packets forwarded from a private link to a subscriber.
pub const FROM_PRIVATE: &str = "from-private";

/// Counts packets between this host and a private link that keep the link working.
pub const LINK_UPKEEP: &str = "link-upkeep";

const ICMP_ERRORS: &str = "{ destination-unreachable, time-exceeded, parameter-problem }";
const ICMP6_ERRORS: &str = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }";

/// Every counter of the table: what was forwarded, then one per [`Reason`].
pub fn counters() -> impl Iterator<Item = &'static str> {
    [TO_PRIVATE, FROM_PRIVATE, LINK_UPKEEP].into_iter().chain(Reason::ALL.map(Reason::name))
}

/// The subscriber prefixes that a table lets through.
#[must_use]
pub fn subscribers(table: &Table) -> Vec<IpNet> {
    ["subscribers4", "subscribers6"].into_iter().flat_map(|set| table.prefixes(set)).collect()
}

/// What `nft -f` is given: replaces the table in one transaction, whether or not there was one.
#[must_use]
pub fn load_text(policy: &Policy) -> String {
    format!("table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n{}", render(policy))
}

/// Whether `listing`, from `nft list table`, is the wanted table.
#[must_use]
pub fn is_wanted(listing: &str, policy: &Policy) -> bool {
    Table::parse(listing).is_some_and(|found| found == table(policy))
}

/// The wanted table, taken apart.
#[must_use]
pub fn table(policy: &Policy) -> Table {
    Table::parse(&render(policy)).unwrap_or_default()
}

/// The table, as `nft -s list table` prints it apart from white space.
#[must_use]
pub fn render(policy: &Policy) -> String {
    let mut text = format!("table {FAMILY} {TABLE} {{\n");
    for counter in counters() {
        push(&mut text, format_args!("\tcounter {counter} {{\n\t}}\n"));
    }
    sets(&mut text, policy);
    chains(&mut text, policy);
    text.push_str("}\n");
    text
}

fn sets(text: &mut String, policy: &Policy) {
    let mut links: Vec<_> = policy.links().iter().map(|link| format!("{:?}", link.interface)).collect();
    let mut ports: Vec<_> = policy.subscriber_interfaces().iter().map(|name| format!("{name:?}")).collect();
    links.sort();
    ports.sort();
    set(text, "links", "ifname", Shape::Hash, &links);
    set(text, "subscriber-ports", "ifname", Shape::Hash, &ports);
    let entrances = policy.subscriber_interfaces().iter().map(|name| format!("{name:?} : goto from-subscribers"));
    let entrances =
        entrances.chain(policy.links().iter().map(|link| format!("{:?} : goto {}", link.interface, entrance(link))));
    let exits = policy.links().iter().map(|link| format!("{:?} : goto {}", link.interface, way_out(link)));
    verdicts(text, "entrances", "ifname", entrances.collect());
    verdicts(text, "exits", "ifname", exits.collect());
    short_cuts(text, policy);
    prefix_sets(text, "private", policy.prefixes().iter().map(|entry| entry.prefix).collect());
    intervals(text, "subscribers", policy.subscriber_prefixes().to_vec());
    if has_services(policy) {
        service_sets(text, policy);
    }
    for dscp in marks(policy) {
        let its = policy.prefixes().iter().filter(|entry| entry.dscp == Some(dscp));
        prefix_sets(text, &format!("dscp-{dscp}-v"), its.map(|entry| entry.prefix).collect());
    }
    for link in policy.links() {
        let id = policy.link_of(&link.interface);
        let behind = policy.prefixes().iter().filter(|entry| id.is_some_and(|id| entry.is_behind(id)));
        prefix_sets(text, &format!("link-{}-v", link.name), behind.map(|entry| entry.prefix).collect());
    }
}

/// The chain of what comes in by a link.
fn entrance(link: &Link) -> String {
    format!("in-{}", link.interface)
}

/// The chain of what is to leave by a link.
fn way_out(link: &Link) -> String {
    format!("out-{}", link.interface)
}

/// One look-up each way for the usual packet: from a subscribers' interface to a private address, and out by a link of that.
/// Whoever is not in these meets the rules behind them, which say the same of prefixes with many addresses.
fn short_cuts(text: &mut String, policy: &Policy) {
    for (version, kind, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
        let hosts =
            || policy.prefixes().iter().filter(move |entry| is_host(entry) && entry.prefix.addr().is_ipv4() == v4);
        let arrivals = policy.subscriber_interfaces().iter().flat_map(|name| {
            hosts().map(move |entry| format!("{name:?} . {} : goto arrival{version}", entry.prefix.addr()))
        });
        let departures = hosts().flat_map(|entry| {
            entry
                .ways
                .iter()
                .map(|way| format!("{:?} . {} : goto to-link", policy.interface(way.link), entry.prefix.addr()))
        });
        let kind = format!("ifname . {kind}");
        verdicts(text, &format!("arrivals{version}"), &kind, arrivals.collect());
        verdicts(text, &format!("departures{version}"), &kind, departures.collect());
    }
}

fn is_host(entry: &PrivatePrefix) -> bool {
    entry.prefix.prefix_len() == entry.prefix.max_prefix_len()
}

/// A map to what follows.
fn verdicts(text: &mut String, name: &str, kind: &str, mut elements: Vec<String>) {
    elements.sort();
    push(text, format_args!("\tmap {name} {{\n\t\ttype {kind} : verdict\n\t\tsize {}\n", room(elements.len())));
    if !elements.is_empty() {
        push(text, format_args!("\t\telements = {{ {} }}\n", elements.join(", ")));
    }
    text.push_str("\t}\n");
}

/// How the kernel keeps a set. One whose size it is told is a plain hash table; without a size it is one that grows, which
/// takes longer to look into, and intervals are searched for in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Hash,
    Interval,
}

/// The size of a hash table for so many elements: it stays the same while some come and some go, so that they can do so in
/// place.
fn room(elements: usize) -> usize {
    elements.saturating_mul(2).next_power_of_two().max(64)
}

/// Addresses, or prefixes where there is one among them.
fn prefix_sets(text: &mut String, name: &str, prefixes: Vec<IpNet>) {
    prefixes_as(text, name, prefixes, |prefixes| {
        let is_host = |prefix: &&IpNet| prefix.prefix_len() == prefix.max_prefix_len();
        if prefixes.iter().all(is_host) { Shape::Hash } else { Shape::Interval }
    });
}

fn intervals(text: &mut String, name: &str, prefixes: Vec<IpNet>) {
    prefixes_as(text, name, prefixes, |_| Shape::Interval);
}

fn prefixes_as(text: &mut String, name: &str, mut prefixes: Vec<IpNet>, shape: impl Fn(&[&IpNet]) -> Shape) {
    prefixes.sort();
    for (family, kind, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
        let of_family: Vec<&IpNet> = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == v4).collect();
        let elements: Vec<_> = of_family.iter().map(|prefix| element(prefix)).collect();
        set(text, &format!("{name}{family}"), kind, shape(&of_family), &elements);
    }
}

/// Each DSCP that some prefix gets.
fn marks(policy: &Policy) -> BTreeSet<u8> {
    policy.prefixes().iter().filter_map(|entry| entry.dscp).collect()
}

/// What sets them, with the private end at `end`. The two bits of ECN stay as they are (RFC 3168).
fn mark_rules(policy: &Policy, end: &str) -> Vec<String> {
    let rules = marks(policy).into_iter().flat_map(|dscp| {
        let name = dscp_name(dscp);
        [("ip", 4), ("ip6", 6)].map(|(ip, v)| format!("{ip} {end} @dscp-{dscp}-v{v} {ip} dscp set {name}"))
    });
    rules.collect()
}

/// As `nft` prints it (RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622).
fn dscp_name(dscp: u8) -> String {
    match dscp {
        1 => "lephb".to_owned(),
        44 => "va".to_owned(),
        46 => "ef".to_owned(),
        _ if dscp.is_multiple_of(8) => format!("cs{}", dscp / 8),
        10 | 12 | 14 | 18 | 20 | 22 | 26 | 28 | 30 | 34 | 36 | 38 => format!("af{}{}", dscp / 8, dscp % 8 / 2),
        _ => format!("{dscp:#04x}"),
    }
}

fn has_services(policy: &Policy) -> bool {
    policy.prefixes().iter().any(|entry| !entry.services.is_empty())
}

/// Which prefixes have services, and which: by port where there are ports, else by protocol.
fn service_sets(text: &mut String, policy: &Policy) {
    let mut limited: Vec<&PrivatePrefix> =
        policy.prefixes().iter().filter(|entry| !entry.services.is_empty()).collect();
    limited.sort_by_key(|entry| entry.prefix);
    prefix_sets(text, "limited", limited.iter().map(|entry| entry.prefix).collect());
    for (family, kind, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
        let of_family = limited.iter().filter(|entry| entry.prefix.addr().is_ipv4() == v4);
        let (mut ports, mut protocols) = (Vec::new(), Vec::new());
        for (entry, service) in of_family.flat_map(|entry| entry.services.iter().map(move |service| (entry, service))) {
            let what = format!("{} . {}", element(&entry.prefix), name_of(service.protocol));
            match &service.ports {
                Some(range) if range.start() == range.end() => ports.push(format!("{what} . {}", range.start())),
                Some(range) => ports.push(format!("{what} . {}-{}", range.start(), range.end())),
                None => protocols.push(what),
            }
        }
        set(text, &format!("ports{family}"), &format!("{kind} . inet_proto . inet_service"), Shape::Interval, &ports);
        set(text, &format!("protocols{family}"), &format!("{kind} . inet_proto"), Shape::Interval, &protocols);
    }
}

/// What passes of the services, with the private end at `end`; all else of the limited prefixes is dropped.
fn service_rules(end: &str, port: &str, counter: &str) -> Vec<String> {
    let pass = format!("counter name \"{counter}\" accept");
    let drop = |reason: Reason| format!("counter name \"{}\" drop", reason.name());
    let mut rules = vec![
        format!("ip frag-off & 16383 != 0 {}", drop(Reason::Fragment)),
        format!("exthdr frag exists {}", drop(Reason::Fragment)),
        format!("icmp type {ICMP_ERRORS} {pass}"),
        format!("icmpv6 type {ICMP6_ERRORS} {pass}"),
    ];
    for (ip, family) in [("ip", "4"), ("ip6", "6")] {
        rules.push(format!("{ip} {end} . meta l4proto . th {port} @ports{family} {pass}"));
        rules.push(format!("{ip} {end} . meta l4proto @protocols{family} {pass}"));
    }
    rules.push(drop(Reason::NotAService));
    rules
}

fn element(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr().to_string() } else { prefix.to_string() }
}

fn set(text: &mut String, name: &str, kind: &str, shape: Shape, elements: &[String]) {
    push(text, format_args!("\tset {name} {{\n\t\ttype {kind}\n"));
    match shape {
        Shape::Hash => push(text, format_args!("\t\tsize {}\n", room(elements.len()))),
        Shape::Interval => text.push_str("\t\tflags interval\n"),
    }
    if !elements.is_empty() {
        push(text, format_args!("\t\telements = {{ {} }}\n", elements.join(", ")));
    }
    text.push_str("\t}\n");
}

fn chains(text: &mut String, policy: &Policy) {
    use Reason::{
        ForgedPrivate, FromPrivateForeignSource, FromPrivateOther, Hairpin, HostOutput, NoRoute, NotPrivate, Options,
        OwnSource, SpoofedSource, ToHostFromPrivate, ToPrivateByPublic, Unattended, Unmetered, WrongInterface,
    };
    let pass = |counter: &str| format!("counter name \"{counter}\" accept");
    let drop = |reason: Reason| format!("counter name \"{}\" drop", reason.name());
    let both = |test: &str, set: &str, reason: Reason| {
        [format!("ip {test}{set}4 {}", drop(reason)), format!("ip6 {test}{set}6 {}", drop(reason))]
    };
    // Not `ip option lsrr exists`: the kernel's search does not find a route that is used up.
    let options = ["ip hdrlength > 5", "rt type 0"].map(|test| format!("{test} {}", drop(Options)));
    // Before routing, so that nothing is answered to what is dropped here, not even by an ICMP error. One look-up tells
    // what an interface is, and a packet meets the rules of its own side alone.
    let [arrivals4, arrivals6] =
        [("ip", 4), ("ip6", 6)].map(|(ip, v)| format!("iifname . {ip} daddr vmap @arrivals{v}"));
    let mut prerouting = vec![arrivals4, arrivals6, "iifname vmap @entrances".to_owned()];
    prerouting.extend(both("daddr ", "@private", ToPrivateByPublic));
    prerouting.extend(both("saddr ", "@private", ForgedPrivate));
    base_chain(text, "prerouting", &prerouting);

    let mut subscribers = vec!["ip daddr @private4 goto arrival4".to_owned()];
    subscribers.push("ip6 daddr @private6 goto arrival6".to_owned());
    subscribers.extend(both("saddr ", "@private", ForgedPrivate));
    chain(text, "from-subscribers", &subscribers);

    let mut forward: Vec<String> =
        [("ip", 4), ("ip6", 6)].map(|(ip, v)| format!("oifname . {ip} daddr vmap @departures{v}")).into();
    forward.extend(["oifname vmap @exits", "iifname @links goto from-link"].map(str::to_owned));
    forward.extend(both("daddr ", "@private", WrongInterface));
    base_chain(text, "forward", &forward);

    let mut input = vec!["iifname @links goto link-to-host".to_owned()];
    input.extend(both("daddr ", "@private", WrongInterface));
    base_chain(text, "input", &input);

    let mut output = vec!["oifname @links goto host-to-link".to_owned()];
    output.extend(both("daddr ", "@private", HostOutput));
    let mut tunnels = policy.tunnels().to_vec();
    tunnels.sort();
    for Tunnel { underlay, remote, protocol, port } in &tunnels {
        let ip = if remote.is_ipv4() { "ip" } else { "ip6" };
        let what = match (port, protocol) {
            (Some(port), _) => format!("udp dport {port}"),
            (None, 47) => "meta l4proto gre".to_owned(),
            (None, other) => format!("meta l4proto {other}"),
        };
        output.push(format!("oifname != {underlay:?} {ip} daddr {remote} {what} {}", drop(WrongInterface)));
    }
    base_chain(text, "output", &output);

    // The raw sockets of the user data plane have these already, and count them.
    let copies = policy.is_in_user_space();
    let [options4, options6] = &options;
    for (name, ip, family, options) in [("arrival4", "ip", "4", options4), ("arrival6", "ip6", "6", options6)] {
        let arrival = if copies {
            vec!["drop".to_owned()]
        } else {
            vec![
                options.clone(),
                format!("fib saddr type {{ local, broadcast, anycast, multicast }} {}", drop(OwnSource)),
                format!("{ip} saddr != @subscribers{family} {}", drop(SpoofedSource)),
                // The blackhole would drop these without a word; here they are counted. Not `type blackhole`: for IPv4
                // the kernel looks for the type in its local table only.
                format!("fib daddr oif missing fib daddr type != local {}", drop(NoRoute)),
            ]
        };
        chain(text, name, &arrival);
    }

    let neighbour = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255";
    for link in policy.links() {
        let mut arrival = vec![format!("{neighbour} ip6 daddr != @private6 ip6 daddr != @subscribers6 accept")];
        if copies {
            arrival.push("drop".to_owned());
        } else {
            arrival.extend(options.clone());
            arrival.extend(both("saddr != ", &format!("@link-{}-v", link.name), FromPrivateForeignSource));
            arrival.push("goto link-arrival".to_owned());
        }
        chain(text, &entrance(link), &arrival);
    }
    if !copies {
        let mut arrival = both("daddr ", "@private", Hairpin).to_vec();
        // Those for this host would wait for the rest of them before input is asked, and be answered when it never comes.
        let to_host = format!("fib daddr type {{ local, broadcast, anycast, multicast }} {}", drop(ToHostFromPrivate));
        arrival
            .extend(["ip frag-off & 16383 != 0", "exthdr frag exists"].map(|fragment| format!("{fragment} {to_host}")));
        chain(text, "link-arrival", &arrival);
    }

    for link in policy.links() {
        // What is behind the link first: all the rest is wrong. What comes from a link to a private prefix is gone by now.
        let set = |family: &str| format!("@link-{}-v{family}", link.name);
        let mut exit =
            vec![format!("ip daddr {} goto to-link", set("4")), format!("ip6 daddr {} goto to-link", set("6"))];
        exit.push(format!("iifname @links {}", drop(Hairpin)));
        exit.extend(both("daddr ", "@private", WrongInterface));
        exit.push(drop(NotPrivate));
        chain(text, &way_out(link), &exit);
    }
    // The lesser MTU of the two ways, less the headers.
    let clamp = || policy.clamps_mss().then(|| "tcp flags syn tcp option maxseg size set rt mtu".to_owned());
    // Whoever runs has a table that marks what is forwarded, and the kernel takes it away with him.
    let unattended = format!("meta mark & {ATTENDED:#010x} != {ATTENDED:#010x} {}", drop(Unattended));
    let unattended = policy.is_only_attended().then_some(unattended);
    let mut to_link: Vec<String> = unattended.clone().into_iter().collect();
    to_link.extend(clamp().into_iter().chain(mark_rules(policy, "daddr")));
    // The program that charges marks what it charged; when it is gone nothing has the mark.
    let unmetered = format!("meta mark & {MARK:#010x} != {MARK:#010x} {}", drop(Unmetered));
    let by_mark = policy.metering() == Metering::Mark;
    to_link.extend(by_mark.then(|| unmetered.clone()));
    if has_services(policy) {
        to_link.extend(["ip daddr @limited4 goto service", "ip6 daddr @limited6 goto service"].map(str::to_owned));
    }
    to_link.push(pass(TO_PRIVATE));
    chain(text, "to-link", &to_link);

    let mut from_link = both("daddr != ", "@subscribers", FromPrivateOther).to_vec();
    from_link.push(format!("oifname != @subscriber-ports {}", drop(WrongInterface)));
    from_link.extend(unattended);
    from_link.extend((by_mark && policy.limits().answers).then_some(unmetered));
    from_link.extend(clamp());
    from_link.extend(mark_rules(policy, "saddr"));
    if has_services(policy) {
        from_link.extend(["ip saddr @limited4 goto answer", "ip6 saddr @limited6 goto answer"].map(str::to_owned));
    }
    from_link.push(pass(FROM_PRIVATE));
    chain(text, "from-link", &from_link);
    if has_services(policy) {
        chain(text, "service", &service_rules("daddr", "dport", TO_PRIVATE));
        chain(text, "answer", &service_rules("saddr", "sport", FROM_PRIVATE));
    }

    let neighbour = format!("{neighbour} {}", pass(LINK_UPKEEP));
    chain(text, "link-to-host", &[neighbour.clone(), drop(ToHostFromPrivate)]);

    let report = format!("icmpv6 type {{ mld-listener-report, mld2-listener-report }} {}", pass(LINK_UPKEEP));
    let error4 = format!("icmp type {ICMP_ERRORS} ip daddr @private4 {}", pass(LINK_UPKEEP));
    let error6 = format!("icmpv6 type {ICMP6_ERRORS} ip6 daddr @private6 {}", pass(LINK_UPKEEP));
    chain(text, "host-to-link", &[neighbour, report, error4, error6, drop(HostOutput)]);
}

fn base_chain(text: &mut String, hook: &str, rules: &[String]) {
    // Just before the usual filter priority: what others drop they still drop, what we drop they never see.
    let head = format!("type filter hook {hook} priority filter - 10; policy accept;");
    chain(text, hook, &[std::slice::from_ref(&head), rules].concat());
}

fn chain(text: &mut String, name: &str, lines: &[String]) {
    push(text, format_args!("\tchain {name} {{\n"));
    for line in lines {
        push(text, format_args!("\t\t{line}\n"));
    }
    text.push_str("\t}\n");
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a String never fails");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::example;

    #[test]
    fn the_example_policy_gives_this_table() {
        let text = render(&Policy::new(example()).unwrap());
        let expected = include_str!("../tests/example.nft");
        assert!(text == expected, "tests/example.nft is not what is rendered:\n{text}");
    }

    #[test]
    fn a_listing_is_compared_apart_from_white_space() {
        let policy = Policy::new(example()).unwrap();
        let text = render(&policy);
        assert!(is_wanted(&text.replace('\t', "  "), &policy));
        assert!(is_wanted(&text.replace("counter hairpin {\n", "counter hairpin {\npackets 1 bytes 2\n"), &policy));
        assert!(!is_wanted(&text.replacen(" drop\n", " accept\n", 1), &policy));
        assert!(!is_wanted("", &policy));
    }

    #[test]
    fn what_the_user_data_plane_has_a_copy_of_the_kernel_drops() {
        let policy = Policy::new(example()).unwrap().in_user_space();
        let text = render(&policy);
        let chain = |name: &str| {
            let (_, rest) = text.split_once(&format!("\tchain {name} {{\n")).unwrap();
            rest.split_once("\t}\n").unwrap().0.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((chain("arrival4"), chain("arrival6")), (vec!["drop".to_owned()], vec!["drop".to_owned()]));
        let [neighbour, drop] = &chain("in-priv0")[..] else { panic!("{text}") };
        assert!(neighbour.starts_with("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }") && drop == "drop");
    }

    #[test]
    fn a_prefix_with_a_dscp_has_it_set_both_ways() {
        let mut spec = example();
        spec.prefixes[0].dscp = Some(46);
        spec.prefixes[1].dscp = Some(3);
        let text = render(&Policy::new(spec).unwrap());
        for rule in ["ip daddr @dscp-46-v4 ip dscp set ef\n", "ip6 saddr @dscp-3-v6 ip6 dscp set 0x03\n"] {
            assert!(text.contains(rule), "{text}");
        }
        let names: Vec<String> = [0, 1, 8, 10, 38, 44, 56, 63].map(dscp_name).into();
        assert_eq!(names, ["cs0", "lephb", "cs1", "af11", "af43", "va", "cs7", "0x3f"]);
    }

    #[test]
    fn the_clamp_stands_before_all_that_accepts() {
        let rule = "\t\ttcp flags syn tcp option maxseg size set rt mtu\n";
        let policy = Policy::new(example()).unwrap();
        assert!(!render(&policy).contains(rule));
        let text = render(&policy.clamping_mss());
        assert!(text.contains(&format!("{rule}\t\tcounter name \"to-private\" accept\n")), "{text}");
        assert!(text.contains(&format!("{rule}\t\tcounter name \"from-private\" accept\n")), "{text}");
    }

    #[test]
    fn nothing_passes_unattended_where_that_is_asked_for() {
        let rule = "\t\tmeta mark & 0x20000000 != 0x20000000 counter name \"unattended\" drop\n";
        let policy = Policy::new(example()).unwrap();
        assert!(!render(&policy).contains(rule));
        let text = render(&policy.only_attended());
        assert!(text.contains(&format!("\tchain to-link {{\n{rule}")), "{text}");
        assert!(text.contains(&format!("{rule}\t\tcounter name \"from-private\" accept\n")), "{text}");
    }

    #[test]
    fn a_tunnel_leaves_by_its_underlay_alone() {
        let tunnel = |remote: &str, protocol, port| Tunnel {
            underlay: "eth1".into(),
            remote: remote.parse().unwrap(),
            protocol,
            port,
        };
        let tunnels = vec![tunnel("2001:db8::9", 17, Some(4789)), tunnel("192.0.2.9", 47, None)];
        let text = render(&Policy::new(example()).unwrap().by_tunnels(tunnels));
        for rule in [
            "\t\toifname != \"eth1\" ip daddr 192.0.2.9 meta l4proto gre counter name \"wrong-interface\" drop\n",
            "\t\toifname != \"eth1\" ip6 daddr 2001:db8::9 udp dport 4789 counter name \"wrong-interface\" drop\n",
        ] {
            assert!(text.contains(rule), "{text}");
        }
    }

    #[test]
    fn every_reason_has_a_counter_and_a_rule() {
        let mut spec = example();
        spec.prefixes[0].services = vec!["tcp/443".into()];
        let policy = Policy::new(spec).unwrap();
        let policy = policy.with_limits(crate::meter::tests::limits(), Metering::Mark).unwrap();
        let text = render(&policy.only_attended());
        for counter in counters() {
            assert!(text.contains(&format!("counter {counter} {{")), "{counter}");
            assert!(text.contains(&format!("counter name \"{counter}\"")), "{counter}");
        }
    }
}
