//! Gives libFuzzer `cloakway_fuzz::look_up`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::look_up(bytes));
