//! The picture of a laboratory: its cables as a table, or drawn by the topology's own `picture.txt`, with what was
//! counted on them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

use crate::lab::{Counters, Lab};

/// Draws `picture.txt` beside the topology, if there is one, and a table. A drawing has `[LINK   ]` where the packets
/// counted on a link go, as wide as the brackets; `●` marks a link on `path`.
///
/// # Errors
/// When a counter cannot be read.
pub fn draw(lab: &Lab, path: &[String]) -> Result<String> {
    let mut counted = BTreeMap::new();
    for link in &lab.topology().links {
        counted.insert(link.name.clone(), lab.counters(link)?);
    }
    let mut text = match fs::read_to_string(lab.topology().folder.join("picture.txt")) {
        Ok(drawing) => fill(&drawing, &counted, path),
        Err(_) => String::new(),
    };
    text.push_str(&table(lab, &counted, path));
    Ok(text)
}

fn fill(drawing: &str, counted: &BTreeMap<String, Counters>, path: &[String]) -> String {
    let mut out = drawing.to_owned();
    for (name, counters) in counted {
        while let Some((before, rest)) = out.split_once(&format!("[{name}")) {
            let Some((padding, after)) = rest.split_once(']') else { break };
            let width = name.chars().count() + 2 + padding.chars().count();
            let mark = if path.contains(name) { "● " } else { "" };
            let text = format!("{mark}{}▸ ◂{}", counters.sent, counters.received);
            out = format!("{before}{text:^width$}{after}");
        }
    }
    out
}

fn table(lab: &Lab, counted: &BTreeMap<String, Counters>, path: &[String]) -> String {
    let mut lines = vec![format!(
        "    {:<11} {:<38} {:>18} {:>18}",
        "link", "from a to b", "a▸b packets/bytes", "b▸a packets/bytes"
    )];
    for link in &lab.topology().links {
        let counters = counted.get(&link.name).copied().unwrap_or_default();
        let ends = format!("{}:{} — {}:{}", link.a.namespace, link.a.interface, link.b.namespace, link.b.interface);
        let mark = if path.contains(&link.name) { '●' } else { ' ' };
        let pair = |packets: u64, bytes: u64| format!("{packets}/{bytes}");
        lines.push(format!(
            "  {mark} {:<11} {ends:<38} {:>18} {:>18}",
            link.name,
            pair(counters.sent, counters.sent_bytes),
            pair(counters.received, counters.received_bytes)
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_marks_take_the_place_of_the_brackets() {
        let counters = Counters { sent: 12, sent_bytes: 0, received: 7, received_bytes: 0 };
        let counted = BTreeMap::from([("core".to_owned(), counters), ("uplink".to_owned(), counters)]);
        let drawn = fill("a [core          ] b\na [uplink   ] c", &counted, &["core".to_owned()]);
        assert_eq!(drawn, "a     ● 12▸ ◂7     b\na   12▸ ◂7    c");
    }
}
