//! Gives libFuzzer `cloakway_fuzz::bmp_station`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::bmp_station(bytes));
