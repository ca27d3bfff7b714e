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
    Acceptor, Authorisation, CardNumber, Expiry, Input, Link, LinkConfig, Output, ResponseCode, Reversal, Trace,
    Verdict, Why,
};

struct Bank {
    process: Child,
    address: SocketAddr,
}

impl Bank {
    fn start(books: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bank-simulator"))
            .args(["--listen", "127.0.0.1:0", "--slow-ms", "1000", "--books"])
            .arg(books)
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
        let acceptor = Acceptor::new("CLOAK001", "CLOAKWAY", "12345", "5815").unwrap();
        let config = LinkConfig { answer_timeout: Duration::from_secs(1), ..LinkConfig::new(acceptor) };
        let stream = TcpStream::connect(bank.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut caller = Self { link: Link::new(config), stream, began: std::time::Instant::now() };
        caller.handle(Input::Connected);
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
                Output::Send(octets) => self.stream.write_all(octets.expose()).unwrap(),
                output => told.push(output),
            }
        }
        told
    }

    fn listen(&mut self) -> Vec<Output<u32>> {
        let mut octets = [0; 4096];
        match self.stream.read(&mut octets) {
            Ok(0) => self.handle(Input::Disconnected),
            Ok(number) => self.handle(Input::Bytes(&octets[..number])),
            Err(_) => self.handle(Input::Tick),
        }
    }

    /// The first thing that the caller is told, within ten seconds.
    fn outcome(&mut self, input: Option<Input<'_, u32>>) -> Output<u32> {
        let mut told = input.map(|input| self.handle(input)).unwrap_or_default();
        for _ in 0..500 {
            if !told.is_empty() {
                return told.remove(0);
            }
            told = self.listen();
        }
        panic!("nothing within ten seconds");
    }
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
        card: CardNumber::parse(&Secret::from(card)).unwrap(),
        expiry: Expiry::parse("12/49").unwrap(),
        amount: amount(),
    };
    Some(Input::Authorise(1, Box::new(authorisation)))
}

fn take_back(trace: Trace) -> Option<Input<'static, u32>> {
    Some(Input::Reverse(1, Reversal { trace, amount: amount() }))
}

fn code(text: &str) -> ResponseCode {
    ResponseCode::parse(text).unwrap()
}

#[test]
fn approval_refusal_silence_and_a_late_answer() {
    let folder = tempfile::tempdir().unwrap();
    let bank = Bank::start(&folder.path().join("books"));
    let mut caller = Caller::connect(&bank);
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
