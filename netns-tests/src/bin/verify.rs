//! `cargo verify`: everything that must hold before a change goes in.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use netns_tests::{command, host, say, stories};

#[derive(Parser)]
#[command(
    name = "cargo verify",
    bin_name = "cargo verify",
    about = "Runs all checks: format, lints, tests, stories in network namespaces, pages in a browser, dependencies",
    after_help = "Environment:\n  \
        CI=true                 nothing may be skipped (sets NETNS_TESTS=required)\n  \
        NETNS_TESTS=required    without privilege the stories fail instead of being skipped aloud\n\n\
        Examples:\n  \
        cargo verify\n  \
        CI=true cargo verify\n\n\
        Exit codes: 0 everything passed, 1 something failed, 2 wrong use or the machine is not prepared."
)]
struct Arguments {}

/// Tests that passed and failed. A stage without tests adds a failure or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

fn main() -> ExitCode {
    Arguments::parse();
    match verify() {
        Ok(count) if count.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo verify: {error:#}");
            ExitCode::from(if error.is::<host::Unprepared>() { 2 } else { 1 })
        }
    }
}

fn verify() -> Result<Count> {
    let required = is("CI", "true") || is("NETNS_TESTS", "required");
    prepare(required)?;
    let mut total = Count::default();
    let mut stage = |name: &str, work: &dyn Fn() -> Result<Option<Count>>| {
        let start = Instant::now();
        let found = work().unwrap_or_else(|error| {
            say(&format!("{error:#}"));
            Some(Count { passed: 0, failed: 1 })
        });
        let mark = match found {
            None => "– not checked:",
            Some(Count { failed: 0, .. }) => "✓",
            Some(_) => "✗",
        };
        let count = found.unwrap_or_default();
        let tests = if count.passed > 0 {
            format!(": {} passed, {} failed", count.passed, count.failed)
        } else {
            String::new()
        };
        say(&format!("{mark} {name}{tests} ({:.1} s)", start.elapsed().as_secs_f64()));
        total.passed += count.passed;
        total.failed += count.failed;
    };
    stage("format", &|| cargo(&["fmt", "--all", "--check"]));
    stage("lints", &|| cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    stage("programs", &|| stories::build_programs().map(|()| NO_TESTS));
    stage("tests, stories in namespaces, pages in a browser", &|| {
        tests(&["test", "--workspace", "--no-fail-fast"], required)
    });
    stage("fuzz targets: format", &|| cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]));
    stage("fuzz targets: corpora replayed", &|| tests(&["test", "--manifest-path", "fuzz/Cargo.toml"], required));
    stage("dependencies: bans, licences, sources", &|| cargo(&["deny", "check", "bans", "licenses", "sources"]));
    stage("dependencies: advisories", &advisories);
    say(&format!("{} passed, {} failed", total.passed, total.failed));
    Ok(total)
}

/// A stage that held and has no tests to count.
const NO_TESTS: Option<Count> = Some(Count { passed: 0, failed: 0 });

/// Installs what is needed; where it may not, and nothing is required, it goes on without the stories.
fn prepare(required: bool) -> Result<()> {
    match host::prepare() {
        Err(error) if error.is::<host::Unprepared>() && !required => {
            say(&format!("the stories in namespaces will be skipped: {error}"));
        }
        other => other?,
    }
    for tool in ["fmt", "clippy"] {
        let there = quiet(&[tool, "--version"]);
        ensure!(
            there,
            host::Unprepared(format!("`cargo {tool}` is missing; run: rustup component add rustfmt clippy"))
        );
    }
    if !quiet(&["deny", "--version"]) {
        say("installing cargo-deny");
        cargo(&["install", "--locked", "cargo-deny"])?;
    }
    Ok(())
}

/// Runs `cargo` with its output on ours.
fn cargo(words: &[&str]) -> Result<Option<Count>> {
    let status = cargo_command(words).stdin(Stdio::null()).status().context("cargo")?;
    ensure!(status.success(), "cargo {} failed", words.join(" "));
    Ok(NO_TESTS)
}

fn quiet(words: &[&str]) -> bool {
    command::run(&mut cargo_command(words), Duration::from_secs(60)).is_ok_and(|outcome| outcome.ok())
}

fn cargo_command(words: &[&str]) -> Command {
    // The variable that the outer `cargo run` sets names the tool itself and knows nothing of `fmt` and `deny`.
    let mut command = Command::new("cargo");
    command.args(words).current_dir(stories::root());
    command
}

/// One run of Cargo's tests; one line for each test program.
fn tests(words: &[&str], required: bool) -> Result<Option<Count>> {
    let mut command = cargo_command(words);
    if required {
        command.env("NETNS_TESTS", "required");
    }
    // One pipe for both streams keeps a result below the name of its program.
    let (reader, writer) = std::io::pipe()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command holds the writing ends; the pipe ends when they and Cargo's are closed.
    drop(command);
    let mut tally = Tally::default();
    for line in BufReader::new(reader).lines() {
        if let Some(told) = tally.take(&line?) {
            say(&told);
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.count.failed == 0 {
        tally.count.failed = 1;
    }
    Ok(Some(tally.count))
}

/// Reads what `cargo test` says, keeps the numbers, and passes on what a person wants to see.
#[derive(Default)]
struct Tally {
    count: Count,
}

impl Tally {
    /// Takes a line in; gives what to show for it.
    fn take(&mut self, line: &str) -> Option<String> {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let word = result.split(';').find_map(|part| part.trim().strip_suffix(what))?;
                word.trim().rsplit(' ').next()?.parse::<u64>().ok()
            };
            let (passed, failed) = (number(" passed").unwrap_or(0), number(" failed").unwrap_or(0));
            self.count.passed += passed;
            self.count.failed += failed;
            let time = result.rsplit_once("finished in ").map_or("", |(_, time)| time);
            return Some(format!("      {passed} passed, {failed} failed ({time})"));
        }
        // A test that passed needs no line of its own.
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let idle = line.is_empty() || line.starts_with("running ") || line.starts_with("   Compiling");
        if passed || idle { None } else { Some(format!("  {line}")) }
    }
}

/// Known vulnerabilities, where the database can be had; says aloud where not.
fn advisories() -> Result<Option<Count>> {
    let outcome = command::run(&mut cargo_command(&["deny", "check", "advisories"]), Duration::from_secs(300))?;
    if !outcome.ok() && outcome.stderr.contains("failed to fetch advisory database") {
        say("NOT CHECKED: the database of advisories cannot be reached from here");
        return Ok(None);
    }
    if !outcome.ok() {
        say(&outcome.stderr);
    }
    ensure!(outcome.ok(), "there are advisories");
    Ok(NO_TESTS)
}

fn is(variable: &str, value: &str) -> bool {
    std::env::var(variable).is_ok_and(|set| set == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_what_passed_is_not_repeated() {
        let mut tally = Tally::default();
        assert_eq!(tally.take("running 3 tests"), None);
        assert_eq!(tally.take("test a_thing_holds ... ok"), None);
        assert_eq!(
            tally.take("test another_does_not ... FAILED").as_deref(),
            Some("  test another_does_not ... FAILED")
        );
        let result =
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s";
        assert_eq!(tally.take(result).as_deref(), Some("      2 passed, 1 failed (0.25s)"));
        tally.take("test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        assert_eq!(tally.count, Count { passed: 42, failed: 1 });
    }
}
