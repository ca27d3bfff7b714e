//! Comparing what was read from Kea's file with what Kea itself says, now and then (`lease4-get-page` of the hooks
//! library `lease_cmds`).
//!
//! A page is older than what has been read from the file meanwhile. A difference therefore counts when it is there twice,
//! and neither side has changed in between.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use cloakway_runtime::Stop;
use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_leases::kea::answer;
use toolbox_leases::{Book, Lease, Now, State};

use super::settings::Audit;

/// Leases of one page.
const PAGE: usize = 1000;
/// Leases of one server beyond which it is not audited.
const MOST: usize = 4_000_000;
/// Octets of one answer.
const LONGEST: u64 = 64 << 20;
/// How long Kea may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a difference is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// What Kea said: all its leases, or why not.
pub(super) type Said = Result<Vec<Lease>, String>;

/// Starts a thread that asks.
pub(super) fn start(settings: &Audit, stop: Stop) -> io::Result<Receiver<Said>> {
    let (sender, receiver) = sync_channel(1);
    let settings = settings.clone();
    thread::Builder::new().name("kea-audit".into()).spawn(move || ask(&settings, &stop, &sender))?;
    Ok(receiver)
}

fn ask(settings: &Audit, stop: &Stop, sender: &SyncSender<Said>) {
    loop {
        if sender.send(all(&settings.socket)).is_err() {
            return;
        }
        // A second look follows the first one soon: a difference is there twice or it is none.
        for pause in [AGAIN, settings.every] {
            let mut left = pause;
            while !left.is_zero() {
                if stop.is_told() {
                    return;
                }
                let step = left.min(Duration::from_millis(200));
                thread::sleep(step);
                left -= step;
            }
            if pause == AGAIN && sender.send(all(&settings.socket)).is_err() {
                return;
            }
        }
    }
}

fn all(socket: &Path) -> Said {
    let say = |command: &str| command_of(socket, command).map_err(|error| format!("{}: {error}", socket.display()));
    let has = answer::commands(&say(r#"{"command":"list-commands"}"#)?).map_err(|error| error.to_string())?;
    let command =
        ["lease4-get-page", "lease6-get-page"].into_iter().find(|command| has.iter().any(|has| has == command));
    let command = command.ok_or("the server has no lease commands: load libdhcp_lease_cmds.so")?;
    let mut leases: Vec<Lease> = Vec::new();
    let mut from: Option<IpAddr> = None;
    loop {
        let start = from.map_or_else(|| "start".to_owned(), |from| from.to_string());
        let asked = format!(r#"{{"command":"{command}","arguments":{{"from":"{start}","limit":{PAGE}}}}}"#);
        let page = answer::page(&say(&asked)?).map_err(|error| error.to_string())?;
        let whole = page.leases.len() >= PAGE;
        leases.extend(page.leases);
        if leases.len() > MOST {
            return Err(format!("more than {MOST} leases"));
        }
        match page.next {
            Some(next) if whole && Some(next) != from => from = Some(next),
            _ => return Ok(leases),
        }
    }
}

/// One command, one connection, one answer.
fn command_of(socket: &Path, command: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(command.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Differences between a file and its server.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Those of the last comparison: what the book and the server said.
    last: BTreeMap<IpNet, (Option<Now>, Option<Lease>)>,
    /// What a file said and its server denied.
    disputed: BTreeMap<IpNet, Now>,
}

impl Suspects {
    /// Compares; gives the addresses and prefixes that differ for the second time.
    pub(super) fn compare(&mut self, book: &Book, said: Vec<Lease>, now: Timestamp) -> Vec<IpNet> {
        let said: BTreeMap<IpNet, Lease> = said.into_iter().map(|lease| (lease.net, lease)).collect();
        let nets = book.iter().map(|(net, _)| net).chain(said.keys().copied());
        let mut found = BTreeMap::new();
        for net in nets {
            let (known, lease) = (book.get(net), said.get(&net));
            if !agree(known, lease, now) {
                found.insert(net, (known.cloned(), lease.cloned()));
            }
        }
        let twice: Vec<IpNet> =
            found.iter().filter(|(net, both)| self.last.get(*net) == Some(both)).map(|(net, _)| *net).collect();
        for net in &twice {
            if let Some(known) = book.get(*net) {
                self.disputed.insert(*net, known.clone());
            }
        }
        self.last = found;
        twice
    }

    /// What was denied is not believed again because it is read again.
    pub(super) fn dispute(&self, fresh: &mut Book) {
        for (net, denied) in &self.disputed {
            if fresh.get(*net).is_some_and(|now| is_same_record(now, denied)) {
                fresh.doubt(*net);
            }
        }
    }
}

fn is_same_record(one: &Now, other: &Now) -> bool {
    match (one, other) {
        (Now::Held { holder, last, until, .. }, Now::Held { holder: h, last: l, until: u, .. }) => {
            (holder, last, until) == (h, l, u)
        }
        _ => one == other,
    }
}

fn agree(known: Option<&Now>, said: Option<&Lease>, now: Timestamp) -> bool {
    let live = |until: Option<Timestamp>| until.is_none_or(|until| until > now);
    let known = match known {
        Some(Now::Held { holder, until, .. }) if live(*until) => Some(holder),
        // It answers for nobody already.
        Some(Now::Doubtful) => return true,
        _ => None,
    };
    let said = match said {
        Some(Lease { holder, state: State::Held { until }, .. }) if live(*until) => Some(holder),
        _ => None,
    };
    match (known, said) {
        (Some(known), Some(said)) => known.is_same_client(said),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_leases::{Holder, Record};

    fn lease(last: u8, client: u8) -> Lease {
        Lease {
            net: IpAddr::from([192, 0, 2, last]).into(),
            holder: Holder { hardware: Some(vec![client]), ..Holder::default() },
            last: Timestamp::from_secs(100),
            state: State::Held { until: Some(Timestamp::from_secs(200)) },
        }
    }

    #[test]
    fn a_difference_counts_when_it_is_there_twice_and_unchanged() {
        let (mut book, mut suspects) = (Book::new(), Suspects::default());
        for (last, client) in [(1, 1), (2, 2), (3, 3)] {
            book.take(&Record::Lease(Box::new(lease(last, client))));
        }
        let now = Timestamp::from_secs(150);
        let said = || vec![lease(1, 1), lease(2, 9), lease(4, 4)];
        assert!(suspects.compare(&book, said(), now).is_empty(), "once may be a page that is old");
        // One of them has been read in the meantime.
        book.take(&Record::Lease(Box::new(lease(4, 4))));
        let nets = |last: u8| IpNet::from(IpAddr::from([192, 0, 2, last]));
        assert_eq!(suspects.compare(&book, said(), now), [nets(2), nets(3)]);
        let mut fresh = Book::new();
        for (last, client) in [(2, 2), (4, 4)] {
            fresh.take(&Record::Lease(Box::new(lease(last, client))));
        }
        suspects.dispute(&mut fresh);
        assert_eq!(fresh.get(nets(2)), Some(&Now::Doubtful), "the same record again");
        assert!(matches!(fresh.get(nets(4)), Some(Now::Held { .. })));
        assert!(suspects.compare(&book, said(), Timestamp::from_secs(200)).is_empty(), "all has expired");
    }
}
