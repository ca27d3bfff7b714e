//! Accounting packets that are answered once they are durable, here and at FreeRADIUS with PostgreSQL, in turn; and
//! verifications by HTTP.
//!
//! `cargo bench -p toolbox --bench accounting`; the part with FreeRADIUS takes root, `freeradius`, `freeradius-postgresql` and
//! `postgresql`, those with HTTP/2 take `h2load` (`nghttp2-client`); they are skipped aloud without. By the environment:
//!
//! - ROUNDS: repeats everything that often, 2 unless given; LASTING: seconds of each part of a round, 5 unless given.
//! - ONLY: parts with commas between them: ours, freeradius, verify, http2, list.
//! - CLIENTS and WINDOW: how many NAS processes send, and how many packets of each wait for an answer, 8 and 128 unless given.
//!   ALONE=1: each packet goes through the kernel alone; otherwise what a NAS has to say at once goes at once.
//! - CALLERS: those of verify, each with a connection of HTTP/1.1, 64 unless given.
//! - CONNECTIONS and STREAMS: those of http2, 8 and 16 unless given; STREAMS=0 has h2load ask by HTTP/1.1. EACH: verifications
//!   in a request of list, 64 unless given.
//!
//! Every packet is another session's: both sides have a new row for each. Both write to the same disk, with syncs. The
//! load comes from this process, on the same processors.
//!
//! Sketch: a packet is 1 us to receive, check and answer, 2 us in the table and 1 us in the journal; 4 us on one of two
//! processors, the other makes the load: 200 k/s. A sync takes 0.1 to 1.3 ms and is shared by what waits, 1024 packets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints and fails by panicking"
)]
#![allow(missing_docs, reason = "a bench has no API")]

mod ask;
mod freeradius;
mod h2load;
mod load;
mod ours;

use std::time::Duration;

use load::{Figures, Load};

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn wanted(part: &str) -> bool {
    std::env::var("ONLY").map_or(true, |only| only.split(',').any(|one| one == part))
}

fn show(name: &str, figures: &Figures) {
    println!(
        "{name:<28} {:>9.0} /s   p50 {:>8.2} ms   p99 {:>8.2} ms   {} answered, {} sent again",
        figures.per_second(),
        figures.quantile(0.5).as_secs_f64() * 1e3,
        figures.quantile(0.99).as_secs_f64() * 1e3,
        figures.answered(),
        figures.again,
    );
}

fn main() {
    let (rounds, seconds) = (number("ROUNDS", 2), Duration::from_secs(number("LASTING", 5) as u64));
    let alone = number("ALONE", 0) > 0;
    let load = |round| Load { clients: number("CLIENTS", 8), window: number("WINDOW", 128), seconds, round, alone };
    let http2 = wanted("http2") && h2load::possible();
    let list = wanted("list") && h2load::possible();
    let theirs = wanted("freeradius") && freeradius::possible();
    for round in 0..rounds {
        let mut ratio = Vec::new();
        if wanted("ours") {
            let server = ours::Toolbox::start();
            let figures = load(round).run(server.radius, ours::SECRET);
            show("toolbox, durable", &figures);
            ratio.push(figures.per_second());
        }
        if theirs {
            let server = freeradius::FreeRadius::start();
            let figures = load(round).run(server.accounting, ours::SECRET);
            show("FreeRADIUS, PostgreSQL", &figures);
            ratio.push(figures.per_second());
        }
        if let [ours, theirs] = ratio[..] {
            println!("{:<28} {:>9.1} times", "", ours / theirs);
        }
        if wanted("verify") {
            let server = ours::Toolbox::start();
            show("toolbox, verifications", &server.verify(number("CALLERS", 64), seconds));
        }
        if http2 {
            let server = ours::Toolbox::start();
            let (connections, streams) = (number("CONNECTIONS", 8), number("STREAMS", 16));
            show("verifications, HTTP/2", &server.verify_http2(connections, streams, seconds));
        }
        if list {
            let server = ours::Toolbox::start();
            let each = number("EACH", 64);
            let figures = server.verify_lists(number("CONNECTIONS", 8), each, seconds);
            show("lists of verifications", &figures);
            println!("{:<28} {:>9.0} /s in lists of {each}", "", figures.per_second() * each as f64);
        }
    }
}
