//! Landlock: the files and folders that the process may still use, and the ports that it may still connect to.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{Needs, folders, writable_by_others};

/// Without this the server does not start; what newer kernels can do comes on top.
const AT_LEAST: ABI = ABI::V1;
const AT_BEST: ABI = ABI::V6;

fn writing() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::Refer
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
}

/// Confines the calling thread, and says how much of it the kernel can do.
pub(super) fn confine(needs: &Needs) -> Result<&'static str, String> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(AT_LEAST))
        .and_then(|rules| rules.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(AT_BEST)))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(AT_BEST)))
        .and_then(|rules| rules.scope(Scope::from_all(AT_BEST)))
        .and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(|error| error.to_string())?;
    for folder in &needs.write {
        ruleset = allow(ruleset, folder, writing())?;
    }
    for file in &needs.read {
        for folder in folders(file).map_err(|error| error.to_string())? {
            if writable_by_others(&folder) {
                tracing::warn!(folder = %folder.display(), "everybody may write where a certificate or key is read");
            }
            ruleset = allow(ruleset, &folder, AccessFs::ReadFile | AccessFs::ReadDir)?;
        }
    }
    for file in needs.files.iter().filter(|file| file.exists()) {
        ruleset = allow(ruleset, file, AccessFs::ReadFile.into())?;
    }
    for port in &needs.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(|error| error.to_string())?;
    }
    let status = ruleset.restrict_self().map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok("confined, and ports"),
        RulesetStatus::PartiallyEnforced => Ok("confined as far as this kernel can"),
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".to_owned()),
    }
}

fn allow(rules: RulesetCreated, folder: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let place = PathFd::new(folder).map_err(|error| error.to_string())?;
    rules.add_rule(PathBeneath::new(place, access)).map_err(|error| format!("{}: {error}", folder.display()))
}
