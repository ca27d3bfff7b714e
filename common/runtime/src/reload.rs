//! Reading the configuration again while the role runs: on SIGHUP, and by the subcommand `reload`.
//!
//! The role answers the admin topic [`TOPIC`], and gives [`on_hangup`] the same work. What is new is held to the same
//! rules as at the start, whole, before anything changes.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::stop::Stop;

/// What the admin socket is asked by the subcommand `reload`.
pub const TOPIC: &str = "reload";

/// Does `reload` on each SIGHUP until the stop, and logs what came of it.
///
/// # Errors
/// When the handler cannot be installed.
pub fn on_hangup<F, W>(stop: Stop, reload: F) -> std::io::Result<()>
where
    F: Fn() -> W + Send + 'static,
    W: Future<Output = Result<Value, String>> + Send + 'static,
{
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.told() => return,
                Some(()) = hangup.recv() => {}
            }
            match reload().await {
                Ok(changes) => tracing::info!(%changes, "the configuration was read again"),
                Err(error) => tracing::error!(%error, "the configuration is refused: nothing has changed"),
            }
        }
    });
    Ok(())
}

/// What differs between two files, by path: `peers`, or `speaker.listen` for what stands in a table of its own. A text
/// that is no TOML differs in nothing.
#[must_use]
pub fn differences(before: &str, after: &str) -> BTreeSet<String> {
    let (Ok(before), Ok(after)) = (before.parse::<toml::Table>(), after.parse::<toml::Table>()) else {
        return BTreeSet::new();
    };
    let empty = toml::Table::new();
    let mut paths = BTreeSet::new();
    for name in before.keys().chain(after.keys()) {
        let inner = |table: Option<&toml::Value>| table.map_or(Some(&empty), toml::Value::as_table).cloned();
        let (old, new) = (before.get(name), after.get(name));
        match (inner(old), inner(new)) {
            _ if old == new => {}
            (Some(old), Some(new)) => {
                let keys = old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key));
                paths.extend(keys.map(|key| format!("{name}.{key}")));
            }
            _ => drop(paths.insert(name.clone())),
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_path() {
        let before = "a = 1\nlist = [1]\n[speaker]\nlisten = \"x\"\nas = 1\n[[peers]]\nname = \"a\"\n[gone]\nk = 1\n";
        let after = "a = 1\nlist = [2]\n[speaker]\nlisten = \"y\"\nas = 1\n[[peers]]\nname = \"b\"\n[new]\nk = 1\n";
        let differences: Vec<String> = differences(before, after).into_iter().collect();
        assert_eq!(differences, ["gone.k", "list", "new.k", "peers", "speaker.listen"]);
        assert!(super::differences(before, before).is_empty());
        assert!(super::differences(before, &before.replace("a = 1\n", "# word\na = 1\n")).is_empty());
    }
}
