use super::*;
use bgp_wire::{ExtendedCommunity, LargeCommunity};
use proptest::prelude::*;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn announced(line: &str) -> Announcement {
    match parse(line) {
        Ok(Command::Announce(announcement)) => announcement,
        other => panic!("{line}: {other:?}"),
    }
}

fn plain() -> RouteAttributes {
    RouteAttributes::new("192.0.2.1".parse::<IpAddr>().unwrap())
}

#[test]
fn what_scripts_write_is_understood() {
    let full = RouteAttributes {
        origin: Origin::Incomplete,
        as_path: vec![Asn(64501), Asn(4_200_000_000)],
        med: Some(5),
        local_pref: Some(200),
        communities: vec![Community(64500 << 16 | 1), Community::NO_EXPORT],
        ..plain()
    };
    let extended = RouteAttributes {
        extended_communities: vec!["rt:64500:1".parse().unwrap(), ExtendedCommunity([0, 3, 0, 1, 0, 0, 0, 2])],
        large_communities: vec![LargeCommunity(64500, 1, 2), LargeCommunity(1, 2, 3)],
        ..plain()
    };
    for (line, route, prefixes) in [
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1", plain(), &["10.0.0.0/24"][..]),
        ("  announce   route 10.0.0.0/24\tnext-hop 192.0.2.1 ", plain(), &["10.0.0.0/24"]),
        ("announce ipv4 unicast 10.0.0.0/24 next-hop 192.0.2.1", plain(), &["10.0.0.0/24"]),
        ("announce route \"10.0.0.0/24\" next-hop '192.0.2.1' name \"my route\"", plain(), &["10.0.0.0/24"]),
        (
            "announce route 10.0.0.1 next-hop 192.0.2.1 origin INCOMPLETE as-path [ 64501 4200000000 ] med 5 \
             local-preference 200 community [64500:1, no-export]",
            full.clone(),
            &["10.0.0.1/32"],
        ),
        (
            "announce route 10.0.0.1 next-hop 192.0.2.1 local-preference 200 med 5 community [0xfbf40001 NO-EXPORT] \
             as-path [64501,4200000000] origin incomplete",
            full,
            &["10.0.0.1/32"],
        ),
        (
            "announce route 10.0.0.0/24 next-hop 192.0.2.1 extended-community [ target:64500:1 origin:1:2 ] \
             large-community [64500:1:2 1:2:3]",
            extended,
            &["10.0.0.0/24"],
        ),
        (
            "announce attributes next-hop 192.0.2.1 nlri 10.0.0.0/24 10.0.1.0/24",
            plain(),
            &["10.0.0.0/24", "10.0.1.0/24"],
        ),
        ("announce attribute next-hop 192.0.2.1 nlri 10.0.0.0/24", plain(), &["10.0.0.0/24"]),
        ("announce route 10.0.0.0/24 next-hop SELF", RouteAttributes::new(NextHop::Own), &["10.0.0.0/24"]),
        (
            "announce route 10.0.0.0/22 next-hop 192.0.2.1 split /24",
            plain(),
            &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"],
        ),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 split /16", plain(), &["10.0.0.0/24"]),
    ] {
        let announcement = announced(line);
        assert_eq!((announcement.route, announcement.prefixes), (route, nets(prefixes)), "{line}");
        assert!(announcement.to.is_all() && announcement.watchdog.is_none());
    }
    for line in [
        "withdraw route 10.0.0.0/24",
        "withdraw route 10.0.0.0/24 next-hop 192.0.2.1",
        "withdraw attributes nlri 10.0.0.0/24",
        "withdraw ipv4 unicast 10.0.0.0/24",
        "neighbor * withdraw route 10.0.0.0/24",
    ] {
        let Ok(Command::Withdraw(to, prefixes)) = parse(line) else { panic!("{line}: {:?}", parse(line)) };
        assert!(to.is_all() && prefixes == nets(&["10.0.0.0/24"]), "{line}");
    }
    let dog = announced("announce route 10.0.0.0/24 next-hop 192.0.2.1 watchdog dns withdraw");
    assert_eq!((dog.watchdog.as_deref(), dog.held), (Some("dns"), true));
    for (line, command) in [
        ("announce watchdog dns", Command::Watchdog(Some("dns".to_owned()), true)),
        ("withdraw watchdog", Command::Watchdog(None, false)),
        ("flush adj-rib out", Command::Flush),
        ("neighbor 192.0.2.1 flush adj-rib out", Command::Flush),
        ("flush route", Command::Flush),
        ("clear adj-rib out", Command::Clear),
        ("show neighbor", Command::HowToAsk),
        ("show neighbor summary", Command::Neighbours),
        ("show neighbor 192.0.2.1 extensive", Command::Neighbours),
        ("show adj-rib out", Command::Routes { extensive: false, of: None }),
        ("show adj-rib out 192.0.2.1 extensive", Command::Routes { extensive: true, of: Some([192, 0, 2, 1].into()) }),
        ("version", Command::Version),
        ("help", Command::Help),
        ("shutdown", Command::Shutdown),
        ("  # nothing", Command::Comment),
        (" ", Command::Nothing),
    ] {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
}

#[test]
fn a_line_is_for_the_peers_that_it_describes() {
    let peer = |last: u8, remote_as| Neighbour {
        address: [192, 0, 2, last].into(),
        local_address: Some([192, 0, 2, 254].into()),
        local_as: 64500,
        remote_as,
        router_id: [192, 0, 2, 254].into(),
    };
    let peers = [peer(1, 64501), peer(2, 64501), peer(3, 64502)];
    for (selector, expected) in [
        ("", &[1, 2, 3][..]),
        ("neighbor *", &[1, 2, 3]),
        ("neighbor 192.0.2.2", &[2]),
        ("neighbor 192.0.2.1, neighbor 192.0.2.3", &[1, 3]),
        ("neighbor 192.0.2.1 , neighbor 192.0.2.3", &[1, 3]),
        ("neighbor 192.0.2.1, 192.0.2.3", &[1, 3]),
        ("neighbor [192.0.2.1 192.0.2.2]", &[1, 2]),
        ("neighbor * peer-as 64501", &[1, 2]),
        ("neighbor 192.0.2.1 peer-as 64502", &[]),
        ("neighbor 192.0.2.1 local-ip 192.0.2.254 local-as 64500 router-id 192.0.2.254", &[1]),
        ("neighbor 192.0.2.9", &[]),
    ] {
        let to = announced(&format!("{selector} announce route 10.0.0.0/24 next-hop 192.0.2.1")).to;
        let taken: Vec<u8> = (1..=3).zip(&peers).filter(|(_, peer)| to.takes(peer)).map(|(n, _)| n).collect();
        assert_eq!(taken, expected, "{selector}");
        assert_eq!(to.is_all(), matches!(selector, "" | "neighbor *"), "{selector}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    for (line, named) in [
        ("announce route 10.0.0.0/24", "next-hop is missing"),
        ("announce route 10.0.0.0/24 next-hop me", "next-hop: \"me\" is not an address, or self"),
        ("announce route x next-hop 192.0.2.1", "x: no prefix"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 label 5", "label: not understood"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 rd 1:2", "rd: not understood"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 attribute [ 0x19 0xc0 0x00 ]", "attribute: not understood"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 community [1:2", "no end"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 community bad", "community \"bad\""),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 large-community 1:2", "large community \"1:2\""),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 extended-community x:1:2", "extended community \"x:1:2\""),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 as-path [1 (2 3)]", "sets are not offered"),
        ("announce route 10.0.0.0/8 next-hop 192.0.2.1 split /32", "split: more than"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 split 25", "split: a length"),
        ("announce route 10.0.0.0/24 next-hop 192.0.2.1 split /33", "no parts of /33"),
        ("announce ipv6 unicast 10.0.0.0/24 next-hop 192.0.2.1", "10.0.0.0/24: not ipv6"),
        ("announce ipv4 multicast 10.0.0.0/24", "only unicast"),
        ("announce attributes next-hop 192.0.2.1 nlri", "no prefix"),
        ("announce route 10.0.0.0/24 next-hop \"192.0.2.1", "a quote has no end"),
        ("neighbor 192.0.2.x announce route 10.0.0.0/24 next-hop 192.0.2.1", "neighbor: \"192.0.2.x\" is not"),
        ("neighbor 192.0.2.1", "a command is missing"),
        ("announce eor", "eor: not for a script"),
        ("announce operational asm", "operational: not for a script"),
        ("announce route-refresh ipv4 unicast", "route-refresh: not for a script"),
        ("neighbor 192.0.2.1 teardown 2", "teardown: not for a script"),
        ("clear adj-rib in", "clear: adj-rib out"),
        ("show adj-rib in", "show: neighbor summary"),
        ("hello", "not understood"),
    ] {
        assert!(parse(line).unwrap_err().contains(named), "{line}: {:?}", parse(line));
    }
}

proptest! {
    #[test]
    fn no_line_does_harm(line in "(announce|withdraw|neighbor|show|flush|\\[|\\]|,|\"|10.0.0.0/8|next-hop|self|split|/9| |[a-z0-9]){0,20}") {
        let _ = parse(&line);
    }
}

/// The rule and its actions that a line announces, in our own words; or what is wrong with it.
fn flow(line: &str) -> Result<String, String> {
    match parse(&format!("announce flow {line}"))? {
        Command::AnnounceFlow(_, rule, route) => Ok(format!("{rule}: {}", route.actions)),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn flow_rules_are_read_in_one_line_and_in_blocks() {
    for (line, expected) in [
        (
            "route { match { destination 10.0.0.1/24; protocol [ udp tcp ]; } then { discard; } }",
            "destination 10.0.0.0/24 protocol =17 =6: discard",
        ),
        (
            "route name {\\n match {\\n source ::5678:0:0/104/64;\\n next-header tcp;\\n }\\n then {\\n accept;\\n }\\n }\\n",
            "source ::5678:0:0/64-104 protocol =6: accept",
        ),
        (
            "route destination 10.0.0.0/24 tcp-flags [ syn&!ack ] mark 7",
            "destination 10.0.0.0/24 tcp-flags 0x2&!0x10: mark 7",
        ),
        ("route destination 10.0.0.0/24 fragment [ not-a-fragment ]", "destination 10.0.0.0/24 fragment !0x2: accept"),
        ("route destination 10.0.0.0/24 redirect 64500:7", "destination 10.0.0.0/24: redirect 64500:7"),
    ] {
        assert_eq!(flow(line).as_deref(), Ok(expected), "{line}");
    }
    let withdrawn = parse("withdraw flow route destination 10.0.0.0/24 discard");
    assert!(matches!(withdrawn, Ok(Command::WithdrawFlow(..))), "{withdrawn:?}");
    for (line, named) in [
        ("destination 10.0.0.0/24", "route goes behind it"),
        ("route discard", "nothing to match"),
        ("route destination 10.0.0.0/24 redirect 192.0.2.1", "to a VRF by its route target alone"),
        ("route destination 10.0.0.0/24 redirect 2001:db8::1", "to a VRF by its route target alone"),
        ("route destination 10.0.0.0/24 copy 192.0.2.1", "copy: not understood"),
        ("route destination 10.0.0.0/24 protocol [ tcp", "its list has no end"),
        ("route destination 10.0.0.0/24 source-port http", "no number"),
        ("route destination 10.0.0.0", "write it with its length"),
        ("route destination", "its value is missing"),
        ("route destination 10.0.0.0/24 action louder", "sample, terminal or sample-terminal"),
    ] {
        let error = flow(line).unwrap_err();
        assert!(error.contains(named), "{line}: {error}");
    }
}

proptest! {
    #[test]
    fn no_flow_line_does_harm(
        line in "(route|match|then|\\{|\\}|;|destination|source|10.0.0.0/8|::1/128/9|protocol|port|fragment|redirect|mark|&|=|!|>|\\[|\\]| |[a-z0-9]){0,20}",
    ) {
        let _ = flow(&line);
    }
}
