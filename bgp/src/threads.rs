//! The threads of the sessions: an event loop of their own, so that no request, listing or bulk, however long the thread
//! that works on it is kept busy, stands between a timer and its KEEPALIVE.
//!
//! Everything with a deadline runs here: sessions, BFD, the health of private routes. What runs here works in short turns
//! and waits for a lock no longer than somebody else's slice takes.

use tokio::runtime::{Builder, Handle, Runtime};

/// Turns of tasks between two looks at sockets and timers: a turn may take a millisecond.
const LOOK_AFTER: u32 = 4;

/// The event loop; it ends with this.
#[derive(Debug)]
pub(crate) struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    /// One for each core.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(crate) fn start() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all().thread_name("session").event_interval(LOOK_AFTER).global_queue_interval(LOOK_AFTER);
        let runtime = builder.build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where tasks are put.
    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    /// Whatever is left on them ends without being waited for: this is done where nothing may block.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
