//! What a journal promises.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use cloakway_store::{Journal, Place};
use proptest::prelude::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Opens it in turn and then by parts, which are handed the same.
fn open(folder: &Path) -> (Journal, Vec<Vec<u8>>) {
    let mut in_turn = Vec::new();
    drop(patiently(|| {
        in_turn.clear();
        Journal::open(folder, |record| {
            in_turn.push(record.to_vec());
            Ok(())
        })
    }));
    let mut parts = vec![Vec::new(); 3];
    let journal = patiently(|| {
        parts.iter_mut().for_each(Vec::clear);
        Journal::open_by_parts(folder, &mut parts, |part: &mut Vec<(u64, Vec<u8>)>, first, records| {
            part.extend((first..).zip(records.iter().map(|record| record.to_vec())));
            Ok(())
        })
    });
    assert!(parts.iter().all(|part| part.is_sorted()), "each part in order");
    let mut all = parts.concat();
    all.sort_unstable();
    let (numbers, records): (Vec<u64>, Vec<Vec<u8>>) = all.into_iter().unzip();
    assert_eq!(numbers, (0..in_turn.len() as u64).collect::<Vec<u64>>());
    assert_eq!(records, in_turn);
    (journal, records)
}

fn patiently(mut open: impl FnMut() -> Result<Journal, cloakway_store::StoreError>) -> Journal {
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match open() {
            // A process that another test is about to start has the lock of this one until it runs.
            Err(error) if error.to_string().contains("another process") && std::time::Instant::now() < patience => {
                std::thread::yield_now();
            }
            journal => return journal.unwrap(),
        }
    }
}

fn number(n: u32) -> Vec<u8> {
    n.to_be_bytes().to_vec()
}

#[test]
fn records_come_back_in_order_after_reopening_also_behind_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    runtime().block_on(async {
        let (journal, records) = open(&path);
        assert!(records.is_empty());
        assert!(Journal::open(&path, |_| Ok(())).unwrap_err().to_string().contains("another process"));
        let appended: Vec<_> = (0..100).map(|n| journal.append(vec![number(n), number(n + 1000)])).collect();
        for done in appended {
            done.await.unwrap();
        }
        let before = journal.logged();
        let mut snapshot = journal.rotate().await.unwrap();
        journal.append(vec![b"behind".to_vec()]).await.unwrap();
        snapshot.push(b"all of it").unwrap();
        snapshot.finish().await.unwrap();
        assert!(journal.logged() < before);
        journal.append(vec![b"last".to_vec()]).await.unwrap();
    });
    let (_, records) = open(&path);
    assert_eq!(records, [b"all of it".to_vec(), b"behind".to_vec(), b"last".to_vec()]);
    let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, ["lock", "log-1", "snapshot-1"]);
}

#[test]
fn a_snapshot_that_was_not_finished_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (journal, _) = open(folder.path());
        journal.append(vec![b"one".to_vec()]).await.unwrap();
        let mut snapshot = journal.rotate().await.unwrap();
        snapshot.push(b"half").unwrap();
        journal.append(vec![b"two".to_vec()]).await.unwrap();
    });
    let (_, records) = open(folder.path());
    assert_eq!(records, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_torn_end_is_cut_off_and_damage_before_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log-0");
    let mut ends = Vec::new();
    runtime().block_on(async {
        let (journal, _) = open(folder.path());
        for n in 0..5 {
            ends.push(journal.logged() as usize);
            journal.append(vec![number(n)]).await.unwrap();
        }
    });
    let whole = std::fs::read(&log).unwrap();
    assert_eq!(ends[1] - ends[0], 4 + 8 + 4 + 4 + 4);
    // A new log begins with its line, which the count leaves out: ends are taken from the end.
    let frame = ends[1] - ends[0];
    let start = |n: usize| whole.len() - (5 - n) * frame;
    for cut in 0..whole.len() {
        std::fs::write(&log, &whole[..cut]).unwrap();
        let (journal, records) = open(folder.path());
        let expected = (0..5).take_while(|n| start(*n) + frame <= cut).count();
        assert_eq!(records.len(), expected, "cut at {cut}");
        runtime().block_on(journal.append(vec![b"more".to_vec()])).unwrap();
        drop(journal);
        assert_eq!(open(folder.path()).1.len(), expected + 1, "and it goes on");
    }
    for at in start(0)..start(5) {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        std::fs::write(&log, &changed).unwrap();
        if at < start(4) {
            let error = Journal::open(folder.path(), |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains("log-0") && error.contains("damaged at octet"), "{at}: {error}");
        } else {
            // The last group may not have been whole when the power went: nobody was told that it was.
            assert_eq!(open(folder.path()).1.len(), 4, "{at}");
        }
    }
    std::fs::write(&log, b"something else altogether").unwrap();
    assert!(Journal::open(folder.path(), |_| Ok(())).unwrap_err().to_string().contains("not a journal"));
}

