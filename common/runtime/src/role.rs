//! The command line that every server has: `run`, `check`, `show`, `man`, `completions`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration; 3 where a role has a use for it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::{self, Config};
use crate::stop::Stop;
use crate::{admin, log, metrics, reload, text};

/// Something that `show` can show.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    /// The word on the command line.
    pub name: &'static str,
    /// What is shown.
    pub about: &'static str,
}

/// What a running role is given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Told when the process has to end.
    pub stop: Stop,
    /// The configuration file, for a reload.
    pub config_path: PathBuf,
    /// Its text when it was read.
    pub config_text: String,
}

/// Of a role that runs without a file, as tests have it.
impl From<Stop> for Context {
    fn from(stop: Stop) -> Self {
        Self { stop, config_path: PathBuf::new(), config_text: String::new() }
    }
}

/// A server binary.
pub trait Role: 'static {
    /// The binary's name.
    const NAME: &'static str;
    /// One sentence for `--help` and the manual page.
    const ABOUT: &'static str;
    /// Lines for `--help`: commands a person can copy.
    const EXAMPLES: &'static str;
    /// What `show` can show; the first is the default.
    const TOPICS: &'static [Topic];
    /// Whether the running role reads its file again when it is told to: it has the subcommand `reload` then, and
    /// answers [`reload::TOPIC`].
    const RELOADS: bool = false;
    /// What that does, for `--help`.
    const RELOAD_ABOUT: &'static str =
        "Have the running role read its configuration again; a file with an error in it changes nothing";
    /// Topics that want something to look for, and what it is called on the command line; in lower case it is the name
    /// of the argument.
    const WANTS: &'static [(&'static str, &'static str)] = &[];
    /// Topics that can be narrowed, by which option, and what that is good for.
    const NARROWED: &'static [(&'static str, &'static str, &'static str)] = &[];
    /// What the exit code 3 says, if a subcommand of this role ends with it.
    const EXIT_3: Option<&'static str> = None;
    /// The file's contents.
    type Config: Config + Send;

    /// Where the running role listens for `show`.
    fn admin_socket(config: &Self::Config) -> &Path;

    /// What `check` says about a valid file, a line each: a summary and warnings.
    fn summary(config: &Self::Config) -> Vec<String>;

    /// Does the role's work until the stop is told.
    fn run(config: Self::Config, context: Context) -> impl Future<Output = Outcome> + Send + 'static;

    /// What has to be done before there is an event loop, and with it more threads than one: opening what takes privileges,
    /// and giving them up. What it gives does the role's work.
    ///
    /// # Errors
    /// Whatever keeps the role from starting.
    fn begin(config: Self::Config) -> Result<Work, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Box::new(|context| Box::pin(Self::run(config, context))))
    }

    /// Further subcommands of this role.
    fn commands() -> Vec<Command> {
        Vec::new()
    }

    /// Carries out one of them.
    fn command(name: &str, matches: &ArgMatches) -> ExitCode {
        let _ = matches;
        eprintln!("{}: unknown command {name}", Self::NAME);
        ExitCode::from(2)
    }
}

/// How a role's run ends: `Ok`, or whatever stopped it, for a person to read.
pub type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A role's work, ready for the event loop.
pub type Work = Box<dyn FnOnce(Context) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;

