//! The cloak from outside: frames in, frames out, in virtual time.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod fragments;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod silence;
