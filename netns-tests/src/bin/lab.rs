//! `cargo lab`: brings laboratories up, tells stories in them, removes them.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use netns_tests::lab::{Lab, down};
use netns_tests::{host, picture, say, stories};

#[derive(Parser)]
#[command(
    name = "cargo lab",
    bin_name = "cargo lab",
    about = "The whole of Cloakway in network namespaces, with real peers",
    after_help = "Examples:\n  \
        cargo lab                         tell the story `purchase` and remove everything\n  \
        cargo lab --json evidence.json    the same, and write what was seen\n  \
        cargo lab run crash               tell another story\n  \
        cargo lab up                      bring the laboratory up and leave it running\n  \
        cargo lab down                    remove it, also after a crash\n\n\
        Exit codes: 0 every check held, 1 one did not, 2 wrong use or the machine is not prepared."
)]
struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Write the evidence of the story to this file.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Run the programs as they were last built.
    #[arg(long, global = true)]
    no_build: bool,
    /// What the names of the namespaces begin with; laboratories of different prefixes live side by side.
    #[arg(long, value_name = "PREFIX", default_value = "cw-", global = true, value_parser = prefix)]
    prefix: String,
}

#[derive(Subcommand)]
enum Action {
    /// Tell a story and remove its laboratory.
    Run {
        /// One of `cargo lab list`.
        #[arg(default_value = "purchase")]
        story: String,
    },
    /// Bring a laboratory up and leave it running.
    Up {
        /// A folder of configs/lab.
        #[arg(default_value = "purchase")]
        topology: String,
    },
    /// Remove a laboratory, whatever state it is in.
    Down,
    /// Name the stories.
    List,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cargo lab: {error:#}");
            ExitCode::from(if error.is::<host::Unprepared>() { 2 } else { 1 })
        }
    }
}

fn act(arguments: &Arguments) -> Result<ExitCode> {
    match arguments.action.as_ref().unwrap_or(&Action::Run { story: "purchase".to_owned() }) {
        Action::Run { story } => run(story, arguments),
        Action::Up { topology } => up(topology, arguments),
        Action::Down => {
            anyhow::ensure!(host::is_root(), host::Unprepared("removing namespaces needs root".to_owned()));
            let was = down(&arguments.prefix)?;
            say(if was { "removed" } else { "there was nothing to remove" });
            Ok(ExitCode::SUCCESS)
        }
        Action::List => {
            for story in stories::ALL {
                say(&format!("{:<10} {}", story.name, story.about));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn run(name: &str, arguments: &Arguments) -> Result<ExitCode> {
    let Some(story) = stories::find(name) else {
        eprintln!("cargo lab: no story `{name}`; `cargo lab list` names them");
        return Ok(ExitCode::from(2));
    };
    prepare(arguments)?;
    let evidence = stories::run(story, &arguments.prefix)?;
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&evidence)? + "\n").with_context(|| file.display().to_string())?;
        say(&format!("evidence: {}", file.display()));
    }
    Ok(if evidence.count().1 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn up(topology: &str, arguments: &Arguments) -> Result<ExitCode> {
    let prefix = &arguments.prefix;
    let topology = stories::topology(topology)?;
    prepare(arguments)?;
    let lab = Lab::up(topology, prefix, &mut |text| say(&format!("    {text}")))?;
    say("");
    say(&picture::draw(&lab, &[])?);
    say("It is up. To look inside:");
    for host in &lab.topology().namespaces {
        say(&format!("  ip netns exec {prefix}{:<13} bash    # {}", host.name, host.role));
    }
    say(&format!("Logs, captures, keys and configurations: {}", lab.run_directory().display()));
    for process in lab.topology().processes.iter().filter(|process| process.program.ends_with("zebra")) {
        let directory = lab.run_directory().join(&process.name);
        say(&format!("FRR:  ip netns exec {prefix}{} vtysh --vty_socket {}", process.namespace, directory.display()));
    }
    for process in lab.topology().processes.iter().filter(|process| process.program.ends_with("bird")) {
        let socket = lab.run_directory().join(&process.name).join("bird.ctl");
        say(&format!("BIRD: birdc -s {}    # {}", socket.display(), process.namespace));
    }
    say("To remove it: cargo lab down");
    lab.keep()?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(arguments: &Arguments) -> Result<()> {
    host::prepare()?;
    remove_when_interrupted(arguments.prefix.clone())?;
    if arguments.no_build { Ok(()) } else { stories::build_programs() }
}

/// On Ctrl-C or SIGTERM removes the laboratory and ends the program.
fn remove_when_interrupted(prefix: String) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        eprintln!("\ninterrupted: removing the laboratory");
        // The story may be making something at this moment: until nothing is left.
        let mut code = 1;
        for _ in 0..5 {
            match down(&prefix) {
                Ok(true) => {}
                Ok(false) => {
                    code = 130;
                    break;
                }
                Err(error) => eprintln!("{error:#}"),
            }
        }
        std::process::exit(code);
    });
    Ok(())
}

fn prefix(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.len() > 1 && text.len() <= 16 && text.ends_with('-') && text.bytes().all(good) {
        Ok(text.to_owned())
    } else {
        Err("2 to 16 of a-z, 0-9 and `-`, with `-` at the end".to_owned())
    }
}
