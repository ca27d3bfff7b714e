//! The meter in the kernel against its model, by a clock that the test tells; and what several processors, a full
//! table, a restart and other limits do to the accounts.

use std::time::Duration;

use cloakway_types::Instant;
use forwarder_core::meter::{Limit, Limits, MARK, Meter, Metering, Quota, Rate};
use ipnet::IpNet;

use super::*;

const TC_SHOT: u32 = 2;
const XDP_DROP: u32 = 1;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst })
}

fn quota(packets: Option<u64>, bytes: Option<u64>, seconds: u64) -> Option<Quota> {
    Quota::new(packets, bytes, Some(seconds)).unwrap()
}

fn limits() -> Limits {
    Limits {
        per_source: Limit {
            packets: rate(12, 8),
            bytes: rate(10_000, 65_536),
            quota: quota(Some(25), Some(15_000), 4),
        },
        per_prefix: Limit { packets: rate(4, 6), ..Limit::default() },
        exceptions: vec![(
            "2001:db8:c10a::200/128".parse().unwrap(),
            Limit { quota: quota(None, Some(3000), 3), ..Limit::default() },
        )],
        v6_source: 64,
        sources: 1000,
        answers: true,
    }
}

fn limited(limits: Limits) -> Table {
    policy().with_limits(limits, Metering::Mark).unwrap().fast_table(&host())
}

fn only_source(limit: Limit) -> Limits {
    Limits { per_source: limit, v6_source: 64, sources: 100, ..Limits::default() }
}

/// What `program` of tcx makes of a frame, and the mark that it leaves.
fn run_tcx(object: &mut Object, port: u32, frame: &[u8], gso: (u32, u32)) -> Option<(u32, u32)> {
    // struct __sk_buff: mark, ifindex, gso_segs, gso_size.
    let mut words = [0_u32; 48];
    (words[2], words[10], words[41], words[44]) = (0x0040_0001, port, gso.0, gso.1);
    let context = words.map(u32::to_ne_bytes).concat();
    let mut out = vec![0; context.len()];
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        ctx_out: Some(&mut out),
        ..TestRunOptions::default()
    };
    match object.tcx().unwrap().test_run(options) {
        // The kernel takes no skb that is shorter than its IP header.
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::InvalidInput && frame.len() < 54 =>
        {
            None
        }
        result => {
            let mark = u32::from_ne_bytes(out[8..12].try_into().unwrap());
            assert_eq!(mark & !MARK, 0x0040_0001, "other bits of the mark are not ours");
            Some((result.unwrap().return_value, mark & MARK))
        }
    }
}

fn tell(object: &mut Object, now: Instant) {
    object.clock().unwrap().set(0, u64::try_from(now.since_origin().as_nanos()).unwrap(), 0).unwrap();
}

