//! Gives libFuzzer `cloakway_fuzz::transact_form`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::transact_form(bytes));
