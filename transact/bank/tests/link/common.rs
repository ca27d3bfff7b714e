//! A link with short times, and the institution's side of the conversation.

use std::time::Duration;

use cloakway_crypto::Secret;
use cloakway_types::{Instant, Money, Timestamp};
use transact_bank::{
    Acceptor, Authorisation, Framer, Input, Link, LinkConfig, Message, MessageType, Movement, Original, Output, Refund,
    Reversal, Trace, frame,
};
use transact_wire::card::{CardNumber, Expiry};

/// 2023-11-14T22:13:20Z.
pub(crate) const START: u64 = 1_700_000_000_000;

pub(crate) fn at(millis: u64) -> Instant {
    Instant::after_origin(Duration::from_millis(millis))
}

pub(crate) fn wall(millis: u64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

pub(crate) fn config() -> LinkConfig {
    LinkConfig {
        answer_timeout: Duration::from_secs(10),
        echo_interval: Duration::from_secs(30),
        ..LinkConfig::new(Acceptor::new("CLOAK001", "CLOAKWAY", "12345", "5815").unwrap())
    }
}

pub(crate) fn money(minor: u64) -> Money {
    Money::new(minor, "EUR".parse().unwrap()).unwrap()
}

pub(crate) fn trace(stan: u32, millis: u64) -> Trace {
    Trace::new(stan, wall(millis)).unwrap()
}

pub(crate) fn authorisation(stan: u32, millis: u64) -> Box<Authorisation> {
    Box::new(Authorisation {
        trace: trace(stan, millis),
        movement: Movement::Authorisation,
        card: CardNumber::parse(&Secret::from("4111111111111111")).unwrap(),
        expiry: Expiry::parse("12/29").unwrap(),
        pin: None,
        amount: money(1234),
    })
}

pub(crate) fn reversal(stan: u32, millis: u64) -> Reversal {
    Reversal { trace: trace(stan, millis), movement: Movement::Authorisation, amount: money(1234) }
}

pub(crate) fn refund(stan: u32, millis: u64) -> Box<Refund> {
    let original =
        Original { trace: trace(42, 0), movement: Movement::Authorisation, authorisation_code: Some("A12345".into()) };
    Box::new(Refund { trace: trace(stan, millis), amount: money(200), original })
}

/// The one message in octets that were sent.
pub(crate) fn unframed(octets: &Secret<Vec<u8>>) -> Message {
    let mut messages = vec![];
    Framer::default().push(octets.expose(), |message| messages.push(Message::decode(message).unwrap())).unwrap();
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

pub(crate) fn framed(message: &Message) -> Vec<u8> {
    frame(&message.encode()).expose().clone()
}

/// An institution's answer to `request` with this response code.
pub(crate) fn answer(request: &Message, code: &str) -> Message {
    let message_type = request.message_type().answer().unwrap();
    let mut answer = Message::new(message_type);
    answer.copy(request, &[3, 4, 7, 11, 37, 41, 42, 49, 70]);
    answer.set(39, code).unwrap();
    if matches!(message_type, MessageType::AuthorisationResponse | MessageType::FinancialResponse) && code == "00" {
        answer.set(38, "A12345").unwrap();
    }
    answer
}

/// A link at work: what it says is either a message or something for the caller.
pub(crate) struct Bench {
    pub(crate) link: Link<u32>,
    pub(crate) now: u64,
    pub(crate) said: Vec<Message>,
    pub(crate) told: Vec<Output<u32>>,
}

impl Bench {
    pub(crate) fn down() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: LinkConfig) -> Self {
        Self { link: Link::new(config), now: 0, said: vec![], told: vec![] }
    }

    pub(crate) fn up() -> Self {
        let mut bench = Self::down();
        bench.connect();
        bench
    }

    pub(crate) fn connect(&mut self) {
        self.handle(Input::Connected(0));
        let sign_on = self.said.pop().unwrap();
        assert_eq!((sign_on.message_type().code(), sign_on.get(70)), ("0800", Some("001")));
        let owed = std::mem::take(&mut self.said);
        assert_eq!(owed, []);
        self.hear(&answer(&sign_on, "00"));
        assert!(self.link.is_up());
    }

    pub(crate) fn handle(&mut self, input: Input<'_, u32>) {
        self.link.handle(input, at(self.now), wall(self.now));
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Send(_, octets) => self.said.push(unframed(&octets)),
                told => self.told.push(told),
            }
        }
    }

    pub(crate) fn hear(&mut self, message: &Message) {
        self.handle(Input::Bytes(0, &framed(message)));
    }

    /// Lets time pass to `millis` after the start, with every tick on time.
    pub(crate) fn wait_until(&mut self, millis: u64) {
        while let Some(due) = self.link.poll_timeout().filter(|due| *due <= at(millis)) {
            self.now = self.now.max(u64::try_from(due.since_origin().as_millis()).unwrap());
            self.handle(Input::Tick);
        }
        self.now = millis;
    }

    pub(crate) fn said(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.said)
    }

    pub(crate) fn told(&mut self) -> Vec<Output<u32>> {
        std::mem::take(&mut self.told)
    }
}
