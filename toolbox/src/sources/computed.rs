//! Rules by which external addresses are computed, as the table asks them.

use std::sync::Arc;

use cloakway_types::Timestamp;
use toolbox_core::{Computed, Question, Translator};
use toolbox_nat::Inside;

use super::settings::Rule;

pub(super) fn translator(rule: Rule) -> Arc<dyn Translator> {
    Arc::new(rule)
}

impl Translator for Rule {
    fn translate(&self, question: Question, _at: Timestamp) -> Computed {
        let inside = match self {
            Self::Deterministic(rule) => rule.inside(question.address, question.port),
            Self::MapE(rule) => rule.inside(question.address, question.port),
        };
        match inside {
            Inside::Elsewhere => Computed::Elsewhere,
            Inside::PortNeeded => Computed::PortNeeded,
            Inside::Nobody => Computed::Nobody,
            Inside::At(address) => Computed::Behind(address),
        }
    }
}
