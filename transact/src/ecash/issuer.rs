//! The issuer of electronic cash: on which terms instruments are bound, and the institution that loads come from.
//!
//! A load is an authorisation of the card, or a purchase; an unload is a credit (0200, processing code 20). Binding is
//! proven by a trial of a small amount that is taken back at once. The names of requests follow from the numbers of
//! questions, so that what a dead process asked can be taken back.

use cloakway_crypto::Secret;
use cloakway_runtime::{Stop, clock};
use cloakway_types::{Money as BankMoney, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use transact_bank::{Authorisation, Input, Link, Movement, Output, Reversal, Trace, Verdict};
use transact_ecash::ledger::Limit;
use transact_ecash::wire::value::{Currency, Functions, Money};
use transact_ecash::{BindDecision, BindingStatus, InstrumentPolicy, IssuerQuestion, QuestionId};
use transact_wire::card::{CardNumber, Expiry, Pin};

use super::engine::Engine;
use crate::bank::{BankState, Heard, Lines};
use crate::institutions::Institution;

/// The label under which a client keeps the card's expiry for the issuer.
const EXPIRY: &str = "instrument-expiration-date";
const ASK_EXPIRY: &str = "When does the card expire (MM/YY)?";
const ASK_PIN: &str = "What is the card's PIN?";

/// On which terms instruments are bound.
#[derive(Debug, Clone)]
pub struct Terms {
    /// For what.
    pub functions: Functions,
    /// The one currency that they take.
    pub native: Option<Currency>,
    /// How much may come in.
    pub load_limit: Limit,
    /// How much may go out.
    pub unload_limit: Limit,
    /// What is authorised, and taken back, to prove a card.
    pub trial: Option<Money>,
    /// Whether its holder is asked for the PIN.
    pub ask_pin: bool,
    /// How loads are asked for.
    pub movement: Movement,
}

/// A request to the institution, as it is stored until nothing can be left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) question: u64,
    pub(super) at: Timestamp,
    pub(super) movement: Movement,
    pub(super) amount: BankMoney,
}

/// What the institution is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    Move(Asked, CardNumber, Expiry, Option<Pin>),
    TakeBack(Asked),
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Yes,
    /// No, or it was never asked.
    No,
    /// Nobody knows.
    Unclear,
    /// Nothing is left.
    TakenBack,
}

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Consideration {
    /// It can be answered without the institution.
    Decided(BindDecision),
    /// The institution is asked; on its yes to a trial the instrument is bound so.
    Ask(Order, Option<Box<InstrumentPolicy>>),
    /// It cannot be asked.
    Refused,
}

/// The amount as the bank has it; none where it has no such currency or amount.
pub(super) fn at_the_bank(money: Money) -> Option<BankMoney> {
    let currency = money.currency().code().to_ascii_uppercase().parse().ok()?;
    BankMoney::new(u64::try_from(money.minor()).ok()?, currency).ok()
}

impl Terms {
    /// Looks at a question of the server's.
    pub(super) fn consider(&self, id: QuestionId, question: &IssuerQuestion, now: Timestamp) -> Consideration {
        match question {
            IssuerQuestion::Bind { instrument, answers, .. } => {
                let told = |question: &str| {
                    answers.iter().find(|(asked, _)| asked == question).map(|(_, answer)| answer.as_str())
                };
                let expiry = instrument.expiration_date.as_ref().map(|date| date.0.as_str()).or(told(ASK_EXPIRY));
                let mut missing = Vec::new();
                if expiry.is_none() {
                    missing.push(ASK_EXPIRY.to_owned());
                }
                if self.ask_pin && told(ASK_PIN).is_none() {
                    missing.push(ASK_PIN.to_owned());
                }
                if !missing.is_empty() {
                    return Consideration::Decided(BindDecision::Ask(missing));
                }
                let pin = told(ASK_PIN).map(|pin| Pin::parse(Secret::from(pin))).transpose();
                let card = CardNumber::parse(&Secret::from(instrument.number.0.expose().as_str()));
                let date = expiry.and_then(|date| Expiry::parse(date).ok());
                let (Ok(card), Some(date), Ok(pin)) = (card, date, pin) else {
                    return Consideration::Decided(BindDecision::Refuse);
                };
                let (year, month, ..) = now.civil();
                if date.is_past(year, month) {
                    return Consideration::Decided(BindDecision::Refuse);
                }
                let policy = InstrumentPolicy {
                    functions: self.functions,
                    load_limit: self.load_limit,
                    unload_limit: self.unload_limit,
                    native: self.native,
                    status: BindingStatus::Enabled,
                    issuer_id: card.expose_digits().get(..6).unwrap_or_default().to_owned(),
                    recurring: vec![(EXPIRY.to_owned(), expiry.unwrap_or_default().to_owned())],
                };
                match self.trial.and_then(at_the_bank) {
                    None => Consideration::Decided(BindDecision::Accept(policy)),
                    Some(amount) => {
                        let asked = Asked { question: id.0, at: now, movement: self.movement, amount };
                        Consideration::Ask(Order::Move(asked, card, date, pin), Some(Box::new(policy)))
                    }
                }
            }
            IssuerQuestion::Move { number, recurring, amount, .. } => {
                let movement = if amount.minor() > 0 { self.movement } else { Movement::Refund };
                let card = CardNumber::parse(&Secret::from(number.0.expose().as_str()));
                let date = recurring.iter().find(|(label, _)| label == EXPIRY);
                let date = date.and_then(|(_, date)| Expiry::parse(date).ok());
                let amount = Money::new(amount.currency(), amount.minor().abs()).and_then(at_the_bank);
                match (card, date, amount) {
                    (Ok(card), Some(date), Some(amount)) => {
                        let asked = Asked { question: id.0, at: now, movement, amount };
                        Consideration::Ask(Order::Move(asked, card, date, None), None)
                    }
                    _ => Consideration::Refused,
                }
            }
        }
    }
}

