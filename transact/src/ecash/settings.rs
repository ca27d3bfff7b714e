//! `[ecash]`: electronic cash on the private address. Off without it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakway_crypto::{Secret, encode, hpke};
use cloakway_runtime::config::{self, Invalid};
use cloakway_runtime::tls;
use cloakway_store::{Postgresql, SettingsError, Store, StoreError, Tls};
use serde::Deserialize;
use transact_bank::Movement;
use transact_ecash::ledger::{Exchange, Limit, Tariff};
use transact_ecash::wire::message::Kind;
use transact_ecash::wire::suite::Suite;
use transact_ecash::wire::value::{Currency, Functions, Minutes, Money, Value};
use transact_ecash::{LoadHold, Policy, Software, Suites};

use super::issuer::Terms;
use crate::institutions::{self, Institution, RawInstitution};

/// Days that a server key serves at most.
const LONGEST_KEY: u64 = 90;

/// How electronic cash is served.
#[derive(Debug)]
pub struct EcashConfig {
    /// The rules.
    pub policy: Policy,
    /// The suites that have keys.
    pub suites: Vec<Suite>,
    /// How long a server key serves, and how long before its end the next one is made.
    pub keys: (Duration, Duration),
    /// How long after the issuer's yes an unload is taken to have arrived; `None` until the operator says so.
    pub unload_settles: Option<Duration>,
    /// On which terms instruments are bound.
    pub terms: Terms,
    /// The institution that loads come from and unloads go to.
    pub bank: Institution,
    /// Where the records are, if not in a file of their own.
    pub postgresql: Option<Postgresql>,
    /// What is risky about that.
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RawEcash {
    secret_file: PathBuf,
    #[serde(default = "modern")]
    suites: Vec<String>,
    #[serde(default)]
    classic_real_money: bool,
    #[serde(default)]
    currencies: Vec<String>,
    #[serde(default)]
    agreements: Vec<u32>,
    #[serde(default = "month")]
    retention_days: u64,
    operator_key_file: Option<PathBuf>,
    #[serde(default)]
    keys: RawKeys,
    #[serde(default)]
    sessions: RawSessions,
    #[serde(default)]
    loads: RawLoads,
    #[serde(default)]
    instruments: RawInstruments,
    #[serde(default)]
    fees: RawFees,
    #[serde(default)]
    exchange: Vec<RawRate>,
    #[serde(default)]
    software: BTreeMap<String, RawSoftware>,
    bank: RawInstitution,
    postgresql: Option<RawPostgresql>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPostgresql {
    connection: String,
    #[serde(default = "schema")]
    schema: String,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
}

fn schema() -> String {
    "ecash".to_owned()
}

fn modern() -> Vec<String> {
    vec![Suite::Modern1.name().to_owned()]
}

fn month() -> u64 {
    30
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawKeys {
    days: u64,
    renew_days: u64,
}

impl Default for RawKeys {
    fn default() -> Self {
        Self { days: 30, renew_days: 7 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawSessions {
    payer_minutes: u16,
    payer_uses: u16,
    payee_minutes: u16,
    payee_uses: u16,
}

impl Default for RawSessions {
    fn default() -> Self {
        Self { payer_minutes: 1440, payer_uses: 1000, payee_minutes: 9999, payee_uses: u16::MAX }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawLoads {
    hold_hours: u64,
    until_confirmed: bool,
    unload_settles_hours: Option<u64>,
}

impl Default for RawLoads {
    fn default() -> Self {
        Self { hold_hours: 24, until_confirmed: false, unload_settles_hours: Some(24) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawInstruments {
    functions: Vec<String>,
    native: Option<String>,
    load_limit: Option<i64>,
    load_hours: u32,
    unload_limit: Option<i64>,
    unload_hours: u32,
    trial: Option<String>,
    ask_pin: bool,
}

impl Default for RawInstruments {
    fn default() -> Self {
        Self {
            functions: vec!["load".to_owned(), "unload".to_owned()],
            native: None,
            load_limit: None,
            load_hours: 24,
            unload_limit: None,
            unload_hours: 24,
            trial: None,
            ask_pin: false,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawFees {
    load: Vec<String>,
    open: Vec<String>,
    close: Vec<String>,
    collect: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRate {
    from: String,
    to: String,
    rate: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawSoftware {
    severity: RawSeverity,
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawSeverity {
    Warning,
    Fatal,
}

fn value<T: Value>(field: &str, text: &str, right: &str) -> Result<T, Invalid> {
    T::read(text).map_err(|reason| Invalid::at(field, format!("{text:?}: {reason}: give one as {right}")))
}

fn currency(field: &str, text: &str) -> Result<Currency, Invalid> {
    value(field, text, "\"eur\"")
}

fn above_zero<T: PartialEq + Default>(field: &str, number: T) -> Result<T, Invalid> {
    if number == T::default() { Err(Invalid::at(field, "0 is not allowed: give at least 1")) } else { Ok(number) }
}

fn days(number: u64) -> Duration {
    Duration::from_secs(number.saturating_mul(86_400))
}

fn hours(number: u64) -> Duration {
    Duration::from_secs(number.saturating_mul(3600))
}

/// What `[ecash]` says.
///
/// # Errors
/// [`Invalid`] names the field.
pub(crate) fn validate(raw: RawEcash) -> Result<EcashConfig, Invalid> {
    let secret = config::read_secret(&raw.secret_file).map_err(|error| Invalid::at("ecash.secret-file", error))?;
    let secret = encode::unbase64(secret.expose())
        .filter(|key| key.len() == 32)
        .ok_or_else(|| Invalid::at("ecash.secret-file", "the file has to hold 32 random bytes in base64"))?;
    let mut policy = Policy::new(Secret::new(secret));
    let suites = suites(&raw, &mut policy)?;
    for (at, code) in raw.currencies.iter().enumerate() {
        policy.currencies.insert(currency(&format!("ecash.currencies[{at}]"), code)?);
    }
    policy.agreements = raw.agreements.iter().copied().collect::<BTreeSet<_>>();
    policy.retention = days(above_zero("ecash.retention-days", raw.retention_days)?);
    policy.operator_key = raw.operator_key_file.as_deref().map(operator_key).transpose()?;
    let keys = (raw.keys.days, raw.keys.renew_days);
    if !(1..=LONGEST_KEY).contains(&keys.0) {
        return Err(Invalid::at("ecash.keys.days", format!("{} is not allowed: give 1 to {LONGEST_KEY}", keys.0)));
    }
    if keys.1 == 0 || keys.1 >= keys.0 {
        let reason = format!("{} is not allowed: give at least 1, and less than ecash.keys.days", keys.1);
        return Err(Invalid::at("ecash.keys.renew-days", reason));
    }
    let sessions = &raw.sessions;
    let minutes = |field: &str, number: u16| {
        let most = Minutes::MOST.0;
        let right = (1..=most).contains(&number);
        let refused = || Invalid::at(format!("ecash.sessions.{field}"), format!("{number}: give 1 to {most} minutes"));
        right.then_some(Minutes(number)).ok_or_else(refused)
    };
    policy.payer_most = (
        minutes("payer-minutes", sessions.payer_minutes)?,
        above_zero("ecash.sessions.payer-uses", sessions.payer_uses)?,
    );
    policy.payee_most = (
        minutes("payee-minutes", sessions.payee_minutes)?,
        above_zero("ecash.sessions.payee-uses", sessions.payee_uses)?,
    );
    policy.load_hold = match (raw.loads.until_confirmed, raw.loads.hold_hours) {
        (true, _) => LoadHold::UntilConfirmed,
        (false, 0) => LoadHold::None,
        (false, number) => LoadHold::For(hours(number)),
    };
    policy.tariff = tariff(&raw.fees)?;
    policy.exchange = exchange(&raw.exchange)?;
    policy.software = raw
        .software
        .into_iter()
        .map(|(version, raw)| {
            let told = match raw.severity {
                RawSeverity::Warning => Software::Warning(raw.message),
                RawSeverity::Fatal => Software::Fatal(raw.message),
            };
            (version, told)
        })
        .collect();
    let (bank, movement) = institutions::one("ecash.bank", "ecash", raw.bank)?;
    let terms = terms(&raw.instruments, movement, &bank)?;
    let unload_settles = raw.loads.unload_settles_hours.map(hours);
    let (postgresql, warnings) = raw.postgresql.map(postgresql).transpose()?.unzip();
    let (keys, warnings) = ((days(keys.0), days(keys.1)), warnings.unwrap_or_default());
    Ok(EcashConfig { policy, suites, keys, unload_settles, terms, bank, postgresql, warnings })
}

/// Where the PostgreSQL server is, and what is risky about it.
fn postgresql(raw: RawPostgresql) -> Result<(Postgresql, Vec<String>), Invalid> {
    let field = |name: &str| format!("ecash.postgresql.{name}");
    if raw.connection.contains("password") {
        return Err(Invalid::at(field("connection"), "a password does not belong here: give password-file"));
    }
    let password = raw.password_file.map(|path| {
        let read = config::read_secret(&path).map(|password| password.expose().clone());
        read.map_err(|error| Invalid::at(field("password-file"), error))
    });
    let tls = raw.ca.map(|ca| tls::client(&ca, None).map_err(|error| Invalid::at(field("ca"), error)));
    let tls = tls.transpose()?.map(Tls::new);
    let found = Postgresql { connection: raw.connection, password: password.transpose()?, schema: raw.schema, tls };
    let far = found.check().map_err(|error| {
        let of_schema = matches!(error, SettingsError::Schema(_));
        Invalid::at(field(if of_schema { "schema" } else { "connection" }), error)
    })?;
    let warnings = far.into_iter().map(|host| {
        format!("warning: {host}: what goes to this PostgreSQL server is not encrypted: give ecash.postgresql.ca")
    });
    Ok((found, warnings.collect()))
}

fn suites(raw: &RawEcash, policy: &mut Policy) -> Result<Vec<Suite>, Invalid> {
    let mut suites = Vec::new();
    for (at, name) in raw.suites.iter().enumerate() {
        let field = format!("ecash.suites[{at}]");
        let found = Suite::ALL.iter().copied().find(|suite| suite.name() == name);
        let suite = found.ok_or_else(|| {
            let known: Vec<_> = Suite::ALL.iter().map(|suite| suite.name()).collect();
            let reason = match name.as_str() {
                "classic-1995" => {
                    "this program is built without it: build with --features classic-1995, for study".to_owned()
                }
                _ => format!("{name:?} is not a suite: give of {}", known.join(", ")),
            };
            Invalid::at(&field, reason)
        })?;
        if suites.contains(&suite) {
            return Err(Invalid::at(field, format!("{name} is there twice")));
        }
        suites.push(suite);
    }
    if suites.is_empty() {
        return Err(Invalid::at("ecash.suites", "no suite: give at least one"));
    }
    let classic = suites.iter().any(|suite| suite.is_classic());
    if classic {
        policy.suites = Suites::with_classic(raw.classic_real_money)
            .map_err(|_| Invalid::at("ecash.suites", "this program is built without classic-1995"))?;
    } else if raw.classic_real_money {
        return Err(Invalid::at("ecash.classic-real-money", "classic-1995 is not among ecash.suites: leave this out"));
    }
    Ok(suites)
}

/// The operator's public key, whose private half is off line.
fn operator_key(path: &Path) -> Result<hpke::PublicKey, Invalid> {
    let field = "ecash.operator-key-file";
    let text = std::fs::read_to_string(path).map_err(|e| Invalid::at(field, format!("{}: {e}", path.display())))?;
    let bytes = encode::unbase64(text.trim());
    let key = bytes.and_then(|bytes| hpke::PublicKey::from_bytes(hpke::Kem::X25519, &bytes).ok());
    key.ok_or_else(|| Invalid::at(field, "the file has to hold an X25519 public key in base64"))
}

fn tariff(raw: &RawFees) -> Result<Tariff, Invalid> {
    let rows = [
        ("load", Kind::LU1, &raw.load),
        ("open", Kind::OS1, &raw.open),
        ("close", Kind::CS1, &raw.close),
        ("collect", Kind::CA2, &raw.collect),
    ];
    let mut tariff = Tariff::default();
    for (name, kind, fees) in rows {
        for (at, fee) in fees.iter().enumerate() {
            tariff = tariff.with(kind, value(&format!("ecash.fees.{name}[{at}]"), fee, "\"eur 0.10\"")?);
        }
    }
    Ok(tariff)
}

fn exchange(raw: &[RawRate]) -> Result<Exchange, Invalid> {
    if raw.is_empty() {
        return Ok(Exchange::off());
    }
    let mut exchange = Exchange::on();
    for (at, rate) in raw.iter().enumerate() {
        let field = |name: &str| format!("ecash.exchange[{at}].{name}");
        let (from, to) = (currency(&field("from"), &rate.from)?, currency(&field("to"), &rate.to)?);
        if from == to {
            return Err(Invalid::at(field("to"), "the same currency: give another one"));
        }
        exchange.set(from, to, above_zero(&field("rate"), rate.rate)?);
    }
    Ok(exchange)
}

fn terms(raw: &RawInstruments, movement: Movement, bank: &Institution) -> Result<Terms, Invalid> {
    let functions = raw.functions.join(",");
    let functions: Functions = value("ecash.instruments.functions", &functions, "[\"load\", \"unload\"]")?;
    let trial = raw.trial.as_deref().map(|text| value::<Money>("ecash.instruments.trial", text, "\"eur 0.01\""));
    let trial = trial.transpose()?;
    if trial.is_some_and(|trial| super::issuer::at_the_bank(trial).is_none()) {
        return Err(Invalid::at("ecash.instruments.trial", "the bank cannot be asked for this amount"));
    }
    if raw.ask_pin && (bank.link.pin_key.is_none() || trial.is_none()) {
        let reason = "a PIN is proven by a trial: give ecash.instruments.trial, and ecash.bank.pin-key-file";
        return Err(Invalid::at("ecash.instruments.ask-pin", reason));
    }
    let native = raw.native.as_deref().map(|text| currency("ecash.instruments.native", text)).transpose()?;
    let limit = |field: &str, most: Option<i64>, hours: u32| match most {
        Some(most) if most < 1 => {
            Err(Invalid::at(format!("ecash.instruments.{field}"), "give at least 1 minor unit, or leave it out"))
        }
        most => Ok(Limit { most, hours }),
    };
    Ok(Terms {
        functions,
        native,
        load_limit: limit("load-limit", raw.load_limit, raw.load_hours)?,
        unload_limit: limit("unload-limit", raw.unload_limit, raw.unload_hours)?,
        trial,
        ask_pin: raw.ask_pin,
        movement,
    })
}

impl EcashConfig {
    /// The records' store: a file in `data`, or a schema of a PostgreSQL server.
    pub(crate) fn open(&self, data: &Path) -> Result<Store, StoreError> {
        match &self.postgresql {
            None => Store::open_large(&data.join(super::FILE)),
            Some(postgresql) => Store::open_postgresql(postgresql),
        }
    }

    /// What `check` says.
    pub(crate) fn summary(&self) -> Vec<String> {
        let suites: Vec<_> = self.suites.iter().map(|suite| suite.name()).collect();
        let mut lines = vec![format!("electronic cash is served: {}", suites.join(", "))];
        lines.extend(self.warnings.iter().cloned());
        lines.extend(self.policy.suites.warning().map(|warning| format!("warning: {warning}")));
        if self.policy.exchange.is_on() {
            lines.push("electronic cash: currencies are exchanged at the rates of [[ecash.exchange]]".to_owned());
        }
        if self.bank.link.codec.mac.is_none() {
            lines.push("warning: messages of ecash.bank are not authenticated: mac = \"x9.19\" does that".to_owned());
        }
        if self.terms.trial.is_none() {
            lines.push(
                "warning: cards are bound without asking the bank: ecash.instruments.trial = \"eur 0.01\" does that"
                    .to_owned(),
            );
        }
        if self.policy.operator_key.is_none() {
            lines
                .push("electronic cash: no instrument can be bound for autoclose without operator-key-file".to_owned());
        }
        lines
    }
}
