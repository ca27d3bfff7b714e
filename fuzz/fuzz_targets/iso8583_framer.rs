//! Gives libFuzzer `cloakway_fuzz::iso8583_framer`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::iso8583_framer(bytes));
