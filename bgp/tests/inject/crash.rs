//! The speaker is killed at any moment, again and again: nothing that was accepted is lost, and nothing is there that
//! was not. `KILLS=200 cargo test -p bgp --test inject crash` kills more often than the 25 times of every run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::support::{Router, Speaker, listener};

/// Numbers that follow from a seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn host(n: u64) -> String {
    format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 0xff, n & 0xff)
}

/// A request with its id, and the set that it makes of `held`.
fn request(id: u64, random: &mut Random, held: &BTreeSet<String>) -> (String, BTreeSet<String>) {
    let some = |random: &mut Random, limit: u64| -> Vec<String> {
        let (start, count) = (random.below(20_000), random.below(limit));
        (start..start + count).map(host).collect()
    };
    match random.below(4) {
        // A bulk that is the whole set.
        0 | 1 => {
            let routes = some(random, 12_000);
            let mut text = format!(
                "{{\"id\":\"{id}\",\"stream\":{{\"set\":\"a\",\"replace\":true}}}}\n{{\"next-hop\":\"192.0.2.1\"}}\n"
            );
            for route in &routes {
                let _ = writeln!(text, "{route}");
            }
            (text + ".\n", routes.into_iter().collect())
        }
        // Some go, others come.
        2 => {
            let (gone, come) = (some(random, 500), some(random, 500));
            let patch = json!({"id": id.to_string(), "patch": {"set": "a", "remove": gone,
                "routes": [{"next-hop": "192.0.2.1", "prefixes": come}]}});
            let mut after = held.clone();
            after.retain(|route| !gone.contains(route));
            after.extend(come);
            (format!("{patch}\n"), after)
        }
        _ => {
            let one = host(random.below(20_000));
            let patch = json!({"id": id.to_string(), "patch": {"set": "a",
                "routes": [{"next-hop": "192.0.2.1", "prefixes": [one]}]}});
            let mut after = held.clone();
            after.insert(one);
            (format!("{patch}\n"), after)
        }
    }
}

#[test]
fn whenever_it_is_killed_the_peer_has_what_was_accepted_and_nothing_else() {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(25);
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let (listener, port) = listener();
    let mut speaker = Speaker::new(port, "\"10.0.0.0/8\"");
    let (mut held, mut id) = (BTreeSet::new(), 0);
    // What was asked and not answered when it was killed.
    let mut open: Option<(String, BTreeSet<String>)> = None;
    let (mut took_effect, mut did_not) = (0, 0);
    for kill in 0..kills {
        let mut router = Router::accept(&listener);
        router.synchronised();
        let mut api = speaker.api();
        if let Some((text, after)) = open.take() {
            let known = router.held == after;
            assert!(known || router.held == held, "SEED={seed}, kill {kill}: {} routes", router.held.len());
            if after != held {
                *(if known { &mut took_effect } else { &mut did_not }) += 1;
            }
            // The same request again takes effect once, whether or not it did already.
            api.send(&text);
            assert!(api.answer()["ok"].is_object());
            held = after;
        } else {
            assert_eq!(router.held, held, "SEED={seed}, kill {kill}");
        }
        let answered = random.below(3);
        for _ in 0..answered {
            id += 1;
            let (text, after) = request(id, &mut random, &held);
            api.send(&text);
            assert!(api.answer()["ok"].is_object());
            held = after;
        }
        id += 1;
        let (text, after) = request(id, &mut random, &held);
        api.send(&text);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        speaker.kill();
        // An answer may have come before the kill: then it was accepted, and has to be there.
        match api.left() {
            Some(answer) => {
                assert!(answer["ok"].is_object(), "{answer}");
                held = after;
            }
            None => open = Some((text, after)),
        }
        drop(router);
        speaker.start();
    }
    println!("of {} unanswered requests {took_effect} had taken effect", took_effect + did_not);
}
