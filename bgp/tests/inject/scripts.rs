//! Programs written for ExaBGP.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bgp_wire::{Capability, Community, ExtendedCommunity, Family, LargeCommunity};

use crate::support::{Router, Speaker, listener, until};

#[test]
fn a_script_for_exabgp_is_obeyed_and_its_end_withdraws() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    let script = "echo 'announce route 10.0.0.0/24 next-hop 192.0.2.1 community [64500:1]'\n\
                  echo 'announce attributes next-hop 192.0.2.1 nlri 10.0.1.0/24 10.0.2.0/24'\n\
                  echo 'announce route 11.0.0.0/24 next-hop 192.0.2.1'\n\
                  echo 'withdraw route 10.0.1.0/24'\n\
                  read a; read b; read c; read d; echo $a $b $c $d > \"$1\"\n\
                  while [ ! -e \"$2\" ]; do sleep 0.01; done\n";
    std::fs::write(speaker.path("script.sh"), script).unwrap();
    let run = ["script.sh", "answers", "go"].map(|name| format!("{:?}", speaker.path(name))).join(", ");
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text.push_str(&format!("[[inject.processes]]\nname = \"s\"\nrun = [\"/bin/sh\", {run}]\n"));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    until("the script's routes", || {
        router.read();
        let wanted: BTreeSet<String> = ["10.0.0.0/24", "10.0.2.0/24"].map(str::to_owned).into();
        (router.held == wanted).then_some(())
    });
    let answers =
        until("answers", || std::fs::read_to_string(speaker.path("answers")).ok().filter(|text| text.ends_with('\n')));
    assert_eq!(answers, "done done error done\n");
    std::fs::write(speaker.path("go"), "").unwrap();
    router.holds(0);
}

/// A speaker with the script `lines`, which then reads as many answers as there are lines and waits.
fn with_script(port: u16, more: &str, lines: &[&str]) -> Speaker {
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\", \"2001:db8::/32\"");
    speaker.kill();
    let echo: String = lines.iter().map(|line| format!("echo '{line}'\n")).collect();
    let script = format!("{echo}while read answer; do echo $answer >> \"$1\"; [ \"$answer\" = end ] && exit; done\n");
    std::fs::write(speaker.path("script.sh"), script).unwrap();
    let run = ["script.sh", "answers"].map(|name| format!("{:?}", speaker.path(name))).join(", ");
    let mut text = std::fs::read_to_string(speaker.path("speaker.toml")).unwrap();
    text = text.replacen("hold-time-s = 90\n", "hold-time-s = 90\nflowspec = true\n", 1);
    text.push_str(&format!("[[inject.processes]]\nname = \"s\"\nrun = [\"/bin/sh\", {run}]\n{more}"));
    std::fs::write(speaker.path("speaker.toml"), text).unwrap();
    speaker.start();
    speaker
}

#[test]
fn selectors_attributes_and_questions_of_scripts_are_answered_as_exabgp_does() {
    let (listener, port) = listener();
    let speaker = with_script(
        port,
        "",
        &[
            "neighbor 127.0.0.1 announce route 10.0.0.0/24 next-hop self extended-community [rt:64500:1] med 5",
            "neighbor 192.0.2.99 announce route 10.0.1.0/24 next-hop self",
            "announce route 10.0.8.0/23 next-hop 192.0.2.1 large-community 64500:1:2 split /24",
            "announce ipv6 unicast 2001:db8:1::/48 next-hop 2001:db8::1 community no-peer",
            "announce route 10.0.2.0/24 next-hop 192.0.2.1 watchdog dog withdraw",
            "announce eor",
            "announce watchdog dog",
            "version",
            "show adj-rib out",
            "withdraw route 10.0.8.0/24",
            "# end",
        ],
    );
    let mut router = Router::accept(&listener);
    router.synchronised();
    let expected: BTreeSet<String> =
        ["10.0.0.0/24", "10.0.9.0/24", "2001:db8:1::/48", "10.0.2.0/24"].map(str::to_owned).into();
    until("the script's routes", || {
        router.read();
        (router.held == expected).then_some(())
    });
    let first = &router.routes["10.0.0.0/24"];
    assert_eq!(first.next_hop, Some([127, 0, 0, 1].into()), "our own end of the session");
    assert_eq!(first.attributes.multi_exit_disc, Some(5));
    assert_eq!(first.attributes.extended_communities, [ExtendedCommunity([0, 2, 0xfb, 0xf4, 0, 0, 0, 1])]);
    assert_eq!(router.routes["10.0.9.0/24"].attributes.large_communities, [LargeCommunity(64500, 1, 2)]);
    assert_eq!(router.routes["2001:db8:1::/48"].attributes.communities, [Community::NO_PEER]);
    let answers = until("all answers", || {
        let text = std::fs::read_to_string(speaker.path("answers")).ok()?;
        (text.lines().filter(|line| ["done", "error"].contains(line)).count() == 11).then_some(text)
    });
    let words: Vec<&str> = answers.lines().filter(|line| ["done", "error"].contains(line)).collect();
    let expected = "done error done done done error done done done done done".split(' ').collect::<Vec<_>>();
    assert_eq!(words, expected, "{answers}");
    assert!(answers.contains("exabgp 4.2 text API"), "{answers}");
    assert!(answers.contains("neighbor 127.0.0.1 ipv4 unicast 10.0.0.0/24 next-hop self"), "{answers}");
    let mut api = speaker.api();
    let refused = api.ask(&serde_json::json!({"delete": {"set": "process s"}}));
    assert!(refused["error"].as_str().unwrap().contains("belongs to a program"));
}

