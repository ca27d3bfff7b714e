//! The meter beside what it promises, in words and over random packets.

use std::time::Duration;

use cloakway_types::Instant;
use proptest::prelude::*;

use super::*;
use crate::policy::Policy;
use crate::policy::tests::example;

const SOURCE: &str = "198.51.100.70";
const PRIVATE: &str = "203.0.113.200/32";

fn at(millis: u64) -> Instant {
    Instant::after_origin(Duration::from_millis(millis))
}

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

fn quota(packets: Option<u64>, bytes: Option<u64>, seconds: u64) -> Option<Quota> {
    Quota::new(packets, bytes, Some(seconds)).unwrap()
}

/// A bit of everything.
pub(crate) fn limits() -> Limits {
    Limits {
        per_source: Limit {
            packets: rate(100, 50),
            bytes: rate(1_000_000, 1_000_000),
            quota: quota(Some(1000), Some(10_485_760), 3600),
        },
        per_prefix: Limit { quota: quota(None, Some(1_000_000_000), 90), ..Limit::default() },
        exceptions: vec![("203.0.113.200/32".parse().unwrap(), Limit { packets: rate(5000, 5), ..Limit::default() })],
        v6_source: 64,
        sources: 1000,
        answers: true,
    }
}

fn per_source(limit: Limit) -> Meter {
    Meter::new(Limits { per_source: limit, v6_source: 64, sources: 1000, ..Limits::default() })
}

impl Meter {
    fn one(&mut self, source: &str, bytes: u64, now: Instant) -> Result<(), Over> {
        self.charge(source.parse().unwrap(), PRIVATE.parse().unwrap(), 1, bytes, now)
    }
}

#[test]
fn a_quota_is_exact_at_its_last_packet_and_begins_anew_once() {
    let mut meter = per_source(Limit { quota: quota(Some(3), None, 10), ..Limit::default() });
    let charged: Vec<_> = [1000, 1001, 1002, 1003, 10_999, 11_000, 11_000, 11_001, 11_002, 20_999, 21_000]
        .map(|millis| meter.one(SOURCE, 100, at(millis)).is_ok())
        .to_vec();
    assert_eq!(charged, [true, true, true, false, false, true, true, true, false, false, true]);

    let mut meter = per_source(Limit { quota: quota(None, Some(250), 10), ..Limit::default() });
    assert_eq!(meter.one(SOURCE, 100, at(0)), Ok(()));
    assert_eq!(meter.one(SOURCE, 100, at(0)), Ok(()));
    assert_eq!(meter.one(SOURCE, 50, at(0)), Ok(()), "to the byte");
    assert_eq!(meter.one(SOURCE, 1, at(0)), Err(Over::SourceQuota));
    assert_eq!(meter.one("198.51.100.71", 251, at(0)), Err(Over::SourceQuota));
    assert_eq!(meter.one("198.51.100.71", 20, at(0)), Err(Over::SourceQuota), "what refused once is used up");
}

#[test]
fn a_rate_lets_a_burst_through_and_then_one_at_a_time() {
    let mut meter = per_source(Limit { packets: rate(10, 3), ..Limit::default() });
    let passed = |meter: &mut Meter, millis| (0..10).filter(|_| meter.one(SOURCE, 60, at(millis)).is_ok()).count();
    assert_eq!(passed(&mut meter, 0), 3);
    assert_eq!(passed(&mut meter, 99), 0);
    assert_eq!(passed(&mut meter, 100), 1);
    assert_eq!(passed(&mut meter, 350), 2, "the half of one is kept");
    assert_eq!(passed(&mut meter, 400), 1);
    assert_eq!(passed(&mut meter, 100_000), 3, "no more than the bucket holds");
    // Another processor's clock may be behind.
    assert_eq!(passed(&mut meter, 99_000), 0);
    assert_eq!(passed(&mut meter, 100_100), 1);
}

