//! What a story found: each step with its evidence, told as it happens and kept as JSON.

use std::io::IsTerminal;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::say;

/// A step of a story.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// The point of the story that it belongs to, for example `1`.
    pub point: String,
    /// What should hold.
    pub claim: String,
    /// Whether it held.
    pub held: bool,
    /// What was seen, line by line.
    pub evidence: Vec<String>,
    /// How long it took to see it.
    pub milliseconds: u128,
}

/// A step did not hold, and what follows needs it. The step itself has been told.
#[derive(Debug, thiserror::Error)]
#[error("stopped: {0}")]
pub struct Stopped(String);

/// All steps of a run.
#[derive(Debug, Serialize)]
pub struct Evidence {
    /// The name of the story.
    pub story: String,
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// Numbers worth comparing between runs, for example `cut-to-withdrawal-ms`.
    pub measures: std::collections::BTreeMap<String, f64>,
    /// The picture with the path and the counters.
    pub picture: String,
    #[serde(skip)]
    colour: bool,
    #[serde(skip)]
    point: String,
}

impl Evidence {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(story: &str) -> Self {
        Self {
            story: story.to_owned(),
            steps: Vec::new(),
            measures: std::collections::BTreeMap::new(),
            picture: String::new(),
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            point: String::new(),
        }
    }

    /// Opens the next point of the story; the steps that follow belong to it.
    pub fn point(&mut self, number: &str, title: &str) {
        number.clone_into(&mut self.point);
        say("");
        say(&format!("{number}. {title}"));
    }

    /// Tells what is being done, without claiming anything.
    pub fn note(&self, text: &str) {
        say(&format!("    {text}"));
    }

    /// Checks a claim; its evidence is what `look` gives. A claim that does not hold is told and counted, and the story
    /// goes on.
    pub fn check(&mut self, claim: &str, look: impl FnOnce() -> Result<String>) {
        let _ = self.require(claim, || look().map(|seen| (seen, ())));
    }

    /// Checks a claim that the rest of the story needs; `look` gives the evidence and a value.
    ///
    /// # Errors
    /// [`Stopped`] when it does not hold.
    pub fn require<T>(&mut self, claim: &str, look: impl FnOnce() -> Result<(String, T)>) -> Result<T, Stopped> {
        let start = Instant::now();
        let (held, evidence, value) = match look() {
            Ok((seen, value)) => (true, seen, Some(value)),
            Err(error) => (false, format!("{error:#}"), None),
        };
        let step = Step {
            point: self.point.clone(),
            claim: claim.to_owned(),
            held,
            evidence: evidence.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect(),
            milliseconds: start.elapsed().as_millis(),
        };
        self.tell(&step);
        self.steps.push(step);
        value.ok_or_else(|| Stopped(claim.to_owned()))
    }

    /// Keeps a number.
    pub fn measure(&mut self, name: &str, value: f64) {
        self.measures.insert(name.to_owned(), value);
    }

    /// How many steps held and how many did not.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let held = self.steps.iter().filter(|step| step.held).count();
        (held, self.steps.len() - held)
    }

    fn tell(&self, step: &Step) {
        let mark = match (step.held, self.colour) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (false, true) => "\x1b[31m✗\x1b[0m",
            (true, false) => "✓",
            (false, false) => "✗",
        };
        say(&format!("  {mark} {} ({} ms)", step.claim, step.milliseconds));
        for line in &step.evidence {
            say(&format!("      {line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn steps_are_counted_and_a_needed_one_stops_the_story() {
        let mut evidence = Evidence::new("test");
        evidence.point("1", "first");
        evidence.check("holds", || Ok("seen\n\n".to_owned()));
        evidence.check("does not", || Err(anyhow!("inner").context("outer")));
        let stopped = evidence.require::<()>("needed", || Err(anyhow!("no"))).unwrap_err();
        assert_eq!(stopped.to_string(), "stopped: needed");
        assert_eq!(evidence.count(), (1, 2));
        assert_eq!(evidence.steps[0].evidence, ["seen"]);
        assert_eq!(evidence.steps[1].evidence, ["outer: inner"]);
        assert_eq!(evidence.steps[2].point, "1");
    }
}
