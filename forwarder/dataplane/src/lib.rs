//! The kernel data plane: what `forwarder-core` wants, applied to the kernel and read back (A1, A2).
//!
//! The kernel forwards; this crate never sees a packet, but for the user data plane ([`UserPlane`]). [`Kernel::apply`] is level-triggered and
//! idempotent: it puts in place what is missing, guard first, and leaves alone what is already right,
//! so that a restart adopts the state of the process before it without a gap. Nothing here is undone
//! when the process dies. [`Events`] says when it is worth applying again.

mod attendance;
mod events;
mod fast;
mod guard;
mod kernel;
mod made;
mod meter;
mod netlink;
mod nft;
mod nftables;
mod rules;
mod sysctl;
mod trace;
mod tunnel;
mod user;
mod wireguard;

pub use events::{Event, Events};
pub use fast::{Counts, FastPath, FastPathError};
pub use guard::GuardState;
pub use kernel::{Interface, Kernel};
pub use nft::{Counter, Counters};
pub use trace::{Trace, Traced};
pub use user::{Rations, UserPlane};

/// Why the kernel's state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The netlink socket cannot be opened.
    #[error("rtnetlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel refused a request.
    #[error("{what}: {why}")]
    Netlink {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        why: String,
    },
    /// `nft` could not be run.
    #[error("cannot run nft: {0}: is the package nftables installed?")]
    NftMissing(std::io::Error),
    /// `nft` gave no answer.
    #[error("nft gave no answer within {0:?}")]
    NftSilent(std::time::Duration),
    /// `nft` refused.
    #[error("nft: {0}")]
    Nft(String),
    /// A kernel setting cannot be read or written.
    #[error("/proc/sys/net/{file}: {source}")]
    Sysctl {
        /// The file below `/proc/sys/net`.
        file: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Why a link that the forwarder makes is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkProblem {
    /// The kernel does not know the kind.
    #[error("this kernel has no interfaces of kind {kind}: its option {option} is missing, or the module is")]
    NotInKernel {
        /// The kind.
        kind: &'static str,
        /// The option of the kernel's configuration.
        option: &'static str,
    },
    /// There is nothing to put it on.
    #[error("there is no interface {underlay} to carry it")]
    NoUnderlay {
        /// The interface that should carry it.
        underlay: String,
    },
    /// Somebody else's interface has its name.
    #[error("{interface} is there and not the {kind} that is described: remove it, or describe it as it is")]
    Another {
        /// The interface.
        interface: String,
        /// The kind that is wanted.
        kind: &'static str,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] DataplaneError),
}
