//! `payer wallet`: electronic cash on the command line.

mod output;

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cloakway_crypto::Secret;
use ecash_wallet::wire::client::{Event, Instrument, OfferKey};
use ecash_wallet::wire::suite::Suite;
use ecash_wallet::wire::value::{
    Agreements, Bytes, Currency, Functions, InstrumentNumber, Minutes, Money, Passphrase, SessionId, Value,
};
use ecash_wallet::{Bought, Cost, Settings, Wallet, WalletError};
use serde_json::json;

/// How a command ended, beside what it printed.
const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNANSWERED: u8 = 3;

/// Electronic cash: a wallet.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  payer wallet new --server https://203.0.113.200 --ca ca.pem --passphrase-file p.txt
  payer wallet register --id dora --email dora@example.org --currency eur --passphrase-file p.txt
  payer wallet bind --card-file card.txt --name 'Dora Day' --country de --passphrase-file p.txt
  payer wallet load --instrument 1 --amount 'eur 20.00' --passphrase-file p.txt
  payer wallet open --amount 'eur 5.00' --minutes 60 --uses 100 --passphrase-file p.txt
  payer wallet pay --offer-url https://192.0.2.18/offers/page --yes --passphrase-file p.txt
  payer wallet close --all --passphrase-file p.txt

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no answer yet: `payer wallet recover` sends the same again"
)]
pub(crate) struct Options {
    /// The wallet's folder.
    #[arg(long, value_name = "FOLDER", default_value = "wallet", global = true)]
    wallet: PathBuf,
    /// The file that holds the wallet's passphrase; - reads it from standard input.
    #[arg(long, value_name = "FILE", global = true)]
    passphrase_file: Option<PathBuf>,
    /// Print one JSON object a result; asks nothing.
    #[arg(long, global = true)]
    json: bool,
    /// Seconds to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, global = true)]
    patience: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a wallet for a server.
    New {
        /// The server at the private network address.
        #[arg(long, value_name = "URL")]
        server: String,
        /// The certificate authorities to trust, in PEM.
        #[arg(long, value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
        ca: PathBuf,
        /// The suite.
        #[arg(long, default_value = "modern-1")]
        suite: String,
    },
    /// Register: get a persona.
    Register {
        /// The wanted id: a letter, then 2 to 29 letters and digits.
        #[arg(long)]
        id: String,
        /// Where the server may write to.
        #[arg(long)]
        email: String,
        /// The language of messages.
        #[arg(long, default_value = "en-us")]
        language: String,
        /// The usual currency.
        #[arg(long, default_value = "eur")]
        currency: String,
        /// Legal texts that are accepted, by number: 1,2.
        #[arg(long, default_value = "")]
        agree: String,
        /// The file with the passphrase that closes the persona when the wallet is lost.
        #[arg(long, value_name = "FILE")]
        autoclose_file: Option<PathBuf>,
    },
    /// Bind an instrument: a card or an account that money comes from and goes to.
    Bind {
        /// A file with the lines number=… and expiry=MM/YY; - reads them from standard input.
        #[arg(long, value_name = "FILE")]
        card_file: PathBuf,
        /// Its holder.
        #[arg(long)]
        name: String,
        /// The holder's country.
        #[arg(long)]
        country: String,
        /// credit-card, debit-card or bank-account.
        #[arg(long, default_value = "credit-card")]
        category: String,
        /// For instance visa.
        #[arg(long, default_value = "visa")]
        kind: String,
        /// What you call it.
        #[arg(long, default_value = "card")]
        description: String,
        /// What it is wanted for.
        #[arg(long, default_value = "load,unload")]
        functions: String,
        /// An answer to the issuer's questions, in their order; asked for on a terminal otherwise.
        #[arg(long = "answer", value_name = "TEXT")]
        answers: Vec<String>,
        /// A closed persona's money goes to it: the file with the passphrase of registration.
        #[arg(long, value_name = "FILE")]
        autoclose_file: Option<PathBuf>,
    },
    /// Load money from an instrument.
    Load(Move),
    /// Unload money to an instrument.
    Unload(Move),
    /// Open a session: with money to pay, with none to collect.
    Open {
        /// How much to put in: 'eur 5.00'.
        #[arg(long)]
        amount: String,
        /// How long it lives.
        #[arg(long, default_value_t = 60)]
        minutes: u16,
        /// How many payments.
        #[arg(long, default_value_t = 100)]
        uses: u16,
        /// A note of yours.
        #[arg(long)]
        note: Option<String>,
    },
    /// Pay an offer.
    Pay {
        /// Where a shop gives the offer.
        #[arg(long, value_name = "URL", conflicts_with = "offer_file")]
        offer_url: Option<String>,
        /// The offer itself.
        #[arg(long, value_name = "FILE", required_unless_present = "offer_url")]
        offer_file: Option<PathBuf>,
        /// The session to pay from; the first that has enough otherwise.
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// The most that may be charged, where the session has another currency.
        #[arg(long, value_name = "AMOUNT")]
        most: Option<String>,
        /// Ask for so many offers, one after another, and pay each.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Pay without asking; needed where nobody can be asked.
        #[arg(long)]
        yes: bool,
    },
    /// Close a session, or all of them; what is left comes back, and what is not known of payments is settled.
    Close {
        /// Which.
        #[arg(long, value_name = "ID", conflicts_with = "all")]
        session: Option<String>,
        /// All.
        #[arg(long, required_unless_present = "session")]
        all: bool,
        /// A note of yours.
        #[arg(long)]
        note: Option<String>,
    },
    /// Money, instruments and sessions, as far as this wallet knows.
    Show,
    /// Everything that was paid, collected and answered.
    History,
    /// Send again what was not answered, byte for byte.
    Recover,
    /// Close the persona: everything goes to the instrument bound for it.
    Autoclose {
        /// The file with the passphrase of registration.
        #[arg(long, value_name = "FILE")]
        autoclose_file: PathBuf,
    },
}