fn against_the_model(hook: Hook, directory: &Path) {
    let cases = std::env::var("FAST_PATH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    let table = limited(limits());
    let mut meter = Meter::new(limits());
    let mut path = FastPath::open(directory).unwrap();
    assert!(path.apply(&table, hook, false, FastPath::forwards).unwrap());
    let mut object = Object::load_with(&table, hook, 1, directory, 1).unwrap();
    let mut seen = BTreeMap::<Outcome, u32>::new();
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = (draw(), prop_oneof![20 => 0_u64..8, 1 => 0_u64..300]);
    let mut now = Instant::ORIGIN + Duration::from_secs(5);
    for _ in 0..cases {
        let (draw, pause) = strategy.new_tree(&mut runner).unwrap().current();
        now = now + Duration::from_millis(pause);
        tell(&mut object, now);
        let frame = frame(&draw);
        let plain = table.outcome(draw.port, &frame, hop).unwrap();
        let forwards = matches!(plain, Outcome::ToPrivate | Outcome::FromPrivate);
        let before = path.counts().unwrap();
        // The word of the hook, and behind XDP that of the meter.
        let (first, second) = match hook {
            Hook::Xdp => {
                let (word, _) = run(&mut object, hook, draw.port, &frame).unwrap();
                let second = (word == XDP_PASS).then(|| run_tcx(&mut object, draw.port, &frame, (0, 0)));
                (Some(word), second.flatten())
            }
            Hook::Tcx => match run_tcx(&mut object, draw.port, &frame, (0, 0)) {
                Some(done) => (Some(done.0), Some(done)),
                None => continue,
            },
        };
        let after = path.counts().unwrap();
        let mut counted: Vec<Outcome> =
            Outcome::ALL.into_iter().filter(|outcome| after[outcome].packets != before[outcome].packets).collect();
        let ran = second.is_some() || forwards;
        let payer = table.payer(draw.port, &frame).filter(|_| ran);
        let charged = payer.map(|(source, private, bytes)| meter.charge(source, private, 1, bytes, now));
        if hook == Hook::Xdp && !forwards {
            assert_eq!(counted.remove(0), plain, "handed to the kernel: {draw:?}");
        }
        match charged {
            Some(Err(over)) => {
                assert_eq!(counted, [Outcome::from(over)], "{draw:?}");
                let (word, dropped) = match (hook, forwards) {
                    (Hook::Xdp, true) => (first.unwrap(), XDP_DROP),
                    _ => (second.unwrap().0, TC_SHOT),
                };
                assert_eq!(word, dropped, "{draw:?}");
                *seen.entry(over.into()).or_default() += 1;
            }
            Some(Ok(())) | None => {
                let expected: &[Outcome] = if hook == Hook::Xdp && !forwards { &[] } else { &[plain] };
                assert_eq!(counted, expected, "{draw:?}");
                *seen.entry(plain).or_default() += 1;
                if let (false, Some((word, mark))) = (forwards, second) {
                    assert_eq!((word, mark != 0), (u32::MAX, charged.is_some()), "{draw:?}");
                }
            }
        }
    }
    let wanted = [Outcome::ToPrivate, Outcome::FromPrivate, Outcome::SourceRate, Outcome::SourceQuota];
    for outcome in wanted.into_iter().chain([Outcome::PrefixRate, Outcome::PrefixQuota]) {
        assert!(seen.get(&outcome).copied().unwrap_or_default() > 3, "{outcome:?} hardly met: {seen:?}");
    }
    // Every account is the model's.
    let uses = path.uses().unwrap();
    let told = |is_private| -> BTreeMap<IpNet, [u64; 3]> {
        let all = uses.iter().filter(|found| found.is_private == is_private);
        all.map(|found| (found.who, [found.packets, found.bytes, found.refused].map(Option::unwrap))).collect()
    };
    let sources = meter.sources().map(|(who, account)| (who, [account.packets, account.bytes, account.refused]));
    assert_eq!(told(false), sources.collect());
    let prefixes = meter.prefixes().map(|(who, account)| (who, [account.packets, account.bytes, account.refused]));
    assert_eq!(told(true), prefixes.collect());
}

#[test]
fn with_xdp_it_charges_what_its_model_does() {
    within(|directory| against_the_model(Hook::Xdp, directory));
}

#[test]
fn with_tcx_it_charges_what_its_model_does() {
    within(|directory| against_the_model(Hook::Tcx, directory));
}

fn good(hops: u8, payload: usize, protocol: u8) -> Vec<u8> {
    frame(&Draw { v4: true, source: 0, destination: 5, protocol, hops, payload, ..quiet() })
}

#[test]
fn a_super_packet_is_charged_as_it_is_on_the_wire() {
    within(|directory| {
        let table = limited(only_source(Limit { quota: quota(Some(100), None, 600), ..Limit::default() }));
        let mut path = FastPath::open(directory).unwrap();
        path.apply(&table, Hook::Tcx, false, FastPath::forwards).unwrap();
        let mut object = Object::load(&table, Hook::Tcx, 1, directory).unwrap();
        let mut used = |object: &mut Object, frame: &[u8]| {
            let word = run_tcx(object, 3, frame, (3, 1000)).unwrap().0;
            let found = path.uses().unwrap()[0].clone();
            (word, found.packets.unwrap(), found.bytes.unwrap())
        };
        // Three segments of 1000 octets behind 40 of headers.
        let mut tcp = good(64, 3020, 6);
        tcp[14 + 20 + 12] = 0x50;
        assert_eq!(used(&mut object, &tcp), (TC_REDIRECT, 3, 3 * 1040));
        // The same where it takes the slow path: more hops it does not have.
        let mut last = good(1, 3020, 6);
        last[14 + 20 + 12] = 0x50;
        assert_eq!(used(&mut object, &last), (u32::MAX, 6, 6 * 1040));
        // Of UDP: 28 of headers.
        assert_eq!(used(&mut object, &good(64, 3008, 17)), (TC_REDIRECT, 9, 6 * 1040 + 3 * 1028));
    });
}

#[test]
fn two_processors_charge_one_account_to_the_packet() {
    const QUOTA: u64 = 10_001;
    const EACH: u64 = 8000;
    within(|directory| {
        let limit = Limit { quota: quota(Some(QUOTA), None, 600), ..Limit::default() };
        let table =
            limited(Limits { per_prefix: limit, ..only_source(Limit { packets: rate(1, 4_000_000), ..limit }) });
        for hook in [Hook::Xdp, Hook::Tcx] {
            let mut path = FastPath::open(directory).unwrap();
            path.apply(&table, hook, false, FastPath::forwards).unwrap();
            let generation = path.pins.forwarding().unwrap();
            std::thread::scope(|scope| {
                for processor in 0..2 {
                    let table = &table;
                    scope.spawn(move || {
                        let mut one = nix::sched::CpuSet::new();
                        one.set(processor % std::thread::available_parallelism().unwrap().get()).unwrap();
                        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
                        let mut object = Object::load(table, hook, generation, directory).unwrap();
                        let frame = good(64, 60, 17);
                        let context = [0, u32::try_from(frame.len()).unwrap(), 0, 3].map(u32::to_ne_bytes).concat();
                        let skb = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3_u32].map(u32::to_ne_bytes).concat();
                        for _ in 0..EACH {
                            let options = TestRunOptions {
                                data_in: Some(&frame),
                                ctx_in: Some(if hook == Hook::Xdp { &context } else { &skb }),
                                ..TestRunOptions::default()
                            };
                            match hook {
                                Hook::Xdp => object.xdp().unwrap().test_run(options).unwrap(),
                                Hook::Tcx => object.tcx().unwrap().test_run(options).unwrap(),
                            };
                        }
                    });
                }
            });
            let counts = path.counts().unwrap();
            // The account outlives the other hook: what is used up there is used up here.
            assert_eq!(counts[&Outcome::ToPrivate].packets, QUOTA, "{hook:?}");
            let refused = counts[&Outcome::SourceQuota].packets;
            assert_eq!(refused, if hook == Hook::Xdp { 2 * EACH - QUOTA } else { 4 * EACH - QUOTA });
        }
    });
}

