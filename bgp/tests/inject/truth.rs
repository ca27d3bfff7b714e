//! What the speaker says is so: who is told, what is on disk, and what was refused.

use std::collections::BTreeSet;

use bgp_wire::Capability;
use serde_json::{Value, json};

use crate::support::{Api, Router, Speaker, listener, until};

fn put(set: &str, next_hop: &str, prefixes: &[&str]) -> Value {
    json!({"put": {"set": set, "routes": [{"next-hop": next_hop, "prefixes": prefixes}]}})
}

fn error(api: &mut Api, request: &Value) -> String {
    let answer = api.ask(request);
    answer["error"].as_str().unwrap_or_else(|| panic!("{request}: {answer}")).to_owned()
}

#[test]
fn waiting_and_looking_up_tell_who_is_told_and_why_others_are_not() {
    let (edge, port) = listener();
    let (narrow, narrow_port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.edit(|text| {
        text + &format!(
            "[[prefix-lists]]\nname = \"few\"\nrules = [{{ prefix = \"10.1.0.0/16\", le = 32, action = \"permit\" }}]\n\
             [[peers]]\nname = \"narrow\"\nremote-as = 64500\naddress = \"127.0.0.2\"\nport = {narrow_port}\n\
             hold-time-s = 90\nexport-prefixes = \"few\"\n\
             [[peers]]\nname = \"far\"\nremote-as = 64500\naddress = \"127.0.0.3\"\nport = {narrow_port}\n"
        )
    });
    drop(narrow);
    let narrow = std::net::TcpListener::bind(("127.0.0.2", narrow_port)).unwrap();
    let mut edge = Router::accept_with(&edge, [Capability::ExtendedNextHop]);
    let mut narrow = Router::accept(&narrow);
    edge.synchronised();
    narrow.synchronised();
    let mut api = speaker.api();
    assert_eq!(api.ask(&put("a", "192.0.2.1", &["10.0.0.0/24", "10.1.0.0/24"]))["ok"]["added"], 2);

    let wait = api.ask(&json!({"wait": {"prefix": "10.0.0.0/24"}}))["ok"].clone();
    assert_eq!(wait["acknowledged-by"], json!(["edge"]));
    assert!(wait["not-told"]["narrow"].as_str().unwrap().contains("prefix list"), "{wait}");
    assert!(wait["not-told"]["far"].as_str().unwrap().contains("the session is"), "{wait}");
    let wait = api.ask(&json!({"wait": {"prefix": "10.1.0.0/24"}}))["ok"].clone();
    assert_eq!(wait["acknowledged-by"], json!(["edge", "narrow"]));
    let all = api.ask(&json!({"wait": {}}))["ok"].clone();
    assert_eq!(all["acknowledged-by"], json!(["edge", "narrow"]));
    assert_eq!(all["not-told"].as_object().unwrap().keys().collect::<Vec<_>>(), ["far"]);

    // For nobody that is there.
    let patch = json!({"patch": {"set": "a", "routes": [
        {"next-hop": "192.0.2.1", "peers": ["127.0.0.3"], "prefixes": ["10.1.9.0/24"]}]}});
    assert_eq!(api.ask(&patch)["ok"]["added"], 1);
    let nobody = error(&mut api, &json!({"wait": {"prefix": "10.1.9.0/24"}}));
    assert!(nobody.contains("10.1.9.0/24 is not announced: edge: the route names other peers"), "{nobody}");
    assert_eq!(api.ask(&json!({"look-up": {"prefix": "10.1.9.0/24"}}))["ok"]["announced"], false);

    // IPv4 by way of IPv6 is for who takes it, and the other is named with the reason.
    assert_eq!(api.ask(&put("six", "2001:db8::1", &["10.1.6.0/24"]))["ok"]["added"], 1);
    let wait = api.ask(&json!({"wait": {"prefix": "10.1.6.0/24"}}))["ok"].clone();
    assert_eq!(wait["acknowledged-by"], json!(["edge"]));
    assert!(wait["not-told"]["narrow"].as_str().unwrap().contains("RFC 8950"), "{wait}");
    api.send("{\"stream\":{\"set\":\"six\"}}\n{\"next-hop\":\"2001:db8::1\"}\n10.1.7.0/24\n.\n");
    assert_eq!(api.answer()["ok"]["added"], 1);
    until("the route by way of IPv6", || {
        edge.read();
        (edge.routes.get("10.1.6.0/24")?.next_hop == Some("2001:db8::1".parse().unwrap())).then_some(())
    });
    narrow.read();
    assert_eq!(narrow.held, BTreeSet::from(["10.1.0.0/24".to_owned()]));

    // Another set's route for the same prefix is where that one is not for the peer.
    assert_eq!(api.ask(&put("z", "192.0.2.9", &["10.1.6.0/24"]))["ok"]["added"], 1);
    let look_up = api.ask(&json!({"look-up": {"prefix": "10.1.6.0/24"}}))["ok"].clone();
    assert_eq!(look_up["told-from"], json!({"edge": "six", "narrow": "z"}), "{look_up}");
    assert_eq!(look_up["in-its-shadow"], json!(["z"]));
    narrow.holds(2);
    // What a set wants is listed, whichever set announces it.
    api.send("{\"get\":{\"set\":\"z\"}}\n");
    assert_eq!(api.answer()["routes"][0]["prefixes"], json!(["10.1.6.0/24"]));
    assert_eq!(api.answer()["ok"]["routes"], 1);
}

#[test]
fn sessions_of_one_router_split_the_sets() {
    let (first, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.edit(|text| {
        let peer = |name: &str, local: &str, set: &str| {
            format!(
                "[[peers]]\nname = {name:?}\nremote-as = 64500\naddress = \"127.0.0.1\"\nlocal-address = {local:?}\n\
                 port = {port}\nhold-time-s = 90\nexport = \"injected\"\nsets = [{set:?}]\n"
            )
        };
        let (head, tail) = (text.find("[[peers]]").unwrap(), text.find("[inject]").unwrap());
        format!(
            "{}{}{}{}[[inject.sets]]\nname = \"short\"\nkeep-s = 60\n[[inject.sets]]\nname = \"long\"\nkeep-s = 3600\n",
            &text[..head],
            peer("one", "127.0.0.11", "short"),
            peer("two", "127.0.0.12", "long"),
            &text[tail..]
        )
    });
    let mut routers = [Router::accept(&first), Router::accept(&first)];
    routers.iter_mut().for_each(Router::synchronised);
    let mut api = speaker.api();
    for (set, prefix) in [("short", "10.0.0.0/24"), ("long", "10.1.0.0/24")] {
        assert_eq!(api.ask(&put(set, "192.0.2.1", &[prefix]))["ok"]["added"], 1);
    }
    routers.iter_mut().for_each(|router| router.holds(1));
    for router in &routers {
        // The session from 127.0.0.11 has the one, that from 127.0.0.12 the other, each with its own time.
        let (set, keep_s) = if router.from().ends_with("11") { ("10.0.0.0/24", 60) } else { ("10.1.0.0/24", 3600) };
        assert_eq!(router.held, BTreeSet::from([set.to_owned()]));
        let offered = router.open.capabilities.iter().find_map(|capability| match capability {
            Capability::LongLivedGracefulRestart(families) => families.first().map(|family| family.stale_time_s),
            _ => None,
        });
        assert_eq!(offered, Some(keep_s));
    }
    let wait = api.ask(&json!({"wait": {"prefix": "10.1.0.0/24"}}))["ok"].clone();
    assert_eq!(wait["acknowledged-by"], json!(["two"]));
    assert!(wait["not-told"]["one"].as_str().unwrap().contains("other sets"), "{wait}");
}

#[test]
fn a_full_disk_refuses_and_what_it_refused_never_comes_back() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.kill();
    // No file of this process may grow beyond 32 KiB: what does is cut off there, as on a full disk.
    speaker.start_within(64);
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    let first = json!({"id": "first", "put": {"set": "a", "routes": [
        {"next-hop": "192.0.2.1", "prefixes": ["10.0.0.0/24"]}]}});
    assert_eq!(api.ask(&first)["ok"]["added"], 1);
    let bulk = |set: &str, count: u32| {
        let mut text = format!("{{\"id\":{set:?},\"stream\":{{\"set\":{set:?}}}}}\n{{\"next-hop\":\"192.0.2.1\"}}\n");
        (0..count).for_each(|n| text.push_str(&format!("10.9.{}.{}/32\n", n >> 8, n & 0xff)));
        text + ".\n"
    };
    for (set, count) in [("large", 10_000), ("huge", 60_000)] {
        api.send(&bulk(set, count));
        let refused = api.answer();
        assert!(refused["error"].as_str().unwrap().contains("nothing of it is accepted"), "{refused}");
    }
    // There is room for this, and it is accepted like anything else.
    let second = json!({"id": "second", "put": {"set": "b", "routes": [
        {"next-hop": "192.0.2.1", "prefixes": ["10.0.1.0/24"]}]}});
    assert_eq!(api.ask(&second)["ok"]["added"], 1);
    router.holds(2);
    speaker.kill();
    drop(router);

    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    assert_eq!(router.held, ["10.0.0.0/24", "10.0.1.0/24"].map(str::to_owned).into());
    let mut api = speaker.api();
    assert_eq!(api.ask(&first)["ok"]["added"], 1, "the same request has the same answer");
    assert!(error(&mut api, &json!({"wait": {"request": "large"}})).contains("no request large"));
    // What was refused may be asked again under its id.
    api.send(&bulk("large", 10_000));
    assert_eq!(api.answer()["ok"]["added"], 10_000);
}

#[test]
fn a_journal_that_is_gone_or_damaged_is_not_passed_over() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    for n in 0..3 {
        assert_eq!(api.ask(&put(&n.to_string(), "192.0.2.1", &[&format!("10.0.{n}.0/24")]))["ok"]["added"], 1);
    }
    let whole = std::fs::read(speaker.path("journal")).unwrap();
    std::fs::remove_file(speaker.path("journal")).unwrap();
    let refused = error(&mut api, &put("late", "192.0.2.1", &["10.0.9.0/24"]));
    assert!(refused.contains("the journal was removed"), "{refused}");
    router.holds(3);
    speaker.kill();
    drop(router);

    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    std::fs::write(speaker.path("journal"), &damaged).unwrap();
    let said = speaker.starts_in_vain();
    assert!(said.contains("damaged at octet") && said.contains("journal"), "{said}");
    assert_eq!(std::fs::read(speaker.path("journal")).unwrap(), damaged, "it is left as it is");

    std::fs::write(speaker.path("journal"), &whole).unwrap();
    speaker.start();
    let mut router = Router::accept(&listener);
    router.synchronised();
    assert_eq!(router.held.len(), 3);
}

