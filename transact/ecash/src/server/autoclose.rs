//! AC1: a holder who lost the key closes the persona with its passphrase.

use std::time::Duration;

use cloakway_crypto::Randomness;
use ecash_wire::frame::Draft;
use ecash_wire::message::{Autoclose, AutocloseResult, Kind, Problem};
use ecash_wire::value::{Amounts, Money, PersonaId, SessionId};
use transact_ledger::{Account, BindingId, Direction, Event, Posting};

use super::request::{Request, failure, success};
use super::{Server, Step};
use crate::state::{ClosedBy, Record, Write};

const DAY: Duration = Duration::from_hours(24);

impl Server {
    pub(super) fn autoclose(
        &mut self,
        request: &Request<'_>,
        id: &PersonaId,
        body: &Autoclose,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let now = request.now;
        let to = self.bindings.values().find(|binding| binding.persona == *id && binding.autoclose);
        let to = to.filter(|binding| binding.functions.unload).map(|binding| binding.id);
        let tries = self.policy.passphrase_tries;
        let matched = match self.personas.get_mut(id).filter(|persona| persona.suite == request.asker.suite) {
            None => false,
            Some(persona) => {
                persona.wrong_tries.retain(|at| now.since(*at) < DAY);
                let locked = persona.wrong_tries.len() >= tries;
                let right = !locked
                    && persona.passphrase.as_ref().is_some_and(|verifier| verifier.matches(&body.autoclose_passphrase));
                if !right && !locked {
                    persona.wrong_tries.push(now);
                    step.writes.push(Write::Put(Record::Persona(persona.clone())));
                }
                right
            }
        };
        let Some(to) = to.filter(|_| matched) else {
            // Not signed, and not proven: no number is burnt, so that nobody can burn those of another.
            let mut asker = request.asker.clone();
            asker.key = None;
            let outcome = failure(Problem::AutocloseRefused, now);
            return self.answer(&asker, Kind::AC2, outcome, Draft::default(), now, random, step);
        };
        let number = self.next_log_number(step);
        let open: Vec<SessionId> = self.open_sessions.get(id).into_iter().flatten().copied().collect();
        for session in open {
            self.end_session(session, ClosedBy::Autoclose, (now, Some(number)), step);
        }
        let totals = self.empty_containers(id, to, (now, Some(number)), step);
        if let Some(persona) = self.personas.get_mut(id) {
            persona.closed = true;
            step.writes.push(Write::Put(Record::Persona(persona.clone())));
        }
        let mut fields = Draft::default();
        AutocloseResult { amount: (!totals.is_empty()).then_some(Amounts(totals)) }.write(&mut fields, 0);
        self.answer_as(number, &request.asker, (Kind::AC2, success(now), fields), now, random, step);
    }

    /// Everything that can be spent is held for the instrument; the operator, off line, opens its number and sends it.
    fn empty_containers(
        &mut self,
        id: &PersonaId,
        to: BindingId,
        at: (cloakway_types::Timestamp, Option<u64>),
        step: &mut Step,
    ) -> Vec<Money> {
        let available = Account::Available(id.clone());
        let currencies: Vec<_> =
            self.books.accounts().filter(|(account, _)| *account == available).map(|(_, currency)| currency).collect();
        let mut totals = Vec::new();
        for currency in currencies {
            let all = self.books.container(id, currency).available;
            if all.minor() == 0 {
                continue;
            }
            let postings = vec![Posting::take(available.clone(), all), Posting::add(Account::OnHold(id.clone()), all)];
            if self.post(Event::Unload, at, postings, step) {
                let hold = self.holds.open(id.clone(), Direction::Unload, all, to, (at.0, None));
                step.writes.push(Write::Put(Record::Hold(hold)));
                totals.push(all);
            }
        }
        totals
    }
}
