//! What the process denies itself.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// No core dumps, whatever the system allows, and no other process of the same user that looks into this one: memory has
/// card data in it while a card is being asked about.
pub(crate) fn no_core_dumps() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    Ok(())
}
