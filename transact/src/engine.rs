//! The orders' actor: one task owns [`Orders`], writes go to the store in the order of the steps, and
//! a step's effects are carried out when its writes are durable, never before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use transact_core::{
    Answer, Asked, BankEvent, BankOrder, BankRefund, BankReversal, CancelError, Effect, Known, Order, OrderKey, Orders,
    PayError, PlaceError, Policy, RefundError, State, Step, Ticket, Write,
};
use transact_wire::after::{OrderName, Phase, RefundPlacement, RefundReceipt};
use transact_wire::order::{Issued, Placement};
use transact_wire::payment::{Claim, Payment, PaymentState};

use crate::gate::Gate;
use crate::outbox::Outbox;

const ORDERS: &str = "orders";
const META: &str = "meta";
const STAN: &[u8] = b"stan";
/// Steps that may wait for their turn or for the disk; more wait at the door.
const QUEUE: usize = 1024;

/// Why the engine gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("the server is stopping: ask again")]
    Stopping,
}

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "order {order} has to be taken back at institution {institution:?}, which is not in the configuration: put it back until that is done"
    )]
    Institution { order: OrderKey, institution: String },
}

/// Where each institution takes requests.
pub(crate) type Institutions = BTreeMap<String, mpsc::UnboundedSender<BankRequest>>;

/// What a bank link is asked to do.
#[derive(Debug)]
pub(crate) enum BankRequest {
    Authorise(Box<BankOrder>),
    Refund(Box<BankRefund>),
    Reverse(BankReversal),
}

#[derive(Debug)]
enum Command {
    Place(Ticket, Box<Placement>),
    Pay(Ticket, Box<Payment>),
    Outcome(Ticket, Box<Claim>),
    Acknowledge(Ticket, Vec<String>),
    Bank(Asked, BankEvent),
    Refund(Ticket, Box<RefundPlacement>),
    Cancel(Ticket, OrderName),
    Status(Ticket, OrderName),
    Show(oneshot::Sender<Value>, bool),
}

#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Answer>,
    gate: Option<Gate>,
}

#[derive(Debug, Default)]
struct Waiters {
    next: u64,
    by_ticket: BTreeMap<Ticket, Waiter>,
}

/// A handle to the engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    commands: mpsc::Sender<Command>,
    waiters: Arc<Mutex<Waiters>>,
    /// What stopped it.
    failed: Arc<OnceLock<StoreError>>,
}

/// What the store held.
struct Stored {
    orders: Vec<Order>,
    stan: u32,
}

/// Puts everything that `before` has into `store`, and says how many rows that is.
pub(crate) async fn move_all(before: &Store, store: &Store) -> Result<usize, StoreError> {
    let mut batch = Batch::new();
    let mut rows = 0;
    for table in [ORDERS, META] {
        for (key, value) in before.scan(table)? {
            batch.put(table, key, value);
            rows += 1;
        }
    }
    store.commit(batch).await?;
    Ok(rows)
}

fn read(store: &Store) -> Result<Stored, StoreError> {
    let damaged = |key: &[u8], error: &dyn std::fmt::Display| {
        StoreError::Read(format!("{}: {error}", String::from_utf8_lossy(key)))
    };
    let orders = store
        .scan(ORDERS)?
        .into_iter()
        .map(|(key, row)| serde_json::from_slice(&row).map_err(|error| damaged(&key, &error)))
        .collect::<Result<_, _>>()?;
    let stan = match store.get(META, STAN)? {
        None => 0,
        Some(row) => <[u8; 4]>::try_from(row.as_slice()).map(u32::from_be_bytes).map_err(|e| damaged(STAN, &e))?,
    };
    Ok(Stored { orders, stan })
}

fn batch(writes: Vec<Write>) -> Result<Batch, StoreError> {
    let mut batch = Batch::new();
    for write in writes {
        match write {
            Write::Order(order) => {
                let row = serde_json::to_vec(&*order).map_err(|error| StoreError::Write(error.to_string()))?;
                batch.put(ORDERS, order.key.to_string(), row);
            }
            Write::Forget(key) => drop(batch.delete(ORDERS, key.to_string())),
            Write::Stan(stan) => drop(batch.put(META, STAN, stan.to_be_bytes())),
        }
    }
    Ok(batch)
}

