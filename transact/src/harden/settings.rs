//! The table `[process]`.

use cloakway_runtime::config::Invalid;
use serde::Deserialize;

/// What the process gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardening {
    /// Whom a process that was started as root becomes.
    pub user: Option<String>,
    /// Its group, where it is not the user's own.
    pub group: Option<String>,
    /// Whether files and ports are confined.
    pub landlock: bool,
    /// Whether system calls are.
    pub seccomp: bool,
}

/// The table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RawHardening {
    user: Option<String>,
    group: Option<String>,
    landlock: bool,
    seccomp: bool,
}

impl Default for RawHardening {
    fn default() -> Self {
        Self { user: None, group: None, landlock: true, seccomp: true }
    }
}

impl RawHardening {
    /// Checks what can be checked on any machine.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn validate(self) -> Result<Hardening, Invalid> {
        let Self { user, group, landlock, seccomp } = self;
        for (field, name) in [("process.user", &user), ("process.group", &group)] {
            if name.as_ref().is_some_and(|name| name.is_empty() || name.contains(['\0', ':', '/'])) {
                return Err(Invalid::at(field, "no name: give that of an account of this machine"));
            }
        }
        if user.as_deref() == Some("root") {
            return Err(Invalid::at("process.user", "root is what is to be given up: give another user"));
        }
        if group.is_some() && user.is_none() {
            return Err(Invalid::at("process.group", "a group without process.user: give both"));
        }
        Ok(Hardening { user, group, landlock, seccomp })
    }
}

impl Hardening {
    /// What `check` says about it.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let who =
            self.user.as_ref().map_or_else(|| "the user that starts it".to_owned(), |user| format!("user {user}"));
        let word = |on: bool| if on { "confined" } else { "not confined" };
        let mut lines = vec![format!(
            "the process runs as {who}, without capabilities; system calls are {}, files and ports {}",
            word(self.seccomp),
            word(self.landlock)
        )];
        if let Some(user) = &self.user
            && !matches!(nix::unistd::User::from_name(user), Ok(Some(_)))
        {
            lines.push(format!("warning: process.user: this machine has no user {user}"));
        }
        for (name, on) in [("seccomp", self.seccomp), ("landlock", self.landlock)] {
            if !on {
                lines.push(format!("warning: process.{name} = false is for laboratories whose kernel lacks it"));
            }
        }
        lines
    }
}