#[test]
fn a_damaged_snapshot_and_a_missing_log_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (journal, _) = open(folder.path());
        let mut snapshot = journal.rotate().await.unwrap();
        snapshot.push(b"row").unwrap();
        snapshot.finish().await.unwrap();
        drop(journal.rotate().await.unwrap());
    });
    let snapshot = folder.path().join("snapshot-1");
    let whole = std::fs::read(&snapshot).unwrap();
    for (index, wrong) in [&whole[..whole.len() - 1], &whole[..whole.len() - 16], &whole[..19]].into_iter().enumerate()
    {
        std::fs::write(&snapshot, wrong).unwrap();
        let error = Journal::open(folder.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("snapshot is damaged"), "{index}: {error}");
    }
    std::fs::write(&snapshot, &whole).unwrap();
    assert_eq!(open(folder.path()).1, [b"row".to_vec()]);
    std::fs::remove_file(folder.path().join("log-1")).unwrap();
    let error = Journal::open(folder.path(), |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("a log is missing"), "{error}");
}

#[test]
fn a_record_that_is_refused_keeps_the_journal_shut() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(open(folder.path()).0.append(vec![b"odd".to_vec()])).unwrap();
    let refused = Journal::open(folder.path(), |_| Err("not of this version".to_owned()));
    assert!(refused.unwrap_err().to_string().contains("not of this version"));
}

#[test]
fn one_part_that_refuses_a_record_keeps_the_journal_shut_however_much_there_is_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (journal, _) = open(folder.path());
        for n in 0..200 {
            journal.append(vec![number(n)]).await.unwrap();
        }
    });
    for count in 1..4 {
        let refused = Journal::open_by_parts(folder.path(), &mut vec![(); count], |(), first, _| match first {
            100 => Err("not of this version".to_owned()),
            _ => Ok(()),
        });
        assert!(refused.unwrap_err().to_string().contains("not of this version"), "{count} parts");
    }
}