#[derive(clap::Args)]
struct Move {
    /// Which instrument, as `payer wallet show` numbers them.
    #[arg(long)]
    instrument: u64,
    /// How much: 'eur 20.00'.
    #[arg(long)]
    amount: String,
}

enum Failed {
    Usage(String),
    Wallet(WalletError),
}

impl From<WalletError> for Failed {
    fn from(error: WalletError) -> Self {
        Self::Wallet(error)
    }
}

fn read<T: Value>(what: &str, text: &str) -> Result<T, Failed> {
    T::read(text).map_err(|reason| Failed::Usage(format!("{what}: {text:?}: {reason}")))
}

fn line_of(what: &str, path: &std::path::Path) -> Result<Secret<String>, Failed> {
    let failed = |error: std::io::Error| Failed::Usage(format!("{what}: {}: {error}", path.display()));
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(path).map_err(failed)?;
    }
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn autoclose(path: Option<&PathBuf>) -> Result<Option<Passphrase>, Failed> {
    let Some(path) = path else { return Ok(None) };
    let text = line_of("--autoclose-file", path)?;
    Passphrase::read(text.expose())
        .map(Some)
        .map_err(|reason| Failed::Usage(format!("--autoclose-file: {reason} is needed")))
}

/// Carries out `payer wallet`.
pub(crate) fn main(options: &Options) -> ExitCode {
    let done = cloakway_runtime::role::block_on(async { Ok::<_, std::io::Error>(carry_out(options).await) });
    let (problem, text, code) = match done {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(Failed::Usage(text))) => ("usage".to_owned(), text, USAGE),
        Ok(Err(Failed::Wallet(error))) => {
            let problem = match &error {
                WalletError::Refused { problem: Some(problem), .. } => problem.text().to_owned(),
                WalletError::Refused { .. } => "refused".to_owned(),
                WalletError::Unanswered { .. } => "unanswered".to_owned(),
                WalletError::Unreached(_) => "unreached".to_owned(),
                _ => "not-possible".to_owned(),
            };
            let code = if matches!(error, WalletError::Unanswered { .. }) { UNANSWERED } else { REFUSED };
            (problem, error.to_string(), code)
        }
        Err(error) => ("not-possible".to_owned(), error.to_string(), REFUSED),
    };
    if options.json {
        let _ = writeln!(std::io::stdout(), "{}", json!({"done": false, "problem": problem, "message": text}));
    } else {
        eprintln!("payer: {text}");
    }
    ExitCode::from(code)
}

/// What is said while something takes its time.
fn progress(json: bool) -> impl Fn(u64, Option<&str>) + Send + Sync {
    move |seconds, why| {
        if !json && seconds.is_multiple_of(5) {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            eprintln!("payer: still waiting after {seconds} s{why}");
        }
    }
}

async fn carry_out(options: &Options) -> Result<(), Failed> {
    let file = options.passphrase_file.as_deref();
    let file = file.ok_or_else(|| Failed::Usage("--passphrase-file: which file holds the passphrase?".to_owned()))?;
    let passphrase = line_of("--passphrase-file", file)?;
    if let Command::New { server, ca, suite } = &options.command {
        let found = Suite::ALL.iter().copied().find(|known| known.name() == suite);
        let suite = found.ok_or_else(|| Failed::Usage(format!("--suite: {suite:?} is not known here")))?;
        let ca = std::path::absolute(ca).map_err(|error| Failed::Usage(format!("--ca: {error}")))?;
        let settings = Settings { server: server.clone(), ca };
        Wallet::create(&options.wallet, &passphrase, Cost::LEAST, &settings, suite).await?;
        output::say(options.json, "There is a wallet now.", &json!({"done": true, "suite": suite.name()}));
        return Ok(());
    }
    let mut wallet = Wallet::open(&options.wallet, &passphrase)?;
    act(options, &mut wallet).await
}

