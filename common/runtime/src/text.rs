//! JSON for people: lists of objects as a table, objects as lines.

use std::fmt::Write;

use serde_json::Value;

/// A value as a person reads it.
#[must_use]
pub fn render(value: &Value) -> String {
    match value {
        Value::Array(rows) if rows.is_empty() => "none\n".to_owned(),
        Value::Array(rows) if rows.iter().all(Value::is_object) => table(rows),
        Value::Array(rows) => rows.iter().map(|row| cell(row) + "\n").collect(),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().fold(String::new(), |mut text, (name, value)| {
                match value {
                    Value::Array(rows) if rows.iter().any(Value::is_object) => {
                        let _ = write!(text, "{name}:\n{}", render(value));
                    }
                    Value::Object(inner) if !inner.is_empty() => {
                        let _ = writeln!(text, "{name}:");
                        for line in render(value).lines() {
                            let _ = writeln!(text, "  {line}");
                        }
                    }
                    _ => {
                        let _ = writeln!(text, "{name:width$}  {}", cell(value));
                    }
                }
                text
            })
        }
        other => cell(other) + "\n",
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// Columns that say which row it is and how it stands come first.
const FIRST: [&str; 13] = [
    "peer",
    "router",
    "cache",
    "name",
    "set",
    "prefix",
    "rule",
    "then",
    "state",
    "connected",
    "healthy",
    "announced",
    "source",
];
/// Long ones come last.
const LAST: [&str; 2] = ["reason", "last_down"];

fn rank(column: &str) -> usize {
    let place = |list: &[&str]| list.iter().position(|name| *name == column);
    place(&FIRST).or(place(&LAST).map(|at| FIRST.len() + 1 + at)).unwrap_or(FIRST.len())
}

/// What says nothing in any row is left out.
fn says_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn table(rows: &[Value]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if !columns.contains(&name.as_str()) && !rows.iter().all(|row| says_nothing(row.get(name))) {
            columns.push(name);
        }
    }
    columns.sort_by_key(|name| rank(name));
    let head: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|name| row.get(name).map(cell).unwrap_or_default()).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    lines.iter().fold(String::new(), |mut text, line| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_become_tables_and_objects_lines() {
        let list = json!([{"peer": "192.0.2.1", "state": "Established"}, {"peer": "192.0.2.22", "state": null}]);
        assert_eq!(render(&list), "PEER        STATE\n192.0.2.1   Established\n192.0.2.22  -\n");
        assert_eq!(render(&json!({"a": 1, "long": [1, 2]})), "a     1\nlong  1,2\n");
        assert_eq!(render(&json!([])), "none\n");
    }

    #[test]
    fn a_table_begins_with_what_tells_rows_apart_and_leaves_out_what_says_nothing() {
        let list = json!([
            {"address": "192.0.2.1", "group": null, "held": [], "peer": "edge", "reason": "", "state": "Idle"},
            {"address": "192.0.2.2", "group": null, "held": [], "peer": "far", "reason": "down", "state": "Idle"},
        ]);
        let table = render(&list);
        assert_eq!(table, "PEER  STATE  ADDRESS    REASON\nedge  Idle   192.0.2.1\nfar   Idle   192.0.2.2  down\n");
    }
}
