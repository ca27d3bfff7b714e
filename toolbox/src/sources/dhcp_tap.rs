//! DHCP that passes an interface: at the server, at a relay, or at a port that mirrors it.
//!
//! A tap sees what passes and nothing else: what was leased before it began is unknown until it is renewed, and so is
//! everything once the kernel had to drop a packet or a server said something that cannot be read.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use tokio::runtime::Handle;
use toolbox_leases::tap::{Datagram, Tap, TapError};
use toolbox_leases::{Book, Record};

use super::leases::LeaseTeller;
use super::settings::DhcpTap;
use super::teller::{Gone, Teller};
use crate::ear::Ear;

/// Octets that may wait in the kernel.
const BUFFER: usize = 8 << 20;
/// How long the thread waits for a packet before it looks after other things.
const PATIENCE: Duration = Duration::from_millis(200);
/// DHCPv4 and DHCPv6.
const PORTS: [u16; 4] = [67, 68, 546, 547];

/// Opens the interface, and starts a thread that listens.
pub(super) fn start(settings: &DhcpTap, teller: Teller, stop: Stop) -> Result<(), String> {
    let ear = Ear::open(&settings.interface, &PORTS, BUFFER, PATIENCE)
        .map_err(|error| format!("{}: {error}: that needs CAP_NET_RAW", settings.interface))?;
    let mut listener = Listener {
        ear,
        tap: Tap::new(settings.servers.clone()),
        servers: settings.servers.clone(),
        book: Book::new(),
        teller: LeaseTeller::new(teller, settings.naming.clone()),
    };
    let handle = Handle::current();
    listener.teller.teller.status.up();
    let named = thread::Builder::new().name("dhcp-tap".into());
    let spawned = named.spawn(move || {
        while !stop.is_told() {
            if handle.block_on(listener.step()).is_err() {
                return;
            }
        }
    });
    spawned.map(drop).map_err(|error| error.to_string())
}

struct Listener {
    ear: Ear,
    tap: Tap,
    servers: Vec<IpAddr>,
    book: Book,
    teller: LeaseTeller,
}

impl Listener {
    async fn step(&mut self) -> Result<(), Gone> {
        self.teller.teller.watch();
        let heard = match self.ear.hear(clock::now) {
            Ok(heard) => heard.map(|datagram| (datagram.source.ip(), datagram.payload.to_vec())),
            Err(error) => {
                self.teller.teller.status.down(&error.to_string());
                self.over("interface", "the interface cannot be listened at").await?;
                tokio::time::sleep(PATIENCE).await;
                return Ok(());
            }
        };
        // Before what came after the loss is believed.
        if self.ear.dropped() > 0 {
            self.over("dropped", "packets came faster than we could hear them").await?;
        }
        // It may have been a grant, or of something else than DHCP: that stands in the fragment that is missing.
        let given_up = self.ear.given_up(clock::now());
        if self.servers.iter().any(|server| given_up.may_be_of(*server)) {
            let what = format!("{} packets of UDP were not whole, some of them from a server", given_up.count);
            self.over("fragments", &what).await?;
        }
        let Some((from, payload)) = heard else { return Ok(()) };
        self.teller.teller.status.up();
        let datagram = Datagram { from, payload: &payload, at: clock::wall() };
        match self.tap.hear(datagram, &self.book) {
            Ok(leases) => {
                for lease in leases {
                    let changes = self.book.take(&Record::Lease(Box::new(lease)));
                    self.teller.changes(changes, &self.book).await?;
                }
                Ok(())
            }
            Err(TapError::Stranger(who)) => {
                self.teller.teller.status.alarm("stranger", &format!("{who} grants leases and is none of the servers"));
                Ok(())
            }
            // It may have granted an address to somebody else.
            Err(error) if self.servers.contains(&from) => {
                self.teller.teller.status.damaged();
                self.over("malformed", &error.to_string()).await
            }
            Err(_) => {
                self.teller.teller.status.damaged();
                Ok(())
            }
        }
    }

    /// Nothing that was heard is certain any more.
    async fn over(&mut self, reason: &'static str, what: &str) -> Result<(), Gone> {
        self.teller.teller.status.alarm(reason, what);
        self.teller.teller.status.known(0);
        self.book = Book::new();
        self.teller.reset().await
    }
}
