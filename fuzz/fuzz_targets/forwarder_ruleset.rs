//! Gives libFuzzer `cloakway_fuzz::forwarder_ruleset`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloakway_fuzz::forwarder_ruleset(bytes));
