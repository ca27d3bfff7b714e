//! Gives libFuzzer `cloakway_fuzz::rtr_client`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::rtr_client(bytes));
