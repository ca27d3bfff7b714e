//! How many durable transitions a second each engine makes under the same group commit: clients wait for the disk, and what
//! waits together is one transaction and one sync.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

const KEPT: u64 = 20_000;
const ORDER: usize = 700;

type Row = (Vec<u8>, Vec<u8>);
/// Makes rows durable, together.
type Write = Box<dyn FnMut(&[Row]) + Send>;

fn row(number: u64, step: u8) -> Row {
    let mut value = vec![step; ORDER];
    value[..8].copy_from_slice(&number.to_be_bytes());
    (format!("shop-{:04}/order-{number:012}", number % 100).into_bytes(), value)
}

fn redb(folder: &Path) -> Write {
    const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("orders");
    let database = redb::Database::create(folder.join("redb")).unwrap();
    Box::new(move |rows| {
        let write = database.begin_write().unwrap();
        {
            let mut table = write.open_table(TABLE).unwrap();
            for (key, value) in rows {
                table.insert(key.as_slice(), value.as_slice()).unwrap();
            }
        }
        write.commit().unwrap();
    })
}

fn sqlite(folder: &Path) -> Write {
    let database = rusqlite::Connection::open(folder.join("sqlite")).unwrap();
    database.pragma_update(None, "journal_mode", "WAL").unwrap();
    database.pragma_update(None, "synchronous", "FULL").unwrap();
    database.execute("CREATE TABLE orders (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID", ()).unwrap();
    Box::new(move |rows| {
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        {
            let mut put = database.prepare_cached("INSERT OR REPLACE INTO orders VALUES (?1, ?2)").unwrap();
            for (key, value) in rows {
                put.execute((key, value)).unwrap();
            }
        }
        database.execute_batch("COMMIT").unwrap();
    })
}

fn fjall(folder: &Path) -> Write {
    let database = fjall::Database::builder(folder.join("fjall")).open().unwrap();
    let orders = database.keyspace("orders", fjall::KeyspaceCreateOptions::default).unwrap();
    Box::new(move |rows| {
        let mut batch = database.batch().durability(Some(fjall::PersistMode::SyncAll));
        for (key, value) in rows {
            batch.insert(&orders, key.as_slice(), value.as_slice());
        }
        batch.commit().unwrap();
    })
}

fn journal(folder: &Path) -> Write {
    let store = cloakway_store::Store::open_journal(&folder.join("journal")).unwrap();
    Box::new(move |rows| {
        let mut batch = cloakway_store::Batch::new();
        for (key, value) in rows {
            batch.put("orders", key.as_slice(), value.as_slice());
        }
        store.commit_blocking(batch).unwrap();
    })
}

/// Transitions a second with so many clients.
fn measure(mut write: Write, clients: usize, time: Duration) -> f64 {
    for from in (0..KEPT).step_by(1000) {
        write(&(from..from + 1000).map(|number| row(number, 0)).collect::<Vec<_>>());
    }
    let (jobs, queue) = channel::<(Row, Sender<()>)>();
    let next = AtomicU64::new(KEPT);
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(first) = queue.recv() {
                let group: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
                let (rows, waiting): (Vec<Row>, Vec<Sender<()>>) = group.into_iter().unzip();
                write(&rows);
                waiting.iter().for_each(|waiting| waiting.send(()).unwrap());
            }
        });
        for _ in 0..clients {
            let jobs = jobs.clone();
            scope.spawn(|| {
                let jobs = jobs;
                let (tell, told) = channel();
                while began.elapsed() < time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    for step in 0..4 {
                        jobs.send((row(number, step), tell.clone())).unwrap();
                        told.recv().unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        drop(jobs);
    });
    done.into_inner() as f64 / began.elapsed().as_secs_f64()
}

fn main() {
    let place = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let time = Duration::from_secs(8);
    for clients in [16, 64] {
        for (name, open) in [("redb", redb as fn(&Path) -> Write), ("SQLite", sqlite), ("fjall", fjall), ("journal", journal)] {
            let folder = tempfile::tempdir_in(&place).unwrap();
            println!("{clients} clients: {name}: {:.0} transitions/s", measure(open(folder.path()), clients, time));
        }
    }
}
