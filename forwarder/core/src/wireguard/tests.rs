use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

fn tunnel() -> WireGuard {
    WireGuard {
        private_key: Secret::new([7; KEY]),
        listen_port: 51_820,
        peer: [9; KEY],
        endpoint: "192.0.2.9:51821".parse().unwrap(),
        keepalive_s: 25,
        allowed: ["203.0.113.200/32", "2001:db8:c10a::200/128"].map(|prefix| prefix.parse().unwrap()).to_vec(),
    }
}

/// What the kernel says of a link after it was told `messages`.
fn kernel(family: u16, messages: &[Secret<Vec<u8>>]) -> Found {
    let mut found = Found::default();
    for message in messages {
        // The attributes of an answer are those of the request.
        assert_eq!(found.take(message.expose()), Ok(false));
    }
    let done = message(DONE, 0, 0, &[]);
    assert_eq!((found.take(&done), family), (Ok(true), family));
    found
}

#[test]
fn a_link_is_told_of_in_the_octets_that_the_header_describes() {
    let [message] = &tunnel().changes(0x1f, "wg0", &Found::default())[..] else { panic!("one message") };
    let le =
        |text: &str| text.split_whitespace().map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect::<Vec<_>>();
    let key = |octet: &str| [octet; KEY].join(" ");
    let expected = [
        // nlmsghdr: length, family, NLM_F_REQUEST | NLM_F_ACK; genlmsghdr: WG_CMD_SET_DEVICE, version 1
        "e8 00 00 00 1f 00 05 00 00 00 00 00 00 00 00 00 01 01 00 00",
        // WGDEVICE_A_IFNAME, WGDEVICE_A_PRIVATE_KEY, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_FLAGS
        "08 00 02 00 77 67 30 00",
        &format!("24 00 03 00 {}", key("07")),
        "06 00 06 00 6c ca 00 00",
        "08 00 05 00 01 00 00 00",
        // WGDEVICE_A_PEERS: one peer: WGPEER_A_PUBLIC_KEY, _FLAGS, _ENDPOINT, _PERSISTENT_KEEPALIVE_INTERVAL
        "98 00 08 80 94 00 00 80",
        &format!("24 00 01 00 {}", key("09")),
        "08 00 03 00 00 00 00 00",
        "14 00 04 00 02 00 ca 6d c0 00 02 09 00 00 00 00 00 00 00 00",
        "06 00 05 00 19 00 00 00",
        // WGPEER_A_ALLOWEDIPS: WGALLOWEDIP_A_FAMILY, _IPADDR, _CIDR_MASK of each
        "48 00 09 80",
        "1c 00 00 80 06 00 01 00 02 00 00 00 08 00 02 00 cb 00 71 c8 05 00 03 00 20 00 00 00",
        "28 00 00 80 06 00 01 00 0a 00 00 00 14 00 02 00 20 01 0d b8 c1 0a 00 00 00 00 00 00 00 00 02 00 05 00 03 00 80 00 00 00",
    ];
    assert_eq!(*message.expose(), le(&expected.join(" ")));
}

/// The order of an enum in the kernel's header: each name with its number.
fn enums(header: &str) -> BTreeMap<String, u16> {
    let mut numbers = BTreeMap::new();
    for block in header.split("\nenum ").skip(1) {
        let body = block.split_once('{').unwrap().1.split_once('}').unwrap().0;
        let mut next = 0;
        for item in body.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, value) =
                item.split_once('=').map_or((item, None), |(name, value)| (name.trim(), Some(value.trim())));
            match value {
                None => {}
                Some(value) => match value.split_once("U << ") {
                    Some((one, shift)) => next = one.parse::<u16>().unwrap() << shift.parse::<u16>().unwrap(),
                    None => match value.parse() {
                        Ok(number) => next = number,
                        // Of the names before it.
                        Err(_) => continue,
                    },
                },
            }
            numbers.insert(name.to_owned(), next);
            next += 1;
        }
    }
    numbers
}

