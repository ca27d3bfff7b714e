//! A change as it comes together: each thing is held to the policy the moment it is named.

use std::sync::Arc;

use bgp_wire::Family;
use ipnet::IpNet;

use crate::desired::{ChangeError, Group, Others, SetChange, check_name};
use crate::guard::Guard;
use crate::policy::Policy;
use crate::route::{NextHop, Prefixes, RouteAttributes};

/// A change that was held to the policy, whole, and has its attributes in their one form: it can't fail any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked(SetChange);

impl Checked {
    /// What was checked.
    #[must_use]
    pub fn change(&self) -> &SetChange {
        &self.0
    }
}

/// A change to one set that is not whole yet.
#[derive(Debug)]
pub struct Draft {
    policy: Arc<Policy>,
    change: SetChange,
    /// Of the last group.
    next_hop: NextHop,
    guard: Option<Guard>,
}

impl Draft {
    /// A change to `set` that names nothing yet.
    ///
    /// # Errors
    /// [`ChangeError::Name`].
    pub fn new(policy: Arc<Policy>, set: String, others: Others) -> Result<Self, ChangeError> {
        check_name("set", &set)?;
        let change = SetChange { set, others, remove: Prefixes::default(), add: Vec::new() };
        Ok(Self { policy, change, next_hop: NextHop::Own, guard: None })
    }

    /// The prefixes that come from now on have `attributes`.
    ///
    /// # Errors
    /// [`ChangeError`] says what is wrong with them.
    pub fn group(&mut self, attributes: RouteAttributes) -> Result<(), ChangeError> {
        let at = self.change.add.len();
        let attributes = attributes.checked().map_err(|error| ChangeError::Attributes { at, error })?;
        (self.next_hop, self.guard) = (attributes.next_hop, attributes.guard);
        self.change.add.push(Group { attributes, prefixes: Prefixes::default() });
        Ok(())
    }

    /// `prefix` comes, with the attributes named last.
    ///
    /// # Errors
    /// [`ChangeError`] says why it may not.
    pub fn add(&mut self, prefix: IpNet) -> Result<(), ChangeError> {
        let at = self.change.add.len().saturating_sub(1);
        let group = self.change.add.last_mut().ok_or(ChangeError::NoAttributes)?;
        if !self.next_hop.fits(Family::of(&prefix)) {
            let attributes = Box::new(group.attributes.clone());
            return Err(ChangeError::Family { at, prefix, attributes });
        }
        self.policy.check(prefix, self.guard).map_err(|refusal| ChangeError::Refused { at, refusal })?;
        group.prefixes.push(prefix);
        Ok(())
    }

    /// `prefix` goes, before any comes.
    pub fn remove(&mut self, prefix: IpNet) {
        self.change.remove.push(prefix);
    }

    /// Nothing more is to come.
    #[must_use]
    pub fn finish(mut self) -> Checked {
        self.change.remove.shrink();
        self.change.add.iter_mut().for_each(|group| group.prefixes.shrink());
        Checked(self.change)
    }
}

impl SetChange {
    /// Holds the whole change to `policy`, and brings its attributes into their one form.
    ///
    /// # Errors
    /// [`ChangeError`] names the first thing that is wrong.
    pub fn check(self, policy: Arc<Policy>) -> Result<Checked, ChangeError> {
        let mut draft = Draft::new(policy, self.set, self.others)?;
        draft.change.remove = self.remove;
        for group in self.add {
            draft.group(group.attributes)?;
            group.prefixes.iter().try_for_each(|prefix| draft.add(prefix))?;
        }
        Ok(draft.finish())
    }
}
