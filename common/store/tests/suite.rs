//! What every engine behind the store must do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use cloakway_store::{Batch, Store};
use proptest::prelude::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_batch_is_there_whole_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    runtime().block_on(async {
        let store = Store::open(&path).unwrap();
        let mut batch = Batch::new();
        batch.put("orders", b"1", b"a").put("outbox", b"1", b"b").put("orders", b"2", b"c").delete("orders", b"2");
        store.commit(batch).await.unwrap();
    });
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get("orders", b"1").unwrap().as_deref(), Some(b"a".as_slice()));
    assert_eq!(store.get("orders", b"2").unwrap(), None);
    assert_eq!(store.scan("outbox").unwrap(), [(b"1".to_vec(), b"b".to_vec())]);
    assert_eq!(store.scan("never written").unwrap(), []);
}

#[test]
fn a_range_has_its_first_key_and_not_its_last_and_no_more_than_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    let mut batch = Batch::new();
    for n in 0..10_u8 {
        batch.put("t", [n], [n]);
    }
    runtime().block_on(store.commit(batch)).unwrap();
    let keys = |from: &[u8], to: &[u8], limit| -> Vec<u8> {
        store.range("t", from, to, limit).unwrap().into_iter().map(|(key, _)| key[0]).collect()
    };
    assert_eq!(keys(&[3], &[6], 9), [3, 4, 5]);
    assert_eq!(keys(&[3], &[6], 2), [3, 4]);
    assert_eq!(keys(&[3, 0], &[6], 9), [4, 5]);
    assert_eq!(keys(&[], &[2], 9), [0, 1]);
    assert_eq!(keys(&[6], &[3], 9), [0; 0]);
    assert_eq!(store.range("never written", &[], &[9], 9).unwrap(), []);
}

#[test]
fn a_second_opener_and_a_damaged_file_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let _held = Store::open(&path).unwrap();
    assert!(Store::open(&path).unwrap_err().to_string().contains("state"));
    let damaged = folder.path().join("damaged");
    std::fs::write(&damaged, b"this is no store at all").unwrap();
    assert!(Store::open(&damaged).is_err());
}

#[test]
fn concurrent_commits_are_all_applied() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    runtime().block_on(async {
        let commits: Vec<_> = (0..500_u32)
            .map(|n| {
                let mut batch = Batch::new();
                batch.put("t", n.to_be_bytes(), b"x");
                store.commit(batch)
            })
            .collect();
        for commit in commits {
            commit.await.unwrap();
        }
    });
    assert_eq!(store.scan("t").unwrap().len(), 500);
}

/// The child commits numbers one by one and prints each after its commit; the parent kills it and counts.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Ok(path) = std::env::var("STORE_CHILD") {
        let open = if std::env::var("STORE_LARGE").is_ok() { Store::open_large } else { Store::open };
        let store = open(path.as_ref()).unwrap();
        let mut out = std::io::stdout();
        runtime().block_on(async {
            for n in 0..u32::MAX {
                let mut batch = Batch::new();
                batch.put("t", n.to_be_bytes(), b"x");
                store.commit(batch).await.unwrap();
                writeln!(out, "committed {n}").unwrap();
                out.flush().unwrap();
            }
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    for round in 1..=4_u32 {
        // The two ways of opening it read each other's files.
        let large = (round > 2).then_some(("STORE_LARGE", "yes"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture"])
            .env("STORE_CHILD", &path)
            .envs(large)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = 0;
        while last < 20 * round {
            let line = lines.next().unwrap().unwrap();
            if let Some(n) = line.split("committed ").nth(1) {
                last = n.trim().parse().unwrap();
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.split("committed ").nth(1) {
                last = n.trim().parse().unwrap();
            }
        }
        child.wait().unwrap();
        let store = if round % 2 == 0 { Store::open_large(&path) } else { Store::open(&path) }.unwrap();
        for n in 0..=last {
            assert!(store.get("t", &n.to_be_bytes()).unwrap().is_some(), "{n} of {last} was acknowledged");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_store_agrees_with_a_map(
        batches in proptest::collection::vec(
            proptest::collection::vec((0_u8..3, any::<u8>(), proptest::option::of(any::<u16>())), 0..6), 0..12)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let mut model: BTreeMap<(u8, u8), u16> = BTreeMap::new();
        runtime().block_on(async {
            for changes in &batches {
                let mut batch = Batch::new();
                for (table, key, value) in changes {
                    match value {
                        Some(value) => { batch.put(&table.to_string(), [*key], value.to_be_bytes()); model.insert((*table, *key), *value); }
                        None => { batch.delete(&table.to_string(), [*key]); model.remove(&(*table, *key)); }
                    }
                }
                store.commit(batch).await.unwrap();
            }
        });
        for table in 0..3_u8 {
            let expected: Vec<_> = model.iter().filter(|((t, _), _)| *t == table)
                .map(|((_, key), value)| (vec![*key], value.to_be_bytes().to_vec())).collect();
            prop_assert_eq!(store.scan(&table.to_string()).unwrap(), expected);
        }
    }
}
