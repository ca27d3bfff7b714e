//! The bank simulator as a process, with the transaction server's own link at the other end.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use cloakway_crypto::Secret;
use cloakway_types::{Instant, Money, Timestamp};
use transact_bank::{
    Acceptor, Authorisation, CardNumber, Codec, Count, Expiry, Framing, Input, LengthKind, Link, LinkConfig, MacKey,
    Movement, Original, Output, Profile, Refund, ResponseCode, Reversal, ReversalKind, Trace, Verdict, Why,
};

struct Bank {
    process: Child,
    address: SocketAddr,
}

impl Bank {
    fn start(books: &Path) -> Self {
        Self::with(books, &[])
    }

    fn with(books: &Path, more: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bank-simulator"))
            .args(["--listen", "127.0.0.1:0", "--slow-ms", "3000", "--books"])
            .arg(books)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { process, address: ready["listening"].as_str().unwrap().parse().unwrap() }
    }
}

impl Drop for Bank {
    /// SIGKILL, as in `kill -9`.
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

struct Caller {
    link: Link<u32>,
    stream: TcpStream,
    began: std::time::Instant,
}

impl Caller {
    fn connect(bank: &Bank) -> Self {
        Self::with(bank, config())
    }

    fn with(bank: &Bank, config: LinkConfig) -> Self {
        let stream = TcpStream::connect(bank.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut caller = Self { link: Link::new(config), stream, began: std::time::Instant::now() };
        caller.handle(Input::Connected(0));
        for _ in 0..500 {
            if caller.link.is_up() {
                return caller;
            }
            assert_eq!(caller.listen(), []);
        }
        panic!("the bank does not sign on");
    }

    fn handle(&mut self, input: Input<'_, u32>) -> Vec<Output<u32>> {
        let now = Instant::after_origin(self.began.elapsed());
        self.link.handle(input, now, wall());
        let mut told = vec![];
        while let Some(output) = self.link.poll_output() {
            match output {
                Output::Send(_, octets) => self.stream.write_all(octets.expose()).unwrap(),
                output => told.push(output),
            }
        }
        told
    }

    fn listen(&mut self) -> Vec<Output<u32>> {
        let mut octets = [0; 4096];
        match self.stream.read(&mut octets) {
            Ok(0) => self.handle(Input::Disconnected(0)),
            Ok(number) => self.handle(Input::Bytes(0, &octets[..number])),
            Err(_) => self.handle(Input::Tick),
        }
    }

    /// The first thing that the caller is told, within a minute.
    fn outcome(&mut self, input: Option<Input<'_, u32>>) -> Output<u32> {
        let mut told = input.map(|input| self.handle(input)).unwrap_or_default();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if !told.is_empty() {
                return told.remove(0);
            }
            told = self.listen();
        }
        panic!("nothing within a minute");
    }
}

fn config() -> LinkConfig {
    let acceptor = Acceptor::new("CLOAK001", "CLOAKWAY", "12345", "5815").unwrap();
    LinkConfig { answer_timeout: Duration::from_secs(30), ..LinkConfig::new(acceptor) }
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}

fn amount() -> Money {
    Money::new(1234, "EUR".parse().unwrap()).unwrap()
}

fn ask(trace: Trace, card: &str) -> Option<Input<'static, u32>> {
    let authorisation = Authorisation {
        trace,
        movement: Movement::Authorisation,
        card: CardNumber::parse(&Secret::from(card)).unwrap(),
        expiry: Expiry::parse("12/49").unwrap(),
        pin: None,
        amount: amount(),
    };
    Some(Input::Authorise(1, Box::new(authorisation)))
}

fn take_back(trace: Trace) -> Option<Input<'static, u32>> {
    Some(Input::Reverse(1, Reversal { trace, movement: Movement::Authorisation, amount: amount() }))
}

fn code(text: &str) -> ResponseCode {
    ResponseCode::parse(text).unwrap()
}

#[test]
fn approval_refusal_silence_and_a_late_answer() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::start(&folder.path().join("books"));
    let mut caller = Caller::with(&bank, LinkConfig { answer_timeout: Duration::from_secs(3), ..config() });
    let trace = |stan| Trace::new(stan, wall()).unwrap();

    let approved = Verdict::Approved { authorisation_code: "S00001".into() };
    assert_eq!(caller.outcome(ask(trace(1), "4111111111111111")), Output::Authorised(1, approved));
    let declined = Output::Authorised(1, Verdict::Declined(code("51")));
    assert_eq!(caller.outcome(ask(trace(2), "4000000000000002")), declined);
    let unknown = Output::Authorised(1, Verdict::Declined(code("14")));
    assert_eq!(caller.outcome(ask(trace(3), "5555555555554444")), unknown);

    let silent = trace(4);
    assert_eq!(caller.outcome(ask(silent, "4000000000000119")), Output::TimedOut(1, Why::Deadline));
    assert_eq!(caller.outcome(take_back(silent)), Output::Reversed(1, code("00")));

    let slow = trace(5);
    assert_eq!(caller.outcome(ask(slow, "4000000000000127")), Output::TimedOut(1, Why::Deadline));
    assert_eq!(caller.outcome(None), Output::Late(1, code("00")));
    assert_eq!(caller.outcome(take_back(slow)), Output::Reversed(1, code("00")));
}

