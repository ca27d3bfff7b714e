//! What a `bgp-speaker` shows, read as JSON.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;

/// The answer of `bgp-speaker show WORDS --json`, row by row.
pub(super) fn rows(lab: &Lab, host: &str, socket: &str, words: &[&str]) -> Result<Vec<Value>> {
    let command = [&["bgp-speaker", "show"], words, &["--socket", socket, "--json"]].concat();
    let said = lab.must(host, &command)?;
    let values = serde_json::Deserializer::from_str(&said).into_iter::<Value>().collect::<Result<Vec<_>, _>>();
    Ok(match values.with_context(|| said.clone())?.as_slice() {
        [Value::Array(rows)] => rows.clone(),
        rows => rows.to_vec(),
    })
}

/// The row whose `key` is `name`.
pub(super) fn row(rows: &[Value], key: &str, name: &str) -> Result<Value> {
    let row = rows.iter().find(|row| row.get(key).and_then(Value::as_str) == Some(name));
    row.cloned().with_context(|| format!("no {name} in {rows:?}"))
}