#[test]
fn a_full_table_drops_new_sources_until_idle_ones_are_swept() {
    within(|directory| {
        // A hundredth of a second, and it is as good as new.
        let limit = Limit { packets: rate(1000, 10), ..Limit::default() };
        let table = limited(Limits { sources: 2, ..only_source(limit) });
        let mut path = FastPath::open(directory).unwrap();
        path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap();
        let mut object = Object::load(&table, Hook::Xdp, 1, directory).unwrap();
        let mut send = |source: u8| {
            let mut frame = good(64, 60, 17);
            // The last octet of the source, and the checksum of the header.
            frame[29] = source;
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            run(&mut object, Hook::Xdp, 3, &frame).unwrap().0
        };
        assert_eq!([71, 72, 73, 71].map(&mut send), [XDP_REDIRECT, XDP_REDIRECT, XDP_DROP, XDP_REDIRECT]);
        assert_eq!(path.counts().unwrap()[&Outcome::SourcesFull].packets, 1);
        let start = std::time::Instant::now();
        while path.sweep().unwrap() > 0 {
            assert!(start.elapsed().as_secs() < 10);
        }
        assert!(path.uses().unwrap().is_empty());
        assert_eq!([73, 74, 75].map(&mut send), [XDP_REDIRECT, XDP_REDIRECT, XDP_DROP]);
    });
}

