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
use netns_tests::say;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use transact_bank::{Framer, Message, frame};

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
        any other         no such card (14)\n\n\
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
    let late = Duration::from_millis(arguments.slow_ms.saturating_mul(3) / 2);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                let books = Arc::clone(&books);
                tokio::spawn(async move {
                    eprintln!("{peer} connected");
                    match converse(stream, &books, late).await {
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

async fn converse(stream: TcpStream, books: &Mutex<Books>, late: Duration) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reading, writing) = stream.into_split();
    let (answers, waiting) = mpsc::channel(WAITING_ANSWERS);
    let writer = tokio::spawn(write(writing, waiting));
    let mut framer = Framer::default();
    let mut session = Session::default();
    let mut octets = vec![0; 4096];
    loop {
        let number = reading.read(&mut octets).await?;
        if number == 0 {
            break;
        }
        let mut messages = Vec::new();
        let stream = framer.push(octets.get(..number).unwrap_or_default(), |m| messages.push(Message::decode(m)));
        for message in messages {
            let message = message.context("unreadable message")?;
            let reaction = {
                let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
                react(&mut session, &mut books, &message).context("the books cannot be written")?
            };
            log(&message, &reaction);
            match reaction {
                Reaction::Answer(answer) => answers.send(answer).await?,
                Reaction::AnswerLate(answer) => {
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(late).await;
                        // The caller may have left by then.
                        let _ = answers.send(answer).await;
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

async fn write(mut writing: OwnedWriteHalf, mut waiting: mpsc::Receiver<Message>) -> Result<()> {
    while let Some(answer) = waiting.recv().await {
        writing.write_all(frame(&answer.encode()).expose()).await?;
    }
    Ok(())
}

fn log(message: &Message, reaction: &Reaction) {
    let (said, code) = match reaction {
        Reaction::Answer(answer) => ("answered", answer.get(39)),
        Reaction::AnswerLate(answer) => ("answered late", answer.get(39)),
        Reaction::Silence => ("left unanswered", None),
    };
    eprintln!(
        "{} stan {} {said} {}",
        message.message_type().code(),
        message.get(11).unwrap_or("?"),
        code.unwrap_or_default()
    );
}
