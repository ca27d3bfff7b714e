//! Best routes of peers in a table of the kernel (rtnetlink): our own protocol number, and nothing else touched.

mod netlink;
pub(crate) mod settings;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::kernel::{Fib, Installed, NextHops, Step, Ways};
use cloakway_runtime::Stop;
use futures_util::StreamExt as _;
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
/// Requests that wait for the kernel's answer at a time: their answers fit the socket.
const IN_FLIGHT: usize = 100;
/// How long the kernel may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
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
    next_hops: Vec<String>,
    /// Gateway and interface of each way.
    ways: Vec<String>,
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
        let row = |(prefix, next_hops, installed): (IpNet, &NextHops, Installed)| {
            let (ways, state) = match installed {
                Installed::Yes(ways) => (Some(ways), "installed".to_owned()),
                Installed::Pending => (None, "on its way".to_owned()),
                Installed::Unresolved(why) => (None, format!("not installed: {why}")),
                Installed::Refused(why) => (None, format!("not installed: {why}")),
            };
            KernelRow {
                prefix: prefix.to_string(),
                next_hops: next_hops.iter().map(ToString::to_string).collect(),
                ways: ways.iter().flat_map(Ways::as_slice).map(ToString::to_string).collect(),
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
            let steps = self.lock().steps();
            self.carry_out(&kernel, steps, &stop).await;
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
            self.carry_out(&kernel, steps, &Stop::default()).await;
        }
    }

    async fn read(&self, kernel: &Kernel) {
        match kernel.read().await {
            Ok((own, underlay)) => self.lock().found(own, underlay),
            Err(error) => tracing::error!(%error, "cannot read the kernel's routes"),
        }
    }

    /// The best routes, a slice at a time; none that touches a private prefix unless the operator asked for it.
    async fn wanted(&self, table: &Table) -> BTreeMap<IpNet, NextHops> {
        let (mut wanted, mut known) = (BTreeMap::new(), HashSet::<NextHops>::new());
        for family in bgp_wire::Family::ALL {
            let (mut from, how) = (0, (self.settings.private, self.settings.paths));
            while table.best(family, (from, SLICE), how, |prefix, next_hops: &[IpAddr]| {
                // A million routes share a few next hops.
                let next_hops = known.get(next_hops).cloned().unwrap_or_else(|| {
                    let fresh = NextHops::from(next_hops);
                    known.insert(fresh.clone());
                    fresh
                });
                wanted.insert(prefix, next_hops);
            }) {
                from += SLICE;
                tokio::task::yield_now().await;
            }
        }
        wanted
    }

    /// Carries out `steps`, many requests at a time, which the kernel takes one after the other; each answer is that of
    /// its request.
    async fn carry_out(&self, kernel: &Kernel, steps: Vec<Step>, stop: &Stop) {
        let goes_on = |_: &Step| std::future::ready(!stop.is_told());
        let requests = futures_util::stream::iter(steps).take_while(goes_on).map(|step| async {
            // An answer may be lost where the socket overruns: what is there is seen when the table is read again.
            let answer = tokio::time::timeout(ANSWER, kernel.carry_out(&step)).await;
            (step, answer.unwrap_or_else(|_| Err("the kernel did not answer".to_owned())))
        });
        let mut answers = std::pin::pin!(requests.buffer_unordered(IN_FLIGHT));
        while let Some((step, outcome)) = answers.next().await {
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
