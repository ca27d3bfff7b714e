//! Rise and fall, said when and why.

use super::*;
use crate::policy::tests::example;
use cloakway_sim::{Rng, seeds};

const TIMING: Timing = Timing {
    hold_down: Duration::from_secs(1),
    rise: 2,
    fall: 2,
    silence_limit: Duration::from_secs(2),
    check_limit: Duration::from_secs(3),
};

fn ms(millis: u64) -> Instant {
    Instant::after_origin(Duration::from_millis(millis))
}

fn intact(policy: &Policy) -> Applied {
    Applied { guard: Ok(()), routes: policy.prefixes().iter().map(|entry| (entry.prefix, Ok(()))).collect() }
}

struct Bench {
    policy: Policy,
    health: Health,
}

impl Bench {
    fn new() -> Self {
        let policy = Policy::new(example()).unwrap();
        let health = Health::new(&policy, TIMING, ms(0));
        Self { policy, health }
    }

    fn link(&mut self, state: LinkState, at: u64) -> Vec<Change> {
        self.health.handle(Input::Link { interface: "priv0", state }, ms(at))
    }

    fn applied(&mut self, guard: Result<(), String>, at: u64) -> Vec<Change> {
        let applied = Applied { guard, ..intact(&self.policy) };
        self.health.handle(Input::Applied(&applied), ms(at))
    }

    fn probe(&mut self, answered: bool, at: u64) -> Vec<Change> {
        let addresses: Vec<_> = self.policy.prefixes().iter().map(|entry| entry.ways[0].probe).collect();
        let mut changes = Vec::new();
        for address in addresses {
            changes.extend(self.health.handle(Input::Neighbour { interface: "priv0", address, answered }, ms(at)));
        }
        changes
    }

    fn healthy(&self) -> bool {
        let mut words = self.health.status().map(|status| status.word.healthy);
        let first = words.next().unwrap();
        assert!(words.all(|word| word == first));
        first
    }

    /// Healthy at 1000 ms, last answer and last check at 1000 ms.
    fn healthy_one() -> Self {
        let mut bench = Self::new();
        let _ = bench.applied(Ok(()), 0);
        let _ = bench.link(LinkState::Up, 0);
        let _ = bench.probe(true, 0);
        let _ = bench.probe(true, 500);
        let _ = bench.applied(Ok(()), 999);
        let _ = bench.probe(true, 999);
        assert!(!bench.healthy());
        let _ = bench.probe(true, 1000);
        assert!(bench.healthy());
        bench
    }
}

#[test]
fn healthy_comes_after_the_hold_down_and_not_a_millisecond_before() {
    let mut bench = Bench::new();
    let _ = bench.applied(Ok(()), 0);
    let _ = bench.link(LinkState::Up, 0);
    let _ = bench.probe(true, 100);
    let _ = bench.probe(true, 600);
    assert_eq!(bench.health.poll_timeout(), Some(ms(1100)));
    let _ = bench.health.handle(Input::Tick, ms(1099));
    assert!(!bench.healthy());
    let changes = bench.health.handle(Input::Tick, ms(1100));
    assert!(changes.iter().all(|change| change.healthy));
    assert_eq!(changes[0].reason, "priv0 is up and 203.0.113.200 answers");
    assert!(bench.healthy());
}

#[test]
fn the_hold_down_alone_is_not_enough_without_the_answers() {
    let mut bench = Bench::new();
    let _ = bench.applied(Ok(()), 0);
    let _ = bench.link(LinkState::Up, 0);
    let _ = bench.probe(true, 0);
    let _ = bench.health.handle(Input::Tick, ms(1500));
    assert!(!bench.healthy());
    let _ = bench.probe(true, 1501);
    assert!(bench.healthy());
}

#[test]
fn link_loss_guard_loss_route_loss_and_stop_are_said_at_once() {
    type Fault = fn(&mut Bench) -> Vec<Change>;
    let faults: [(Fault, &str); 6] = [
        (|bench| bench.link(LinkState::Down, 1001), "link priv0 is down"),
        (|bench| bench.link(LinkState::Missing, 1001), "there is no interface priv0"),
        (|bench| bench.applied(Err("table gone".into()), 1001), "guard: table gone"),
        (
            |bench| {
                let mut applied = intact(&bench.policy);
                applied.routes.values_mut().for_each(|route| *route = Err("by up0".into()));
                bench.health.handle(Input::Applied(&applied), ms(1001))
            },
            "route: by up0",
        ),
        (
            |bench| {
                let applied = Applied { routes: BTreeMap::new(), ..intact(&bench.policy) };
                bench.health.handle(Input::Applied(&applied), ms(1001))
            },
            "route: not read back",
        ),
        (|bench| bench.health.handle(Input::Stop, ms(1001)), "the forwarder is stopping"),
    ];
    for (fault, reason) in faults {
        let mut bench = Bench::healthy_one();
        let changes = fault(&mut bench);
        assert_eq!(changes.len(), 2, "{reason}");
        assert!(changes.iter().all(|change| !change.healthy && change.reason == reason), "{changes:?}");
    }
}

