//! Gives libFuzzer `cloakway_fuzz::iso8583_profile`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::iso8583_profile(bytes));
