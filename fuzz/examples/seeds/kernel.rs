//! What the kernel says to the forwarder.

use forwarder_core::{Policy, Spec, SpecLink, SpecPrefix, ruleset};

use super::{Seeds, unhex};

/// What the kernel says, behind the octet of its reader: of nftables' counters and generations, of packets that were logged and
/// traced, of a WireGuard device.
pub(crate) fn netlink() -> Seeds {
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut octets = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    };
    let message = |kind: u16, flags: u16, body: &[u8]| {
        let length = u32::try_from(body.len() + 16).expect("short");
        let head =
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &7_u32.to_ne_bytes(), &[0; 4]];
        [&head.concat(), body].concat()
    };
    let of_netfilter =
        |kind: u16, attributes: &[Vec<u8>]| message(kind, 2, &[vec![1, 0, 0, 0], attributes.concat()].concat());
    let counter = |name: &str, packets: u64| {
        let data = [attribute(1, &(packets * 60).to_be_bytes()), attribute(2, &packets.to_be_bytes())].concat();
        of_netfilter(0x0a12, &[attribute(1, b"cloakway\0"), attribute(2, name.as_bytes()), attribute(0x8004, &data)])
    };
    let generation = |id: u32| of_netfilter(0x0a0f, &[attribute(1, &id.to_be_bytes()), attribute(3, b"nft\0")]);
    let change = |table: &[u8]| of_netfilter(0x0a06, &[attribute(1, table), attribute(2, b"forward\0")]);
    let done = message(3, 2, &[0; 4]);
    let refusal = message(2, 0, &[&(-2_i32).to_ne_bytes()[..], &[0; 16]].concat());
    let packet = unhex("4500001c 00014000 4011c1fc cb00710a cb0071c8 0fa001bb 00080000");
    let packet = packet.as_slice();
    let logged = of_netfilter(
        0x0400,
        &[attribute(4, &3_u32.to_be_bytes()), attribute(10, b"spoofed-source\0"), attribute(9, packet)],
    );
    let verdict = attribute(0x8005, &attribute(1, &0_u32.to_be_bytes()));
    let followed = |handle: u64| {
        of_netfilter(
            0x0a11,
            &[
                attribute(1, b"cloakway-meter\0"),
                attribute(6, &9_u32.to_be_bytes()),
                attribute(4, &3_u32.to_be_bytes()),
                attribute(3, &handle.to_be_bytes()),
                attribute(8, packet),
                attribute(10, &3_u32.to_be_bytes()),
                verdict.clone(),
            ],
        )
    };
    let allowed = [attribute(1, &2_u16.to_ne_bytes()), attribute(2, &[203, 0, 113, 200]), attribute(3, &[32])].concat();
    let peer = [
        attribute(1, &[0x11; 32]),
        attribute(5, &25_u16.to_ne_bytes()),
        attribute(6, &[&1_700_000_000_u64.to_ne_bytes()[..], &[0; 8]].concat()),
        attribute(0x8009, &attribute(0x8000, &allowed)),
    ];
    let device = [
        attribute(3, &[0x22; 32]),
        attribute(6, &51_820_u16.to_ne_bytes()),
        attribute(0x8008, &attribute(0x8000, &peer.concat())),
    ];
    let device = message(0x1c, 2, &[vec![0, 1, 0, 0], device.concat()].concat());
    vec![
        ("counters", [vec![0], counter("hairpin\0", 7), counter("no-route\0", 0), done.clone()].concat()),
        ("counters-refused", [vec![0], refusal.clone()].concat()),
        ("generation", [vec![1], generation(4711)].concat()),
        (
            "changes",
            [vec![2], generation(1), change(b"filter\0"), generation(2), change(b"cloakway\0"), generation(3)].concat(),
        ),
        ("logged", [vec![3], logged.clone(), logged].concat()),
        ("followed", [vec![4], followed(31), followed(99)].concat()),
        ("wireguard", [vec![5], device, done].concat()),
        ("acknowledged", [vec![6], refusal].concat()),
    ]
}

/// Tables of nftables, as they are listed.
pub(crate) fn rulesets() -> Seeds {
    let spec = |services: &[&str]| Spec {
        links: vec![SpecLink { name: "main".into(), interface: "priv0".into() }],
        prefixes: vec![SpecPrefix {
            services: services.iter().map(ToString::to_string).collect(),
            probe: Some([203, 0, 113, 201].into()),
            ..SpecPrefix::new("203.0.113.200/29".parse().expect("a prefix"), "main")
        }],
        subscriber_prefixes: vec!["198.51.100.64/26".parse().expect("a prefix")],
        subscriber_interfaces: vec!["edge0".into()],
        live: Vec::new(),
    };
    let of = |services: &[&str]| ruleset::render(&Policy::new(spec(services)).expect("a policy"));
    let plain = of(&[]);
    let versions =
        plain.replace("@subscribers4", "@subscribers4.1").replace("set subscribers4 ", "set subscribers4.1 ");
    vec![
        ("plain", plain.into_bytes()),
        ("services", of(&["tcp/443", "udp/5000-5100"]).into_bytes()),
        ("versions", versions.into_bytes()),
        ("meter", b"table inet cloakway-meter {\n\tcounter name \"source-quota\" drop # handle 31\n}\n".to_vec()),
    ]
}
