//! The actor of electronic cash: one thread owns the server, each step goes to the store as one batch, and what a step
//! leads to leaves when its batch is durable, never before. Batches that wait together share one sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cloakway_crypto::System;
use cloakway_runtime::{Stop, clock};
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use transact_ecash::ledger::{Books, HoldId, Outcome};
use transact_ecash::{
    BindDecision, Effect, InstrumentPolicy, IssuerAnswer, PaymentOutcome, QuestionId, Record, Server, Step, Ticket,
    Write,
};

use super::issuer::{Asked, Consideration, Order, Said, Terms};
use super::keys::{self, Schedule};
use super::settings::EcashConfig;
use super::{rows, show};

const ASKED: &str = "ecash-asked";
/// Messages that may wait for their turn; more wait at the door.
const QUEUE: usize = 1024;
const TICK: Duration = Duration::from_secs(1);

/// Why electronic cash does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Restore(transact_ecash::RestoreError),
    #[error("the thread of electronic cash does not start: {0}")]
    Thread(std::io::Error),
}

/// The server is stopping, or its store failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server is stopping: send the same again")]
pub(crate) struct Stopping;

/// An answer to a message.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Whether the message was its sender's beyond doubt.
    pub(crate) authentic: bool,
}

/// What the operator wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Summary,
    Sessions,
    Holds,
    Keys,
}

/// Balances, and how far the store has to be for them to be proven.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) books: Books,
    pub(crate) store: Store,
}

enum Command {
    Message(Vec<u8>, oneshot::Sender<Reply>),
    Bank(u64, Said),
    Tick,
    Show(Shown, oneshot::Sender<Value>),
    Snapshot(oneshot::Sender<Snapshot>),
    Hold(HoldId, Outcome, oneshot::Sender<bool>),
    Stop,
}

/// A handle to the engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine(mpsc::Sender<Command>);

impl Engine {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopping> {
        let (answer, wait) = oneshot::channel();
        self.0.send(command(answer)).await.map_err(|_| Stopping)?;
        wait.await.map_err(|_| Stopping)
    }

    /// Hands in a message. `None`: nobody is answered.
    pub(crate) async fn message(&self, bytes: Vec<u8>) -> Option<Reply> {
        self.ask(|answer| Command::Message(bytes, answer)).await.ok()
    }

    pub(crate) async fn show(&self, what: Shown) -> Result<Value, Stopping> {
        self.ask(|answer| Command::Show(what, answer)).await
    }

    /// The balances of now, once everything that led to them is on disk.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, Stopping> {
        self.ask(Command::Snapshot).await
    }

    /// The operator ends a hold. `false`: there is none that waits.
    pub(crate) async fn end_hold(&self, hold: HoldId, outcome: Outcome) -> Result<bool, Stopping> {
        self.ask(|answer| Command::Hold(hold, outcome, answer)).await
    }

    pub(super) async fn bank_said(&self, question: u64, said: Said) {
        let _ = self.0.send(Command::Bank(question, said)).await;
    }
}

/// What leaves when a step is durable.
enum Leaving {
    Reply(oneshot::Sender<Reply>, Reply),
    /// The reply of a log record, which is on disk by then.
    Repeat(oneshot::Sender<Reply>, u64),
    Order(Order),
    Shown(oneshot::Sender<Value>, Value),
    Snapshot(oneshot::Sender<Snapshot>, Snapshot),
    Hold(oneshot::Sender<bool>, bool),
}

type Committed = std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

struct Actor {
    server: Server,
    schedule: Schedule,
    terms: Terms,
    unload_settles: Option<Duration>,
    store: Store,
    waiters: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    next_ticket: u64,
    /// What the institution was asked and has not answered for good.
    asked: BTreeMap<u64, Asked>,
    /// Instruments that are bound if the institution says yes.
    trials: BTreeMap<u64, InstrumentPolicy>,
    finish: mpsc::Sender<(Committed, Vec<Leaving>)>,
}

