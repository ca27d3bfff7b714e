//! Other roles ask whose an address is, by the protocol of `look-up-wire` on a Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cloakway_runtime::{Stop, admin};
use look_up_wire::{Answer, Framer, Question, Verdict};
use metrics::counter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::Table;

/// Askers at a time.
const ASKERS: usize = 64;
/// How long an asker may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one read takes at most.
const READ: usize = 64 * 1024;

/// Answers on `path` until the stop.
///
/// # Errors
/// When the socket cannot be opened.
pub(crate) fn serve(path: &Path, table: Arc<Table>, stop: Stop) -> std::io::Result<()> {
    let listener = admin::bind(path)?;
    let askers = Arc::new(Semaphore::new(ASKERS));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            let (Ok((stream, _)), Ok(place)) = (accepted, askers.clone().try_acquire_owned()) else { continue };
            let (table, stop) = (table.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.told() => {}
                    ended = answer(stream, &table) => if let Err(error) = ended {
                        tracing::debug!(%error, "an asker is sent away");
                    }
                }
                drop(place);
            });
        }
    });
    Ok(())
}

async fn answer(mut stream: UnixStream, table: &Table) -> Result<(), String> {
    let mut framer = Framer::default();
    let mut buffer = Vec::with_capacity(READ);
    loop {
        buffer.clear();
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => framer.push(&buffer),
            Err(error) => return Err(error.to_string()),
        }
        let mut answers = Vec::new();
        let readiness = table.readiness();
        while let Some(question) = framer.next_question().map_err(|error| error.to_string())? {
            answer_one(table, readiness, question).encode(&mut answers);
        }
        let written = tokio::time::timeout(PATIENCE, stream.write_all(&answers)).await;
        written.map_err(|_| "it does not read")?.map_err(|error| error.to_string())?;
    }
}

fn answer_one(table: &Table, readiness: Result<(), &'static str>, question: Question) -> Answer {
    let (verdict, source) = table.whose(readiness, question.address);
    let name = match verdict {
        Verdict::Origin { .. } => "origin",
        Verdict::Disputed { .. } => "disputed",
        Verdict::NoRoute => "no-route",
        Verdict::NotReady => "not-ready",
    };
    counter!("bgp_speaker_look_ups_total", "verdict" => name, "source" => source).increment(1);
    Answer { id: question.id, verdict }
}
