//! Gives libFuzzer `cloakway_fuzz::mrt_rib`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::mrt_rib(bytes));
