//! Origin validation in the running program: a cache that is played by the test, a neighbour that tells routes, and what
//! becomes of those that the payloads speak against. And what a configuration may not say of caches.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use bgp::config::Config;
use bgp_rpki::{Framer, Pdu, Timing, Version, Vrp};
use bgp_wire::{AsPath, Asn, Attributes, Context, Message, Origin, announce_v4};
use cloakway_runtime::config;
use serde_json::Value;
use support::peer::Peer;
use support::program::Program;
use support::{HEAD, PATIENCE, listener, open, until};

/// A cache that has answered one connection.
struct Cache {
    stream: TcpStream,
    framer: Framer,
}

impl Cache {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, framer: Framer::default() }
    }

    fn asked(&mut self) -> Pdu {
        loop {
            if let Some(unit) = self.framer.next_pdu().unwrap() {
                return Pdu::decode(unit).unwrap().1;
            }
            let mut bytes = [0; 4096];
            let length = self.stream.read(&mut bytes).unwrap();
            assert!(length > 0, "the program hung up");
            self.framer.push(&bytes[..length]);
        }
    }

    fn say(&mut self, pdus: &[Pdu]) {
        let bytes: Vec<u8> = pdus.iter().flat_map(|pdu| pdu.encode(Version::V1)).collect();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Answers whatever was asked with these changes.
    fn answer(&mut self, serial: u32, changes: &[(bool, &str, u8, u32)]) {
        let change = |(announce, prefix, max_length, asn): &(bool, &str, u8, u32)| Pdu::Prefix {
            announce: *announce,
            vrp: Vrp { prefix: prefix.parse().unwrap(), max_length: *max_length, asn: Asn(*asn) },
        };
        let mut pdus = vec![Pdu::CacheResponse { session: 9 }];
        pdus.extend(changes.iter().map(change));
        pdus.push(Pdu::EndOfData { session: 9, serial, timing: Some(Timing::default()) });
        self.say(&pdus);
    }
}

fn tell(peer: &mut Peer, prefixes: &[&str]) {
    let context = Context { external: true, ..Context::default() };
    let attributes = Attributes {
        origin: Some(Origin::Igp),
        as_path: Some(AsPath::sequence([Asn(64501)])),
        ..Attributes::default()
    };
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    for update in announce_v4(&attributes, [192, 0, 2, 7].into(), prefixes, context).unwrap() {
        peer.say(&Message::Update(update).encode(context).unwrap());
    }
}