#[test]
fn a_script_that_wants_no_answers_gets_none() {
    let (listener, port) = listener();
    let lines = ["announce route 10.0.0.0/24 next-hop 192.0.2.1", "hello", "version"];
    let speaker = with_script(port, "acknowledge = false\n", &lines);
    let mut router = Router::accept(&listener);
    router.holds(1);
    let answers = until("the version", || std::fs::read_to_string(speaker.path("answers")).ok());
    assert!(answers.starts_with("exabgp 4.2 text API"), "{answers}");
}

/// A script with everything that both understand.
const SCRIPT: &[&str] = &[
    "announce route 10.0.0.0/24 next-hop 192.0.2.1",
    "announce route 10.0.1.0/24 next-hop self",
    "announce route 10.0.2.7 next-hop 192.0.2.1 med 5 local-preference 200 origin incomplete",
    "announce route 10.0.3.0/24 next-hop 192.0.2.1 as-path [ 64501 4200000000 ] community [ 64500:1 no-export 4259840002 ]",
    "announce route 10.0.4.0/24 next-hop 192.0.2.1 extended-community [ target:64500:1 origin:64500:2 target4:64500:3 ]",
    "announce route 10.0.5.0/24 next-hop 192.0.2.1 large-community [ 64500:1:2 64500:3:4 ]",
    "announce route 10.0.8.0/22 next-hop 192.0.2.1 split /24",
    "announce route 2001:db8:1::/48 next-hop 2001:db8::1 community no-peer",
    "announce attributes next-hop 192.0.2.1 med 9 nlri 10.1.0.0/24 10.1.1.0/24",
    "neighbor 127.0.0.1 announce route 10.2.0.0/24 next-hop 192.0.2.1",
    "neighbor 127.0.0.1 , neighbor 192.0.2.99 announce route 10.2.1.0/24 next-hop 192.0.2.1",
    "neighbor 127.0.0.1 local-as 64500 peer-as 64500 announce route 10.2.2.0/24 next-hop 192.0.2.1",
    "neighbor 192.0.2.99 announce route 10.2.3.0/24 next-hop 192.0.2.1",
    "announce route 10.3.0.0/24 next-hop 192.0.2.1 med 1",
    "announce route 10.3.0.0/24 next-hop 192.0.2.1 med 2",
    "announce route 10.3.1.0/24 next-hop 192.0.2.1",
    "withdraw route 10.3.1.0/24",
    "withdraw route 10.0.9.0/24 next-hop 192.0.2.1",
    "announce route 10.9.0.1/24 next-hop 192.0.2.1",
    "announce route 10.9.1.0/24 next-hop 192.0.2.1 med x",
    "announce route 10.9.2.0/24 next-hop 192.0.2.1 nonsense 1",
    "announce route 10.4.0.0/24 next-hop 192.0.2.1 name last",
];

/// Flow rules that both understand, with what scripts print for the end of a line inside a command.
const FLOWS: &[&str] = &[
    "announce flow route { match { destination 10.0.0.0/24; protocol udp; source-port =123; } then { discard; } }",
    "announce flow route {\\\\n match {\\\\n source 192.0.2.0/24;\\\\n destination 10.0.1.0/24;\\\\n }\\\\n then {\\\\n rate-limit 9600;\\\\n }\\\\n }",
    "announce flow route destination 10.0.2.0/24 destination-port [ =80 =3128 >8080&<8088 ] protocol tcp redirect 64500:12345",
    "announce flow route { match { destination 10.0.3.0/24; fragment [ is-fragment first-fragment ]; packet-length >200&<300; } then { mark 20; action sample-terminal; community [ 64500:1 ]; } }",
    "announce flow route destination 10.0.4.0/24 protocol icmp icmp-type 8 dscp 10 discard",
    "announce flow route { match { destination 10.0.5.0/24; protocol tcp; tcp-flags [ syn ]; } then { redirect 4200000001:7; } }",
    "announce flow route { match { destination 2001:db8:1::/48; next-header tcp; destination-port =443; } then { discard; } }",
    "neighbor 127.0.0.1 announce flow route destination 10.0.6.0/24 protocol tcp discard",
    "neighbor 192.0.2.99 announce flow route destination 10.0.7.0/24 protocol tcp discard",
    "announce flow route destination 10.0.8.0/24 protocol tcp discard",
    "withdraw flow route destination 10.0.8.0/24 protocol tcp discard",
    // Once: of two rules for one match ExaBGP tells the one or the other last, as its loop happens to take them.
    "announce flow route destination 10.0.9.0/24 protocol tcp rate-limit 9600",
    "announce flow route { match { destination 10.0.10.0/24; source-port nonsense; } then { discard; } }",
    "announce route 10.4.0.0/24 next-hop 192.0.2.1",
];

