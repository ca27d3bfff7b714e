//! A process of its own is confined, does what the server does, and tries what it may not.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};

use super::{Hardening, Needs, confine, make_folder};

/// Says to the process that it is the confined one, what it is to try, and in which folder.
const CHILD: &str = "HARDEN_CHILD";
const SETTINGS: Hardening = Hardening { user: None, group: None, landlock: true, seccomp: true };

fn child(what: &str, folder: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "harden::tests::a_confined_process_does_its_work_and_nothing_else"])
        .env(CHILD, format!("{what} {}", folder.display()))
        .output()
        .unwrap()
}

/// The confined process itself.
fn run(child: &str) {
    let (what, folder) = child.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [bank, other] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let needs = Needs {
        write: vec![folder.join("data")],
        read: vec![folder.join("tls/certificate")],
        connect: vec![bank],
        ..Needs::default()
    };
    make_folder(&folder.join("data"), &SETTINGS).unwrap();
    let denied = confine(&SETTINGS, &needs).unwrap().show();
    println!("{denied}");
    match what {
        "work" => {
            work(folder, bank);
            if denied["files"] == "confined, and ports" {
                refused(TcpStream::connect(("127.0.0.1", other)));
                refused(TcpListener::bind("127.0.0.1:0"));
            }
        }
        "become-a-program" => drop(std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"))),
        other => panic!("{other}"),
    }
    println!("came to the end");
}

fn refused<T: std::fmt::Debug>(result: std::io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
}

fn work(folder: &Path, bank: u16) {
    fs::write(folder.join("data/orders"), "kept").unwrap();
    fs::rename(folder.join("data/orders"), folder.join("data/older")).unwrap();
    assert_eq!(fs::read_to_string(folder.join("data/older")).unwrap(), "kept");
    fs::remove_file(folder.join("data/older")).unwrap();
    assert_eq!(fs::read_to_string(folder.join("tls/certificate")).unwrap(), "a certificate");
    drop(std::os::unix::net::UnixListener::bind(folder.join("data/socket")).unwrap());

    refused(Command::new("/bin/true").status());
    refused(fs::read_to_string(folder.join("outside")));
    refused(fs::read_to_string("/etc/passwd"));
    refused(fs::read_dir("/"));
    refused(fs::write(folder.join("tls/certificate"), "another's"));
    refused(fs::write(folder.join("new"), "x"));
    // It points outside.
    refused(fs::read_to_string(folder.join("tls/link")));
    let outside = folder.join("outside");
    std::thread::spawn(move || refused(fs::read_to_string(outside))).join().unwrap();

    TcpStream::connect(("127.0.0.1", bank)).unwrap();
    refused(socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None));
    refused(setrlimit(Resource::RLIMIT_CORE, 1, 1).map_err(Into::into));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::net::TcpStream::connect(("127.0.0.1", bank)).await.unwrap();
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        let _hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    });
}

#[test]
fn a_confined_process_does_its_work_and_nothing_else() {
    if let Ok(child) = std::env::var(CHILD) {
        return run(&child);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tls")).unwrap();
    fs::write(folder.path().join("tls/certificate"), "a certificate").unwrap();
    fs::write(folder.path().join("outside"), "nobody's business").unwrap();
    std::os::unix::fs::symlink("../outside", folder.path().join("tls/link")).unwrap();

    let worked = child("work", folder.path());
    let said = String::from_utf8_lossy(&worked.stdout);
    assert!(worked.status.success(), "{said}{}", String::from_utf8_lossy(&worked.stderr));
    assert!(said.contains("came to the end") && said.contains("\"capabilities\":\"none\""), "{said}");

    let ended = child("become-a-program", folder.path());
    assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn a_user_or_group_that_is_not_there_is_named() {
    let settings = Hardening { user: Some("basilisk".to_owned()), ..SETTINGS };
    let error = confine(&settings, &Needs::default()).unwrap_err().to_string();
    assert!(error.contains("process.user: there is no user basilisk"), "{error}");
    assert!(settings.summary().iter().any(|line| line.contains("this machine has no user basilisk")));
    let lab = Hardening { landlock: false, seccomp: false, ..SETTINGS };
    let warnings = lab.summary().iter().filter(|line| line.starts_with("warning: ")).count();
    assert_eq!((warnings, SETTINGS.summary().len()), (2, 1));
}