/// The whole `main` of a server binary.
#[must_use]
pub fn main<R: Role>() -> ExitCode {
    let matches = command::<R>().get_matches();
    match matches.subcommand() {
        Some(("run", matches)) => run::<R>(&path(matches, "config")),
        Some(("check", matches)) => check::<R>(&path(matches, "config")),
        Some(("show", matches)) => {
            let topic = matches.get_one::<String>("topic").cloned().unwrap_or_default();
            let wanted = R::WANTS.iter().find(|(name, _)| *name == topic).map(|(_, what)| *what);
            let given = matches.try_get_one::<String>("what").ok().flatten();
            let narrowed = |(of, option, _): &&(&str, &str, &str)| *of != topic && matches.contains_id(option);
            if let Some((_, option, _)) = R::NARROWED.iter().find(narrowed) {
                return usage::<R>(&format!("show {topic} takes no --{option}"));
            }
            match (wanted, given) {
                (None, None) => ask::<R>(matches, &topic, None),
                (Some(what), Some(given)) => ask::<R>(matches, &topic, Some((what, given))),
                (Some(what), None) => usage::<R>(&format!("show {topic} takes {what}")),
                (None, Some(given)) => usage::<R>(&format!("show {topic} takes nothing more: {given:?} is too much")),
            }
        }
        Some(("reload", matches)) if R::RELOADS => ask::<R>(matches, reload::TOPIC, None),
        Some(("man", _)) => print(|out| {
            let mut command = command::<R>();
            command.build();
            pages(&command, out)
        }),
        Some(("completions", matches)) => {
            let shell = matches.get_one::<clap_complete::Shell>("shell").copied().unwrap_or(clap_complete::Shell::Bash);
            print(|out| {
                clap_complete::generate(shell, &mut command::<R>(), R::NAME, out);
                Ok(())
            })
        }
        Some((name, matches)) => R::command(name, matches),
        None => ExitCode::from(2),
    }
}

/// The role's command tree, from which help, manual page and completions come.
#[must_use]
pub fn command<R: Role>() -> Command {
    let default = format!("/etc/cloakway/{}.toml", R::NAME);
    let config = || {
        Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .default_value(default.clone())
    };
    let topics = R::TOPICS.iter().map(|topic| clap::builder::PossibleValue::new(topic.name).help(topic.about));
    let mut topic = Arg::new("topic").value_parser(PossibleValuesParser::new(topics)).help("What to show");
    if let Some(first) = R::TOPICS.first() {
        topic = topic.default_value(first.name);
    }
    let asks = |command: Command| {
        command
            .arg(config().help("The configuration, which names the admin socket"))
            .arg(
                Arg::new("socket")
                    .long("socket")
                    .value_name("PATH")
                    .value_parser(value_parser!(PathBuf))
                    .help("The admin socket itself"),
            )
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("One JSON value instead of a table"))
    };
    let reload = asks(Command::new("reload").about(R::RELOAD_ABOUT));
    let names: Vec<&str> = R::WANTS.iter().map(|(_, what)| *what).collect();
    let what = (!names.is_empty()).then(|| {
        let topics: Vec<String> = R::WANTS.iter().map(|(topic, what)| format!("{topic}: {what}")).collect();
        Arg::new("what").value_name(names.join("|")).help(format!("What to look for ({})", topics.join(", ")))
    });
    let narrowed = R::NARROWED.iter().map(|(topic, option, about)| {
        let help = format!("{about} ({topic})");
        Arg::new(*option).long(*option).value_name(option.to_uppercase()).help(help)
    });
    let third = R::EXIT_3.map(|meaning| format!(", 3 {meaning}")).unwrap_or_default();
    Command::new(R::NAME)
        .about(R::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(format!(
            "Examples:\n{}\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration{third}",
            R::EXAMPLES
        ))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("run").about("Do the work until SIGTERM").arg(config().help("The configuration")))
        .subcommand(
            Command::new("check").about("Check a configuration and start nothing").arg(
                Arg::new("config")
                    .value_name("FILE")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .help("The configuration"),
            ),
        )
        .subcommand(asks(
            Command::new("show").about("Show the state of the running role").arg(topic).args(what).args(narrowed),
        ))
        .subcommands(R::RELOADS.then_some(reload))
        .subcommand(Command::new("man").about("Print the manual page (roff)"))
        .subcommand(
            Command::new("completions").about("Print a completion script").arg(
                Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell)).help("The shell"),
            ),
        )
        .subcommands(R::commands())
}

/// The manual page of a command, then those of its subcommands.
fn pages(command: &Command, out: &mut Vec<u8>) -> std::io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    clap_mangen::Man::new(command.clone().name(name)).render(out)?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.filter(|below| !below.is_hide_set()).try_for_each(|below| pages(below, out))
}