#[test]
fn close_to_the_limit_it_is_counted_what_is_new() {
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    speaker.edit(|text| text + "max-routes = 3\n");
    let mut router = Router::accept(&listener);
    router.synchronised();
    let mut api = speaker.api();
    assert_eq!(api.ask(&put("a", "192.0.2.1", &["10.0.0.0/24", "10.0.1.0/24"]))["ok"]["added"], 2);
    let patch = |remove: &[&str], add: &[&str], med: u32| {
        let routes = [json!({"next-hop": "192.0.2.1", "med": med, "prefixes": add})];
        json!({"patch": {"set": "a", "remove": remove, "routes": routes}})
    };
    assert_eq!(api.ask(&patch(&[], &["10.0.0.0/24", "10.0.1.0/24"], 5))["ok"]["changed"], 2);
    assert_eq!(api.ask(&patch(&["10.0.0.0/24"], &["10.0.2.0/24", "10.0.3.0/24"], 5))["ok"]["added"], 2);
    let full = error(&mut api, &patch(&[], &["10.0.4.0/24"], 5));
    assert!(full.contains("4 routes in all: at most 3"), "{full}");
    let full = error(&mut api, &put("b", "192.0.2.1", &["10.0.1.0/24"]));
    assert!(full.contains("4 routes in all: at most 3"), "{full}");
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_so() {
    let (_listener, port) = listener();
    let speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let mut taken: Vec<Api> = (0..64).map(|_| speaker.api()).collect();
    taken.iter_mut().for_each(|api| assert_eq!(api.ask(&json!({"sets": {}}))["ok"], json!([])));
    let answer = speaker.api().answer();
    assert!(answer["error"].as_str().unwrap().contains("64 clients are connected"), "{answer}");
    taken.pop();
    until("a place", || {
        let mut api = speaker.api();
        api.send("{\"sets\":{}}\n");
        api.answer().get("ok").cloned()
    });
}
