//! The toolbox.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Records live for a moment, and often end on another thread than the one that made them: the system's allocator took a quarter of the
/// time of accounting for that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cloakway_runtime::role::main::<toolbox::role::Toolbox>()
}
