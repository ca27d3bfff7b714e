//! `cargo verify`: everything that must hold before a change goes in.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use netns_tests::tally::{Count, Failure, Tally};
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
    let mut failures = Vec::new();
    let mut stage = |name: &str, work: &dyn Fn() -> Result<Option<Stage>>| {
        let start = Instant::now();
        let found = work().unwrap_or_else(|error| {
            say(&format!("{error:#}"));
            let failure = Failure { target: name.to_owned(), name: String::new(), said: vec![format!("{error:#}")] };
            Some((Count { passed: 0, failed: 1 }, vec![failure]))
        });
        let mark = match found {
            None => "– not checked:",
            Some((Count { failed: 0, .. }, _)) => "✓",
            Some(_) => "✗",
        };
        let (count, failed) = found.unwrap_or_default();
        let tests = if count.passed > 0 {
            format!(": {} passed, {} failed", count.passed, count.failed)
        } else {
            String::new()
        };
        say(&format!("{mark} {name}{tests} ({:.1} s)", start.elapsed().as_secs_f64()));
        total.passed += count.passed;
        total.failed += count.failed;
        failures.extend(failed);
    };
    stage("format", &|| cargo(&["fmt", "--all", "--check"]));
    stage("lints", &|| cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    stage("programs", &|| stories::build_programs().map(|()| held()));
    stage("tests, stories in namespaces, pages in a browser", &|| {
        tests(&["test", "--workspace", "--no-fail-fast"], required)
    });
    stage("fuzz targets: format", &|| cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]));
    stage("fuzz targets: corpora replayed", &|| {
        tests(&["test", "--manifest-path", "fuzz/Cargo.toml", "--no-fail-fast"], required)
    });
    stage("dependencies: bans, licences, sources", &|| {
        cargo(&["deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
    });
    stage("dependencies: advisories", &advisories);
    let unsteady = again(&mut failures, required)?;
    total.failed -= unsteady;
    total.passed += unsteady;
    for Failure { target, name, said } in &failures {
        say(&format!("\nFAILED {target} {name}"));
        said.iter().for_each(|line| say(&format!("  {line}")));
    }
    say(&format!("{} passed, {} failed", total.passed, total.failed));
    Ok(total)
}

/// How many tests may fail beside others and hold by themselves before the whole fails.
const UNSTEADY: usize = 2;

/// Runs each of a few failed tests once more, by itself. Those that hold then are named aloud, with what they said at
/// first, and taken from `failures`; gives how many they are.
///
/// Some tests drive several real daemons at once, and what else runs on the machine may exceed their patience. Such a
/// test is a defect of its own, so it is never passed over in silence, and more than [`UNSTEADY`] of them fail the whole.
fn again(failures: &mut Vec<Failure>, required: bool) -> Result<u64> {
    let nameless = |failure: &Failure| failure.name.is_empty() || failure.target.is_empty();
    if failures.len() > UNSTEADY || failures.iter().any(nameless) {
        return Ok(0);
    }
    let mut unsteady = 0;
    for failure in std::mem::take(failures) {
        let Failure { target, name, said } = &failure;
        let words = target.split_whitespace().chain(["--", "--exact", name]);
        let words: Vec<&str> = std::iter::once("test").chain(words).collect();
        // One that is not found by its name has not held.
        if matches!(tests(&words, required)?, Some((Count { passed: 1, failed: 0 }, _))) {
            say(&format!("\nUNSTEADY {target} {name}: it failed beside others and held by itself; at first it said"));
            said.iter().for_each(|line| say(&format!("  {line}")));
            unsteady += 1;
        } else {
            failures.push(failure);
        }
    }
    Ok(unsteady)
}

/// What came of a stage: its tests, and those that failed.
type Stage = (Count, Vec<Failure>);

/// A stage that held and has no tests to count.
fn held() -> Option<Stage> {
    Some((Count::default(), Vec::new()))
}

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
fn cargo(words: &[&str]) -> Result<Option<Stage>> {
    let status = cargo_command(words).stdin(Stdio::null()).status().context("cargo")?;
    ensure!(status.success(), "cargo {} failed", words.join(" "));
    Ok(held())
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
fn tests(words: &[&str], required: bool) -> Result<Option<Stage>> {
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
    let success = child.wait()?.success();
    Ok(Some(tally.end(success)))
}

/// Known vulnerabilities, where the database can be had; says aloud where not.
fn advisories() -> Result<Option<Stage>> {
    let outcome = command::run(&mut cargo_command(&["deny", "check", "advisories"]), Duration::from_secs(300))?;
    if !outcome.ok() && outcome.stderr.contains("failed to fetch advisory database") {
        say("NOT CHECKED: the database of advisories cannot be reached from here");
        return Ok(None);
    }
    if !outcome.ok() {
        say(&outcome.stderr);
    }
    ensure!(outcome.ok(), "there are advisories");
    Ok(held())
}

fn is(variable: &str, value: &str) -> bool {
    std::env::var(variable).is_ok_and(|set| set == value)
}