/// The child appends numbers and prints each after it is durable, and writes snapshots all the while; the parent kills it.
#[test]
fn what_was_acknowledged_survives_kill_9_whatever_the_snapshot_was_doing() {
    if let Ok(path) = std::env::var("JOURNAL_CHILD") {
        let (journal, records) = open(path.as_ref());
        let mut state: BTreeMap<Vec<u8>, ()> = records.into_iter().map(|record| (record, ())).collect();
        let mut out = std::io::stdout();
        runtime().block_on(async {
            let first = state.len() as u32;
            let mut snapshot = None;
            for n in first..u32::MAX {
                state.insert(number(n), ());
                journal.append(vec![number(n)]).await.unwrap();
                writeln!(out, "durable {n}").unwrap();
                out.flush().unwrap();
                match snapshot.take() {
                    None => snapshot = Some((journal.rotate().await.unwrap(), 0)),
                    Some((mut writing, at)) if at < state.len() => {
                        let some = state.keys().skip(at).take(40);
                        some.for_each(|record| writing.push(record).unwrap());
                        snapshot = Some((writing, at + 40));
                    }
                    Some((whole, _)) => whole.finish().await.unwrap(),
                }
            }
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 1..=6_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_survives_kill_9_whatever_the_snapshot_was_doing", "--nocapture"])
            .env("JOURNAL_CHILD", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let goal = last + 10 + 7 * round;
        let told = |line: &str| line.split("durable ").nth(1).and_then(|n| n.trim().parse::<u32>().ok());
        while last < goal {
            last = told(&lines.next().unwrap().unwrap()).unwrap_or(last);
        }
        child.kill().unwrap();
        lines.map_while(Result::ok).for_each(|line| last = told(&line).unwrap_or(last));
        child.wait().unwrap();
        let (_, records) = open(folder.path());
        let known: BTreeMap<Vec<u8>, ()> = records.into_iter().map(|record| (record, ())).collect();
        for n in 0..=last {
            assert!(known.contains_key(&number(n)), "{n} of {last} was acknowledged");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_journal_of_settings_agrees_with_a_map(
        steps in proptest::collection::vec((0_u8..8, any::<u8>(), 0_u8..6), 0..60)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut model: BTreeMap<u8, u8> = BTreeMap::new();
        let replayed = |folder: &Path| {
            let (journal, records) = open(folder);
            let map: BTreeMap<u8, u8> = records.into_iter().map(|record| (record[0], record[1])).collect();
            (journal, map)
        };
        runtime().block_on(async {
            let mut journal = open(folder.path()).0;
            let mut snapshot: Option<(cloakway_store::Snapshot, u8)> = None;
            for (key, value, step) in steps {
                journal.append(vec![vec![key, value]]).await.unwrap();
                model.insert(key, value);
                match (step, snapshot.take()) {
                    (0, None) => snapshot = Some((journal.rotate().await.unwrap(), 0)),
                    // A key at a time, while others change.
                    (1.., Some((mut writing, at))) if at < 8 => {
                        if let Some(value) = model.get(&at) {
                            writing.push(&[at, *value]).unwrap();
                        }
                        snapshot = Some((writing, at + 1));
                    }
                    (1.., Some((whole, _))) => whole.finish().await.unwrap(),
                    (0, Some(given_up)) => {
                        drop((given_up, journal));
                        let (again, map) = replayed(folder.path());
                        prop_assert_eq!(&map, &model);
                        journal = again;
                    }
                    (1.., None) => {}
                }
            }
            drop((snapshot, journal));
            prop_assert_eq!(replayed(folder.path()).1, model);
            Ok(())
        })?;
    }
}

fn all(reader: &mut cloakway_store::Reader, end: Place) -> Option<Vec<(Place, Vec<u8>)>> {
    let mut all = Vec::new();
    loop {
        let some = reader.read(end, 3).unwrap()?;
        if some.is_empty() {
            return Some(all);
        }
        all.extend(some);
    }
}

#[test]
fn what_is_appended_is_read_again_from_any_place_beside_the_writer_and_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let place = |log, records| Place { log, records };
    let (end, told) = runtime().block_on(async {
        let (journal, _) = open(&path);
        let ends = journal.end();
        let mut reader = journal.read_from(*ends.borrow()).unwrap().unwrap();
        let mut told = Vec::new();
        for n in 0..40_u32 {
            journal.append(vec![number(n), number(n + 1000)]).await.unwrap();
            if n == 20 {
                // The snapshot is not finished: both logs stay.
                drop(journal.rotate().await.unwrap());
            }
            if n % 3 == 0 {
                told.extend(all(&mut reader, *ends.borrow()).unwrap());
            }
        }
        told.extend(all(&mut reader, *ends.borrow()).unwrap());
        let end = *ends.borrow();
        assert_eq!((end, reader.place()), (place(1, 38), end));
        (end, told)
    });
    let expected: Vec<Vec<u8>> = (0..40).flat_map(|n| [number(n), number(n + 1000)]).collect();
    assert_eq!(told.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), expected);
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "places go up");
    let (journal, _) = open(&path);
    assert_eq!(*journal.end().borrow(), end);
    for (index, (from, _)) in told.iter().enumerate() {
        let mut reader = journal.read_from(*from).unwrap().unwrap();
        assert_eq!(all(&mut reader, end).unwrap(), told[index + 1..], "from {from}");
        assert_eq!(from.to_string().parse(), Ok(*from));
    }
    assert!(journal.read_from(place(1, 39)).unwrap().is_none(), "not yet");
    assert!(journal.read_from(place(2, 0)).unwrap().is_none());
    let mut never = journal.read_from(place(0, 43)).unwrap().unwrap();
    assert_eq!(all(&mut never, end), None, "the first log had 42");
    for wrong in ["", "1", "1-", "-1", "+1-2", "1-2-3", "1-99999999999999999999"] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
}

#[test]
fn what_a_snapshot_took_the_place_of_is_gone_for_readers_too() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(&folder.path().join("journal"));
    runtime().block_on(async {
        journal.append((0..10).map(number).collect()).await.unwrap();
        let ends = journal.end();
        let mut slow = journal.read_from(Place { log: 0, records: 4 }).unwrap().unwrap();
        let first = slow.read(*ends.borrow(), 2).unwrap().unwrap();
        assert_eq!(first.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), [number(4), number(5)]);
        for _ in 0..2 {
            let mut snapshot = journal.rotate().await.unwrap();
            snapshot.push(b"all of it").unwrap();
            snapshot.finish().await.unwrap();
        }
        journal.append(vec![number(10)]).await.unwrap();
        assert!(journal.read_from(Place { log: 0, records: 4 }).unwrap().is_none());
        // What it has begun to read it reads to its end; what came behind it is not there.
        assert_eq!(slow.read(*ends.borrow(), 100).unwrap().unwrap().len(), 4);
        assert!(slow.read(*ends.borrow(), 100).unwrap().is_none());
        let mut late = journal.read_from(Place { log: 2, records: 0 }).unwrap().unwrap();
        assert_eq!(late.read(*ends.borrow(), 100).unwrap().unwrap(), [(Place { log: 2, records: 1 }, number(10))]);
    });
}
