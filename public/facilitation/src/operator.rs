//! Operators: who may register vendors, by which settings, by pages on this host and by the command line.

mod command;
mod pages;
mod session;
mod settings;

pub(crate) use command::{answer, command, commands};
pub(crate) use pages::serve;
pub(crate) use settings::RawAdmin;
pub use settings::{AdminConfig, Operator};
