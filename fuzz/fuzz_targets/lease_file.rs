//! Gives libFuzzer `cloakway_fuzz::lease_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::lease_file(bytes));