#[test]
fn a_super_packet_counts_as_on_the_wire_and_passes_a_full_bucket_on_credit() {
    let mut meter = per_source(Limit { packets: rate(10, 10), quota: quota(Some(100), None, 60), ..Limit::default() });
    let mut charge = |packets, millis| {
        meter.charge(SOURCE.parse().unwrap(), PRIVATE.parse().unwrap(), packets, packets * 1500, at(millis))
    };
    assert_eq!(charge(45, 0), Ok(()));
    assert_eq!(charge(1, 3500), Err(Over::SourceRate), "35 were owed");
    assert_eq!(charge(1, 3600), Ok(()));
    assert_eq!(charge(55, 59_000), Err(Over::SourceQuota), "46 are used");
}

#[test]
fn a_new_source_finds_no_room_and_an_old_one_does() {
    let limit = Limit { packets: rate(10, 10), ..Limit::default() };
    let mut meter = Meter::new(Limits { per_source: limit, v6_source: 56, sources: 2, ..Limits::default() });
    assert_eq!(meter.one("198.51.100.70", 60, at(0)), Ok(()));
    assert_eq!(meter.one("2001:db8:5100:6401::1", 60, at(0)), Ok(()));
    assert_eq!(meter.one("198.51.100.71", 60, at(0)), Err(Over::SourcesFull));
    // The same /56.
    assert_eq!(meter.one("2001:db8:5100:64ff:ffff::2", 60, at(0)), Ok(()));
    assert_eq!(meter.one("2001:db8:5100:6500::1", 60, at(0)), Err(Over::SourcesFull));
    meter.sweep(at(10));
    assert_eq!(meter.one("198.51.100.71", 60, at(10)), Err(Over::SourcesFull), "none was idle");
    meter.sweep(at(500));
    assert_eq!(meter.one("198.51.100.71", 60, at(500)), Ok(()));
}

#[test]
fn the_prefix_is_charged_what_its_sources_may_send() {
    let per_prefix = Limit { quota: quota(Some(5), None, 60), ..Limit::default() };
    let per_source = Limit { quota: quota(Some(3), None, 60), ..Limit::default() };
    let mut meter = Meter::new(Limits { per_source, per_prefix, sources: 10, v6_source: 64, ..Limits::default() });
    let mut send = |source| (0..4).map(|_| meter.one(source, 60, at(0)).err()).collect::<Vec<_>>();
    let (source, prefix) = (Some(Over::SourceQuota), Some(Over::PrefixQuota));
    assert_eq!(send("198.51.100.70"), [None, None, None, source]);
    assert_eq!(
        send("198.51.100.71"),
        [None, None, prefix, source],
        "what is over its own quota costs the prefix nothing"
    );
    let other = meter.charge("198.51.100.72".parse().unwrap(), "203.0.113.201/32".parse().unwrap(), 1, 60, at(0));
    assert_eq!(other, Ok(()), "another prefix has its own");
}

#[test]
fn limits_that_change_keep_what_was_used() {
    let with = |packets| Limit { quota: quota(Some(packets), None, 60), ..Limit::default() };
    let limits = |packets| Limits { per_source: with(packets), v6_source: 64, sources: 10, ..Limits::default() };
    let mut meter = Meter::new(limits(3));
    let passed = |meter: &mut Meter| (0..10).filter(|_| meter.one(SOURCE, 60, at(0)).is_ok()).count();
    assert_eq!(passed(&mut meter), 3);
    meter.change(limits(5));
    assert_eq!(passed(&mut meter), 2);
    meter.change(limits(4));
    assert_eq!(passed(&mut meter), 0);
}

#[test]
fn what_is_left_is_said() {
    let limit = Limit { packets: rate(10, 10), quota: quota(None, Some(1000), 60), ..Limit::default() };
    let mut account = Account::new(&limit, at(0));
    account.charge(&limit, 1, 400, at(0)).unwrap();
    let left = Left { packets_now: Some(9), quota_bytes: Some(600), ..Left::default() };
    assert_eq!(account.left(&limit, at(0)), left);
    assert_eq!(account.left(&limit, at(60_000)), Left { packets_now: Some(10), quota_bytes: Some(1000), ..left });
}

