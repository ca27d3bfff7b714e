//! Electronic cash with sessions, served on the private address (G1 to G4). Decisions are made in `transact-ecash`.

mod api;
mod audit;
mod command;
#[cfg(test)]
mod durable;
mod engine;
mod issuer;
mod keys;
#[cfg(test)]
mod killed;
mod rows;
pub(crate) mod settings;
mod show;

use std::path::Path;

use cloakway_runtime::Stop;
use serde_json::{Value, json};
use transact_ecash::ledger::{HoldId, Outcome};

pub(crate) use api::router;
pub(crate) use command::{command, commands};
pub(crate) use engine::{Engine, StartError};

use crate::bank::BankState;
use engine::Shown;

/// The store's file in the folder of the role.
const FILE: &str = "ecash.redb";
/// The bound on a connection's bytes before its sender is known: a full batch has to fit.
pub(crate) const CONNECTION_BYTES: u64 = 2 * 1024 * 1024;

/// Starts electronic cash on what is stored in `data`.
pub(crate) fn start(
    config: settings::EcashConfig,
    data: &Path,
    bank: BankState,
    stop: &Stop,
) -> Result<Engine, StartError> {
    let store = config.open(data)?;
    let institution = config.bank.clone();
    let (engine, orders) = engine::start(config, store, stop)?;
    tokio::spawn(issuer::run(institution, orders, engine.clone(), bank, stop.clone()));
    Ok(engine)
}

/// Answers the admin socket; `None` for a topic that is not of electronic cash.
pub(crate) async fn answer(
    engine: Option<Engine>,
    request: &cloakway_runtime::admin::Request,
) -> Option<Result<Value, String>> {
    let topic = request.topic.as_str();
    if !topic.starts_with("ecash") {
        return None;
    }
    let Some(engine) = engine else { return Some(Err("electronic cash is off: there is no [ecash]".to_owned())) };
    let shown = match topic {
        "ecash" => Shown::Summary,
        "ecash-sessions" => Shown::Sessions,
        "ecash-holds" => Shown::Holds,
        "ecash-keys" => Shown::Keys,
        "ecash-audit" => return Some(audited(&engine).await),
        "ecash-hold" => return Some(end_hold(&engine, request).await),
        other => return Some(Err(format!("no topic {other}"))),
    };
    Some(engine.show(shown).await.map_err(|stopping| stopping.to_string()))
}

async fn audited(engine: &Engine) -> Result<Value, String> {
    let snapshot = engine.snapshot().await.map_err(|stopping| stopping.to_string())?;
    let audit = tokio::task::spawn_blocking(move || audit::of_the_running(&snapshot)).await;
    audit.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn end_hold(engine: &Engine, request: &cloakway_runtime::admin::Request) -> Result<Value, String> {
    let hold = request.arguments.get("hold").and_then(|text| text.parse().ok()).ok_or("hold: give its number")?;
    let outcome = match request.arguments.get("outcome").map(String::as_str) {
        Some("done") => Outcome::Done,
        Some("reversed") => Outcome::Reversed,
        _ => return Err("outcome: give done or reversed".to_owned()),
    };
    match engine.end_hold(HoldId(hold), outcome).await.map_err(|stopping| stopping.to_string())? {
        true => Ok(json!({"hold": hold, "ended": true})),
        false => Err(format!("no hold {hold} waits: `show ecash-holds` lists those that do")),
    }
}
