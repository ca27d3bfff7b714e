//! Best routes of peers in a table of the kernel (rtnetlink): our own protocol number, and nothing else touched.

mod netlink;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::kernel::{Fib, Installed};
use cloakway_runtime::Stop;
use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::rib::Table;
use netlink::Kernel;
pub use settings::Settings;

/// How long changes may gather before they are carried out.
const GATHER: Duration = Duration::from_millis(50);
/// How often the kernel is read again at most: somebody else may change many routes.
const BREATH: Duration = Duration::from_millis(500);
/// How often it is read again even if it said nothing.
const LOOK: Duration = Duration::from_secs(60);
/// How long routes of a previous life wait for peers that tell nothing.
const ADOPTION: Duration = Duration::from_secs(120);
/// Prefixes that are looked at while the table is held.
const SLICE: u32 = 16_384;

/// The kernel's routes as the process knows them.
pub(crate) struct Installer {
    fib: Mutex<Fib>,
    settings: Settings,
}

#[derive(Serialize)]
pub(crate) struct KernelRow {
    prefix: String,
    next_hop: String,
    gateway: Option<String>,
    interface: Option<u32>,
    state: String,
}

impl Installer {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self { fib: Mutex::new(Fib::new(settings.metric)), settings })
    }

    fn lock(&self) -> MutexGuard<'_, Fib> {
        self.fib.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each best route, and how it stands in the kernel.
    pub(crate) fn rows(&self) -> Vec<KernelRow> {
        let fib = self.lock();
        let row = |(prefix, next_hop, installed): (IpNet, IpAddr, Installed)| {
            let (via, state) = match installed {
                Installed::Yes(via) => (Some(via), "installed".to_owned()),
                Installed::Pending => (None, "on its way".to_owned()),
                Installed::Unresolved(why) => (None, format!("not installed: {why}")),
                Installed::Refused(why) => (None, format!("not installed: {why}")),
            };
            KernelRow {
                prefix: prefix.to_string(),
                next_hop: next_hop.to_string(),
                gateway: via.map(|via| via.gateway.to_string()),
                interface: via.map(|via| via.interface),
                state,
            }
        };
        fib.routes().map(row).collect()
    }

    /// Opens the kernel's sockets.
    ///
    /// # Errors
    /// When that is not possible.
    pub(crate) fn open(&self) -> Result<Opened, String> {
        Kernel::open(self.settings).map(Opened).map_err(|error| format!("rtnetlink: {error}"))
    }

    /// Keeps the kernel's table as `table` has it until the stop; then removes what is ours, unless it is to stay.
    pub(crate) async fn run(self: Arc<Self>, Opened((kernel, mut words)): Opened, table: Arc<Table>, stop: Stop) {
        let mut changes = table.follow();
        let now = tokio::time::Instant::now;
        let (adopted_until, mut read_at, mut last) = (now() + ADOPTION, now(), now());
        while !stop.is_told() {
            if now() >= read_at {
                self.read(&kernel).await;
                (last, read_at) = (now(), now() + LOOK);
            }
            changes.borrow_and_update();
            let wanted = self.wanted(&table).await;
            {
                let mut fib = self.lock();
                fib.want(wanted);
                // Before a peer has told its routes, those of a previous life are better than none.
                if fib.is_adopting() && (table.readiness().is_ok() || now() >= adopted_until) {
                    fib.settled();
                }
            }
            self.carry_out(&kernel, &stop).await;
            let adopting = self.lock().is_adopting();
            tokio::select! {
                () = stop.told() => {}
                Ok(()) = changes.changed() => pause(now() + GATHER, &stop).await,
                Some(()) = words.recv() => {
                    read_at = (now() + GATHER).max(last + BREATH);
                    pause(read_at, &stop).await;
                }
                () = tokio::time::sleep_until(read_at) => {}
                () = tokio::time::sleep(BREATH), if adopting => {}
            }
        }
        if !self.settings.keep {
            let steps = self.lock().all();
            for step in steps {
                if let Err(error) = kernel.carry_out(&step).await {
                    tracing::warn!(prefix = %step.prefix(), %error, "cannot remove a route from the kernel");
                }
            }
        }
    }

    async fn read(&self, kernel: &Kernel) {
        match kernel.read().await {
            Ok((own, underlay)) => self.lock().found(own, underlay),
            Err(error) => tracing::error!(%error, "cannot read the kernel's routes"),
        }
    }

    /// The best routes, a slice at a time; none that touches a private prefix unless the operator asked for it.
    async fn wanted(&self, table: &Table) -> BTreeMap<IpNet, IpAddr> {
        let mut wanted = BTreeMap::new();
        for family in bgp_wire::Family::ALL {
            let mut from = 0;
            while table.best(family, (from, SLICE), self.settings.private, |prefix, next_hop| {
                wanted.insert(prefix, next_hop);
            }) {
                from += SLICE;
                tokio::task::yield_now().await;
            }
        }
        wanted
    }

    async fn carry_out(&self, kernel: &Kernel, stop: &Stop) {
        let steps = self.lock().steps();
        for step in steps {
            if stop.is_told() {
                return;
            }
            let outcome = kernel.carry_out(&step).await;
            if let Err(error) = &outcome {
                tracing::warn!(prefix = %step.prefix(), %error, "the kernel refuses a route");
                metrics::counter!("bgp_speaker_kernel_refusals_total").increment(1);
            }
            self.lock().done(&step, outcome);
        }
        let (installed, wanted) = self.lock().counts();
        metrics::gauge!("bgp_speaker_kernel_routes").set(installed as f64);
        metrics::gauge!("bgp_speaker_kernel_wanted_routes").set(wanted as f64);
    }
}

/// The sockets, open.
pub(crate) struct Opened((Kernel, mpsc::Receiver<()>));

async fn pause(until: tokio::time::Instant, stop: &Stop) {
    tokio::select! {
        () = stop.told() => {}
        () = tokio::time::sleep_until(until) => {}
    }
}