/// Starts on what the store holds. Returns the engine, and what the institution has to be asked.
pub(crate) fn start(
    config: EcashConfig,
    store: Store,
    stop: &Stop,
) -> Result<(Engine, mpsc::UnboundedReceiver<Order>), StartError> {
    let EcashConfig { policy, suites, keys, unload_settles, terms, .. } = config;
    if let Some(warning) = policy.suites.warning() {
        tracing::warn!("e-cash: {warning}");
    }
    let grace = policy.freshness.0 + policy.freshness.1;
    let schedule = Schedule::new(&policy.secret, suites, keys, grace);
    let keys = schedule.load(&store)?;
    let mut asked = BTreeMap::new();
    for (_, row) in store.scan(ASKED)? {
        let row: Asked = serde_json::from_slice(&row).map_err(|e| StoreError::Read(format!("{ASKED}: {e}")))?;
        asked.insert(row.question, row);
    }
    let error = Arc::default();
    let restored = Server::restore(policy, keys, rows::records(&store, Arc::clone(&error)), clock::wall(), &mut System);
    if let Some(error) = error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(error.into());
    }
    let (server, first) = restored.map_err(StartError::Restore)?;
    tracing::info!(
        personas = server.personas().count(),
        sessions = server.sessions().count(),
        payments = server.payments().count(),
        entries = server.books().entries(),
        "e-cash loaded"
    );
    let (commands, receive) = mpsc::channel(QUEUE);
    let (finish, finished) = mpsc::channel(QUEUE);
    let (order, orders) = mpsc::unbounded_channel();
    tokio::spawn(carry_out(finished, order, store.clone(), stop.clone()));
    let actor = Actor {
        server,
        schedule,
        terms,
        unload_settles,
        store,
        waiters: BTreeMap::new(),
        next_ticket: 0,
        asked,
        trials: BTreeMap::new(),
        finish,
    };
    let thread = std::thread::Builder::new().name("ecash".to_owned());
    thread.spawn(move || actor.run(first, receive)).map_err(StartError::Thread)?;
    tokio::spawn(tick(commands.clone(), stop.clone()));
    Ok((Engine(commands), orders))
}

async fn tick(commands: mpsc::Sender<Command>, stop: Stop) {
    let mut every = tokio::time::interval(TICK);
    loop {
        let command = tokio::select! {
            () = stop.told() => Command::Stop,
            _ = every.tick() => Command::Tick,
        };
        let last = matches!(command, Command::Stop);
        if commands.send(command).await.is_err() || last {
            return;
        }
    }
}

/// Lets go of what is durable, in the order of the steps.
async fn carry_out(
    mut steps: mpsc::Receiver<(Committed, Vec<Leaving>)>,
    order: mpsc::UnboundedSender<Order>,
    store: Store,
    stop: Stop,
) {
    while let Some((committed, leaving)) = steps.recv().await {
        if let Err(error) = committed.await {
            tracing::error!(%error, "e-cash: nothing more can be made durable: stopping");
            stop.tell();
            return;
        }
        for leaving in leaving {
            // Who went away sends the same again.
            match leaving {
                Leaving::Reply(to, reply) => drop(to.send(reply)),
                Leaving::Repeat(to, number) => match rows::reply(&store, number) {
                    Ok(Some(bytes)) => drop(to.send(Reply { bytes, authentic: false })),
                    // It was forgotten in between: the same again is a new request, and stale.
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, number, "e-cash: a reply cannot be read"),
                },
                Leaving::Order(what) => drop(order.send(what)),
                Leaving::Shown(to, value) => drop(to.send(value)),
                Leaving::Snapshot(to, snapshot) => drop(to.send(snapshot)),
                Leaving::Hold(to, ended) => drop(to.send(ended)),
            }
        }
    }
}

impl Actor {
    fn run(mut self, first: Step, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Batch::new();
        let mut leaving = Vec::new();
        if let Err(error) = self.begin(first, &mut batch, &mut leaving) {
            tracing::error!(%error, "e-cash does not start");
        } else if !self.commit(batch, leaving) {
            return;
        }
        while let Some(command) = commands.blocking_recv() {
            if matches!(command, Command::Stop) {
                return;
            }
            let (mut batch, mut leaving) = (Batch::new(), Vec::new());
            if let Err(error) = self.act(command, &mut batch, &mut leaving) {
                tracing::error!(%error, "e-cash: a step cannot be stored: stopping");
                // The store's failure is what stops the role; this one is told in the same way.
                let failed: Committed = Box::pin(std::future::ready(Err(error)));
                let _ = self.finish.blocking_send((failed, Vec::new()));
                return;
            }
            if !self.commit(batch, leaving) {
                return;
            }
        }
    }