/// The path given for `name`; every such argument is required or has a default.
#[must_use]
pub fn path(matches: &ArgMatches, name: &str) -> PathBuf {
    matches.get_one::<PathBuf>(name).cloned().unwrap_or_default()
}

/// Runs `work` on a new multi-threaded event loop.
///
/// # Errors
/// Whatever stops the work, or keeps the loop from starting.
pub fn block_on<T, E: From<std::io::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn loaded<R: Role>(path: &Path) -> Result<R::Config, ExitCode> {
    config::load::<R::Config>(path).map_err(|error| refused::<R>(&error))
}

fn refused<R: Role>(error: &config::ConfigError) -> ExitCode {
    eprintln!("{}: {error}", R::NAME);
    ExitCode::from(2)
}

fn run<R: Role>(path: &Path) -> ExitCode {
    let read = config::read(path).and_then(|text| Ok((config::parse(&path.display().to_string(), &text)?, text)));
    let (config, config_text) = match read {
        Ok(read) => read,
        Err(error) => return refused::<R>(&error),
    };
    log::start();
    metrics::start();
    let context = Context { stop: Stop::new(), config_path: path.to_owned(), config_text };
    tracing::info!(role = R::NAME, version = env!("CARGO_PKG_VERSION"), config = %path.display(), "starting");
    let result = R::begin(config).and_then(|work| {
        block_on(async {
            context.stop.on_signals()?;
            work(context).await
        })
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped by an error");
            ExitCode::FAILURE
        }
    }
}

fn check<R: Role>(path: &Path) -> ExitCode {
    match loaded::<R>(path) {
        Ok(config) => print(|out| {
            use std::io::Write;
            writeln!(out, "{}: ok", path.display())?;
            R::summary(&config).iter().try_for_each(|line| writeln!(out, "  {line}"))
        }),
        Err(code) => code,
    }
}

fn usage<R: Role>(error: &str) -> ExitCode {
    eprintln!("{}: {error}", R::NAME);
    ExitCode::from(2)
}

/// Asks the running role, of one thing if its name and value are given, and prints what it says.
fn ask<R: Role>(matches: &ArgMatches, topic: &str, argument: Option<(&str, &String)>) -> ExitCode {
    let socket = match matches.get_one::<PathBuf>("socket") {
        Some(socket) => socket.clone(),
        None => match loaded::<R>(&path(matches, "config")) {
            Ok(config) => R::admin_socket(&config).to_owned(),
            Err(code) => return code,
        },
    };
    let narrowed = R::NARROWED.iter().filter_map(|(_, option, _)| {
        Some(((*option).to_owned(), matches.try_get_one::<String>(option).ok().flatten()?.clone()))
    });
    let wanted = argument.map(|(name, value)| (name.to_lowercase(), value.clone()));
    let arguments = wanted.into_iter().chain(narrowed).collect();
    let request = admin::Request { topic: topic.to_owned(), arguments };
    let working = |seconds: u64| {
        if seconds.is_multiple_of(5) {
            eprintln!("{}: still at work after {seconds} s", R::NAME);
        }
    };
    let asked: Result<_, Box<dyn std::error::Error>> = block_on(async {
        // To change what is in force may take its time; to be asked what it is may not.
        Ok(if topic == reload::TOPIC {
            admin::ask_patiently(&socket, &request, working).await?
        } else {
            admin::ask_for(&socket, &request).await?
        })
    });
    match asked {
        Ok(value) if matches.get_flag("json") => print(|out| {
            use std::io::Write;
            writeln!(out, "{value}")
        }),
        Ok(value) => print(|out| std::io::Write::write_all(out, text::render(&value).as_bytes())),
        Err(error) => {
            eprintln!("{}: {error}", R::NAME);
            ExitCode::FAILURE
        }
    }
}

/// Prints on standard output; a reader that has gone away is no error.
fn print(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> ExitCode {
    let mut out = Vec::new();
    match write(&mut out).and_then(|()| std::io::Write::write_all(&mut std::io::stdout(), &out)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
