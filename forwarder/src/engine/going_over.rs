//! From one policy to another while packets pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloakway_runtime::clock;
use forwarder_core::meter::Metering;
use forwarder_core::{Applied, Policy};

use super::{Engine, interfaces, lock, round, ticks};
use crate::reload::Reload;
use crate::show;

impl Engine {
    /// Begins to go over to another policy, as soon as nothing else is being applied.
    pub(super) fn reload(&mut self, reload: Reload) {
        if self.applying.is_some() {
            self.waiting = Some(reload);
            return;
        }
        // A link that nobody has heard of yet does not take over from one that is healthy.
        let resting = {
            let mut preview = lock(&self.shared.health).clone();
            let _ = preview.change(&reload.policy, reload.timing, clock::now());
            preview.resting()
        };
        let policy = Arc::new(reload.policy.clone());
        let (kernel, data_plane, before) = (self.kernel.clone(), self.data_plane.clone(), self.policy.clone());
        self.applying = Some(tokio::spawn(async move {
            // What is made stands before anything is changed to use it.
            let problems = kernel.make_links(&reload.made).await;
            let refused = |why: String| Applied { guard: Err(why), routes: BTreeMap::new() };
            let settings = data_plane.settings();
            // The new guard drops what nobody has charged: who charges comes before it, and goes after it.
            let mut unmetered = None;
            if problems.is_empty() && policy.metering() == Metering::Mark && before.metering() != Metering::Mark {
                data_plane.configure(reload.data_plane.clone()).await;
                data_plane.apply(&kernel, &policy).await;
                unmetered = data_plane.no_meter().await;
            }
            let applied = match (problems.iter().next(), unmetered) {
                (None, None) => kernel.change(&before, &policy, &resting, reload.probe_interval).await,
                (Some((interface, problem)), _) => refused(format!("link {interface}: {problem}")),
                (None, Some(why)) => refused(format!("the limits would not be counted: {why}")),
            };
            data_plane.configure(if applied.guard.is_ok() { reload.data_plane.clone() } else { settings }).await;
            let mut round = round((applied, problems), &kernel, &data_plane, &policy).await;
            round.over_to = Some((policy, reload));
            round
        }));
    }

    /// The kernel has gone over to `policy`, or has refused to.
    pub(super) fn gone_over(&mut self, policy: Arc<Policy>, reload: Reload, guard: &Result<(), String>) {
        if let Err(refused) = guard {
            // What was begun is undone by the next round.
            self.again = true;
            let _ = reload.done.send(Err(format!("{refused}: the policy before stays")));
            return;
        }
        if *self.made != reload.made {
            self.made = Arc::new(reload.made);
            let (kernel, made) = (self.kernel.clone(), self.made.clone());
            tokio::spawn(async move {
                if let Err(error) = kernel.remove_other_links(&made).await {
                    tracing::warn!(%error, "links of the configuration before");
                }
            });
        }
        self.watch_anew = interfaces(&policy) != interfaces(&self.policy);
        if self.probe_interval != reload.probe_interval {
            self.probe_interval = reload.probe_interval;
            self.probes = ticks(reload.probe_interval);
        }
        lock(&self.shared.interfaces).retain(|name, _| policy.link_of(name).is_some());
        *lock(&self.shared.policy) = policy.clone();
        let changes = lock(&self.shared.health).change(&policy, reload.timing, clock::now());
        self.policy = policy;
        for change in changes {
            if self.policy.prefixes().iter().any(|entry| entry.prefix == change.prefix) {
                self.say(std::slice::from_ref(&change));
            } else {
                self.socket.say_last(&change);
                show::count_health(&change);
                tracing::info!(prefix = %change.prefix, reason = %change.reason, "health");
            }
        }
        tracing::info!(prefixes = self.policy.prefixes().len(), "another policy is in force");
        let _ = reload.done.send(Ok(()));
        self.probe();
    }
}
