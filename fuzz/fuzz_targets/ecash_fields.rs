//! Gives libFuzzer `cloakway_fuzz::ecash_fields`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::ecash_fields(bytes));
