//! From leases to records.

use std::collections::HashSet;

use cloakway_runtime::clock;
use ipnet::IpNet;
use toolbox_leases::{Book, Change, Naming, Now};
use toolbox_wire::record::{Address, AddressKind, FOREVER, User};

use super::teller::{Gone, Teller};

/// Tells the leases of one server.
pub(crate) struct LeaseTeller {
    pub(super) teller: Teller,
    naming: Naming,
    /// What is open in the table.
    told: HashSet<IpNet>,
}

impl LeaseTeller {
    pub(super) fn new(teller: Teller, naming: Naming) -> Self {
        Self { teller, naming, told: HashSet::new() }
    }

    /// Ends all that was told.
    pub(super) async fn reset(&mut self) -> Result<(), Gone> {
        self.told.clear();
        self.teller.reset().await?;
        self.teller.settle().await
    }

    pub(super) async fn changes(&mut self, changes: Vec<Change>, book: &Book) -> Result<(), Gone> {
        if changes.is_empty() {
            return Ok(());
        }
        for change in changes {
            self.change(change).await?;
        }
        self.teller.status.known(book.len());
        self.teller.settle().await
    }

    async fn change(&mut self, Change { net, now }: Change) -> Result<(), Gone> {
        match now {
            Now::Held { holder, since, last, until } => {
                // A file keeps what expired long ago.
                if until.is_some_and(|until| until <= clock::wall()) {
                    return self.end(net).await;
                }
                let user = self.naming.subscriber(&holder).map_or(User::Unusable, User::Named);
                let whole = net.prefix_len() == net.max_prefix_len();
                let kind = if whole { AddressKind::Lease } else { AddressKind::LeasedPrefix };
                let (address, until) = (Address::whole(kind, net), Some(until.unwrap_or(FOREVER)));
                // A renewal by the same client goes on; anything else begins, and ends what was.
                if !self.told.insert(net) && since < last {
                    self.teller.go_on(net.to_string(), user, address, until).await
                } else {
                    self.teller.start(net.to_string(), user, address, until).await
                }
            }
            Now::Over { .. } => self.end(net).await,
            Now::Declined => {
                self.teller.status.alarm("declined", &format!("somebody uses {net} without a lease"));
                self.end(net).await
            }
            Now::Doubtful => self.end(net).await,
        }
    }

    async fn end(&mut self, net: IpNet) -> Result<(), Gone> {
        if self.told.remove(&net) { self.teller.stop(net.to_string()).await } else { Ok(()) }
    }
}