async fn act(options: &Options, wallet: &mut Wallet) -> Result<(), Failed> {
    let json = options.json;
    let patience = Duration::from_secs(options.patience);
    let progress = progress(json);
    match &options.command {
        Command::New { .. } => {}
        Command::Register { id, email, language, currency, agree, autoclose_file } => {
            let currency: Currency = read("--currency", currency)?;
            let agreements: Agreements = if agree.is_empty() { Agreements::default() } else { read("--agree", agree)? };
            let passphrase = autoclose(autoclose_file.as_ref())?;
            wallet.refresh_key().await?;
            let events = wallet
                .ask(
                    |client, now, random| {
                        client.register(id, email, language, currency, agreements, passphrase, now, random)
                    },
                    patience,
                    &progress,
                )
                .await;
            output::events(json, &events?);
        }
        Command::Bind { .. } => bind(options, wallet, patience).await?,
        Command::Load(what) => moves(wallet, what, 1, (json, patience)).await?,
        Command::Unload(what) => moves(wallet, what, -1, (json, patience)).await?,
        Command::Open { amount, minutes, uses, note } => {
            let (amount, minutes) = (read("--amount", amount)?, Minutes(*minutes));
            wallet.refresh_key().await?;
            let events = wallet
                .ask(
                    |client, now, random| client.open(amount, minutes, *uses, note.as_deref(), now, random),
                    patience,
                    &progress,
                )
                .await?;
            output::events(json, &events);
        }
        Command::Pay { .. } => pay(options, wallet, patience).await?,
        Command::Close { session, note, .. } => {
            let session = session.as_deref().map(|id| read::<SessionId>("--session", id)).transpose()?;
            wallet.refresh_key().await?;
            let events = wallet
                .ask(
                    |client, now, random| client.close(session, true, note.as_deref(), now, random),
                    patience,
                    &progress,
                )
                .await?;
            output::events(json, &events);
        }
        Command::Show => output::show(json, wallet),
        Command::History => output::history(json, wallet),
        Command::Recover => {
            let events = wallet.recover(patience, &progress).await?;
            output::events(json, &events);
            output::say(json, "Nothing waits for an answer.", &json!({"done": true, "settled": true}));
        }
        Command::Autoclose { autoclose_file } => {
            let passphrase = autoclose(Some(autoclose_file))?
                .ok_or_else(|| Failed::Usage("--autoclose-file: a passphrase is needed".to_owned()))?;
            wallet.refresh_key().await?;
            let events = wallet
                .ask(|client, now, random| client.autoclose(passphrase, now, random), patience, &progress)
                .await?;
            output::events(json, &events);
        }
    }
    Ok(())
}

async fn moves(wallet: &mut Wallet, what: &Move, sign: i64, (json, patience): (bool, Duration)) -> Result<(), Failed> {
    let amount: Money = read("--amount", &what.amount)?;
    let amount = Money::new(amount.currency(), amount.minor() * sign)
        .ok_or_else(|| Failed::Usage("--amount: too much".to_owned()))?;
    wallet.refresh_key().await?;
    let asked = |client: &mut ecash_wallet::wire::client::Client, now, random: &mut cloakway_crypto::System| {
        client.load_unload(what.instrument, amount, now, random)
    };
    let events = wallet.ask(asked, patience, &progress(json)).await?;
    output::events(json, &events);
    Ok(())
}

