//! What `cargo test` says, read line by line: the numbers, and which test failed with which words.

use std::mem;

/// Tests that passed and failed. A stage without tests adds a failure or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many held.
    pub passed: u64,
    /// How many did not.
    pub failed: u64,
}

/// A test that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What selects its program: `-p forwarder --test links`. Empty when Cargo did not name it.
    pub target: String,
    /// The test. Empty when the program ended without naming one.
    pub name: String,
    /// What it wrote, and how it panicked.
    pub said: Vec<String>,
}

/// How much of what a failed test wrote is kept: the end of it, where it panicked.
const KEPT: usize = 80;

/// Reads what `cargo test --no-fail-fast` says.
#[derive(Debug, Default)]
pub struct Tally {
    count: Count,
    /// Failed tests by program, in the order in which the programs ran.
    programs: Vec<Vec<Failure>>,
    /// Of the program that runs now.
    current: Vec<Failure>,
    /// The failed test whose words are being read.
    speaker: Option<Failure>,
    /// What Cargo names at its end as having failed, in the order in which it ran.
    targets: Vec<String>,
}

impl Tally {
    /// Takes a line in; gives what to show for it.
    pub fn take(&mut self, line: &str) -> Option<String> {
        if let Some(result) = line.strip_prefix("test result: ") {
            return Some(self.result(result));
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.close();
            self.speaker = Some(Failure { target: String::new(), name: name.to_owned(), said: Vec::new() });
        } else if line == "failures:" {
            self.close();
        } else if let Some(speaker) = &mut self.speaker {
            speaker.said.push(line.to_owned());
        }
        if let Some(target) = line.strip_prefix("    `").and_then(|rest| rest.strip_suffix('`')) {
            self.targets.push(target.to_owned());
        }
        // A test that passed needs no line of its own, nor does what the programs under test log beside it.
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let logged = line.starts_with("{\"timestamp\":");
        let idle = line.is_empty() || line.starts_with("running ") || line.starts_with("   Compiling");
        if passed || logged || idle { None } else { Some(format!("  {line}")) }
    }

    fn result(&mut self, result: &str) -> String {
        let number = |what: &str| {
            let word = result.split(';').find_map(|part| part.trim().strip_suffix(what))?;
            word.trim().rsplit(' ').next()?.parse::<u64>().ok()
        };
        let (passed, failed) = (number(" passed").unwrap_or(0), number(" failed").unwrap_or(0));
        self.count.passed += passed;
        self.count.failed += failed;
        self.close();
        if failed > 0 {
            self.programs.push(mem::take(&mut self.current));
        }
        let time = result.rsplit_once("finished in ").map_or("", |(_, time)| time);
        format!("      {passed} passed, {failed} failed ({time})")
    }

    fn close(&mut self) {
        if let Some(mut failure) = self.speaker.take() {
            let more = failure.said.len().saturating_sub(KEPT);
            failure.said.drain(..more);
            self.current.push(failure);
        }
    }

    /// The sum, and the tests that failed. `success` is Cargo's own word at its end.
    ///
    /// A program that ended without a result counts as one failure without a name.
    #[must_use]
    pub fn end(mut self, success: bool) -> (Count, Vec<Failure>) {
        self.close();
        let whole = self.programs.len() == self.targets.len();
        let mut failures = Vec::new();
        for (place, program) in self.programs.iter().enumerate() {
            // A program that was killed is among the targets and not among the results: then nobody is paired.
            let target = self.targets.get(place).filter(|_| whole).cloned().unwrap_or_default();
            failures.extend(program.iter().map(|failure| Failure { target: target.clone(), ..failure.clone() }));
        }
        let silent = self.targets.len().saturating_sub(self.programs.len());
        let silent = if success || self.count.failed > 0 { silent } else { silent.max(1) };
        for _ in 0..silent {
            let said = self.targets.iter().map(|target| format!("among the targets that failed: {target}")).collect();
            failures.push(Failure { target: String::new(), name: String::new(), said });
            self.count.failed += 1;
        }
        (self.count, failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tally {
        let mut tally = Tally::default();
        for line in text.lines() {
            tally.take(line);
        }
        tally
    }

    const TWO: &str = "\
     Running tests/links.rs (target/debug/deps/links-0123456789abcdef)
running 2 tests
test a_thing_holds ... ok
test another_does_not ... FAILED

failures:

---- another_does_not stdout ----
thread 'another_does_not' panicked at tests/links.rs:3:5:
left and right

failures:
    another_does_not

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s
test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s
";

    #[test]
    fn results_are_summed_and_what_passed_is_not_repeated() {
        let mut tally = Tally::default();
        assert_eq!(tally.take("running 3 tests"), None);
        assert_eq!(tally.take("test a_thing_holds ... ok"), None);
        assert_eq!(tally.take(r#"{"timestamp":"2026-11-22T19:36:39Z","level":"INFO","message":"guard loaded"}"#), None);
        assert_eq!(
            tally.take("test another_does_not ... FAILED").as_deref(),
            Some("  test another_does_not ... FAILED")
        );
        let result =
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s";
        assert_eq!(tally.take(result).as_deref(), Some("      2 passed, 1 failed (0.25s)"));
    }

    #[test]
    fn a_failed_test_is_named_with_its_program_and_its_words() {
        let text = format!("{TWO}error: 1 target failed:\n    `-p forwarder --test links`\n");
        let (count, failures) = read(&text).end(false);
        assert_eq!(count, Count { passed: 41, failed: 1 });
        let [failure] = failures.as_slice() else { panic!("{failures:?}") };
        assert_eq!((failure.target.as_str(), failure.name.as_str()), ("-p forwarder --test links", "another_does_not"));
        assert!(failure.said.iter().any(|line| line == "left and right"), "{failure:?}");
    }

    #[test]
    fn a_program_that_was_killed_is_a_failure_without_a_name() {
        let text = format!("{TWO}error: 2 targets failed:\n    `-p bgp --lib`\n    `-p forwarder --test links`\n");
        let (count, failures) = read(&text).end(false);
        assert_eq!(count, Count { passed: 41, failed: 2 });
        assert!(failures.iter().all(|failure| failure.target.is_empty()), "who is who is not known: {failures:?}");
        let (count, failures) = read("error: could not compile `bgp`").end(false);
        assert_eq!((count.failed, failures.len()), (1, 1));
        assert_eq!(Tally::default().end(true), (Count::default(), Vec::new()));
    }
}
