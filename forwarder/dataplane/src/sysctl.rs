//! Kernel settings: read, compare, write what differs.

use std::path::Path;

use forwarder_core::Setting;

use crate::DataplaneError;

/// Sets what differs, and says so. A missing file is no error: its interface is missing too, or IPv6 is off.
pub(crate) fn apply(settings: &[Setting]) -> Result<(), DataplaneError> {
    for Setting { file, value } in settings {
        let path = Path::new("/proc/sys/net").join(file);
        let failed = |source| DataplaneError::Sysctl { file: file.clone(), source };
        let before = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.map_err(failed)?,
        };
        if before.trim() != value {
            std::fs::write(&path, value).map_err(failed)?;
            tracing::info!(setting = %file, before = %before.trim(), now = %value, "kernel setting changed");
        }
    }
    Ok(())
}
