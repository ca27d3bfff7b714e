use super::*;
use bgp_core::Outcome;
use bgp_core::record::encode_known;

fn body(n: u8) -> Vec<u8> {
    encode_known(&n.to_string(), &[n; 32], &Outcome::default())
}

fn ids(path: &Path) -> Result<Vec<String>, String> {
    let mut ids = Vec::new();
    Journal::open(path, |record| {
        if let Record::Known { id, .. } = record {
            ids.push(id);
        }
    })?;
    Ok(ids)
}

#[tokio::test]
async fn what_was_acknowledged_is_replayed_and_what_was_cut_off_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let journal = Journal::open(&path, |_| panic!("nothing yet")).unwrap();
    for n in 0..3 {
        journal.append(body(n)).await.unwrap();
    }
    assert!(ids(&path).unwrap_err().contains("another process"));
    drop(journal);
    let whole = loop {
        if let Ok(ids) = ids(&path) {
            assert_eq!(ids, ["0", "1", "2"]);
            break std::fs::read(&path).unwrap();
        }
        tokio::task::yield_now().await;
    };
    for cut in SEALED + 1..SEALED + body(0).len() {
        let torn = folder.path().join(format!("torn {cut}"));
        std::fs::write(&torn, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(ids(&torn).unwrap(), ["0", "1"]);
    }
    std::fs::write(folder.path().join("other"), "hello").unwrap();
    assert!(ids(&folder.path().join("other")).unwrap_err().contains("no journal"));
}

#[tokio::test]
async fn cut_off_anywhere_it_opens_and_damaged_anywhere_it_never_forgets_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let journal = Journal::open(&path, |_| ()).unwrap();
    for n in 0..4 {
        journal.append(body(n)).await.unwrap();
    }
    drop(journal);
    let all = ["0", "1", "2", "3"];
    let whole = loop {
        if let Ok(ids) = ids(&path) {
            assert_eq!(ids, all);
            break std::fs::read(&path).unwrap();
        }
        tokio::task::yield_now().await;
    };
    let other = folder.path().join("other");
    for cut in MAGIC.len()..whole.len() {
        std::fs::write(&other, &whole[..cut]).unwrap();
        let found = loop {
            match ids(&other) {
                Err(error) if error.contains("another process") => std::thread::yield_now(),
                found => break found.unwrap(),
            }
        };
        assert!(all.starts_with(&found.iter().map(String::as_str).collect::<Vec<_>>()), "{cut}: {found:?}");
    }
    for at in MAGIC.len()..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&other, &damaged).unwrap();
        let found = loop {
            match ids(&other) {
                Err(error) if error.contains("another process") => std::thread::yield_now(),
                found => break found,
            }
        };
        match found {
            Ok(found) => assert_eq!(found, all, "octet {at}: something was forgotten"),
            Err(error) => assert!(error.contains("damaged at octet"), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_journal_that_was_removed_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let journal = Journal::open(&path, |_| ()).unwrap();
    journal.append(body(0)).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = journal.append(body(1)).await.unwrap_err();
    assert!(error.contains("was removed"), "{error}");
    assert!(journal.append(body(2)).await.unwrap_err().contains("nothing more is accepted"));
}

#[test]
fn what_cannot_be_synced_is_not_accepted() {
    // A pipe takes what is written, and has no disk to put it on.
    let (_reader, pipe) = io::pipe().unwrap();
    let mut writer = Writer {
        path: PathBuf::from("pipe"),
        file: File::from(std::os::fd::OwnedFd::from(pipe)),
        length: Arc::default(),
        long: VecDeque::new(),
        number: 0,
        tail: None,
        broken: None,
    };
    for _ in 0..2 {
        let (done, mut answer) = oneshot::channel();
        writer.append(&body(1), vec![done]);
        let error = answer.try_recv().unwrap().unwrap_err();
        assert!(error.contains("nothing more is accepted"), "{error}");
    }
}

#[tokio::test]
async fn a_long_record_lets_others_by_and_is_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let journal = Journal::open(&path, |_| ()).unwrap();
    let id = |n: usize| format!("{n}{}", "0".repeat(3 * PART));
    let long: Vec<Vec<u8>> = (1..4).map(|n| encode_known(&id(n), &[0; 32], &Outcome::default())).collect();
    let (first, second, third, short) = tokio::join!(
        journal.append(long[0].clone()),
        journal.append(long[1].clone()),
        journal.append(long[2].clone()),
        journal.append(body(7)),
    );
    assert_eq!((first, second, third, short), (Ok(()), Ok(()), Ok(()), Ok(())));
    drop(journal);
    let mut read = loop {
        if let Ok(ids) = ids(&path) {
            break ids;
        }
        tokio::task::yield_now().await;
    };
    read.sort();
    assert_eq!(read, [id(1), id(2), id(3), "7".to_owned()]);
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, PART / 2, PART, 2 * PART].map(|cut| SEALED + cut) {
        let torn = folder.path().join(format!("torn {cut}"));
        std::fs::write(&torn, &whole[..whole.len() - cut]).unwrap();
        assert_eq!(ids(&torn).unwrap().len(), 3, "{cut}");
    }
    // What a crash left unfinished does not get into what comes after it.
    let torn = folder.path().join(format!("torn {}", SEALED + 1));
    let journal = Journal::open(&torn, |_| ()).unwrap();
    journal.append(long[0].clone()).await.unwrap();
    drop(journal);
    loop {
        if let Ok(ids) = ids(&torn) {
            assert_eq!(ids.len(), 4);
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_journal_written_anew_holds_only_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j");
    let journal = Journal::open(&path, |_| ()).unwrap();
    journal.append(body(0)).await.unwrap();
    journal.begin().await.unwrap();
    journal.append(body(6)).await.unwrap();
    // Given up, and begun again: what came before is in the draft, or nowhere.
    journal.finish(None, Vec::new()).await.unwrap();
    journal.begin().await.unwrap();
    let draft = journal.draft(&[body(7)]).unwrap();
    journal.append(body(8)).await.unwrap();
    journal.finish(Some(draft), vec![body(9)]).await.unwrap();
    journal.append(body(5)).await.unwrap();
    // What was acknowledged is sealed behind the acknowledgement: the file is longer for a moment.
    let sealed = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while journal.length() != std::fs::metadata(&path).unwrap().len() {
        assert!(std::time::Instant::now() < sealed, "{} octets", journal.length());
        tokio::task::yield_now().await;
    }
    drop(journal);
    loop {
        if let Ok(ids) = ids(&path) {
            assert_eq!(ids, ["7", "8", "9", "5"]);
            break;
        }
        tokio::task::yield_now().await;
    }
}
