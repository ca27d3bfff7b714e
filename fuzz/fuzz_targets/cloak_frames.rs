//! Gives libFuzzer `cloakway_fuzz::cloak_frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::cloak_frames(bytes));