/// Starts the engine on what the store holds. What was being authorised is reversed first.
pub(crate) fn start(
    policy: Policy,
    store: Store,
    outbox: Arc<Outbox>,
    bank: Institutions,
    stop: Stop,
) -> Result<Engine, StartError> {
    let stored = read(&store)?;
    tracing::info!(orders = stored.orders.len(), "orders loaded");
    let (orders, first) = Orders::restore(policy, stored.orders, stored.stan, clock::wall());
    for effect in &first.effects {
        if let Effect::Reverse(reversal) = effect
            && !bank.contains_key(&reversal.attempt.institution)
        {
            let institution = reversal.attempt.institution.clone();
            return Err(StartError::Institution { order: reversal.asked.order.clone(), institution });
        }
    }
    let (commands, receive) = mpsc::channel(QUEUE);
    let waiters = Arc::new(Mutex::new(Waiters::default()));
    let (finish, finished) = mpsc::channel(QUEUE);
    let failed = Arc::new(OnceLock::new());
    let effects = carry_out(finished, waiters.clone(), outbox, bank);
    tokio::spawn({
        let (failed, stop) = (failed.clone(), stop.clone());
        async move {
            if let Err(error) = effects.await {
                tracing::error!(%error, "nothing more can be made durable: stopping");
                let _ = failed.set(error);
                stop.tell();
            }
        }
    });
    tokio::spawn(decide(orders, first, store, receive, finish, stop));
    Ok(Engine { commands, waiters, failed })
}

type Committed = std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;
type Finish = (Committed, Vec<Effect>);

/// Owns the orders: takes commands one by one, and starts each step's commit before the next step.
async fn decide(
    mut orders: Orders,
    first: Step,
    store: Store,
    mut commands: mpsc::Receiver<Command>,
    finish: mpsc::Sender<Finish>,
    stop: Stop,
) {
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    let mut step = first;
    loop {
        if !step.writes.is_empty() || !step.effects.is_empty() {
            let committed: Committed = match batch(step.writes) {
                Ok(batch) if batch.is_empty() => Box::pin(std::future::ready(Ok(()))),
                Ok(batch) => Box::pin(store.commit(batch)),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            };
            if finish.send((committed, step.effects)).await.is_err() {
                return;
            }
        }
        let command = tokio::select! {
            () = stop.told() => return,
            _ = tick.tick() => None,
            command = commands.recv() => match command {
                Some(command) => Some(command),
                None => return,
            },
        };
        let now = clock::wall();
        step = match command {
            None => orders.tick(now),
            Some(Command::Place(ticket, placement)) => orders.place(ticket, &placement, now),
            Some(Command::Pay(ticket, payment)) => orders.pay(ticket, *payment, now),
            Some(Command::Outcome(ticket, claim)) => orders.outcome(ticket, &claim, now),
            Some(Command::Acknowledge(ticket, ids)) => orders.acknowledge(ticket, &ids, now),
            Some(Command::Bank(asked, event)) => orders.bank(&asked, event, now),
            Some(Command::Refund(ticket, placement)) => orders.refund(ticket, &placement, now),
            Some(Command::Cancel(ticket, name)) => orders.cancel(ticket, &name, now),
            Some(Command::Status(ticket, name)) => orders.status(ticket, &name, now),
            Some(Command::Show(answer, whole)) => {
                let _ = answer.send(if whole { list(&orders) } else { counts(&orders) });
                Step::default()
            }
        };
    }
}

/// Carries out effects, in the order of the steps, each step when it is durable.
async fn carry_out(
    mut steps: mpsc::Receiver<Finish>,
    waiters: Arc<Mutex<Waiters>>,
    outbox: Arc<Outbox>,
    bank: Institutions,
) -> Result<(), StoreError> {
    while let Some((committed, effects)) = steps.recv().await {
        committed.await?;
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    let waiter = waiters.lock().unwrap_or_else(PoisonError::into_inner).by_ticket.remove(&ticket);
                    if let Some(waiter) = waiter {
                        // A caller that has gone away asks again.
                        let _ = waiter.answer.send(answer);
                    }
                }
                Effect::Proven(ticket, matched) => {
                    let gate = {
                        let waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
                        waiters.by_ticket.get(&ticket).and_then(|waiter| waiter.gate.clone())
                    };
                    if let Some(gate) = gate {
                        gate.prove(matched);
                    }
                }
                Effect::Authorise(order) => {
                    if let Some(bank) = bank.get(&order.attempt.institution) {
                        let _ = bank.send(BankRequest::Authorise(order));
                    }
                }
                Effect::Refund(refund) => {
                    if let Some(bank) = bank.get(&refund.attempt.institution) {
                        let _ = bank.send(BankRequest::Refund(refund));
                    }
                }
                Effect::Reverse(reversal) => {
                    if let Some(bank) = bank.get(&reversal.attempt.institution) {
                        let _ = bank.send(BankRequest::Reverse(reversal));
                    }
                }
                Effect::Publish(id, result) => {
                    metrics::counter!("cloakway_orders_decided_total", "verdict" => format!("{:?}", result.verdict).to_lowercase())
                        .increment(1);
                    outbox.publish(id, result);
                }
                Effect::Retract(id) => outbox.retract(&id),
            }
        }
    }
    Ok(())
}

impl Engine {
    /// Why nothing more can be made durable, if that is so: the process has to end then.
    pub(crate) fn failed(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    async fn ask(&self, gate: Option<Gate>, command: impl FnOnce(Ticket) -> Command) -> Result<Answer, EngineError> {
        let (answer, wait) = oneshot::channel();
        let ticket = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.next += 1;
            let ticket = Ticket(waiters.next);
            waiters.by_ticket.insert(ticket, Waiter { answer, gate });
            ticket
        };
        let _place = Place { waiters: &self.waiters, ticket };
        self.commands.send(command(ticket)).await.map_err(|_| EngineError::Stopping)?;
        wait.await.map_err(|_| EngineError::Stopping)
    }

