//! Gives libFuzzer `cloakway_fuzz::bgp_flow`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::bgp_flow(bytes));
