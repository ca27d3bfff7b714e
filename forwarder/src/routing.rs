//! The table `[routing]`: where the kernel's routes are.

use cloakway_runtime::config::Invalid;
use forwarder_core::{OwnTable, Policy};
use serde::Deserialize;

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Raw {
    table: Option<u32>,
    rule_priority: Option<u32>,
}

/// The priority of the rules, when it is not given.
const RULE_PRIORITY: u32 = 1000;

/// The policy with its routes where they are to be.
pub(crate) fn routed(policy: Policy, raw: &Raw) -> Result<Policy, Invalid> {
    let Some(table) = raw.table else {
        if raw.rule_priority.is_some() {
            let why = "there is no rule without a table of its own: give table, or leave this out";
            return Err(Invalid::at("routing.rule-priority", why));
        }
        return Ok(policy);
    };
    let taken = match table {
        0 => Some("no table"),
        253 => Some("the kernel's default table"),
        254 => Some("the kernel's main table"),
        255 => Some("the kernel's table of local addresses"),
        _ => None,
    };
    if let Some(name) = taken {
        let why = format!("{table} is {name}: give the number of a table that nothing else uses, or leave it out");
        return Err(Invalid::at("routing.table", why));
    }
    let priority = raw.rule_priority.unwrap_or(RULE_PRIORITY);
    if !(1..=32_765).contains(&priority) {
        let why = format!("{priority} is not allowed: 1 to 32765, before the rule of the main table");
        return Err(Invalid::at("routing.rule-priority", why));
    }
    Ok(policy.in_table(OwnTable { table, priority }))
}

#[cfg(test)]
mod tests {
    use cloakway_runtime::config;

    use crate::config::Config;

    const EXAMPLE: &str = include_str!("../../configs/forwarder.toml");

    fn with(text: &str) -> Result<Config, String> {
        config::parse("forwarder.toml", &format!("{EXAMPLE}\n[routing]\n{text}")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_main_table_unless_another_is_given() {
        assert!(with("").unwrap().policy.own_table().is_none());
        let own = with("table = 143\n").unwrap().policy.own_table().unwrap();
        assert_eq!((own.table, own.priority), (143, 1000));
        let own = with("table = 70000\nrule-priority = 5\n").unwrap().policy.own_table().unwrap();
        assert_eq!((own.table, own.priority), (70_000, 5));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, expected) in [
            ("table = 0\n", "routing.table: 0 is no table"),
            ("table = 254\n", "routing.table: 254 is the kernel's main table: give the number of a table"),
            ("table = 255\n", "routing.table: 255 is the kernel's table of local addresses"),
            ("rule-priority = 7\n", "routing.rule-priority: there is no rule without a table of its own"),
            ("table = 143\nrule-priority = 0\n", "routing.rule-priority: 0 is not allowed: 1 to 32765"),
            ("table = 143\nrule-priority = 32766\n", "routing.rule-priority: 32766 is not allowed"),
            ("tables = 143\n", "unknown field `tables`"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
