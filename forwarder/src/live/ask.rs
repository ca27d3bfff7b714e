//! One question at an admin socket, and its answer within bounds of time and size.

use std::time::Duration;

use cloakway_runtime::admin::{Answer, Request};
use forwarder_wire::prefixes::{self, PREFIX_OCTETS, TOPIC, Told};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Settings;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an answer holds beside prefixes.
const REST: usize = 4096;

/// What the feed tells who knows what the tag `known` stands for.
pub(super) async fn ask(settings: &Settings, known: Option<String>) -> Result<Told, String> {
    let question = prefixes::Question { known, ..settings.question.clone() };
    let asking = async {
        let request = Request { topic: TOPIC.to_owned(), arguments: question.arguments() };
        let mut stream = UnixStream::connect(&settings.socket)
            .await
            .map_err(|error| format!("{}: {error}: is the {} running?", settings.socket.display(), settings.from))?;
        let mut line = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(|error| error.to_string())?;
        let most = question.most.unwrap_or_default().saturating_mul(PREFIX_OCTETS).saturating_add(REST);
        let mut bytes = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX);
        let length = stream.take(limit).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
        if length == most {
            return Err(format!("an answer of more than {most} octets"));
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| format!("not understood: {error}"))?;
        let value = match answer {
            Answer::Ok(value) => value,
            Answer::Error(why) => return Err(why),
        };
        let answer: prefixes::Answer =
            serde_json::from_value(value).map_err(|error| format!("not understood: {error}"))?;
        answer.told(&question).map_err(|error| error.to_string())
    };
    let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(late)
}
