//! Gives libFuzzer `cloakway_fuzz::toolbox_words`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::toolbox_words(bytes));