#[test]
fn one_unanswered_probe_is_forgiven_and_the_second_in_a_row_is_not() {
    let mut bench = Bench::healthy_one();
    let _ = bench.probe(false, 1500);
    assert!(bench.healthy());
    let _ = bench.probe(true, 1600);
    let _ = bench.probe(false, 2000);
    assert!(bench.healthy());
    let changes = bench.probe(false, 2500);
    assert_eq!(changes[0].reason, "203.0.113.200 on priv0 does not answer");
    assert!(!bench.healthy());
}

#[test]
fn silence_of_the_far_end_or_of_the_checks_ends_health_by_itself() {
    let mut bench = Bench::healthy_one();
    assert_eq!(bench.health.poll_timeout(), Some(ms(3000)));
    let _ = bench.health.handle(Input::Tick, ms(2999));
    assert!(bench.healthy());
    let _ = bench.health.handle(Input::Tick, ms(3000));
    assert!(!bench.healthy());

    let mut bench = Bench::healthy_one();
    let _ = bench.probe(true, 2500);
    let _ = bench.probe(true, 3998);
    assert!(bench.healthy());
    assert_eq!(bench.health.poll_timeout(), Some(ms(3999)));
    let changes = bench.health.handle(Input::Tick, ms(3999));
    assert_eq!(changes[0].reason, "guard: not read back for 3s");
}

#[test]
fn after_a_flap_old_answers_do_not_count() {
    let mut bench = Bench::healthy_one();
    let _ = bench.link(LinkState::Down, 1010);
    let _ = bench.link(LinkState::Up, 1020);
    let _ = bench.applied(Ok(()), 2020);
    let _ = bench.health.handle(Input::Tick, ms(2500));
    assert!(!bench.healthy());
    let _ = bench.probe(true, 2600);
    let _ = bench.probe(true, 3599);
    assert!(!bench.healthy());
    let _ = bench.probe(true, 3600);
    assert!(bench.healthy());
}

/// Random flaps, lost probes, broken guards and pauses, beside a plain record of what was when.
#[test]
fn no_run_is_ever_healthy_within_the_hold_down_or_behind_a_broken_guard() {
    for seed in seeds(300) {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new();
        let (mut guard, mut link, mut now, mut risen) = (false, false, 0, 0_u32);
        // When guard, link or a probe was last bad; while one is bad, now.
        let mut bad_at = 0;
        let mut misses = 0;
        for _ in 0..400 {
            now += rng.between(1, 400);
            while let Some(due) = bench.health.poll_timeout().filter(|due| *due < ms(now)) {
                let _ = bench.health.handle(Input::Tick, due);
                assert!(bench.health.poll_timeout() != Some(due), "SIM_SEED={seed}: a tick that changes nothing");
            }
            match rng.between(0, 99) {
                0..3 => {
                    link = false;
                    let _ = bench.link(LinkState::Down, now);
                }
                3..10 => {
                    link = true;
                    let _ = bench.link(LinkState::Up, now);
                }
                10..30 => {
                    guard = rng.chance(90);
                    let _ = bench.applied(if guard { Ok(()) } else { Err("gone".into()) }, now);
                }
                30..35 => {
                    misses += 1;
                    let _ = bench.probe(false, now);
                }
                35..90 => {
                    misses = 0;
                    let _ = bench.probe(true, now);
                }
                _ => {
                    let _ = bench.health.handle(Input::Tick, ms(now));
                }
            }
            if !guard || !link || misses >= TIMING.fall {
                bad_at = now;
            }
            if bench.healthy() {
                risen += 1;
                assert!(guard && link, "SIM_SEED={seed} at {now} ms");
                assert!(now - bad_at >= 1000, "SIM_SEED={seed} at {now} ms: bad at {bad_at} ms");
            }
        }
        // Healed, it must become healthy again.
        for _ in 0..8 {
            now += 300;
            let _ = bench.link(LinkState::Up, now);
            let _ = bench.applied(Ok(()), now);
            let _ = bench.probe(true, now);
        }
        assert!(bench.healthy(), "SIM_SEED={seed}");
        assert!(seed != 0 || risen > 0);
    }
}

