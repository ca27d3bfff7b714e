//! What `payer wallet` prints: a sentence a person reads, or one JSON object a line.

use std::io::Write;

use ecash_wallet::Wallet;
use ecash_wallet::wire::client::{Event, SentOutcome};
use ecash_wallet::wire::value::Value as _;
use serde_json::{Value, json};

pub(super) fn say(json: bool, text: &str, value: &Value) {
    // A reader that has gone away is no error.
    let _ = if json { writeln!(std::io::stdout(), "{value}") } else { writeln!(std::io::stdout(), "{text}") };
}

/// Of many of a kind a person reads the sum alone.
pub(super) fn say_of_many(json: bool, count: u32, text: &str, value: &Value) {
    if json || count == 1 {
        say(json, text, value);
    }
}

/// What happened.
pub(super) fn events(json: bool, events: &[Event]) {
    for event in events {
        if let Some((text, value)) = told(event) {
            say(json, &text, &value);
        }
    }
}

fn told(event: &Event) -> Option<(String, Value)> {
    Some(match event {
        Event::Registered(id) => (format!("You are {id}."), json!({"done": true, "persona": id.as_str()})),
        Event::Taken(free) => {
            (format!("This id is taken; {free} is free."), json!({"done": false, "problem": "id-taken", "free": free}))
        }
        Event::Bound(number) => (format!("Instrument {number} is bound."), json!({"done": true, "instrument": number})),
        Event::Moved(amount, fee) => (
            format!("Moved {amount}; the fee is {fee}."),
            json!({"done": true, "moved": amount.to_string(), "fee": fee.to_string()}),
        ),
        Event::Opened(id, less) => (
            format!("Session {} is open{}.", id.write(), if *less { ", with less than was asked" } else { "" }),
            json!({"done": true, "session": id.write(), "less": less}),
        ),
        Event::Closed(back) => {
            let back: Vec<String> = back.iter().map(ToString::to_string).collect();
            let text = if back.is_empty() { "nothing".to_owned() } else { back.join(", ") };
            (format!("Closed; {text} came back."), json!({"done": true, "returned": back}))
        }
        Event::Autoclosed => ("The persona is closed.".to_owned(), json!({"done": true, "closed": true})),
        Event::Software(text) => (text.clone(), json!({"software": text})),
        Event::Paid(order, charged) => (
            format!("Paid {charged} for {}.", order.as_str()),
            json!({"done": true, "paid": true, "order": order.as_str(), "charged": charged.to_string()}),
        ),
        Event::NotPaid(order, problem) => (
            format!("Not paid: {}.", order.as_str()),
            json!({"done": true, "paid": false, "order": order.as_str(), "problem": problem.map(|p| p.text())}),
        ),
        Event::Alarm(order, charged) => (
            format!(
                "ALARM: {charged} was charged for {}, more than you authorised. The receipt is kept; the session is not used any more.",
                order.as_str()
            ),
            json!({"alarm": true, "order": order.as_str(), "charged": charged.to_string()}),
        ),
        Event::Asked(..)
        | Event::Failed(..)
        | Event::Offered(_)
        | Event::Waiting(_)
        | Event::Collected(..)
        | Event::Uncollected(..)
        | Event::BatchFailed(_)
        | Event::Notice(_)
        | Event::Unreadable(_) => return None,
    })
}

/// Money, instruments, sessions, and what waits for an answer.
pub(super) fn show(json: bool, wallet: &Wallet) {
    let client = wallet.client();
    let now = client.server_time(cloakway_runtime::clock::wall());
    let containers = client.containers().map(|container| {
        json!({"currency": container.available.currency().code(), "available": container.available.to_string(),
            "on_hold": container.on_hold.to_string()})
    });
    let bindings = client.bindings().map(|binding| {
        json!({"instrument": binding.number, "description": binding.description,
            "functions": binding.functions.write(), "status": binding.status})
    });
    let sessions = client.sessions().map(|held| {
        json!({"session": held.secrets.id().write(), "role": if held.is_payer() { "payer" } else { "payee" },
            "opening": held.opening.to_string(), "current": held.current.to_string(), "uses": held.last_index,
            "use_limit": held.use_limit, "minutes": held.lifetime.0, "opened_at": held.opened_at.to_string(),
            "usable": held.is_usable(now), "closed": held.closed})
    });
    let waiting = wallet.waiting();
    let unknown = client.sent().filter(|sent| sent.outcome.is_none()).count();
    print(
        json,
        &json!({
            "persona": client.identity().persona.as_ref().map(|id| id.as_str()),
            "suite": client.suite().name(),
            "money": containers.collect::<Vec<_>>(),
            "instruments": bindings.collect::<Vec<_>>(),
            "sessions": sessions.collect::<Vec<_>>(),
            "requests_waiting": waiting.iter().map(|(kind, number)| json!({"kind": kind.name(), "transaction": number})).collect::<Vec<_>>(),
            "payments_unknown": unknown,
            "batches_waiting": client.batches().count(),
        }),
    );
}

/// Everything that was paid, collected and answered.
pub(super) fn history(json: bool, wallet: &Wallet) {
    let client = wallet.client();
    let payments = client.sent().map(|sent| {
        let (outcome, charged, problem) = match &sent.outcome {
            None => ("unknown", None, None),
            Some(SentOutcome::Paid(charged)) => ("paid", Some(charged.to_string()), None),
            Some(SentOutcome::Refused(problem)) => ("refused", None, problem.map(|problem| problem.text())),
            Some(SentOutcome::NeverCollected) => ("never-collected", None, None),
        };
        json!({"session": sent.session.write(), "index": sent.index, "payee": sent.payee.as_str(),
            "order": sent.order.as_str(), "note": sent.note, "amount": sent.amount.to_string(), "outcome": outcome,
            "charged": charged, "problem": problem, "receipt": sent.receipt.as_ref().map(|receipt| receipt.write())})
    });
    let collected = client.rows().map(|row| {
        json!({"payer_session": row.session.write(), "payer_index": row.index, "order": row.order.as_str(),
            "asked": row.asked.to_string(), "status": row.status,
            "credited": row.credited.map(|credited| credited.to_string())})
    });
    let answers = client.responses().map(|response| {
        json!({"kind": response.kind.name(), "transaction": response.transaction, "at": response.at.to_string(),
            "problem": response.problem.map(|problem| problem.text()), "message": response.message})
    });
    print(
        json,
        &json!({
            "payments": payments.collect::<Vec<_>>(),
            "collected": collected.collect::<Vec<_>>(),
            "answers": answers.collect::<Vec<_>>(),
        }),
    );
}

/// For a person each list is a table under its name.
fn print(json: bool, value: &Value) {
    let text = match value {
        _ if json => format!("{value}\n"),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match value {
                Value::Array(rows) if rows.is_empty() => format!("{name}: none\n"),
                Value::Array(_) => format!("{name}:\n{}", cloakway_runtime::text::render(value)),
                Value::String(text) => format!("{name}: {text}\n"),
                other => format!("{name}: {other}\n"),
            })
            .collect(),
        other => format!("{other}\n"),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
}
