//! Kernel settings: read, compare, write what differs.

use std::collections::BTreeMap;
use std::path::Path;

use forwarder_core::Setting;

use crate::DataplaneError;

/// What each file held right after it was set: the kernel rounds times to its ticks.
pub(crate) type Rounded = BTreeMap<String, String>;

/// Sets what differs, and says so. A missing file is no error: its interface is missing too, or IPv6 is off.
pub(crate) fn apply(settings: &[Setting], rounded: &mut Rounded) -> Result<(), DataplaneError> {
    for Setting { file, value } in settings {
        let path = Path::new("/proc/sys/net").join(file);
        let failed = |source| DataplaneError::Sysctl { file: file.clone(), source };
        let before = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.map_err(failed)?.trim().to_owned(),
        };
        if before == *value || rounded.get(file) == Some(&before) {
            continue;
        }
        std::fs::write(&path, value).map_err(failed)?;
        let now = std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned();
        tracing::info!(setting = %file, %before, %now, "kernel setting changed");
        rounded.insert(file.clone(), now);
    }
    Ok(())
}
