//! `show sources`: what was used, by whom, and what is left.

use std::cmp::Reverse;

use forwarder_core::meter::{Metering, Use};
use serde::Serialize;

use crate::show::Shared;

/// Sources that are told of; every private prefix is.
const MOST: usize = 50;

#[derive(Serialize)]
pub(crate) struct Row {
    who: String,
    kind: &'static str,
    packets: Option<u64>,
    bytes: Option<u64>,
    refused: Option<u64>,
    packets_now: Option<u64>,
    bytes_now: Option<u64>,
    quota_packets_left: Option<u64>,
    quota_bytes_left: Option<u64>,
}

/// Private prefixes, then the sources that used most.
pub(crate) async fn rows(shared: &Shared) -> Result<Vec<Row>, String> {
    let policy = shared.policy();
    let uses = match policy.metering() {
        Metering::None => Vec::new(),
        Metering::Kernel => shared.kernel.uses(&policy).await.map_err(|error| error.to_string())?,
        Metering::Mark => shared.data_plane.uses().await?,
        Metering::User => shared.data_plane.user_uses().await,
    };
    Ok(top(uses))
}

fn top(mut uses: Vec<Use>) -> Vec<Row> {
    uses.sort_by_key(|found| (!found.is_private, Reverse(found.bytes), Reverse(found.packets), found.who));
    let private = uses.iter().filter(|found| found.is_private).count();
    uses.truncate(private + MOST);
    let row = |found: Use| Row {
        who: found.who.to_string(),
        kind: if found.is_private { "private prefix" } else { "source" },
        packets: found.packets,
        bytes: found.bytes,
        refused: found.refused,
        packets_now: found.left.packets_now,
        bytes_now: found.left.bytes_now,
        quota_packets_left: found.left.quota_packets,
        quota_bytes_left: found.left.quota_bytes,
    };
    uses.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use forwarder_core::meter::Left;

    use super::*;

    #[test]
    fn private_prefixes_come_first_and_then_who_used_most() {
        let used = |who: String, is_private, bytes| Use {
            who: who.parse().unwrap(),
            is_private,
            packets: None,
            bytes,
            refused: None,
            left: Left::default(),
        };
        let mut uses: Vec<_> = (0..100).map(|n| used(format!("10.0.0.{n}/32"), false, Some(n))).collect();
        uses.push(used("203.0.113.200/32".into(), true, None));
        let rows = top(uses);
        let names: Vec<_> = rows.iter().map(|row| row.who.as_str()).take(3).collect();
        assert_eq!(names, ["203.0.113.200/32", "10.0.0.99/32", "10.0.0.98/32"]);
        assert_eq!(rows.len(), 51);
    }
}