#[test]
fn an_answer_that_is_cut_and_one_that_comes_twice() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::start(&folder.path().join("books"));
    let mut caller = Caller::connect(&bank);
    let (twice, cut) = (Trace::new(1, wall()).unwrap(), Trace::new(2, wall()).unwrap());
    let approved = Verdict::Approved { authorisation_code: "S00001".into() };
    assert_eq!(caller.outcome(ask(twice, "4000000000000143")), Output::Authorised(1, approved));
    assert_eq!(caller.outcome(ask(cut, "4000000000000135")), Output::TimedOut(1, Why::ConnectionLost));
    assert_eq!(caller.link.counters().get(Count::Duplicate), 1);
    let mut caller = Caller::connect(&bank);
    assert_eq!(caller.outcome(take_back(cut)), Output::Reversed(1, code("00")));
}

/// Every profile, framing and kind of code, through a process of its own.
#[test]
fn every_way_of_speaking_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdeffedcba9876543210").unwrap();
    let key_bytes = Secret::new(cloakway_crypto::encode::unhex("0123456789abcdeffedcba9876543210").unwrap());
    let key = key.to_str().unwrap();
    let retail = MacKey::retail(key_bytes.clone()).ok();
    let cmac = MacKey::aes_cmac(key_bytes).ok();
    let digits = Framing { length: LengthKind::Digits, header: b"ISO".to_vec() };
    let tpdu = Framing { length: LengthKind::Octets, header: vec![0x60, 0, 1, 0, 0] };
    let (plain, advice) = (ReversalKind::Request, ReversalKind::Advice);
    let ways: [(&[&str], Profile, _, Framing, _); 4] = [
        (
            &["--profile", "ascii-raw", "--length-in-digits", "--header", "49534f"],
            Profile::ASCII_RAW,
            None,
            digits,
            plain,
        ),
        (&["--profile", "binary", "--header", "6000010000"], Profile::BINARY, None, tpdu.clone(), advice),
        (&["--profile", "ascii", "--retail-mac-key", key], Profile::ASCII, retail, Framing::default(), plain),
        (
            &["--profile", "binary", "--header", "6000010000", "--aes-cmac-key", key],
            Profile::BINARY,
            cmac,
            tpdu,
            advice,
        ),
    ];
    for (number, (arguments, profile, mac, framing, reversals)) in ways.into_iter().enumerate() {
        let bank = Bank::with(&folder.path().join(format!("books-{number}")), arguments);
        let codec = Codec { profile, mac };
        let mut caller = Caller::with(&bank, LinkConfig { codec, framing, reversals, ..config() });
        let trace = |stan| Trace::new(stan, wall()).unwrap();
        let bought = trace(1);
        let purchase = Authorisation {
            trace: bought,
            movement: Movement::Purchase,
            card: CardNumber::parse(&Secret::from("4111111111111111")).unwrap(),
            expiry: Expiry::parse("12/49").unwrap(),
            pin: None,
            amount: amount(),
        };
        let answered = caller.outcome(Some(Input::Authorise(1, Box::new(purchase))));
        let Output::Authorised(1, Verdict::Approved { authorisation_code }) = answered else { panic!("{answered:?}") };
        let original =
            Original { trace: bought, movement: Movement::Purchase, authorisation_code: Some(authorisation_code) };
        let refund = |stan, minor| {
            let amount = Money::new(minor, "EUR".parse().unwrap()).unwrap();
            Some(Input::Refund(1, Box::new(Refund { trace: trace(stan), amount, original: original.clone() })))
        };
        assert!(matches!(caller.outcome(refund(2, 1000)), Output::Authorised(1, Verdict::Approved { .. })), "{number}");
        assert_eq!(caller.outcome(refund(3, 1000)), Output::Authorised(1, Verdict::Declined(code("61"))), "{number}");
        let held = Reversal { trace: bought, movement: Movement::Purchase, amount: amount() };
        assert_eq!(caller.outcome(Some(Input::Reverse(1, held))), Output::Reversed(1, code("00")), "{number}");
    }
}

#[test]
fn a_killed_bank_remembers_what_it_held() {
    let folder = tempfile::tempdir().unwrap();
    let books = folder.path().join("books");
    let (held, never_sent) = (Trace::new(7, wall()).unwrap(), Trace::new(8, wall()).unwrap());
    let bank = Bank::start(&books);
    let mut caller = Caller::connect(&bank);
    assert!(matches!(caller.outcome(ask(held, "4111111111111111")), Output::Authorised(1, Verdict::Approved { .. })));
    drop(bank);

    let bank = Bank::start(&books);
    let mut caller = Caller::connect(&bank);
    assert_eq!(caller.outcome(take_back(held)), Output::Reversed(1, code("00")));
    assert_eq!(caller.outcome(take_back(never_sent)), Output::Reversed(1, code("25")));
    let written = std::fs::read_to_string(&books).unwrap();
    assert!(!written.contains("4111111111111111"), "{written}");
    let events: Vec<String> = written
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["authorised", "reversed", "buried"]);
}

#[test]
fn books_that_cannot_be_opened_and_wrong_arguments_have_their_exit_codes() {
    let run = |arguments: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_bank-simulator")).args(arguments).output().unwrap();
        (run.status.code(), String::from_utf8(run.stderr).unwrap())
    };
    let (status, text) = run(&["--listen", "127.0.0.1:0", "--books", "/nonexistent/books"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("/nonexistent/books"), "{text}");
    assert_eq!(run(&["--listen", "here"]).0, Some(2));
}
