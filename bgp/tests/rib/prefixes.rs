//! The topic `prefixes`: which of the routes of peers are told to whom, and when nothing is said.

use bgp_wire::{Community, Family, Update};
use serde_json::{Value, json};

use crate::support::{Router, Speaker, gone, route};

async fn told(speaker: &Speaker, arguments: &[(&str, &str)]) -> Value {
    speaker.ask("prefixes", arguments).await.unwrap()
}

/// Waits until the routes that fit `arguments` are `prefixes`.
async fn until(speaker: &Speaker, arguments: &[(&str, &str)], prefixes: Value) {
    let mut last = Value::Null;
    let found = tokio::time::timeout(crate::shared::PATIENCE, async {
        while last["prefixes"] != prefixes {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            last = told(speaker, arguments).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{arguments:?}: {last}"));
}

#[tokio::test]
async fn best_routes_that_fit_are_told_once_their_peers_have_told_all() {
    let (mut a, mut b) = (Router::new(64501, 41).await, Router::new(64502, 42).await);
    let speaker = Speaker::start(&(a.table("import = \"all\"") + &b.table("import = \"all\"")));
    let nobody = json!({"ready": false, "why": "no peer that routes are imported from is up"});
    speaker.show_until("prefixes", |shown| *shown == nobody).await;
    a.establish().await;
    b.establish().await;
    let marked: Community = "64500:100".parse().unwrap();
    a.tell(route(&["198.51.100.0/25", "198.51.100.128/25"], &[64501], &[marked])).await;
    a.tell(route(&["198.51.102.0/24"], &[64501, 64510], &[])).await;
    // Not inside what is private, and not the better one of two.
    a.tell(route(&["203.0.113.200/32", "198.51.104.0/24"], &[64501, 64501, 64501], &[marked])).await;
    b.tell(route(&["192.0.2.0/25", "198.51.104.0/24"], &[64502], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 6).await;
    let why = json!({"ready": false, "why": "no peer has told all of its routes yet"});
    assert_eq!(told(&speaker, &[]).await, why);
    b.tell(Update::end_of_rib(Family::Ipv4)).await;
    speaker.show_until("rib", |rib| rib["not_ready"].is_null()).await;
    assert_eq!(told(&speaker, &[("neighbour", "as64501")]).await, why, "of the peer in question");
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    speaker.show_until("rib", |rib| rib["peers"][0]["ready"] == true).await;

    let all = json!(["192.0.2.0/25", "198.51.100.0/24", "198.51.102.0/24", "198.51.104.0/24"]);
    for (arguments, prefixes) in [
        (&[][..], all),
        (&[("community", "64500:100,64500:1:2")], json!(["198.51.100.0/24"])),
        (&[("origin-as", "64510,64502")], json!(["192.0.2.0/25", "198.51.102.0/24", "198.51.104.0/24"])),
        (&[("neighbour", "as64501")], json!(["198.51.100.0/24", "198.51.102.0/24"])),
        (&[("neighbour", "as64501"), ("origin-as", "64501")], json!(["198.51.100.0/24"])),
        (&[("within", "198.51.100.0/25,198.51.102.0/23")], json!(["198.51.100.0/25", "198.51.102.0/24"])),
        (&[("within", "203.0.113.0/24")], json!([])),
    ] {
        assert_eq!(told(&speaker, arguments).await["prefixes"], prefixes, "{arguments:?}");
    }
    let first = told(&speaker, &[]).await;
    let tag = first["tag"].as_str().unwrap();
    assert_eq!(told(&speaker, &[("known", tag)]).await, json!({"ready": true, "tag": tag}));
    let few = told(&speaker, &[("most", "3")]).await;
    assert_eq!((&few["ready"], few["prefixes"].is_null()), (&json!(false), true), "{few}");
    for (name, value, error) in [
        ("neighbour", "as1", "no peer is called \"as1\""),
        ("community", "64500", "community \"64500\" is not understood"),
        ("within", "198.51.100.1/24", "within \"198.51.100.1/24\": prefixes, with commas"),
        ("origin-as", "x", "origin-as \"x\""),
    ] {
        let refusal = speaker.ask("prefixes", &[(name, value)]).await.unwrap_err();
        assert!(refusal.contains(error), "{refusal}");
    }

    a.tell(gone("198.51.100.0/25")).await;
    until(&speaker, &[("community", "64500:100")], json!(["198.51.100.128/25"])).await;
    // The loss of a named peer is no empty list.
    a.stream = None;
    speaker.show_until("rib", |rib| rib["peers"][0]["ready"] == false).await;
    assert_eq!(told(&speaker, &[("neighbour", "as64501")]).await, nobody);
    until(&speaker, &[], json!(["192.0.2.0/25", "198.51.104.0/24"])).await;
    speaker.end().await;
}
