//! Metrics and events of what runs beside the routes: docs/bgp-operate.md says what each means.

use std::net::TcpStream;

use bgp_wire::{Capability, Family, GracefulRestart};
use serde_json::json;

use crate::support::{Router, Speaker, listener, until};

#[test]
fn what_is_accepted_sent_acknowledged_and_checked_is_counted() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let folder = speaker.folder.path().display().to_string();
    speaker.edit(|text| {
        format!(
            "{text}[[inject.checks]]\nset = \"c\"\ncommand = [\"/bin/sh\", \"-c\", \"test -e {folder}/good\"]\n\
             every-ms = 20\nrise = 1\nfall = 1\n"
        )
    });
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    let put =
        |prefixes: &[&str]| json!({"put": {"set": "a", "routes": [{"next-hop": "192.0.2.1", "prefixes": prefixes}]}});
    assert_eq!(api.ask(&put(&["10.0.0.0/24", "10.0.1.0/24"]))["ok"]["added"], 2);
    api.ask(&json!({"wait": {}}));
    assert_eq!(api.ask(&put(&["10.0.0.0/24"]))["ok"]["removed"], 1);
    let patch = json!({"id": "x", "patch": {"set": "b", "remove": ["10.7.0.0/24"]}});
    assert!(api.ask(&patch).get("ok").is_some());
    assert!(api.ask(&json!({"id": "x", "delete": {"set": "b"}})).get("error").is_some());
    assert!(api.ask(&json!({"wait": {}})).get("ok").is_some());
    speaker.counts("bgp_speaker_inject_accepted_prefixes_total{change=\"added\"}", |value| value == 2.0);
    speaker.counts("bgp_speaker_inject_accepted_prefixes_total{change=\"removed\"}", |value| value == 1.0);
    speaker.counts("bgp_speaker_inject_requests_total", |value| value == 3.0);
    speaker.counts("bgp_speaker_inject_refused_total", |value| value == 1.0);
    speaker.counts("bgp_speaker_inject_routes", |value| value == 1.0);
    speaker.counts("bgp_speaker_inject_sent_prefixes_total{peer=\"edge\"}", |value| value == 3.0);
    for name in ["unsent_octets", "unacknowledged_octets", "inject_behind"] {
        speaker.counts(&format!("bgp_speaker_{name}{{peer=\"edge\"}}"), |value| value == 0.0);
    }
    let healthy = "bgp_speaker_inject_set_healthy{set=\"c\",kind=\"command\"}";
    speaker.counts(healthy, |value| value == 0.0);
    std::fs::write(speaker.path("good"), "").unwrap();
    speaker.counts(healthy, |value| value == 1.0);
    speaker.counts("bgp_speaker_inject_set_shown{set=\"c\"}", |value| value == 1.0);
    speaker.counts("bgp_speaker_inject_looks_total{set=\"c\",kind=\"command\",found=\"good\"}", |value| value >= 1.0);
    std::fs::remove_file(speaker.path("good")).unwrap();
    speaker.counts(healthy, |value| value == 0.0);
    speaker.counts("bgp_speaker_inject_set_shown{set=\"c\"}", |value| value == 0.0);
    speaker.counts("bgp_speaker_inject_looks_total{set=\"c\",kind=\"command\",found=\"bad\"}", |value| value >= 1.0);
    let drain = json!({"drain": {"set": "a", "for-s": 60}});
    assert!(api.ask(&drain).get("ok").is_some());
    speaker.counts("bgp_speaker_inject_set_draining{set=\"a\"}", |value| value == 1.0);
    assert!(api.ask(&json!({"resume": {"set": "a"}})).get("ok").is_some());
    speaker.counts("bgp_speaker_inject_set_draining{set=\"a\"}", |value| value == 0.0);
    let events = speaker.events();
    for event in ["check-rose", "check-fell", "injected", "injection-refused"] {
        assert!(events.contains(&format!("\"event\":{event:?}")), "{event}: {events}");
    }
}

