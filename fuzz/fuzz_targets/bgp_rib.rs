//! Gives libFuzzer `cloakway_fuzz::bgp_rib`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::bgp_rib(bytes));