/// The name of a question's request: the same for whoever takes it back.
fn trace(asked: &Asked) -> Option<Trace> {
    let stan = u32::try_from(asked.question % 999_999).unwrap_or(0) + 1;
    Trace::new(stan, asked.at).ok()
}

/// Keeps connections to the institution until the stop, and does what `orders` ask over them.
pub(super) async fn run(
    institution: Institution,
    mut orders: mpsc::UnboundedReceiver<Order>,
    engine: Engine,
    state: BankState,
    stop: Stop,
) {
    let Institution { id, addresses, link } = institution;
    let mut link = Link::new(link);
    let (mut lines, mut heard) = Lines::open(&id, addresses);
    loop {
        while let Some(output) = link.poll_output() {
            carry_out(output, &mut lines, &engine, &id).await;
        }
        state.set(&id, &link);
        tokio::select! {
            () = stop.told() => return,
            order = orders.recv() => match order {
                Some(order) => ask(&mut link, order, &engine).await,
                None => return,
            },
            said = heard.recv() => {
                let Some((line, said)) = said else { return };
                let input = match &said {
                    Heard::Connected(_) => Input::Connected(line),
                    Heard::Bytes(octets) => Input::Bytes(line, octets.expose()),
                    Heard::Disconnected => Input::Disconnected(line),
                };
                link.handle(input, clock::now(), clock::wall());
                lines.note(line, said);
            },
            () = clock::until(link.poll_timeout()) => link.handle(Input::Tick, clock::now(), clock::wall()),
        }
    }
}

async fn ask(link: &mut Link<u64>, order: Order, engine: &Engine) {
    let input = match order {
        Order::Move(asked, card, expiry, pin) => trace(&asked).map(|trace| {
            let (movement, amount) = (asked.movement, asked.amount);
            let authorisation = Authorisation { trace, movement, card, expiry, pin, amount };
            Input::Authorise(asked.question, Box::new(authorisation))
        }),
        Order::TakeBack(asked) => trace(&asked).map(|trace| {
            let reversal = Reversal { trace, movement: asked.movement, amount: asked.amount };
            Input::Reverse(asked.question, reversal)
        }),
    };
    match input {
        Some(input) => link.handle(input, clock::now(), clock::wall()),
        // Trace numbers are made within their range.
        None => engine.bank_said(0, Said::No).await,
    }
}

async fn carry_out(output: Output<u64>, lines: &mut Lines, engine: &Engine, id: &str) {
    match output {
        Output::Send(line, octets) => lines.send(line, octets),
        Output::Authorised(question, Verdict::Approved { .. }) => engine.bank_said(question, Said::Yes).await,
        Output::Authorised(question, Verdict::Declined(code)) => {
            tracing::info!(question, %code, institution = id, "e-cash: declined");
            engine.bank_said(question, Said::No).await;
        }
        Output::TimedOut(question, why) => {
            tracing::warn!(question, ?why, institution = id, "e-cash: no clear answer from the bank: reversing");
            metrics::counter!("cloakway_ecash_bank_timeouts_total").increment(1);
            engine.bank_said(question, Said::Unclear).await;
        }
        Output::NotSent(question) => engine.bank_said(question, Said::No).await,
        Output::Late(question, code) => {
            tracing::warn!(question, %code, institution = id, "e-cash: late answer: the reversal stands");
        }
        Output::Reversed(question, code) => {
            tracing::info!(question, %code, institution = id, "e-cash: reversed");
            engine.bank_said(question, Said::TakenBack).await;
        }
        Output::Disconnect(line, reason) => {
            tracing::warn!(%reason, institution = id, "e-cash: bank connection ended");
            lines.drop_line(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transact_ecash::wire::value::{Signed, Value};

    #[test]
    fn amounts_are_those_of_the_bank_and_what_it_cannot_be_asked_is_none() {
        let at = |text: &str| at_the_bank(Signed::read(text).unwrap().0).map(|money| money.to_string());
        assert_eq!(at("eur 12.34").as_deref(), Some("12.34 EUR"));
        assert_eq!(at("jpy 500").as_deref(), Some("500 JPY"));
        assert_eq!(at("xts 1.00"), None);
        assert_eq!(at("eur 0.00"), None);
        assert_eq!(at("eur -1.00"), None);
    }
}