    pub(crate) async fn place(&self, placement: Placement) -> Result<Result<Issued, PlaceError>, EngineError> {
        match self.ask(None, |ticket| Command::Place(ticket, Box::new(placement))).await? {
            Answer::Placed(answer) => Ok(answer),
            _ => Err(EngineError::Stopping),
        }
    }

    pub(crate) async fn refund(
        &self,
        placement: RefundPlacement,
    ) -> Result<Result<RefundReceipt, RefundError>, EngineError> {
        match self.ask(None, |ticket| Command::Refund(ticket, Box::new(placement))).await? {
            Answer::Refund(answer) => Ok(answer),
            _ => Err(EngineError::Stopping),
        }
    }

    pub(crate) async fn cancel(&self, name: OrderName) -> Result<Result<Box<Known>, CancelError>, EngineError> {
        status_answer(self.ask(None, |ticket| Command::Cancel(ticket, name)).await?)
    }

    pub(crate) async fn status(&self, name: OrderName) -> Result<Result<Box<Known>, CancelError>, EngineError> {
        status_answer(self.ask(None, |ticket| Command::Status(ticket, name)).await?)
    }

    pub(crate) async fn pay(
        &self,
        payment: Payment,
        gate: Gate,
    ) -> Result<Result<PaymentState, PayError>, EngineError> {
        payment_answer(self.ask(Some(gate), |ticket| Command::Pay(ticket, Box::new(payment))).await?)
    }

    pub(crate) async fn outcome(
        &self,
        claim: Claim,
        gate: Gate,
    ) -> Result<Result<PaymentState, PayError>, EngineError> {
        payment_answer(self.ask(Some(gate), |ticket| Command::Outcome(ticket, Box::new(claim))).await?)
    }

    pub(crate) async fn acknowledge(&self, ids: Vec<String>) -> Result<(), EngineError> {
        self.ask(None, |ticket| Command::Acknowledge(ticket, ids)).await.map(drop)
    }

    /// Tells the orders what the bank link says.
    pub(crate) async fn bank(&self, asked: Asked, event: BankEvent) {
        let _ = self.commands.send(Command::Bank(asked, event)).await;
    }

    /// The orders for the operator: how many in each state, or all of them.
    pub(crate) async fn show(&self, whole: bool) -> Result<Value, String> {
        let (answer, wait) = oneshot::channel();
        self.commands.send(Command::Show(answer, whole)).await.map_err(|e| e.to_string())?;
        wait.await.map_err(|e| e.to_string())
    }
}

fn payment_answer(answer: Answer) -> Result<Result<PaymentState, PayError>, EngineError> {
    match answer {
        Answer::Payment(answer) => Ok(answer),
        _ => Err(EngineError::Stopping),
    }
}

fn status_answer(answer: Answer) -> Result<Result<Box<Known>, CancelError>, EngineError> {
    match answer {
        Answer::Status(answer) => Ok(answer),
        _ => Err(EngineError::Stopping),
    }
}

/// Removes a waiter whose caller went away.
struct Place<'e> {
    waiters: &'e Mutex<Waiters>,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).by_ticket.remove(&self.ticket);
    }
}

fn counts(orders: &Orders) -> Value {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for order in orders.iter() {
        *counts.entry(state(order)).or_default() += 1;
    }
    json!(counts)
}

/// As payers are told, except for what happened after the payment.
fn state(order: &Order) -> String {
    match order.phase() {
        Phase::PageIssued => "open".to_owned(),
        phase => phase.name().to_owned(),
    }
}

fn list(orders: &Orders) -> Value {
    orders
        .iter()
        .map(|order| {
            let (attempt, acknowledged_at) = match &order.state {
                State::Open => (None, None),
                State::Authorising(attempt) | State::Reversing(attempt) => (Some(attempt), None),
                State::Final { attempt, acknowledged_at, .. } => (attempt.as_ref(), *acknowledged_at),
            };
            json!({
                "vendor": order.key.vendor,
                "transaction": order.key.transaction_id,
                "isp": order.isp,
                "amount": order.amount.to_string(),
                "state": state(order),
                "since": order.since().to_string(),
                "refunded_minor": order.given_back(),
                "steps": order.steps.iter().map(|step| json!({"to": step.to, "at": step.at.to_string()})).collect::<Vec<_>>(),
                "institution": attempt.map(|attempt| &attempt.institution),
                "stan": attempt.map(|attempt| attempt.stan),
                "card": attempt.map(|attempt| format!("…{}", attempt.last_four)),
                "created_at": order.created_at.to_string(),
                "acknowledged_at": acknowledged_at.map(|at| at.to_string()),
            })
        })
        .collect()
}
