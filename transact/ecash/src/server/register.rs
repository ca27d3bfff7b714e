//! R1: new clients, and what they may change of themselves.

use cloakway_crypto::passphrase::verifier;
use cloakway_crypto::{Randomness, ct_eq};
use ecash_wire::frame::Draft;
use ecash_wire::message::{Kind, Problem, Register, RegisterResult, Update};
use ecash_wire::value::{Agreements, Bytes, Passphrase, PersonaBase, PersonaId, Short, Value};

use super::request::{Request, failure, success};
use super::{Server, Step};
use crate::state::{Persona, Record, Verifier, Write};

impl Server {
    pub(super) fn register(
        &mut self,
        request: &Request<'_>,
        body: Register,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let suite = request.asker.suite;
        let accepted = body.agreements.clone().unwrap_or_default().0;
        let currencies = &self.policy.currencies;
        let served = currencies.is_empty() || currencies.contains(&body.default_currency);
        let email = body.email.0.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
        let base = PersonaBase::read(&body.requested_id.0);
        let problem = if base.is_err() {
            Some(Problem::BadId)
        } else if !served || !email {
            Some(Problem::Form)
        } else if !self.policy.agreements.is_subset(&accepted) {
            Some(Problem::AgreementRequired)
        } else if self.key_owners.contains_key(&body.pubkey.0) {
            Some(Problem::KeyInUse)
        } else {
            None
        };
        let (Ok(base), None) = (base, problem) else {
            return self.fail(request, problem.unwrap_or(Problem::BadId), random, step);
        };
        let id = base.with_check_digits();
        if self.personas.contains_key(&id) {
            let suggestion = self.suggest(&base, random);
            let result = RegisterResult {
                requested_id: Some(body.requested_id),
                response_id: Some(Short(suggestion)),
                email: None,
                funds_waiting: None,
                pubkey: None,
            };
            let mut fields = Draft::default();
            result.write(&mut fields, 0);
            let outcome = failure(Problem::IdTaken, request.now);
            return self.answer(&request.asker, Kind::R2, outcome, fields, request.now, random, step);
        }
        let persona = Persona {
            id: id.clone(),
            suite,
            email: body.email.0.clone(),
            key: body.pubkey.clone(),
            registered_at: request.now,
            language: body.content_language.0,
            passphrase: body.autoclose_passphrase.as_ref().and_then(|text| self.verifier(text, random)),
            agreements: accepted,
            default_currency: body.default_currency,
            closed: false,
            disabled: std::collections::BTreeSet::new(),
            wrong_tries: Vec::new(),
        };
        step.writes.push(Write::Put(Record::Persona(persona.clone())));
        self.key_owners.insert(body.pubkey.0.clone(), id.clone());
        self.personas.insert(id.clone(), persona);
        let result = RegisterResult {
            requested_id: Some(body.requested_id),
            response_id: Some(Short(id.as_str().to_owned())),
            email: Some(body.email),
            funds_waiting: Some(Short("no".to_owned())),
            pubkey: Some(body.pubkey),
        };
        let mut fields = Draft::default();
        result.write(&mut fields, 0);
        self.answer(&request.asker, Kind::R2, success(request.now), fields, request.now, random, step);
    }

    /// Another base that is free: the one asked for, with digits.
    fn suggest(&self, base: &PersonaBase, random: &mut dyn Randomness) -> String {
        let stem = base.as_str().get(..base.as_str().len().min(22)).unwrap_or_default();
        loop {
            let mut bytes = [0; 4];
            random.fill(&mut bytes);
            let text = format!("{stem}{}", u32::from_be_bytes(bytes) % 100_000_000);
            let free =
                PersonaBase::read(&text).is_ok_and(|base| !self.personas.contains_key(&base.with_check_digits()));
            if free {
                return text;
            }
        }
    }

    pub(super) fn update(
        &mut self,
        request: &Request<'_>,
        id: &PersonaId,
        body: Update,
        random: &mut dyn Randomness,
        step: &mut Step,
    ) {
        let accepted = body.agreements.map(|Agreements(numbers)| numbers);
        if accepted.as_ref().is_some_and(|numbers| !self.policy.agreements.is_subset(numbers)) {
            return self.fail(request, Problem::AgreementRequired, random, step);
        }
        let passphrase = body.autoclose_passphrase.as_ref().and_then(|text| self.verifier(text, random));
        if let Some(persona) = self.personas.get_mut(id) {
            if let Some(email) = body.email {
                persona.email = email.0;
            }
            if let Some(language) = body.content_language {
                persona.language = language.0;
            }
            if let Some(numbers) = accepted {
                persona.agreements = numbers;
            }
            if passphrase.is_some() {
                persona.passphrase = passphrase;
            }
            step.writes.push(Write::Put(Record::Persona(persona.clone())));
        }
        let mut fields = Draft::default();
        fields.text("response-id", 0, id.as_str().to_owned());
        self.answer(&request.asker, Kind::R2, success(request.now), fields, request.now, random, step);
    }

    fn verifier(&self, text: &Passphrase, random: &mut dyn Randomness) -> Option<Verifier> {
        let mut salt = [0; 16];
        random.fill(&mut salt);
        let cost = self.policy.passphrase_cost;
        let hash = verifier(text.0.expose().as_bytes(), &salt, cost)?;
        let (memory_kib, passes) = (cost.memory_kib, cost.passes);
        Some(Verifier { salt: Bytes(salt.to_vec()), hash: Bytes(hash.to_vec()), memory_kib, passes })
    }
}

impl Verifier {
    /// Whether it was made from `text`.
    pub(super) fn matches(&self, text: &Passphrase) -> bool {
        let Ok(salt) = self.salt.0.as_slice().try_into() else { return false };
        let cost = cloakway_crypto::passphrase::Cost { memory_kib: self.memory_kib, passes: self.passes };
        verifier(text.0.expose().as_bytes(), salt, cost).is_some_and(|hash| ct_eq(&hash, &self.hash.0))
    }
}
