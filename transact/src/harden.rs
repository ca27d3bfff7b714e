//! What the process denies itself once everything is open that takes privileges (A4, A12): another user than root,
//! capabilities, new programs, system calls and files that it has no use for, core dumps.
//!
//! All of it holds for the calling thread and those that it starts later: it is done while there is one thread only.

mod calls;
mod files;
mod settings;

use std::ffi::CString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, User, geteuid, getgroups, initgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs};
use serde_json::{Value, json};

pub use settings::{Hardening, RawHardening};

/// Why privileges cannot be given up. The server does not start then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HardenError {
    #[error("process.user: there is no user {0}: configs/systemd/cloakway-sysusers.conf makes one")]
    NoUser(String),
    #[error("process.group: there is no group {0}")]
    NoGroup(String),
    #[error("process.user: cannot become {user}: {reason}: start as root, or as {user}")]
    User { user: String, reason: nix::Error },
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(std::io::Error),
    #[error("process.landlock: {0}; false in a laboratory whose kernel has no Landlock")]
    Files(String),
    #[error("process.seccomp: {0}; false in a laboratory whose kernel has no seccomp")]
    Calls(String),
    #[error("{path}: {reason}")]
    Path { path: String, reason: std::io::Error },
    #[error(transparent)]
    Limits(#[from] std::io::Error),
}

/// What the process still has a use for.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Folders to write in.
    pub(crate) write: Vec<PathBuf>,
    /// Files to read again later, each in its folder, as a file is replaced by renaming another one.
    pub(crate) read: Vec<PathBuf>,
    /// Single files to read; one that is not there is left out.
    pub(crate) files: Vec<PathBuf>,
    /// TCP ports to connect to.
    pub(crate) connect: Vec<u16>,
}

/// What was denied.
#[derive(Debug, Clone)]
pub(crate) struct Denied {
    user: String,
    files: Option<&'static str>,
    calls: bool,
}

impl Denied {
    /// For `show`.
    pub(crate) fn show(&self) -> Value {
        json!({
            "user": self.user,
            "capabilities": "none",
            "files": self.files.unwrap_or("not confined"),
            "system_calls": if self.calls { "confined" } else { "not confined" },
        })
    }
}

/// No core dumps, whatever the system allows, and no other process of the same user that looks into this one: memory has
/// card data in it while a card is being asked about.
pub(crate) fn no_core_dumps() -> std::io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)?;
    Ok(())
}

/// Makes `folder` where it is not there, for the user that the process will be, and nobody else.
pub(crate) fn make_folder(folder: &Path, settings: &Hardening) -> Result<(), HardenError> {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    if folder.is_dir() {
        return Ok(());
    }
    let failed = |reason| HardenError::Path { path: folder.display().to_string(), reason };
    std::fs::create_dir_all(folder).map_err(failed)?;
    if let Some(user) = &settings.user
        && geteuid().is_root()
    {
        let user = account(user)?;
        std::os::unix::fs::chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(failed)?;
    }
    Ok(())
}

/// Gives up what `needs` does not name.
pub(crate) fn confine(settings: &Hardening, needs: &Needs) -> Result<Denied, HardenError> {
    let user = settings.user.as_deref().map(account).transpose()?;
    no_core_dumps()?;
    no_bounding_set().map_err(|error| HardenError::Capabilities(error.into()))?;
    if let Some(user) = &user {
        become_user(user, settings.group.as_deref())?;
        // To be another user makes a process dumpable again, or not, as the system sees fit.
        no_core_dumps()?;
    }
    no_capabilities().map_err(|error| HardenError::Capabilities(error.into()))?;
    let id = geteuid();
    let user = User::from_uid(id).ok().flatten().map_or_else(|| id.to_string(), |user| user.name);
    let files = if settings.landlock { Some(files::confine(needs).map_err(HardenError::Files)?) } else { None };
    if settings.seccomp {
        calls::confine().map_err(HardenError::Calls)?;
    }
    for (what, on) in [("landlock", files.is_some()), ("seccomp", settings.seccomp)] {
        metrics::gauge!("cloakway_confined", "by" => what).set(if on { 1.0 } else { 0.0 });
        if !on {
            tracing::warn!("process.{what} is off: the process is confined less than it could be");
        }
    }
    if id.is_root() {
        tracing::warn!("the process stays root, without capabilities: process.user names another user");
    }
    Ok(Denied { user, files, calls: settings.seccomp })
}

fn account(name: &str) -> Result<User, HardenError> {
    User::from_name(name).ok().flatten().ok_or_else(|| HardenError::NoUser(name.to_owned()))
}

fn become_user(user: &User, group: Option<&str>) -> Result<(), HardenError> {
    let gid = match group {
        None => user.gid,
        Some(name) => Group::from_name(name).ok().flatten().ok_or_else(|| HardenError::NoGroup(name.to_owned()))?.gid,
    };
    let is_member = || getgroups().is_ok_and(|groups| groups.contains(&gid)) || nix::unistd::getegid() == gid;
    if geteuid() == user.uid && nix::unistd::getuid() == user.uid && is_member() {
        return Ok(());
    }
    let failed = |reason| HardenError::User { user: user.name.clone(), reason };
    let name = CString::new(user.name.as_str()).map_err(|_| failed(nix::Error::EINVAL))?;
    initgroups(&name, gid).map_err(failed)?;
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(user.uid, user.uid, user.uid).map_err(failed)
}

/// None that a program could get by being started; who has not the right to say so cannot start one that gets any.
fn no_bounding_set() -> rustix::io::Result<()> {
    if rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not know.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// None in any set, and none to be had again.
fn no_capabilities() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)
}

/// The folders in which `file` is read: its own, and that of the file that it points to.
fn folders(file: &Path) -> Result<Vec<PathBuf>, HardenError> {
    let failed = |reason| HardenError::Path { path: file.display().to_string(), reason };
    let whole = std::path::absolute(file).map_err(failed)?;
    let target = whole.canonicalize().map_err(failed)?;
    let mut folders: Vec<PathBuf> =
        [&whole, &target].iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    folders.dedup();
    Ok(folders)
}

/// Whether others than the process may write in `folder`: then they decide what is in it.
fn writable_by_others(folder: &Path) -> bool {
    std::fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o002 != 0 && folder.mode() & 0o1000 == 0)
}

#[cfg(test)]
mod tests;
