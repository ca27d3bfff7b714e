//! The table that says that a forwarder is running, where nothing is to pass otherwise: [`forwarder_core::ruleset::attendance`].
//!
//! It belongs to a process of `nft` that waits for more, and goes with it; and that one goes with this, however it ends.

use forwarder_core::ruleset::attendance;
use tokio::process::{Child, ChildStdin};
use tokio::sync::Mutex;

use crate::{DataplaneError, nft};

/// The table, while there is one.
#[derive(Debug, Default)]
pub(crate) struct Attendance(Mutex<Option<(Child, ChildStdin)>>);

impl Attendance {
    /// Sees to it that the table is there; gives its name when it was not.
    pub(crate) async fn begin(&self) -> Result<Option<String>, DataplaneError> {
        let mut owner = self.0.lock().await;
        if let Some((child, _)) = owner.as_mut()
            && child.try_wait()?.is_none()
        {
            return Ok(None);
        }
        *owner = None;
        let name = format!("cloakway_attended_{}", std::process::id());
        *owner = Some(nft::own(&name, &attendance::command(&name)).await?);
        Ok(Some(name))
    }

    /// Takes it away.
    pub(crate) async fn end(&self) {
        *self.0.lock().await = None;
    }
}
