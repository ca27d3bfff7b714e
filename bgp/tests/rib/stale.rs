//! Routes whose peer is gone (RFC 9494), and who is told of them.

use bgp_wire::{Capability, Community, Family, GracefulRestart, LongLived, Message, RouteRefresh, Update};

use crate::support::{Router, Speaker, route};

/// Graceful restart at once over, then long-lived for `seconds`, of IPv4; without routes of its own for zero.
fn long_lived(seconds: u32) -> Vec<Capability> {
    let families = if seconds == 0 { Vec::new() } else { vec![(Family::Ipv4, true)] };
    let graceful = GracefulRestart { restart_time_s: 0, families, ..GracefulRestart::default() };
    let stale = LongLived { family: Family::Ipv4, forwarding: true, stale_time_s: seconds };
    let stale = if seconds == 0 { Vec::new() } else { vec![stale] };
    vec![Capability::GracefulRestart(graceful), Capability::LongLivedGracefulRestart(stale)]
}

#[tokio::test]
async fn long_lived_stale_routes_are_the_last_choice_and_told_to_those_who_know_what_that_means() {
    let (mut a, mut b) = (Router::new(64501, 51).await, Router::new(64502, 52).await);
    let (mut knows, mut ignorant) = (Router::new(64503, 53).await, Router::new(64504, 54).await);
    let helps = "import = \"all\"\ngraceful-restart = { restart-s = 60, long-lived-s = 60 }";
    let peers =
        [a.table(helps), b.table("import = \"all\""), knows.table("pass-on = true"), ignorant.table("pass-on = true")];
    let speaker = Speaker::start(&peers.concat());
    a.establish_with(long_lived(60)).await;
    b.establish().await;
    knows.establish_with(long_lived(0)).await;
    ignorant.establish().await;
    for router in [&mut a, &mut b, &mut knows, &mut ignorant] {
        router.ends().await;
    }
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    let plain = "+10.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);
    a.tell(route(&["11.0.0.0/8"], &[64501], &[Community::NO_LLGR])).await;
    let plain = "+11.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);

    // The router is lost: what may stay is told anew with the mark, and taken back from who does not know it.
    a.stream = None;
    let mut told = [knows.update().await, knows.update().await];
    told.sort();
    assert_eq!(told, ["+10.0.0.0/8 by 64500 64501 via 127.0.0.1", "-11.0.0.0/8"], "NO_LLGR is obeyed");
    let mut told = ignorant.update().await;
    if !told.contains(", ") {
        told = format!("{told}, {}", ignorant.update().await);
    }
    let mut told: Vec<&str> = told.split(", ").collect();
    told.sort_unstable();
    assert_eq!(told, ["-10.0.0.0/8", "-11.0.0.0/8"]);
    let shown = speaker.show_until("look-up 10.0.0.1", |shown| shown["routes"][0]["llgr_stale"] == true).await;
    assert_eq!(shown["routes"][0]["reason"], "best");
    knows.send(&Message::RouteRefresh(RouteRefresh { afi: 1, subtype: RouteRefresh::REQUEST, safi: 1 })).await;
    assert_eq!(knows.communities().await, [Community::LLGR_STALE]);

    // Any other route is better, however long its path.
    b.tell(route(&["10.0.0.0/8"], &[64502, 64502, 64502, 64510], &[])).await;
    let other = "+10.0.0.0/8 by 64500 64502 64502 64502 64510 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [other, other]);
    let shown = speaker.show_until("look-up 10.0.0.1", |shown| shown["routes"].as_array().unwrap().len() == 2).await;
    let reasons = [0, 1].map(|n| shown["routes"][n]["reason"].as_str().unwrap().to_owned());
    assert_eq!(reasons, ["best", "not best: long-lived stale"]);
    // The router is back and tells it again: stale no more.
    a.establish_with(long_lived(60)).await;
    a.ends().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    a.tell(Update::end_of_rib(Family::Ipv4)).await;
    let plain = "+10.0.0.0/8 by 64500 64501 via 127.0.0.1";
    assert_eq!([knows.update().await, ignorant.update().await], [plain, plain]);
    speaker.end().await;
}

/// RFC 9494 §4.6.
#[tokio::test]
async fn an_internal_peer_that_does_not_know_stale_routes_gets_them_as_the_last_choice_if_the_operator_says_so() {
    let (mut a, mut inside) = (Router::new(64501, 56).await, Router::new(64500, 57).await);
    let helps = "import = \"all\"\ngraceful-restart = { restart-s = 60, long-lived-s = 60 }";
    let peers = |more: &str| [a.table(helps), inside.table(&format!("pass-on = true\n{more}"))].concat();
    let (all, none) = (peers("pass-on-stale = true"), peers(""));
    let speaker = Speaker::start(&all);
    a.establish_with(long_lived(60)).await;
    inside.establish().await;
    a.ends().await;
    inside.ends().await;
    a.tell(route(&["10.0.0.0/8"], &[64501], &[])).await;
    assert_eq!(inside.update().await, "+10.0.0.0/8 by 64501 via 192.0.2.7");
    a.stream = None;
    for _ in 0..2 {
        let told = loop {
            match inside.next().await {
                Some(Message::Update(update)) => break update.attributes,
                Some(Message::KeepAlive) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told.local_pref, Some(0));
        assert!(told.communities.contains(&Community::LLGR_STALE), "{told:?}");
        assert!(told.communities.contains(&Community::NO_EXPORT), "{told:?}");
        // Taken back, and told again, as the setting goes and comes.
        speaker.reload(&none).await;
        assert_eq!(inside.update().await, "-10.0.0.0/8");
        speaker.reload(&all).await;
    }
    speaker.end().await;
}
