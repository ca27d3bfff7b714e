//! Rules by which external addresses are computed, as the table asks them.

use std::sync::Arc;

use cloakway_types::Timestamp;
use toolbox_core::{Computed, Question, Translator};
use toolbox_nat::Inside;

use super::settings::{Period, Rule};

/// A rule, and when it holds.
#[derive(Debug)]
struct Held(Rule, Period);

pub(super) fn translator(rule: Rule, period: Period) -> Arc<dyn Translator> {
    Arc::new(Held(rule, period))
}

impl Translator for Held {
    fn translate(&self, question: Question, at: Timestamp) -> Computed {
        if !self.1.has(at) {
            return Computed::Elsewhere;
        }
        let inside = match &self.0 {
            Rule::Deterministic(rule) => rule.inside(question.address, question.port),
            Rule::MapE(rule) => rule.inside(question.address, question.port),
        };
        match inside {
            Inside::Elsewhere => Computed::Elsewhere,
            Inside::PortNeeded => Computed::PortNeeded,
            Inside::Nobody => Computed::Nobody,
            Inside::At(address) => Computed::Behind(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::settings::Raw;

    #[test]
    fn a_question_about_a_moment_is_answered_by_the_rule_of_that_moment() {
        let rule = |internal: &str, period: &str| {
            format!(
                "[[deterministic]]\ninternal = [\"{internal}\"]\nexternal = [\"192.0.2.1\"]\nports-each = 1024\n{period}\n"
            )
        };
        // The day on which the internal addresses were given anew.
        let text = rule("100.64.0.0/28", "until = \"2026-11-22T00:00:00Z\"")
            + &rule("100.65.0.0/28", "since = \"2026-11-22T00:00:00Z\"");
        let raw: Raw = toml::from_str(&text).unwrap();
        let rules = crate::sources::translators(&raw.validate().unwrap());
        let said = |at: &str| {
            let question = Question::new([192, 0, 2, 1].into(), Some(1024 + 1024 * 3));
            let said = rules.iter().map(|rule| rule.translate(question, at.parse().unwrap()));
            said.filter(|said| *said != Computed::Elsewhere).collect::<Vec<_>>()
        };
        let third = |second: u8| vec![Computed::Behind([100, second, 0, 3].into())];
        assert_eq!(said("2026-11-21T23:59:59.999Z"), third(64));
        assert_eq!(said("2026-11-22T00:00:00Z"), third(65));
        let refused = |period: &str| {
            let raw: Raw = toml::from_str(&rule("100.64.0.0/28", period)).unwrap();
            raw.validate().map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused("since = \"yesterday\"").contains("sources.deterministic[0].since"));
        let never = refused("since = \"2026-11-22T00:00:00Z\"\nuntil = \"2026-11-22T00:00:00Z\"");
        assert!(never.contains("sources.deterministic[0].until"), "{never}");
    }
}