#[test]
fn the_same_flow_lines_give_the_same_rules_and_answers_under_exabgp() {
    let (ours, port) = listener();
    let (theirs, their_port) = listener();
    let speaker = with_script(port, "", FLOWS);
    let Some(_exabgp) = ExaBgp::start(&speaker, their_port) else {
        cloakway_testing::skip("there is no exabgp here (Debian: apt install exabgp)");
        return;
    };
    let flow = || Family::ALL.map(Capability::Flow);
    let (mut ours, mut theirs) = (Router::accept_with(&ours, flow()), Router::accept_with(&theirs, flow()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        ours.read();
        theirs.read();
        if ours.flows.len() == 9 && ours.flows == theirs.flows {
            break;
        }
    }
    assert_eq!(ours.flows, theirs.flows);
    assert_eq!(ours.flows.len(), 9, "{:#?}", ours.flows);
    assert_eq!(answers(&speaker.path("answers"), FLOWS.len()), answers(&speaker.path("exabgp-answers"), FLOWS.len()));
}

/// ExaBGP with the script of `speaker`, killed when dropped.
struct ExaBgp(std::process::Child);

impl ExaBgp {
    /// `None`, where it is not installed.
    fn start(speaker: &Speaker, port: u16) -> Option<Self> {
        let (script, answers) = (speaker.path("script.sh"), speaker.path("exabgp-answers"));
        let text = format!(
            "process s {{ run /bin/sh {} {}; encoder text; }}\n\
             neighbor 127.0.0.1 {{ router-id 198.51.100.2; local-address 127.0.0.1; local-as 64500; peer-as 64500;\n\
             family {{ ipv4 unicast; ipv6 unicast; ipv4 flow; ipv6 flow; }} api {{ processes [ s ]; }} }}\n",
            script.display(),
            answers.display()
        );
        std::fs::write(speaker.path("exabgp.conf"), text).unwrap();
        let mut command = Command::new("exabgp");
        command.arg(speaker.path("exabgp.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        command
            .env("exabgp.tcp.port", port.to_string())
            .env("exabgp.api.cli", "false")
            .env("exabgp.daemon.user", "root");
        command.spawn().ok().map(Self)
    }
}

impl Drop for ExaBgp {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answers in `file` when there are as many as lines in the script.
fn answers(file: &std::path::Path, count: usize) -> Vec<String> {
    until("all answers", || {
        let text = std::fs::read_to_string(file).ok()?;
        let words: Vec<String> =
            text.lines().filter(|line| ["done", "error"].contains(line)).map(str::to_owned).collect();
        (words.len() == count).then_some(words)
    })
}

#[test]
fn the_same_script_gives_the_same_routes_and_answers_under_exabgp() {
    let (ours, port) = listener();
    let (theirs, their_port) = listener();
    let speaker = with_script(port, "", SCRIPT);
    let Some(_exabgp) = ExaBgp::start(&speaker, their_port) else {
        cloakway_testing::skip("there is no exabgp here (Debian: apt install exabgp)");
        return;
    };
    let (mut ours, mut theirs) = (Router::accept(&ours), Router::accept(&theirs));
    let mut difference = None;
    let same = |ours: &Router, theirs: &Router| {
        let all: BTreeSet<&String> = ours.held.union(&theirs.held).collect();
        all.into_iter().find_map(|prefix| {
            let (ours, mut theirs) = (ours.routes.get(prefix).cloned(), theirs.routes.get(prefix).cloned());
            if let Some(theirs) = &mut theirs {
                theirs.attributes.communities.sort_unstable();
                theirs.attributes.extended_communities.sort_unstable();
            }
            (ours != theirs).then(|| format!("{prefix}: {ours:?}, ExaBGP {theirs:?}"))
        })
    };
    // Neither sends in the order of the script.
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        ours.read();
        theirs.read();
        difference = same(&ours, &theirs);
        if ours.held.contains("10.4.0.0/24") && difference.is_none() {
            break;
        }
    }
    assert_eq!((difference, ours.held.len()), (None, 17));
    let count = SCRIPT.len();
    assert_eq!(answers(&speaker.path("answers"), count), answers(&speaker.path("exabgp-answers"), count));
}
