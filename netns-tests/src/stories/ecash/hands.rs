//! What the story does: wallets and shops on the command line, and their words read back.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::command;
use crate::lab::binaries;
use crate::stories::world::World;

/// The shops, and where they listen.
pub(super) const SHOPS: [&str; 3] = ["shop-a", "shop-b", "shop-c"];

#[derive(Clone, Copy)]
pub(super) struct Hands<'a> {
    pub(super) world: World<'a>,
}

/// An amount in major units.
pub(super) fn cents(minor: i64) -> String {
    format!("{}.{:02}", minor / 100, minor % 100)
}

/// The minor units of `eur 1.23`.
fn minor(text: &str) -> Result<i64> {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| text.to_owned())
}

fn address(shop: &str) -> &'static str {
    match shop {
        "shop-a" => "198.51.100.82",
        "shop-b" => "198.51.100.83",
        _ => "198.51.100.84",
    }
}

impl Hands<'_> {
    pub(super) fn folder(&self) -> PathBuf {
        self.world.lab.run_directory().to_owned()
    }

    /// `payer wallet` on `host` with the wallet `name`; its exit code and its words.
    pub(super) fn try_wallet_in(
        &self,
        host: &str,
        name: &str,
        words: &[&str],
        bound: u64,
    ) -> Result<(Option<i32>, String)> {
        let folder = format!("{{{{run}}}}/wallets/{name}");
        let common = ["payer", "wallet", "--wallet", &folder, "--passphrase-file", "{{secrets}}/passphrase", "--json"];
        let mut command = self.world.lab.command(host, &[&common[..], words].concat())?;
        let outcome = command::run(&mut command, Duration::from_secs(bound))?;
        Ok((outcome.code, format!("{}{}", outcome.stdout, outcome.stderr)))
    }

    /// The same, which has to end well.
    pub(super) fn wallet_in(&self, host: &str, name: &str, words: &[&str]) -> Result<String> {
        let (code, said) = self.try_wallet_in(host, name, words, 900)?;
        ensure!(code == Some(0), "payer wallet {} of {name} ended with {code:?}: {said}", words.join(" "));
        Ok(said)
    }

    pub(super) fn try_wallet(&self, who: &str, words: &[&str], bound: u64) -> Result<(Option<i32>, String)> {
        self.try_wallet_in(who, who, words, bound)
    }

    pub(super) fn wallet(&self, who: &str, words: &[&str]) -> Result<String> {
        self.wallet_in(who, who, words)
    }

    /// A field of the last JSON line.
    pub(super) fn last(&self, said: &str, field: &str) -> Result<String> {
        let line = said.lines().last().context("nothing was said")?;
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        value.get(field).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {field} in {line}"))
    }

    pub(super) fn card(&self, number: &str) -> Result<String> {
        let file = self.folder().join(format!("card-{number}"));
        fs::write(&file, format!("number={number}\nexpiry=12/30\n"))?;
        Ok(file.display().to_string())
    }

    pub(super) fn buy(&self, who: &str, shop: &str, item: &str, count: u32, session: Option<&str>) -> Result<String> {
        let (url, count) = (format!("https://{}/offers/{item}", address(shop)), count.to_string());
        let mut words = vec!["pay", "--offer-url", &url, "--count", &count, "--yes"];
        words.extend(session.iter().flat_map(|session| ["--session", session]));
        self.wallet(who, &words)
    }

    /// Gets an offer as a file.
    pub(super) fn fetch(&self, file: &str, host: &str, shop: &str, item: &str) -> Result<()> {
        let url = format!("https://{}/offers/{item}", address(shop));
        let (status, body) = self.world.curl(host, &["-X", "POST", &url])?;
        ensure!(status == 200 && body.contains("payment-request"), "{status} {body}");
        Ok(fs::write(file, body)?)
    }

    /// A second wallet with all that the first knows.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<()> {
        let wallets = self.folder().join("wallets");
        fs::create_dir_all(wallets.join(to))?;
        fs::copy(wallets.join(from).join("wallet.redb"), wallets.join(to).join("wallet.redb"))?;
        Ok(())
    }

    fn json(&self, host: &str, name: &str, words: &[&str]) -> Result<Value> {
        let said = self.wallet_in(host, name, words)?;
        serde_json::from_str(said.trim()).with_context(|| said.clone())
    }

    /// Cents that a payer was charged, by the receipts.
    pub(super) fn spent(&self, who: &str) -> Result<i64> {
        let history = self.json(who, who, &["history"])?;
        let rows = history.get("payments").and_then(Value::as_array).context("no payments")?;
        let charged = rows.iter().filter_map(|row| row.get("charged").and_then(Value::as_str));
        charged.map(minor).sum()
    }

    /// The payment of this session and index.
    pub(super) fn payment(&self, who: &str, session: &str, index: u64) -> Result<Value> {
        let history = self.json(who, who, &["history"])?;
        let mut rows = history.get("payments").and_then(Value::as_array).into_iter().flatten();
        let wanted = |row: &&Value| {
            row.get("session").and_then(Value::as_str) == Some(session)
                && row.get("index").and_then(Value::as_u64) == Some(index)
        };
        rows.find(wanted).cloned().context("no such payment")
    }

    pub(super) fn available_in(&self, host: &str, name: &str) -> Result<i64> {
        let shown = self.json(host, name, &["show"])?;
        let text = shown.pointer("/money/0/available").and_then(Value::as_str).context("no money")?;
        minor(text)
    }

    pub(super) fn available(&self, who: &str) -> Result<i64> {
        self.available_in(who, who)
    }

    /// The session that was opened last.
    pub(super) fn newest_session(&self, name: &str) -> Result<String> {
        let shown = self.json("alice", name, &["show"])?;
        let sessions = shown.get("sessions").and_then(Value::as_array).context("no sessions")?;
        let last = sessions.last().and_then(|row| row.get("session")).and_then(Value::as_str);
        last.map(str::to_owned).context("no session")
    }

    /// Cents that a shop collected, by its cash log.
    pub(super) fn collected(&self, shop: &str) -> Result<i64> {
        let socket = self.folder().join(shop).join("admin.sock");
        let mut command = Command::new(binaries()?.join("cents-shop"));
        command.args(["show", "cash", "--json", "--socket"]).arg(socket);
        let rows: Value = serde_json::from_str(&command::must(&mut command, Duration::from_secs(30))?)?;
        let credited = rows.as_array().into_iter().flatten().filter_map(|row| row.get("credited"));
        credited.filter_map(Value::as_str).map(minor).sum()
    }

    /// What the transaction server shows.
    pub(super) fn server(&self, topic: &str) -> Result<Value> {
        self.world.show("transaction-server", topic)
    }

    /// The audit on the command line, which asks the server or reads its store.
    pub(super) fn audit(&self) -> Result<Value> {
        let config = "{{run}}/transaction-server/transaction-server.toml";
        let words = ["transaction-server", "ecash", "audit", "--config", config, "--json"];
        let said = self.world.lab.must("cloaked", &words)?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// The operator's word that the money of this hold is where it should be.
    pub(super) fn arrived(&self, hold: u64) -> Result<String> {
        let config = "{{run}}/transaction-server/transaction-server.toml";
        let words = ["transaction-server", "ecash", "hold", &hold.to_string(), "done", "--config", config, "--json"];
        self.world.lab.must("cloaked", &words)
    }

    /// Cents that belong to clients, by the audit.
    pub(super) fn clients(&self, audit: &Value) -> Result<i64> {
        audit.pointer("/currencies/0/clients_minor").and_then(Value::as_i64).ok_or_else(|| anyhow!("{audit}"))
    }

    /// Cents that the bank's books hold for e-cash: loads, less what was taken back and what went home.
    pub(super) fn held_by_bank(&self) -> Result<i64> {
        let books = self.world.books()?;
        let reversed = |line: &crate::stories::world::Booked| {
            books
                .iter()
                .any(|other| other.event == "reversed" && (&other.stan, &other.time) == (&line.stan, &line.time))
        };
        let standing = books.iter().filter(|line| !reversed(line));
        standing
            .map(|line| {
                let minor = i64::try_from(line.amount)?;
                Ok(match line.event.as_str() {
                    "authorised" => minor,
                    "refunded" => -minor,
                    _ => 0,
                })
            })
            .sum()
    }
}