#[test]
fn a_restart_and_other_limits_keep_what_was_used() {
    within(|directory| {
        let limit = |packets| Limit { quota: quota(Some(packets), None, 600), ..Limit::default() };
        let mut table = limited(only_source(limit(10)));
        let passed = |table: &Table| {
            let mut path = FastPath::open(directory).unwrap();
            path.apply(table, Hook::Xdp, false, FastPath::forwards).unwrap();
            let mut object = Object::load(table, Hook::Xdp, path.pins.forwarding().unwrap(), directory).unwrap();
            (0..8).filter(|_| run(&mut object, Hook::Xdp, 3, &good(64, 60, 17)).unwrap().0 == XDP_REDIRECT).count()
        };
        assert_eq!(passed(&table), 8);
        assert_eq!(passed(&table), 2, "a restart");
        table = limited(only_source(limit(13)));
        assert_eq!(passed(&table), 3);
        table = limited(only_source(limit(12)));
        assert_eq!(passed(&table), 0);
        // Where nothing is charged any more nothing is kept.
        assert_eq!(passed(&policy().fast_table(&host())), 8);
        assert!(!directory.join("sources-1-100").exists());
    });
}

#[test]
fn a_rate_lets_no_more_through_than_its_burst_the_time_and_a_tick() {
    const RATE: u64 = 2000;
    const BURST: u64 = 10;
    within(|directory| {
        let table = limited(only_source(Limit { packets: rate(RATE, BURST), ..Limit::default() }));
        for hook in [Hook::Xdp, Hook::Tcx] {
            let mut path = FastPath::open(directory).unwrap();
            path.apply(&table, hook, false, FastPath::forwards).unwrap();
            let mut object = Object::load(&table, hook, path.pins.forwarding().unwrap(), directory).unwrap();
            let before = path.counts().unwrap()[&Outcome::ToPrivate].packets;
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                run(&mut object, hook, 3, &good(64, 60, 17)).unwrap();
            }
            let passed = path.counts().unwrap()[&Outcome::ToPrivate].packets - before;
            // The slowest clock of a kernel ticks in 10 ms.
            let span = start.elapsed() + Duration::from_millis(10);
            let most = BURST + RATE * u64::try_from(span.as_millis() + 1).unwrap() / 1000;
            assert!(passed <= most, "{passed} of {most} in {span:?} by {hook:?}");
            assert!(passed > BURST, "{passed}: nothing came in");
        }
    });
}

#[test]
fn two_processors_begin_a_period_once() {
    const QUOTA: u64 = 20;
    const PERIODS: u64 = 200;
    within(|directory| {
        let table = limited(only_source(Limit { quota: quota(Some(QUOTA), None, 1), ..Limit::default() }));
        let mut path = FastPath::open(directory).unwrap();
        path.apply(&table, Hook::Xdp, false, FastPath::forwards).unwrap();
        let generation = path.pins.forwarding().unwrap();
        // Told at the end: one that failed alone would let the other wait.
        let (together, passed) = (std::sync::Barrier::new(2), std::sync::Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for processor in 0..2 {
                let (table, path, together, passed) = (&table, &path, &together, &passed);
                scope.spawn(move || {
                    let mut one = nix::sched::CpuSet::new();
                    one.set(processor % std::thread::available_parallelism().unwrap().get()).unwrap();
                    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
                    let mut object = Object::load_with(table, Hook::Xdp, generation, directory, 1).unwrap();
                    for period in 1..=PERIODS {
                        tell(&mut object, Instant::ORIGIN + Duration::from_secs(period));
                        together.wait();
                        for _ in 0..QUOTA {
                            run(&mut object, Hook::Xdp, 3, &good(64, 60, 17)).unwrap();
                        }
                        if together.wait().is_leader() {
                            passed.lock().unwrap().push(path.counts().unwrap()[&Outcome::ToPrivate].packets);
                        }
                        together.wait();
                    }
                });
            }
        });
        let wanted: Vec<_> = (1..=PERIODS).map(|period| period * QUOTA).collect();
        assert_eq!(passed.into_inner().unwrap(), wanted);
    });
}
