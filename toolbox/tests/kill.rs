//! The process is killed at random moments under load, and what it knows afterwards is held against what it answered.
//!
//! Forty sessions at a time, each by a socket of its own, send Start, Interim-Updates and Stop over UDP as fast as they are
//! answered, and send again what was not. The oracle is what a NAS knows: each session's last answered record, and the one that
//! is under way, which may count or not until it is answered. KILLS=500 kills that often, 24 times unless given; SIM_SEED=7
//! repeats a run's choices, though not the moments at which the kernel carries them out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cloakway_sim::Rng;
use cloakway_store::Store;
use cloakway_types::Timestamp;
use running::{INTERIM, Nas, PATIENCE, START, STOP, Toolbox, eventually, now_s};
use toolbox_core::Interval;
use toolbox_wire::record::User;

const SLOTS: u8 = 40;
const RESEND: Duration = Duration::from_millis(500);

/// One session of a slot, as its NAS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    session: String,
    user: String,
    proved: u32,
}

struct Slot {
    nas: Nas,
    address: [u8; 4],
    number: u32,
    /// The clock of this session.
    clock: u32,
    /// As the answered records have it.
    known: Option<Use>,
    /// As it will be with the record that is under way.
    coming: Option<Use>,
    packet: Vec<u8>,
    sent: Instant,
    answered: u64,
    ended: u64,
}

impl Slot {
    fn new(toolbox: &Toolbox, slot: u8, clock: u32) -> Self {
        Self {
            nas: Nas::new("127.0.0.1:0", toolbox.radius),
            address: [198, 51, 100, 65 + slot],
            number: 0,
            clock,
            known: None,
            coming: None,
            packet: Vec::new(),
            sent: Instant::now(),
            answered: 0,
            ended: 0,
        }
    }

    fn next(&mut self, rng: &mut Rng) {
        self.clock += 1;
        let (status, coming) = match &self.known {
            None => {
                self.number += 1;
                let slot = self.address[3];
                let user = format!("user{slot}-{}", self.number);
                (START, Some(Use { session: format!("s{slot}-{}", self.number), user, proved: self.clock }))
            }
            Some(_) if rng.chance(30) => (STOP, None),
            Some(known) => (INTERIM, Some(Use { proved: self.clock, ..known.clone() })),
        };
        let of = coming.as_ref().or(self.known.as_ref()).unwrap();
        let delay = now_s().saturating_sub(self.clock);
        self.packet = self.nas.accounting_of(status, &of.session, &of.user, self.address, self.clock, delay);
        self.coming = coming;
        self.send();
    }

    fn send(&mut self) {
        self.nas.send(&self.packet);
        self.sent = Instant::now();
    }

    /// Takes an answer, if there is one; whether it is that of the record under way.
    fn take(&mut self) -> bool {
        while let Some(answer) = self.nas.poll() {
            if answer[1] == self.packet[1] {
                self.answered += 1;
                self.ended += u64::from(self.known.is_some() && self.coming.is_none());
                self.known = self.coming.clone();
                return true;
            }
        }
        false
    }
}

/// What the toolbox knows of each address.
fn shown(toolbox: &Toolbox) -> BTreeMap<String, Use> {
    let bindings = toolbox.show("bindings").unwrap();
    let of = |binding: &serde_json::Value| {
        let text = |field: &str| binding[field].as_str().unwrap().to_owned();
        let proved: Timestamp = text("proved_at").parse().unwrap();
        assert_eq!(text("state"), "bound", "{binding}");
        let proved = u32::try_from(proved.as_secs()).unwrap();
        (text("prefix"), Use { session: text("session"), user: text("subscriber"), proved })
    };
    let all = bindings.as_array().unwrap();
    let map: BTreeMap<String, Use> = all.iter().map(of).collect();
    assert_eq!(map.len(), all.len(), "an address twice");
    map
}

fn check(toolbox: &Toolbox, slots: &[Slot], round: u64) {
    let shown = shown(toolbox);
    for slot in slots {
        let there = shown.get(&format!("198.51.100.{}/32", slot.address[3])).cloned();
        let right = there == slot.known || there == slot.coming;
        assert!(right, "round {round}: {there:?} is there, answered was {:?}, under way {:?}", slot.known, slot.coming);
    }
}

#[test]
fn nothing_that_was_answered_is_lost_and_nothing_counts_twice_however_often_it_is_killed() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (kills, seed) = (number("KILLS", 24), number("SIM_SEED", 1));
    eprintln!("SIM_SEED={seed} KILLS={kills}");
    let mut rng = Rng::new(seed);
    let mut toolbox = Toolbox::start_with("max-age-s = 86400\n");
    // Their clocks run ahead of the records that they send, and stay behind ours.
    let clock = now_s() - 80_000;
    let mut slots: Vec<Slot> = (0..SLOTS).map(|slot| Slot::new(&toolbox, slot, clock)).collect();
    slots.iter_mut().for_each(|slot| slot.next(&mut rng));
    for round in 0..kills {
        let before: u64 = slots.iter().map(|slot| slot.answered).sum();
        // At least one answer in each round, so that it gets on; then the kill at any moment.
        let mut end = None;
        let patience = Instant::now() + PATIENCE;
        while end.is_none_or(|end| Instant::now() < end) {
            assert!(Instant::now() < patience || end.is_some(), "round {round}: no answer");
            for slot in &mut slots {
                if slot.take() {
                    slot.next(&mut rng);
                    end = end.or_else(|| Some(Instant::now() + Duration::from_micros(rng.between(0, 120_000))));
                } else if slot.sent.elapsed() > RESEND {
                    slot.send();
                }
            }
        }
        toolbox.kill();
        // What was on its way counts as answered.
        for slot in &mut slots {
            slot.take();
        }
        toolbox.run();
        check(&toolbox, &slots, round);
        for slot in &mut slots {
            // Answered, but with nothing under way: the answer came while it was killed.
            if slot.known == slot.coming {
                slot.next(&mut rng);
            } else {
                slot.send();
            }
        }
        assert!(slots.iter().map(|slot| slot.answered).sum::<u64>() > before);
    }
    eventually("the last records are answered", || {
        for slot in &mut slots {
            if slot.known != slot.coming && !slot.take() && slot.sent.elapsed() > RESEND {
                slot.send();
            }
        }
        slots.iter().all(|slot| slot.known == slot.coming).then_some(())
    });
    check(&toolbox, &slots, kills);
    toolbox.terminate();
    // Each session that was stopped is in the history once.
    let store = Store::open(&toolbox.data().join("history.redb")).unwrap();
    let intervals: Vec<Interval> =
        store.scan("history").unwrap().iter().map(|(_, value)| Interval::decode(value).unwrap()).collect();
    let sessions: BTreeSet<&str> = intervals.iter().map(|interval| interval.session.session.as_str()).collect();
    let ended: u64 = slots.iter().map(|slot| slot.ended).sum();
    assert_eq!((intervals.len() as u64, sessions.len() as u64), (ended, ended));
    for interval in &intervals {
        let User::Named(user) = &interval.user else { panic!("{interval:?}") };
        assert_eq!(interval.session.session.replacen('s', "user", 1), user.as_str());
        // A start that was sent again after a kill came so late that its session may have been over when it surely had begun.
        assert!(!interval.doubtful && interval.begun <= interval.gone, "{interval:?}");
    }
    let answered: u64 = slots.iter().map(|slot| slot.answered).sum();
    eprintln!("{answered} records answered, {ended} sessions ended, {kills} kills");
}