    fn commit(&self, batch: Batch, leaving: Vec<Leaving>) -> bool {
        if batch.is_empty() && leaving.is_empty() {
            return true;
        }
        let committed: Committed =
            if batch.is_empty() { Box::pin(std::future::ready(Ok(()))) } else { Box::pin(self.store.commit(batch)) };
        self.finish.blocking_send((committed, leaving)).is_ok()
    }

    /// What the process before this one left: whatever the institution was asked is taken back.
    fn begin(&mut self, first: Step, batch: &mut Batch, leaving: &mut Vec<Leaving>) -> Result<(), StoreError> {
        self.schedule.turn(self.server.keys_mut(), batch, clock::wall())?;
        self.step(first, batch, leaving)?;
        leaving.extend(self.asked.values().map(|asked| Leaving::Order(Order::TakeBack(*asked))));
        Ok(())
    }

    fn act(&mut self, command: Command, batch: &mut Batch, leaving: &mut Vec<Leaving>) -> Result<(), StoreError> {
        let now = clock::wall();
        match command {
            Command::Message(bytes, answer) => {
                self.next_ticket += 1;
                let ticket = Ticket(self.next_ticket);
                self.waiters.insert(ticket, answer);
                let step = self.server.handle(&bytes, ticket, now, &mut System);
                // Who is neither answered now nor when the issuer has spoken is not answered at all.
                let later = step.effects.iter().any(|effect| matches!(effect, Effect::Ask(..)));
                self.step(step, batch, leaving)?;
                if !later {
                    self.waiters.remove(&ticket);
                }
            }
            Command::Bank(question, said) => self.bank_said(question, said, now, batch, leaving)?,
            Command::Tick => {
                self.schedule.turn(self.server.keys_mut(), batch, now)?;
                let step = self.server.tick(now);
                self.step(step, batch, leaving)?;
                self.settle(now, batch, leaving)?;
                self.waiters.retain(|_, waiter| !waiter.is_closed());
                show::gauges(&self.server, self.asked.len());
            }
            Command::Show(what, answer) => {
                leaving.push(Leaving::Shown(answer, show::show(&self.server, what, self.asked.len(), now)));
            }
            Command::Snapshot(answer) => {
                // A batch of no consequence: it is durable when everything before it is.
                batch.delete(ASKED, *b"-");
                let snapshot = Snapshot { books: self.server.books().clone(), store: self.store.clone() };
                leaving.push(Leaving::Snapshot(answer, snapshot));
            }
            Command::Hold(hold, outcome, answer) => {
                let (step, ended) = self.server.hold_ended(hold, outcome, now);
                self.step(step, batch, leaving)?;
                leaving.push(Leaving::Hold(answer, ended));
            }
            Command::Stop => {}
        }
        Ok(())
    }

    /// Unloads that the institution carried out are taken to have arrived after a while.
    fn settle(&mut self, now: Timestamp, batch: &mut Batch, leaving: &mut Vec<Leaving>) -> Result<(), StoreError> {
        let Some(after) = self.unload_settles else { return Ok(()) };
        let closed = |id: &_| self.server.persona(id).is_none_or(|persona| persona.closed);
        let due = self.server.unsettled().filter(|hold| now.since(hold.opened_at) >= after && !closed(&hold.persona));
        let due: Vec<HoldId> = due.map(|hold| hold.id).collect();
        for hold in due {
            let (step, _) = self.server.hold_ended(hold, Outcome::Done, now);
            self.step(step, batch, leaving)?;
        }
        Ok(())
    }

