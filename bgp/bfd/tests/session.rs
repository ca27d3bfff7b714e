//! Two sessions and a path that can be cut, in virtual time; and one session told as cases.

#![cfg(test)]

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use bfd_core::{Diagnostic, Input, Output, Packet, Session, Settings, State};
use cloakway_types::Instant;

fn at(millis: u64) -> Instant {
    Instant::after_origin(Duration::from_millis(millis))
}

fn settings(interval_ms: u64, discriminator: u32) -> Settings {
    Settings {
        interval: Duration::from_millis(interval_ms),
        multiplier: NonZeroU8::new(3).unwrap(),
        discriminator: NonZeroU32::new(discriminator).unwrap(),
    }
}

struct Pair {
    ends: [Session; 2],
    now: Instant,
    cut: bool,
    events: Vec<(usize, Output, Instant)>,
    sent: [u64; 2],
}

impl Pair {
    fn new(intervals: [u64; 2], seed: u64) -> Self {
        let ends = [(0, intervals[0]), (1, intervals[1])]
            .map(|(n, interval)| Session::new(settings(interval, n + 7), seed + u64::from(n), at(0)));
        Self { ends, now: at(0), cut: false, events: Vec::new(), sent: [0; 2] }
    }

    fn deliver(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for from in 0..2 {
                while let Some(output) = self.ends[from].poll_output() {
                    moved = true;
                    match output {
                        Output::Send(bytes) => {
                            self.sent[from] += 1;
                            if !self.cut {
                                self.ends[1 - from].handle(Input::Received(&bytes), self.now);
                            }
                        }
                        event => self.events.push((from, event, self.now)),
                    }
                }
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            self.deliver();
            let Some(next) = self.ends.iter().filter_map(Session::poll_timeout).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.handle(Input::Tick, self.now);
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

#[test]
fn both_ends_come_up_and_send_at_the_slower_pace() {
    for seed in 0..50 {
        let mut pair = Pair::new([50, 80], seed);
        pair.run_until(at(3_000));
        assert_eq!(pair.states(), [State::Up; 2], "seed {seed}");
        let before = pair.sent;
        pair.run_until(at(13_000));
        // 80 ms less up to a quarter: 125 to 167 packets in ten seconds, both ways.
        for (sent, before) in pair.sent.iter().zip(before) {
            assert!((120..=172).contains(&(sent - before)), "seed {seed}: {}", sent - before);
        }
    }
}

#[test]
fn a_cut_is_seen_in_the_detection_time_and_mended_afterwards() {
    for seed in 0..50 {
        let mut pair = Pair::new([50, 50], seed);
        pair.run_until(at(5_000));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair.events.clear();
        pair.cut = true;
        pair.run_until(at(5_151));
        assert_eq!(pair.events.len(), 2, "seed {seed}: {:?}", pair.events);
        for (_, event, when) in &pair.events {
            assert_eq!(*event, Output::Down(Diagnostic::EXPIRED));
            assert!(*when > at(5_095), "no sooner than three intervals after the last packet: {when:?}");
        }
        pair.cut = false;
        pair.run_until(at(9_000));
        assert_eq!(pair.states(), [State::Up; 2], "seed {seed}");
    }
}

#[test]
fn an_operators_stop_is_told_and_not_taken_back() {
    let mut pair = Pair::new([50, 50], 1);
    pair.run_until(at(5_000));
    pair.events.clear();
    let now = pair.now;
    pair.ends[0].handle(Input::Stop, now);
    pair.run_until(at(8_000));
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    assert!(pair.events.contains(&(1, Output::Down(Diagnostic::NEIGHBOUR_DOWN), now)), "{:?}", pair.events);
    assert_eq!(pair.ends[0].poll_timeout(), None);
}

fn heard(session: &mut Session, packet: Packet, now: Instant) -> Vec<Packet> {
    session.handle(Input::Received(&packet.encode()), now);
    let mut sent = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::Send(bytes) = output {
            sent.push(Packet::decode(&bytes).unwrap());
        }
    }
    sent
}

fn from_neighbour(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        mine: 99,
        yours: 7,
        desired_transmit: Duration::from_millis(50),
        required_receive: Duration::from_millis(50),
    }
}

#[test]
fn a_poll_is_answered_at_once_and_ours_goes_on_until_it_is() {
    let mut session = Session::new(settings(50, 7), 1, at(0));
    heard(&mut session, from_neighbour(State::Init), at(10));
    assert_eq!(session.state(), State::Up);
    let answers = heard(&mut session, Packet { poll: true, ..from_neighbour(State::Up) }, at(20));
    assert!(matches!(&answers[..], [answer] if answer.is_final && !answer.poll && answer.yours == 99));
    let tick = |session: &mut Session| {
        let due = session.poll_timeout().unwrap();
        session.handle(Input::Tick, due);
        let Some(Output::Send(bytes)) = session.poll_output() else { panic!() };
        Packet::decode(&bytes).unwrap()
    };
    assert!(tick(&mut session).poll && tick(&mut session).poll);
    heard(&mut session, Packet { is_final: true, ..from_neighbour(State::Up) }, at(90));
    assert!(!tick(&mut session).poll);
}

#[test]
fn packets_for_another_session_change_nothing() {
    let mut session = Session::new(settings(50, 7), 1, at(0));
    heard(&mut session, Packet { yours: 8, ..from_neighbour(State::Init) }, at(10));
    assert_eq!(session.state(), State::Down);
    heard(&mut session, Packet { yours: 0, ..from_neighbour(State::Down) }, at(10));
    assert_eq!(session.state(), State::Init);
}

#[test]
fn a_neighbour_that_wants_no_packets_gets_none() {
    let mut session = Session::new(settings(50, 7), 1, at(0));
    let silent = Packet { required_receive: Duration::ZERO, ..from_neighbour(State::Init) };
    heard(&mut session, silent, at(10));
    // What is left is the detection time: 3 times 50 ms.
    assert_eq!(session.poll_timeout(), Some(at(160)));
}
