//! A financial institution for labs and tests: ISO 8583 over TCP, decisions by test card number, books
//! that outlive a `kill -9`.
//!
//! It shares the codec with the transaction server and nothing else.

mod books;
mod institution;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use cloakway_crypto::{Secret, encode};
use cloakway_sim::Rng;
use netns_tests::say;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use transact_bank::{Codec, Framer, Framing, LengthKind, MacKey, Message, Profile};

use books::Books;
use institution::{Reaction, Session, react};

/// Answers of one connection that wait to be written.
const WAITING_ANSWERS: usize = 1024;

#[derive(Parser)]
#[command(
    name = "bank-simulator",
    about = "A financial institution for labs: ISO 8583:1987 over TCP, decisions by test card number",
    after_help = "Cards:\n  \
        4111111111111111  approved (00)\n  \
        4000000000000002  declined (51)\n  \
        4000000000000119  approved in the books, never answered: has to be reversed\n  \
        4000000000000127  approved, answered after one and a half times --slow-ms\n  \
        4000000000000135  approved, and the connection ends in the midst of the answer\n  \
        4000000000000143  approved, and answered twice\n  \
        5100000000000008  approved (00)\n  \
        any other         no such card (14)\n\n\
        Refunds (0200 with processing code 20) are answered 00 up to what was taken, else 61; a refund of 119 minor\n\
        units is given and never answered, one of 102 is refused (05).\n\
        Reversals are answered 00, or 25 when nothing is known; what was reversed stays refused.\n\
        The first line on standard output is {\"listening\":ADDR}; the log is on standard error.\n\n\
        Examples:\n  \
        bank-simulator --listen 192.0.2.82:8583 --books bank.jsonl\n  \
        bank-simulator --listen 127.0.0.1:0 --books bank.jsonl --slow-ms 2000"
)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The books: a JSON line for each decision, without card numbers. Read again at the start.
    #[arg(long, value_name = "FILE")]
    books: PathBuf,
    /// The caller's time limit for an answer, in milliseconds; the slow card takes half as long again.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    slow_ms: u64,
    /// How messages become octets: ascii, ascii-raw or binary.
    #[arg(long, value_name = "NAME", default_value = "ascii", value_parser = profile)]
    profile: Profile,
    /// Lengths as four digits instead of two octets.
    #[arg(long)]
    length_in_digits: bool,
    /// A header behind each length, in hexadecimal digits.
    #[arg(long, value_name = "HEX", default_value = "", value_parser = header)]
    header: Header,
    /// Authenticate messages by X9.19 with the key in this file, 32 hexadecimal digits.
    #[arg(long, value_name = "FILE", conflicts_with = "aes_cmac_key")]
    retail_mac_key: Option<PathBuf>,
    /// Authenticate messages by AES-CMAC with the key in this file, 32 or 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    aes_cmac_key: Option<PathBuf>,
    /// Of a hundred messages, so many are not answered, answered late or twice, or end the connection.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    faults: u64,
    /// Decides which.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Clone)]
struct Header(Vec<u8>);

fn header(text: &str) -> Result<Header, String> {
    encode::unhex(text).map(Header).ok_or_else(|| "give hexadecimal digits, two for each octet".to_owned())
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::named(name).ok_or_else(|| "give ascii, ascii-raw or binary".to_owned())
}

/// How a caller is spoken to, and what goes wrong.
struct Manner {
    codec: Codec,
    framing: Framing,
    late: Duration,
    faults: u64,
    dice: Mutex<Rng>,
}

impl Manner {
    fn new(arguments: &Arguments) -> Result<Self> {
        let key = |path: &PathBuf| -> Result<Secret<Vec<u8>>> {
            let text = Secret::new(std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?);
            encode::unhex(text.expose().trim()).map(Secret::new).with_context(|| format!("{}: no key", path.display()))
        };
        let retail = arguments.retail_mac_key.as_ref().map(|path| anyhow::Ok(MacKey::retail(key(path)?)?));
        let cmac = arguments.aes_cmac_key.as_ref().map(|path| anyhow::Ok(MacKey::aes_cmac(key(path)?)?));
        let length = if arguments.length_in_digits { LengthKind::Digits } else { LengthKind::Octets };
        Ok(Self {
            codec: Codec { profile: arguments.profile, mac: retail.or(cmac).transpose()? },
            framing: Framing { length, header: arguments.header.0.clone() },
            late: Duration::from_millis(arguments.slow_ms.saturating_mul(3) / 2),
            faults: arguments.faults,
            dice: Mutex::new(Rng::new(arguments.seed)),
        })
    }

