//! Sets that follow what they lead to.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Community};
use serde_json::json;

use crate::support::{Api, Router, Speaker, listener, until};

/// A speaker with more in its configuration, and its router.
fn with(more: &str) -> (Speaker, Router) {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text.push_str(&more.replace("FOLDER", speaker.folder.path().to_str().unwrap()));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    (speaker, router)
}

fn put(api: &mut Api, set: &str, prefix: &str) {
    let put =
        json!({"put": {"set": set, "routes": [{"next-hop": "192.0.2.1", "prefixes": [prefix], "as-path": [64501]}]}});
    assert_eq!(api.ask(&put)["ok"]["added"], 1);
}

#[test]
fn a_checked_set_is_announced_while_its_port_answers() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    let (service, service_port) = self::listener();
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text.push_str(&format!("[[inject.checks]]\nset = \"a\"\ntcp = \"127.0.0.1:{service_port}\"\nevery-ms = 20\n"));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    let put = json!({"put": {"set": "a", "routes": [{"next-hop": "192.0.2.1", "prefixes": ["10.0.0.0/24"]}]}});
    assert_eq!(api.ask(&put)["ok"]["added"], 1);
    router.holds(1);
    drop(service);
    router.holds(0);
    assert_eq!(api.ask(&json!({"look-up": {"prefix": "10.0.0.0/24"}}))["ok"]["announced"], false);
    let _service = TcpListener::bind(("127.0.0.1", service_port)).unwrap();
    router.holds(1);
}

#[test]
fn a_set_that_falls_is_drained_first() {
    let (speaker, mut router) = with(
        "[[inject.checks]]\nset = \"a\"\ncommand = [\"/bin/sh\", \"-c\", \"test -e FOLDER/good\"]\nevery-ms = 20\n\
         rise = 1\nfall = 1\ndrain-s = 1\n",
    );
    let mut api = speaker.api();
    put(&mut api, "a", "10.0.0.0/24");
    router.read();
    assert!(router.held.is_empty(), "nothing has been seen to be good yet");
    std::fs::write(speaker.path("good"), "").unwrap();
    router.holds(1);
    assert_eq!(router.routes["10.0.0.0/24"].attributes.communities, []);
    std::fs::remove_file(speaker.path("good")).unwrap();
    until("the drain", || {
        router.read();
        let route = &router.routes.get("10.0.0.0/24")?.attributes;
        (route.communities == [Community::GRACEFUL_SHUTDOWN] && route.local_pref == Some(0)).then_some(())
    });
    assert_eq!(api.ask(&json!({"sets": {}}))["ok"][0]["held-by"], json!(["check"]));
    router.holds(0);
    // What comes back while it drains is told as before, and stays.
    std::fs::write(speaker.path("good"), "").unwrap();
    until("the route without the mark", || {
        router.read();
        router.routes.get("10.0.0.0/24")?.attributes.communities.is_empty().then_some(())
    });
}

#[test]
fn the_operator_drains_and_resumes_and_a_restart_does_not_resume() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    put(&mut api, "a", "10.0.0.0/24");
    put(&mut api, "b", "10.0.1.0/24");
    router.holds(2);
    assert!(api.ask(&json!({"drain": {"set": "c"}}))["error"].as_str().unwrap().contains("no set is called"));
    let drain = json!({"drain": {"set": "a", "for-s": 1, "by": {"med": 4000}}});
    assert_eq!(api.ask(&drain)["ok"]["held-by"], json!(["drained"]));
    until("the MED", || {
        router.read();
        (router.routes.get("10.0.0.0/24")?.attributes.multi_exit_disc == Some(4000)).then_some(())
    });
    router.holds(1);
    assert_eq!(router.routes["10.0.1.0/24"].attributes.multi_exit_disc, None);
    speaker.kill();
    drop(router);
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    assert_eq!(router.held.len(), 1);
    let mut api = speaker.api();
    assert_eq!(api.ask(&json!({"resume": {"set": "a"}}))["ok"]["held-by"], json!([]));
    router.holds(2);
    assert_eq!(router.routes["10.0.0.0/24"].attributes.as_path.as_ref().unwrap().first(), Some(Asn(64501)));
}

#[test]
fn a_set_follows_the_forwarder_and_falls_at_its_word() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("health");
    let forwarder = UnixListener::bind(&socket).unwrap();
    let (speaker, mut router) = with(&format!(
        "[[inject.checks]]\nset = \"a\"\nforwarder = \"203.0.113.200/32\"\n\
         [[private-routes]]\nprefix = \"203.0.113.200/32\"\nnext-hop = \"192.0.2.9\"\n[health]\nsocket = {socket:?}\n"
    ));
    let (mut stream, _) = forwarder.accept().unwrap();
    let mut api = speaker.api();
    put(&mut api, "a", "10.0.0.0/24");
    let mut say = |message: forwarder_wire::Message| {
        stream.write_all(forwarder_wire::encode(&message).as_bytes()).unwrap();
    };
    let word = |healthy| forwarder_wire::Message::Prefix {
        prefix: "203.0.113.200/32".parse().unwrap(),
        healthy,
        reason: "link".to_owned(),
    };
    let mut sequence = 0;
    let mut beat = || {
        sequence += 1;
        forwarder_wire::Message::Heartbeat { sequence }
    };
    say(beat());
    say(word(true));
    router.holds(2);
    // Its heartbeats go on, so that no silence can be the reason.
    say(word(false));
    until("both are withdrawn", || {
        say(beat());
        router.read();
        router.held.is_empty().then_some(())
    });
}

