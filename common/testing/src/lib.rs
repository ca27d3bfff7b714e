//! What tests of every role share: a test that needs something of the machine (root, a router's daemon) says aloud that
//! it is skipped where that is missing, and fails where nothing may be skipped.

pub mod postgresql;

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::Path;

/// The variable that says whether tests may be skipped: `required` forbids it (`cargo verify` sets it under CI).
pub const VARIABLE: &str = "NETNS_TESTS";

/// Says that a test, or a part of one, is skipped. The caller returns.
///
/// # Panics
/// With `NETNS_TESTS=required`: nothing may be skipped then.
pub fn skip(why: impl fmt::Display) {
    skip_unless(is_required(std::env::var_os(VARIABLE).as_deref()), &why);
}

/// Whether `program` can be run; else [`skip`], naming the Debian package that has it.
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn have(program: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons are not in everybody's path.
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    let found = std::env::split_paths(&path).chain(daemons).any(|folder| Path::is_file(&folder.join(program)));
    if !found {
        skip(format_args!("there is no {program} here (Debian: apt install {package})"));
    }
    found
}

fn is_required(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| value == "required")
}

fn skip_unless(required: bool, why: &dyn fmt::Display) {
    assert!(!required, "{VARIABLE}=required, and {why}");
    // Past the harness, which keeps back what a test that passes prints.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_word_requires() {
        let of = |value: &str| is_required(Some(OsStr::new(value)));
        assert_eq!((of("required"), of(""), of("1"), is_required(None)), (true, false, false, false));
        skip_unless(false, &"there is nothing");
    }

    #[test]
    #[should_panic(expected = "NETNS_TESTS=required, and there is no stayrtr")]
    fn where_nothing_may_be_skipped_a_skip_fails() {
        skip_unless(true, &"there is no stayrtr");
    }

    #[test]
    fn a_program_is_found_where_programs_are() {
        assert!(have("sh", "dash"));
    }
}
