//! The guard's table, by way of the `nft` command.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use forwarder_core::ruleset::{FAMILY, TABLE, Table};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use crate::DataplaneError;

/// A large policy takes a second, and many of them on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// To make a small table takes a moment.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);

/// What one counter of the guard counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP, headers included.
    pub bytes: u64,
}

/// The guard's counters by name.
pub type Counters = BTreeMap<String, Counter>;

/// The table as it is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Its text.
    pub(crate) text: String,
    /// The same without what was counted, taken apart.
    pub(crate) table: Option<Table>,
    /// The counters' values.
    pub(crate) counters: Counters,
}

/// The guard's table, or `None` when there is none.
pub(crate) async fn list() -> Result<Option<Listing>, DataplaneError> {
    list_with(&["list", "table", FAMILY, TABLE]).await
}

/// What a command lists of one table, or `None` when that is not there.
pub(crate) async fn list_with(command: &[&str]) -> Result<Option<Listing>, DataplaneError> {
    match run(command, None).await {
        Ok(text) => crate::guard::aside(move || parse(&text)).await.map(Some),
        Err(DataplaneError::Nft(why)) if is_absent(&why) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Loads `text` in one transaction.
pub(crate) async fn load(text: &str) -> Result<(), DataplaneError> {
    run(&["-f", "-"], Some(text)).await.map(drop)
}

/// Removes the table, whether or not there is one.
pub(crate) async fn remove() -> Result<(), DataplaneError> {
    load(&format!("table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n")).await
}

/// Whether there is a table of this name.
pub(crate) async fn is_there(table: &str) -> Result<bool, DataplaneError> {
    match run(&["-t", "list", "table", FAMILY, table], None).await {
        Ok(_) => Ok(true),
        Err(DataplaneError::Nft(why)) if is_absent(&why) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_absent(why: &str) -> bool {
    why.contains("No such file or directory")
}

fn parse(text: &str) -> Listing {
    let mut counters = Counters::new();
    let words: Vec<&str> = text.split_whitespace().collect();
    for words in words.windows(8) {
        if let ["counter", name, "{", "packets", packets, "bytes", bytes, "}"] = words {
            let number = |text: &str| text.parse().unwrap_or(0);
            counters.insert((*name).to_owned(), Counter { packets: number(packets), bytes: number(bytes) });
        }
    }
    Listing { table: Table::parse(text), text: text.to_owned(), counters }
}

/// What `nft` prints.
pub(crate) async fn run(arguments: &[&str], input: Option<&str>) -> Result<String, DataplaneError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(DataplaneError::NftMissing)?;
    let talk = async {
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| DataplaneError::NftSilent(PATIENCE))?
        .map_err(DataplaneError::NftMissing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(DataplaneError::Nft(why.lines().next().unwrap_or("refused without a word").to_owned()))
}

/// A process that owns the table `name`, made by `command`.
pub(crate) async fn own(name: &str, command: &str) -> Result<(Child, ChildStdin), DataplaneError> {
    let mut child = Command::new("nft")
        .arg("-i")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(DataplaneError::NftMissing)?;
    let silent = || DataplaneError::Nft("it does not take commands".into());
    let mut input = child.stdin.take().ok_or_else(silent)?;
    input.write_all(format!("{command}\n").as_bytes()).await?;
    input.flush().await?;
    let deadline = tokio::time::Instant::now() + OWNER_PATIENCE;
    while !is_there(name).await? {
        if tokio::time::Instant::now() < deadline && child.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        drop(input);
        let mut words = String::new();
        if let Some(mut errors) = child.stderr.take() {
            let _ = tokio::time::timeout(OWNER_PATIENCE, errors.read_to_string(&mut words)).await;
        }
        let why = words.lines().next().unwrap_or("a table that logs is refused without a word");
        return Err(DataplaneError::Nft(why.to_owned()));
    }
    Ok((child, input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_out_of_a_listing_and_everything_else_stays() {
        let text = "table inet cloakway {\n\tcounter hairpin {\n\t\tpackets 7 bytes 420\n\t}\n\n\tchain forward {\n\
                    \t\tip daddr @private4 counter name \"hairpin\" drop\n\t}\n}\n";
        let listing = parse(text);
        assert_eq!(listing.counters["hairpin"], Counter { packets: 7, bytes: 420 });
        assert!(listing.table.is_some());
        assert_eq!(listing.table, parse(&text.replace("7 bytes 420", "8 bytes 480")).table);
        assert_ne!(listing.table, parse(&text.replace("drop", "accept")).table);
        assert_eq!(parse("counter x {").table, None);
    }
}
