//! Running a command with a bound on its time.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a command said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Whether it ended with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs `command` to its end, at most `bound`.
///
/// # Errors
/// When it cannot be started, or is still running after `bound`; then it is killed.
pub fn run(command: &mut Command, bound: Duration) -> Result<Outcome> {
    let shown = show(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start: {shown}"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > bound {
            child.kill()?;
            child.wait()?;
            bail!("still running after {bound:?}: {shown}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text =
        |reader: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    Ok(Outcome { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

/// Runs `command` to its end and wants 0 from it; gives its standard output.
///
/// # Errors
/// As [`run`], and when it ends otherwise; then with what it said.
pub fn must(command: &mut Command, bound: Duration) -> Result<String> {
    let outcome = run(command, bound)?;
    if !outcome.ok() {
        let code = outcome.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        bail!("{} ended with {code}: {}{}", show(command), outcome.stdout.trim(), outcome.stderr.trim());
    }
    Ok(outcome.stdout)
}

/// Runs `condition` until it gives a value, at most `bound`; an error of `condition` counts as "not yet".
///
/// # Errors
/// When the time is over, with the last error.
pub fn eventually<T>(bound: Duration, what: &str, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > bound => {
                return Err(error.context(format!("not within {bound:?}: {what}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn show(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn output_and_exit_code_come_back() {
        let outcome = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), bound()).unwrap();
        assert_eq!(outcome, Outcome { code: Some(3), stdout: "out\n".into(), stderr: "err\n".into() });
        let error = must(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), bound()).unwrap_err();
        assert_eq!(error.to_string(), "sh -c echo why >&2; exit 3 ended with 3: why");
    }

    #[test]
    fn a_command_past_its_bound_is_killed() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("still running after 50ms: sleep 600"), "{error}");
    }

    #[test]
    fn a_condition_that_never_holds_gives_its_last_error() {
        let error = eventually(Duration::from_millis(30), "pigs fly", || Err::<(), _>(anyhow!("no wings")));
        assert_eq!(format!("{:#}", error.unwrap_err()), "not within 30ms: pigs fly: no wings");
        let mut turns = 0;
        let turn = |turns: &mut i32| {
            *turns += 1;
            if *turns > 2 { Ok(*turns) } else { Err(anyhow!("early")) }
        };
        assert_eq!(eventually(bound(), "three turns", || turn(&mut turns)).unwrap(), 3);
    }

    fn bound() -> Duration {
        Duration::from_secs(20)
    }
}