    fn bank_said(
        &mut self,
        question: u64,
        said: Said,
        now: Timestamp,
        batch: &mut Batch,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(), StoreError> {
        let Some(asked) = self.asked.get(&question).copied() else { return Ok(()) };
        let trial = self.trials.remove(&question);
        let keep = match said {
            Said::Yes => trial.is_some(),
            Said::Unclear => true,
            Said::No | Said::TakenBack => false,
        };
        if keep {
            leaving.push(Leaving::Order(Order::TakeBack(asked)));
        } else {
            self.asked.remove(&question);
            batch.delete(ASKED, question.to_be_bytes());
        }
        let done = said == Said::Yes;
        let answer = match trial {
            Some(policy) if done => IssuerAnswer::Bind(BindDecision::Accept(policy)),
            Some(_) => IssuerAnswer::Bind(BindDecision::Refuse),
            None => IssuerAnswer::Move(done),
        };
        if said == Said::TakenBack {
            return Ok(());
        }
        let step = self.server.issuer_answered(QuestionId(question), answer, now, &mut System);
        self.step(step, batch, leaving)
    }

    /// Puts a step's writes into `batch`, and what it leads to behind it.
    fn step(&mut self, step: Step, batch: &mut Batch, leaving: &mut Vec<Leaving>) -> Result<(), StoreError> {
        count(&step.writes);
        rows::add(batch, &step.writes)?;
        let authentic = step.writes.iter().any(|write| match write {
            Write::Put(Record::Log(log)) => log.key.is_some(),
            _ => false,
        });
        for effect in step.effects {
            match effect {
                Effect::Answer(ticket, bytes) => {
                    if let Some(waiter) = self.waiters.remove(&ticket) {
                        leaving.push(Leaving::Reply(waiter, Reply { bytes, authentic }));
                    }
                }
                Effect::Repeat(ticket, number) => {
                    if let Some(waiter) = self.waiters.remove(&ticket) {
                        leaving.push(Leaving::Repeat(waiter, number));
                    }
                }
                Effect::Ask(id, question) => {
                    let now = clock::wall();
                    match self.terms.consider(id, &question, now) {
                        Consideration::Decided(decision) => {
                            let answer = IssuerAnswer::Bind(decision);
                            let next = self.server.issuer_answered(id, answer, now, &mut System);
                            self.step(next, batch, leaving)?;
                        }
                        Consideration::Refused => {
                            let next = self.server.issuer_answered(id, IssuerAnswer::Move(false), now, &mut System);
                            self.step(next, batch, leaving)?;
                        }
                        Consideration::Ask(order, trial) => {
                            if let Order::Move(asked, ..) = &order {
                                let row = serde_json::to_vec(asked).map_err(|e| StoreError::Write(e.to_string()))?;
                                batch.put(ASKED, id.0.to_be_bytes(), row);
                                self.asked.insert(id.0, *asked);
                            }
                            if let Some(policy) = trial {
                                self.trials.insert(id.0, *policy);
                            }
                            leaving.push(Leaving::Order(order));
                        }
                    }
                }
                // What the institution was asked has a row of its own, and is taken back by it.
                Effect::TakeBack(question, _, amount) => {
                    tracing::warn!(question = question.0, %amount, "e-cash: the issuer's answer was lost: taken back");
                }
                Effect::Diagnostic(text) => {
                    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                    tracing::info!(text, "e-cash: a client could not read a reply");
                    metrics::counter!("cloakway_ecash_unreadable_replies_total").increment(1);
                }
            }
        }
        Ok(())
    }
}

/// What happened, for Prometheus.
fn count(writes: &[Write]) {
    let (mut collected, mut refused) = (0, 0);
    for write in writes {
        match write {
            Write::Put(Record::Payment(payment)) => match payment.outcome {
                PaymentOutcome::Collected => collected += 1,
                PaymentOutcome::Refused(_) => refused += 1,
            },
            Write::Put(Record::Log(log)) => {
                metrics::counter!("cloakway_ecash_replies_total", "kind" => log.kind.name()).increment(1);
            }
            _ => {}
        }
    }
    if collected > 0 {
        metrics::counter!("cloakway_ecash_payments_total", "outcome" => "collected").increment(collected);
    }
    if refused > 0 {
        metrics::counter!("cloakway_ecash_payments_total", "outcome" => "refused").increment(refused);
    }
}

/// The public keys of now are told once they are stored, as everything is.
pub(super) fn public_keys(server: &Server, now: Timestamp) -> Value {
    keys::public(server.keys(), now)
}