#[test]
fn numbers_that_are_no_limit_are_refused() {
    let words = |error: LimitError| error.to_string();
    assert_eq!(
        Rate::packets(0, None).map_err(|(burst, error)| (burst, words(error))),
        Err((false, "0 is not allowed: 1 to 1000000000".into()))
    );
    assert!(Rate::bytes(100, Some(1500)).unwrap_err().0, "the burst is meant");
    assert_eq!(Rate::bytes(100, None).unwrap().burst, LEAST_BYTE_BURST);
    assert_eq!(
        words(Rate::packets(1, Some(90_000)).unwrap_err().1),
        "90000 takes 90000 s to come back at this rate: at most a day, 86400"
    );
    assert_eq!(Quota::new(Some(1), None, None).unwrap_err().0, "quota-packets");
    assert_eq!(Quota::new(None, None, Some(1)).unwrap_err(), ("quota-period-s", LimitError::PeriodAlone));
    assert_eq!(Quota::new(None, None, None), Ok(None));

    let policy = || Policy::new(example()).unwrap();
    let refusal = |change: fn(&mut Limits)| {
        let mut limits = limits();
        change(&mut limits);
        policy().with_limits(limits, Metering::Kernel).map(|_| ()).unwrap_err()
    };
    let (field, error) = refusal(|limits| limits.exceptions[0].0 = "203.0.113.0/24".parse().unwrap());
    assert_eq!(
        (field.as_str(), words(error).as_str()),
        ("prefixes[0].prefix", "203.0.113.0/24 is no private prefix of this configuration")
    );
    assert_eq!(refusal(|limits| limits.exceptions.push(limits.exceptions[0])).0, "prefixes[1].prefix");
    assert_eq!(refusal(|limits| *limits = Limits::default()).1, LimitError::Nothing);

    let day = |packets| Limit { quota: quota(Some(packets), None, 86_400), ..Limit::default() };
    assert!(day(91_500).for_nftables().is_ok());
    let (field, error) = day(91_600).for_nftables().unwrap_err();
    assert_eq!(field, "quota-packets");
    assert!(words(error).starts_with("91600 packets in 86400 s are more than the kernel data plane can count: 915"));
    let month = Limit { quota: quota(Some(1), None, 30 * 86_400), ..Limit::default() };
    assert_eq!(month.for_nftables().unwrap_err().0, "quota-packets");
    let small = Limit { bytes: rate(1_000_000, 65_536), ..Limit::default() };
    assert_eq!(small.for_nftables().unwrap_err(), ("bytes-burst", LimitError::KernelBurst { rate: 1_000_000 }));
}

#[test]
fn the_limits_give_this_table() {
    let policy = Policy::new(example()).unwrap().with_limits(limits(), Metering::Kernel).unwrap();
    let text = ruleset::render(&policy).unwrap();
    let expected = include_str!("../../tests/example-meter.nft");
    assert!(text == expected, "tests/example-meter.nft is not what is rendered:\n{text}");
    for counter in ruleset::counters() {
        assert!(text.contains(&format!("counter name \"{counter}\"")), "{counter}");
    }
    assert!(ruleset::is_wanted(&text.replace('\t', " "), &policy));
    let by_mark = policy.with_limits(limits(), Metering::Mark).unwrap();
    assert!(ruleset::is_wanted("", &by_mark), "the program counts");
}

#[test]
fn another_link_or_prefix_keeps_the_budgets_and_other_limits_do_not() {
    let policy = |change: fn(&mut crate::policy::Spec), limits: Limits| {
        let mut spec = example();
        change(&mut spec);
        Policy::new(spec).unwrap().with_limits(limits, Metering::Kernel).unwrap()
    };
    let before = ruleset::render(&policy(|_| {}, limits())).unwrap();
    let renamed = policy(|spec| spec.links[0].interface = "priv1".into(), limits());
    let text = ruleset::change_text(&before, &renamed).unwrap();
    assert!(text.starts_with("flush table inet cloakway-meter\ntable inet cloakway-meter {"), "{text}");
    let free = policy(|_| {}, Limits { answers: false, ..limits() });
    let text = ruleset::change_text(&before, &free).unwrap();
    assert!(text.contains("delete chain inet cloakway-meter from4-source-rate\n"), "{text}");
    let mut other = limits();
    other.per_source.packets = rate(101, 50);
    assert_eq!(ruleset::change_text(&before, &policy(|_| {}, other)), None);
    assert_eq!(ruleset::change_text("", &renamed), None);
}

fn any_rate(least: u64) -> impl Strategy<Value = Option<Rate>> {
    prop::option::of((1_u64..2000, 0_u64..50)).prop_map(move |rate| {
        rate.map(|(per_second, burst)| Rate { per_second: per_second * least, burst: least + burst })
    })
}