#[test]
fn a_set_follows_a_host_that_answers_echo_requests() {
    let (speaker, mut router) = with(
        "[[inject.checks]]\nset = \"a\"\nicmp = \"127.0.0.1\"\nevery-ms = 20\nrise = 1\n\
         [[inject.checks]]\nset = \"b\"\nicmp = \"240.0.0.1\"\nevery-ms = 20\ntimeout-ms = 20\n",
    );
    let mut api = speaker.api();
    put(&mut api, "b", "10.0.1.0/24");
    put(&mut api, "a", "10.0.0.0/24");
    router.holds(1);
    assert!(router.held.contains("10.0.0.0/24"));
}

/// The far end of a path, until it is frozen.
struct FarEnd {
    socket: UdpSocket,
    session: bfd_core::Session,
    start: Instant,
}

impl FarEnd {
    const INTERVAL: Duration = Duration::from_millis(30);

    fn new(address: IpAddr) -> Self {
        let socket = UdpSocket::bind((address, 3784)).unwrap();
        socket.set_ttl(255).unwrap();
        socket.set_nonblocking(true).unwrap();
        let settings = bfd_core::Settings {
            interval: Self::INTERVAL,
            multiplier: 3.try_into().unwrap(),
            discriminator: 7.try_into().unwrap(),
        };
        let (session, start) = (bfd_core::Session::new(settings, 1, cloakway_types::Instant::ORIGIN), Instant::now());
        Self { socket, session, start }
    }

    /// Answers and sends what is due, to `peer`.
    /// How many packets came.
    fn turn(&mut self, peer: IpAddr) -> u32 {
        let now = cloakway_types::Instant::after_origin(self.start.elapsed());
        let (mut bytes, mut came) = ([0; 128], 0);
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.session.handle(bfd_core::Input::Received(&bytes[..length]), now);
            came += 1;
        }
        if self.session.poll_timeout().is_some_and(|due| due <= now) {
            self.session.handle(bfd_core::Input::Tick, now);
        }
        while let Some(output) = self.session.poll_output() {
            if let bfd_core::Output::Send(packet) = output {
                let _ = self.socket.send_to(&packet, (peer, 3784));
            }
        }
        came
    }
}

#[test]
fn a_set_follows_the_path_that_bfd_watches() {
    // Addresses of this process alone.
    let id = std::process::id().to_be_bytes();
    let (ours, theirs) = (IpAddr::from([127, 77, id[2], id[3]]), IpAddr::from([127, 78, id[2], id[3]]));
    let mut far_end = FarEnd::new(theirs);
    let (speaker, mut router) = with(&format!(
        "[[inject.checks]]\nset = \"a\"\nbfd = {{ address = \"{theirs}\", local-address = \"{ours}\", interval-ms = 30 }}\n"
    ));
    let mut api = speaker.api();
    put(&mut api, "a", "10.0.0.0/24");
    until("the path and the route", || {
        far_end.turn(ours);
        router.read();
        (router.held.len() == 1).then_some(())
    });
    // RFC 5880 §6.8.3: both begin with a packet a second, and are soon as fast as they settled.
    let (mut since, mut came) = (Instant::now(), 0);
    until("packets every 30 ms", || {
        came += far_end.turn(ours);
        if since.elapsed() > Duration::from_millis(600) {
            (since, came) = (Instant::now(), 0);
        }
        (came >= 8).then_some(())
    });
    let up = format!("bgp_speaker_bfd_up{{address=\"{theirs}\"}}");
    until("the metric", || {
        far_end.turn(ours);
        (speaker.metric(&up) == Some(1.0)).then_some(())
    });
    // Frozen: it says nothing any more.
    let frozen = Instant::now();
    router.holds(0);
    println!("frozen to withdrawn: {:?} (three packets of 30 ms)", frozen.elapsed());
    speaker.counts(&up, |value| value == 0.0);
    let changes = |to: &str| format!("bgp_speaker_bfd_changes_total{{address=\"{theirs}\",to={to:?}}}");
    speaker.counts(&changes("up"), |value| value >= 1.0);
    speaker.counts(&changes("down"), |value| value >= 1.0);
    let events = speaker.events();
    assert!(events.contains("\"event\":\"bfd-up\"") && events.contains("\"event\":\"bfd-down\""), "{events}");
    until("the path and the route once more", || {
        far_end.turn(ours);
        router.read();
        (router.held.len() == 1).then_some(())
    });
}
