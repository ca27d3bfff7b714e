//! Gives libFuzzer `cloakway_fuzz::card_range`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::card_range(bytes));
