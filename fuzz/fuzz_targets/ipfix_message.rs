//! Gives libFuzzer `cloakway_fuzz::ipfix_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::ipfix_message(bytes));
