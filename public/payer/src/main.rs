//! `payer`: see the library.

mod wallet;

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cloakway_crypto::Secret;
use cloakway_crypto::sign::VerifyingKey;
use payer::{Card, Payer, PayerError};
use transact_wire::payment::PaymentState;

/// Pays from the command line: one order by card, or small amounts from a wallet.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  payer pay --url https://pay.example/p/TOKEN --card-file card.txt
  pass show card | payer pay --url https://pay.example/p/TOKEN --card-file - --json

Exit codes: 0 approved, 1 not paid, 2 wrong usage or card, 3 no such page"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read a payer page and pay it.
    Pay(Pay),
    /// Electronic cash: a wallet.
    Wallet(Box<wallet::Options>),
    /// Print the manual page (roff).
    Man,
    /// Print a completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct Pay {
    /// The payer page, as the shop gave it.
    #[arg(long, value_name = "URL")]
    url: String,
    /// A file with the lines number=… and expiry=MM/YY; - reads them from standard input.
    #[arg(long, value_name = "FILE")]
    card_file: PathBuf,
    /// The certificate authorities to trust, in PEM.
    #[arg(long, value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    ca: PathBuf,
    /// The key that has to have signed the page: 32 bytes in base64, as the facilitation server's `check` says it.
    #[arg(long, value_name = "KEY", value_parser = VerifyingKey::from_base64)]
    page_key: Option<VerifyingKey>,
    /// Pay without asking; needed where nobody can be asked.
    #[arg(long)]
    yes: bool,
    /// Print one JSON object instead of sentences; asks nothing.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Pay(options) => pay(&options),
        Command::Wallet(options) => wallet::main(&options),
        Command::Man => {
            let mut out = Vec::new();
            let made = clap_mangen::Man::new(Cli::command()).render(&mut out);
            exit(made.and_then(|()| std::io::stdout().write_all(&out)))
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "payer", &mut out);
            exit(std::io::stdout().write_all(&out))
        }
    }
}

fn exit(result: std::io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn pay(options: &Pay) -> ExitCode {
    let done = cloakway_runtime::role::block_on(async {
        Ok::<_, std::io::Error>(match read_card(options) {
            Ok(card) => carry_out(options, card).await,
            Err(error) => Err(error),
        })
    });
    let (state, message, code) = match done {
        Ok(Ok((PaymentState::Approved, message))) => ("approved".to_owned(), message, 0),
        Ok(Ok((state, message))) => (name(state), message, 1),
        Ok(Err(error)) => {
            let (state, code) = match &error {
                PayerError::Card(_) => ("not_sent", 2),
                PayerError::NoPage => ("no_page", 3),
                PayerError::Page(_) | PayerError::NotLive { .. } | PayerError::Tls(_) | PayerError::Client(_) => {
                    ("not_sent", 1)
                }
                PayerError::Refused(_) => ("refused", 1),
                PayerError::Unknown(_) => ("unknown", 1),
            };
            (state.to_owned(), error.to_string(), code)
        }
        Err(error) => ("not_sent".to_owned(), error.to_string(), 1),
    };
    if options.json {
        let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({"state": state, "message": message}));
    } else if code == 0 {
        let _ = writeln!(std::io::stdout(), "{message}");
    } else {
        eprintln!("payer: {message}");
    }
    ExitCode::from(code)
}

fn name(state: PaymentState) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn read_card(options: &Pay) -> Result<Card, PayerError> {
    let failed = |e: std::io::Error| PayerError::Card(format!("{}: {e}", options.card_file.display()));
    let text = if options.card_file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&options.card_file)
    };
    Card::parse(&Secret::new(text.map_err(failed)?))
}

async fn carry_out(options: &Pay, card: Card) -> Result<(PaymentState, String), PayerError> {
    let payer = Payer::open(&options.url, &options.ca, options.page_key.as_ref()).await?;
    let page = payer.page();
    if !options.json {
        eprintln!("{} to {} for {}", page.amount_text, page.payee, page.description);
        if !options.yes && std::io::stdin().is_terminal() {
            eprint!("Pay? [y/N] ");
            let mut answer = String::new();
            let _ = std::io::stdin().read_line(&mut answer);
            if !answer.trim().eq_ignore_ascii_case("y") {
                return Ok((PaymentState::Open, "Not paid.".to_owned()));
            }
        }
    }
    let outcome = payer.pay(card).await?;
    Ok((outcome.state, outcome.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
