//! Verifications over HTTP/2, asked by h2load of nghttp2: many at once over each connection; and a second opinion on what
//! [`crate::ask`] says of HTTP/1.1.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::load::Figures;

/// Whether it is here; says so when it is not.
pub(crate) fn possible() -> bool {
    let found = Command::new("h2load").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        println!("SKIPPED: the part with HTTP/2 takes h2load (nghttp2-client)");
    }
    found
}

/// How requests are asked.
pub(crate) struct Asking<'a> {
    pub(crate) connections: usize,
    /// Of each at once; with 0 it is HTTP/1.1, one at once.
    pub(crate) streams: usize,
    pub(crate) path: &'a str,
    pub(crate) body: &'a str,
}

/// Asks `server` as long as that with the key; what is kept of it goes into `folder`.
pub(crate) fn run(server: SocketAddr, key: &str, asking: &Asking<'_>, seconds: Duration, folder: &Path) -> Figures {
    let (body, log) = (folder.join("body"), folder.join("h2load.log"));
    std::fs::write(&body, asking.body).unwrap();
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", &asking.connections.to_string(), "-D", &seconds.as_secs().to_string()]);
    match asking.streams {
        0 => command.arg("--h1"),
        streams => command.args(["-m", &streams.to_string()]),
    };
    command.arg("-H").arg(format!("authorization: Bearer {key}")).args(["-H", "content-type: application/json"]);
    command.arg("-d").arg(&body).arg(format!("--log-file={}", log.display()));
    let out = command.arg(format!("https://{server}{}", asking.path)).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    // Beginning, status and how many microseconds it took, of each.
    let lines = std::fs::read_to_string(&log).unwrap();
    let took = lines.lines().map(|line| {
        let of: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(of[1], "200", "{line}");
        Duration::from_micros(of[2].parse().unwrap())
    });
    Figures::new(took.collect(), seconds, 0)
}
