//! Gives libFuzzer `cloakway_fuzz::journal_log`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::journal_log(bytes));
