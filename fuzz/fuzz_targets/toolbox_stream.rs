//! Gives libFuzzer `cloakway_fuzz::toolbox_stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::toolbox_stream(bytes));
