//! The guard's table, by way of the `nft` command.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use forwarder_core::ruleset::{FAMILY, TABLE};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::DataplaneError;

const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Its text without the counters' values and with single spaces.
    pub(crate) text: String,
    /// The counters' values.
    pub(crate) counters: Counters,
}

/// The table, or `None` when there is none.
pub(crate) async fn list() -> Result<Option<Listing>, DataplaneError> {
    match run(&["list", "table", FAMILY, TABLE], None).await {
        Ok(text) => Ok(Some(parse(&text))),
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

fn is_absent(why: &str) -> bool {
    why.contains("No such file or directory")
}

/// Takes the counters' values out of a listing: `counter NAME { packets N bytes M }`.
fn parse(text: &str) -> Listing {
    let mut rest = Vec::new();
    let mut counters = Counters::new();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut words = words.as_slice();
    while let [first, tail @ ..] = words {
        words = match words {
            ["counter", name, "{", "packets", packets, "bytes", bytes, "}", tail @ ..] => {
                let number = |text: &str| text.parse().unwrap_or(0);
                counters.insert((*name).to_owned(), Counter { packets: number(packets), bytes: number(bytes) });
                rest.extend(["counter", name, "{", "}"]);
                tail
            }
            _ => {
                rest.push(*first);
                tail
            }
        };
    }
    Listing { text: rest.join(" "), counters }
}

async fn run(arguments: &[&str], input: Option<&str>) -> Result<String, DataplaneError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_out_of_a_listing_and_everything_else_stays() {
        let listing = parse(
            "table inet cloakway {\n\tcounter hairpin {\n\t\tpackets 7 bytes 420\n\t}\n\n\tchain forward {\n\
             \t\tip daddr @private4 counter name \"hairpin\" drop\n\t}\n}\n",
        );
        assert_eq!(listing.counters["hairpin"], Counter { packets: 7, bytes: 420 });
        assert_eq!(
            listing.text,
            "table inet cloakway { counter hairpin { } chain forward { \
             ip daddr @private4 counter name \"hairpin\" drop } }"
        );
        assert_eq!(parse("").text, "");
        assert_eq!(parse("counter x {").text, "counter x {");
    }
}