    /// What becomes of a reaction when something goes wrong.
    fn spoil(&self, message: &Message, reaction: Reaction) -> Reaction {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        match reaction {
            Reaction::Answer(answer) if !message.message_type().is_network_management() && dice.chance(self.faults) => {
                match dice.between(0, 3) {
                    0 => Reaction::Silence,
                    1 => Reaction::AnswerLate(answer),
                    2 => Reaction::AnswerTwice(answer),
                    _ => Reaction::Cut(answer),
                }
            }
            other => other,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = || -> Result<()> { tokio::runtime::Runtime::new()?.block_on(serve(arguments)) };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bank-simulator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<()> {
    let books = Books::open(&arguments.books).with_context(|| format!("{}", arguments.books.display()))?;
    let books = Arc::new(Mutex::new(books));
    let listener = TcpListener::bind(arguments.listen).await.with_context(|| format!("{}", arguments.listen))?;
    say(&serde_json::json!({ "listening": listener.local_addr()? }).to_string());
    let manner = Arc::new(Manner::new(&arguments)?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                let (books, manner) = (Arc::clone(&books), Arc::clone(&manner));
                tokio::spawn(async move {
                    eprintln!("{peer} connected");
                    match converse(stream, &books, &manner).await {
                        Ok(()) => eprintln!("{peer} left"),
                        Err(error) => eprintln!("{peer}: {error:#}"),
                    }
                });
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

async fn converse(stream: TcpStream, books: &Mutex<Books>, manner: &Arc<Manner>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reading, writing) = stream.into_split();
    let (answers, waiting) = mpsc::channel(WAITING_ANSWERS);
    let mut writer = tokio::spawn(write(writing, waiting, Arc::clone(manner)));
    let mut framer = Framer::new(manner.framing.clone());
    let mut session = Session::default();
    let mut octets = vec![0; 4096];
    loop {
        let number = tokio::select! {
            read = reading.read(&mut octets) => read?,
            // The answer was cut, and the connection with it.
            written = &mut writer => return written?,
        };
        if number == 0 {
            break;
        }
        let mut messages = Vec::new();
        let stream = framer.push(octets.get(..number).unwrap_or_default(), |m| messages.push(manner.codec.decode(m)));
        for message in messages {
            let message = message.context("unreadable message")?;
            let reaction = {
                let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
                react(&mut session, &mut books, &message).context("the books cannot be written")?
            };
            let reaction = manner.spoil(&message, reaction);
            log(&message, &reaction);
            match reaction {
                Reaction::Answer(answer) => say_it(&answers, Saying::Whole(answer)).await,
                Reaction::AnswerTwice(answer) => {
                    say_it(&answers, Saying::Whole(answer.clone())).await;
                    say_it(&answers, Saying::Whole(answer)).await;
                }
                Reaction::Cut(answer) => say_it(&answers, Saying::Half(answer)).await,
                Reaction::AnswerLate(answer) => {
                    let (answers, late) = (answers.clone(), manner.late);
                    tokio::spawn(async move {
                        tokio::time::sleep(late).await;
                        say_it(&answers, Saying::Whole(answer)).await;
                    });
                }
                Reaction::Silence => {}
            }
        }
        stream?;
    }
    drop(answers);
    writer.await?
}

/// What goes out.
enum Saying {
    Whole(Message),
    /// The first half, and nothing any more.
    Half(Message),
}

/// The caller may have left by then.
async fn say_it(answers: &mpsc::Sender<Saying>, saying: Saying) {
    let _ = answers.send(saying).await;
}

async fn write(mut writing: OwnedWriteHalf, mut waiting: mpsc::Receiver<Saying>, manner: Arc<Manner>) -> Result<()> {
    while let Some(saying) = waiting.recv().await {
        let framed = |message: &Message| manner.framing.frame(&manner.codec.encode(message));
        match saying {
            Saying::Whole(answer) => writing.write_all(framed(&answer).expose()).await?,
            Saying::Half(answer) => {
                let octets = framed(&answer);
                let half = octets.expose().len() / 2;
                writing.write_all(octets.expose().get(..half).unwrap_or_default()).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn log(message: &Message, reaction: &Reaction) {
    let (said, code) = match reaction {
        Reaction::Answer(answer) => ("answered", answer.get(39)),
        Reaction::AnswerLate(answer) => ("answered late", answer.get(39)),
        Reaction::AnswerTwice(answer) => ("answered twice", answer.get(39)),
        Reaction::Cut(answer) => ("answered by half", answer.get(39)),
        Reaction::Silence => ("left unanswered", None),
    };
    eprintln!(
        "{} stan {} {said} {}",
        message.message_type().code(),
        message.get(11).unwrap_or("?"),
        code.unwrap_or_default()
    );
}