#[test]
fn the_numbers_are_those_of_the_kernels_headers() {
    let read = |name: &str| std::fs::read_to_string(format!("/usr/include/linux/{name}.h")).ok();
    let (Some(wireguard), Some(generic)) = (read("wireguard"), read("genetlink")) else {
        return cloakway_testing::skip("the kernel's headers are not here (linux-libc-dev)");
    };
    let numbers = enums(&wireguard);
    for (name, number) in [
        ("WG_CMD_GET_DEVICE", u16::from(GET_DEVICE)),
        ("WG_CMD_SET_DEVICE", u16::from(SET_DEVICE)),
        ("WGDEVICE_A_IFNAME", DEVICE_IFNAME),
        ("WGDEVICE_A_PRIVATE_KEY", DEVICE_PRIVATE_KEY),
        ("WGDEVICE_A_FLAGS", DEVICE_FLAGS),
        ("WGDEVICE_A_LISTEN_PORT", DEVICE_LISTEN_PORT),
        ("WGDEVICE_A_PEERS", DEVICE_PEERS),
        ("WGDEVICE_F_REPLACE_PEERS", REPLACE_PEERS.try_into().unwrap()),
        ("WGPEER_A_PUBLIC_KEY", PEER_PUBLIC_KEY),
        ("WGPEER_A_FLAGS", PEER_FLAGS),
        ("WGPEER_A_ENDPOINT", PEER_ENDPOINT),
        ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", PEER_KEEPALIVE),
        ("WGPEER_A_LAST_HANDSHAKE_TIME", PEER_HANDSHAKE),
        ("WGPEER_A_ALLOWEDIPS", PEER_ALLOWED),
        ("WGPEER_F_REPLACE_ALLOWEDIPS", REPLACE_ALLOWED.try_into().unwrap()),
        ("WGALLOWEDIP_A_FAMILY", ALLOWED_FAMILY),
        ("WGALLOWEDIP_A_IPADDR", ALLOWED_ADDRESS),
        ("WGALLOWEDIP_A_CIDR_MASK", ALLOWED_LENGTH),
    ] {
        assert_eq!(numbers.get(name), Some(&number), "{name}");
    }
    assert!(wireguard.contains(&format!("#define WG_GENL_NAME \"{FAMILY}\"")));
    assert!(wireguard.contains(&format!("#define WG_GENL_VERSION {VERSION}")));
    assert!(wireguard.contains(&format!("#define WG_KEY_LEN {KEY}")));
    let numbers = enums(&generic);
    for (name, number) in [
        ("CTRL_CMD_GETFAMILY", u16::from(CONTROL_GET_FAMILY)),
        ("CTRL_ATTR_FAMILY_ID", CONTROL_FAMILY_ID),
        ("CTRL_ATTR_FAMILY_NAME", CONTROL_FAMILY_NAME),
    ] {
        assert_eq!(numbers.get(name), Some(&number), "{name}");
    }
}

#[test]
fn what_is_so_already_is_not_told_and_what_differs_is() {
    let wanted = tunnel();
    let after = kernel(0x1f, &wanted.changes(0x1f, "wg0", &Found::default()));
    assert_eq!(after.private_key, Some(wanted.private_key.clone()));
    assert!(wanted.changes(0x1f, "wg0", &after).is_empty());
    let any_port = WireGuard { listen_port: 0, ..tunnel() };
    assert!(any_port.changes(0x1f, "wg0", &after).is_empty(), "whichever it is");
    let contains = |message: &Secret<Vec<u8>>, part: &[u8]| message.expose().windows(part.len()).any(|at| at == part);
    let key = attribute(DEVICE_PRIVATE_KEY, &[7; KEY]);
    let (replace_peers, replace_allowed) =
        (attribute(DEVICE_FLAGS, &REPLACE_PEERS.to_ne_bytes()), attribute(PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes()));
    let more =
        WireGuard { allowed: [&wanted.allowed[..], &["203.0.113.201/32".parse().unwrap()]].concat(), ..tunnel() };
    let [message] = &more.changes(0x1f, "wg0", &after)[..] else { panic!("one") };
    assert!(![&key, &replace_peers, &replace_allowed].iter().any(|part| contains(message, part)), "more is only added");
    let fewer = WireGuard { allowed: wanted.allowed[..1].to_vec(), ..tunnel() };
    let [message] = &fewer.changes(0x1f, "wg0", &after)[..] else { panic!("one") };
    assert!(contains(message, &replace_allowed) && !contains(message, &replace_peers));
    let other_peer = WireGuard { peer: [10; KEY], ..tunnel() };
    let [message] = &other_peer.changes(0x1f, "wg0", &after)[..] else { panic!("one") };
    assert!(contains(message, &replace_peers) && !contains(message, &key));
    for changed in [
        WireGuard { private_key: Secret::new([8; KEY]), ..tunnel() },
        WireGuard { listen_port: 1, ..tunnel() },
        WireGuard { endpoint: "[2001:db8::9]:51821".parse().unwrap(), ..tunnel() },
        WireGuard { keepalive_s: 26, ..tunnel() },
    ] {
        assert_eq!(changed.changes(0x1f, "wg0", &after).len(), 1, "{changed:?}");
    }
    assert!(!format!("{wanted:?} {after:?}").contains("7, 7"), "a key is not shown");
}