/// One prefix by two links, both good and healthy at 1000 ms.
fn two_ways() -> (Policy, Health) {
    let mut spec = example();
    spec.links.push(crate::SpecLink { name: "spare".into(), interface: "priv1".into() });
    spec.prefixes.truncate(1);
    spec.prefixes[0].links.push("spare".into());
    let policy = Policy::new(spec).unwrap();
    let mut health = Health::new(&policy, TIMING, ms(0));
    let _ = health.handle(Input::Applied(&intact(&policy)), ms(0));
    for interface in ["priv0", "priv1"] {
        let _ = health.handle(Input::Link { interface, state: LinkState::Up }, ms(0));
    }
    for at in [0, 500, 1000] {
        answers(&mut health, "priv0", true, at);
        answers(&mut health, "priv1", true, at);
    }
    assert!(health.resting().is_empty());
    (policy, health)
}

fn answers(health: &mut Health, interface: &str, answered: bool, at: u64) -> Vec<Change> {
    let address = "203.0.113.200".parse().unwrap();
    health.handle(Input::Neighbour { interface, address, answered }, ms(at))
}

#[test]
fn a_prefix_is_healthy_while_one_of_its_ways_is_and_the_others_rest() {
    let (_, mut health) = two_ways();
    let changes = health.handle(Input::Link { interface: "priv0", state: LinkState::Down }, ms(1100));
    assert!(changes[0].healthy, "{changes:?}");
    assert_eq!(changes[0].reason, "priv1 is up and 203.0.113.200 answers; link priv0 is down");
    assert_eq!(health.resting(), [(changes[0].prefix, "priv0".to_owned())].into());

    let changes = answers(&mut health, "priv1", false, 1200);
    assert!(changes.is_empty(), "one miss is forgiven: {changes:?}");
    let changes = answers(&mut health, "priv1", false, 1300);
    assert!(!changes[0].healthy);
    assert_eq!(changes[0].reason, "link priv0 is down; 203.0.113.200 on priv1 does not answer");
    assert!(health.resting().is_empty(), "none is better than another");
}

#[test]
fn a_way_that_comes_back_rests_until_its_hold_down_is_over() {
    let (_, mut health) = two_ways();
    let _ = health.handle(Input::Link { interface: "priv0", state: LinkState::Down }, ms(1100));
    let _ = health.handle(Input::Link { interface: "priv0", state: LinkState::Up }, ms(1200));
    for at in [1300, 1800] {
        answers(&mut health, "priv0", true, at);
        answers(&mut health, "priv1", true, at);
    }
    assert!(!health.resting().is_empty());
    assert_eq!(health.poll_timeout(), Some(ms(2300)));
    let changes = health.handle(Input::Tick, ms(2300));
    assert_eq!(changes[0].reason, "priv0 is up and 203.0.113.200 answers; priv1 is up and 203.0.113.200 answers");
    assert!(health.resting().is_empty());
}

#[test]
fn another_policy_keeps_what_is_the_same_and_says_what_is_new_and_what_is_gone() {
    let mut bench = Bench::healthy_one();
    let mut spec = example();
    spec.prefixes[1].prefix = "2001:db8:c10a::300/128".parse().unwrap();
    spec.links[0].name = "other".into();
    spec.prefixes.iter_mut().for_each(|entry| entry.links = vec!["other".into()]);
    let policy = Policy::new(spec).unwrap();
    let changes = bench.health.change(&policy, TIMING, ms(1100));
    let said: Vec<_> = changes.iter().map(|c| (c.prefix.to_string(), c.healthy, c.reason.as_str())).collect();
    assert_eq!(
        said,
        [
            ("2001:db8:c10a::300/128".into(), false, "starting"),
            ("2001:db8:c10a::200/128".into(), false, "no private prefix any more"),
            ("2001:db8:c10a::300/128".into(), false, "route: not read back yet"),
        ]
    );
    let kept = bench.health.status().next().unwrap();
    assert!(kept.word.healthy);
    assert_eq!(kept.ways[0].link, "other");
    assert_eq!(kept.since, ms(1000));
}

#[test]
fn a_guard_that_stands_is_as_good_as_read_back_and_a_broken_one_is_not() {
    let mut bench = Bench::healthy_one();
    for at in [2000, 3500, 5000] {
        let _ = bench.probe(true, at);
        assert!(bench.health.handle(Input::GuardStands, ms(at)).is_empty());
    }
    let _ = bench.health.handle(Input::Tick, ms(6000));
    assert!(bench.healthy(), "4 s after the last read-back");
    let said = bench.health.handle(Input::GuardBroken("table x is not as wanted"), ms(6000));
    assert!(said.iter().all(|change| !change.healthy && change.reason == "guard: table x is not as wanted"));
    assert!(!bench.healthy());
    assert!(bench.health.handle(Input::GuardStands, ms(6001)).is_empty());
    assert!(!bench.healthy());
    assert!(bench.health.guard().is_err());
}
