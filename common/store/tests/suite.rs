//! What every engine behind the store must do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use cloakway_store::{Batch, Store};
use proptest::prelude::*;
use tempfile::TempDir;

/// An engine, and where it keeps a store of this test.
enum Engine {
    Embedded(TempDir),
    Journal(TempDir),
    #[cfg(feature = "postgresql")]
    Postgresql(cloakway_testing::postgresql::Postgresql),
}

impl Engine {
    /// Every one that this machine has.
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Embedded(tempfile::tempdir().unwrap()), Self::Journal(tempfile::tempdir().unwrap())];
        #[cfg(feature = "postgresql")]
        all.extend(cloakway_testing::postgresql::Postgresql::start().map(Self::Postgresql));
        all
    }

    /// How [`open`] finds the store of this name.
    fn place(&self, name: &str) -> String {
        match self {
            Self::Embedded(folder) => folder.path().join(name).display().to_string(),
            Self::Journal(folder) => format!("{name} journal {}", folder.path().display()),
            #[cfg(feature = "postgresql")]
            Self::Postgresql(server) => format!("{name} in {}", server.connection()),
        }
    }

    fn open(&self, name: &str) -> Store {
        open(&self.place(name)).unwrap()
    }
}

fn open(place: &str) -> Result<Store, cloakway_store::StoreError> {
    if let Some((name, folder)) = place.split_once(" journal ") {
        return Store::open_journal(&std::path::Path::new(folder).join(name));
    }
    match place.split_once(" in ") {
        None => Store::open(place.as_ref()),
        #[cfg(feature = "postgresql")]
        Some((name, connection)) => {
            let (schema, connection) = (name.to_owned(), connection.to_owned());
            Store::open_postgresql(&cloakway_store::Postgresql { connection, password: None, schema, tls: None })
        }
        #[cfg(not(feature = "postgresql"))]
        Some(_) => unreachable!("there is one engine"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_batch_is_there_whole_after_reopening() {
    for engine in Engine::all() {
        runtime().block_on(async {
            let store = engine.open("state");
            let mut batch = Batch::new();
            batch.put("orders", b"1", b"a").put("outbox", b"1", b"b").put("orders", b"2", b"c").delete("orders", b"2");
            store.commit(batch).await.unwrap();
        });
        let store = engine.open("state");
        assert_eq!(store.get("orders", b"1").unwrap().as_deref(), Some(b"a".as_slice()));
        assert_eq!(store.get("orders", b"2").unwrap(), None);
        assert_eq!(store.get("orders", b"").unwrap(), None);
        assert_eq!(store.scan("outbox").unwrap(), [(b"1".to_vec(), b"b".to_vec())]);
        assert_eq!(store.scan("never written").unwrap(), []);
    }
}

#[test]
fn a_range_has_its_first_key_and_not_its_last_and_no_more_than_asked_for() {
    for engine in Engine::all() {
        let store = engine.open("state");
        let mut batch = Batch::new();
        for n in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x7f, 0x80, 0xff_u8] {
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
        assert_eq!(keys(&[9], &[0xff, 0], 9), [9, 0x7f, 0x80, 0xff], "octets, and no signs");
        assert_eq!(store.range("never written", &[], &[9], 9).unwrap(), []);
    }
}

#[test]
fn a_second_opener_and_a_damaged_file_are_refused_by_name() {
    for engine in Engine::all() {
        let _held = engine.open("state");
        assert!(open(&engine.place("state")).unwrap_err().to_string().contains("state"));
        engine.open("another");
    }
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged");
    std::fs::write(&damaged, b"this is no store at all").unwrap();
    assert!(Store::open(&damaged).is_err());
}

#[test]
fn concurrent_commits_are_all_applied() {
    for engine in Engine::all() {
        let store = engine.open("state");
        runtime().block_on(async {
            let commits: Vec<_> = (0..500_u32)
                .map(|n| {
                    let mut batch = Batch::new();
                    batch.put("t", n.to_be_bytes(), b"x").put("last", b"", n.to_be_bytes());
                    store.commit(batch)
                })
                .collect();
            for commit in commits {
                commit.await.unwrap();
            }
        });
        assert_eq!(store.scan("t").unwrap().len(), 500);
        assert_eq!(store.get("last", b"").unwrap().as_deref(), Some(&499_u32.to_be_bytes()[..]), "in order");
    }
}

/// The child commits numbers one by one and prints each after its commit; the parent kills it and counts.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Ok(place) = std::env::var("STORE_CHILD") {
        let large = std::env::var("STORE_LARGE").is_ok();
        let store = if large { Store::open_large(place.as_ref()) } else { open(&place) }.unwrap();
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
    for engine in Engine::all() {
        killed(&engine);
    }
}

fn killed(engine: &Engine) {
    for round in 1..=4_u32 {
        // The two ways of opening a file read each other's.
        let embedded = matches!(engine, Engine::Embedded(_));
        let large = (embedded && round > 2).then_some(("STORE_LARGE", "yes"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture"])
            .env("STORE_CHILD", engine.place("state"))
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
        let large = embedded && round % 2 == 0;
        let store = if large { Store::open_large(engine.place("state").as_ref()).unwrap() } else { reopened(engine) };
        for n in 0..=last {
            assert!(store.get("t", &n.to_be_bytes()).unwrap().is_some(), "{n} of {last} was acknowledged");
        }
    }
}

/// Of what is dead the server hears in a moment.
fn reopened(engine: &Engine) -> Store {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match open(&engine.place("state")) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

type Changes = Vec<Vec<(u8, u8, Option<u16>)>>;

fn changes() -> impl Strategy<Value = Changes> {
    let change = (0_u8..3, any::<u8>(), proptest::option::of(any::<u16>()));
    proptest::collection::vec(proptest::collection::vec(change, 0..6), 0..12)
}

fn agrees_with_a_map(store: &Store, prefix: &str, batches: &Changes) -> Result<(), TestCaseError> {
    let mut model: BTreeMap<(u8, u8), u16> = BTreeMap::new();
    let table = |number: u8| format!("{prefix}{number}");
    runtime().block_on(async {
        for changes in batches {
            let mut batch = Batch::new();
            for (number, key, value) in changes {
                match value {
                    Some(value) => {
                        batch.put(&table(*number), [*key], value.to_be_bytes());
                        model.insert((*number, *key), *value);
                    }
                    None => {
                        batch.delete(&table(*number), [*key]);
                        model.remove(&(*number, *key));
                    }
                }
            }
            store.commit(batch).await.unwrap();
        }
    });
    for number in 0..3_u8 {
        let of = model.iter().filter(|((of, _), _)| *of == number);
        let expected: Vec<_> = of.map(|((_, key), value)| (vec![*key], value.to_be_bytes().to_vec())).collect();
        prop_assert_eq!(store.scan(&table(number)).unwrap(), expected);
    }
    Ok(())
}

#[test]
fn the_store_agrees_with_a_map() {
    for engine in Engine::all() {
        let store = engine.open("state");
        let count = std::cell::Cell::new(0);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(32));
        let held = runner.run(&changes(), |batches| {
            count.set(count.get() + 1);
            agrees_with_a_map(&store, &format!("{}-", count.get()), &batches)
        });
        held.unwrap();
    }
}

#[cfg(feature = "postgresql")]
#[test]
fn commits_wait_for_a_server_that_died_and_what_was_acknowledged_before_is_there() {
    use cloakway_testing::postgresql::Postgresql;
    let Some(mut server) = Postgresql::start() else { return };
    let settings = |connection: String, schema: &str| cloakway_store::Postgresql {
        connection,
        password: None,
        schema: schema.into(),
        tls: None,
    };
    let store = Store::open_postgresql(&settings(server.connection(), "kept")).unwrap();
    let second = Store::open_postgresql(&settings(server.connection(), "kept")).unwrap_err().to_string();
    assert!(second.contains("schema kept") && second.contains("another process"), "{second}");
    let nobody = server.connection().replace("dbname=test", "dbname=none");
    let refused = Store::open_postgresql(&settings(nobody, "kept")).unwrap_err().to_string();
    assert!(refused.contains("does not exist"), "{refused}");
    let put = |n: u8| {
        let mut batch = Batch::new();
        batch.put("t", [n], [n]);
        store.commit(batch)
    };
    runtime().block_on(async {
        for n in 0..20 {
            put(n).await.unwrap();
        }
    });
    server.kill();
    let waiting = put(20);
    assert!(store.scan("t").unwrap_err().to_string().contains("cannot be read"));
    // One that is opened meanwhile waits, too.
    let early = Store::open_postgresql(&settings(server.connection(), "early")).unwrap();
    assert!(early.is_away() && early.scan("t").is_err());
    let mut batch = Batch::new();
    batch.put("t", [1], [1]);
    let first = early.commit(batch);
    server.run();
    runtime().block_on(async {
        waiting.await.unwrap();
        first.await.unwrap();
    });
    assert!(!early.is_away() && !store.is_away());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let rows = loop {
        match store.scan("t") {
            Ok(rows) => break rows,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
    };
    assert_eq!(rows.into_iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), (0..=20).collect::<Vec<_>>());
    assert_eq!(server.ask("test", "SELECT count(*) FROM kept.rows"), "21", "rows are there for others to look at");
    // A store that is closed while its server is away does not wait for it.
    server.kill();
    drop(put(21));
    drop(store);
}

#[cfg(feature = "postgresql")]
#[test]
fn settings_that_cannot_be_used_are_refused_with_what_would_be_right() {
    let of = |connection: &str, schema: &str| {
        let settings = cloakway_store::Postgresql {
            connection: connection.into(),
            password: Some("hush".into()),
            schema: schema.into(),
            tls: None,
        };
        assert!(!format!("{settings:?}").contains("hush"));
        settings.check().map_err(|error| error.to_string())
    };
    let socket = "host=/run/postgresql dbname=toolbox user=toolbox";
    assert_eq!(of(socket, "toolbox"), Ok(Vec::new()));
    assert_eq!(of("host=127.0.0.1,db.isp.example user=toolbox", "t"), Ok(vec!["db.isp.example".to_owned()]));
    for schema in ["", "Toolbox", "1st", "a-b", "a; drop table b", &"x".repeat(49)] {
        assert!(of(socket, schema).unwrap_err().contains("small letters"), "{schema}");
    }
    for connection in ["", "user=toolbox", "host=", "nonsense"] {
        assert!(of(connection, "toolbox").unwrap_err().contains("host=/run/postgresql"), "{connection}");
    }
}