#[test]
fn many_prefixes_are_told_in_several_messages_and_read_back_as_one() {
    let allowed: Vec<IpNet> =
        (0..600_u32).map(|n| IpNet::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 32).unwrap()).collect();
    let wanted = WireGuard { allowed, ..tunnel() };
    let messages = wanted.changes(0x1f, "wg0", &Found::default());
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message.expose().len() < 16_384));
    let after = kernel(0x1f, &messages);
    assert_eq!((after.peers.len(), after.peers[0].allowed.len()), (1, 600));
    assert!(wanted.changes(0x1f, "wg0", &after).is_empty());
}

#[test]
fn the_family_has_a_number_and_errors_have_theirs() {
    let asked = ask_family();
    assert!(asked.windows(10).any(|window| window == b"wireguard\0"));
    let answer =
        message(CONTROL, 0, 1, &[attribute(2, b"wireguard\0"), attribute(CONTROL_FAMILY_ID, &[0x1f, 0])].concat());
    assert_eq!(family(&answer), Some(0x1f));
    assert_eq!(family(&message(ERROR, 0, 0, &[])), None);
    let refused =
        [&36_u32.to_ne_bytes()[..], &ERROR.to_ne_bytes(), &[0; 10], &(-19_i32).to_ne_bytes(), &[0; 16]].concat();
    assert_eq!(Found::default().take(&refused), Err(Ok(19)));
    assert_eq!(ask_device(0x1f, "wg0")[6..8], (REQUEST | DUMP).to_ne_bytes());
}

#[test]
fn the_other_end_lives_as_long_as_a_session_may() {
    let at = |seconds| Some(Duration::from_secs(seconds));
    let found =
        |handshake| Found { peers: vec![Peer { key: [9; KEY], handshake, ..Peer::default() }], ..Found::default() };
    let alive = |handshake, wall| is_alive(&found(handshake), &[9; KEY], Duration::from_secs(wall));
    assert!(alive(at(1000), 1179) && !alive(at(1000), 1180));
    assert!(!alive(None, 10), "it has never been heard");
    assert!(alive(at(1000), 900), "the clock was set back");
    assert!(!is_alive(&found(at(1000)), &[8; KEY], Duration::from_secs(1000)), "another one");
}

proptest! {
    #[test]
    fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..300), kind in prop_oneof![Just(0x1f_u16), any::<u16>()]) {
        let _ = (family(&octets), Found::default().take(&octets));
        let _ = Found::default().take(&message(kind, 0, 0, &octets));
        let _ = Found::default().take(&message(kind, 0, 0, &attribute(DEVICE_PEERS | NESTED, &attribute(NESTED, &octets))));
    }

    #[test]
    fn what_is_told_is_found(
        port in any::<u16>(),
        v6 in any::<bool>(),
        keepalive_s in any::<u16>(),
        hosts in prop::collection::btree_set(any::<u32>(), 0..20),
    ) {
        let endpoint = if v6 { SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port) } else { SocketAddr::new([192, 0, 2, 1].into(), port) };
        let allowed = hosts.into_iter().map(|host| IpNet::new(Ipv4Addr::from(host).into(), 32).unwrap()).collect();
        let wanted = WireGuard { endpoint, keepalive_s, allowed, ..tunnel() };
        let after = kernel(3000, &wanted.changes(3000, "wg0", &Found::default()));
        prop_assert_eq!(after.peers[0].endpoint, Some(endpoint));
        prop_assert!(wanted.changes(3000, "wg0", &after).is_empty());
    }
}
