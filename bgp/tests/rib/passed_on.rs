//! Best routes on their way to other peers, and the reasons that are shown.

use std::collections::BTreeSet;

use bgp_wire::{Community, Message, RouteRefresh};
use serde_json::Value;

use crate::support::{Router, Speaker, gone, route};

#[tokio::test]
async fn best_routes_are_passed_on_where_the_operator_says_so_and_taken_back_with_their_peer() {
    let (mut a, mut b) = (Router::new(64501, 11).await, Router::new(64502, 12).await);
    let (mut told, mut quiet) = (Router::new(64503, 13).await, Router::new(64504, 14).await);
    let peers = [
        a.table("import = \"all\""),
        b.table("import = \"all\""),
        told.table("pass-on = true"),
        quiet.table("export = \"all\""),
    ];
    let speaker = Speaker::start(&peers.concat());
    for router in [&mut a, &mut b, &mut told, &mut quiet] {
        router.establish().await;
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8"], &[64501, 64510], &[])).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64501 64510 via 127.0.0.1");
    // A longer path changes nothing, what is marked stays here, and a private prefix goes nowhere.
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 64510], &[])).await;
    b.tell(route(&["11.0.0.0/8"], &[64502, 64511], &[Community::NO_EXPORT])).await;
    b.tell(route(&["203.0.113.200/32"], &[64502], &[])).await;
    b.tell(route(&["12.0.0.0/8"], &[64502, 64512], &[])).await;
    assert_eq!(told.update().await, "+12.0.0.0/8 by 64500 64502 64512 via 127.0.0.1");
    let shown = speaker.show_until("look-up 10.9.9.9", |shown| shown["routes"].as_array().unwrap().len() == 2).await;
    assert_eq!((&shown["prefix"], &shown["origin_as"]), (&"10.0.0.0/8".into(), &64510.into()));
    assert_eq!((&shown["routes"][0]["peer"], &shown["routes"][0]["reason"]), (&"as64501".into(), &"best".into()));
    assert_eq!(shown["routes"][1]["reason"], "not best: longer AS path");
    // The same, seen from the prefix and from everything that there is.
    let why = speaker.ask("why", &[("prefix", "10.0.0.0/8")]).await.unwrap();
    let row =
        |rows: &Value, peer: &str| rows.as_array().unwrap().iter().find(|row| row["peer"] == peer).unwrap().clone();
    let (to_told, to_a, to_quiet) = (row(&why, "as64503"), row(&why, "as64501"), row(&why, "as64504"));
    assert_eq!((&to_told["source"], &to_told["announced"]), (&"received".into(), &true.into()), "{why}");
    assert_eq!(to_told["reason"], "announced: best of as64501; of as64502, not best: longer AS path");
    assert_eq!((&to_a["announced"], &to_quiet["announced"]), (&false.into(), &false.into()));
    assert!(to_quiet["reason"].as_str().unwrap().starts_with("pass-on is not set"), "{why}");
    let why = speaker.ask("why", &[("prefix", "11.0.0.0/8"), ("peer", "as64503")]).await.unwrap();
    assert_eq!(why[0]["reason"], "marked no-export, and the peer is external; best of as64502");
    let rows = speaker.ask("routes", &[("source", "received"), ("inside", "10.0.0.0/7")]).await.unwrap();
    let brief: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["from"].as_str().unwrap(), &row["reason"], &row["announced_to"]))
        .collect();
    assert_eq!(brief.len(), 3, "{rows}");
    assert!(brief.contains(&("as64501", &"best".into(), &serde_json::json!(["as64503"]))), "{rows}");
    assert!(brief.contains(&("as64502", &"not best: longer AS path".into(), &serde_json::json!([]))), "{rows}");
    let rows = speaker.ask("routes", &[("limit", "1")]).await.unwrap();
    let sources: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["private", "received", "received"], "one, and the word that there are more");
    for (name, value) in [("source", "x"), ("inside", "x"), ("limit", "x")] {
        assert!(speaker.ask("routes", &[(name, value)]).await.unwrap_err().contains("\"x\""));
    }
    let shown = speaker.show_until("look-up 203.0.113.200", |shown| !shown["routes"][0].is_null()).await;
    assert_eq!(shown["routes"][0]["reason"], "rejected: touches a private prefix of ours");
    assert!(shown["origin_as"].is_null());
    // The peer is lost, and the other's route takes its place.
    a.stream = None;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64502 64502 64510 via 127.0.0.1");
    b.tell(gone("12.0.0.0/8")).await;
    assert_eq!(told.update().await, "-12.0.0.0/8");
    told.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64502 64502 64510 via 127.0.0.1");
    b.stream = None;
    assert_eq!(told.update().await, "-10.0.0.0/8");
    let rib = speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 0).await;
    assert_eq!(rib["attribute_sets"], 0);
    // The one that nobody spoke of has heard nothing all the while.
    quiet.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    a.establish().await;
    a.ends().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64501 via 127.0.0.1");
    let stopping = tokio::spawn(speaker.end());
    loop {
        match quiet.next().await {
            Some(Message::KeepAlive) => {}
            Some(Message::Notification(_)) => break,
            other => panic!("a peer without pass-on was told {other:?}"),
        }
    }
    stopping.await.unwrap();
}

#[tokio::test]
async fn whether_a_peer_is_told_others_routes_changes_without_a_reset() {
    let (mut a, mut told) = (Router::new(64501, 61).await, Router::new(64502, 62).await);
    let peers = [a.table("import = \"all\""), told.table("")].concat();
    let speaker = Speaker::start(&peers);
    for router in [&mut a, &mut told] {
        router.establish().await;
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 1).await;
    let passed_on = format!("{peers}pass-on = true\n");
    let unreset = serde_json::json!([{ "peer": "as64502", "effect": "changed, without a reset" }]);
    assert_eq!(speaker.reload(&passed_on).await, unreset);
    assert_eq!(told.update().await, "+10.0.0.0/8 by 64500 64501 via 127.0.0.1");
    assert_eq!(speaker.reload(&peers).await, unreset);
    assert_eq!(told.update().await, "-10.0.0.0/8");
    // What comes now is not told, until it is wanted again.
    a.tell(route(&["11.0.0.0/8"], &[64501], &[])).await;
    speaker.show_until("rib", |rib| rib["ipv4_prefixes"] == 2).await;
    assert_eq!(speaker.reload(&passed_on).await, unreset);
    let again = told.update().await;
    assert!(again.contains("+10.0.0.0/8 by 64500 64501") && again.contains("+11.0.0.0/8 by 64500 64501"), "{again}");
    // Changed twice before anything could be said of it: what the peer holds at the end is what counts.
    speaker.reload(&peers).await;
    speaker.reload(&passed_on).await;
    a.tell(route(&["12.0.0.0/8"], &[64501], &[])).await;
    let mut held: BTreeSet<String> = ["10.0.0.0/8", "11.0.0.0/8"].map(str::to_owned).into();
    while !(held.contains("12.0.0.0/8") && held.len() == 3) {
        for word in told.update().await.split(", ") {
            let (sign, prefix) = word.split_at(1);
            let prefix = prefix.split(' ').next().unwrap().to_owned();
            if sign == "+" {
                held.insert(prefix)
            } else {
                held.remove(&prefix)
            };
        }
    }
    let flaps = speaker.ask("sessions", &[]).await.unwrap();
    assert!(flaps.as_array().unwrap().iter().all(|row| row["flaps"] == 0), "{flaps}");
    speaker.end().await;
}