/// A card's number and its expiry, from lines `number=…` and `expiry=…`.
fn instrument_of(text: &Secret<String>) -> Result<(InstrumentNumber, Option<String>), Failed> {
    let value = |name: &str| {
        let mut lines = text.expose().lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let digits: String = value("number").unwrap_or_default().chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let number = InstrumentNumber::read(&digits)
        .map_err(|reason| Failed::Usage(format!("--card-file: number=…: {reason} are needed")))?;
    Ok((number, value("expiry").map(str::to_owned)))
}

async fn bind(options: &Options, wallet: &mut Wallet, patience: Duration) -> Result<(), Failed> {
    let Command::Bind { card_file, name, country, category, kind, description, functions, answers, autoclose_file } =
        &options.command
    else {
        return Ok(());
    };
    let (number, expiration_date) = instrument_of(&line_of("--card-file", card_file)?)?;
    let functions: Functions = read("--functions", functions)?;
    let instrument = Instrument {
        number,
        category: category.clone(),
        sub_type: kind.clone(),
        functions,
        expiration_date,
        name: name.clone(),
        country: country.clone(),
        agreements: Agreements::default(),
        autoclose: autoclose(autoclose_file.as_ref())?,
        description: description.clone(),
    };
    wallet.refresh_key().await?;
    let progress = progress(options.json);
    let mut events =
        wallet.ask(|client, now, random| client.bind(instrument, now, random), patience, &progress).await?;
    let mut given = answers.iter();
    while let Some((challenge, questions)) = asked(&events) {
        let mut told = Vec::new();
        for question in &questions {
            told.push(match given.next() {
                Some(answer) => answer.clone(),
                None => answer_of(options, question)?,
            });
        }
        let answering = |client: &mut ecash_wallet::wire::client::Client, now, random: &mut cloakway_crypto::System| {
            client.answer(challenge, &told, description, now, random)
        };
        events = wallet.ask(answering, patience, &progress).await?;
    }
    output::events(options.json, &events);
    Ok(())
}

fn asked(events: &[Event]) -> Option<(Bytes, Vec<String>)> {
    events.iter().find_map(|event| match event {
        Event::Asked(challenge, questions) => Some((challenge.clone(), questions.clone())),
        _ => None,
    })
}

fn answer_of(options: &Options, question: &str) -> Result<String, Failed> {
    if options.json || !std::io::stdin().is_terminal() {
        return Err(Failed::Usage(format!("the issuer asks: {question} Give --answer")));
    }
    eprint!("{question} ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failed::Usage(error.to_string()))?;
    Ok(answer.trim().to_owned())
}

async fn pay(options: &Options, wallet: &mut Wallet, patience: Duration) -> Result<(), Failed> {
    let Command::Pay { offer_url, offer_file, session, most, count, yes } = &options.command else { return Ok(()) };
    let session = session.as_deref().map(|id| read::<SessionId>("--session", id)).transpose()?;
    let most = most.as_deref().map(|most| read::<Money>("--most", most)).transpose()?;
    let progress = progress(options.json);
    let (mut paid, mut refused) = (0_u32, 0_u32);
    for number in 1..=*count {
        let key = match (offer_url, offer_file) {
            (Some(url), _) => wallet.fetch_offer(url).await?,
            (None, Some(file)) => {
                let text = std::fs::read(file).map_err(|e| Failed::Usage(format!("{}: {e}", file.display())))?;
                wallet.take_offer(&file.display().to_string(), &text).await?
            }
            (None, None) => return Ok(()),
        };
        if number == 1 && !agreed(options, wallet, &key, *yes, *count) {
            output::say(options.json, "Not paid.", &json!({"done": false, "problem": "not-agreed"}));
            return Ok(());
        }
        let from = session.or_else(|| wallet.session_for(&key)).ok_or_else(|| {
            Failed::Usage("no session has enough in this currency: `payer wallet open` opens one".to_owned())
        })?;
        let bought = wallet.pay(&key, from, most, patience, &progress).await?;
        let order = key.order.as_str();
        match &bought {
            Bought::Paid(charged) => {
                paid += 1;
                let text = format!("Paid {charged} to {} for {order}.", key.payee);
                let value = json!({"done": true, "paid": true, "order": order, "payee": key.payee.as_str(),
                    "charged": charged.to_string()});
                output::say_of_many(options.json, *count, &text, &value);
            }
            Bought::Refused(problem) => {
                refused += 1;
                let reason = problem.map_or("no reason was given", |problem| problem.message());
                let text = format!("Not paid: {order}: {reason}.");
                let value = json!({"done": false, "paid": false, "order": order, "payee": key.payee.as_str(),
                    "problem": problem.map(|problem| problem.text()), "message": reason});
                output::say(options.json, &text, &value);
            }
        }
        if !options.json && *count > 1 && number.is_multiple_of(50) {
            eprintln!("payer: {number} of {count}: {paid} paid, {refused} refused");
        }
    }
    if *count > 1 {
        let text = format!("{paid} paid, {refused} refused.");
        output::say(options.json, &text, &json!({"done": refused == 0, "paid_count": paid, "refused_count": refused}));
    }
    if refused > 0 {
        return Err(Failed::Wallet(WalletError::Refused {
            problem: None,
            text: format!("{refused} of {count} were refused; nothing was charged for them"),
        }));
    }
    Ok(())
}

/// Shows what is offered, and asks.
fn agreed(options: &Options, wallet: &Wallet, key: &OfferKey, yes: bool, count: u32) -> bool {
    let Some(offer) = wallet.client().offer(key) else { return false };
    if options.json {
        return yes;
    }
    let times = if count > 1 { format!(", {count} times") } else { String::new() };
    eprintln!("{} to {} for {}{times}", offer.amount, offer.merchant_id, offer.note);
    if yes {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("Pay? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    answer.trim().eq_ignore_ascii_case("y")
}
