//! Gives libFuzzer `cloakway_fuzz::bgp_message`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::bgp_message(bytes));