/// What the program says of an address: prefix, validity, whether it is used, and why not.
fn look_up(program: &Program, address: &str) -> Value {
    let line = format!(r#"{{"topic":"look-up","arguments":{{"address":"{address}"}}}}"#);
    program.ask("admin", &line)["ok"]["routes"][0].clone()
}

#[test]
fn a_route_that_the_payloads_speak_against_is_not_used_until_they_do_no_more() {
    let ((caches, cache_port), (routers, port)) = (listener(), listener());
    let peer = format!(
        "[[peers]]\nname = \"as64501\"\naddress = \"127.0.0.1\"\nport = {port}\nremote-as = 64501\nimport = \"all\"\nrpki = \"reject-invalid\"\n"
    );
    let rpki = format!("[rpki]\n[[rpki.caches]]\nname = \"cache\"\nhost = \"127.0.0.1\"\nport = {cache_port}\n");
    let program = Program::start(&format!("{HEAD}{peer}{rpki}[rib]\n"));
    let mut cache = Cache::accept(&caches);
    assert_eq!(cache.asked(), Pdu::ResetQuery);
    cache.answer(
        1,
        &[(true, "10.1.0.0/16", 16, 64501), (true, "10.2.0.0/16", 16, 64502), (true, "10.3.0.0/16", 16, 64501)],
    );
    until("the payloads are here", || (program.show("rpki")[0]["payloads"] == 3).then_some(()));
    let mut router = Peer::accept(&routers);
    router.say(&support::encoded(&Message::Open(open(64501, [10, 0, 0, 1], 90))));
    assert!(matches!(router.next(), Some(Message::Open(_))));
    router.send(&Message::KeepAlive);
    tell(&mut router, &["10.1.0.0/16", "10.2.0.0/16", "10.3.1.0/24", "192.0.2.0/24"]);
    let expected = [
        ("10.1.0.1", "valid", true),
        // Another's, and longer than it may be.
        ("10.2.0.1", "invalid", false),
        ("10.3.1.1", "invalid", false),
        ("192.0.2.1", "not-found", true),
    ];
    let check = |address: &str, validity: &str, used: bool| {
        until(&format!("{address} is {validity}, used: {used}"), || {
            let row = look_up(&program, address);
            (row["rpki"] == validity && row["best"] == used).then_some(())
        });
    };
    expected.into_iter().for_each(|(address, validity, used)| check(address, validity, used));
    // The cache has something new: what was invalid is used, and the reverse, with nothing told again.
    cache.say(&[Pdu::SerialNotify { session: 9, serial: 2 }]);
    assert_eq!(cache.asked(), Pdu::SerialQuery { session: 9, serial: 1 });
    let changes =
        [(false, "10.2.0.0/16", 16, 64502), (true, "10.1.0.0/16", 16, 64502), (false, "10.1.0.0/16", 16, 64501)];
    cache.answer(2, &changes);
    check("10.2.0.1", "not-found", true);
    check("10.1.0.1", "invalid", false);
    assert_eq!(program.session("as64501")["flaps"], 0);
}

#[test]
fn what_cannot_be_said_of_caches_is_refused_with_its_place() {
    let head = HEAD.replace('$', "/tmp");
    let cache = "[[rpki.caches]]\nname = \"a\"\nhost = \"192.0.2.1\"\n";
    let peer = |more: &str| {
        format!("[[peers]]\nname = \"p\"\naddress = \"192.0.2.9\"\nremote-as = 64501\nimport = \"all\"\n{more}\n")
    };
    let rows = [
        ("[rpki]\ncaches = []".to_owned(), "rpki.caches: there is none"),
        (cache.replace("\"a\"", "\"\""), "rpki.caches[0].name: \"\" is empty, taken or longer than 64 octets"),
        (format!("{cache}{cache}"), "rpki.caches[1].name: \"a\" is empty, taken or longer"),
        (
            cache.replace("192.0.2.1", "192.0.2.1:323"),
            "rpki.caches[0].host: \"192.0.2.1:323\" is neither an address nor a name",
        ),
        (cache.replace("192.0.2.1", ""), "rpki.caches[0].host: \"\" is neither"),
        (format!("{cache}port = 0"), "rpki.caches[0].port: 0 is no port: 323 is the usual one"),
        (format!("{cache}port = 65536"), "rpki.caches[0].port"),
        (format!("{cache}preference = 256"), "rpki.caches[0].preference"),
        (format!("{cache}colour = 1"), "unknown field `colour`"),
        (format!("[rpki]\nmax-payloads = 0\n{cache}"), "rpki.max-payloads: 0 is not allowed"),
        (format!("[rpki]\nrefresh-s = 0\n{cache}"), "rpki.refresh-s: 0 s is not allowed: 1 s would be"),
        (format!("[rpki]\nretry-s = 7201\n{cache}"), "rpki.retry-s: 7201 s is not allowed: 7200 s would be"),
        (format!("[rpki]\nexpire-s = 599\n{cache}"), "rpki.expire-s: 599 s is not allowed: "),
        (peer("rpki = \"reject-invalid\""), "there is no cache: give [[rpki.caches]]"),
        (format!("{}{cache}", peer("rpki = \"reject\"")), "rpki"),
        (format!("{}{cache}", peer("rpki = \"reject-invalid\"").replace("64501", "64500")), "peers[0].rpki: "),
    ];
    for (text, expected) in rows {
        let peers = if text.contains("[[peers]]") { String::new() } else { peer("") };
        let error =
            config::parse::<Config>("test.toml", &format!("{head}{peers}{text}\n[rib]\n")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?}, not {expected:?}");
    }
    config::parse::<Config>("test.toml", &format!("{head}{}{cache}[rib]\n", peer("rpki = \"reject-invalid\"")))
        .unwrap();
}