fn any_limit() -> impl Strategy<Value = Limit> {
    let quota = (prop::option::of(1_u64..40), prop::option::of(1_u64..5000), 1_u64..4);
    (any_rate(1), any_rate(1500), prop::option::of(quota)).prop_map(|(packets, bytes, quota)| Limit {
        packets,
        bytes,
        quota: quota
            .filter(|(packets, bytes, _)| packets.is_some() || bytes.is_some())
            .map(|(packets, bytes, seconds)| Quota { packets, bytes, period: Duration::from_secs(seconds) }),
    })
}

/// Packets: how many, their bytes, and the milliseconds since the last.
fn any_packets() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let pause = prop_oneof![4 => 0_u64..20, 1 => 0_u64..3000];
    prop::collection::vec((prop_oneof![8 => Just(1_u64), 1 => 2_u64..40], 20_u64..1500, pause), 1..200)
}

proptest! {
    /// By sums over the whole history instead of by buckets.
    #[test]
    fn nothing_passes_that_a_limit_forbids_and_nothing_is_refused_without_one(limit in any_limit(), packets in any_packets()) {
        let mut account = Account::new(&limit, at(0));
        let mut now = 0;
        let mut passed: Vec<(u64, u64, u64)> = Vec::new();
        let mut period: Option<u64> = None;
        let mut used = (0, 0);
        let mut refused_by_quota = false;
        for (count, bytes, pause) in packets {
            now += pause;
            let bytes = bytes * count;
            if let Some(quota) = limit.quota {
                let length = u64::try_from(quota.period.as_millis()).unwrap();
                if period.unwrap_or(0) + length <= now {
                    period = Some(now);
                    (used, refused_by_quota) = ((0, 0), false);
                }
            }
            let done = account.charge(&limit, count, bytes, at(now));
            match done {
                Ok(()) => {
                    passed.push((now, count, bytes));
                    used = (used.0 + count, used.1 + bytes);
                    prop_assert!(!refused_by_quota);
                }
                Err(Refusal::Quota) => {
                    let was_refused = std::mem::replace(&mut refused_by_quota, true);
                    let quota = limit.quota.unwrap();
                    let over = quota.packets.is_some_and(|most| used.0 + count > most)
                        || quota.bytes.is_some_and(|most| used.1 + bytes > most);
                    prop_assert!(over || was_refused);
                }
                Err(Refusal::Rate) => prop_assert!(limit.packets.is_some() || limit.bytes.is_some()),
            }
            if let Some(quota) = limit.quota {
                prop_assert!(quota.packets.is_none_or(|most| used.0 <= most));
                prop_assert!(quota.bytes.is_none_or(|most| used.1 <= most));
            }
        }
        // In no span of time more than a bucket and what came in; a super-packet on credit may end it.
        for (rate, in_bytes) in [(limit.packets, false), (limit.bytes, true)] {
            let Some(rate) = rate else { continue };
            let amount = |packet: &(u64, u64, u64)| if in_bytes { packet.2 } else { packet.1 };
            for (first, from) in passed.iter().enumerate() {
                let mut sum = 0;
                for to in &passed[first..] {
                    let before = sum;
                    sum += amount(to);
                    let gained = (to.0 - from.0) * rate.per_second / 1000 + 1;
                    prop_assert!(sum <= rate.burst + gained || (amount(to) > rate.burst && before <= gained));
                }
            }
        }
    }

    #[test]
    fn sweeping_changes_no_verdict(limit in any_limit(), packets in any_packets(), sweeps in prop::collection::vec(any::<bool>(), 200)) {
        let (mut swept, mut kept) = (per_source(limit), per_source(limit));
        let mut now = 0;
        for ((count, bytes, pause), sweep) in packets.into_iter().zip(sweeps) {
            now += pause;
            if sweep {
                swept.sweep(at(now));
            }
            let charge = |meter: &mut Meter| {
                meter.charge(SOURCE.parse().unwrap(), PRIVATE.parse().unwrap(), count, bytes * count, at(now))
            };
            prop_assert_eq!(charge(&mut swept), charge(&mut kept));
        }
    }
}