#[test]
fn what_stays_of_a_peer_and_how_many_routes_it_may_tell_is_counted() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.edit(|text| {
        let more = "hold-time-s = 90\nimport = \"all\"\nmax-prefix = { limit = 2, warn-percent = 100, restart-s = 600 }\n\
                    graceful-restart = { restart-s = 300 }\n";
        text.replacen("hold-time-s = 90\n", more, 1)
    });
    let graceful = || {
        let families = Family::ALL.map(|family| (family, true)).into();
        let graceful = GracefulRestart { restarted: false, notification: true, restart_time_s: 120, families };
        [Capability::GracefulRestart(graceful)]
    };
    let mut router = Router::accept_with(&listener, graceful());
    router.synchronised();
    router.announce(&["10.9.0.0/24"]);
    router.end();
    let of = |name: &str| format!("bgp_speaker_{name}{{peer=\"edge\",family=\"ipv4\"}}");
    speaker.counts(&of("held_routes"), |value| value == 1.0);
    speaker.counts(&of("outdated_routes"), |value| value == 0.0);
    speaker.counts("bgp_speaker_max_prefix_limit{peer=\"edge\"}", |value| value == 2.0);
    drop(router);
    speaker.counts(&of("outdated_routes"), |value| value == 1.0);
    speaker.counts(&of("outdated_seconds"), |value| value > 60.0 && value <= 120.0);
    speaker.counts(&of("outdated_long_lived"), |value| value == 0.0);
    until("the event", || speaker.events().contains("\"event\":\"restart-began\"").then_some(()));
    let mut router = Router::accept_with(&listener, graceful());
    router.synchronised();
    router.announce(&["10.9.1.0/24"]);
    router.end();
    speaker.counts(&of("outdated_seconds"), |value| value == 0.0);
    until("the end of it", || speaker.events().contains("\"event\":\"restart-ended\"").then_some(()));
    speaker.counts(&of("held_routes"), |value| value == 1.0);
    router.announce(&["10.9.2.0/24"]);
    speaker.counts("bgp_speaker_max_prefix_warnings_total{peer=\"edge\"}", |value| value >= 1.0);
    router.announce(&["10.9.3.0/24"]);
    speaker.counts("bgp_speaker_max_prefix_ended_total{peer=\"edge\"}", |value| value == 1.0);
    speaker.counts(&of("held_routes"), |value| value == 0.0);
    let events = speaker.events();
    for event in ["many-prefixes", "max-prefix-ended", "session-down"] {
        assert!(events.contains(&format!("\"event\":{event:?}")), "{event}: {events}");
    }
    speaker.counts("bgp_speaker_keeps_seconds{peer=\"edge\"}", |value| value == 0.0);
}

#[test]
fn dynamic_neighbours_and_reloads_are_counted() {
    let (_listener, port) = listener();
    let (free, listen) = listener();
    drop(free);
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.edit(|text| {
        let text = text.replacen("[[peers]]", &format!("listen = [\"127.0.0.1:{listen}\"]\n[[peers]]"), 1);
        let group = "[[peer-groups]]\nname = \"leaf\"\nremote-as = 64500\n";
        let head = text.find("[inject]").unwrap();
        format!(
            "{}{group}[[dynamic-peers]]\nprefix = \"127.0.0.0/25\"\ngroup = \"leaf\"\nlimit = 7\n{}",
            &text[..head],
            &text[head..]
        )
    });
    let label = "{prefix=\"127.0.0.0/25\"}";
    speaker.counts(&format!("bgp_speaker_dynamic_peers_limit{label}"), |value| value == 7.0);
    speaker.counts(&format!("bgp_speaker_dynamic_peers{label}"), |value| value == 0.0);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 17], 0)).into()).unwrap();
    until("a connection", || socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], listen)).into()).ok());
    let stream = TcpStream::from(socket);
    speaker.counts(&format!("bgp_speaker_dynamic_peers{label}"), |value| value == 1.0);
    drop(stream);
    speaker.counts(&format!("bgp_speaker_dynamic_peers{label}"), |value| value == 0.0);

    let config = speaker.path("speaker.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("limit = 7", "limit = 8")).unwrap();
    assert_eq!(speaker.reload(), Some(0));
    speaker.counts(&format!("bgp_speaker_dynamic_peers_limit{label}"), |value| value == 8.0);
    std::fs::write(&config, "nonsense").unwrap();
    assert_eq!(speaker.reload(), Some(1));
    speaker.counts("bgp_speaker_reloads_total{result=\"done\"}", |value| value == 1.0);
    speaker.counts("bgp_speaker_reloads_total{result=\"refused\"}", |value| value == 1.0);
    let events = speaker.events();
    for event in ["reloaded", "reload-refused"] {
        assert!(events.contains(&format!("\"event\":{event:?}")), "{event}: {events}");
    }
}
