//! Gives libFuzzer `cloakway_fuzz::conntrack_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::conntrack_message(bytes));
