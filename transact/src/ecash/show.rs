//! What the operator sees of electronic cash. No secrets, no numbers of instruments.

use std::collections::BTreeMap;

use cloakway_types::Timestamp;
use serde_json::{Value, json};
use transact_ecash::ledger::Account;
use transact_ecash::wire::value::Value as _;
use transact_ecash::{PaymentOutcome, Role, Server};

use super::engine::{Shown, public_keys};

/// Where money is, for sums.
const KINDS: [&str; 6] = ["clearing", "fees", "exchange", "available", "on_hold", "in_sessions"];
/// Sessions that are listed at most, the youngest first.
const MOST: usize = 1000;

pub(super) fn show(server: &Server, what: Shown, asked: usize, now: Timestamp) -> Value {
    match what {
        Shown::Summary => summary(server, asked, now),
        Shown::Sessions => sessions(server),
        Shown::Holds => holds(server),
        Shown::Keys => public_keys(server, now),
    }
}

fn open(server: &Server, role: Role) -> usize {
    server.sessions().filter(|session| session.closed.is_none() && session.role == role).count()
}

fn summary(server: &Server, asked: usize, now: Timestamp) -> Value {
    let collected = server.payments().filter(|payment| payment.outcome == PaymentOutcome::Collected).count();
    let books = server.books();
    let mut money: BTreeMap<String, BTreeMap<&str, i64>> = BTreeMap::new();
    for (account, currency) in books.accounts() {
        let kind = match account {
            Account::Clearing => "clearing",
            Account::Fees => "fees",
            Account::Exchange => "exchange",
            Account::Available(_) => "available",
            Account::OnHold(_) => "on_hold",
            Account::Session(_) => "in_sessions",
        };
        let minor = books.balance(&account, currency);
        // A kind without an account shows as nothing.
        let of = || KINDS.map(|kind| (kind, 0)).into();
        *money.entry(currency.code().to_owned()).or_insert_with(of).entry(kind).or_default() += minor;
    }
    let cost = server.cost();
    json!({
        "personas": server.personas().count(),
        "instruments": server.bindings().count(),
        "payer_sessions_open": open(server, Role::Payer),
        "payee_sessions_open": open(server, Role::Payee),
        "sessions_kept": server.sessions().count(),
        "payments_kept": server.payments().count(),
        "payments_collected": collected,
        "replies_kept": server.logged(),
        "entries": books.entries(),
        "sums_minor": books.sums().into_iter().map(|(currency, sum)| (currency.code().to_owned(), sum.to_string()))
            .collect::<BTreeMap<_, _>>(),
        "money_minor": money,
        "holds_waiting": server.pending_holds().count(),
        "bank_requests_open": asked,
        "requests_unwrapped": cost.unwraps,
        "signatures_verified": cost.verifications,
        "keys": public_keys(server, now).get("keys").and_then(Value::as_array).map_or(0, Vec::len),
    })
}

fn sessions(server: &Server) -> Value {
    let mut all: Vec<_> = server.sessions().collect();
    all.sort_by_key(|session| std::cmp::Reverse(session.id));
    let rows = all.into_iter().take(MOST).map(|session| {
        let current = server.books().session(session.id, session.currency());
        json!({
            "session": session.id.0,
            "id": session.id.write(),
            "persona": session.persona.as_str(),
            "role": session.role,
            "suite": session.suite.name(),
            "opening": session.opening.to_string(),
            "current": current.to_string(),
            "uses": session.used.count(),
            "use_limit": session.use_limit,
            "minutes": session.lifetime.0,
            "opened_at": session.opened_at.to_string(),
            "closed_at": session.closed.map(|(at, _)| at.to_string()),
            "closed_by": session.closed.map(|(_, by)| by),
            "memo": session.memo,
        })
    });
    rows.collect()
}

fn holds(server: &Server) -> Value {
    let rows = server.pending_holds().map(|hold| {
        json!({
            "hold": hold.id.0,
            "persona": hold.persona.as_str(),
            "direction": hold.direction,
            "amount": hold.amount.to_string(),
            "instrument": hold.binding.0,
            "opened_at": hold.opened_at.to_string(),
            "release_at": hold.release_at.map(|at| at.to_string()),
        })
    });
    rows.collect()
}

/// For Prometheus, once a second.
pub(super) fn gauges(server: &Server, asked: usize) {
    let set = |name: &'static str, count: usize| {
        metrics::gauge!(name).set(u32::try_from(count).unwrap_or(u32::MAX));
    };
    set("cloakway_ecash_bank_requests_open", asked);
    set("cloakway_ecash_holds_waiting", server.pending_holds().count());
    set("cloakway_ecash_payments_kept", server.kept().0);
    set("cloakway_ecash_sessions_open", server.kept().1);
}
