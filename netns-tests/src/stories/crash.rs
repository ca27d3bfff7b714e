//! Each process is killed during a purchase.

use crate::evidence::{Evidence, Stopped};
use crate::lab::Lab;

/// Tells the story; gives the links that the purchase took, in order.
pub(super) fn tell(_lab: &Lab, _evidence: &mut Evidence) -> Result<Vec<String>, Stopped> {
    Ok(Vec::new())
}
